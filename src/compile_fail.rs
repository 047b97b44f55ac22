//! What must not compile, as doctests. Each stands beside an example that differs only in what is
//! wrong and that compiles, so that the first fails for the right reason.
//!
//! Which types are `Send` and `Sync` is asserted in `tests/core/layout.rs` and, for `sync`, in
//! `tests/std_compat`.

/// A guard does not outlive its mutex.
///
/// ```
/// let m = lockword::Mutex::new(1);
/// let guard = {
///     m.lock()
/// };
/// assert_eq!(*guard, 1);
/// ```
/// ```compile_fail,E0597
/// let guard = {
///     let m = lockword::Mutex::new(1);
///     m.lock()
/// };
/// assert_eq!(*guard, 1);
/// ```
///
/// A mapped guard does not outlive it either.
///
/// ```
/// # use lockword::{Mutex, MutexGuard};
/// let m = Mutex::new((1, 2));
/// let guard = {
///     MutexGuard::map(m.lock(), |pair| &mut pair.0)
/// };
/// assert_eq!(*guard, 1);
/// ```
/// ```compile_fail,E0597
/// # use lockword::{Mutex, MutexGuard};
/// let guard = {
///     let m = Mutex::new((1, 2));
///     MutexGuard::map(m.lock(), |pair| &mut pair.0)
/// };
/// assert_eq!(*guard, 1);
/// ```
///
/// While a guard lives, its mutex cannot be moved, consumed, or borrowed mutably.
///
/// ```
/// let m = lockword::Mutex::new(1);
/// let guard = m.lock();
/// drop(guard);
/// let there = Box::new(m);
/// ```
/// ```compile_fail,E0505
/// let m = lockword::Mutex::new(1);
/// let guard = m.lock();
/// let there = Box::new(m);
/// drop(guard);
/// ```
/// ```compile_fail,E0505
/// let m = lockword::Mutex::new(1);
/// let guard = m.lock();
/// m.into_inner();
/// drop(guard);
/// ```
/// ```
/// let mut m = lockword::Mutex::new(1);
/// let guard = m.lock();
/// drop(guard);
/// *m.get_mut() = 2;
/// ```
/// ```compile_fail,E0502
/// let mut m = lockword::Mutex::new(1);
/// let guard = m.lock();
/// *m.get_mut() = 2;
/// drop(guard);
/// ```
mod a_guard_does_not_outlive_its_mutex {}

/// A guard stays in its thread, unless the mutex is a `SendMutex`.
///
/// ```
/// static M: lockword::SendMutex<u32> = lockword::SendMutex::new(1);
/// let guard = M.lock();
/// std::thread::spawn(move || drop(guard)).join().unwrap();
/// ```
/// ```compile_fail,E0277
/// static M: lockword::Mutex<u32> = lockword::Mutex::new(1);
/// let guard = M.lock();
/// std::thread::spawn(move || drop(guard)).join().unwrap();
/// ```
/// ```compile_fail,E0277
/// static M: lockword::ReentrantMutex<u32> = lockword::ReentrantMutex::new(1);
/// let guard = M.lock();
/// std::thread::spawn(move || drop(guard)).join().unwrap();
/// ```
/// ```compile_fail,E0277
/// static M: lockword::sync::Mutex<u32> = lockword::sync::Mutex::new(1);
/// let guard = M.lock().unwrap();
/// std::thread::spawn(move || drop(guard)).join().unwrap();
/// ```
///
/// A task that a runtime may move between threads does not hold it across an `.await`. What is
/// dropped before the `.await` does no harm.
///
/// ```
/// # use lockword::SendMutex;
/// fn spawn(task: impl Future<Output = ()> + Send + 'static) { drop(task) }
/// static M: SendMutex<u32> = SendMutex::new(1);
/// spawn(async {
///     let guard = M.lock();
///     std::future::ready(()).await;
///     drop(guard);
/// });
/// ```
/// ```
/// # use lockword::Mutex;
/// fn spawn(task: impl Future<Output = ()> + Send + 'static) { drop(task) }
/// static M: Mutex<u32> = Mutex::new(1);
/// spawn(async {
///     drop(M.lock());
///     std::future::ready(()).await;
/// });
/// ```
/// ```compile_fail
/// # use lockword::Mutex;
/// fn spawn(task: impl Future<Output = ()> + Send + 'static) { drop(task) }
/// static M: Mutex<u32> = Mutex::new(1);
/// spawn(async {
///     let guard = M.lock();
///     std::future::ready(()).await;
///     drop(guard);
/// });
/// ```
///
/// A Condvar waits with the guard of a `Mutex`, not of a `SendMutex`.
///
/// ```
/// # use lockword::{Condvar, Mutex};
/// let m = Mutex::new(1);
/// Condvar::new().wait_for(&mut m.lock(), std::time::Duration::ZERO);
/// ```
/// ```compile_fail,E0308
/// # use lockword::{Condvar, SendMutex};
/// let m = SendMutex::new(1);
/// Condvar::new().wait_for(&mut m.lock(), std::time::Duration::ZERO);
/// ```
mod a_guard_stays_in_its_thread {}

