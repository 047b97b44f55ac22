//! Forks that are hard to notice: while other threads fork or park, before the crate's own handler
//! has run, and in a child that has the process number of its parent.
//!
//! Linux only, and under ThreadSanitizer with `TSAN_OPTIONS=die_after_fork=0`, as `fork.rs`.
#![cfg(all(not(lockword_loom), target_os = "linux"))]

use lockword::{Condvar, Mutex, MutexGuard};
use std::cell::Cell;
use std::mem::forget;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex as StdMutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use support::child::alone;
use support::forked::Forked;
use support::gate::Gate;
use support::waiters::{counts, state, waiters_within, with_starving_waiter};

#[path = "../support"]
mod support {
    pub mod child;
    pub mod forked;
    pub mod gate;
    pub mod waiters;
}

const SOON: Duration = Duration::from_secs(10);

/// How long a test may take in its own process.
const ALL_SOON: Duration = Duration::from_secs(60);

fn lock_once(lock: &'static Mutex<u32>) -> JoinHandle<()> {
    thread::spawn(|| *lock.lock() += 1)
}

/// As `lock_once`, and does not end before the gate is open.
fn lock_once_and_stay(lock: &'static Mutex<u32>, gate: &Arc<Gate>) -> JoinHandle<()> {
    let gate = Arc::clone(gate);
    thread::spawn(move || {
        *lock.lock() += 1;
        gate.pass();
    })
}

fn join_soon(thread: JoinHandle<()>) -> Result<(), &'static str> {
    let end = Instant::now() + SOON;
    while !thread.is_finished() {
        if Instant::now() >= end {
            return Err("a thread is not woken");
        }
        thread::yield_now();
    }
    thread.join().map_err(|_| "a thread failed")
}

/// In a child whose only thread held `lock` at the fork: unlocks it, and locks it again.
fn take_over(lock: &'static Mutex<u32>) -> Result<MutexGuard<'static, u32>, &'static str> {
    // SAFETY: this thread holds the lock, and the guard of before the fork is never used here.
    unsafe { lock.force_unlock(lock_api::GuardNoSend::new()) };
    lock.try_lock().ok_or("handed to a thread that does not exist")
}

/// Held by the forking thread; a starving waiter is parked on it.
static HELD: Mutex<u32> = Mutex::new(0);
/// What the handler in the child has to say, and the thread that it started.
static CHILD: StdMutex<Option<Result<JoinHandle<()>, &'static str>>> = StdMutex::new(None);
/// Asks the other thread to fork, and hears that it has.
static OTHER: StdMutex<Option<(Sender<()>, Receiver<()>)>> = StdMutex::new(None);

thread_local!(static FORKS: Cell<bool> = const { Cell::new(false) });

/// Runs in the parent after the crate's own, since it was registered before it.
extern "C" fn prepare() {
    if FORKS.get() {
        let other = OTHER.lock().unwrap();
        let (go, done) = other.as_ref().expect("there is another thread");
        go.send(()).expect("the other thread lives");
        // Where the C library lets one thread fork at a time, the other forks later.
        let _ = done.recv_timeout(Duration::from_secs(2));
    }
}

/// Runs in the child before the crate's own: unlocks, and starts a thread that parks.
extern "C" fn in_child() {
    if FORKS.get() {
        let unlock_and_park = || {
            let guard = take_over(&HELD)?;
            let thread = lock_once(&HELD);
            if !waiters_within(&HELD, 1, SOON) {
                return Err("a new thread of the child does not wait");
            }
            forget(guard);
            Ok(thread)
        };
        *CHILD.lock().unwrap() = Some(unlock_and_park());
    }
}

/// What the child does when all handlers have run: the thread that one of them has started must
/// not be forgotten.
fn after_the_handlers() -> Result<(), &'static str> {
    let thread = CHILD.lock().unwrap().take().ok_or("the handler has not run")??;
    if counts(&HELD) != (1, 0) {
        return Err("the waiters are not the one that the handler started");
    }
    // SAFETY: this thread holds the lock; the handler has forgotten the guard.
    unsafe { HELD.force_unlock(lock_api::GuardNoSend::new()) };
    join_soon(thread)
}

/// A lock whose waiters are not counted with those of `lock`.
fn elsewhere(lock: &Mutex<u32>) -> &'static Mutex<u32> {
    let bucket = |lock: &Mutex<u32>| state(lock).index;
    let mut locks = std::iter::repeat_with(|| &*Box::leak(Box::<Mutex<u32>>::default()));
    locks.find(|new| bucket(new) != bucket(lock)).expect("there are many")
}

/// The other thread: forks when it is told to, and then unlocks a lock that another waits for.
fn fork_and_unlock(lock: &'static Mutex<u32>, go: &Receiver<()>, done: &Sender<()>) {
    while go.recv().is_ok() {
        let guard = lock.lock();
        let waiter = lock_once(lock);
        assert!(waiters_within(lock, 1, SOON));
        Forked::start(|_| Ok(())).expect_success(SOON);
        drop(guard);
        join_soon(waiter).expect("the parent's own threads wake each other");
        let _ = done.send(());
    }
}

/// A handler that was registered before ours unlocks in the child, and starts a thread there,
/// while ours has yet to run. And another thread of the parent has forked meanwhile.
#[test]
fn an_earlier_handler_unlocks_in_the_child() {
    alone("an_earlier_handler_unlocks_in_the_child", ALL_SOON, unlock_in_handlers);
}

