//! The kernel refuses `membarrier`: before the first contention, after it, and during it.
//!
//! Each case runs in a process of its own, since a seccomp filter cannot be removed.
#![cfg(all(
    not(lockword_loom),
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

use lockword::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::asleep::Tid;
use support::child;
use support::seccomp::{Refuse, kill_on_membarrier, refuse, refuse_membarrier};
use support::slots::{counted, has_slots, is_biased, read_in_slot};

#[path = "../support"]
mod support {
    pub mod asleep;
    pub mod child;
    pub mod seccomp;
    pub mod slots;
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

/// The processors that this thread may use.
fn affinity() -> Vec<bool> {
    // SAFETY: a set of bits, for which all zeros are a value; the call writes this set only.
    unsafe {
        let mut set = std::mem::zeroed::<libc::cpu_set_t>();
        assert_eq!(libc::sched_getaffinity(0, size_of_val(&set), &raw mut set), 0);
        (0..libc::CPU_SETSIZE as usize).map(|processor| libc::CPU_ISSET(processor, &set)).collect()
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

/// Readers of two locks, which writers change now and then, and `meanwhile`. Nobody sees half of a change.
fn read_and_write(meanwhile: impl FnOnce()) {
    const ROUNDS: usize = 50_000;
    let locks = [const { RwLock::new((0_usize, 0_usize)) }; 2];
    let look = |pair: &(usize, usize)| assert_eq!(pair.0, pair.1, "a reader beside a writer");
    thread::scope(|scope| {
        for i in 0..threads() {
            let locks = &locks;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let lock = &locks[(i + round / 64) % 2];
                    if round % 500 == i {
                        let mut guard = lock.write();
                        guard.0 += 1;
                        if round % 3 == 0 {
                            thread::yield_now();
                        }
                        guard.1 += 1;
                    } else {
                        let guard = lock.read();
                        look(&guard);
                        if round % 256 == 0 {
                            thread::yield_now();
                        }
                        look(&guard);
                    }
                }
            });
        }
        meanwhile();
    });
    let written: usize = locks.iter().map(|lock| lock.read().0).sum();
    assert_eq!(written, ROUNDS / 500 * threads(), "a write is lost");
}

/// The readers of a lock whose word is counted, however many come: there is no bias.
fn is_never_biased() {
    let lock = RwLock::new(());
    // One in 64 would bias it, and 100 times the longest barrier would be over.
    let end = Instant::now() + Duration::from_millis(200);
    while Instant::now() < end {
        for _ in 0..1_000 {
            let _guard = lock.read();
            assert!(counted(&lock) == 1 && !is_biased(&lock), "biased, and there is no barrier");
        }
    }
}

fn everything() {
    hammer(|| {});
    read_and_write(|| {});
    is_never_biased();
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

/// The first writer that is refused the barrier makes sure in another way that it sees all readers.
fn a_biased_lock_is_written_after_the_refusal(refuse_barrier: &(dyn Fn() + Sync), alone: bool) {
    let locks = [const { RwLock::new(0) }; 2];
    // The budget allows one after the other.
    let mut guards: Vec<RwLockReadGuard<'_, u32>> = locks.iter().map(read_in_slot).collect();
    assert!(!has_slots() || locks.iter().all(is_biased));
    let had_slots = has_slots();
    refuse_barrier();
    if alone {
        // Nor may it visit the processors.
        refuse(libc::SYS_sched_setaffinity, libc::EPERM);
    }
    let before = affinity();
    // A slot that is seen is a reader, without any barrier.
    locks.iter().for_each(|lock| assert!(lock.try_write().is_none(), "a writer beside a reader"));
    drop(guards.pop());
    let start = Instant::now();
    *locks[1].write() += 1;
    // Stores of other threads are visible after that time, it is assumed.
    let waited = start.elapsed();
    assert!(
        !had_slots || waited >= Duration::from_millis(10),
        "{waited:?}: no reader was waited for"
    );
    // Though nobody has had to sleep yet.
    is_never_biased();
    let is_written = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(affinity(), before);
            *locks[0].write() += 1;
            is_written.store(true, Ordering::Relaxed);
            assert_eq!(affinity(), before, "the writer is not where it was");
        });
        // The writer waits for this reader, by what it has in place of the barrier.
        while locks[0].try_read().is_some() {
            thread::yield_now();
        }
        assert!(!is_written.load(Ordering::Relaxed), "a writer beside a reader");
        drop(guards);
    });
    assert!(!locks.iter().any(is_biased), "each lock pays once");
}

#[test]
fn refused_while_locks_are_biased() {
    in_children("refused_while_locks_are_biased", |refuse| {
        a_biased_lock_is_written_after_the_refusal(refuse, false);
        everything();
    });
}

#[test]
fn refused_with_the_processors() {
    in_children("refused_with_the_processors", |refuse| {
        a_biased_lock_is_written_after_the_refusal(refuse, true);
        everything();
    });
}

#[test]
fn refused_while_threads_read_and_write() {
    in_children("refused_while_threads_read_and_write", |refuse| {
        read_and_write(|| {});
        read_and_write(refuse);
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
            for role in ["at first", "later", "while locks are biased"] {
                child::run(TEST, role, DEADLINE).expect_success(role);
            }
        }
        Some("at first") => {
            lockword::init_with_fences();
            kill_on_membarrier();
            everything();
        }
        Some("while locks are biased") => {
            a_biased_lock_is_written_after_the_refusal(&lockword::init_with_fences, false);
            kill_on_membarrier();
            everything();
        }
        Some(_) => {
            hammer(|| {});
            read_and_write(lockword::init_with_fences);
            kill_on_membarrier();
            everything();
        }
    }
}
