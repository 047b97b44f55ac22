//! [`Condvar`].

use super::mutex::MutexGuard;
use crate::raw::condvar::RawCondvar;
use crate::traced::Place;
use core::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{LockResult, PoisonError};
use std::time::{Duration, Instant};

/// [`std::sync::Condvar`] for this module's [`Mutex`](super::Mutex).
///
/// There are **no spurious wake-ups**: a wait ends with a notification that was sent to this
/// thread, or with the timeout. (std reserves the right to them.) Check the condition in a loop all
/// the same, since another thread may change it between the notification and the wait's return.
///
/// Different threads may wait with different mutexes at the same time. (std reserves the right to
/// panic then, and does on some platforms.) No method of this type panics by itself.
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

// A panic leaves nothing in it half-changed.
impl UnwindSafe for Condvar {}
impl RefUnwindSafe for Condvar {}

impl Condvar {
    /// A Condvar without waiters.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Condvar { raw: RawCondvar::new() }
    }

    /// Unlocks the mutex, waits for a notification, and locks the mutex again.
    ///
    /// Unlocking and beginning to wait are one step: a notification from a thread that has locked the
    /// mutex afterwards is not missed.
    ///
    /// # Errors
    /// [`PoisonError`], which carries the guard, if the mutex is poisoned when the wait ends.
    #[cfg_attr(feature = "trace", track_caller)]
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.wait_until(&guard, None);
        MutexGuard::mutex(&guard).wrap(guard)
    }

    /// Waits for as long as `condition` returns true. It is called with the mutex locked: before the
    /// first wait, and after each notification.
    ///
    /// # Errors
    /// [`PoisonError`], which carries the guard, if the mutex is poisoned when a wait ends.
    #[cfg_attr(feature = "trace", track_caller)]
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

    /// As [`wait_timeout`](Self::wait_timeout), with a timeout in milliseconds. The returned flag is
    /// false if the timeout has passed.
    ///
    /// # Errors
    /// [`PoisonError`], which carries the guard and the flag, if the mutex is poisoned when the wait
    /// ends.
    #[deprecated(since = "0.1.0", note = "replaced by `wait_timeout`, as in std")]
    #[cfg_attr(feature = "trace", track_caller)]
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

    /// As [`wait`](Self::wait), but waits for a notification no longer than `timeout`. A timeout that
    /// an [`Instant`] cannot express never passes. To lock the mutex again takes additional time,
    /// which `timeout` does not limit.
    ///
    /// # Errors
    /// [`PoisonError`], which carries the guard and the result, if the mutex is poisoned when the
    /// wait ends.
    #[cfg_attr(feature = "trace", track_caller)]
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let notified = self.wait_until(&guard, Instant::now().checked_add(timeout));
        MutexGuard::mutex(&guard).wrap((guard, WaitTimeoutResult(!notified)))
    }

    /// As [`wait_while`](Self::wait_while), but waits no longer than `timeout` in all. The result says
    /// whether the timeout has passed with the condition still true.
    ///
    /// # Errors
    /// [`PoisonError`], which carries the guard and the result, if the mutex is poisoned when a wait
    /// ends.
    #[cfg_attr(feature = "trace", track_caller)]
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

    /// Wakes the thread that has waited longest, if there is one.
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
    #[cfg_attr(feature = "trace", track_caller)]
    fn wait_until<T>(&self, guard: &MutexGuard<'_, T>, deadline: Option<Instant>) -> bool {
        // SAFETY: there is a guard, so the lock is held.
        unsafe { self.raw.wait_until(MutexGuard::mutex(guard).raw(), deadline, Place::caller()) }
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

/// Whether a wait with a timeout ended because the timeout had passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether the timeout had passed.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.0
    }
}
