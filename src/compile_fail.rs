//! What must not compile, as doctests: each beside a twin that differs only in what is wrong,
//! and compiles, so that the first fails for the right reason.

mod twin;

/// A mutex of data that stays on its thread stays there too.
///
/// ```
/// # use std::sync::Arc as Shared;
/// let m = lockword::Mutex::new(Shared::new(1));
/// std::thread::spawn(move || m.into_inner());
/// ```
/// ```compile_fail,E0277
/// # use std::rc::Rc as Shared;
/// let m = lockword::Mutex::new(Shared::new(1));
/// std::thread::spawn(move || m.into_inner());
/// ```
///
/// Nor can it be shared, since a lock hands the data itself to the other thread.
///
/// ```
/// # use std::sync::Arc as Shared;
/// let m = lockword::Mutex::new(Shared::new(1));
/// std::thread::scope(|s| {
///     s.spawn(|| drop(m.lock()));
/// });
/// ```
/// ```compile_fail,E0277
/// # use std::rc::Rc as Shared;
/// let m = lockword::Mutex::new(Shared::new(1));
/// std::thread::scope(|s| {
///     s.spawn(|| drop(m.lock()));
/// });
/// ```
mod a_mutex_is_as_thread_safe_as_its_data {}

/// A guard crosses threads only if its data may.
///
/// ```
/// # use std::sync::Arc as Shared;
/// # fn send<T: Send>(_: T) {}
/// let m = lockword::Mutex::new(Shared::new(1));
/// send(m.lock());
/// ```
/// ```compile_fail,E0277
/// # use std::rc::Rc as Shared;
/// # fn send<T: Send>(_: T) {}
/// let m = lockword::Mutex::new(Shared::new(1));
/// send(m.lock());
/// ```
///
/// A guard is shared only if its data may be.
///
/// ```
/// # use std::sync::atomic::AtomicU8 as Data;
/// let m = lockword::Mutex::new(Data::new(1));
/// let guard = m.lock();
/// std::thread::scope(|s| {
///     s.spawn(|| drop(&guard));
/// });
/// ```
/// ```compile_fail,E0277
/// # use std::cell::Cell as Data;
/// let m = lockword::Mutex::new(Data::new(1));
/// let guard = m.lock();
/// std::thread::scope(|s| {
///     s.spawn(|| drop(&guard));
/// });
/// ```
///
/// The same for a mapped guard.
///
/// ```
/// # use std::sync::Arc as Shared;
/// # fn send<T: Send>(_: T) {}
/// let m = lockword::Mutex::new((Shared::new(1), 2));
/// send(lockword::MutexGuard::map(m.lock(), |pair| &mut pair.0));
/// ```
/// ```compile_fail,E0277
/// # use std::rc::Rc as Shared;
/// # fn send<T: Send>(_: T) {}
/// let m = lockword::Mutex::new((Shared::new(1), 2));
/// send(lockword::MutexGuard::map(m.lock(), |pair| &mut pair.0));
/// ```
/// ```
/// # use std::sync::atomic::AtomicU8 as Data;
/// # fn share<T: Sync>(_: T) {}
/// let m = lockword::Mutex::new((Data::new(1), 2));
/// share(lockword::MutexGuard::map(m.lock(), |pair| &mut pair.0));
/// ```
/// ```compile_fail,E0277
/// # use std::cell::Cell as Data;
/// # fn share<T: Sync>(_: T) {}
/// let m = lockword::Mutex::new((Data::new(1), 2));
/// share(lockword::MutexGuard::map(m.lock(), |pair| &mut pair.0));
/// ```
mod a_guard_is_as_thread_safe_as_its_data {}

/// A guard does not outlive its mutex.
///
/// ```
/// let m = lockword::Mutex::new(1);
/// let guard = {
///     m.lock()
/// };
/// println!("{guard}");
/// ```
/// ```compile_fail,E0597
/// let guard = {
///     let m = lockword::Mutex::new(1);
///     m.lock()
/// };
/// println!("{guard}");
/// ```
///
/// Nor does a mapped one.
///
/// ```
/// # use lockword::{Mutex, MutexGuard};
/// let m = Mutex::new((1, 2));
/// let guard = {
///     MutexGuard::map(m.lock(), |pair| &mut pair.0)
/// };
/// println!("{guard}");
/// ```
/// ```compile_fail,E0597
/// # use lockword::{Mutex, MutexGuard};
/// let guard = {
///     let m = Mutex::new((1, 2));
///     MutexGuard::map(m.lock(), |pair| &mut pair.0)
/// };
/// println!("{guard}");
/// ```
///
/// While it lives, its mutex is neither moved, nor consumed, nor reached around the lock.
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
mod a_guard_lives_inside_its_mutex {}

