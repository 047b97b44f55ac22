//! The kernel refuses `membarrier`: before the first contention, after it, and during it.
//!
//! Each case runs in a process of its own, since a seccomp filter cannot be removed.
#![cfg(all(
    not(lockword_loom),
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

use lockword::{Condvar, Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::asleep::Tid;
use support::child;
use support::seccomp::{Refuse, kill_on_membarrier, refuse_membarrier};

#[path = "../support"]
mod support {
    pub mod asleep;
    pub mod child;
    pub mod seccomp;
}

/// A lost wake-up hangs the child; a slow machine needs a fraction of this.
const DEADLINE: Duration = Duration::from_secs(120);

const CASES: &[(&str, Refuse, i32)] = &[
    ("EPERM", Refuse::All, libc::EPERM),
    ("ENOSYS", Refuse::All, libc::ENOSYS),
    ("EPERM of the barrier", Refuse::Barrier, libc::EPERM),
];

/// Runs `body` once for each case, in a child. `body` calls what it is given to refuse.
fn in_children(test: &str, body: fn(&(dyn Fn() + Sync))) {
    if let Some(role) = child::role() {
        let &(_, refuse, errno) =
            CASES.iter().find(|(name, ..)| *name == role).expect("a role is the name of a case");
        return body(&|| refuse_membarrier(refuse, errno));
    }
    for (name, ..) in CASES {
        child::run(test, name, DEADLINE).expect_success(name);
    }
}

fn threads() -> usize {
    2 * thread::available_parallelism().map_or(2, usize::from).max(2)
}

/// Many short critical sections on two locks by more threads than processors, and `meanwhile`.
fn hammer(meanwhile: impl FnOnce()) {
    const ROUNDS: usize = 50_000;
    let locks = [const { Mutex::new(0_usize) }; 2];
    thread::scope(|scope| {
        for i in 0..threads() {
            let locks = &locks;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let mut guard = locks[(i + round / 64) % 2].lock();
                    *guard += 1;
                    if round % 256 == 0 {
                        thread::yield_now();
                    }
                    match round % 4 {
                        0 => MutexGuard::unlock_fair(guard),
                        _ => drop(guard),
                    }
                }
            });
        }
        meanwhile();
    });
    let entered: usize = locks.iter().map(|lock| *lock.lock()).sum();
    assert_eq!(entered, ROUNDS * threads(), "an increment is lost");
}

/// Every thread parks, and only then, and after `meanwhile`, is the lock released.
fn park_all(rounds: usize, meanwhile: impl Fn()) {
    for _ in 0..rounds {
        let lock = Mutex::new(0);
        let tids: Vec<Tid> = (0..threads()).map(|_| Tid::default()).collect();
        thread::scope(|scope| {
            let guard = lock.lock();
            for tid in &tids {
                scope.spawn(|| {
                    tid.set();
                    *lock.lock() += 1;
                });
            }
            tids.iter().for_each(Tid::wait_until_asleep);
            meanwhile();
            drop(guard);
        });
        assert_eq!(lock.into_inner(), threads(), "an increment is lost");
    }
}

/// Two threads pass the turn to each other through a condvar, without timeouts.
fn ping_pong() {
    const TURNS: usize = 2_000;
    let turn = Mutex::new(0);
    let changed = Condvar::new();
    thread::scope(|scope| {
        for i in 0..2 {
            let (turn, changed) = (&turn, &changed);
            scope.spawn(move || {
                let mut guard = turn.lock();
                while *guard < TURNS {
                    if *guard % 2 == i {
                        *guard += 1;
                        changed.notify_one();
                    } else {
                        changed.wait(&mut guard);
                    }
                }
                changed.notify_one();
            });
        }
    });
    assert_eq!(turn.into_inner(), TURNS);
}

/// The threads parked at the refusal look again for a moment. After that a parked thread sleeps on.
fn parked_threads_sleep_soundly() {
    let lock = Mutex::new(());
    let tid = Tid::default();
    thread::scope(|scope| {
        let guard = lock.lock();
        scope.spawn(|| {
            tid.set();
            drop(lock.lock());
        });
        // Longer than a moment, and than a thread takes to start and to park.
        let pass = |time| {
            let end = Instant::now() + time;
            while Instant::now() < end {
                thread::yield_now();
            }
        };
        tid.wait_until_asleep();
        pass(Duration::from_millis(50));
        let sleeps = tid.sleeps();
        pass(Duration::from_millis(200));
        assert_eq!(tid.sleeps(), sleeps, "a parked thread wakes for no reason");
        drop(guard);
    });
}

fn everything() {
    hammer(|| {});
    park_all(20, || {});
    ping_pong();
    parked_threads_sleep_soundly();
}

#[test]
fn refused_before_the_first_contention() {
    in_children("refused_before_the_first_contention", |refuse| {
        refuse();
        everything();
    });
}

#[test]
fn refused_after_the_first_contention() {
    in_children("refused_after_the_first_contention", |refuse| {
        park_all(2, || {});
        hammer(|| {});
        refuse();
        everything();
    });
}

#[test]
fn refused_while_threads_contend() {
    in_children("refused_while_threads_contend", |refuse| {
        hammer(refuse);
        everything();
    });
}

#[test]
fn refused_while_threads_are_parked() {
    in_children("refused_while_threads_are_parked", |refuse| {
        let refused = AtomicBool::new(false);
        park_all(3, || {
            if !refused.swap(true, Ordering::Relaxed) {
                refuse();
            }
        });
        everything();
    });
}

/// The program chooses fences, before the first contention or while threads contend, and calls
/// `membarrier` no more: a filter that kills for it does no harm.
#[test]
fn fences_are_chosen_at_run_time() {
    const TEST: &str = "fences_are_chosen_at_run_time";
    match child::role().as_deref() {
        None => {
            child::run(TEST, "at first", DEADLINE).expect_success("at first");
            child::run(TEST, "later", DEADLINE).expect_success("later");
        }
        Some("at first") => {
            lockword::init_with_fences();
            kill_on_membarrier();
            everything();
        }
        Some(_) => {
            hammer(lockword::init_with_fences);
            kill_on_membarrier();
            everything();
        }
    }
}
