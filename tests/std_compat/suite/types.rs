//! What the compiler knows of the types: threads, unwinding, variance, coercions, drop check.

use super::sync::{
    Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, WaitTimeoutResult,
    Weak,
};
use std::cell::Cell;
use std::fmt::Debug;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::rc::Rc;

/// Fails unless each type has each trait exactly as said.
///
/// An inherent constant wins over a trait's of the same name, and the inherent one exists only
/// where the bound holds.
macro_rules! has {
    ($($type:ty: $bound:path = $expected:literal;)*) => {$({
        #[allow(dead_code, reason = "the inherent one wins where there is one")]
        trait Not { const HAS: bool = false; }
        impl<T: ?Sized> Not for T {}
        struct Asked<T: ?Sized>(std::marker::PhantomData<T>);
        #[allow(dead_code)]
        impl<T: ?Sized + $bound> Asked<T> { const HAS: bool = true; }
        assert_eq!(<Asked<$type>>::HAS, $expected, "{}: {}", stringify!($type), stringify!($bound));
    })*};
}

#[test]
fn traits() {
    type Guard<T> = MutexGuard<'static, T>;
    has! {
        Mutex<u8>: Send = true;
        Mutex<u8>: Sync = true;
        Mutex<Cell<u8>>: Send = true;
        Mutex<Cell<u8>>: Sync = true;
        Mutex<Rc<u8>>: Send = false;
        Mutex<Rc<u8>>: Sync = false;
        Mutex<dyn Debug + Send>: Sync = true;
        Mutex<dyn Debug>: Sync = false;
        Mutex<*const u8>: Send = false;
        Mutex<MutexGuard<'static, u8>>: Send = false;
        Guard<u8>: Send = false;
        Guard<u8>: Sync = true;
        Guard<Cell<u8>>: Sync = false;
        Guard<dyn Debug + Sync>: Sync = true;
        Condvar: Send = true;
        Condvar: Sync = true;
        WaitTimeoutResult: Send = true;
        WaitTimeoutResult: Sync = true;

        Mutex<Cell<u8>>: UnwindSafe = true;
        Mutex<Cell<u8>>: RefUnwindSafe = true;
        Mutex<&'static mut u8>: UnwindSafe = true;
        Mutex<dyn Debug>: RefUnwindSafe = true;
        Guard<u8>: UnwindSafe = true;
        Guard<Cell<u8>>: UnwindSafe = true;
        Guard<Cell<u8>>: RefUnwindSafe = true;
        Condvar: UnwindSafe = true;
        Condvar: RefUnwindSafe = true;

        Mutex<u8>: Unpin = true;
        Mutex<std::marker::PhantomPinned>: Unpin = false;
        Guard<std::marker::PhantomPinned>: Unpin = true;
        Condvar: Unpin = true;

        Mutex<u8>: Default = true;
        Mutex<Box<dyn Debug>>: Default = false;
        Mutex<u8>: Clone = false;
        Mutex<u8>: PartialEq = false;
        Mutex<u8>: From<u8> = true;
        Mutex<u8>: std::fmt::Display = false;
        Mutex<fn()>: Debug = true;
        Mutex<Opaque>: Debug = false;
        Guard<Opaque>: Debug = false;
        Guard<Vec<u8>>: std::fmt::Display = false;
        Guard<str>: std::fmt::Display = true;
        Condvar: Default = true;
        Condvar: Clone = false;
        WaitTimeoutResult: Default = false;
        WaitTimeoutResult: Copy = true;
        WaitTimeoutResult: Eq = true;
        WaitTimeoutResult: std::hash::Hash = false;
        WaitTimeoutResult: PartialOrd = false;
    }
}

