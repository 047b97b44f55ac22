//! What must not compile of `sync`, each beside what std makes of the same.

/// The twin of std refuses what std refuses. Its guard stays on its thread, whatever the data is;
///
/// ```
/// # use lockword::sync;
/// # fn send<T: Send>(_: T) {}
/// let m = sync::Mutex::new(1);
/// send(&m.lock().unwrap());
/// ```
/// ```compile_fail,E0277
/// # use lockword::sync;
/// # fn send<T: Send>(_: T) {}
/// let m = sync::Mutex::new(1);
/// send(m.lock().unwrap());
/// ```
/// ```compile_fail,E0277
/// # use std::sync;
/// # fn send<T: Send>(_: T) {}
/// let m = sync::Mutex::new(1);
/// send(m.lock().unwrap());
/// ```
///
/// data that borrows for longer is not data that borrows for less, since one could put the latter
/// in;
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
/// and a Condvar waits with the guard of this module's mutex, of data whose size is known.
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
mod the_twin_of_std_refuses_what_std_refuses {}
