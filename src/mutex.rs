//! The public lock types: [`RawLock`] under `lock_api`'s guards.

use crate::raw::RawLock;
use core::num::NonZeroUsize;
use lock_api::{GuardSend, RawMutex, RawMutexFair, RawMutexTimed};
use std::time::{Duration, Instant};

// SAFETY: a lock method returns success to one caller at a time, and the next success happens
// after the unlock of the one before: by the compare-exchange of `LockWord`, or by a hand-over to
// exactly one waiter (`queue.rs`, `duty.rs`).
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

    #[inline]
    unsafe fn bump(&self, _guard: &mut GuardSend) {
        // SAFETY: as above; the lock is held again afterwards, and `bump` does not unwind.
        unsafe { RawLock::bump(self) }
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

/// A mutual exclusion lock around a `T`: one byte, and the data.
///
/// The methods are those of [`lock_api::Mutex`]: `lock`, `try_lock`, `try_lock_for`,
/// `try_lock_until`, `get_mut`, `into_inner`, `is_locked`; the guard unlocks when dropped, or by
/// [`MutexGuard::unlock_fair`], and [`MutexGuard::bump`] lets waiters in for a moment.
///
/// - **No poisoning**: a panic while the lock is held unlocks it, and the data stays as it is.
/// - Waiting is bounded: see the guarantees in the [crate documentation](crate).
/// - A guard may be sent to another thread and dropped there, if `T: Send`.
/// - A guard that is `mem::forget`-ten leaves the mutex locked for ever; dropping the mutex is
///   fine even then.
/// - Not reentrant: a thread that locks twice waits for ever. See [`ReentrantMutex`].
///
/// ```
/// use lockword::Mutex;
/// use std::time::Duration;
///
/// static COUNT: Mutex<u32> = Mutex::new(0);
///
/// *COUNT.lock() += 1;
/// if let Some(mut count) = COUNT.try_lock_for(Duration::from_millis(10)) {
///     *count += 1;
/// }
/// assert_eq!(*COUNT.lock(), 2);
/// ```
pub type Mutex<T> = lock_api::Mutex<RawLock, T>;

/// Access to the data of a [`Mutex`], which is locked for as long as the guard lives.
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawLock, T>;

/// A [`MutexGuard`] narrowed to a part of the data by [`MutexGuard::map`].
pub type MappedMutexGuard<'a, T> = lock_api::MappedMutexGuard<'a, RawLock, T>;

/// A guard that owns an `Arc` of its [`Mutex`] instead of borrowing it: `Mutex::lock_arc`.
#[cfg(feature = "arc_lock")]
pub type ArcMutexGuard<T> = lock_api::ArcMutexGuard<RawLock, T>;

/// A mutex that the thread which holds it may lock again. Its guards give shared access only:
/// put a `Cell` or a `RefCell` inside to change the data.
///
/// ```
/// use lockword::ReentrantMutex;
/// use std::cell::Cell;
///
/// static DEPTH: ReentrantMutex<Cell<u32>> = ReentrantMutex::new(Cell::new(0));
///
/// let outer = DEPTH.lock();
/// let inner = DEPTH.lock();
/// inner.set(outer.get() + 2);
/// assert_eq!(outer.get(), 2);
/// ```
pub type ReentrantMutex<T> = lock_api::ReentrantMutex<RawLock, RawThreadId, T>;

/// Shared access to the data of a [`ReentrantMutex`]. It stays on its thread.
pub type ReentrantMutexGuard<'a, T> = lock_api::ReentrantMutexGuard<'a, RawLock, RawThreadId, T>;

/// A [`ReentrantMutexGuard`] narrowed to a part of the data.
pub type MappedReentrantMutexGuard<'a, T> =
    lock_api::MappedReentrantMutexGuard<'a, RawLock, RawThreadId, T>;

/// A [`ReentrantMutexGuard`] that owns an `Arc` of its mutex: `ReentrantMutex::lock_arc`.
#[cfg(feature = "arc_lock")]
pub type ArcReentrantMutexGuard<T> = lock_api::ArcReentrantMutexGuard<RawLock, RawThreadId, T>;
