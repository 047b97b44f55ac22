//! Every method of a reader-writer lock, and its poison.

use super::sync::{
    Arc, LockResult, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
    TryLockResult, mpsc,
};
use crate::within::within_limit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

/// Panics while it holds a guard for writing.
fn poison<T>(lock: &RwLock<T>) {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _guard = lock.write().unwrap_or_else(PoisonError::into_inner);
        quiet_panic();
    }));
    assert!(result.is_err() && lock.is_poisoned());
}

/// Panics without a message on the terminal.
fn quiet_panic() -> ! {
    resume_unwind(Box::new("on purpose"))
}

fn poisoned<T>(value: T) -> RwLock<T> {
    let lock = RwLock::new(value);
    poison(&lock);
    lock
}

#[test]
fn readers_share_and_a_writer_excludes() {
    let lock = RwLock::new(1);
    let (one, two) = (lock.read().unwrap(), lock.try_read().unwrap());
    assert_eq!((*one, *two), (1, 1));
    assert!(matches!(lock.try_write(), Err(TryLockError::WouldBlock)));
    drop((one, two));
    let mut guard = lock.write().unwrap();
    *guard += 1;
    assert!(matches!(lock.try_read(), Err(TryLockError::WouldBlock)));
    assert!(matches!(lock.try_write(), Err(TryLockError::WouldBlock)));
    drop(guard);
    assert_eq!(*lock.try_write().unwrap(), 2);
}

#[test]
fn downgrades() {
    let lock = RwLock::new(1);
    let mut guard = lock.write().unwrap();
    *guard = 2;
    let guard = RwLockWriteGuard::downgrade(guard);
    assert_eq!(*guard, 2);
    assert!(lock.try_write().is_err());
    drop(lock.try_read().unwrap());
    drop(guard);
    assert!(lock.try_write().is_ok());
}

#[test]
fn the_data_without_locking() {
    let mut lock = RwLock::new(String::from("a"));
    lock.get_mut().unwrap().push('b');
    assert_eq!(lock.into_inner().unwrap(), "ab");
    let lock: RwLock<u8> = 7.into();
    assert_eq!(*lock.read().unwrap(), 7);
    assert!(RwLock::<Vec<u8>>::default().read().unwrap().is_empty());
}

#[test]
fn only_writers_poison() {
    let lock = RwLock::new(1);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _guard = lock.read().unwrap();
        quiet_panic();
    }));
    assert!(result.is_err() && !lock.is_poisoned());
    assert!(lock.try_write().is_ok(), "the reader has left");

    poison(&lock);
    assert_eq!(**lock.read().unwrap_err().get_ref(), 1);
    assert_eq!(**lock.write().unwrap_err().get_ref(), 1);
    assert!(matches!(lock.try_read(), Err(TryLockError::Poisoned(_))));
    assert!(matches!(lock.try_write(), Err(TryLockError::Poisoned(_))));
    lock.clear_poison();
    assert!(lock.read().is_ok() && lock.write().is_ok());
    poison(&lock);
    assert_eq!(lock.into_inner().unwrap_err().into_inner(), 1);
}

#[test]
fn texts() {
    let lock = RwLock::new("x");
    assert_eq!(format!("{lock:?}"), r#"RwLock { data: "x", poisoned: false, .. }"#);
    let guard = lock.read().unwrap();
    assert_eq!(
        format!("{lock:?} {guard:?} {guard}"),
        r#"RwLock { data: "x", poisoned: false, .. } "x" x"#
    );
    drop(guard);
    let guard = lock.write().unwrap();
    assert_eq!(
        format!("{lock:?} {guard:?} {guard}"),
        r#"RwLock { data: <locked>, poisoned: false, .. } "x" x"#
    );
    drop(guard);
    poison(&lock);
    assert_eq!(format!("{lock:#?}"), "RwLock {\n    data: \"x\",\n    poisoned: true,\n    ..\n}");
}

/// A guard for reading may live as long as what it was made from, whatever the type of the data.
fn shorter<'a: 'b, 'b>(guard: RwLockReadGuard<'a, &'static str>) -> RwLockReadGuard<'b, &'b str> {
    guard
}

#[test]
fn unsized_and_covariant() {
    let lock: Arc<RwLock<[u8]>> = Arc::new(RwLock::new([1, 2]));
    lock.write().unwrap()[0] = 3;
    assert_eq!(lock.read().unwrap()[..], [3, 2]);
    let lock = RwLock::new("static");
    assert_eq!(*shorter(lock.read().unwrap()), "static");
}

