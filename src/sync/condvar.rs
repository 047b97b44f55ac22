//! [`Condvar`].

use super::mutex::MutexGuard;
use crate::condvar::RawCondvar;
use core::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{LockResult, PoisonError};
use std::time::{Duration, Instant};

/// [`std::sync::Condvar`] for this module's [`Mutex`](super::Mutex).
///
/// There are **no spurious wake-ups**: a wait ends with a notification that was meant for this
/// thread, or with the timeout. (std reserves the right to them, so code that was written for std
/// checks its condition in a loop anyway; go on doing so, since another thread may change the
/// condition between the notification and the wait's return.)
///
/// Different threads, and different waits, may use different mutexes, at the same time too. (std
/// reserves the right to panic then, and does on some platforms.)
///
/// ```
/// use lockword::sync::{Condvar, Mutex};
/// use std::time::Duration;
///
/// let (ready, changed) = (Mutex::new(false), Condvar::new());
/// let guard = ready.lock().unwrap();
/// let (guard, result) = changed
///     .wait_timeout_while(guard, Duration::from_millis(1), |ready| !*ready)
///     .unwrap();
/// assert!(result.timed_out() && !*guard);
/// ```
pub struct Condvar {
    raw: RawCondvar,
}

// Nothing in it can be left half-changed by a panic.
impl UnwindSafe for Condvar {}
impl RefUnwindSafe for Condvar {}

impl Condvar {
    /// A Condvar that nobody waits for.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Condvar { raw: RawCondvar::new() }
    }

    /// Unlocks the mutex, waits for a notification, and locks the mutex again. Unlocking and
    /// beginning to wait are one step for whoever locks the mutex afterwards.
    ///
    /// # Errors
    /// The mutex is poisoned. The error carries the guard.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.wait_until(&guard, None);
        MutexGuard::mutex(&guard).wrap(guard)
    }

    /// Waits for as long as `condition` is true. It is asked under the lock: before the first
    /// wait, and after each notification.
    ///
    /// # Errors
    /// The mutex was poisoned when a wait ended. The error carries the guard.
    pub fn wait_while<'a, T, F>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: F,
    ) -> LockResult<MutexGuard<'a, T>>
    where
        F: FnMut(&mut T) -> bool,
    {
        while condition(&mut *guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// As [`wait_timeout`](Self::wait_timeout), in milliseconds. Returns false if the time was up.
    ///
    /// # Errors
    /// The mutex is poisoned. The error carries guard and result.
    #[deprecated(since = "0.1.0", note = "replaced by `wait_timeout`, as in std")]
    pub fn wait_timeout_ms<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        ms: u32,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        let notified = |(guard, result): (_, WaitTimeoutResult)| (guard, !result.timed_out());
        match self.wait_timeout(guard, Duration::from_millis(u64::from(ms))) {
            Ok(pair) => Ok(notified(pair)),
            Err(error) => Err(PoisonError::new(notified(error.into_inner()))),
        }
    }

    /// As [`wait`](Self::wait), but not for longer than `timeout`. One that is too long for
    /// [`Instant`] is none. The mutex is locked again afterwards in any case, which takes as long
    /// as it takes.
    ///
    /// # Errors
    /// The mutex is poisoned. The error carries guard and result.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let notified = self.wait_until(&guard, Instant::now().checked_add(timeout));
        MutexGuard::mutex(&guard).wrap((guard, WaitTimeoutResult(!notified)))
    }

    /// As [`wait_while`](Self::wait_while), but not for longer than `timeout` in all. The result
    /// says whether the time was up with the condition still true.
    ///
    /// # Errors
    /// The mutex was poisoned when a wait ended. The error carries guard and result.
    pub fn wait_timeout_while<'a, T, F>(
        &self,
        mut guard: MutexGuard<'a, T>,
        timeout: Duration,
        mut condition: F,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)>
    where
        F: FnMut(&mut T) -> bool,
    {
        let start = Instant::now();
        loop {
            if !condition(&mut *guard) {
                return Ok((guard, WaitTimeoutResult(false)));
            }
            let Some(left) = timeout.checked_sub(start.elapsed()) else {
                return Ok((guard, WaitTimeoutResult(true)));
            };
            guard = self.wait_timeout(guard, left)?.0;
        }
    }

    /// Wakes the thread that has waited longest, if any waits.
    #[inline]
    pub fn notify_one(&self) {
        self.raw.notify(1);
    }

    /// Wakes all threads that wait.
    #[inline]
    pub fn notify_all(&self) {
        self.raw.notify(usize::MAX);
    }

    /// Waits until notified, or until `deadline`. Returns whether it was notified.
    fn wait_until<T>(&self, guard: &MutexGuard<'_, T>, deadline: Option<Instant>) -> bool {
        // SAFETY: there is a guard, so the lock is held.
        unsafe { self.raw.wait_deadline(MutexGuard::mutex(guard).raw(), deadline) }
    }
}

impl Default for Condvar {
    /// As [`Condvar::new`].
    fn default() -> Self {
        Condvar::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").finish_non_exhaustive()
    }
}

/// Whether a wait with a timeout ended because the time was up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether the time was up.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.0
    }
}
