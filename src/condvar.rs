//! The condition variable: [`RawCondvar`] under `lock_api`'s methods.

pub use crate::raw::condvar::RawCondvar;
use crate::raw::mutex::RawLock;
use lock_api::GuardNoSend;
use std::time::{Duration, Instant};

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
pub type Condvar = lock_api::Condvar<RawCondvar>;

// SAFETY: a wait releases the mutex once and has acquired it again when it returns.
unsafe impl lock_api::RawCondvar for RawCondvar {
    // A `const` is what `lock_api` asks for: every use of it is a new Condvar.
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = RawCondvar::new();
    type RawMutex = RawLock;

    #[inline]
    unsafe fn wait(&self, mutex: &RawLock, _guard: &mut GuardNoSend) {
        // `lock_api` does not tell who called: where the mutex was locked is the next best.
        // SAFETY: the caller holds the mutex, by the contract of this method.
        unsafe { self.wait_until(mutex, None, mutex.traced().place()) };
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
        unsafe { !self.wait_until(mutex, Some(*deadline), mutex.traced().place()) }
    }
}
