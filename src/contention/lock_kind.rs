//! [`MeasuredMutex`] and [`LockKind`]: one small interface over every mutex that is measured.

use std::marker::PhantomData;
use std::ops::DerefMut;

/// A mutex around a `T`, locked through a guard.
///
/// lock_api's mutexes and std's have it already. For any other, implement it and [`LockKind`].
pub trait MeasuredMutex<T>: Send + Sync {
    /// The guard: it gives access to the data, and unlocks when it is dropped.
    type Guard<'a>: DerefMut<Target = T>
    where
        Self: 'a;

    /// A free lock.
    fn new(value: T) -> Self;

    /// Waits for the lock. It should be `#[inline]`: it is part of the loop that is measured.
    fn lock(&self) -> Self::Guard<'_>;
}

/// One implementation of a mutex, whatever it protects: a marker type.
///
/// What measures is generic over the family. So each lock gets its own copy of the loop, in which
/// it is inlined, with no indirect call.
pub trait LockKind: 'static {
    /// Its mutex around a `T`.
    type Mutex<T: Send>: MeasuredMutex<T>;
}

/// The family of a lock with lock_api's raw interface.
pub struct LockApi<R>(PhantomData<R>);

/// The family of [`std::sync::Mutex`].
pub struct Std;

/// The family of [`crate::Mutex`].
pub type Lockword = LockApi<crate::RawLock>;

/// The family of [`crate::sync::Mutex`].
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
        // What std's users write: the check for poison is part of the price.
        std::sync::Mutex::lock(self).unwrap()
    }
}

/// Families of other crates' mutexes, to compare with (feature `peers`).
#[cfg(feature = "peers")]
pub mod peers {
    use super::{LockApi, LockKind, MeasuredMutex};

    /// The family of `parking_lot::Mutex`.
    pub type ParkingLot = LockApi<parking_lot::RawMutex>;

    /// The family of `parking_lot::FairMutex`: every unlock hands the lock to the next in the queue.
    pub type ParkingLotFair = LockApi<parking_lot::RawFairMutex>;

    /// The family of `spin::Mutex`: its waiters never sleep.
    pub struct SpinMutex;

    /// The family of `usync::Mutex`, which is built on an older lock_api than [`LockApi`] is.
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
