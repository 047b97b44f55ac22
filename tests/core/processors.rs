//! What the first contention of a process finds out about its surroundings: nothing that a sandbox
//! forbids, and nothing of the one thread that meets it.
//!
//! Each case runs in a process of its own, since each process has one first contention.
#![cfg(all(
    not(lockword_loom),
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

use lockword::{Condvar, Mutex};
use std::hint::spin_loop;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Barrier, Mutex as StdMutex};
use std::thread;
use std::time::Duration;
use support::affinity::bind;
use support::asleep::Tid;
use support::child;
use support::seccomp::{kill_on_open, refuse_requeue};

#[path = "../support"]
mod support {
    pub mod affinity;
    pub mod asleep;
    pub mod child;
    pub mod seccomp;
}

const DEADLINE: Duration = Duration::from_secs(60);

/// The kinds of lock that live, or not, under the filter.
const STD: &str = "std";
const LOCKWORD: &str = "lockword";

/// What a child prints that has come to its end.
const ALIVE: &str = "has lived";

/// Threads contend after the filter was installed, and only then. `section` runs one section.
fn contend_under_filter(section: impl Fn() + Sync) {
    let installed = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                // The C library's allocator gets ready for the thread before the filter is there.
                drop(vec![0_u8; 100]);
                installed.wait();
                (0..2_000).for_each(|_| section());
            });
        }
        drop(vec![0_u8; 100]);
        kill_on_open();
        installed.wait();
        (0..2_000).for_each(|_| section());
    });
}

fn work(looks: u32) {
    (0..looks).for_each(|_| spin_loop());
}

/// Each section is long enough for others to park.
const SECTION: u32 = 2_000;

/// The filter kills the process at the first file that it opens.
#[test]
fn a_contended_lock_opens_no_file() {
    const TEST: &str = "a_contended_lock_opens_no_file";
    if let Some(role) = child::role() {
        let (std, own) = (StdMutex::new(0), Mutex::new(0));
        let condvar = Condvar::new();
        match &*role {
            STD => contend_under_filter(|| {
                let mut count = std.lock().expect("no panic");
                *count += 1;
                work(SECTION);
            }),
            _ => contend_under_filter(|| {
                let mut count = own.lock();
                *count += 1;
                work(SECTION);
                match *count % 64 {
                    0 => drop(condvar.wait_for(&mut count, Duration::from_micros(100))),
                    1 => drop(condvar.notify_all()),
                    _ => {}
                }
                drop(count);
                drop(own.try_lock_for(Duration::from_micros(20)));
            }),
        }
        println!("{ALIVE}");
        // What the test harness does at its end is not what is tested.
        std::process::exit(0);
    }
    // std's shows that nothing else of the test opens a file.
    for role in [STD, LOCKWORD] {
        let ended = child::run(TEST, role, DEADLINE);
        ended.expect_success(role);
        assert!(ended.output.contains(ALIVE), "{role}: {}", ended.output);
    }
}

/// Which threads meet the first contention.
const PINNED: &str = "pinned";
const FREE: &str = "free";

/// One thread, bound or not, parks for a lock. Nobody has before.
fn first_contention(bound: bool) {
    let (lock, tid) = (Mutex::new(0), Tid::default());
    thread::scope(|scope| {
        let guard = lock.lock();
        scope.spawn(|| {
            if bound {
                bind(0);
            }
            tid.set();
            *lock.lock() += 1;
        });
        tid.wait_until_asleep();
        drop(guard);
    });
}

/// How often the calling thread has gone to sleep.
fn sleeps() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the memory is ours to write.
    let ret = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    assert_eq!(ret, 0, "usage: {}", io::Error::last_os_error());
    // SAFETY: all zeros are a value, too.
    unsafe { usage.assume_init() }.ru_nvcsw as u64
}

/// Waits until the number is reached, without sleeping: to yield is not counted as a sleep.
fn wait_for(number: &AtomicU32, reached: u32) {
    let mut looks = 0;
    while number.load(Ordering::Acquire) < reached {
        looks += 1;
        if looks > 1_000 {
            thread::yield_now();
        }
        spin_loop();
    }
}

const WAITS: u32 = 2_000;

/// How often a thread sleeps that waits for a section to end which is nearly over when it comes, on
/// another processor.
fn sleeps_of_short_waits() -> u64 {
    let lock = Mutex::new(());
    let [held, coming, done] = [const { AtomicU32::new(0) }; 3];
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            bind(0);
            let before = sleeps();
            for round in 1..=WAITS {
                wait_for(&held, round);
                coming.store(round, Ordering::Release);
                drop(lock.lock());
                done.store(round, Ordering::Release);
            }
            sleeps() - before
        });
        bind(1);
        for round in 1..=WAITS {
            let guard = lock.lock();
            held.store(round, Ordering::Release);
            wait_for(&coming, round);
            work(30);
            drop(guard);
            wait_for(&done, round);
        }
        waiter.join().expect("no panic")
    })
}

/// The number of sleeps that a child has printed.
fn sleeps_of(role: &str) -> u64 {
    let ended = child::run("a_pinned_first_contention_leaves_spinning_on", role, DEADLINE);
    ended.expect_success(role);
    let number = ended.output.lines().find_map(|line| line.strip_prefix("sleeps: "));
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{}", ended.output))
}

/// The kernel's count of voluntary context switches tells whether threads spin. Where other processes
/// take the processors away, they sleep though they spin: so the best of several processes counts, of
/// those whose first contention was met by a bound thread and of the others in turns.
#[test]
fn a_pinned_first_contention_leaves_spinning_on() {
    if let Some(role) = child::role() {
        first_contention(role == PINNED);
        // A line of its own: the harness has begun one.
        println!("\nsleeps: {}", sleeps_of_short_waits());
        return;
    }
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        eprintln!("skipped: nobody spins on one processor");
        return;
    }
    let all: Vec<_> = (0..5).map(|_| (sleeps_of(PINNED), sleeps_of(FREE))).collect();
    println!("of {WAITS} waits sleep, after a bound thread's first contention and else: {all:?}");
    let best = |of: fn(&(u64, u64)) -> u64| all.iter().map(of).min().expect("five");
    assert!(
        best(|sleeps| sleeps.0) < best(|sleeps| sleeps.1) + u64::from(WAITS / 4),
        "of {WAITS} waits sleep, after a bound thread's first contention and else: {all:?}"
    );
}

/// A filter that lets threads sleep and wake, and refuses the rest, costs `notify_all` no wake-up.
#[test]
fn notify_all_wakes_where_requeuing_is_refused() {
    const TEST: &str = "notify_all_wakes_where_requeuing_is_refused";
    const WAITERS: usize = 4;
    if child::role().is_none() {
        return child::run(TEST, "filtered", DEADLINE).expect_success(TEST);
    }
    refuse_requeue();
    let (open, opened) = (Mutex::new(false), Condvar::new());
    let tids = [const { Tid::new() }; WAITERS];
    thread::scope(|scope| {
        for tid in &tids {
            let (open, opened) = (&open, &opened);
            scope.spawn(move || {
                tid.set();
                opened.wait_while(&mut open.lock(), |open| !*open);
            });
        }
        tids.iter().for_each(Tid::wait_until_asleep);
        *open.lock() = true;
        assert_eq!(opened.notify_all(), WAITERS);
    });
}
