//! Deadlocks, and orders of locks that can become one (feature `deadlock_detection`).
//!
//! With the feature each lock of this crate tells who holds it and who waits for it. Of that three things are made:
//!
//! - [`check_deadlock`] finds threads that wait for each other at this moment, and [`watch`] looks for them all the time.
//! - A thread that is about to wait for itself is reported before it waits: see [`on_report`].
//! - So is a *lock-order inversion*, an order of locks that can become a deadlock, the first time that it is seen, without
//!   a deadlock.
//!
//! ```
//! use lockword::{Mutex, debug};
//! use std::sync::{Arc, mpsc::channel};
//! use std::time::Duration;
//!
//! // Early in `main`. Deadlocks that have happened; dropping the watcher (as `let _ = ` does) ends it.
//! let _watcher = debug::watch(Duration::from_secs(1), |deadlock| eprintln!("{deadlock}"));
//! # let (sender, reports) = channel();
//! // Self-deadlocks and inversions, before the thread waits. Without this they go to the standard error.
//! debug::on_report(move |report| {
//!     eprintln!("{report}");
//! #   sender.send(report.to_string()).unwrap();
//! });
//!
//! let (accounts, audit) = (Mutex::new(1), Mutex::new(2));
//! {
//!     let _accounts = accounts.lock();
//!     *audit.lock() += 1;
//! }
//! {
//!     // The other way round: nothing waits, but two threads may. This is reported.
//!     let _audit = audit.lock();
//!     *accounts.lock() += 1;
//! }
//! # let text = reports.try_recv().unwrap();
//! # assert!(text.contains("lock order"), "{text}");
//! ```
//!
//! A report is a text that names both places of each step, and data: its fields are public, and with the feature `serde`
//! it is `Serialize`.
//!
//! # In CI
//!
//! ```sh
//! LOCKWORD_DEBUG_REPORTS=abort cargo test --features lockword/deadlock_detection
//! ```
//!
//! The first report is printed to the standard error and aborts the test process, so the job fails. Without the variable a
//! report is only printed, and the test harness hides what a test prints that passes. The variable has no effect once
//! [`on_report`] was called (end the process in your callback then), nor on what [`watch`] and [`check_deadlock`] find;
//! [`Report::TooManyOrders`] is printed only. What the tests do not run is not checked.
//!
//! # Which cycles are found
//!
//! Those of [`Mutex`](crate::Mutex), [`FairMutex`](crate::FairMutex), [`ReentrantMutex`](crate::ReentrantMutex),
//! [`RwLock`](crate::RwLock) (readers, writers, upgradable readers, upgrades, and readers behind a writer that waits),
//! [`RecursiveRwLock`](crate::RecursiveRwLock), those of [`sync`](crate::sync), and of a [`Condvar`](crate::Condvar), whose
//! `wait` does not return without the mutex. A cycle that is returned is a deadlock: it does not end by itself.
//!
//! # The order of locks
//!
//! A thread that holds a lock and acquires another one, without a timeout, adds an edge between their *classes* to the graph of
//! lock orders, as Linux's lockdep does. An edge that closes a cycle with those seen before, by whatever threads, is an
//! inversion, and is reported once.
//!
//! - **Classes.** Where a lock is made is not known. Locks of one type that are acquired at the same line of the source are of
//!   one class, also through a chain of such lines. A program may give a class a name ([`set_class`]), and make a lock a
//!   class of its own ([`set_own_class`]).
//! - **Within a class** it is the two locks that have an order: locks of a vector that are taken by their index or
//!   their address, or hand over hand, are silent, and two that are taken both ways are reported, once for two places. A lock that has moved, and
//!   another one at the same address, have no order yet. After 4,096 orders of two locks no more are watched, which is reported
//!   once ([`Report::TooManyOrders`]).
//! - **A function that locks what it is given** puts all these locks into one class, unless it is `#[track_caller]`. Once two
//!   locks of that class nest, it is split: each lock is a class by itself from then on, towards other classes too. Make
//!   the function `#[track_caller]`, or give the locks names.
//! - **What may be wrong.** Two classes may turn out to be one when a line acquires locks of both, or one to be of
//!   many kinds. A report before that may tell of locks that never meet: it says whether its steps are of
//!   the same locks ([`LockOrder::same_locks`]). [`set_class`] and [`set_own_class`] say so beforehand.
//! - **What is tried** (`try_lock` and its kin, and with a timeout) has no order with what is held; but it is held itself.
//! - **Readers** count as writers, since a writer that waits in between keeps the second one out. One that reads
//!   recursively waits for no reader: two threads that read two locks in both orders, the second one recursively, are
//!   silent. To read twice is not reported unless a writer waits in between, and an upgrade has no order.
//! - **Known ones** are allowed by [`allow_order`]: such as two orders that a third lock, held always, keeps apart.
//!
//! # What is not found
//!
//! - Locks of other crates and of std, channels, joins, and other waits in a cycle.
//! - Waits with a timeout, and loops over `try_lock`.
//! - Waits for a notification that never comes.
//! - [`SendMutex`](crate::SendMutex) and [`SendRwLock`](crate::SendRwLock): the thread that has the guard is not known.
//! - Orders between locks of one class that were seen while they were known as two classes, but for that of the two locks
//!   that were seen first.
//! - The end of a guard that was forgotten: the thread holds the lock for ever, also when that is gone, and orders with it
//!   are seen.
//! - What a thread locks in destructors of thread-locals, after the record of this module is gone.
//! - What is held by a raw lock, such as [`RawLock`](crate::RawLock), that is released in another thread: it counts as held by
//!   the thread that acquired it, until then. Such a use of one may be reported as a deadlock that is none.
//!
//! The place of an acquisition is that of the caller, wherever `lock_api` passes it on. It does not for
//! [`ReentrantMutex`](crate::ReentrantMutex), whose places are in `lock_api`, and for a wait of [`Condvar`](crate::Condvar),
//! which has the place where the mutex was locked. ([`sync::Condvar`](crate::sync::Condvar) has its own.)
//! [`capture_backtraces`] tells more.
//!
//! # What it costs
//!
//! Three words per lock, and padding: a `Mutex<()>` and an `RwLock<()>` have 32 bytes on a 64-bit machine. An uncontended
//! lock and unlock takes 40 ns instead of 6.5, and 85 with another lock held; a read 40 ns instead of 1 (an Intel Xeon VM, release
//! build). Each thread has a record of some kilobytes, which the next one uses. Threads do not share what they write, but for
//! locks that they share.
//!
//! Nothing is allocated by the global allocator for an acquisition, unless it is reported: so the feature does not
//! forbid a global allocator that uses locks of this crate. A child of a `fork` knows of the thread that forked only.
//! The feature changes the size of the locks and nothing else of what they do, and may be on in one build and off in
//! another one: without it there is nothing of this.

