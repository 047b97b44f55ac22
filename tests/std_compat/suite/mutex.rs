//! Every method of a mutex that nobody has poisoned.

use super::sync::{Arc, Mutex, MutexGuard, TryLockError};
use crate::within::within_limit;
use std::fmt::{Debug, Display};

#[test]
fn lock_gives_access_and_excludes() {
    let mutex = Mutex::new(1);
    let mut guard = mutex.lock().unwrap();
    *guard += 1;
    assert_eq!(*guard, 2);
    assert!(matches!(mutex.try_lock(), Err(TryLockError::WouldBlock)));
    drop(guard);
    assert_eq!(*mutex.try_lock().unwrap(), 2);
}

#[test]
fn a_guard_of_try_lock_locks_too() {
    let mutex = Mutex::new(());
    let guard = mutex.try_lock().unwrap();
    assert!(mutex.try_lock().is_err());
    drop(guard);
    assert!(mutex.try_lock().is_ok());
}

#[test]
fn threads_take_turns() {
    const THREADS: usize = 4;
    const EACH: usize = 5_000;
    let total = within_limit(|| {
        let mutex = Arc::new(Mutex::new(0));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let mutex = Arc::clone(&mutex);
                std::thread::spawn(move || (0..EACH).for_each(|_| *mutex.lock().unwrap() += 1))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        Arc::try_unwrap(mutex).unwrap().into_inner().unwrap()
    });
    assert_eq!(total, THREADS * EACH);
}

#[test]
fn the_data_without_locking() {
    let mut mutex = Mutex::new(String::from("a"));
    mutex.get_mut().unwrap().push('b');
    assert_eq!(mutex.into_inner().unwrap(), "ab");
}

#[test]
fn made_from_a_value_and_by_default() {
    let mutex: Mutex<u8> = 7.into();
    assert_eq!(*mutex.lock().unwrap(), 7);
    assert_eq!(*Mutex::from("x").lock().unwrap(), "x");
    assert!(Mutex::<Vec<u8>>::default().lock().unwrap().is_empty());
}