/// A reference to the data does not outlive the guard.
///
/// ```
/// let m = lockword::Mutex::new(String::new());
/// let guard = m.lock();
/// let data: &String = &guard;
/// assert!(data.is_empty());
/// drop(guard);
/// ```
/// ```compile_fail,E0505
/// let m = lockword::Mutex::new(String::new());
/// let guard = m.lock();
/// let data: &String = &guard;
/// drop(guard);
/// assert!(data.is_empty());
/// ```
/// ```compile_fail,E0382
/// let m = lockword::Mutex::new(String::new());
/// let guard = m.lock();
/// lockword::MutexGuard::unlock_fair(guard);
/// assert!(guard.is_empty());
/// ```
///
/// The data cannot be reached while the lock is released for a moment.
///
/// ```
/// # use lockword::{Mutex, MutexGuard};
/// let m = Mutex::new(1);
/// let mut guard = m.lock();
/// MutexGuard::unlocked(&mut guard, || assert_eq!(*m.lock(), 1));
/// ```
/// ```compile_fail,E0502
/// # use lockword::{Mutex, MutexGuard};
/// let m = Mutex::new(1);
/// let mut guard = m.lock();
/// MutexGuard::unlocked(&mut guard, || assert_eq!(*guard, 1));
/// ```
/// ```
/// # use lockword::{Condvar, Mutex};
/// let (m, condvar) = (Mutex::new(1), Condvar::new());
/// let mut guard = m.lock();
/// condvar.wait_for(&mut guard, std::time::Duration::ZERO);
/// let data: &i32 = &guard;
/// assert_eq!(*data, 1);
/// ```
/// ```compile_fail,E0502
/// # use lockword::{Condvar, Mutex};
/// let (m, condvar) = (Mutex::new(1), Condvar::new());
/// let mut guard = m.lock();
/// let data: &i32 = &guard;
/// condvar.wait_for(&mut guard, std::time::Duration::ZERO);
/// assert_eq!(*data, 1);
/// ```
mod data_does_not_outlive_its_guard {}

/// The owner of a reentrant mutex may have several guards, so none of them gives `&mut`.
///
/// ```
/// let m = lockword::Mutex::new(1);
/// let mut guard = m.lock();
/// *guard = 2;
/// ```
/// ```compile_fail,E0594
/// let m = lockword::ReentrantMutex::new(1);
/// let mut guard = m.lock();
/// *guard = 2;
/// ```
/// ```
/// # use lockword::ReentrantMutexGuard;
/// let m = lockword::ReentrantMutex::new((1, 2));
/// ReentrantMutexGuard::map(m.lock(), |pair| &pair.0);
/// ```
/// ```compile_fail,E0596
/// # use lockword::ReentrantMutexGuard;
/// let m = lockword::ReentrantMutex::new((1, 2));
/// ReentrantMutexGuard::map(m.lock(), |pair| &mut pair.0);
/// ```
mod a_reentrant_guard_gives_shared_access {}

/// A condition variable waits with the guard of a whole mutex, since it unlocks the mutex and
/// locks it again.
///
/// ```
/// # use lockword::{Condvar, Mutex, MutexGuard};
/// let m = Mutex::new((1, 2));
/// let mut guard = m.lock();
/// Condvar::new().wait_for(&mut guard, std::time::Duration::ZERO);
/// ```
/// ```compile_fail,E0308
/// # use lockword::{Condvar, Mutex, MutexGuard};
/// let m = Mutex::new((1, 2));
/// let mut guard = MutexGuard::map(m.lock(), |pair| &mut pair.0);
/// Condvar::new().wait_for(&mut guard, std::time::Duration::ZERO);
/// ```
/// ```compile_fail,E0308
/// # use lockword::{Condvar, ReentrantMutex};
/// let m = ReentrantMutex::new((1, 2));
/// let mut guard = m.lock();
/// Condvar::new().wait_for(&mut guard, std::time::Duration::ZERO);
/// ```
mod a_condvar_waits_with_a_mutex_guard {}