mod deadlock;
pub(crate) mod hooks;
mod memory;
mod order;
mod report;
mod threads;
mod watch;

pub(crate) use order::Class;
pub use report::{
    BlockedThread, Deadlock, HeldLock, Lock, LockOrder, OrderStep, Report, Site, Thread,
    WaitingWriter,
};
pub use watch::{Watcher, watch};

use crate::primitive::{AtomicBool, Ordering};
use order::ClassKey;
use std::sync::Arc;

/// Whether backtraces are captured.
static BACKTRACES: AtomicBool = AtomicBool::new(false);

/// The deadlocks of this moment: cycles of threads each of which waits, without a timeout, for a lock that the next one
/// holds. A cycle that is returned is one: it does not end by itself.
///
/// Each thread that is in any cycle is in one of those that are returned. Threads that wait for one of these, without
/// being in a cycle, are not included.
///
/// It takes about a microsecond for each thread of the process, and three if there is a cycle; a thread whose record is
/// copied waits meanwhile if it locks. In a callback of [`on_report`] it returns nothing.
#[must_use]
pub fn check_deadlock() -> Vec<Deadlock> {
    threads::inside(|_| deadlock::check()).unwrap_or_default()
}

/// From now on reports go to `tell` instead of to the standard error: a thread that is about to wait for itself, and a
/// new lock-order inversion.
///
/// `tell` runs on the thread that is about to block, while it still holds its locks, so it must not wait for a lock that the
/// program may hold. What it locks is not watched, and [`check_deadlock`] returns nothing in it. Panics in it are caught.
pub fn on_report(tell: impl Fn(&Report) + Send + Sync + 'static) {
    threads::inside(|_| report::set_callback(Arc::new(tell)));
}