#[test]
fn traits_of_the_rwlock() {
    type Reader<T> = RwLockReadGuard<'static, T>;
    type Writer<T> = RwLockWriteGuard<'static, T>;
    has! {
        RwLock<u8>: Send = true;
        RwLock<u8>: Sync = true;
        RwLock<Cell<u8>>: Send = true;
        RwLock<Cell<u8>>: Sync = false;
        RwLock<Rc<u8>>: Send = false;
        RwLock<Rc<u8>>: Sync = false;
        RwLock<dyn Debug + Send>: Send = true;
        RwLock<dyn Debug + Send>: Sync = false;
        RwLock<dyn Debug + Sync>: Sync = false;
        RwLock<dyn Debug + Send + Sync>: Sync = true;
        RwLock<*const u8>: Send = false;
        RwLock<MutexGuard<'static, u8>>: Send = false;
        RwLock<MutexGuard<'static, u8>>: Sync = false;
        RwLock<Reader<u8>>: Sync = false;
        Reader<u8>: Send = false;
        Reader<u8>: Sync = true;
        Reader<Cell<u8>>: Sync = false;
        Reader<dyn Debug + Sync>: Sync = true;
        Writer<u8>: Send = false;
        Writer<u8>: Sync = true;
        Writer<Cell<u8>>: Sync = false;
        Writer<dyn Debug + Sync>: Sync = true;

        RwLock<Cell<u8>>: UnwindSafe = true;
        RwLock<Cell<u8>>: RefUnwindSafe = true;
        RwLock<&'static mut u8>: UnwindSafe = true;
        RwLock<dyn Debug>: RefUnwindSafe = true;
        Reader<u8>: UnwindSafe = true;
        Reader<u8>: RefUnwindSafe = true;
        Reader<Cell<u8>>: UnwindSafe = false;
        Reader<Cell<u8>>: RefUnwindSafe = false;
        Reader<&'static mut u8>: UnwindSafe = true;
        Writer<u8>: UnwindSafe = true;
        Writer<Cell<u8>>: UnwindSafe = true;
        Writer<Cell<u8>>: RefUnwindSafe = true;

        RwLock<u8>: Unpin = true;
        RwLock<std::marker::PhantomPinned>: Unpin = false;
        Reader<std::marker::PhantomPinned>: Unpin = true;
        Writer<std::marker::PhantomPinned>: Unpin = true;

        RwLock<u8>: Default = true;
        RwLock<Box<dyn Debug>>: Default = false;
        RwLock<u8>: Clone = false;
        RwLock<u8>: PartialEq = false;
        RwLock<u8>: From<u8> = true;
        RwLock<u8>: std::fmt::Display = false;
        RwLock<fn()>: Debug = true;
        RwLock<Opaque>: Debug = false;
        Reader<Opaque>: Debug = false;
        Reader<u8>: Clone = false;
        Reader<Vec<u8>>: std::fmt::Display = false;
        Reader<str>: std::fmt::Display = true;
        Reader<[u8]>: Debug = true;
        Reader<u8>: std::ops::DerefMut = false;
        Writer<Opaque>: Debug = false;
        Writer<Vec<u8>>: std::fmt::Display = false;
        Writer<str>: std::fmt::Display = true;
        Writer<[u8]>: Debug = true;
        Writer<u8>: std::ops::DerefMut = true;
    }
}

struct Opaque;

#[test]
fn a_guard_lives_for_as_long_as_is_needed() {
    // Covariant in the lifetime.
    fn shorten<'short, 'long: 'short, T>(guard: MutexGuard<'long, T>) -> MutexGuard<'short, T> {
        guard
    }
    static LONG: Mutex<u8> = Mutex::new(1);
    let local = Mutex::new(2);
    let guards = [shorten(LONG.lock().unwrap()), local.lock().unwrap()];
    assert_eq!(guards.map(|guard| *guard), [1, 2]);
}

#[test]
fn unsized_by_coercion() {
    let shared: Arc<Mutex<dyn FnMut() -> u32 + Send>> = {
        let mut count = 0;
        Arc::new(Mutex::new(move || {
            count += 1;
            count
        }))
    };
    let weak: Weak<Mutex<dyn FnMut() -> u32 + Send>> = Arc::downgrade(&shared);
    let thread = std::thread::spawn(move || (weak.upgrade().unwrap().lock().unwrap())());
    assert_eq!(thread.join().unwrap(), 1);
    assert_eq!((shared.lock().unwrap())(), 2);

    let pinned: &Mutex<[u8]> = &Mutex::new([0; 4]);
    assert_eq!(pinned.lock().unwrap().len(), 4);
}