#[test]
fn the_text_of_a_mutex() {
    let mutex = Mutex::new(vec![1, 2]);
    assert_eq!(format!("{mutex:?}"), "Mutex { data: [1, 2], poisoned: false, .. }");
    let pretty =
        "Mutex {\n    data: [\n        1,\n        2,\n    ],\n    poisoned: false,\n    ..\n}";
    assert_eq!(format!("{mutex:#?}"), pretty);
    let guard = mutex.lock().unwrap();
    assert_eq!(format!("{mutex:?}"), r#"Mutex { data: "<locked>", poisoned: false, .. }"#);
    drop(guard);
    let text = Mutex::new("quoted");
    assert_eq!(format!("{text:?}"), r#"Mutex { data: "quoted", poisoned: false, .. }"#);
    // What is asked for reaches the data.
    assert_eq!(
        format!("{:#x?}", Mutex::new(255)),
        "Mutex {\n    data: 0xff,\n    poisoned: false,\n    ..\n}"
    );
}

#[test]
fn the_text_of_a_guard_is_its_datas() {
    fn texts<T: Debug + Display>(guard: &MutexGuard<'_, T>) -> (String, String) {
        (format!("{guard:?}"), format!("{guard:>6}"))
    }
    let mutex = Mutex::new("ab");
    let guard = mutex.lock().unwrap();
    assert_eq!(texts(&guard), (r#""ab""#.to_owned(), "    ab".to_owned()));
    drop(guard);
    let number = Mutex::new(255);
    assert_eq!(format!("{:#06x?}", number.lock().unwrap()), "0x00ff");
}

#[test]
fn the_text_of_try_lock_errors() {
    let mutex = Mutex::new(());
    let _held = mutex.lock().unwrap();
    let error = mutex.try_lock().unwrap_err();
    assert_eq!(format!("{error:?}"), r#""WouldBlock""#);
    assert_eq!(
        error.to_string(),
        std::sync::TryLockError::<()>::WouldBlock.to_string(),
        "std's own text"
    );
}

#[test]
fn data_of_no_fixed_size() {
    let slice: &Mutex<[i32]> = &Mutex::new([1, 2, 3]);
    slice.lock().unwrap()[1] = 20;
    assert_eq!(&*slice.lock().unwrap(), [1, 20, 3]);
    assert_eq!(format!("{slice:?}"), "Mutex { data: [1, 20, 3], poisoned: false, .. }");

    let boxed: Box<Mutex<dyn Debug + Send>> = Box::new(Mutex::new("anything"));
    assert_eq!(format!("{:?}", boxed.lock().unwrap()), r#""anything""#);

    let mut text: Box<Mutex<dyn AsRef<str>>> = Box::new(Mutex::new(String::from("abc")));
    assert_eq!(Mutex::get_mut(&mut text).unwrap().as_ref(), "abc");
    assert!(!text.is_poisoned());
}

#[test]
fn statics_and_constants() {
    static COUNT: Mutex<u64> = Mutex::new(40);
    static MANY: [Mutex<u8>; 3] = [const { Mutex::new(1) }; 3];
    const fn made() -> Mutex<&'static str> {
        Mutex::new("const")
    }
    static MADE: Mutex<&str> = made();
    *COUNT.lock().unwrap() += 2;
    assert_eq!(*COUNT.lock().unwrap(), 42);
    assert_eq!(MANY.iter().map(|each| u32::from(*each.lock().unwrap())).sum::<u32>(), 3);
    assert_eq!(*MADE.lock().unwrap(), "const");
}

#[test]
fn the_data_is_dropped_once_and_with_the_mutex() {
    let data = Arc::new(());
    let mutex = Mutex::new(Arc::clone(&data));
    *mutex.lock().unwrap() = Arc::clone(&data);
    assert_eq!(Arc::strong_count(&data), 2);
    drop(mutex);
    assert_eq!(Arc::strong_count(&data), 1);
    let unwrapped = Mutex::new(Arc::clone(&data)).into_inner().unwrap();
    assert_eq!(Arc::strong_count(&data), 2);
    drop(unwrapped);
}

#[test]
fn a_forgotten_guard_leaves_it_locked() {
    let mut mutex = Mutex::new(5);
    std::mem::forget(mutex.lock().unwrap());
    assert!(matches!(mutex.try_lock(), Err(TryLockError::WouldBlock)));
    assert_eq!(*mutex.get_mut().unwrap(), 5);
    let mut moved = [mutex];
    assert_eq!(moved[0].get_mut().unwrap(), &5);
    let [moved] = moved;
    assert_eq!(moved.into_inner().unwrap(), 5);
}

#[test]
#[allow(let_underscore_lock)]
fn temporaries_unlock_where_they_do_with_std() {
    let list = Mutex::new(vec![1, 2]);
    let free = || list.try_lock().is_ok();

    let length = list.lock().unwrap().len();
    assert!(free(), "after a let");
    assert_eq!(length, 2);

    match list.lock().unwrap().len() {
        2 => assert!(!free(), "a match holds what it looks at"),
        _ => unreachable!(),
    }
    if list.lock().unwrap().is_empty() {
        unreachable!();
    }
    assert!(free(), "after a condition");
    if let Some(9) = list.lock().unwrap().first() {
        unreachable!();
    } else {
        assert!(free(), "edition 2024: before else");
    }
    while let Some(_item) = list.lock().unwrap().pop() {
        assert!(!free(), "in the body of while let");
    }
    assert!(free());
    let held = (list.lock().unwrap(), free());
    assert!(!held.1, "from left to right");
    drop(held);

    let tail = || list.lock().unwrap().len();
    assert_eq!(tail(), 0);
    assert!(free());
    let _ = list.lock();
    assert!(free(), "a wildcard keeps nothing");
    let _guard = list.lock().unwrap();
    assert!(!free());
}

#[test]
fn a_guard_assigned_over_unlocks_the_old_one() {
    let (a, b) = (Mutex::new('a'), Mutex::new('b'));
    let mut guard = a.lock().unwrap();
    assert!(a.try_lock().is_err());
    guard = {
        drop(guard);
        b.lock().unwrap()
    };
    assert_eq!(*guard, 'b');
    assert!(a.try_lock().is_ok() && b.try_lock().is_err());
    guard = a.lock().unwrap();
    assert!(b.try_lock().is_ok(), "unlocked by the assignment");
    drop(guard);
}
