//! Families of other crates' mutexes, to compare with (feature `peers`).

use super::lock::{Family, Lock, LockApi};

/// The family of `parking_lot::Mutex`.
pub type ParkingLot = LockApi<parking_lot::RawMutex>;

/// The family of `parking_lot::FairMutex`: every unlock hands the lock to the next in the queue.
pub type ParkingLotFair = LockApi<parking_lot::RawFairMutex>;

/// The family of `spin::Mutex`: its waiters never sleep.
pub struct Spin;

/// The family of `usync::Mutex`, which is built on an older lock_api than [`LockApi`] is.
pub struct Usync;

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
