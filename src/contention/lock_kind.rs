//! [`LockKind`] and [`MeasuredMutex`]: the interface of every lock that can be measured.

use std::marker::PhantomData;
use std::ops::DerefMut;

/// A mutex that protects a `T` and is locked through a guard.
///
/// It is implemented for the mutexes and the reader-writer locks of lock_api and of std. To measure any other
/// lock, implement it and [`LockKind`]. A reader-writer lock is one whose [`read`](Self::read) lets several threads
/// in.
pub trait MeasuredMutex<T>: Send + Sync {
    /// The guard. It gives access to the data, and unlocks the mutex when it is dropped.
    type Guard<'a>: DerefMut<Target = T>
    where
        Self: 'a;

    /// Creates an unlocked lock.
    fn new(value: T) -> Self;

    /// Blocks until the lock is acquired, for writing if it tells that from reading.
    ///
    /// It should be `#[inline]`, since it is part of the loop that is measured. A panic ends the
    /// measurement with [`SliceError::Panicked`](super::SliceError::Panicked).
    fn lock(&self) -> Self::Guard<'_>;

    /// Blocks until the lock is acquired for reading, calls `section` with the data, and releases the lock.
    ///
    /// As provided, it locks, as a mutex has to. The same is true of it as of [`lock`](Self::lock).
    #[inline]
    fn read<R>(&self, section: impl FnOnce(&T) -> R) -> R {
        section(&self.lock())
    }
}

/// An implementation of a lock, as a marker type that does not depend on the protected data.
///
/// The measuring code is generic over the lock kind, so each lock gets its own copy of the loop, in
/// which its operations are inlined, without an indirect call.
pub trait LockKind: 'static {
    /// The lock that protects a `T`.
    type Mutex<T: Send + Sync>: MeasuredMutex<T>;
}

/// A mutex with a Condvar, as a marker type.
///
/// It takes part in loads with a queue ([`Load::queue`](super::Load::queue)). A queue has one mutex and
/// two Condvars.
pub trait CondvarKind: LockKind {
    /// The Condvar, which `default` makes without any waiter.
    type Condvar: Default + Send + Sync + 'static;

    /// Releases the mutex of `guard`, waits for a notification and acquires the mutex again. It may
    /// return without a notification.
    fn wait<'a, T: Send + Sync + 'static>(
        condvar: &Self::Condvar,
        guard: GuardOf<'a, Self, T>,
    ) -> GuardOf<'a, Self, T>;

    /// Wakes one waiter, if there is any. The mutex is not held.
    fn notify_one(condvar: &Self::Condvar);

    /// Wakes all waiters. The mutex is not held.
    fn notify_all(condvar: &Self::Condvar);
}

/// The guard of the mutex of the kind `K` that protects a `T`.
pub type GuardOf<'a, K, T> = <<K as LockKind>::Mutex<T> as MeasuredMutex<T>>::Guard<'a>;

/// The kind of lock_api's mutex with a Condvar that implements its `RawCondvar`.
pub struct LockApiCondvar<C>(PhantomData<C>);

/// The kind of [`crate::Mutex`] with [`crate::Condvar`].
pub type LockwordCondvar = LockApiCondvar<crate::RawCondvar>;

/// The kind of a lock that implements lock_api's `RawMutex`.
pub struct LockApi<R>(PhantomData<R>);

/// The kind of [`std::sync::Mutex`].
pub struct Std;

/// The kind of [`crate::Mutex`].
pub type Lockword = LockApi<crate::RawLock>;

/// The kind of [`crate::FairMutex`]: every unlock hands over to the next waiter.
pub type LockwordFair = LockApi<crate::RawFairLock>;

/// The kind of [`crate::sync::Mutex`], which has the interface of std's.
pub struct StdCompat;

/// The kind of a lock that implements lock_api's `RawRwLock`.
pub struct LockApiRwLock<R>(PhantomData<R>);

/// The kind of [`std::sync::RwLock`].
pub struct StdRwLock;

/// The kind of [`crate::RwLock`].
pub type LockwordRwLock = LockApiRwLock<crate::RawRwLock>;

/// The kind of [`crate::sync::RwLock`], which has the interface of std's.
pub struct StdCompatRwLock;

impl<R: lock_api::RawMutex + Send + Sync + 'static> LockKind for LockApi<R> {
    type Mutex<T: Send + Sync> = lock_api::Mutex<R, T>;
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

impl<C> LockKind for LockApiCondvar<C>
where
    C: lock_api::RawCondvar + Send + Sync + 'static,
    C::RawMutex: Send + Sync + 'static,
{
    type Mutex<T: Send + Sync> = lock_api::Mutex<C::RawMutex, T>;
}

impl<C> CondvarKind for LockApiCondvar<C>
where
    C: lock_api::RawCondvar + Send + Sync + 'static,
    C::RawMutex: Send + Sync + 'static,
{
    type Condvar = lock_api::Condvar<C>;

    #[inline]
    fn wait<'a, T: Send + Sync + 'static>(
        condvar: &Self::Condvar,
        mut guard: GuardOf<'a, Self, T>,
    ) -> GuardOf<'a, Self, T> {
        condvar.wait(&mut guard);
        guard
    }

    #[inline]
    fn notify_one(condvar: &Self::Condvar) {
        condvar.notify_one();
    }

    #[inline]
    fn notify_all(condvar: &Self::Condvar) {
        condvar.notify_all();
    }
}

