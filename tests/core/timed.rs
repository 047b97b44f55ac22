//! Locking with a deadline.

use crate::within::within_limit;
use lockword::{Mutex, RawLock, ReentrantMutex};
use std::thread;
use std::time::{Duration, Instant};

/// A timeout that a test waits out.
const SHORT: Duration = Duration::from_millis(30);

/// Later than this after its deadline, a timeout is absurdly late, on a busy machine too.
const ABSURD: Duration = Duration::from_secs(30);

/// An instant that has passed.
fn past() -> Instant {
    let past = Instant::now();
    while Instant::now() <= past {
        std::hint::spin_loop();
    }
    past
}

/// A deadline that nobody lives to see.
fn far_away() -> Instant {
    let century = Duration::from_secs(100 * 365 * 24 * 3600);
    Instant::now().checked_add(century).expect("the clock goes that far")
}

/// Runs `wait`, which must fail, no earlier than `timeout` after it began and not absurdly late.
fn times_out(timeout: Duration, wait: impl FnOnce(Instant) -> bool) {
    let started = Instant::now();
    assert!(!wait(started), "locked a lock that is held");
    let took = started.elapsed();
    assert!(took >= timeout, "gave up after {took:?}, before its deadline of {timeout:?}");
    assert!(took < timeout + ABSURD, "gave up after {took:?}, with a deadline of {timeout:?}");
}

#[test]
fn any_deadline_locks_a_free_lock() {
    let m = Mutex::new(());
    assert!(m.try_lock_for(Duration::ZERO).is_some());
    assert!(m.try_lock_for(Duration::from_nanos(1)).is_some());
    assert!(m.try_lock_for(Duration::MAX).is_some());
    assert!(m.try_lock_until(past()).is_some());
    assert!(m.try_lock_until(far_away()).is_some());
    assert!(!m.is_locked());
}

#[test]
fn zero_and_past_fail_at_once_on_a_held_lock() {
    within_limit(|| {
        let m = Mutex::new(());
        let _guard = m.lock();
        for _ in 0..1_000 {
            assert!(m.try_lock_for(Duration::ZERO).is_none());
            assert!(m.try_lock_until(past()).is_none());
        }
        times_out(Duration::ZERO, |_| m.try_lock_for(Duration::ZERO).is_some());
        times_out(Duration::ZERO, |_| m.try_lock_until(past()).is_some());
    });
}

#[test]
fn a_timeout_is_neither_early_nor_absurdly_late() {
    within_limit(|| {
        let m = Mutex::new(());
        let guard = m.lock();
        for (timeout, rounds) in [(Duration::from_nanos(1), 20), (SHORT / 100, 20), (SHORT, 2)] {
            for _ in 0..rounds {
                times_out(timeout, |_| m.try_lock_for(timeout).is_some());
                times_out(timeout, |start| m.try_lock_until(start + timeout).is_some());
            }
        }
        drop(guard);
        assert!(m.try_lock().is_some(), "a waiter that gave up left something behind");
    });
}

#[test]
fn the_raw_lock_and_the_reentrant_mutex_time_out_too() {
    within_limit(|| {
        let raw = RawLock::new();
        assert!(raw.try_lock_for(Duration::MAX));
        times_out(SHORT, |_| raw.try_lock_for(SHORT));
        times_out(SHORT, |start| raw.try_lock_until(start + SHORT));
        let re = ReentrantMutex::new(());
        let _outer = re.lock();
        let _inner = re.try_lock_for(Duration::ZERO).expect("the same thread");
        thread::scope(|s| {
            s.spawn(|| {
                times_out(Duration::ZERO, |_| re.try_lock_for(Duration::ZERO).is_some());
                times_out(SHORT, |_| re.try_lock_for(SHORT).is_some());
                times_out(SHORT, |start| re.try_lock_until(start + SHORT).is_some());
            });
        });
    });
}