#[test]
fn readers_and_writers_mix() {
    let total = within_limit(|| {
        let lock = Arc::new(RwLock::new((0, 0)));
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let lock = Arc::clone(&lock);
                std::thread::spawn(move || {
                    for round in 0..5_000 {
                        if (round + thread) % 10 == 0 {
                            let mut pair = lock.write().unwrap();
                            pair.0 += 1;
                            pair.1 += 1;
                        } else {
                            let pair = lock.read().unwrap();
                            assert_eq!(pair.0, pair.1);
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        Arc::try_unwrap(lock).unwrap().into_inner().unwrap()
    });
    assert_eq!(total, (2_000, 2_000));
}

#[test]
fn a_panic_of_another_writer_poisons() {
    let lock = Arc::new(RwLock::new(1));
    let theirs = Arc::clone(&lock);
    let thread = thread::spawn(move || {
        *theirs.write().unwrap() = 2;
        assert!(!theirs.is_poisoned());
        let mut guard = theirs.try_write().unwrap();
        *guard = 3;
        quiet_panic();
    });
    assert!(thread.join().is_err());
    assert!(lock.is_poisoned());
    let readers = [lock.read(), lock.read()];
    assert!(readers.iter().all(Result::is_err), "readers share the error too");
    assert_eq!(readers.map(|guard| *guard.unwrap_or_else(PoisonError::into_inner)), [3, 3]);
}

#[test]
fn what_is_over_at_the_panic_does_not_poison() {
    let lock = RwLock::new(0);
    let result = catch_unwind(AssertUnwindSafe(|| {
        *lock.write().unwrap() += 1;
        quiet_panic();
    }));
    assert!(result.is_err() && !lock.is_poisoned());
    let guard = lock.write().unwrap();
    assert!(catch_unwind(|| quiet_panic()).is_err());
    drop(guard);
    assert!(!lock.is_poisoned(), "the panic was caught before the end of the section");
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _guard = RwLockWriteGuard::downgrade(lock.write().unwrap());
        quiet_panic();
    }));
    assert!(result.is_err() && !lock.is_poisoned(), "it was a reader by then");
    assert!(lock.try_write().is_ok());
}

/// Does something when it is dropped by a panic.
struct InPanic<F: FnMut()>(F);

impl<F: FnMut()> Drop for InPanic<F> {
    fn drop(&mut self) {
        assert!(thread::panicking());
        (self.0)();
    }
}

#[test]
fn a_section_that_begins_in_a_panic_does_not_poison() {
    let lock = RwLock::new(0);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _write = InPanic(|| *lock.write().unwrap() += 1);
        let _read = InPanic(|| assert_eq!(*lock.read().unwrap(), 0));
        quiet_panic();
    }));
    assert!(result.is_err());
    assert_eq!(*lock.read().unwrap(), 1);
}

#[test]
fn a_writer_that_reads_in_a_panic() {
    let lock = RwLock::new(1);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut guard = Some(lock.write().unwrap());
        let _downgrades =
            InPanic(|| assert_eq!(*RwLockWriteGuard::downgrade(guard.take().unwrap()), 1));
        quiet_panic();
    }));
    assert!(result.is_err());
    assert!(!lock.is_poisoned(), "no guard for writing was dropped");
}

#[test]
fn the_error_carries_the_guard() {
    let lock = poisoned(vec![1]);
    let error = lock.read().unwrap_err();
    assert_eq!(**error.get_ref(), [1]);
    assert!(matches!(lock.try_write(), Err(TryLockError::WouldBlock)), "the error reads");
    match lock.try_read() {
        Err(TryLockError::Poisoned(second)) => assert_eq!(**second.get_ref(), **error.get_ref()),
        _ => panic!("it is poisoned"),
    }
    let guard: RwLockReadGuard<'_, Vec<i32>> = error.into_inner();
    drop(guard);
    let mut error = lock.write().unwrap_err();
    error.get_mut().push(2);
    assert!(matches!(lock.try_read(), Err(TryLockError::WouldBlock)), "the error writes");
    let guard: RwLockWriteGuard<'_, Vec<i32>> = error.into_inner();
    assert_eq!(*guard, [1, 2]);
    drop(guard);
    match lock.try_write() {
        Err(TryLockError::Poisoned(error)) => assert_eq!(*error.into_inner(), [1, 2]),
        _ => panic!("it is poisoned, and nobody has it"),
    };
}

#[test]
fn what_needs_no_lock_tells_of_poison_too() {
    let mut lock = poisoned(String::from("x"));
    lock.get_mut().unwrap_err().get_mut().push('y');
    assert_eq!(lock.into_inner().unwrap_err().into_inner(), "xy");
}

#[test]
fn poison_can_be_cleared() {
    let mut lock = poisoned(1);
    lock.clear_poison();
    assert!(!lock.is_poisoned());
    assert!(lock.try_read().is_ok() && lock.try_write().is_ok());
    assert!(lock.get_mut().is_ok());
    poison(&lock);
    let guard = lock.write().unwrap_or_else(|mut error| {
        **error.get_mut() = 0;
        lock.clear_poison();
        error.into_inner()
    });
    drop(guard);
    assert_eq!(*lock.read().unwrap(), 0);
    assert!(lock.into_inner().is_ok());
}