/// The data is out of reach once the guard has gone.
///
/// ```
/// let m = lockword::Mutex::new(String::new());
/// let guard = m.lock();
/// let data: &String = &guard;
/// println!("{data}");
/// drop(guard);
/// ```
/// ```compile_fail,E0505
/// let m = lockword::Mutex::new(String::new());
/// let guard = m.lock();
/// let data: &String = &guard;
/// drop(guard);
/// println!("{data}");
/// ```
/// ```compile_fail,E0382
/// let m = lockword::Mutex::new(String::new());
/// let guard = m.lock();
/// lockword::MutexGuard::unlock_fair(guard);
/// println!("{guard}");
/// ```
///
/// Nor is it in reach while the lock is given up for a moment.
///
/// ```
/// # use lockword::{Mutex, MutexGuard};
/// let m = Mutex::new(1);
/// let mut guard = m.lock();
/// MutexGuard::unlocked(&mut guard, || println!("{m:?}"));
/// ```
/// ```compile_fail,E0502
/// # use lockword::{Mutex, MutexGuard};
/// let m = Mutex::new(1);
/// let mut guard = m.lock();
/// MutexGuard::unlocked(&mut guard, || println!("{guard:?}"));
/// ```
/// ```
/// # use lockword::{Condvar, Mutex};
/// let (m, condvar) = (Mutex::new(1), Condvar::new());
/// let mut guard = m.lock();
/// condvar.wait_for(&mut guard, std::time::Duration::ZERO);
/// let data: &i32 = &guard;
/// println!("{data}");
/// ```
/// ```compile_fail,E0502
/// # use lockword::{Condvar, Mutex};
/// let (m, condvar) = (Mutex::new(1), Condvar::new());
/// let mut guard = m.lock();
/// let data: &i32 = &guard;
/// condvar.wait_for(&mut guard, std::time::Duration::ZERO);
/// println!("{data}");
/// ```
mod data_lives_inside_its_guard {}

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
///
/// They stay on the thread that locked, whatever the data is; the mutex itself travels.
///
/// ```
/// # fn send<T: Send>(_: T) {}
/// let m = lockword::ReentrantMutex::new(1);
/// drop(m.lock());
/// send(m);
/// ```
/// ```compile_fail,E0277
/// # fn send<T: Send>(_: T) {}
/// let m = lockword::ReentrantMutex::new(1);
/// send(m.lock());
/// ```
/// ```compile_fail,E0277
/// # fn send<T: Send>(_: T) {}
/// let m = lockword::ReentrantMutex::new((1, 2));
/// send(lockword::ReentrantMutexGuard::map(m.lock(), |pair| &pair.0));
/// ```
///
/// Sharing the mutex hands the data to another thread, so it asks for `Send`.
///
/// ```
/// # use std::cell::RefCell as Data;
/// # fn share<T: Sync>(_: T) {}
/// share(lockword::ReentrantMutex::new(Data::new(1)));
/// ```
/// ```compile_fail,E0277
/// # use std::rc::Rc as Data;
/// # fn share<T: Sync>(_: T) {}
/// share(lockword::ReentrantMutex::new(Data::new(1)));
/// ```
mod a_reentrant_guard_is_shared_and_stays {}

/// A condition variable waits with the guard of a whole mutex: what it gives up, it must be
/// able to take back.
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

/// Unlocking by hand is for those who promise that they hold the lock.
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
/// A lock is not copied with its state.
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

/// A guard that owns its lock crosses threads only if its data may.
///
/// ```
/// # use std::sync::Arc;
/// # use std::sync::Arc as Shared;
/// # fn send<T: Send>(_: T) {}
/// send(Arc::new(lockword::Mutex::new(Shared::new(1))).lock_arc());
/// ```
/// ```compile_fail,E0277
/// # use std::sync::Arc;
/// # use std::rc::Rc as Shared;
/// # fn send<T: Send>(_: T) {}
/// send(Arc::new(lockword::Mutex::new(Shared::new(1))).lock_arc());
/// ```
#[cfg(feature = "arc_lock")]
mod an_arc_guard_is_as_thread_safe_as_its_data {}
