//! [`Mutex`] and its guard.

use super::{PoisonFlag, WasPanicking};
use crate::raw::mutex::RawLock;
use crate::traced::LockType;
use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{LockResult, TryLockError, TryLockResult};

#[cfg(all(feature = "deadlock_detection", not(lockword_loom)))]
pub(super) const FILE: &str = file!();

/// [`std::sync::Mutex`] with this crate's lock inside. It takes two bytes more than the data, and
/// padding.
///
/// Poisoning is std's: a panic while the mutex is locked makes every later `lock` return an
/// error, which carries the guard. The [crate documentation](crate) says what is guaranteed of the
/// lock itself: bounded waiting, no fairness beyond that, and that the mutex may be freed by the
/// next holder.
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
    poison: PoisonFlag,
    data: UnsafeCell<T>,
}

// SAFETY: to send a mutex is to send its data; the lock and the flag may be sent.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: threads that share a mutex reach the data one at a time, as if it had been sent from one
// to the next.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

// The poison flag tells of data that a panic has left half-changed.
impl<T: ?Sized> UnwindSafe for Mutex<T> {}
impl<T: ?Sized> RefUnwindSafe for Mutex<T> {}

impl<T> Mutex<T> {
    /// A free mutex around `value`.
    #[inline]
    pub const fn new(value: T) -> Self {
        let lock = RawLock::of(LockType::SyncMutex);
        Mutex { lock, poison: PoisonFlag::new(), data: UnsafeCell::new(value) }
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Acquires the mutex. Blocks the thread until the mutex is free, for however long that takes.
    ///
    /// A thread that locks a mutex it holds already blocks for ever: it neither panics nor returns.
    ///
    /// # Errors
    /// [`PoisonError`](std::sync::PoisonError) if a thread has panicked while it held the mutex.
    /// The error carries the guard: the mutex is locked in that case, too.
    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        self.lock.lock();
        // SAFETY: just acquired.
        unsafe { self.guard() }
    }

    /// Acquires the mutex if it is free. Never blocks.
    ///
    /// # Errors
    /// - [`TryLockError::WouldBlock`] if the mutex is locked.
    /// - [`TryLockError::Poisoned`], which carries the guard, if a thread has panicked while it held
    ///   the mutex.
    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        if self.lock.try_lock() {
            // SAFETY: just acquired.
            Ok(unsafe { self.guard() }?)
        } else {
            Err(TryLockError::WouldBlock)
        }
    }

    /// The lock, for the Condvar and the instruments.
    pub(crate) fn raw(&self) -> &RawLock {
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
        let before = WasPanicking::now();
        self.wrap(MutexGuard { mutex: self, before, stays: PhantomData })
    }

    /// Whether a thread has panicked while it held the mutex. Another thread may poison the mutex at
    /// any time, so the answer is reliable only while the caller holds the lock.
    #[inline]
    pub fn is_poisoned(&self) -> bool {
        self.poison.is_set()
    }

    /// Clears the poison: later calls of [`lock`](Self::lock) return `Ok` again.
    #[inline]
    pub fn clear_poison(&self) {
        self.poison.clear();
    }

    /// Consumes the mutex and returns the data.
    ///
    /// # Errors
    /// [`PoisonError`](std::sync::PoisonError), which carries the data, if a thread has panicked
    /// while it held the mutex.
    pub fn into_inner(self) -> LockResult<T>
    where
        T: Sized,
    {
        let Mutex { poison, data, .. } = self;
        poison.wrap(data.into_inner())
    }

    /// The data, without locking: `&mut self` shows that no other thread uses the mutex.
    ///
    /// # Errors
    /// [`PoisonError`](std::sync::PoisonError), which carries the reference, if a thread has
    /// panicked while it held the mutex.
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
    /// The text that std writes. It shows the data if the mutex is free, and never blocks.
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
/// It is not `Send`, as std's is not. To drop it unlocks the mutex.
#[must_use = "if unused the Mutex will immediately unlock"]
#[clippy::has_significant_drop]
pub struct MutexGuard<'a, T: ?Sized + 'a> {
    mutex: &'a Mutex<T>,
    before: WasPanicking,
    /// Not `Send`.
    stays: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives no more than `&T`.
unsafe impl<T: ?Sized + Sync> Sync for MutexGuard<'_, T> {}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    /// The mutex, which is locked. It is no method, since that could hide a method of the data.
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
        self.mutex.poison.set_after_panic(self.before);
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

#[cfg(feature = "serde")]
impl<T: ?Sized + serde::Serialize> serde::Serialize for Mutex<T> {
    /// Writes the data, as for std's mutex. Blocks until the mutex is free, and holds it while the
    /// data is written. A poisoned mutex is an error.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.lock() {
            Ok(guard) => guard.serialize(serializer),
            // The text that serde has for std's.
            Err(_) => Err(serde::ser::Error::custom("lock poison error while serializing")),
        }
    }
}

#[cfg(feature = "serde")]
impl<'de, T: serde::Deserialize<'de>> serde::Deserialize<'de> for Mutex<T> {
    /// Reads the data, and puts it into a free mutex.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Mutex::new)
    }
}
