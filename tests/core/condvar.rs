//! `Condvar` with no clock involved: who is woken, how many, and nobody else.

use crate::within::within_limit;
use lockword::{Condvar, Mutex, MutexGuard};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};

/// A number of waiters and the mutex they wait with.
///
/// A waiter counts itself in under the mutex and gives the mutex up only by waiting, so
/// a thread that holds the mutex and reads `waiting` knows how many threads wait.
#[derive(Default)]
struct Waiters {
    waiting: Mutex<usize>,
    returned: AtomicUsize,
}

impl Waiters {
    /// Starts a thread that waits on `condvar` once, whatever wakes it.
    fn spawn<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        condvar: &'scope Condvar,
    ) -> ScopedJoinHandle<'scope, ()> {
        scope.spawn(|| {
            let mut waiting = self.waiting.lock();
            *waiting += 1;
            condvar.wait(&mut waiting);
            assert!(self.waiting.is_locked(), "wait came back without its mutex");
            *waiting -= 1;
            self.returned.fetch_add(1, Ordering::SeqCst);
        })
    }

    /// The mutex, locked, once `count` threads wait.
    fn when_waiting(&self, count: usize) -> MutexGuard<'_, usize> {
        loop {
            let waiting = self.waiting.lock();
            if *waiting == count {
                return waiting;
            }
            drop(waiting);
            thread::yield_now();
        }
    }

    fn returned(&self) -> usize {
        self.returned.load(Ordering::SeqCst)
    }
}

#[test]
fn nobody_waits() {
    let condvar = Condvar::new();
    assert!(!condvar.notify_one());
    assert_eq!(condvar.notify_all(), 0);
}

#[test]
fn a_notification_is_not_kept_for_later() {
    within_limit(|| {
        let (waiters, condvar) = (Waiters::default(), Condvar::new());
        condvar.notify_one();
        condvar.notify_all();
        thread::scope(|s| {
            let waiter = waiters.spawn(s, &condvar);
            drop(waiters.when_waiting(1));
            assert!(!waiter.is_finished());
            assert!(condvar.notify_one(), "somebody waits");
        });
        assert_eq!(waiters.returned(), 1);
    });
}

#[test]
fn notify_one_wakes_one_and_says_so() {
    const WAITERS: usize = 5;
    within_limit(|| {
        let (waiters, condvar) = (Waiters::default(), Condvar::new());
        thread::scope(|s| {
            for _ in 0..WAITERS {
                waiters.spawn(s, &condvar);
            }
            for left in (1..=WAITERS).rev() {
                let waiting = waiters.when_waiting(left);
                assert_eq!(waiters.returned(), WAITERS - left, "one notification woke two");
                // With the mutex held and without it: both must wake somebody.
                if left % 2 == 0 {
                    drop(waiting);
                }
                assert!(condvar.notify_one(), "{left} threads wait");
            }
            drop(waiters.when_waiting(0));
            assert!(!condvar.notify_one(), "nobody waits any more");
        });
        assert_eq!(waiters.returned(), WAITERS);
    });
}

#[test]
fn notify_all_wakes_all_and_counts_them() {
    within_limit(|| {
        for (count, held) in [(1, true), (1, false), (6, true), (6, false)] {
            let (waiters, condvar) = (Waiters::default(), Condvar::new());
            thread::scope(|s| {
                for _ in 0..count {
                    waiters.spawn(s, &condvar);
                }
                let waiting = waiters.when_waiting(count);
                let woken = if held {
                    condvar.notify_all()
                } else {
                    drop(waiting);
                    condvar.notify_all()
                };
                assert_eq!(woken, count);
            });
            assert_eq!(waiters.returned(), count);
            assert_eq!(condvar.notify_all(), 0, "everybody has left");
        }
    });
}

#[test]
fn a_thread_that_is_notified_is_not_counted_again() {
    within_limit(|| {
        let (waiters, condvar) = (Waiters::default(), Condvar::new());
        thread::scope(|s| {
            waiters.spawn(s, &condvar);
            waiters.spawn(s, &condvar);
            let waiting = waiters.when_waiting(2);
            assert!(condvar.notify_one());
            // Nobody can leave while the mutex is held here.
            assert_eq!(condvar.notify_all(), 1);
            assert!(!condvar.notify_one());
            assert_eq!(condvar.notify_all(), 0);
            drop(waiting);
        });
        assert_eq!(waiters.returned(), 2);
    });
}

#[test]
fn wait_gives_the_mutex_up_and_takes_it_back() {
    within_limit(|| {
        let (m, condvar) = (Mutex::new(0), Condvar::new());
        thread::scope(|s| {
            let mut guard = m.lock();
            s.spawn(|| {
                let mut guard = m.lock();
                *guard = 1;
                assert!(condvar.notify_one(), "the mutex is free only because somebody waits");
                *guard = 2;
            });
            condvar.wait(&mut guard);
            assert_eq!(*guard, 2, "the notifier still held the mutex");
            assert!(m.is_locked());
        });
        assert!(!m.is_locked());
    });
}

