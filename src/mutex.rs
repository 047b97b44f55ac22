//! The public lock types: [`RawLock`] under `lock_api`'s guards.

use crate::raw::RawLock;
use core::num::NonZeroUsize;
use lock_api::{GuardSend, RawMutex, RawMutexFair, RawMutexTimed};
use std::time::{Duration, Instant};

// SAFETY: a lock method returns success to one caller at a time, and the next success happens
// after the unlock of the one before: the compare-exchange of `LockWord` (proof in `raw.rs`).
unsafe impl RawMutex for RawLock {
    // A `const` is what `lock_api` asks for: every use of it is a new, free lock.
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = RawLock::new();
    // The word knows nothing of threads: any thread may unlock.
    type Guard = GuardSend;

    #[inline]
    fn lock(&self) -> GuardSend {
        RawLock::lock(self);
        GuardSend::new()
    }

    #[inline]
    fn try_lock(&self) -> Option<GuardSend> {
        RawLock::try_lock(self).then(GuardSend::new)
    }

    #[inline]
    unsafe fn unlock(&self, _guard: GuardSend) {
        // SAFETY: the caller holds the lock, by the contract of this method.
        unsafe { RawLock::unlock(self) }
    }

    #[inline]
    fn is_locked(&self) -> bool {
        RawLock::is_locked(self)
    }
}

// SAFETY: a fair unlock releases the lock or passes it to one waiter, never both.
unsafe impl RawMutexFair for RawLock {
    #[inline]
    unsafe fn unlock_fair(&self, _guard: GuardSend) {
        // SAFETY: the caller holds the lock, by the contract of this method.
        unsafe { RawLock::unlock_fair(self) }
    }
}

// SAFETY: a timed lock that gives up holds nothing and waits for nothing.
unsafe impl RawMutexTimed for RawLock {
    type Duration = Duration;
    type Instant = Instant;

    #[inline]
    fn try_lock_for(&self, timeout: Duration) -> Option<GuardSend> {
        RawLock::try_lock_for(self, timeout).then(GuardSend::new)
    }

    #[inline]
    fn try_lock_until(&self, deadline: Instant) -> Option<GuardSend> {
        RawLock::try_lock_until(self, deadline).then(GuardSend::new)
    }
}

/// Tells running threads apart, for [`ReentrantMutex`]: the address of a thread-local.
#[derive(Debug)]
pub struct RawThreadId;

// SAFETY: the address of a thread-local differs among the threads that run at one time, and
// is not null.
unsafe impl lock_api::GetThreadId for RawThreadId {
    const INIT: Self = RawThreadId;

    #[inline]
    fn nonzero_thread_id(&self) -> NonZeroUsize {
        thread_local!(static KEY: u8 = const { 0 });
        KEY.with(|x| (core::ptr::from_ref(x).addr()).try_into())
            .expect("a thread-local has an address")
    }
}

/// The mutex.
pub type Mutex<T> = lock_api::Mutex<RawLock, T>;
/// Its guard.
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawLock, T>;
/// Its mapped guard.
pub type MappedMutexGuard<'a, T> = lock_api::MappedMutexGuard<'a, RawLock, T>;
/// Its Arc guard.
#[cfg(feature = "arc_lock")]
pub type ArcMutexGuard<T> = lock_api::ArcMutexGuard<RawLock, T>;
/// The reentrant mutex.
pub type ReentrantMutex<T> = lock_api::ReentrantMutex<RawLock, RawThreadId, T>;
/// Its guard.
pub type ReentrantMutexGuard<'a, T> = lock_api::ReentrantMutexGuard<'a, RawLock, RawThreadId, T>;
/// Its mapped guard.
pub type MappedReentrantMutexGuard<'a, T> =
    lock_api::MappedReentrantMutexGuard<'a, RawLock, RawThreadId, T>;