#[test]
fn texts_of_the_poisoned() {
    let lock = poisoned(7);
    assert_eq!(format!("{lock:?}"), "RwLock { data: 7, poisoned: true, .. }");
    let error = lock.read().unwrap_err();
    // A reader keeps no reader out.
    assert_eq!(
        format!("{lock:?} {error:?}"),
        "RwLock { data: 7, poisoned: true, .. } PoisonError { .. }"
    );
    assert_eq!(error.to_string(), PoisonError::new(()).to_string());
    drop(error);
    let error = lock.write().unwrap_err();
    assert_eq!(format!("{lock:?}"), "RwLock { data: <locked>, poisoned: true, .. }");
    drop(error);
    let error = lock.try_read().unwrap_err();
    assert_eq!(format!("{error:?}"), r#""Poisoned(..)""#);
    drop(error);
    let guard = lock.read().unwrap_or_else(PoisonError::into_inner);
    let error = lock.try_write().unwrap_err();
    assert_eq!(format!("{error:?} {guard:5}"), r#""WouldBlock"     7"#);
}

#[test]
fn the_errors_are_stds() {
    fn read(lock: &RwLock<u8>) -> std::sync::LockResult<RwLockReadGuard<'_, u8>> {
        let result: LockResult<_> = lock.read();
        result
    }
    fn try_write(lock: &RwLock<u8>) -> std::sync::TryLockResult<RwLockWriteGuard<'_, u8>> {
        let result: TryLockResult<_> = lock.try_write();
        result
    }
    fn question(lock: &'static RwLock<u8>) -> Result<u8, Box<dyn std::error::Error>> {
        let before = *lock.read()?;
        *lock.write()? += 1;
        Ok(before)
    }
    static GOOD: RwLock<u8> = RwLock::new(2);
    static BAD: RwLock<u8> = RwLock::new(3);
    poison(&BAD);
    assert_eq!(*read(&GOOD).unwrap(), 2);
    assert!(matches!(try_write(&BAD), Err(std::sync::TryLockError::Poisoned(_))));
    assert_eq!(question(&GOOD).unwrap(), 2);
    assert!(question(&BAD).unwrap_err().to_string().contains("poisoned"));
    assert_eq!(GOOD.read().map(|guard| *guard).map_err(|error| error.to_string()), Ok(3));
}

/// Readers that wait for a writer are let in when it goes over to reading; other writers are not.
#[test]
fn a_downgrade_lets_readers_in() {
    within_limit(|| {
        let lock = Arc::new(RwLock::new(0));
        let mut guard = lock.write().unwrap();
        let (send, receive) = mpsc::channel();
        let readers = [(); 3].map(|()| {
            let (lock, send) = (Arc::clone(&lock), send.clone());
            thread::spawn(move || send.send(*lock.read().unwrap()).unwrap())
        });
        *guard = 1;
        let guard = RwLockWriteGuard::downgrade(guard);
        // While the guard lives.
        assert_eq!([(); 3].map(|()| receive.recv().unwrap()), [1; 3]);
        assert!(matches!(lock.try_write(), Err(TryLockError::WouldBlock)));
        drop(guard);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert!(lock.try_write().is_ok());
    });
}

#[test]
fn a_writer_waits_for_all_readers() {
    within_limit(|| {
        let lock = Arc::new(RwLock::new(vec![0]));
        let readers = [lock.read().unwrap(), lock.read().unwrap()];
        let theirs = Arc::clone(&lock);
        let writer = thread::spawn(move || theirs.write().unwrap().push(1));
        for reader in readers {
            assert_eq!(*reader, [0], "a writer beside a reader");
            drop(reader);
        }
        writer.join().unwrap();
        assert_eq!(*lock.read().unwrap(), [0, 1]);
    });
}

#[test]
fn forgotten_guards() {
    let mut lock = RwLock::new(1);
    std::mem::forget(lock.read());
    assert!(lock.try_write().is_err() && lock.try_read().is_ok());
    *lock.get_mut().unwrap() += 1;
    let lock = Box::new(lock);
    assert!(lock.try_write().is_err() && lock.try_read().is_ok());
    assert_eq!(lock.into_inner().unwrap(), 2);
    let lock = RwLock::new(1);
    std::mem::forget(lock.write());
    assert!(lock.try_write().is_err() && lock.try_read().is_err());
    assert_eq!(lock.into_inner().unwrap(), 1);
}

#[test]
fn guards_in_statics_and_constants() {
    static LOCK: RwLock<u8> = RwLock::new(0);
    static MANY: [RwLock<u8>; 4] = [const { RwLock::new(5) }; 4];
    let guard: RwLockReadGuard<'static, u8> = LOCK.read().unwrap();
    let writers: Vec<RwLockWriteGuard<'static, u8>> =
        MANY.iter().map(|lock| lock.write().unwrap()).collect();
    assert_eq!((*guard, writers.len()), (0, 4));
    drop(writers);
    assert_eq!(MANY.iter().map(|lock| u32::from(*lock.read().unwrap())).sum::<u32>(), 20);
}
