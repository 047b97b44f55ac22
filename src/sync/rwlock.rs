//! [`RwLock`] and its guards.

use super::{PoisonFlag, WasPanicking};
use crate::raw::rwlock::{After, RawRwLock, ReadToken};
use crate::traced::LockType;
use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::mem;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{LockResult, TryLockError, TryLockResult};

#[cfg(all(feature = "deadlock_detection", not(lockword_loom)))]
pub(super) const FILE: &str = file!();

/// [`std::sync::RwLock`] with this crate's lock inside. It takes nine bytes more than the data, and
/// padding.
///
/// Poisoning is std's: a panic while the lock is held for writing makes every later `read` and `write` return an
/// error, which carries the guard. The page of [`lockword::RwLock`](crate::RwLock) says how it waits.
///
/// ```
/// use lockword::sync::RwLock;
///
/// static COUNT: RwLock<u32> = RwLock::new(0);
///
/// *COUNT.write().unwrap() += 1;
/// assert_eq!(*COUNT.read().unwrap(), 1);
/// assert_eq!(format!("{COUNT:?}"), "RwLock { data: 1, poisoned: false, .. }");
/// ```
pub struct RwLock<T: ?Sized> {
    lock: RawRwLock,
    poison: PoisonFlag,
    data: UnsafeCell<T>,
}

// SAFETY: to send a lock is to send its data; the rest may be sent.
unsafe impl<T: ?Sized + Send> Send for RwLock<T> {}
// SAFETY: threads that share a lock share the data as readers, and reach it one at a time as writers.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwLock<T> {}

// The poison flag tells of data that a panic has left half-changed.
impl<T: ?Sized> UnwindSafe for RwLock<T> {}
impl<T: ?Sized> RefUnwindSafe for RwLock<T> {}

impl<T> RwLock<T> {
    /// A free lock around `value`.
    #[inline]
    pub const fn new(value: T) -> Self {
        let lock = RawRwLock::of(LockType::SyncRwLock);
        RwLock { lock, poison: PoisonFlag::new(), data: UnsafeCell::new(value) }
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Reads. Blocks the thread while another one writes, or is next to write.
    ///
    /// A thread that holds a guard of this lock already may block for ever.
    ///
    /// # Errors
    /// [`PoisonError`](std::sync::PoisonError) if a thread has panicked while it wrote. The error carries the guard.
    ///
    /// # Panics
    /// If 2^26 readers are counted, which takes forgotten guards.
    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        let token = self.lock.read(false);
        // SAFETY: just acquired.
        self.poison.wrap(unsafe { self.read_guard(token) })
    }

    /// Reads, if that is possible at once. Never blocks.
    ///
    /// # Errors
    /// - [`TryLockError::WouldBlock`] if a thread writes, or is next to write.
    /// - [`TryLockError::Poisoned`], which carries the guard, if a thread has panicked while it wrote.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    pub fn try_read(&self) -> TryLockResult<RwLockReadGuard<'_, T>> {
        match self.lock.try_read(false) {
            // SAFETY: just acquired.
            Some(token) => Ok(self.poison.wrap(unsafe { self.read_guard(token) })?),
            None => Err(TryLockError::WouldBlock),
        }
    }

    /// Writes. Blocks the thread until no other one reads or writes.
    ///
    /// A thread that holds a guard of this lock already blocks for ever.
    ///
    /// # Errors
    /// [`PoisonError`](std::sync::PoisonError) if a thread has panicked while it wrote. The error carries the guard.
    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        self.lock.write_until(None);
        // SAFETY: just acquired.
        unsafe { self.write_guard() }
    }

    /// Writes, if that is possible at once. Never waits for another thread. (Where the kernel refuses
    /// `membarrier` after the lock was read without counting, it may take some 10 ms once.)
    ///
    /// # Errors
    /// - [`TryLockError::WouldBlock`] if a thread reads or writes.
    /// - [`TryLockError::Poisoned`], which carries the guard, if a thread has panicked while it wrote.
    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    pub fn try_write(&self) -> TryLockResult<RwLockWriteGuard<'_, T>> {
        if self.lock.try_write() {
            // SAFETY: just acquired.
            Ok(unsafe { self.write_guard() }?)
        } else {
            Err(TryLockError::WouldBlock)
        }
    }

    /// The lock, for the instruments.
    #[cfg(all(feature = "deadlock_detection", not(lockword_loom)))]
    pub(crate) fn raw(&self) -> &RawRwLock {
        &self.lock
    }

    /// A guard for reading.
    ///
    /// # Safety
    /// The token is that of an acquisition of this lock, for which there is no other guard.
    #[inline]
    unsafe fn read_guard(&self, token: ReadToken) -> RwLockReadGuard<'_, T> {
        // SAFETY: a cell's pointer is not null.
        let data = unsafe { NonNull::new_unchecked(self.data.get()) };
        RwLockReadGuard { data, lock: &self.lock, token }
    }

    /// The guard for writing.
    ///
    /// # Safety
    /// The caller holds the lock, and there is no other guard for this acquisition.
    #[inline]
    unsafe fn write_guard(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        let before = WasPanicking::now();
        self.poison.wrap(RwLockWriteGuard { rwlock: self, before, stays: PhantomData })
    }

    /// Whether a thread has panicked while it wrote. Another thread may poison the lock at any time, so the
    /// answer is reliable only while the caller has a guard.
    #[inline]
    pub fn is_poisoned(&self) -> bool {
        self.poison.is_set()
    }

    /// Clears the poison: later calls of [`read`](Self::read) and [`write`](Self::write) return `Ok` again.
    #[inline]
    pub fn clear_poison(&self) {
        self.poison.clear();
    }

    /// Consumes the lock and returns the data.
    ///
    /// # Errors
    /// [`PoisonError`](std::sync::PoisonError), which carries the data, if a thread has panicked while it wrote.
    pub fn into_inner(self) -> LockResult<T>
    where
        T: Sized,
    {
        let RwLock { poison, data, .. } = self;
        poison.wrap(data.into_inner())
    }

    /// The data, without locking: `&mut self` shows that no other thread uses the lock.
    ///
    /// # Errors
    /// [`PoisonError`](std::sync::PoisonError), which carries the reference, if a thread has panicked while it wrote.
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        self.poison.wrap(self.data.get_mut())
    }
}

