//! `Condvar` with a deadline.

use crate::within::within_limit;
use lockword::{Condvar, Mutex, WaitTimeoutResult};
use std::thread;
use std::time::{Duration, Instant};

/// A timeout that a test waits out.
const SHORT: Duration = Duration::from_millis(30);

/// Later than this after its deadline, a timeout is absurdly late, on a busy machine too.
const ABSURD: Duration = Duration::from_secs(30);

/// Runs `wait`, which must time out, not before `timeout` and not absurdly late.
fn times_out(timeout: Duration, wait: impl FnOnce(Instant) -> WaitTimeoutResult) {
    let started = Instant::now();
    assert!(wait(started).timed_out(), "nobody notified");
    let took = started.elapsed();
    assert!(took >= timeout, "came back after {took:?}, before its deadline of {timeout:?}");
    assert!(took < timeout + ABSURD, "came back after {took:?}, with a deadline of {timeout:?}");
}

#[test]
fn zero_and_past_deadlines_time_out_at_once() {
    within_limit(|| {
        let (m, condvar) = (Mutex::new(()), Condvar::new());
        let mut guard = m.lock();
        let past = Instant::now();
        for _ in 0..200 {
            times_out(Duration::ZERO, |_| condvar.wait_for(&mut guard, Duration::ZERO));
            times_out(Duration::ZERO, |_| condvar.wait_until(&mut guard, past));
            assert!(m.is_locked());
        }
        assert!(!condvar.notify_one(), "those who gave up wait no longer");
    });
}

#[test]
fn a_timeout_is_neither_early_nor_absurdly_late() {
    within_limit(|| {
        let (m, condvar) = (Mutex::new(()), Condvar::new());
        let mut guard = m.lock();
        for timeout in [Duration::from_nanos(1), SHORT / 100, SHORT / 100, SHORT / 10, SHORT] {
            times_out(timeout, |_| condvar.wait_for(&mut guard, timeout));
            times_out(timeout, |start| condvar.wait_until(&mut guard, start + timeout));
            times_out(timeout, |_| condvar.wait_while_for(&mut guard, |()| true, timeout));
            times_out(timeout, |start| {
                condvar.wait_while_until(&mut guard, |()| true, start + timeout)
            });
            assert!(m.is_locked(), "a wait that times out takes its mutex back");
        }
        drop(guard);
        assert!(!m.is_locked());
        assert_eq!(condvar.notify_all(), 0);
    });
}

#[test]
fn endless_timeouts_wait_for_the_notification() {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    within_limit(|| {
        let (waiting, condvar) = (Mutex::new(0), Condvar::new());
        thread::scope(|s| {
            let waiters: Vec<_> = (0..4)
                .map(|kind| {
                    let (waiting, condvar) = (&waiting, &condvar);
                    s.spawn(move || {
                        let mut guard = waiting.lock();
                        *guard += 1;
                        match kind {
                            0 => condvar.wait_for(&mut guard, Duration::MAX),
                            1 => condvar.wait_for(&mut guard, CENTURY),
                            2 => condvar.wait_until(&mut guard, Instant::now() + CENTURY),
                            _ => condvar.wait_while_for(&mut guard, |n| *n < 9, Duration::MAX),
                        }
                    })
                })
                .collect();
            loop {
                let mut waiting = waiting.lock();
                if *waiting == 4 {
                    *waiting = 9;
                    assert_eq!(condvar.notify_all(), 4);
                    break;
                }
                drop(waiting);
                thread::yield_now();
            }
            for waiter in waiters {
                assert!(!waiter.join().expect("no panic").timed_out());
            }
        });
    });
}

#[test]
fn one_that_times_out_does_not_take_the_notification() {
    within_limit(|| {
        let (waiting, condvar) = (Mutex::new(0), Condvar::new());
        thread::scope(|s| {
            let waiter = s.spawn(|| {
                let mut guard = waiting.lock();
                *guard += 1;
                condvar.wait(&mut guard);
            });
            let mut guard = loop {
                let guard = waiting.lock();
                if *guard == 1 {
                    break guard;
                }
                drop(guard);
                thread::yield_now();
            };
            times_out(SHORT, |_| condvar.wait_for(&mut guard, SHORT));
            assert!(!waiter.is_finished());
            assert!(condvar.notify_one());
            assert!(!condvar.notify_one());
            drop(guard);
            waiter.join().expect("no panic");
        });
    });
}

#[test]
fn others_do_not_cut_a_timed_wait_short() {
    within_limit(|| {
        let (m, condvar) = (Mutex::new(false), Condvar::new());
        let others: Vec<Condvar> = (0..256).map(|_| Condvar::new()).collect();
        thread::scope(|s| {
            s.spawn(|| {
                while !*m.lock() {
                    for other in &others {
                        other.notify_one();
                        other.notify_all();
                    }
                }
            });
            let mut guard = m.lock();
            times_out(SHORT, |_| condvar.wait_for(&mut guard, SHORT));
            *guard = true;
        });
    });
}

#[test]
fn wait_while_for_reports_the_condition_and_not_the_clock() {
    let (m, condvar) = (Mutex::new(0), Condvar::new());
    let result = condvar.wait_while_for(&mut m.lock(), |_| false, Duration::ZERO);
    assert!(!result.timed_out(), "the condition was met before any wait");
    let mut looks = 0;
    let met_late = |_: &mut i32| {
        looks += 1;
        looks == 1
    };
    let result = condvar.wait_while_for(&mut m.lock(), met_late, Duration::from_micros(1));
    assert!(!result.timed_out(), "the condition was met, if only after the deadline");
}

/// A notification and a deadline that race: a waiter that reports a timeout must not have eaten a
/// notification, so the two sides' counts agree.
#[test]
fn notifications_and_timeouts_add_up() {
    const WAITERS: usize = 3;
    let (notified, woken) = within_limit(|| {
        let (m, condvar) = (Mutex::new(WAITERS), Condvar::new());
        thread::scope(|s| {
            let waiters: Vec<_> = (0..WAITERS)
                .map(|_| {
                    s.spawn(|| {
                        let mut woken = 0_usize;
                        let mut round = 0;
                        let mut guard = m.lock();
                        // Until the race has happened, however seldom the notifier runs.
                        while round < 1_000 || woken == 0 {
                            let timeout = Duration::from_micros(round % 80);
                            if !condvar.wait_for(&mut guard, timeout).timed_out() {
                                woken += 1;
                            }
                            round += 1;
                        }
                        *guard -= 1;
                        woken
                    })
                })
                .collect();
            let mut notified = 0;
            for round in 0_u32.. {
                if round % 3 == 0 {
                    notified += condvar.notify_all();
                } else {
                    notified += usize::from(condvar.notify_one());
                }
                if *m.lock() == 0 {
                    break;
                }
            }
            (notified, waiters.into_iter().map(|w| w.join().expect("no panic")).sum::<usize>())
        })
    });
    assert_eq!(notified, woken);
}
