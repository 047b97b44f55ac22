//! [`Mutex`] and its guard.

use super::flag::{Entry, Flag};
use crate::raw::RawLock;
use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{LockResult, TryLockError, TryLockResult};

/// [`std::sync::Mutex`] with this crate's lock inside: two bytes, and the data.
///
/// Poisoning is std's: a panic while the mutex is locked makes every later `lock` return an
/// error, which carries the guard. What is guaranteed of the lock itself (bounded waiting, no
/// fairness beyond it, destruction after unlock) is said in the [crate documentation](crate).
///
/// ```
/// use lockword::sync::Mutex;
///
/// static COUNT: Mutex<u32> = Mutex::new(0);
///
/// *COUNT.lock().unwrap() += 1;
/// assert_eq!(format!("{COUNT:?}"), "Mutex { data: 1, poisoned: false, .. }");
/// ```
pub struct Mutex<T: ?Sized> {
    lock: RawLock,
    poison: Flag,
    data: UnsafeCell<T>,
}

// SAFETY: a mutex that is sent away takes its data along, and nothing else in it minds.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: whoever shares a mutex gets at the data from one thread at a time, as if it had been
// sent there.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

// Data that a panic has left half-changed is behind the poison flag.
impl<T: ?Sized> UnwindSafe for Mutex<T> {}
impl<T: ?Sized> RefUnwindSafe for Mutex<T> {}

impl<T> Mutex<T> {
    /// A free mutex around `value`.
    #[inline]
    pub const fn new(value: T) -> Self {
        Mutex { lock: RawLock::new(), poison: Flag::new(), data: UnsafeCell::new(value) }
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Acquires the mutex, waiting as long as it takes.
    ///
    /// A thread that locks twice waits for ever.
    ///
    /// # Errors
    /// A thread has panicked while it held the mutex. The error carries the guard: the mutex is
    /// locked.
    #[inline]
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        self.lock.lock();
        // SAFETY: just acquired.
        unsafe { self.guard() }
    }

    /// Acquires the mutex if it is free; never waits.
    ///
    /// # Errors
    /// [`TryLockError::WouldBlock`] if it is locked; [`TryLockError::Poisoned`], with the guard,
    /// if a thread has panicked while it held the mutex.
    #[inline]
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        if self.lock.try_lock() {
            // SAFETY: just acquired.
            Ok(unsafe { self.guard() }?)
        } else {
            Err(TryLockError::WouldBlock)
        }
    }

    /// The lock, for the Condvar.
    pub(super) fn raw(&self) -> &RawLock {
        &self.lock
    }

    /// `value`, as an error if this mutex is poisoned.
    #[inline]
    pub(super) fn wrap<V>(&self, value: V) -> LockResult<V> {
        self.poison.wrap(value)
    }

    /// The guard of this mutex.
    ///
    /// # Safety
    /// The caller holds the lock, and there is no other guard for this acquisition.
    #[inline]
    unsafe fn guard(&self) -> LockResult<MutexGuard<'_, T>> {
        let entry = Flag::enter();
        self.wrap(MutexGuard { mutex: self, entry, stays: PhantomData })
    }

    /// Whether a thread has panicked while it held the mutex. Another thread may poison it at any
    /// time: without the lock the answer is advice.
    #[inline]
    pub fn is_poisoned(&self) -> bool {
        self.poison.is_set()
    }

    /// Forgets that a thread has panicked while it held the mutex.
    #[inline]
    pub fn clear_poison(&self) {
        self.poison.clear();
    }

    /// The data.
    ///
    /// # Errors
    /// A thread has panicked while it held the mutex. The error carries the data.
    pub fn into_inner(self) -> LockResult<T>
    where
        T: Sized,
    {
        let Mutex { poison, data, .. } = self;
        poison.wrap(data.into_inner())
    }

    /// The data, without locking: nobody else can have the mutex.
    ///
    /// # Errors
    /// A thread has panicked while it held the mutex. The error carries the reference.
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        self.poison.wrap(self.data.get_mut())
    }
}

impl<T> From<T> for Mutex<T> {
    /// As [`Mutex::new`].
    fn from(value: T) -> Self {
        Mutex::new(value)
    }
}

impl<T: Default> Default for Mutex<T> {
    /// A free mutex around the default.
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    /// The text that std writes. The data is shown if the mutex is free.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Mutex");
        match self.try_lock() {
            Ok(guard) => text.field("data", &&*guard),
            Err(TryLockError::Poisoned(error)) => text.field("data", &&**error.get_ref()),
            Err(TryLockError::WouldBlock) => text.field("data", &"<locked>"),
        };
        text.field("poisoned", &self.is_poisoned()).finish_non_exhaustive()
    }
}

/// Access to the data of a [`Mutex`], which is locked for as long as the guard lives.
///
/// It stays on its thread, as std's does.
#[must_use = "if unused the Mutex will immediately unlock"]
#[clippy::has_significant_drop]
pub struct MutexGuard<'a, T: ?Sized + 'a> {
    mutex: &'a Mutex<T>,
    entry: Entry,
    /// Not `Send`.
    stays: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives no more than `&T`.
unsafe impl<T: ?Sized + Sync> Sync for MutexGuard<'_, T> {}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    /// The mutex, which is locked. Not a method, which could hide one of the data's.
    pub(super) fn mutex(guard: &Self) -> &'a Mutex<T> {
        guard.mutex
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is held for as long as the guard lives, and a shared guard gives only
        // shared access.
        unsafe { &*self.mutex.data.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held for as long as the guard lives, and this borrows the guard
        // exclusively.
        unsafe { &mut *self.mutex.data.get() }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.mutex.poison.leave(self.entry);
        // SAFETY: the guard stands for one acquisition, and this is its end.
        unsafe { self.mutex.lock.unlock() }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}
