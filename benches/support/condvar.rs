//! Adapters over condition variables: a [`LockKind`] that has one of its own.

use lockword::contention::peers::Usync;
use lockword::contention::{LockApi, LockKind, MeasuredMutex, Std};

/// The guard of kind `K`'s mutex around a `T`.
pub type Guard<'a, K, T> = <<K as LockKind>::Mutex<T> as MeasuredMutex<T>>::Guard<'a>;

/// A family whose mutex comes with a condition variable.
pub trait CondvarKind: LockKind {
    /// Its condition variable.
    type Condvar: Send + Sync + Default;

    /// Waits until notified (or spuriously woken: callers loop).
    fn wait<'a, T: Send>(condvar: &Self::Condvar, guard: Guard<'a, Self, T>) -> Guard<'a, Self, T>;

    /// Wakes one waiter, if there is any.
    fn notify_one(condvar: &Self::Condvar);

    /// Wakes every waiter.
    fn notify_all(condvar: &Self::Condvar);
}

/// A lock_api mutex whose crate has a raw condition variable to go with it.
pub trait HasRawCondvar: lock_api::RawMutex + Send + Sync + 'static {
    /// The raw condition variable.
    type RawCondvar: lock_api::RawCondvar<RawMutex = Self> + Send + Sync;
}

impl HasRawCondvar for lockword::RawLock {
    type RawCondvar = lockword::RawCondvar;
}

impl HasRawCondvar for parking_lot::RawMutex {
    type RawCondvar = parking_lot::RawCondvar;
}

impl<R: HasRawCondvar> CondvarKind for LockApi<R> {
    type Condvar = lock_api::Condvar<R::RawCondvar>;

    #[inline]
    fn wait<'a, T: Send>(
        condvar: &Self::Condvar,
        mut guard: Guard<'a, Self, T>,
    ) -> Guard<'a, Self, T> {
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

impl CondvarKind for Std {
    type Condvar = std::sync::Condvar;

    #[inline]
    fn wait<'a, T: Send>(condvar: &Self::Condvar, guard: Guard<'a, Self, T>) -> Guard<'a, Self, T> {
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

impl CondvarKind for Usync {
    type Condvar = usync::Condvar;

    #[inline]
    fn wait<'a, T: Send>(
        condvar: &Self::Condvar,
        mut guard: Guard<'a, Self, T>,
    ) -> Guard<'a, Self, T> {
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