impl<T> From<T> for RwLock<T> {
    /// As [`RwLock::new`].
    fn from(value: T) -> Self {
        RwLock::new(value)
    }
}

impl<T: Default> Default for RwLock<T> {
    /// A free lock around the default.
    fn default() -> Self {
        RwLock::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    /// The text that std writes. It shows the data if nobody writes, and never blocks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("RwLock");
        match self.try_read() {
            Ok(guard) => text.field("data", &&*guard),
            Err(TryLockError::Poisoned(error)) => text.field("data", &&**error.get_ref()),
            Err(TryLockError::WouldBlock) => text.field("data", &format_args!("<locked>")),
        };
        text.field("poisoned", &self.is_poisoned()).finish_non_exhaustive()
    }
}

/// Shared access to the data of a [`RwLock`], for as long as the guard lives.
///
/// It is not `Send`, as std's is not.
#[must_use = "if unused the RwLock will immediately unlock"]
#[clippy::has_significant_drop]
pub struct RwLockReadGuard<'a, T: ?Sized + 'a> {
    // No reference, as in std: the guard may outlive the last use of the data, as an argument of a function.
    data: NonNull<T>,
    lock: &'a RawRwLock,
    token: ReadToken,
}

// SAFETY: a shared guard gives no more than `&T`.
unsafe impl<T: ?Sized + Sync> Sync for RwLockReadGuard<'_, T> {}

/// Exclusive access to the data of a [`RwLock`], for as long as the guard lives.
///
/// It is not `Send`, as std's is not.
#[must_use = "if unused the RwLock will immediately unlock"]
#[clippy::has_significant_drop]
pub struct RwLockWriteGuard<'a, T: ?Sized + 'a> {
    rwlock: &'a RwLock<T>,
    before: WasPanicking,
    /// Not `Send`.
    stays: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives no more than `&T`.
unsafe impl<T: ?Sized + Sync> Sync for RwLockWriteGuard<'_, T> {}

impl<'a, T: ?Sized> RwLockWriteGuard<'a, T> {
    /// Goes over to reading, with no other writer in between. Readers that wait come in too.
    pub fn downgrade(s: Self) -> RwLockReadGuard<'a, T> {
        let rwlock = s.rwlock;
        mem::forget(s);
        // SAFETY: the guard stood for the acquisition, which goes on with the token.
        unsafe { rwlock.read_guard(rwlock.lock.downgrade()) }
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: nobody writes for as long as the guard lives.
        unsafe { self.data.as_ref() }
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is held for as long as the guard lives, and a shared guard gives only
        // shared access.
        unsafe { &*self.rwlock.data.get() }
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held for as long as the guard lives, and this borrows the guard
        // exclusively.
        unsafe { &mut *self.rwlock.data.get() }
    }
}

impl<T: ?Sized> Drop for RwLockReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        let token = mem::replace(&mut self.token, ReadToken::COUNTED);
        // SAFETY: the guard stands for one acquisition, and this is its end.
        unsafe { self.lock.end_read(token) }
    }
}

impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.rwlock.poison.set_after_panic(self.before);
        // SAFETY: the guard stands for one acquisition, and this is its end.
        unsafe { self.rwlock.lock.end_write(After::Free) }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

#[cfg(feature = "serde")]
impl<T: ?Sized + serde::Serialize> serde::Serialize for RwLock<T> {
    /// Writes the data, as for std's lock. Blocks while another thread writes to it. A poisoned lock is an error.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.read() {
            Ok(guard) => guard.serialize(serializer),
            // The text that serde has for std's.
            Err(_) => Err(serde::ser::Error::custom("lock poison error while serializing")),
        }
    }
}

#[cfg(feature = "serde")]
impl<'de, T: serde::Deserialize<'de>> serde::Deserialize<'de> for RwLock<T> {
    /// Reads the data, and puts it into a free lock.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(RwLock::new)
    }
}
