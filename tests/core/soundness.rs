//! What safe code can do to a lock that is held: forget the guard, move it, drop it, panic.

use crate::within::within_limit;
use lock_api::GuardNoSend;
use lockword::{Condvar, Mutex, MutexGuard};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Counts how often it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Locks `m`, forgets the guard, and lets others try in vain.
fn abandon<T: Send>(m: &Mutex<T>) {
    std::mem::forget(m.lock());
    assert!(m.is_locked());
    assert!(m.try_lock().is_none());
    assert!(m.try_lock_for(Duration::from_millis(2)).is_none());
    thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| assert!(m.try_lock_for(Duration::from_millis(5)).is_none()));
        }
    });
    assert!(m.is_locked());
}

/// Several threads count through `m`, which must work as if it were new.
fn works_under_load(m: &Mutex<usize>) {
    let before = *m.lock();
    thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for _ in 0..500 {
                    *m.lock() += 1;
                }
            });
        }
    });
    assert_eq!(*m.lock(), before + 2_000);
}

#[test]
fn a_forgotten_guard_leaves_the_lock_held() {
    within_limit(|| {
        let mut m = Mutex::new(1);
        abandon(&m);
        *m.get_mut() += 1;
        assert!(m.is_locked(), "get_mut does not unlock");
        // SAFETY: locked by the guard that was forgotten; no reference to the data is left.
        unsafe { m.force_unlock(GuardNoSend::new()) };
        assert_eq!(*m.lock(), 2);
        works_under_load(&m);
        abandon(&m);
        assert_eq!(m.into_inner(), 2_002);
    });
}

#[test]
fn a_leaked_guard_gives_the_data_for_ever() {
    static M: Mutex<i32> = Mutex::new(1);
    let data = MutexGuard::leak(M.lock());
    *data += 1;
    assert!(M.is_locked());
    assert_eq!(*data, 2);
}

#[test]
fn a_lock_moves_while_it_is_held() {
    within_limit(|| {
        let m = Mutex::new(7);
        abandon(&m);
        let there = Box::new(m);
        assert!(there.is_locked(), "the lock travels with its state");
        abandon_again(&there);
        // SAFETY: locked by the guard that was forgotten; no reference to the data is left.
        unsafe { there.force_unlock(GuardNoSend::new()) };
        works_under_load(&there);
        let back = *there;
        works_under_load(&back);
        assert_eq!(back.into_inner(), 4_007);
    });
}

/// As `abandon`, for a lock that is held already.
fn abandon_again(m: &Mutex<usize>) {
    assert!(m.try_lock_for(Duration::from_millis(2)).is_none());
}

#[test]
fn a_lock_is_dropped_while_it_is_held() {
    within_limit(|| {
        let drops = AtomicUsize::new(0);
        for round in 1..=3 {
            let m = Box::new(Mutex::new(Counted(&drops)));
            abandon(&m);
            drop(m);
            assert_eq!(drops.load(Ordering::Relaxed), round, "the data is dropped once");
        }
    });
}

#[test]
fn a_new_lock_in_the_same_place_is_free() {
    within_limit(|| {
        let mut reused = Mutex::new(0);
        for _ in 0..10 {
            abandon(&reused);
            reused = Mutex::new(0);
            assert!(!reused.is_locked());
            works_under_load(&reused);
        }
    });
}

#[test]
fn a_panic_releases_and_does_not_poison() {
    within_limit(|| {
        let m = Mutex::new(0);
        for round in 0..20 {
            let result = thread::scope(|s| {
                s.spawn(|| {
                    let mut guard = m.lock();
                    *guard += 1;
                    panic!("while locked");
                })
                .join()
            });
            assert!(result.is_err());
            assert_eq!(*m.try_lock().expect("free, not poisoned"), round + 1);
        }
        works_under_load(&m);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_panic_passes_the_lock_to_a_parked_waiter() {
    within_limit(|| {
        let m = Mutex::new(0);
        thread::scope(|s| {
            let guard = m.lock();
            let waiter = crate::asleep::spawn_parked(s, || *m.lock() += 1);
            let panicked = catch_unwind(AssertUnwindSafe(move || {
                let _guard = guard;
                panic!("while locked and waited for");
            }));
            assert!(panicked.is_err());
            waiter.join().expect("no panic");
        });
        assert_eq!(m.into_inner(), 1);
    });
}

/// Panics inside a closure that was given to the lock: the lock is released in the end.
#[test]
fn a_panic_in_a_closure_releases() {
    fn panics(run: impl FnOnce()) {
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
    }
    let m = Mutex::new(0);
    let condvar = Condvar::new();
    panics(|| drop(MutexGuard::map(m.lock(), |_| -> &mut u8 { panic!("in map") })));
    assert!(!m.is_locked());
    panics(|| {
        let mut guard = m.lock();
        MutexGuard::unlocked(&mut guard, || panic!("in unlocked"));
    });
    assert!(!m.is_locked());
    panics(|| condvar.wait_while(&mut m.lock(), |_| panic!("in wait_while")));
    assert!(!m.is_locked());
}

#[test]
fn locks_of_other_modules_use_it_through_the_trait() {
    fn count<R: lock_api::RawMutexFair + lock_api::RawMutexTimed<Duration = Duration>>() -> u32 {
        let m = lock_api::Mutex::<R, u32>::new(0);
        *m.lock() += 1;
        assert!(m.try_lock_for(Duration::ZERO).is_some());
        let mut guard = m.lock();
        lock_api::MutexGuard::bump(&mut guard);
        assert!(m.is_locked() && m.try_lock().is_none());
        lock_api::MutexGuard::unlock_fair(guard);
        m.into_inner()
    }
    assert_eq!(count::<lockword::RawLock>(), 1);
    assert_eq!(count::<lockword::RawSendLock>(), 1);
}
