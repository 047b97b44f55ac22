//! The mutex whose every unlock is fair: [`RawLock`] with [`RawLock::unlock_fair`] in place of `unlock`.

use crate::raw::mutex::RawLock;
use crate::traced::LockType;
use lock_api::{GuardNoSend, RawMutex, RawMutexFair, RawMutexTimed};
use std::time::{Duration, Instant};

/// [`RawLock`] whose every unlock is [fair](RawLock::unlock_fair): [`FairMutex`] is made of it.
#[repr(transparent)]
#[derive(Debug)]
pub struct RawFairLock(pub(crate) RawLock);

impl RawFairLock {
    /// A free lock.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        RawFairLock(RawLock::of(LockType::FairMutex))
    }
}

impl Default for RawFairLock {
    fn default() -> Self {
        RawFairLock::new()
    }
}

// SAFETY: as for `RawLock`, of which each method is called.
unsafe impl RawMutex for RawFairLock {
    // A `const` is what `lock_api` asks for: every use of it is a new, free lock.
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = RawFairLock::new();
    type Guard = GuardNoSend;

    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    fn lock(&self) -> GuardNoSend {
        self.0.lock();
        GuardNoSend::new()
    }

    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    fn try_lock(&self) -> Option<GuardNoSend> {
        self.0.try_lock().then(GuardNoSend::new)
    }

    #[inline]
    unsafe fn unlock(&self, _guard: GuardNoSend) {
        // SAFETY: the caller holds the lock, by the contract of this method.
        unsafe { self.0.unlock_fair() }
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.0.is_locked()
    }
}

// SAFETY: as for `RawLock`.
unsafe impl RawMutexFair for RawFairLock {
    #[inline]
    unsafe fn unlock_fair(&self, _guard: GuardNoSend) {
        // SAFETY: the caller holds the lock, by the contract of this method.
        unsafe { self.0.unlock_fair() }
    }

    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    unsafe fn bump(&self, _guard: &mut GuardNoSend) {
        // SAFETY: as above; the lock is held again afterwards, and `bump` does not unwind.
        unsafe { self.0.bump() }
    }
}

// SAFETY: as for `RawLock`.
unsafe impl RawMutexTimed for RawFairLock {
    type Duration = Duration;
    type Instant = Instant;

    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    fn try_lock_for(&self, timeout: Duration) -> Option<GuardNoSend> {
        self.0.try_lock_for(timeout).then(GuardNoSend::new)
    }

    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    fn try_lock_until(&self, deadline: Instant) -> Option<GuardNoSend> {
        self.0.try_lock_until(deadline).then(GuardNoSend::new)
    }
}

/// A [`Mutex`](crate::Mutex) whose every unlock hands the lock to the first waiter, if there is one.
///
/// So threads get it in the order of the queue, at the price of a change of threads for each section: for
/// short sections it makes a third to a half of a `Mutex`'s acquisitions, for sections of 200 us as many. A `Mutex` bounds the wait too, and is the better choice nearly always. A
/// thread that still spins, or is on its way to its first sleep, may not be in the queue yet.
///
/// ```
/// use lockword::FairMutex;
///
/// static COUNT: FairMutex<u32> = FairMutex::new(0);
///
/// *COUNT.lock() += 1;
/// assert_eq!(*COUNT.lock(), 1);
/// ```
pub type FairMutex<T> = lock_api::Mutex<RawFairLock, T>;

/// Access to the data of a [`FairMutex`], for as long as the guard lives.
pub type FairMutexGuard<'a, T> = lock_api::MutexGuard<'a, RawFairLock, T>;

/// A [`FairMutexGuard`] narrowed to a part of the data.
pub type MappedFairMutexGuard<'a, T> = lock_api::MappedMutexGuard<'a, RawFairLock, T>;

/// A [`FairMutexGuard`] that owns an `Arc` of its mutex: `FairMutex::lock_arc`.
#[cfg(feature = "arc_lock")]
pub type ArcFairMutexGuard<T> = lock_api::ArcMutexGuard<RawFairLock, T>;
