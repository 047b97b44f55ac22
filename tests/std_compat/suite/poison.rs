//! Panics inside and around guards.

use super::sync::{
    Arc, Condvar, LockResult, Mutex, MutexGuard, PoisonError, TryLockError, TryLockResult,
};
use crate::within::within_limit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

/// Panics without a message on the terminal.
fn quiet_panic() -> ! {
    resume_unwind(Box::new("on purpose"))
}

/// Panics while the mutex is locked.
fn poison<T>(mutex: &Mutex<T>) {
    let result = catch_unwind(|| {
        let _guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        quiet_panic();
    });
    assert!(result.is_err());
}

fn poisoned<T>(value: T) -> Mutex<T> {
    let mutex = Mutex::new(value);
    poison(&mutex);
    mutex
}

#[test]
fn a_panic_under_the_lock_poisons() {
    let mutex = Mutex::new(1);
    assert!(!mutex.is_poisoned());
    poison(&mutex);
    assert!(mutex.is_poisoned());
    let error = mutex.lock().unwrap_err();
    assert_eq!(**error.get_ref(), 1);
    drop(error);
    assert!(mutex.is_poisoned(), "it stays poisoned");
    assert!(mutex.try_lock().is_err());
}

#[test]
fn a_panic_in_another_thread_poisons() {
    let mutex = Arc::new(Mutex::new(1));
    let theirs = Arc::clone(&mutex);
    let thread = std::thread::spawn(move || {
        let mut guard = theirs.lock().unwrap();
        *guard = 2;
        quiet_panic();
    });
    assert!(thread.join().is_err());
    assert_eq!(
        *mutex.lock().unwrap_or_else(PoisonError::into_inner),
        2,
        "the data stays as it was"
    );
}

#[test]
fn a_panic_outside_the_lock_does_not_poison() {
    let mutex = Mutex::new(());
    let result = catch_unwind(|| {
        drop(mutex.lock());
        quiet_panic();
    });
    assert!(result.is_err() && !mutex.is_poisoned());
}

#[test]
fn a_caught_panic_under_the_lock_does_not_poison() {
    let mutex = Mutex::new(());
    let guard = mutex.lock().unwrap();
    assert!(catch_unwind(|| quiet_panic()).is_err());
    drop(guard);
    assert!(!mutex.is_poisoned());
}

#[test]
fn a_section_that_begins_in_a_panic_does_not_poison() {
    struct LocksWhenDropped<'a>(&'a Mutex<u32>);
    impl Drop for LocksWhenDropped<'_> {
        fn drop(&mut self) {
            assert!(std::thread::panicking());
            *self.0.lock().unwrap() += 1;
        }
    }
    let mutex = Mutex::new(0);
    let result = catch_unwind(|| {
        let _lock = LocksWhenDropped(&mutex);
        quiet_panic();
    });
    assert!(result.is_err());
    assert_eq!(*mutex.lock().unwrap(), 1);
}

#[test]
fn the_error_carries_the_guard() {
    let mutex = poisoned(vec![1]);
    let mut error = mutex.lock().unwrap_err();
    error.get_mut().push(2);
    assert!(matches!(mutex.try_lock(), Err(TryLockError::WouldBlock)), "the error holds the lock");
    let guard: MutexGuard<'_, Vec<i32>> = error.into_inner();
    assert_eq!(*guard, [1, 2]);
    drop(guard);
    match mutex.try_lock() {
        Err(TryLockError::Poisoned(error)) => assert_eq!(*error.into_inner(), [1, 2]),
        Err(TryLockError::WouldBlock) => panic!("nobody holds it"),
        Ok(_) => panic!("it is poisoned"),
    };
}

#[test]
fn what_needs_no_lock_tells_of_poison_too() {
    let mut mutex = poisoned(String::from("x"));
    mutex.get_mut().unwrap_err().get_mut().push('y');
    assert_eq!(mutex.into_inner().unwrap_err().into_inner(), "xy");
}

#[test]
fn poison_can_be_cleared() {
    let mut mutex = poisoned(1);
    mutex.clear_poison();
    assert!(!mutex.is_poisoned());
    assert_eq!(*mutex.lock().unwrap(), 1);
    assert_eq!(*mutex.try_lock().unwrap(), 1);
    assert!(mutex.get_mut().is_ok() && mutex.into_inner().is_ok());
}

#[test]
fn poison_can_be_cleared_under_the_lock() {
    let mutex = poisoned(1);
    let guard = mutex.lock().unwrap_or_else(|mut error| {
        **error.get_mut() = 0;
        mutex.clear_poison();
        error.into_inner()
    });
    drop(guard);
    assert_eq!(*mutex.lock().unwrap(), 0);
}

#[test]
fn a_guard_got_before_the_poison_is_told_nothing() {
    let mutex = poisoned(());
    let guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
    mutex.clear_poison();
    drop(guard);
    assert!(!mutex.is_poisoned());
}