fn unlock_in_handlers() {
    // SAFETY: the handlers do what the C library allows in them.
    assert_eq!(unsafe { libc::pthread_atfork(Some(prepare), None, Some(in_child)) }, 0);
    lockword::init();
    let (go, told) = channel();
    let (tell, done) = channel();
    *OTHER.lock().unwrap() = Some((go, done));
    let theirs = elsewhere(&HELD);
    let other = thread::spawn(move || fork_and_unlock(theirs, &told, &tell));
    let rounds = 30;
    for _ in 0..rounds {
        let before = *HELD.lock();
        let gate = Arc::default();
        let start = || lock_once_and_stay(&HELD, &gate);
        let (guard, threads) = with_starving_waiter(&HELD, start);
        let number = threads.len() as u32;
        FORKS.set(true);
        let forked = Forked::start(|_| after_the_handlers());
        FORKS.set(false);
        forked.expect_success(SOON * 3);
        gate.open();
        drop(guard);
        threads.into_iter().for_each(|thread| join_soon(thread).unwrap());
        assert_eq!(*HELD.lock(), before + number);
    }
    *OTHER.lock().unwrap() = None;
    join_soon(other).unwrap();
}

/// The step of a child that may not have a namespace of its own.
const REFUSED: u32 = 1;

/// The next child is the first process of a new namespace. Returns whether that is allowed.
fn unshare() -> bool {
    // SAFETY: changes what becomes of this process's children, and nothing in memory.
    unsafe {
        libc::unshare(libc::CLONE_NEWPID) == 0
            || libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID) == 0
    }
}

/// Ends with its parent, and is number 1 as the parent is.
fn first_process() -> Result<(), &'static str> {
    // SAFETY: neither touches memory.
    let (_, pid) = unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), libc::getpid()) };
    if pid == 1 { Ok(()) } else { Err("not the first process of its namespace") }
}

/// The parent with the number 1: a starving waiter is parked when it forks.
fn first_parent() -> Result<(), &'static str> {
    first_process()?;
    let lock: &'static Mutex<u32> = Box::leak(Box::default());
    let gate = Arc::default();
    let (guard, threads) = with_starving_waiter(lock, || lock_once_and_stay(lock, &gate));
    if !unshare() {
        return Err("a second namespace is refused");
    }
    Forked::start(|_| first_child(lock)).expect_success(SOON * 2);
    gate.open();
    drop(guard);
    threads.into_iter().try_for_each(join_soon)
}

/// Its child, with the number 1, too.
fn first_child(lock: &'static Mutex<u32>) -> Result<(), &'static str> {
    first_process()?;
    if counts(lock) != (0, 0) {
        return Err("the parent's waiters are still counted in the child");
    }
    let guard = take_over(lock)?;
    let threads = [(); 3].map(|()| lock_once(lock));
    if !waiters_within(lock, threads.len(), SOON) {
        return Err("the new threads of the child do not wait");
    }
    drop(guard);
    threads.into_iter().try_for_each(join_soon)
}

/// A child that has the same process number as its parent.
#[test]
fn a_child_with_the_number_of_its_parent() {
    alone("a_child_with_the_number_of_its_parent", ALL_SOON, keep_the_number);
}

fn keep_the_number() {
    // So that all of those below are children who know it, and park where children do.
    lockword::init();
    let forked = Forked::start(|step| {
        if !unshare() {
            step.store(REFUSED, Ordering::SeqCst);
            return Ok(());
        }
        Forked::start(|_| first_parent()).expect_success(SOON * 3);
        Ok(())
    });
    forked.expect_success(SOON * 4);
    if forked.step() == REFUSED {
        eprintln!("skipped: this process may not unshare its process numbers");
    }
}

/// In the parent, threads enter and leave its queue all the time.
static BUSY: Condvar = Condvar::new();

/// Threads of a child wake each other there, too.
fn converse() -> Result<(), &'static str> {
    BUSY.notify_all();
    let lock: &'static Mutex<u32> = Box::leak(Box::default());
    let waiter = thread::spawn(|| BUSY.wait_while(&mut lock.lock(), |said| *said == 0));
    *lock.lock() = 1;
    BUSY.notify_all();
    join_soon(waiter)
}

/// Forks while other threads are in the middle of parking: what they hold of the crate's own
/// parking lot must not go into the child.
#[test]
fn a_fork_in_the_middle_of_parking() {
    alone("a_fork_in_the_middle_of_parking", ALL_SOON, fork_while_others_park);
}

fn fork_while_others_park() {
    // So that the first child knows that it is one, and parks in that lot.
    lockword::init();
    let first = |step: &AtomicU32| {
        // No thread is starting when this one forks: see `Gate`.
        let started = Arc::new(Barrier::new(3));
        for _ in 0..2 {
            let started = Arc::clone(&started);
            thread::spawn(move || {
                started.wait();
                let lock = Mutex::new(());
                loop {
                    BUSY.wait_for(&mut lock.lock(), Duration::ZERO);
                }
            });
        }
        started.wait();
        for round in 0..300 {
            step.store(round, Ordering::SeqCst);
            Forked::start(|_| converse()).expect_success(SOON);
        }
        Ok(())
    };
    Forked::start(first).expect_success(SOON * 3);
}
