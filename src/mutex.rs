//! The public lock types: [`RawLock`] under `lock_api`'s guards.

use crate::raw::RawLock;
use core::num::NonZeroUsize;
use lock_api::{GuardSend, RawMutex, RawMutexFair, RawMutexTimed};
use std::time::{Duration, Instant};

// SAFETY: a lock method returns success to one caller at a time, and the next success happens
// after the unlock of the one before: by the compare-exchange of `LockWord`, or by a handoff to
// exactly one waiter (`queue.rs`, `duty.rs`).
unsafe impl RawMutex for RawLock {
    // A `const` is what `lock_api` asks for: every use of it is a new, free lock.
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = RawLock::new();
    // The word does not record a thread: any thread may unlock.
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

/// Tells running threads apart, for [`ReentrantMutex`], by the address of a thread-local variable.
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

/// A mutual exclusion lock around a `T`. It takes one byte more than the data, and padding.
///
/// The methods are those of [`lock_api::Mutex`]:
///
/// | method | what it does |
/// |---|---|
/// | `const fn new(data)` | returns a free mutex |
/// | `lock()` | blocks until the mutex is free, and returns the guard |
/// | `try_lock()` | returns `None` if the mutex is locked; never blocks |
/// | `try_lock_for(timeout)`, `try_lock_until(deadline)` | block no longer than that; `None` if the time has passed |
/// | `is_locked()` | advice: the answer may be outdated when it is returned |
/// | `get_mut()`, `into_inner()` | reach the data without locking, by ownership |
///
/// The guard unlocks when it is dropped. [`MutexGuard::unlock_fair`] unlocks and passes the lock to a
/// waiter, if there is one; [`MutexGuard::bump`] does so and locks again.
///
/// - **No poisoning**: a panic while the lock is held unlocks it, and the data stays as it is.
/// - Waiting is bounded: see the guarantees in the [crate documentation](crate).
/// - A guard may be sent to another thread and dropped there, if `T: Send`.
/// - A guard that is passed to `mem::forget` leaves the mutex locked for ever. The mutex may still
///   be dropped.
/// - Not reentrant: a thread that locks a mutex it holds already blocks for ever. See
///   [`ReentrantMutex`].
/// - No method panics, but for the limits of WebAssembly in the platform table of the crate.
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

/// Access to the data of a [`Mutex`], which is locked for as long as the guard lives. It is what
/// `lock` and its kin return.
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawLock, T>;

/// A [`MutexGuard`] narrowed to a part of the data by [`MutexGuard::map`].
pub type MappedMutexGuard<'a, T> = lock_api::MappedMutexGuard<'a, RawLock, T>;

/// A guard that owns an `Arc` of its [`Mutex`] instead of borrowing it: `Mutex::lock_arc`.
#[cfg(feature = "arc_lock")]
pub type ArcMutexGuard<T> = lock_api::ArcMutexGuard<RawLock, T>;

/// A mutex that a thread may lock again while it holds it. The mutex is free again when the thread
/// has dropped as many guards as it has taken.
///
/// The guards give shared access only: put a `Cell` or a `RefCell` inside to change the data. A lock
/// panics when the number of guards overflows a `usize`.
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

/// Shared access to the data of a [`ReentrantMutex`]. It is not `Send`.
pub type ReentrantMutexGuard<'a, T> = lock_api::ReentrantMutexGuard<'a, RawLock, RawThreadId, T>;

/// A [`ReentrantMutexGuard`] narrowed to a part of the data.
pub type MappedReentrantMutexGuard<'a, T> =
    lock_api::MappedReentrantMutexGuard<'a, RawLock, RawThreadId, T>;

/// A [`ReentrantMutexGuard`] that owns an `Arc` of its mutex: `ReentrantMutex::lock_arc`.
#[cfg(feature = "arc_lock")]
pub type ArcReentrantMutexGuard<T> = lock_api::ArcReentrantMutexGuard<RawLock, RawThreadId, T>;