#[test]
fn data_that_borrows_from_its_neighbour() {
    // The drop check: a mutex may be dropped together with what its data borrows, as long as that
    // has no destructor to look at it.
    let (text, mutex): (String, Mutex<Option<&str>>);
    text = String::from("neighbour");
    mutex = Mutex::new(None);
    *mutex.lock().unwrap() = Some(&text);
    assert_eq!(*mutex.lock().unwrap(), Some("neighbour"));
}

#[test]
fn a_reference_to_a_mutex_can_be_caught() {
    let (mutex, condvar) = (Mutex::new(Cell::new(1)), Condvar::new());
    let caught = std::panic::catch_unwind(|| {
        condvar.notify_all();
        mutex.lock().unwrap().get()
    });
    assert_eq!(caught.unwrap(), 1);
}

#[test]
fn a_guards_data_keeps_its_method_names() {
    struct Data;
    impl Data {
        fn mutex(&self) -> &'static str {
            "the data's"
        }
        fn unlock(&self) -> &'static str {
            "the data's"
        }
    }
    let mutex = Mutex::new(Data);
    let guard = mutex.lock().unwrap();
    assert_eq!((guard.mutex(), guard.unlock()), ("the data's", "the data's"));
}

#[test]
fn a_guard_of_an_rwlock_lives_for_as_long_as_is_needed() {
    // Covariant in the lifetime, and that for reading in the data too.
    fn readers<'short, 'long: 'short>(
        guard: RwLockReadGuard<'long, &'static str>,
    ) -> RwLockReadGuard<'short, &'short str> {
        guard
    }
    fn writers<'short, 'long: 'short, T>(
        guard: RwLockWriteGuard<'long, T>,
    ) -> RwLockWriteGuard<'short, T> {
        guard
    }
    static LONG: RwLock<&str> = RwLock::new("long");
    let text = String::from("short");
    let local = RwLock::new(&*text);
    let guards = [readers(LONG.read().unwrap()), local.read().unwrap()];
    assert_eq!(guards.map(|guard| *guard), ["long", "short"]);
    static NUMBER: RwLock<u8> = RwLock::new(1);
    let local = RwLock::new(2);
    let guards = [writers(NUMBER.write().unwrap()), local.write().unwrap()];
    assert_eq!(guards.map(|guard| *guard), [1, 2]);
}

#[test]
fn an_rwlock_is_unsized_by_coercion() {
    let shared: Arc<RwLock<dyn Fn(u32) -> u32 + Send + Sync>> = Arc::new(RwLock::new(|x| x + 1));
    let weak: Weak<RwLock<dyn Fn(u32) -> u32 + Send + Sync>> = Arc::downgrade(&shared);
    let thread = std::thread::spawn(move || (weak.upgrade().unwrap().read().unwrap())(1));
    assert_eq!(thread.join().unwrap(), 2);
    let slice: &RwLock<[u8]> = &RwLock::new([0; 4]);
    slice.write().unwrap()[3] = 1;
    assert_eq!(*slice.read().unwrap(), [0, 0, 0, 1]);
}

#[test]
fn an_rwlock_of_data_that_borrows_from_its_neighbour() {
    // As for the mutex.
    let (text, lock): (String, RwLock<Option<&str>>);
    text = String::from("neighbour");
    lock = RwLock::new(None);
    *lock.write().unwrap() = Some(&text);
    assert_eq!(*lock.read().unwrap(), Some("neighbour"));
}

#[test]
fn a_reference_to_an_rwlock_can_be_caught() {
    let lock = RwLock::new(Cell::new(1));
    let caught = std::panic::catch_unwind(|| {
        lock.write().unwrap().set(2);
        lock.read().unwrap().get()
    });
    assert_eq!(caught.unwrap(), 2);
}

#[test]
fn the_data_of_an_rwlocks_guard_keeps_its_method_names() {
    struct Data;
    impl Data {
        fn rwlock(&self) -> &'static str {
            "the data's"
        }
        fn downgrade(&self) -> &'static str {
            "the data's"
        }
        fn map(&self) -> &'static str {
            "the data's"
        }
    }
    let lock = RwLock::new(Data);
    let guard = lock.write().unwrap();
    assert_eq!([guard.rwlock(), guard.downgrade(), guard.map()], ["the data's"; 3]);
    drop(guard);
    let guard = lock.read().unwrap();
    assert_eq!([guard.rwlock(), guard.downgrade(), guard.map()], ["the data's"; 3]);
}