/// The Condvar `$module::Condvar` of the kind `$kind`, with std's interface.
macro_rules! condvar_of_std {
    ($kind:ty, $($module:ident)::+) => {
        impl CondvarKind for $kind {
            type Condvar = $($module)::+::Condvar;

            #[inline]
            fn wait<'a, T: Send + Sync + 'static>(
                condvar: &Self::Condvar,
                guard: GuardOf<'a, Self, T>,
            ) -> GuardOf<'a, Self, T> {
                condvar.wait(guard).unwrap()
            }

            #[inline]
            fn notify_one(condvar: &Self::Condvar) {
                condvar.notify_one();
            }

            #[inline]
            fn notify_all(condvar: &Self::Condvar) {
                condvar.notify_all();
            }
        }
    };
}

condvar_of_std!(Std, std::sync);
condvar_of_std!(StdCompat, crate::sync);

impl LockKind for StdCompat {
    type Mutex<T: Send + Sync> = crate::sync::Mutex<T>;
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
    type Mutex<T: Send + Sync> = std::sync::Mutex<T>;
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

impl<R: lock_api::RawRwLock + Send + Sync + 'static> LockKind for LockApiRwLock<R> {
    type Mutex<T: Send + Sync> = lock_api::RwLock<R, T>;
}

impl<R: lock_api::RawRwLock + Send + Sync + 'static, T: Send + Sync> MeasuredMutex<T>
    for lock_api::RwLock<R, T>
{
    type Guard<'a>
        = lock_api::RwLockWriteGuard<'a, R, T>
    where
        Self: 'a;

    #[inline]
    fn new(value: T) -> Self {
        lock_api::RwLock::new(value)
    }

    #[inline]
    fn lock(&self) -> Self::Guard<'_> {
        lock_api::RwLock::write(self)
    }

    #[inline]
    fn read<O>(&self, section: impl FnOnce(&T) -> O) -> O {
        section(&lock_api::RwLock::read(self))
    }
}

/// The kind `$kind` of a reader-writer lock `$module::RwLock` with std's interface.
macro_rules! rwlock_of_std {
    ($kind:ty, $($module:ident)::+) => {
        impl LockKind for $kind {
            type Mutex<T: Send + Sync> = $($module)::+::RwLock<T>;
        }

        impl<T: Send + Sync> MeasuredMutex<T> for $($module)::+::RwLock<T> {
            type Guard<'a>
                = $($module)::+::RwLockWriteGuard<'a, T>
            where
                Self: 'a;

            #[inline]
            fn new(value: T) -> Self {
                $($module)::+::RwLock::new(value)
            }

            #[inline]
            fn lock(&self) -> Self::Guard<'_> {
                // As users of std write it: the check for poison is part of the cost.
                self.write().unwrap()
            }

            #[inline]
            fn read<R>(&self, section: impl FnOnce(&T) -> R) -> R {
                section(&self.read().unwrap())
            }
        }
    };
}

rwlock_of_std!(StdRwLock, std::sync);
rwlock_of_std!(StdCompatRwLock, crate::sync);

/// Kinds of other crates' locks, for comparison (feature `peers`).
#[cfg(feature = "peers")]
pub mod peers {
    pub use super::super::tasks::{AsyncLock, Tokio};
    use super::{LockApi, LockApiRwLock, LockKind, MeasuredMutex};

    /// The kind of `parking_lot::RwLock`.
    pub type ParkingLotRwLock = LockApiRwLock<parking_lot::RawRwLock>;

    /// The kind of `usync::RwLock`, which implements an older version of lock_api than [`LockApiRwLock`] accepts.
    pub struct UsyncRwLock;

    /// The kind of `parking_lot::Mutex` with its Condvar.
    pub type ParkingLotCondvar = super::LockApiCondvar<parking_lot::RawCondvar>;

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
        type Mutex<T: Send + Sync> = spin::Mutex<T>;
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
        type Mutex<T: Send + Sync> = usync::Mutex<T>;
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

    /// The kind of `crossbeam_utils::sync::ShardedLock`: a lock for each of eight shards of readers, on cache lines
    /// of their own. A writer takes all of them.
    pub struct CrossbeamShardedLock;

    impl LockKind for CrossbeamShardedLock {
        type Mutex<T: Send + Sync> = crossbeam_utils::sync::ShardedLock<T>;
    }

    impl<T: Send + Sync> MeasuredMutex<T> for crossbeam_utils::sync::ShardedLock<T> {
        type Guard<'a>
            = crossbeam_utils::sync::ShardedLockWriteGuard<'a, T>
        where
            Self: 'a;

        #[inline]
        fn new(value: T) -> Self {
            crossbeam_utils::sync::ShardedLock::new(value)
        }

        #[inline]
        fn lock(&self) -> Self::Guard<'_> {
            self.write().unwrap()
        }

        #[inline]
        fn read<R>(&self, section: impl FnOnce(&T) -> R) -> R {
            section(&self.read().unwrap())
        }
    }

    impl LockKind for UsyncRwLock {
        type Mutex<T: Send + Sync> = usync::RwLock<T>;
    }

    impl<T: Send + Sync> MeasuredMutex<T> for usync::RwLock<T> {
        type Guard<'a>
            = usync::RwLockWriteGuard<'a, T>
        where
            Self: 'a;

        #[inline]
        fn new(value: T) -> Self {
            usync::RwLock::new(value)
        }

        #[inline]
        fn lock(&self) -> Self::Guard<'_> {
            usync::RwLock::write(self)
        }

        #[inline]
        fn read<R>(&self, section: impl FnOnce(&T) -> R) -> R {
            section(&usync::RwLock::read(self))
        }
    }
}