/// Unlocking a raw lock is unsafe: the caller promises to hold it.
///
/// ```
/// let raw = lockword::RawLock::new();
/// raw.lock();
/// // SAFETY: locked by the line above.
/// unsafe { raw.unlock() };
/// ```
/// ```compile_fail,E0133
/// let raw = lockword::RawLock::new();
/// raw.lock();
/// raw.unlock();
/// ```
/// ```compile_fail,E0133
/// let raw = lockword::RawLock::new();
/// raw.lock();
/// raw.unlock_fair();
/// ```
///
/// A raw lock is not `Copy`.
///
/// ```
/// let raw = lockword::RawLock::new();
/// let (first, second) = (raw, lockword::RawLock::new());
/// ```
/// ```compile_fail,E0382
/// let raw = lockword::RawLock::new();
/// let (first, second) = (raw, raw);
/// ```
mod a_raw_lock_is_unlocked_by_its_holder {}

/// `sync` refuses what std refuses. A mutex is invariant in its data: one of data that borrows
/// for longer is not one of data that borrows for less, since one could store the latter.
///
/// ```
/// # use lockword::sync;
/// fn same<'m, 'a>(m: &'m sync::Mutex<&'a u8>) -> &'m sync::Mutex<&'a u8> { m }
/// ```
/// ```compile_fail
/// # use lockword::sync;
/// fn less<'a>(m: &'a sync::Mutex<&'static u8>) -> &'a sync::Mutex<&'a u8> { m }
/// ```
/// ```compile_fail
/// # use std::sync;
/// fn less<'a>(m: &'a sync::Mutex<&'static u8>) -> &'a sync::Mutex<&'a u8> { m }
/// ```
/// ```compile_fail
/// # use lockword::sync;
/// fn less<'a, 'g>(g: sync::MutexGuard<'g, &'static u8>) -> sync::MutexGuard<'g, &'a u8> { g }
/// ```
/// ```compile_fail
/// # use std::sync;
/// fn less<'a, 'g>(g: sync::MutexGuard<'g, &'static u8>) -> sync::MutexGuard<'g, &'a u8> { g }
/// ```
///
/// A `sync::Condvar` waits with the guard of a `sync::Mutex`, of data whose size is known.
///
/// ```
/// # use lockword::sync::*;
/// let m = Mutex::new(1);
/// drop(Condvar::new().wait_while(m.lock().unwrap(), |_| false));
/// ```
/// ```compile_fail,E0308
/// # use lockword::sync::*;
/// # use std::sync::Mutex;
/// let m = Mutex::new(1);
/// drop(Condvar::new().wait_while(m.lock().unwrap(), |_| false));
/// ```
/// ```compile_fail,E0277
/// # use lockword::sync::*;
/// let m: &Mutex<[u8]> = &Mutex::new([1]);
/// drop(Condvar::new().wait_while(m.lock().unwrap(), |_| false));
/// ```
mod sync_refuses_what_std_refuses {}