#[test]
fn many_timeouts_at_once() {
    within_limit(|| {
        let m = Mutex::new(());
        let guard = m.lock();
        thread::scope(|s| {
            for waiter in 0..8 {
                let m = &m;
                s.spawn(move || {
                    let timeout = SHORT / 8 * waiter;
                    times_out(timeout, |_| m.try_lock_for(timeout).is_some());
                });
            }
        });
        drop(guard);
        assert!(m.try_lock().is_some());
    });
}

#[test]
fn timed_and_untimed_waiters_share_a_lock() {
    let (counted, got) = within_limit(|| {
        let m = Mutex::new(0);
        let got: u32 = thread::scope(|s| {
            let workers: Vec<_> = (0..4)
                .map(|worker| {
                    let m = &m;
                    s.spawn(move || {
                        let mut got = 0;
                        for round in 0..1_000 {
                            let timeout = match (worker + round) % 4 {
                                0 => Duration::ZERO,
                                1 => Duration::from_micros(20),
                                2 => Duration::from_micros(700),
                                _ => Duration::MAX,
                            };
                            if let Some(mut guard) = m.try_lock_for(timeout) {
                                *guard += 1;
                                got += 1;
                                if round % 100 == 0 {
                                    // Long enough for the others to park, or to time out.
                                    let until = Instant::now() + Duration::from_micros(500);
                                    while Instant::now() < until {}
                                }
                            } else {
                                assert!(timeout < Duration::MAX, "gave up on an endless wait");
                            }
                        }
                        got
                    })
                })
                .collect();
            workers.into_iter().map(|w| w.join().expect("no panic")).sum()
        });
        (m.into_inner(), got)
    });
    assert_eq!(counted, got);
}

/// These look at whether a waiter is parked, which only Linux shows.
#[cfg(target_os = "linux")]
mod parked_waiters {
    use super::*;
    use crate::asleep::spawn_parked;

    #[test]
    fn an_endless_timeout_waits_and_is_woken() {
        within_limit(|| {
            let m = Mutex::new(());
            for _ in 0..20 {
                let guard = m.lock();
                thread::scope(|s| {
                    let waiters = [
                        spawn_parked(s, || m.try_lock_for(Duration::MAX).is_some()),
                        spawn_parked(s, || m.try_lock_until(far_away()).is_some()),
                        spawn_parked(s, || m.try_lock_for(Duration::from_secs(3600)).is_some()),
                    ];
                    assert!(m.is_locked());
                    drop(guard);
                    assert!(waiters.into_iter().all(|w| w.join().expect("no panic")));
                });
            }
        });
    }

    #[test]
    fn one_that_times_out_leaves_the_other_waiting() {
        within_limit(|| {
            // Both orders: the one that gives up came first, and came last.
            for first in [true, false] {
                let m = Mutex::new(0);
                let guard = m.lock();
                thread::scope(|s| {
                    let gives_up = || times_out(SHORT, |_| m.try_lock_for(SHORT).is_some());
                    let early = first.then(|| s.spawn(gives_up));
                    let waiter = spawn_parked(s, || *m.lock() += 1);
                    let late = (!first).then(|| s.spawn(gives_up));
                    for thread in early.into_iter().chain(late) {
                        thread.join().expect("no panic");
                    }
                    assert!(!waiter.is_finished(), "nobody has released the lock");
                    drop(guard);
                    waiter.join().expect("no panic");
                });
                assert_eq!(m.into_inner(), 1);
            }
        });
    }

    #[test]
    fn a_fair_unlock_skips_a_waiter_that_has_given_up() {
        within_limit(|| {
            let m = Mutex::new(0);
            let guard = m.lock();
            assert!(m.try_lock_for(SHORT).is_none());
            thread::scope(|s| {
                s.spawn(|| times_out(SHORT, |_| m.try_lock_for(SHORT).is_some()))
                    .join()
                    .expect("no panic");
                lockword::MutexGuard::unlock_fair(guard);
            });
            assert!(!m.is_locked(), "the lock was handed to a thread that no longer waits");
        });
    }
}
