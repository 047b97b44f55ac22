//! What the fuzzer's bytes stand for.

use arbitrary::Arbitrary;
use std::time::Duration;

/// Locks in a run; each has a condition variable of its own.
pub const LOCKS: usize = 3;
/// Threads in a run.
pub const ACTORS: usize = 4;

/// One operation, and the actor that is to carry it out.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Step {
    actor: u8,
    lock: u8,
    pub operation: Operation,
}

impl Step {
    pub fn actor(&self) -> usize {
        usize::from(self.actor) % ACTORS
    }

    pub fn lock(&self) -> usize {
        usize::from(self.lock) % LOCKS
    }
}

/// What can be done to a lock, or to its condition variable.
///
/// One that its actor cannot carry out (an unlock of what it does not hold) is skipped.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Operation {
    /// `lock()`.
    Lock,
    /// `try_lock_for(Duration::MAX)`.
    LockForever,
    /// `try_lock()`.
    TryLock,
    /// `try_lock_for` with a short timeout.
    TryLockFor(Timeout),
    /// `try_lock_until` with a deadline that has passed.
    TryLockUntilPast,
    /// Adds one to the value behind the lock.
    Write,
    /// Drops the guard.
    Unlock,
    /// `MutexGuard::unlock_fair`; `parked`: first see to it that those who wait are parked.
    UnlockFair { parked: bool },
    /// `MutexGuard::bump`.
    Bump,
    /// `mem::forget` of the guard: the lock stays held, by nobody.
    Forget,
    /// `force_unlock` of a lock whose guard was forgotten.
    ForceUnlock,
    /// `force_unlock_fair` of a lock whose guard was forgotten.
    ForceUnlockFair,
    /// `Condvar::wait`.
    Wait,
    /// `Condvar::wait_for(Duration::MAX)`.
    WaitForever,
    /// `Condvar::wait_for` with a short timeout.
    WaitFor(Timeout),
    /// `Condvar::notify_one`.
    NotifyOne,
    /// `Condvar::notify_all`.
    NotifyAll,
    /// Waits until the actor's timed operation has ended, if it has one.
    Join,
}

/// A timeout that is zero or short.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Timeout {
    Zero,
    Tiny,
    Short,
}

impl Timeout {
    pub fn duration(self) -> Duration {
        match self {
            Timeout::Zero => Duration::ZERO,
            Timeout::Tiny => Duration::from_micros(50),
            Timeout::Short => Duration::from_micros(700),
        }
    }
}
