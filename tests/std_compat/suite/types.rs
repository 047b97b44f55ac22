//! What the compiler knows of the types: threads, unwinding, variance, coercions, drop check.

use super::sync::{Arc, Condvar, Mutex, MutexGuard, WaitTimeoutResult, Weak};
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
