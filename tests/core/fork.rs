//! Fork: the child has the locks of its parent, but none of the threads that wait for them.
//!
//! In the child, a lock works that was free at the fork or held by the forking thread, whichever
//! threads waited for it in the parent; the new threads of the child wake each other. In the parent
//! nothing changes.
//!
//! Linux only, since the test must know when a thread sleeps. Under ThreadSanitizer it needs
//! `TSAN_OPTIONS=die_after_fork=0`, since the child starts threads.
#![cfg(all(not(lockword_loom), target_os = "linux"))]

use lockword::{Condvar, Mutex};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use support::asleep::Tid;
use support::child::alone;
use support::forked::Forked;
use support::gate::Gate;
use support::setting::env_number;
use support::waiters::{counts, with_starving_waiter};

#[path = "../support"]
mod support {
    pub mod asleep;
    pub mod child;
    pub mod forked;
    pub mod gate;
    pub mod setting;
    pub mod waiters;
}

/// How many threads the child starts.
const NEW_THREADS: usize = 3;

/// How long a thread of the child may take to fall asleep, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(30);

/// The locks of one round. They live as long as the process: a forked child still has them.
#[derive(Default)]
struct Locks {
    /// Held at the fork by a thread that the child does not have.
    held: Mutex<u32>,
    /// Held at the fork by the forking thread; another thread is parked on it.
    parked: Mutex<u32>,
    /// Held at the fork by the forking thread; another is parked on it for the second time, and is
    /// starving.
    hogged: Mutex<u32>,
    /// Free at the fork; threads have parked on it before.
    veteran: Mutex<u32>,
    /// Just released by the forking thread: a waiter is awake, or on its way.
    waking: Mutex<u32>,
    /// No thread has used it.
    fresh: Mutex<u32>,
    /// A thread waits on it at the fork.
    condvar: Condvar,
    condition: Mutex<bool>,
    /// Keeps the parent's threads from ending at the fork.
    gate: Gate,
}

/// What the child does, and how the parent reads where it stopped.
struct Steps<'a> {
    number: &'a AtomicU32,
    stacks: Stacks,
}

/// Where the child's new threads have their stacks, and with them their thread-local data.
#[derive(Clone, Copy)]
enum Stacks {
    /// On new memory.
    New,
    /// On the stacks of the threads that the child does not have, which the C library uses again.
    /// This overwrites queue entries of those threads.
    OfTheDead,
}

impl Steps<'_> {
    fn begin(&self, step: u32) {
        self.number.store(step, Ordering::SeqCst);
    }
}

/// What the child does. It returns errors and does not panic, since it is a fork of a test harness.
fn child(locks: &'static Locks, steps: &Steps<'_>) -> Result<(), &'static str> {
    steps.begin(1);
    let all = [&locks.held, &locks.parked, &locks.hogged, &locks.veteran, &locks.waking];
    if all.iter().any(|lock| counts(lock) != (0, 0)) {
        return Err("the parent's waiters are still counted in the child");
    }
    let fresh = locks.fresh.try_lock().ok_or("a lock that nobody ever held is held")?;
    drop(fresh);
    contend(&locks.fresh, steps, 10)?;

    steps.begin(2);
    drop(locks.veteran.try_lock().ok_or("a lock that was free at the fork is held")?);
    contend(&locks.veteran, steps, 20)?;

    for (lock, step) in [(&locks.parked, 30), (&locks.hogged, 40)] {
        steps.begin(step);
        if lock.try_lock().is_some() {
            return Err("a lock that the forking thread holds is free in the child");
        }
        // The guard of the parent's stack is never dropped here, see `round`.
        // SAFETY: the forking thread, which goes on as this one, holds the lock.
        unsafe { lock.force_unlock(lock_api::GuardNoSend::new()) };
        let free = lock.try_lock().ok_or("handed to a thread that does not exist")?;
        drop(free);
        contend(lock, steps, step + 1)?;
    }

    steps.begin(50);
    if locks.held.try_lock().is_some() {
        return Err("a lock that another thread held at the fork is free in the child");
    }
    if locks.held.try_lock_for(Duration::from_millis(2)).is_some() {
        return Err("a lock that nobody released was acquired");
    }

    // Its waiter may have had the lock at the fork, or have been handed it: then it stays
    // held. If it is free, it works.
    steps.begin(60);
    if let Some(guard) = locks.waking.try_lock() {
        drop(guard);
        contend(&locks.waking, steps, 61)?;
    }

    steps.begin(70);
    converse(locks, steps)
}

/// New threads park on `lock`, which the caller holds: each must have it in turn.
fn contend(lock: &'static Mutex<u32>, steps: &Steps<'_>, step: u32) -> Result<(), &'static str> {
    steps.begin(step);
    let mut guard = lock.lock();
    let before = *guard;
    let tids: &'static [Tid; NEW_THREADS] = Box::leak(Box::default());
    let threads: Vec<_> = tids.iter().map(|tid| lock_once(lock, tid, steps.stacks)).collect();
    steps.begin(step + 1);
    if !tids.iter().all(|tid| tid.asleep_within(LIMIT)) {
        tids.iter().for_each(|tid| eprintln!("{}", tid.describe()));
        return Err("a new thread of the child does not park");
    }
    steps.begin(step + 2);
    *guard += 1;
    drop(guard);
    for thread in threads {
        thread.join().map_err(|_| "a new thread of the child failed")?;
    }
    let after = *lock.lock();
    if after == before + 1 + NEW_THREADS as u32 { Ok(()) } else { Err("an increment is lost") }
}

fn spawn(stacks: Stacks, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let builder = match stacks {
        // Larger than that of any thread that died: no old stack is large enough. And not so
        // large that the C library gives old stacks back.
        Stacks::New => thread::Builder::new().stack_size(4 << 20),
        Stacks::OfTheDead => thread::Builder::new(),
    };
    builder.spawn(body).expect("a thread starts")
}

