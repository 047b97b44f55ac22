//! Adapters: one small trait over every mutex that takes part.
//!
//! A *family* is a marker type that stands for one implementation of a mutex, whatever it
//! protects. Code that measures is generic over the family, so each lock gets its own
//! monomorphised and inlined copy of the loop, with no indirect call inside.

use std::marker::PhantomData;
use std::ops::DerefMut;

/// A mutex around a `T`, locked through its own guard.
pub trait Lock<T>: Send + Sync {
    /// The guard: gives access to the data, unlocks when dropped.
    type Guard<'a>: DerefMut<Target = T>
    where
        Self: 'a;

    /// A free lock.
    fn new(value: T) -> Self;

    /// Waits for the lock.
    fn lock(&self) -> Self::Guard<'_>;
}

/// One implementation of a mutex.
pub trait Family: 'static {
    /// Its mutex around a `T`.
    type Mutex<T: Send>: Lock<T>;
}

/// The family of any lock with lock_api's raw interface.
pub struct LockApi<R>(PhantomData<R>);

/// `std::sync::Mutex`.
pub struct Std;

/// `spin::Mutex`: it never parks.
pub struct Spin;

/// `usync::Mutex`, which is built on an older lock_api than [`LockApi`] is.
pub struct Usync;

/// `lockword::Mutex`.
pub type Lockword = LockApi<lockword::RawLock>;

/// `parking_lot::Mutex`.
pub type ParkingLot = LockApi<parking_lot::RawMutex>;

/// `parking_lot::FairMutex`: every unlock hands the lock to the next in the queue.
pub type ParkingLotFair = LockApi<parking_lot::RawFairMutex>;

impl<R: lock_api::RawMutex + Send + Sync + 'static> Family for LockApi<R> {
    type Mutex<T: Send> = lock_api::Mutex<R, T>;
}

impl<R: lock_api::RawMutex + Send + Sync + 'static, T: Send> Lock<T> for lock_api::Mutex<R, T> {
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

impl Family for Std {
    type Mutex<T: Send> = std::sync::Mutex<T>;
}

impl<T: Send> Lock<T> for std::sync::Mutex<T> {
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

impl Family for Spin {
    type Mutex<T: Send> = spin::Mutex<T>;
}

impl<T: Send> Lock<T> for spin::Mutex<T> {
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

impl Family for Usync {
    type Mutex<T: Send> = usync::Mutex<T>;
}

impl<T: Send> Lock<T> for usync::Mutex<T> {
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
