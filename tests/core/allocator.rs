//! A lock inside the global allocator: each allocation and each release takes it.
//!
//! So a lock must not allocate where it waits. It would come back to itself, which the allocator notices,
//! or hold something of its own meanwhile and wait for ever, which the deadline notices.
//!
//! Linux only, where waiting allocates nothing (see Limits in the crate's docs).
#![cfg(all(not(lockword_loom), target_os = "linux"))]

use lockword::{Condvar, Mutex, MutexGuard};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::hint::spin_loop;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use support::child::alone;

#[path = "../support"]
mod support {
    pub mod child;
}

/// A lost wake-up hangs the child; a slow machine needs a fraction of this.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the lock guards.
struct State {
    /// The calls so far.
    calls: u64,
    /// What is allocated, less what is released.
    live: i64,
    /// Another thread is inside.
    inside: bool,
}

struct Locked;

#[global_allocator]
static ALLOCATOR: Locked = Locked;

static STATE: Mutex<State> = Mutex::new(State { calls: 0, live: 0, inside: false });

/// Told of each release.
static RELEASED: Condvar = Condvar::new();

/// Whether the allocator locks: only in the process of the test.
static LOCKS: AtomicBool = AtomicBool::new(false);

/// Whether some allocations wait for a release.
static WAITS: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether this thread is in the allocator. It has no destructor and no lazy value, so that to
    /// look at it allocates nothing.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Ends the process, with a message that needs no memory.
fn fail(why: &str) -> ! {
    // SAFETY: the bytes of the text, to standard error.
    unsafe { libc::write(2, why.as_ptr().cast(), why.len()) };
    std::process::abort()
}

/// Locks, does `change` and the rest of a section, and unlocks.
fn section(change: impl FnOnce(&mut MutexGuard<'_, State>)) {
    if INSIDE.replace(true) {
        fail("the lock of the allocator has allocated\n");
    }
    let mut state = STATE.lock();
    if std::mem::replace(&mut state.inside, true) {
        fail("two threads are in the allocator\n");
    }
    state.calls += 1;
    let calls = state.calls;
    if calls.is_multiple_of(64) {
        // Longer than others spin: they park.
        (0..20_000).for_each(|_| spin_loop());
    }
    state.inside = false;
    change(&mut state);
    match calls % 8 {
        0 => MutexGuard::unlock_fair(state),
        1 => {
            MutexGuard::bump(&mut state);
            drop(state);
        }
        _ => drop(state),
    }
    if calls % 8 == 2 {
        drop(STATE.try_lock_for(Duration::from_micros(50)));
    }
    INSIDE.set(false);
}

// SAFETY: the memory is the system's; the lock only counts.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if LOCKS.load(Ordering::Relaxed) {
            section(|state| {
                if state.calls.is_multiple_of(16) && WAITS.load(Ordering::Relaxed) {
                    // As an allocator with a limit waits for memory that is released.
                    RELEASED.wait_for(state, Duration::from_micros(100));
                }
                state.live += 1;
            });
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if LOCKS.load(Ordering::Relaxed) {
            section(|state| {
                state.live -= 1;
                RELEASED.notify_one();
            });
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// How often the calling thread has gone to sleep.
fn sleeps() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the memory is ours to write.
    let ret = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    assert_eq!(ret, 0);
    // SAFETY: all zeros are a value, too.
    unsafe { usage.assume_init() }.ru_nvcsw as u64
}

/// Sleeps of the threads in `work`, where only the allocator's lock makes them sleep.
static SLEPT: AtomicU64 = AtomicU64::new(0);

/// Allocates and releases, much and of all sizes.
fn work(seed: usize) -> BTreeMap<usize, String> {
    let before = sleeps();
    let mut map = BTreeMap::new();
    for i in 0..400 {
        let key = (i * 7 + seed) % 61;
        map.insert(key, "x".repeat(1 + key * 3));
        if i % 3 == 0 {
            map.remove(&(key / 2));
        }
    }
    SLEPT.fetch_add(sleeps() - before, Ordering::Relaxed);
    map
}

/// Threads start, allocate, release what others have allocated, and end, while others do.
fn run() {
    const THREADS: usize = 4;
    for round in 0..20 {
        let (send, receive) = channel();
        let workers = [(); THREADS].map(|()| {
            let send = send.clone();
            thread::spawn(move || send.send(work(round)).expect("the test listens"))
        });
        drop(send);
        let total: usize =
            receive.iter().map(|map| map.values().map(String::len).sum::<usize>()).sum();
        workers.into_iter().map(JoinHandle::join).for_each(|ended| ended.expect("no panic"));
        assert_ne!(total, 0);
    }
}

/// The profile counts in the allocator, and allocates nothing there.
#[cfg(feature = "profile")]
fn assert_profiled(calls: u64) {
    let report = lockword::profile::report();
    println!("{report}");
    // At one place in `section` all do.
    let most = report.places.iter().map(|place| place.acquisitions).max().unwrap();
    assert!(most.abs_diff(calls) < calls / 5, "{most} of {calls}");
    assert!(report.places.iter().any(|place| place.contended > 20 && place.holds.count > 0));
}

#[test]
fn a_lock_inside_the_global_allocator() {
    alone("a_lock_inside_the_global_allocator", DEADLINE, || {
        #[cfg(feature = "profile")]
        lockword::profile::start();
        LOCKS.store(true, Ordering::Relaxed);
        run();
        #[cfg(feature = "profile")]
        drop(lockword::profile::report());
        let slept = SLEPT.load(Ordering::Relaxed);
        WAITS.store(true, Ordering::Relaxed);
        run();
        LOCKS.store(false, Ordering::Relaxed);
        let (calls, live) = {
            let state = STATE.lock();
            (state.calls, state.live)
        };
        #[cfg(feature = "profile")]
        assert_profiled(calls);
        println!("{calls} calls, {live} live, {slept} sleeps without the Condvar");
        assert!(calls > 20_000, "{calls} calls");
        assert!(slept > 20, "only {slept} sleeps: nobody has parked");
        // What the threads have left is what std keeps of them, and that is bounded.
        assert!(live.abs() < 100, "{live} allocations are counted wrongly");
    });
}
