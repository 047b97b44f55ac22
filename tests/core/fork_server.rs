//! A fork server: a process that forks children while its threads wait for locks. A child has the speed
//! of its parent, and its thread is who it was.
//!
//! Linux only, and under ThreadSanitizer with `TSAN_OPTIONS=die_after_fork=0`, as `fork.rs`.
#![cfg(all(not(lockword_loom), target_os = "linux"))]

use lockword::{Condvar, Mutex, MutexGuard, ReentrantMutex};
use std::cell::Cell;
use std::hint::spin_loop;
use std::mem::{MaybeUninit, forget};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex as StdMutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use support::affinity::bind;
use support::asleep::Tid;
use support::child::alone;
use support::forked::Forked;
use support::gate::Gate;

#[path = "../support"]
mod support {
    pub mod affinity;
    pub mod asleep;
    pub mod child;
    pub mod forked;
    pub mod gate;
}

const SOON: Duration = Duration::from_secs(60);

/// Measurements of parent and child, in turns.
const ROUNDS: usize = 7;
/// For how long a child may look slow: where much else runs, it takes many rounds until both have had a quiet moment.
const LIMIT: Duration = Duration::from_secs(30);

/// The measurements run one at a time.
static ALONE: StdMutex<()> = StdMutex::new(());

/// How much slower a child may be. The best round of each counts: what else the machine does slows a
/// round down, and never makes it faster.
const BOUND: f64 = 2.0;

/// How long the uncontended lock is used before it is measured: what an earlier waiter has left behind
/// goes in a twentieth of a second.
const WARM_UP: Duration = Duration::from_millis(150);

/// The processor time of many uncontended locks and unlocks, in microseconds.
fn uncontended(lock: &'static Mutex<u32>) -> u32 {
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        *lock.lock() += 1;
    }
    let before = used();
    for _ in 0..500_000 {
        *lock.lock() += 1;
    }
    (used() - before).as_micros() as u32
}

/// The processor time of the calling thread.
fn used() -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the clock's number is a known one, and the memory is ours to write.
    let ret = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr()) };
    assert_eq!(ret, 0, "the clock is here");
    // SAFETY: all zeros are a time, too.
    let time = unsafe { time.assume_init() };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn work(looks: u32) {
    (0..looks).for_each(|_| spin_loop());
}

/// The time in which three threads have done their sections, in microseconds. Every other unlock hands
/// the lock to a waiter.
fn contended(lock: &'static Mutex<u32>) -> u32 {
    let start = Instant::now();
    let section = move || {
        for round in 0..2_000 {
            let mut guard = lock.lock();
            work(50);
            *guard += 1;
            if round % 2 == 0 {
                MutexGuard::unlock_fair(guard);
            } else {
                drop(guard);
            }
            work(100);
        }
    };
    let threads = [(); 3].map(|()| thread::spawn(section));
    // Joined, not only finished: no thread ends while its parent forks.
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    start.elapsed().as_micros() as u32
}

/// The time in which two threads have passed the turn to each other, in microseconds: each turn is a
/// wake-up that the other thread waits for.
///
/// Each has a processor of its own, if there are two: one of the two threads runs at a time, so the scheduler may leave
/// both on one processor for as long as they live, where a turn takes seven times as long.
fn turns(lock: &'static Mutex<u32>) -> u32 {
    const TURNS: u32 = 2_000;
    let start = Instant::now();
    let condvar: &'static Condvar = Box::leak(Box::default());
    *lock.lock() = 0;
    let threads = [0, 1].map(|number| {
        thread::spawn(move || {
            bind(number as usize);
            let mut turn = lock.lock();
            while *turn < TURNS {
                if *turn % 2 == number {
                    *turn += 1;
                    condvar.notify_one();
                } else {
                    condvar.wait(&mut turn);
                }
            }
            condvar.notify_one();
        })
    });
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    start.elapsed().as_micros() as u32
}

/// A lock that the calling thread holds and for which another waits, until the gate is open.
fn waited_for(gate: &Arc<Gate>) -> (MutexGuard<'static, u32>, &'static Mutex<u32>, JoinHandle<()>) {
    let lock: &'static Mutex<u32> = Box::leak(Box::default());
    let (tid, gate) = (Arc::new(Tid::default()), Arc::clone(gate));
    let guard = lock.lock();
    let told = Arc::clone(&tid);
    let thread = thread::spawn(move || {
        told.set();
        *lock.lock() += 1;
        gate.pass();
    });
    tid.wait_until_asleep();
    (guard, lock, thread)
}