fn lock_once(lock: &'static Mutex<u32>, tid: &'static Tid, stacks: Stacks) -> JoinHandle<()> {
    spawn(stacks, move || {
        tid.set();
        *lock.lock() += 1;
    })
}

/// A thread of the parent, whose stack the child may use again. It ends when the gate is open.
fn lock_once_and_stay(
    lock: &'static Mutex<u32>,
    tid: &'static Tid,
    gate: &'static Gate,
) -> JoinHandle<()> {
    spawn(Stacks::OfTheDead, move || {
        tid.set();
        *lock.lock() += 1;
        gate.pass();
    })
}

/// A new thread waits on the condvar on which a thread of the parent waits.
fn converse(locks: &'static Locks, steps: &Steps<'_>) -> Result<(), &'static str> {
    let tid: &'static Tid = Box::leak(Box::default());
    let waiter = wait_once(locks, tid, steps.stacks);
    if !tid.asleep_within(LIMIT) {
        eprintln!("{}", tid.describe());
        return Err("a new thread of the child does not wait");
    }
    steps.begin(71);
    *locks.condition.lock() = true;
    locks.condvar.notify_all();
    steps.begin(72);
    waiter.join().map_err(|_| "a new thread of the child failed")
}

fn wait_once(locks: &'static Locks, tid: &'static Tid, stacks: Stacks) -> JoinHandle<()> {
    spawn(stacks, move || {
        let mut condition = locks.condition.lock();
        tid.set();
        locks.condvar.wait_while(&mut condition, |condition| !*condition);
    })
}

/// The thread that holds `held` until it is told to let go.
fn hold(locks: &'static Locks, ready: Sender<()>, go: Receiver<()>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut guard = locks.held.lock();
        *guard += 1;
        ready.send(()).expect("the test waits");
        // Ends with an error when the test has failed: nothing to wait for then.
        let _ = go.recv();
    })
}

fn round(number: u64, stacks: Stacks) {
    // The parent's own threads, whose stacks the child may use again.
    const PARENT: Stacks = Stacks::OfTheDead;
    let locks: &'static Locks = Box::leak(Box::default());
    let tids: &'static [Tid; 4] = Box::leak(Box::default());

    // A history of parking on `veteran`, over at the fork.
    let guard = locks.veteran.lock();
    let earlier: Vec<_> =
        tids[..2].iter().map(|tid| lock_once(&locks.veteran, tid, PARENT)).collect();
    tids[..2].iter().for_each(Tid::wait_until_asleep);
    drop(guard);
    earlier.into_iter().for_each(|thread| thread.join().unwrap());
    tids[..2].iter().for_each(Tid::clear);

    let (ready, is_ready) = channel();
    let (go, may_go) = channel();
    let holder = hold(locks, ready, may_go);
    is_ready.recv().expect("the holder lives");

    // The guards must not be dropped in the child, where `child` unlocks in its own way.
    let stay = |lock, tid| lock_once_and_stay(lock, tid, &locks.gate);
    let start = || stay(&locks.hogged, Box::leak(Box::default()));
    let (hogged, starving) = with_starving_waiter(&locks.hogged, start);
    let (hogged, locked) = (ManuallyDrop::new(hogged), starving.len() as u32);
    let parked = ManuallyDrop::new(locks.parked.lock());
    let waking = locks.waking.lock();
    let waiters = [
        stay(&locks.parked, &tids[0]),
        stay(&locks.waking, &tids[1]),
        stay(&locks.held, &tids[2]),
        wait_once(locks, &tids[3], PARENT),
    ];
    tids.iter().for_each(Tid::wait_until_asleep);
    // In odd rounds a waiter is on its way at the fork; in even ones it has been and gone.
    drop(waking);
    if number.is_multiple_of(2) {
        while locks.waking.try_lock().is_none_or(|count| *count == 0) {
            thread::yield_now();
        }
    }

    let forked = Forked::start(|number| child(locks, &Steps { number, stacks }));
    forked.expect_success(3 * LIMIT);

    // The parent goes on, unharmed.
    locks.gate.open();
    drop(ManuallyDrop::into_inner(parked));
    drop(ManuallyDrop::into_inner(hogged));
    *locks.condition.lock() = true;
    locks.condvar.notify_all();
    go.send(()).expect("the holder lives");
    join_all(waiters.into_iter().chain(starving).chain([holder]));
    let counts = [&locks.hogged, &locks.parked, &locks.waking, &locks.held, &locks.veteran];
    assert_eq!(counts.map(|lock| *lock.lock()), [locked, 1, 1, 2, 2]);
}

/// Joins the threads, or panics when one of them waits for ever.
fn join_all(threads: impl Iterator<Item = JoinHandle<()>>) {
    let end = Instant::now() + Duration::from_secs(10);
    for (i, thread) in threads.enumerate() {
        while !thread.is_finished() {
            assert!(Instant::now() < end, "thread {i} of the parent is not woken after the fork");
            thread::yield_now();
        }
        thread.join().expect("no thread of the parent fails");
    }
}

fn rounds(stacks: Stacks) {
    for number in 0..env_number("LOCKWORD_FORK_ROUNDS", 200) {
        round(number, stacks);
    }
}

#[test]
fn locks_survive_a_fork() {
    alone("locks_survive_a_fork", 20 * LIMIT, || rounds(Stacks::New));
}

#[test]
fn locks_survive_a_fork_and_new_threads_on_old_stacks() {
    let name = "locks_survive_a_fork_and_new_threads_on_old_stacks";
    alone(name, 20 * LIMIT, || rounds(Stacks::OfTheDead));
}