#[test]
fn wait_while_looks_before_it_waits_and_after_each_wake() {
    within_limit(|| {
        let (m, condvar) = (Mutex::new(3), Condvar::new());
        let mut looks = 0;
        condvar.wait_while(&mut m.lock(), |_| {
            looks += 1;
            false
        });
        assert_eq!(looks, 1, "a condition that does not hold needs no wait");
        thread::scope(|s| {
            let waiter = s.spawn(|| {
                let mut left = m.lock();
                condvar.wait_while(&mut left, |left| *left > 0);
                *left
            });
            for _ in 0..3 {
                // Wait for a waiter each time: the return value is what tells.
                while !condvar.notify_one() {
                    thread::yield_now();
                }
                *m.lock() -= 1;
            }
            while !waiter.is_finished() {
                condvar.notify_all();
                thread::yield_now();
            }
            assert_eq!(waiter.join().expect("no panic"), 0);
        });
    });
}

#[test]
fn a_ping_pong_loses_no_wake_up() {
    const ROUNDS: usize = 3_000;
    let turns = within_limit(|| {
        let (m, condvar) = (Mutex::new(0_usize), Condvar::new());
        thread::scope(|s| {
            for player in 0..2 {
                let (m, condvar) = (&m, &condvar);
                s.spawn(move || {
                    for _ in 0..ROUNDS {
                        let mut turn = m.lock();
                        condvar.wait_while(&mut turn, |turn| *turn % 2 != player);
                        *turn += 1;
                        condvar.notify_one();
                    }
                });
            }
        });
        m.into_inner()
    });
    assert_eq!(turns, 2 * ROUNDS);
}

#[test]
fn one_mutex_after_another() {
    within_limit(|| {
        let condvar = Condvar::new();
        for _ in 0..20 {
            let waiters = Waiters::default();
            thread::scope(|s| {
                waiters.spawn(s, &condvar);
                waiters.spawn(s, &condvar);
                drop(waiters.when_waiting(2));
                assert_eq!(condvar.notify_all(), 2);
            });
            assert_eq!(waiters.returned(), 2);
        }
    });
}

#[test]
fn two_mutexes_at_the_same_time() {
    within_limit(|| {
        let condvar = Condvar::new();
        let groups = [Waiters::default(), Waiters::default()];
        thread::scope(|s| {
            for waiters in &groups {
                waiters.spawn(s, &condvar);
                waiters.spawn(s, &condvar);
            }
            drop(groups[0].when_waiting(2));
            let waiting = groups[1].when_waiting(2);
            assert!(condvar.notify_one());
            assert_eq!(condvar.notify_all(), 3);
            drop(waiting);
        });
        assert_eq!(groups.each_ref().map(Waiters::returned), [2, 2]);
    });
}

/// The promise: `wait` returns only because of a notification on its own condition variable.
#[test]
fn nothing_but_a_notification_wakes() {
    static OTHERS: [Condvar; 4096] = [const { Condvar::new() }; 4096];
    within_limit(|| {
        let (group, condvar) = (Waiters::default(), Condvar::new());
        thread::scope(|s| {
            let waiters = [group.spawn(s, &condvar), group.spawn(s, &condvar)];
            drop(group.when_waiting(2));
            // Other condition variables, enough of them to meet the same queue many times.
            for unrelated in &OTHERS {
                assert!(!unrelated.notify_one());
                assert_eq!(unrelated.notify_all(), 0);
            }
            // Traffic on the waiters' own mutex, contended and fair.
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..500 {
                        drop(group.waiting.lock());
                        MutexGuard::unlock_fair(group.waiting.lock());
                    }
                });
            }
            // Another condition variable that is waited on and notified meanwhile.
            let (beside, other) = (Waiters::default(), Condvar::new());
            thread::scope(|s| {
                for _ in 0..50 {
                    let visitor = beside.spawn(s, &other);
                    drop(beside.when_waiting(1));
                    assert_eq!(other.notify_all(), 1);
                    visitor.join().expect("no panic");
                }
            });
            assert_eq!(*group.waiting.lock(), 2, "a waiter came back unasked");
            assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
            assert_eq!(condvar.notify_all(), 2);
        });
        assert_eq!(group.returned(), 2);
    });
}

#[test]
fn statics_default_and_debug() {
    static READY: Condvar = Condvar::new();
    static M: Mutex<bool> = Mutex::new(false);
    within_limit(|| {
        thread::scope(|s| {
            s.spawn(|| READY.wait_while(&mut M.lock(), |ready| !*ready));
            *M.lock() = true;
            READY.notify_all();
        });
    });
    assert!(!Condvar::default().notify_one());
    assert_eq!(format!("{READY:?}"), "Condvar { .. }");
}
