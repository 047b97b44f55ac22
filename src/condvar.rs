//! The condition variable: a queue of its own, in the same parking lot.

use crate::fork;
use crate::park::{self, Domain, Key, Parked, Pick};
use crate::primitive::{AtomicU32, Ordering};
use crate::raw::RawLock;
#[cfg(not(lockword_loom))]
use lock_api::GuardNoSend;
#[cfg(not(lockword_loom))]
use std::time::Duration;
use std::time::Instant;

#[cfg(not(lockword_loom))]
pub use lock_api::WaitTimeoutResult;

/// A condition variable for [`Mutex`](crate::Mutex): threads wait, with the mutex released,
/// until another thread notifies them.
///
/// | method | what it does |
/// |---|---|
/// | `const fn new()` | a Condvar that nobody waits on |
/// | `wait(&mut guard)` | releases the mutex, sleeps until notified, locks again |
/// | `wait_while(&mut guard, condition)` | waits until `condition` is false; it is asked under the lock |
/// | `wait_for(&mut guard, timeout)`, `wait_until(&mut guard, deadline)` | the same, but not for longer; the [`WaitTimeoutResult`] says whether the time was up |
/// | `wait_while_for`, `wait_while_until` | both together |
/// | `notify_one() -> bool` | wakes the thread that has waited longest; whether there was one |
/// | `notify_all() -> usize` | wakes all; how many there were |
///
/// Releasing the mutex and going to sleep are one step to whoever locks that mutex afterwards:
/// a notification sent from under the lock, or after it, is not lost.
///
/// **No spurious wake-ups**: `wait` returns only after a notification that was meant for this
/// very thread. (The condition may still be false again by the time the thread has the lock;
/// `wait_while` is the way to wait for one.)
///
/// Waits of different threads may use different mutexes, at the same time, too. A timeout of
/// zero, or a deadline in the past, releases the mutex, locks it again and reports a timeout; a
/// timeout too long for [`Instant`] waits without one. None of the methods panics
/// (but see the platform table of the crate for WebAssembly).
///
/// ```
/// use lockword::{Condvar, Mutex};
///
/// static READY: Mutex<bool> = Mutex::new(false);
/// static CHANGED: Condvar = Condvar::new();
///
/// std::thread::scope(|s| {
///     s.spawn(|| {
///         *READY.lock() = true;
///         CHANGED.notify_one();
///     });
///     CHANGED.wait_while(&mut READY.lock(), |ready| !*ready);
/// });
/// ```
#[cfg(not(lockword_loom))]
pub type Condvar = lock_api::Condvar<RawCondvar>;

/// The Condvar without `lock_api`'s methods: what [`Condvar`] is made of.
#[derive(Debug)]
pub struct RawCondvar {
    /// Threads in the queue or about to enter it. Raised by the waiter, who holds its mutex;
    /// lowered under the queue's lock by whoever takes it out.
    ///
    /// In the child of a `fork` those of the parent's threads that waited stay counted, since
    /// nothing knows of all Condvars. They are in no queue, so that a notification finds nobody;
    /// it costs a look each time.
    waiters: AtomicU32,
}

#[cfg(not(lockword_loom))]
impl Default for RawCondvar {
    fn default() -> Self {
        RawCondvar::new()
    }
}

/// The message of a notification. Nobody else sends one to our keys.
const NOTIFIED: usize = 0x6C77_0004;

impl RawCondvar {
    /// A Condvar that nobody waits for.
    #[cfg(not(lockword_loom))]
    #[must_use]
    pub const fn new() -> Self {
        RawCondvar { waiters: AtomicU32::new(0) }
    }

    /// A Condvar in the model.
    #[cfg(lockword_loom)]
    pub(crate) fn new() -> Self {
        RawCondvar { waiters: AtomicU32::new(0) }
    }

    fn addr(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    fn leave(&self) {
        // ORDERING: Relaxed: see `is_alone`.
        self.waiters.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a notification has nobody to go to.
    pub(crate) fn is_alone(&self) -> bool {
        // ORDERING: Relaxed: a waiter whom the notifier must not miss has released a mutex
        // that the notifier has acquired since, and it counted itself in before.
        self.waiters.load(Ordering::Relaxed) == 0
    }

    /// Waits until notified or until `deadline`. Returns whether it was notified.
    ///
    /// # Safety
    /// The caller holds `mutex`. It holds it again when this returns.
    pub(crate) unsafe fn wait_deadline(&self, mutex: &RawLock, deadline: Option<Instant>) -> bool {
        fork::watch();
        fork::settle();
        self.waiters.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller holds the mutex, and this is called once.
        let release = || unsafe { mutex.unlock() };
        let key = Key::new(Domain::Condvar, self.addr());
        // SAFETY: the token is the Condvar's address, as for all waiters of this domain;
        // nothing here panics, and only `release`, which may, calls into `park.rs`.
        let parked =
            unsafe { park::park(key, self.addr(), || true, release, || self.leave(), deadline) };
        if parked == Parked::Woken(NOTIFIED) || parked == Parked::TimedOut {
            // Counted out by the notifier, or by `leave` above.
        } else {
            self.leave();
        }
        mutex.lock();
        parked != Parked::TimedOut
    }

    /// Wakes up to `most` waiters. Returns how many.
    pub(crate) fn notify(&self, most: usize) -> usize {
        if self.is_alone() {
            return 0;
        }
        fork::settle();
        let addr = self.addr();
        let mut taken = 0;
        let pick = |token| {
            if taken == most {
                return Pick::Stop;
            }
            if token != addr {
                return Pick::Skip;
            }
            taken += 1;
            // Under the queue's lock: the waiter, and so the Condvar, is still there. After
            // the wake-up it may not be.
            self.leave();
            Pick::Unpark
        };
        // SAFETY: neither closure panics or parks.
        unsafe { park::unpark(Key::new(Domain::Condvar, addr), pick, |_| NOTIFIED) }
    }
}

#[cfg(not(lockword_loom))]
// SAFETY: a wait releases the mutex once and has acquired it again when it returns.
unsafe impl lock_api::RawCondvar for RawCondvar {
    // A `const` is what `lock_api` asks for: every use of it is a new Condvar.
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = RawCondvar::new();
    type RawMutex = RawLock;

    #[inline]
    unsafe fn wait(&self, mutex: &RawLock, _guard: &mut GuardNoSend) {
        // SAFETY: the caller holds the mutex, by the contract of this method.
        unsafe { self.wait_deadline(mutex, None) };
    }

    #[inline]
    fn notify_one(&self) -> bool {
        self.notify(1) != 0
    }

    #[inline]
    fn notify_all(&self) -> usize {
        self.notify(usize::MAX)
    }
}

#[cfg(not(lockword_loom))]
// SAFETY: as above.
unsafe impl lock_api::RawCondvarTimed for RawCondvar {
    fn checked_duration_to_instant(timeout: &Duration) -> Option<Instant> {
        Instant::now().checked_add(*timeout)
    }

    #[inline]
    unsafe fn wait_until(
        &self,
        mutex: &RawLock,
        _guard: &mut GuardNoSend,
        deadline: &Instant,
    ) -> bool {
        // SAFETY: the caller holds the mutex, by the contract of this method.
        unsafe { !self.wait_deadline(mutex, Some(*deadline)) }
    }
}
