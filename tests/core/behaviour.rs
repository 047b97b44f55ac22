//! `Mutex`, `RawLock` and the mapped guards, with no clock involved.

use crate::within::within_limit;
use lockword::{MappedMutexGuard, Mutex, MutexGuard, RawLock, SendMutex, SendMutexGuard};
use std::sync::Barrier;
use std::thread;

#[test]
fn locks_and_unlocks() {
    let m = Mutex::new(1);
    {
        let mut guard = m.lock();
        assert!(m.is_locked());
        *guard += 1;
    }
    assert!(!m.is_locked());
    assert_eq!(*m.lock(), 2);
}

#[test]
fn try_lock_fails_only_while_held() {
    let m = Mutex::new(());
    let guard = m.try_lock().expect("free");
    assert!(m.try_lock().is_none());
    thread::scope(|s| {
        s.spawn(|| assert!(m.try_lock().is_none()));
    });
    drop(guard);
    assert!(m.try_lock().is_some());
    assert!(m.try_lock().is_some(), "a guard that is dropped at once frees the lock");
}

#[test]
fn raw_lock_tells_the_same_story() {
    let raw = RawLock::new();
    assert!(!raw.is_locked());
    raw.lock();
    assert!(raw.is_locked());
    assert!(!raw.try_lock());
    // SAFETY: locked above, by this thread.
    unsafe { raw.unlock() };
    assert!(raw.try_lock());
    // SAFETY: locked by the line above.
    unsafe { raw.unlock_fair() };
    assert!(!raw.is_locked());
}

#[test]
fn one_thread_at_a_time() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 20_000;
    let total = within_limit(|| {
        let m = Mutex::new((0, 0));
        let start = Barrier::new(THREADS);
        thread::scope(|s| {
            for _ in 0..THREADS {
                s.spawn(|| {
                    start.wait();
                    for round in 0..ROUNDS {
                        let mut guard = m.lock();
                        let before = guard.0;
                        assert_eq!(guard.0, guard.1, "the last holder had not finished");
                        guard.0 = before + 1;
                        if round % 64 == 0 {
                            thread::yield_now();
                        }
                        guard.1 = before + 1;
                    }
                });
            }
        });
        m.into_inner()
    });
    assert_eq!(total, (THREADS * ROUNDS, THREADS * ROUNDS));
}

#[test]
fn one_thread_at_a_time_with_try_lock() {
    const THREADS: usize = 4;
    let (counted, held) = within_limit(|| {
        let m = Mutex::new(0_usize);
        let held = thread::scope(|s| {
            let workers: Vec<_> = (0..THREADS)
                .map(|_| {
                    s.spawn(|| {
                        let mut held = 0_usize;
                        for _ in 0..20_000 {
                            if let Some(mut guard) = m.try_lock() {
                                *guard += 1;
                                held += 1;
                            }
                        }
                        held
                    })
                })
                .collect();
            workers.into_iter().map(|w| w.join().expect("no panic")).sum::<usize>()
        });
        (m.into_inner(), held)
    });
    assert_eq!(counted, held);
    assert!(held > 0);
}

#[test]
fn every_waiter_is_served() {
    const WAITERS: usize = 16;
    let served = within_limit(|| {
        let m = Mutex::new(0);
        let guard = m.lock();
        thread::scope(|s| {
            for _ in 0..WAITERS {
                s.spawn(|| *m.lock() += 1);
            }
            drop(guard);
        });
        m.into_inner()
    });
    assert_eq!(served, WAITERS);
}

#[cfg(target_os = "linux")]
#[test]
fn a_parked_waiter_is_woken() {
    within_limit(|| {
        let m = Mutex::new(0);
        for round in 0..50 {
            let guard = m.lock();
            thread::scope(|s| {
                let waiter = crate::asleep::spawn_parked(s, || *m.lock() += 1);
                drop(guard);
                waiter.join().expect("no panic");
            });
            assert_eq!(*m.lock(), round + 1);
        }
    });
}