/// A guard of a reader-writer lock does not outlive it, whatever it is a guard for.
///
/// ```
/// let lock = lockword::RwLock::new(1);
/// let guard = {
///     lock.read()
/// };
/// assert_eq!(*guard, 1);
/// ```
/// ```compile_fail,E0597
/// let guard = {
///     let lock = lockword::RwLock::new(1);
///     lock.read()
/// };
/// assert_eq!(*guard, 1);
/// ```
/// ```compile_fail,E0597
/// let guard = {
///     let lock = lockword::RwLock::new(1);
///     lock.write()
/// };
/// assert_eq!(*guard, 1);
/// ```
/// ```compile_fail,E0597
/// let guard = {
///     let lock = lockword::RwLock::new(1);
///     lock.upgradable_read()
/// };
/// assert_eq!(*guard, 1);
/// ```
/// ```compile_fail,E0597
/// let guard = {
///     let lock = lockword::sync::RwLock::new(1);
///     lock.read().unwrap()
/// };
/// assert_eq!(*guard, 1);
/// ```
/// ```compile_fail,E0505
/// let lock = lockword::RwLock::new(1);
/// let guard = lock.read();
/// let there = Box::new(lock);
/// drop(guard);
/// ```
///
/// A guard for reading gives no `&mut`, and what is exchanged for another guard is gone.
///
/// ```
/// let lock = lockword::RwLock::new(1);
/// let mut guard = lock.write();
/// *guard = 2;
/// ```
/// ```compile_fail,E0594
/// let lock = lockword::RwLock::new(1);
/// let mut guard = lock.read();
/// *guard = 2;
/// ```
/// ```compile_fail,E0594
/// let lock = lockword::RwLock::new(1);
/// let mut guard = lock.upgradable_read();
/// *guard = 2;
/// ```
/// ```compile_fail,E0594
/// let lock = lockword::sync::RwLock::new(1);
/// let mut guard = lock.read().unwrap();
/// *guard = 2;
/// ```
/// ```compile_fail,E0382
/// # use lockword::{RwLock, RwLockWriteGuard};
/// let lock = RwLock::new(1);
/// let mut guard = lock.write();
/// let reader = RwLockWriteGuard::downgrade(guard);
/// *guard = 2;
/// ```
///
/// A reference to the data does not outlive the guard.
///
/// ```compile_fail,E0505
/// let lock = lockword::RwLock::new(String::new());
/// let guard = lock.read();
/// let data: &String = &guard;
/// drop(guard);
/// assert!(data.is_empty());
/// ```
mod a_guard_of_a_reader_writer_lock {}

/// A guard of a reader-writer lock stays in its thread, unless the lock is a `SendRwLock`.
///
/// ```
/// static L: lockword::SendRwLock<u32> = lockword::SendRwLock::new(1);
/// let guard = L.read();
/// std::thread::spawn(move || drop(guard)).join().unwrap();
/// ```
/// ```compile_fail,E0277
/// static L: lockword::RwLock<u32> = lockword::RwLock::new(1);
/// let guard = L.read();
/// std::thread::spawn(move || drop(guard)).join().unwrap();
/// ```
/// ```compile_fail,E0277
/// static L: lockword::RwLock<u32> = lockword::RwLock::new(1);
/// let guard = L.write();
/// std::thread::spawn(move || drop(guard)).join().unwrap();
/// ```
/// ```compile_fail,E0277
/// static L: lockword::RecursiveRwLock<u32> = lockword::RecursiveRwLock::new(1);
/// let guard = L.read();
/// std::thread::spawn(move || drop(guard)).join().unwrap();
/// ```
/// ```compile_fail,E0277
/// static L: lockword::sync::RwLock<u32> = lockword::sync::RwLock::new(1);
/// let guard = L.read().unwrap();
/// std::thread::spawn(move || drop(guard)).join().unwrap();
/// ```
///
/// Readers share the data, which must allow it.
///
/// ```
/// fn shared<T: Sync>(_: T) {}
/// shared(lockword::Mutex::new(std::cell::Cell::new(1)));
/// ```
/// ```compile_fail,E0277
/// fn shared<T: Sync>(_: T) {}
/// shared(lockword::RwLock::new(std::cell::Cell::new(1)));
/// ```
mod a_guard_of_a_reader_writer_lock_stays_in_its_thread {}

/// A reader-writer lock of `sync` is invariant in its data, and so is a guard for writing. That for reading is
/// covariant, as std's.
///
/// ```
/// # use lockword::sync;
/// fn less<'a, 'g>(g: sync::RwLockReadGuard<'g, &'static u8>) -> sync::RwLockReadGuard<'g, &'a u8> { g }
/// ```
/// ```compile_fail
/// # use lockword::sync;
/// fn less<'a>(l: &'a sync::RwLock<&'static u8>) -> &'a sync::RwLock<&'a u8> { l }
/// ```
/// ```compile_fail
/// # use std::sync;
/// fn less<'a>(l: &'a sync::RwLock<&'static u8>) -> &'a sync::RwLock<&'a u8> { l }
/// ```
/// ```compile_fail
/// # use lockword::sync;
/// fn less<'a, 'g>(g: sync::RwLockWriteGuard<'g, &'static u8>) -> sync::RwLockWriteGuard<'g, &'a u8> { g }
/// ```
/// ```compile_fail
/// # use std::sync;
/// fn less<'a, 'g>(g: sync::RwLockWriteGuard<'g, &'static u8>) -> sync::RwLockWriteGuard<'g, &'a u8> { g }
/// ```
mod variance_of_the_reader_writer_lock {}