#[test]
fn texts() {
    let mutex = poisoned(7);
    assert_eq!(format!("{mutex:?}"), "Mutex { data: 7, poisoned: true, .. }");
    let error = mutex.lock().unwrap_err();
    assert_eq!(format!("{mutex:?}"), r#"Mutex { data: "<locked>", poisoned: true, .. }"#);
    assert_eq!(format!("{error:?}"), "PoisonError { .. }");
    let reference = PoisonError::new(()).to_string();
    assert_eq!(error.to_string(), reference);
    drop(error);
    let error = mutex.try_lock().unwrap_err();
    assert_eq!(format!("{error:?}"), r#""Poisoned(..)""#);
    assert_eq!(error.to_string(), std::sync::TryLockError::from(PoisonError::new(())).to_string());
}

#[test]
fn the_errors_are_stds() {
    fn lock(mutex: &Mutex<u8>) -> std::sync::LockResult<MutexGuard<'_, u8>> {
        let result: LockResult<_> = mutex.lock();
        result
    }
    fn try_lock(mutex: &Mutex<u8>) -> std::sync::TryLockResult<MutexGuard<'_, u8>> {
        let result: TryLockResult<_> = mutex.try_lock();
        result
    }
    fn question(mutex: &'static Mutex<u8>) -> Result<u8, Box<dyn std::error::Error>> {
        Ok(*mutex.lock()?)
    }
    fn mapped(mutex: &Mutex<u8>) -> Result<u8, String> {
        mutex.lock().map(|guard| *guard).map_err(|error| error.to_string())
    }
    static GOOD: Mutex<u8> = Mutex::new(2);
    static BAD: Mutex<u8> = Mutex::new(3);
    poison(&BAD);
    assert_eq!(*lock(&GOOD).unwrap(), 2);
    assert_eq!(
        *try_lock(&BAD).unwrap_or_else(|error| match error {
            std::sync::TryLockError::Poisoned(error) => error.into_inner(),
            std::sync::TryLockError::WouldBlock => unreachable!(),
        }),
        3
    );
    assert_eq!(question(&GOOD).unwrap(), 2);
    assert!(question(&BAD).is_err());
    assert_eq!(mapped(&GOOD), Ok(2));
    assert!(mapped(&BAD).unwrap_err().contains("poisoned"));
}

#[test]
fn a_panic_in_a_condition_poisons() {
    let (mutex, condvar) = (Mutex::new(1), Condvar::new());
    let result = catch_unwind(AssertUnwindSafe(|| {
        let guard = mutex.lock().unwrap();
        drop(condvar.wait_while(guard, |_| quiet_panic()));
    }));
    assert!(result.is_err() && mutex.is_poisoned());
    mutex.clear_poison();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let guard = mutex.lock().unwrap();
        drop(condvar.wait_timeout_while(guard, Duration::MAX, |_| quiet_panic()));
    }));
    assert!(result.is_err() && mutex.is_poisoned());
}

/// A waiter whose mutex is poisoned while it waits; `wait` says how it waits.
fn poisoned_while_waiting<R: Send + 'static>(
    wait: impl FnOnce(&Condvar, MutexGuard<'_, bool>) -> R + Send + 'static,
) -> R {
    within_limit(|| {
        let pair = Arc::new((Mutex::new(false), Condvar::new()));
        let theirs = Arc::clone(&pair);
        let guard = pair.0.lock().unwrap();
        // It cannot get the lock before the wait below has given it up.
        let thread = std::thread::spawn(move || {
            let mut guard = theirs.0.lock().unwrap();
            *guard = true;
            theirs.1.notify_all();
            quiet_panic();
        });
        let result = wait(&pair.1, guard);
        assert!(thread.join().is_err());
        assert!(pair.0.is_poisoned());
        assert!(*pair.0.lock().unwrap_err().into_inner());
        result
    })
}

#[test]
fn a_wait_tells_of_poison() {
    poisoned_while_waiting(|condvar, mut guard| {
        while !*guard {
            guard = match condvar.wait(guard) {
                Ok(guard) => guard, // Spurious.
                Err(error) => return assert!(**error.get_ref()),
            };
        }
        panic!("not told");
    });
}

#[test]
fn wait_while_tells_of_poison() {
    poisoned_while_waiting(|condvar, guard| {
        let error = condvar.wait_while(guard, |ready| !*ready).unwrap_err();
        assert!(*error.into_inner());
    });
}

#[test]
fn a_timed_wait_while_tells_of_poison() {
    poisoned_while_waiting(|condvar, guard| {
        let error = condvar.wait_timeout_while(guard, Duration::MAX, |ready| !*ready).unwrap_err();
        let (guard, result) = error.into_inner();
        assert!(*guard && !result.timed_out());
    });
}

#[test]
fn a_timed_wait_tells_of_poison_and_whether_the_time_was_up() {
    poisoned_while_waiting(|condvar, mut guard| {
        while !*guard {
            guard = match condvar.wait_timeout(guard, Duration::MAX) {
                Ok((guard, result)) => {
                    assert!(!result.timed_out());
                    guard
                }
                Err(error) => {
                    let (guard, result) = error.into_inner();
                    return assert!(*guard && !result.timed_out());
                }
            };
        }
        panic!("not told");
    });
    let mutex = poisoned(());
    let guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
    let (guard, result) =
        Condvar::new().wait_timeout(guard, Duration::ZERO).unwrap_err().into_inner();
    assert!(result.timed_out());
    #[allow(deprecated)]
    let (guard, in_time) = Condvar::new().wait_timeout_ms(guard, 0).unwrap_err().into_inner();
    assert!(!in_time);
    drop(guard);
}

#[test]
fn a_condition_that_is_false_at_once_hides_the_poison() {
    let mutex = poisoned(1);
    let guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
    let guard = Condvar::new().wait_while(guard, |_| false).unwrap();
    let (guard, result) =
        Condvar::new().wait_timeout_while(guard, Duration::ZERO, |_| false).unwrap();
    assert!(!result.timed_out());
    drop(guard);
}