/// Switches on or off that each acquisition captures a backtrace. The environment has to enable them too
/// (`RUST_BACKTRACE=1`). It takes several microseconds for an acquisition, and allocates, so it is not for programs whose
/// global allocator uses locks of this crate.
pub fn capture_backtraces(does: bool) {
    BACKTRACES.store(does, Ordering::Relaxed);
}

/// From now on it is not reported that a lock of the class `then` is acquired while one of the class `first` is held: it
/// cannot become a deadlock, since another lock is held always, say. The other direction is still checked.
///
/// To silence a report, allow one of its steps: `first` is the class of the lock that was held, and `then` that of the lock
/// that was acquired, each as the report has it in brackets: the name given by [`set_class`], or the place that acquired
/// first (`src/main.rs:10`; a column is ignored), which may differ from run to run, so prefer names. A class made by
/// [`set_own_class`] cannot be allowed. Both may be the same. Call it before the locks are used; in tests, from a `Once` of
/// their set-up.
///
/// ```
/// use lockword::{Mutex, debug};
///
/// let (cache, log) = (Mutex::new(0), Mutex::new(0));
/// debug::set_class(&cache, "cache");
/// debug::set_class(&log, "log");
/// debug::allow_order("log", "cache"); // Only at the end of the program, where there is one thread.
/// ```
pub fn allow_order(first: &str, then: &str) {
    let leak = |text: &str| &*String::leak(text.to_owned());
    threads::inside(|_| order::allow(leak(first), leak(then)));
}

/// Puts the lock into the class `name`, together with all locks that were given that name. Call it before the lock is used.
///
/// ```
/// let accounts: Vec<_> = (0..3).map(lockword::Mutex::new).collect();
/// for account in &accounts {
///     lockword::debug::set_class(account, "accounts");
/// }
/// ```
pub fn set_class(lock: &impl Classed, name: &'static str) {
    threads::inside(|_| Class::set(lock.traced(), ClassKey::Name(name)));
}

/// From now on the lock is a class of its own. The class takes memory that is never freed.
pub fn set_own_class(lock: &impl Classed) {
    let number = lock.traced().number();
    threads::inside(|_| Class::set(lock.traced(), ClassKey::Lock { number, address: 0 }));
}

/// The locks of this crate: all that are [watched](self).
pub trait Classed: sealed::Sealed {}

impl<L: sealed::Sealed> Classed for L {}

mod sealed {
    use crate::traced::Traced;
    use crate::{RawFairLock, RawLock, RawRecursiveRwLock, RawRwLock, sync};
    use lock_api::RawMutex;

    pub trait Sealed {
        fn traced(&self) -> &Traced;
    }

    impl Sealed for RawLock {
        fn traced(&self) -> &Traced {
            self.traced()
        }
    }

    impl Sealed for RawRwLock {
        fn traced(&self) -> &Traced {
            self.traced()
        }
    }

    impl Sealed for RawFairLock {
        fn traced(&self) -> &Traced {
            self.0.traced()
        }
    }

    impl Sealed for RawRecursiveRwLock {
        fn traced(&self) -> &Traced {
            self.0.traced()
        }
    }

    impl<R: Sealed + RawMutex, T: ?Sized> Sealed for lock_api::Mutex<R, T> {
        fn traced(&self) -> &Traced {
            // SAFETY: the lock is not touched.
            unsafe { self.raw() }.traced()
        }
    }

    impl<R, G, T> Sealed for lock_api::ReentrantMutex<R, G, T>
    where
        R: Sealed + RawMutex,
        G: lock_api::GetThreadId,
        T: ?Sized,
    {
        fn traced(&self) -> &Traced {
            // SAFETY: as above.
            unsafe { self.raw() }.traced()
        }
    }

    impl<R: Sealed + lock_api::RawRwLock, T: ?Sized> Sealed for lock_api::RwLock<R, T> {
        fn traced(&self) -> &Traced {
            // SAFETY: as above.
            unsafe { self.raw() }.traced()
        }
    }

    impl<T: ?Sized> Sealed for sync::Mutex<T> {
        fn traced(&self) -> &Traced {
            self.raw().traced()
        }
    }

    impl<T: ?Sized> Sealed for sync::RwLock<T> {
        fn traced(&self) -> &Traced {
            self.raw().traced()
        }
    }
}