#[test]
fn a_guard_of_a_send_mutex_may_be_dropped_by_another_thread() {
    within_limit(|| {
        let m = SendMutex::new(0);
        let mut guard: SendMutexGuard<'_, i32> = m.lock();
        thread::scope(|s| {
            s.spawn(move || {
                *guard = 7;
                drop(guard);
            });
        });
        assert_eq!(*m.try_lock().expect("the other thread released it"), 7);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_sent_guard_passes_the_lock_to_a_parked_waiter() {
    within_limit(|| {
        let m = SendMutex::new(0);
        thread::scope(|s| {
            let guard = m.lock();
            let waiter = crate::asleep::spawn_parked(s, || *m.lock() += 1);
            s.spawn(move || SendMutexGuard::unlock_fair(guard)).join().expect("no panic");
            waiter.join().expect("no panic");
        });
        assert_eq!(m.into_inner(), 1);
    });
}

#[test]
fn a_static_needs_no_set_up() {
    static M: Mutex<u32> = Mutex::new(0);
    static TABLE: [Mutex<u32>; 64] = [const { Mutex::new(5) }; 64];
    within_limit(|| {
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for m in TABLE.iter().chain([&M]) {
                        *m.lock() += 1;
                    }
                });
            }
        });
    });
    assert_eq!(*M.lock(), 4);
    assert!(TABLE.iter().all(|m| *m.lock() == 9));
}

#[test]
fn every_constructor_is_const() {
    let mutex = const { Mutex::new(3) };
    let raw = const { RawLock::new() };
    let from_raw = const { Mutex::from_raw(RawLock::new(), "here") };
    assert_eq!(*mutex.lock(), 3);
    assert!(raw.try_lock());
    assert_eq!(*from_raw.lock(), "here");
}

#[test]
fn data_is_reached_without_locking_through_ownership() {
    let mut m = Mutex::new(String::from("a"));
    m.get_mut().push('b');
    assert!(!m.is_locked());
    assert_eq!(m.into_inner(), "ab");
}

#[test]
fn unsized_data() {
    let m: &Mutex<[u8]> = &Mutex::new([1, 2, 3]);
    m.lock()[1] = 9;
    assert_eq!(*m.lock(), [1, 9, 3]);
}

#[test]
fn default_from_and_debug() {
    let m = Mutex::<u32>::default();
    assert_eq!(format!("{m:?}"), "Mutex { data: 0 }");
    let m = Mutex::from(8);
    let guard = m.lock();
    assert_eq!(format!("{m:?}"), "Mutex { data: <locked> }", "Debug never blocks");
    assert_eq!(format!("{guard:?} {guard}"), "8 8");
    assert!(std::ptr::eq(MutexGuard::mutex(&guard), &raw const m));
    drop(guard);
    assert!(!RawLock::default().is_locked());
    assert!(format!("{:?}", RawLock::new()).contains("RawLock"));
}

#[test]
fn a_mapped_guard_keeps_the_lock() {
    let m = Mutex::new((1, String::from("x")));
    let text: MappedMutexGuard<'_, String> = MutexGuard::map(m.lock(), |pair| &mut pair.1);
    assert!(m.is_locked());
    let mut bytes = MappedMutexGuard::map(text, |text| text.as_mut_str());
    assert!(m.is_locked());
    bytes.make_ascii_uppercase();
    assert_eq!(format!("{bytes} {bytes:?}"), "X \"X\"");
    drop(bytes);
    assert_eq!(m.try_lock().expect("released").1, "X");
}

#[test]
fn a_map_that_finds_nothing_gives_the_guard_back() {
    let m = Mutex::new(Some(4));
    let some = MutexGuard::try_map(m.lock(), Option::as_mut).expect("there is something");
    let not_odd = MappedMutexGuard::try_map(some, |n| (*n % 2 == 1).then_some(n));
    let even = not_odd.expect_err("four is even");
    assert!(m.is_locked());
    drop(even);
    *m.try_lock().expect("released") = None;
    let guard = MutexGuard::try_map(m.lock(), Option::as_mut).expect_err("nothing there");
    assert!(m.is_locked());
    drop(guard);
    let (guard, error) =
        MutexGuard::try_map_or_err(m.lock(), |_| Err::<&mut u8, _>("no")).expect_err("never");
    assert!(m.is_locked());
    assert_eq!(error, "no");
    drop(guard);
    assert!(!m.is_locked());
}

#[test]
fn unlocked_lets_others_in() {
    within_limit(|| {
        let m = Mutex::new(0);
        let mut guard = m.lock();
        let seen = MutexGuard::unlocked(&mut guard, || {
            assert!(!m.is_locked());
            *m.lock() += 1;
            "back"
        });
        assert_eq!(seen, "back");
        assert!(m.is_locked());
        assert_eq!(*guard, 1);
        MutexGuard::unlocked_fair(&mut guard, || *m.lock() += 1);
        assert!(m.is_locked());
        assert_eq!(*guard, 2);
    });
}
