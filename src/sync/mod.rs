//! A drop-in replacement for [`std::sync`]: the same names, the same methods, the same types around
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
//! [`Mutex`], [`RwLock`], their guards, [`Condvar`] and [`WaitTimeoutResult`] are this crate's. Everything else
//! is std's own, re-exported: [`Arc`], [`OnceLock`], [`mpsc`], [`atomic`] and so on, and
//! [`PoisonError`], [`TryLockError`], [`LockResult`], [`TryLockResult`] too. So in most programs it
//! is enough to replace `std::sync::` by `lockword::sync::`: they compile, poison and print as
//! before.
//!
//! # Which Rust version
//!
//! This crate's types have every method and trait that std's types have in stable Rust 1.95, the
//! oldest version that the crate supports, and in 1.96. So the replacement is complete from the
//! crate's `rust-version` on. What std re-exports is as complete as the std that the program is
//! built with.
//!
//! # What differs
//!
//! The [migration page](crate::migration) tells all differences. In short: waiting is bounded, a
//! `Mutex<()>` takes two bytes, readers of a [`RwLock`] that is seldom written do not disturb each other, and
//! a wait on a `Condvar` ends only with a notification or the timeout.
//!
//! For new code the locks at the [root of the crate](crate) are the better choice: they have no
//! poisoning, and they have timed, fair and mapped locking; the [reader-writer lock](crate::RwLock) can be
//! upgraded too, and read recursively.

mod condvar;
mod mutex;
mod rwlock;

use crate::primitive::{AtomicBool, Ordering};
use std::thread;

pub use condvar::{Condvar, WaitTimeoutResult};
pub use mutex::{Mutex, MutexGuard};
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};

// The names above take precedence over those of a glob.
#[doc(no_inline)]
pub use std::sync::*;

/// The sources that lock for a trait whose methods do not tell who called.
#[cfg(all(feature = "deadlock_detection", not(lockword_loom)))]
pub(crate) const FILES: [&str; 2] = [mutex::FILE, rwlock::FILE];

/// Whether a thread has panicked while it held the lock. Every lock of this module has one.
///
/// ORDERING: all accesses are Relaxed. Only a thread that holds the lock sets the flag, and the lock
/// orders the holders. [`clear`](Self::clear) may be called without the lock and promises nothing
/// about a thread that holds it meanwhile.
struct PoisonFlag(AtomicBool);

impl PoisonFlag {
    const fn new() -> Self {
        PoisonFlag(AtomicBool::new(false))
    }

    #[inline]
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Sets the flag if the thread, which is about to unlock, has begun to panic since it locked.
    #[inline]
    fn set_after_panic(&self, before: WasPanicking) {
        if !before.0 && thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// `value`, as an error if the flag is set.
    #[inline]
    fn wrap<T>(&self, value: T) -> LockResult<T> {
        if self.is_set() { Err(PoisonError::new(value)) } else { Ok(value) }
    }
}

/// Whether the thread was panicking already when it locked. A lock that a destructor takes during a
/// panic is not poisoned by that panic.
#[derive(Clone, Copy)]
struct WasPanicking(bool);

impl WasPanicking {
    #[inline]
    fn now() -> Self {
        WasPanicking(thread::panicking())
    }
}
