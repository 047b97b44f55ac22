//! The drop-in twin of [`std::sync`]: the same names, the same methods, the same types around
//! them, and this crate's lock inside.
//!
//! ```
//! // Was: use std::sync::{Arc, Condvar, Mutex};
//! use lockword::sync::{Arc, Condvar, Mutex};
//!
//! let shared = Arc::new((Mutex::new(false), Condvar::new()));
//! let theirs = Arc::clone(&shared);
//! let thread = std::thread::spawn(move || {
//!     *theirs.0.lock().unwrap() = true;
//!     theirs.1.notify_one();
//! });
//! let ready = shared.1.wait_while(shared.0.lock().unwrap(), |ready| !*ready).unwrap();
//! assert!(*ready);
//! # drop(ready);
//! # thread.join().unwrap();
//! ```
//!
//! [`Mutex`], [`MutexGuard`], [`Condvar`] and [`WaitTimeoutResult`] are this crate's, with every
//! stable method and trait of std's (as of Rust 1.95). Everything else is std's own, re-exported:
//! [`Arc`], [`RwLock`], [`OnceLock`], [`mpsc`], [`atomic`] and so on, and [`PoisonError`],
//! [`TryLockError`], [`LockResult`], [`TryLockResult`] too. So in most programs it is enough to
//! replace `std::sync::` by `lockword::sync::`: they compile, poison and print as before.
//!
//! The exceptions, and what differs, are told in the [migration page](crate::migration). In short:
//! waiting is bounded, a `Mutex<()>` takes two bytes, a wait on a `Condvar` ends only with a
//! notification or the timeout, and a lock of this crate has no place in a global allocator.
//!
//! The lock at the [root of the crate](crate) is the better choice for new code: no poisoning,
//! and timed, fair and mapped locking besides.

mod condvar;
mod flag;
mod mutex;
#[cfg(feature = "serde")]
mod serde;

pub use condvar::{Condvar, WaitTimeoutResult};
pub use mutex::{Mutex, MutexGuard};

// The names above take precedence over those of a glob.
#[doc(no_inline)]
pub use std::sync::*;
