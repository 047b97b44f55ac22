//! Every method of a Condvar.

use super::sync::{Arc, Condvar, Mutex, WaitTimeoutResult};
use crate::within::within_limit;
use std::thread;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(1_000);

#[test]
fn made_and_shown() {
    static STATIC: Condvar = Condvar::new();
    STATIC.notify_one();
    STATIC.notify_all();
    assert_eq!(format!("{:?}", Condvar::default()), "Condvar { .. }");
}

#[test]
fn a_notification_ends_a_wait() {
    within_limit(|| {
        let pair = Arc::new((Mutex::new(false), Condvar::new()));
        let theirs = Arc::clone(&pair);
        let mut guard = pair.0.lock().unwrap();
        let thread = thread::spawn(move || {
            *theirs.0.lock().unwrap() = true;
            theirs.1.notify_one();
        });
        while !*guard {
            guard = pair.1.wait(guard).unwrap();
        }
        drop(guard);
        thread.join().unwrap();
    });
}

#[test]
fn notify_all_ends_all_waits() {
    within_limit(|| {
        const WAITERS: usize = 4;
        let shared = Arc::new((Mutex::new((0, false)), Condvar::new(), Condvar::new()));
        let threads: Vec<_> = (0..WAITERS)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (state, arrived, go) = &*shared;
                    let mut guard = state.lock().unwrap();
                    guard.0 += 1;
                    arrived.notify_one();
                    drop(go.wait_while(guard, |state| !state.1).unwrap());
                })
            })
            .collect();
        let (state, arrived, go) = &*shared;
        let guard = state.lock().unwrap();
        let mut guard = arrived.wait_while(guard, |state| state.0 < WAITERS).unwrap();
        // All have counted under this lock and given it up: all wait.
        guard.1 = true;
        go.notify_all();
        drop(guard);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn one_notification_for_each_waiter_is_enough() {
    within_limit(|| {
        const WAITERS: usize = 4;
        let shared = Arc::new((Mutex::new((0, 0)), Condvar::new(), Condvar::new()));
        let threads: Vec<_> = (0..WAITERS)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (state, arrived, go) = &*shared;
                    let mut guard = state.lock().unwrap();
                    guard.0 += 1;
                    arrived.notify_one();
                    let mut guard = go.wait_while(guard, |state| state.1 == 0).unwrap();
                    guard.1 -= 1;
                })
            })
            .collect();
        let (state, arrived, go) = &*shared;
        let guard = state.lock().unwrap();
        drop(arrived.wait_while(guard, |state| state.0 < WAITERS).unwrap());
        for _ in 0..WAITERS {
            state.lock().unwrap().1 += 1;
            go.notify_one();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(state.lock().unwrap().1, 0);
    });
}

#[test]
fn a_timeout_ends_a_wait() {
    let (mutex, condvar) = (Mutex::new(1), Condvar::new());
    let mut guard = mutex.lock().unwrap();
    let start = Instant::now();
    let timeout = Duration::from_millis(20);
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        let (again, result) = condvar.wait_timeout(guard, left).unwrap();
        guard = again;
        if result.timed_out() {
            break;
        }
    }
    assert!(start.elapsed() >= timeout);
    *guard = 2;
    assert!(mutex.try_lock().is_err(), "locked again");
}

#[test]
fn timeouts_of_nothing_and_of_ever() {
    within_limit(|| {
        let pair = Arc::new((Mutex::new(0), Condvar::new()));
        let guard = pair.0.lock().unwrap();
        let (guard, result) = pair.1.wait_timeout(guard, Duration::ZERO).unwrap();
        assert!(result.timed_out());
        let theirs = Arc::clone(&pair);
        let thread = thread::spawn(move || {
            *theirs.0.lock().unwrap() = 1;
            theirs.1.notify_all();
        });
        let (guard, result) =
            pair.1.wait_timeout_while(guard, Duration::MAX, |state| *state == 0).unwrap();
        assert!(!result.timed_out());
        assert_eq!(*guard, 1);
        drop(guard);
        thread.join().unwrap();
    });
}

#[test]
#[allow(deprecated)]
fn milliseconds() {
    within_limit(|| {
        let pair = Arc::new((Mutex::new(false), Condvar::new()));
        let (mut guard, mut in_time) = pair.1.wait_timeout_ms(pair.0.lock().unwrap(), 0).unwrap();
        assert!(!in_time, "false if the time was up");
        let theirs = Arc::clone(&pair);
        let thread = thread::spawn(move || {
            *theirs.0.lock().unwrap() = true;
            theirs.1.notify_one();
        });
        while !*guard {
            (guard, in_time) = pair.1.wait_timeout_ms(guard, u32::MAX).unwrap();
        }
        assert!(in_time);
        drop(guard);
        thread.join().unwrap();
    });
}

#[test]
fn conditions_are_asked_under_the_lock_and_may_change_the_data() {
    let (mutex, condvar) = (Mutex::new(0), Condvar::new());
    let locked = |asked: &mut u32| {
        *asked += 1;
        assert!(mutex.try_lock().is_err());
    };
    let guard = mutex.lock().unwrap();
    let guard = condvar
        .wait_while(guard, |asked| {
            locked(asked);
            false
        })
        .unwrap();
    let (guard, result) = condvar
        .wait_timeout_while(guard, Duration::ZERO, |asked| {
            locked(asked);
            true
        })
        .unwrap();
    assert!(result.timed_out());
    assert!(*guard >= 2, "asked once by each at least");
}

#[test]
fn a_condition_that_is_false_beats_the_timeout() {
    let mutex = Mutex::new(());
    let guard = mutex.lock().unwrap();
    let (_guard, result) =
        Condvar::new().wait_timeout_while(guard, Duration::ZERO, |()| false).unwrap();
    assert!(!result.timed_out());
}

#[test]
fn the_result_of_a_timed_wait() {
    fn result(timeout: Duration, condition: bool) -> WaitTimeoutResult {
        let mutex = Mutex::new(());
        let guard = mutex.lock().unwrap();
        Condvar::new().wait_timeout_while(guard, timeout, |()| condition).unwrap().1
    }
    let (up, in_time) = (result(Duration::ZERO, true), result(LONG, false));
    let copy = up;
    #[allow(clippy::clone_on_copy)]
    let clone = up.clone();
    assert!(up == copy && clone == up && up != in_time);
    assert_eq!(format!("{up:?} {in_time:?}"), "WaitTimeoutResult(true) WaitTimeoutResult(false)");
}

#[test]
fn one_condvar_with_one_mutex_after_the_other() {
    let condvar = Condvar::new();
    for mutex in [Mutex::new(1), Mutex::new(2)] {
        let guard = mutex.lock().unwrap();
        assert!(condvar.wait_timeout(guard, Duration::ZERO).unwrap().1.timed_out());
    }
}

#[test]
fn two_threads_play_ping_pong() {
    within_limit(|| {
        const ROUNDS: u32 = 500;
        let shared = Arc::new((Mutex::new(0), Condvar::new()));
        let play = |shared: &(Mutex<u32>, Condvar), turn: u32| {
            for round in 0..ROUNDS {
                let mut ball = shared
                    .1
                    .wait_while(shared.0.lock().unwrap(), |ball| *ball % 2 != turn)
                    .unwrap();
                assert_eq!(*ball, 2 * round + turn);
                *ball += 1;
                shared.1.notify_one();
            }
        };
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || play(&theirs, 1));
        play(&shared, 0);
        thread.join().unwrap();
    });
}