/// In a child: frees the lock, which its only thread held at the fork.
fn free(lock: &'static Mutex<u32>) {
    // SAFETY: this thread holds the lock, and the guard of before the fork is never used here.
    unsafe { lock.force_unlock(lock_api::GuardNoSend::new()) };
}

/// The child measures on a lock that threads of its parent wait for; the parent on one of its own.
fn as_fast_as_its_parent(measure: fn(&'static Mutex<u32>) -> u32) {
    lockword::init();
    let own: &'static Mutex<u32> = Box::leak(Box::default());
    let mut rounds = vec![];
    let ratio = |rounds: &[(u32, u32)]| {
        let best = |of: fn(&(u32, u32)) -> u32| rounds.iter().map(of).min().expect("some rounds");
        f64::from(best(|round| round.1)) / f64::from(best(|round| round.0))
    };
    let start = Instant::now();
    // The first round warms up. The best of each are compared; a child that is slow is so in all of them.
    for round in 0.. {
        if round > ROUNDS && (ratio(&rounds) < BOUND || start.elapsed() > LIMIT) {
            break;
        }
        let parent = measure(own);
        let gate = Arc::default();
        let (guard, lock, thread) = waited_for(&gate);
        let forked = Forked::start(|result| {
            free(lock);
            result.store(measure(lock), Ordering::SeqCst);
            Ok(())
        });
        forked.expect_success(SOON);
        drop(guard);
        gate.open();
        thread.join().expect("the parent's waiter is woken");
        if round > 0 {
            rounds.push((parent, forked.step()));
        }
    }
    println!("parent us, child us: {rounds:?}");
    let ratio = ratio(&rounds);
    println!("child / parent: {ratio:.2}");
    assert!(ratio < BOUND, "a child takes {ratio:.2} times as long: {rounds:?}");
}

#[test]
fn a_child_is_as_fast_uncontended() {
    let _alone = ALONE.lock();
    let name = "a_child_is_as_fast_uncontended";
    alone(name, 10 * SOON, || as_fast_as_its_parent(uncontended));
}

#[test]
fn a_child_is_as_fast_contended() {
    let _alone = ALONE.lock();
    let name = "a_child_is_as_fast_contended";
    alone(name, 10 * SOON, || as_fast_as_its_parent(contended));
}

#[test]
fn a_child_is_as_fast_at_taking_turns() {
    let _alone = ALONE.lock();
    let name = "a_child_is_as_fast_at_taking_turns";
    alone(name, 10 * SOON, || as_fast_as_its_parent(turns));
}

/// What the forking thread holds, and what a thread holds that is not in the child.
#[derive(Default)]
struct Owned {
    mine: ReentrantMutex<Cell<u32>>,
    theirs: ReentrantMutex<()>,
}

/// The only thread of the child owns what it owned; no thread owns what the others did.
fn check_owners(owned: &'static Owned) -> Result<(), &'static str> {
    if !owned.mine.is_owned_by_current_thread() || owned.mine.try_lock().is_none() {
        return Err("the forking thread has lost its identity");
    }
    for _ in 0..20 {
        let stranger = thread::spawn(|| {
            let owns_nothing = [owned.mine.try_lock().is_none(), owned.theirs.try_lock().is_none()];
            // The next thread must not be taken for this one either.
            let own: &'static ReentrantMutex<()> = Box::leak(Box::default());
            forget(own.lock());
            (owns_nothing, own)
        });
        let (owns_nothing, own) = stranger.join().map_err(|_| "a thread of the child failed")?;
        if owns_nothing != [true; 2] || own.try_lock().is_some() {
            return Err("a thread of the child has the identity of another");
        }
    }
    Ok(())
}

#[test]
fn a_child_owns_what_its_thread_owned() {
    alone("a_child_owns_what_its_thread_owned", 2 * SOON, || {
        let owned: &'static Owned = Box::leak(Box::default());
        let guard = owned.mine.lock();
        thread::spawn(|| forget(owned.theirs.lock())).join().expect("no panic");
        Forked::start(|_| check_owners(owned)).expect_success(SOON);
        drop(guard);
        assert!(!owned.mine.is_locked() && owned.theirs.is_locked());
    });
}
