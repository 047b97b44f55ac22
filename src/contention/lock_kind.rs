//! [`LockKind`] and [`MeasuredMutex`]: the interface of every mutex that can be measured.

use std::marker::PhantomData;
use std::ops::DerefMut;

/// A mutex that protects a `T` and is locked through a guard.
///
/// It is implemented for lock_api's mutexes and std's. To measure any other mutex, implement it and
/// [`LockKind`].
pub trait MeasuredMutex<T>: Send + Sync {
    /// The guard. It gives access to the data, and unlocks the mutex when it is dropped.
    type Guard<'a>: DerefMut<Target = T>
    where
        Self: 'a;

    /// Creates an unlocked mutex.
    fn new(value: T) -> Self;

    /// Blocks until the mutex is acquired.
    ///
    /// It should be `#[inline]`, since it is part of the loop that is measured. A panic ends the
    /// measurement with [`SliceError::Panicked`](super::SliceError::Panicked).
    fn lock(&self) -> Self::Guard<'_>;
}

/// An implementation of a mutex, as a marker type that does not depend on the protected data.
///
/// The measuring code is generic over the lock kind, so each lock gets its own copy of the loop, in
/// which its operations are inlined, without an indirect call.
pub trait LockKind: 'static {
    /// The mutex that protects a `T`.
    type Mutex<T: Send>: MeasuredMutex<T>;
}

/// The kind of a lock that implements lock_api's `RawMutex`.
pub struct LockApi<R>(PhantomData<R>);

/// The kind of [`std::sync::Mutex`].
pub struct Std;

/// The kind of [`crate::Mutex`].
pub type Lockword = LockApi<crate::RawLock>;

/// The kind of [`crate::sync::Mutex`], which has the interface of std's.
pub struct StdCompat;

impl<R: lock_api::RawMutex + Send + Sync + 'static> LockKind for LockApi<R> {
    type Mutex<T: Send> = lock_api::Mutex<R, T>;
}

impl<R: lock_api::RawMutex + Send + Sync + 'static, T: Send> MeasuredMutex<T>
    for lock_api::Mutex<R, T>
{
    type Guard<'a>
        = lock_api::MutexGuard<'a, R, T>
    where
        Self: 'a;

    #[inline]
    fn new(value: T) -> Self {
        lock_api::Mutex::new(value)
    }

    #[inline]
    fn lock(&self) -> Self::Guard<'_> {
        lock_api::Mutex::lock(self)
    }
}

impl LockKind for StdCompat {
    type Mutex<T: Send> = crate::sync::Mutex<T>;
}

impl<T: Send> MeasuredMutex<T> for crate::sync::Mutex<T> {
    type Guard<'a>
        = crate::sync::MutexGuard<'a, T>
    where
        Self: 'a;

    #[inline]
    fn new(value: T) -> Self {
        crate::sync::Mutex::new(value)
    }

    #[inline]
    fn lock(&self) -> Self::Guard<'_> {
        crate::sync::Mutex::lock(self).unwrap()
    }
}

impl LockKind for Std {
    type Mutex<T: Send> = std::sync::Mutex<T>;
}

impl<T: Send> MeasuredMutex<T> for std::sync::Mutex<T> {
    type Guard<'a>
        = std::sync::MutexGuard<'a, T>
    where
        Self: 'a;

    #[inline]
    fn new(value: T) -> Self {
        std::sync::Mutex::new(value)
    }

    #[inline]
    fn lock(&self) -> Self::Guard<'_> {
        // As users of std write it: the check for poison is part of the cost.
        std::sync::Mutex::lock(self).unwrap()
    }
}

/// Kinds of other crates' mutexes, for comparison (feature `peers`).
#[cfg(feature = "peers")]
pub mod peers {
    use super::{LockApi, LockKind, MeasuredMutex};

    /// The kind of `parking_lot::Mutex`.
    pub type ParkingLot = LockApi<parking_lot::RawMutex>;

    /// The kind of `parking_lot::FairMutex`: every unlock is a direct handoff to the next waiter.
    pub type ParkingLotFair = LockApi<parking_lot::RawFairMutex>;

    /// The kind of `spin::Mutex`: its waiters never sleep.
    pub struct SpinMutex;

    /// The kind of `usync::Mutex`, which implements an older version of lock_api than [`LockApi`]
    /// accepts.
    pub struct Usync;

    impl LockKind for SpinMutex {
        type Mutex<T: Send> = spin::Mutex<T>;
    }

    impl<T: Send> MeasuredMutex<T> for spin::Mutex<T> {
        type Guard<'a>
            = spin::MutexGuard<'a, T>
        where
            Self: 'a;

        #[inline]
        fn new(value: T) -> Self {
            spin::Mutex::new(value)
        }

        #[inline]
        fn lock(&self) -> Self::Guard<'_> {
            spin::Mutex::lock(self)
        }
    }

    impl LockKind for Usync {
        type Mutex<T: Send> = usync::Mutex<T>;
    }

    impl<T: Send> MeasuredMutex<T> for usync::Mutex<T> {
        type Guard<'a>
            = usync::MutexGuard<'a, T>
        where
            Self: 'a;

        #[inline]
        fn new(value: T) -> Self {
            usync::Mutex::new(value)
        }

        #[inline]
        fn lock(&self) -> Self::Guard<'_> {
            usync::Mutex::lock(self)
        }
    }
}
