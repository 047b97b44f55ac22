//! Stress with a watchdog: more threads than processors, every operation, several locks.
//!
//! `LOCKWORD_STRESS_SECS` sets the length, `LOCKWORD_STRESS_SEED` repeats the random choices of a
//! run. The report of a failed run names its seed.
#![cfg(not(lockword_loom))]

use lockword::{Condvar, Mutex, MutexGuard};
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::random::Rng;
use support::setting::env_number;
use support::watchdog::{LIMIT, Progress, STALLED, Slot, fail};

#[path = "../support"]
mod support {
    pub mod child;
    pub mod random;
    pub mod setting;
    pub mod watchdog;
}

const OPS: &[&str] = &[
    "lock",
    "try_lock",
    "try_lock_for",
    "try_lock_until",
    "lock, then unlock_fair",
    "lock, then bump",
    "Condvar::wait_for",
    "Condvar::wait (untimed)",
    "notify",
    "critical section",
];
const SECTION: usize = OPS.len() - 1;

/// All locks there are: enough that they meet in every bucket of the waiter table.
const LOCKS: usize = 512;
/// How many of them are in use at one time.
const HOT: usize = 3;

/// Guarded by its lock. `left` and `right` differ only inside a critical section.
#[derive(Default)]
struct Tally {
    left: u64,
    right: u64,
    /// Threads in `turn.wait`, and how many of them may go on.
    waiting: usize,
    tokens: usize,
}

#[derive(Default)]
struct Station {
    tally: Mutex<Tally>,
    /// Waited for without a timeout: a lost notification is a stall.
    turn: Condvar,
    /// Waited for with a timeout.
    timed: Condvar,
}

struct Hall {
    stations: Vec<Station>,
    /// The first of the locks in use now.
    first: AtomicUsize,
    stop: AtomicBool,
    /// No thread is in an untimed wait any more.
    drained: AtomicBool,
}

impl Hall {
    fn new() -> Self {
        Hall {
            stations: (0..LOCKS).map(|_| Station::default()).collect(),
            first: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            drained: AtomicBool::new(false),
        }
    }

    fn state(&self) -> String {
        let held = |i: &usize| self.stations[*i].tally.is_locked();
        let held: Vec<usize> = (0..LOCKS).filter(held).collect();
        let first = self.first.load(Ordering::Relaxed);
        let mut text = format!("held locks: {held:?}; first in use: {first}\n");
        for i in held.into_iter().chain((0..HOT).map(|i| (first + i) % LOCKS)) {
            let Station { tally, turn, timed } = &self.stations[i];
            let bucket = lockword::__bucket((&raw const *tally).addr());
            let _ = writeln!(text, "lock {i}: {bucket:?}; {turn:?}, {timed:?}");
        }
        text
    }
}

/// The critical section: both counters go up by one, with a pause of random length between.
fn section(guard: &mut MutexGuard<'_, Tally>, slot: &Slot, lock: usize, rng: &mut Rng) -> u64 {
    slot.begin(SECTION, lock);
    assert_eq!(guard.left, guard.right, "two threads are in the critical section of one lock");
    guard.left += 1;
    match rng.below(1000) {
        0 => thread::sleep(Duration::from_micros(rng.below(1500) as u64)),
        1..20 => thread::yield_now(),
        20..200 => (0..rng.below(400)).for_each(|_| std::hint::spin_loop()),
        _ => {}
    }
    guard.right += 1;
    assert_eq!(guard.left, guard.right, "two threads are in the critical section of one lock");
    1
}

/// One operation; returns how often the critical section was entered.
fn step(hall: &Hall, slot: &Slot, rng: &mut Rng) -> u64 {
    let lock = (hall.first.load(Ordering::Relaxed) + rng.below(HOT)) % LOCKS;
    let Station { tally, turn, timed } = &hall.stations[lock];
    let op = match rng.below(100) {
        0..40 => 0,
        40..50 => 1,
        50..65 => 2,
        65..70 => 3,
        70..80 => 4,
        80..85 => 5,
        85..90 => 6,
        90..93 => 7,
        _ => 8,
    };
    slot.begin(op, lock);
    match op {
        1 => tally.try_lock().map_or(0, |mut guard| section(&mut guard, slot, lock, rng)),
        2 | 3 => {
            let timeout = Duration::from_micros(rng.below(1000) as u64);
            let start = Instant::now();
            let guard = match op {
                2 => tally.try_lock_for(timeout),
                _ => tally.try_lock_until(start + timeout),
            };
            if guard.is_none() {
                assert!(start.elapsed() >= timeout, "gave up before the timeout");
            }
            guard.map_or(0, |mut guard| section(&mut guard, slot, lock, rng))
        }
        4 => {
            let mut guard = tally.lock();
            let entered = section(&mut guard, slot, lock, rng);
            MutexGuard::unlock_fair(guard);
            entered
        }
        5 => {
            let mut guard = tally.lock();
            let entered = section(&mut guard, slot, lock, rng);
            slot.begin(op, lock);
            MutexGuard::bump(&mut guard);
            entered + section(&mut guard, slot, lock, rng)
        }
        6 => {
            let mut guard = tally.lock();
            timed.wait_for(&mut guard, Duration::from_micros(rng.below(2000) as u64));
            section(&mut guard, slot, lock, rng)
        }
        7 => {
            let mut guard = tally.lock();
            // The caller stops the one who lets waiters go on only when all workers are done.
            guard.waiting += 1;
            turn.wait_while(&mut guard, |tally| tally.tokens == 0);
            guard.tokens -= 1;
            guard.waiting -= 1;
            section(&mut guard, slot, lock, rng)
        }
        8 => {
            let guard = (rng.below(2) == 0).then(|| tally.lock());
            if rng.below(3) == 0 {
                timed.notify_all()
            } else {
                timed.notify_one() as usize
            };
            guard.map_or(0, |mut guard| section(&mut guard, slot, lock, rng))
        }
        _ => section(&mut tally.lock(), slot, lock, rng),
    }
}

/// Lets every untimed waiter go on, time and again, and moves the locks in use along.
fn ticker(hall: &Hall, slot: &Slot, rng: &mut Rng) {
    let mut rounds = 0;
    while !hall.drained.load(Ordering::Acquire) {
        for (lock, Station { tally, turn, .. }) in hall.stations.iter().enumerate() {
            slot.begin(0, lock);
            let mut guard = tally.lock();
            let more = guard.waiting - guard.tokens;
            guard.tokens += more;
            let keep = (rng.below(2) == 0).then_some(guard);
            slot.begin(8, lock);
            match more {
                0 => {}
                _ if rng.below(2) == 0 => _ = turn.notify_all(),
                _ => (0..more).for_each(|_| _ = turn.notify_one()),
            }
            drop(keep);
        }
        rounds += 1;
        if rounds % 16 == 0 {
            hall.first.fetch_add(1, Ordering::Relaxed);
        }
        thread::yield_now();
    }
    slot.finish();
}

/// The stress itself; `plant` makes the first thread take lock 0 and keep it for ever.
fn run(length: Duration, limit: Duration, plant: bool) {
    let seed = env_number("LOCKWORD_STRESS_SEED", RandomState::new().hash_one(1));
    // At once: a crash leaves no report.
    eprintln!("LOCKWORD_STRESS_SEED={seed}");
    let workers = 3 * thread::available_parallelism().map_or(2, usize::from).max(2);
    let hall = Hall::new();
    let progress = Progress::new(workers + 1, OPS);
    let entered: u64 = thread::scope(|scope| {
        let (hall, progress) = (&hall, &progress);
        let worker = |i: usize| {
            move || {
                let (slot, mut rng) = (progress.slot(i), Rng::new(seed, i));
                if plant && i == 0 {
                    slot.begin(0, 0);
                    std::mem::forget(hall.stations[0].tally.lock());
                }
                let mut entered = 0;
                while !hall.stop.load(Ordering::Relaxed) {
                    entered += step(hall, slot, &mut rng);
                }
                slot.finish();
                entered
            }
        };
        let handles: Vec<_> = (0..workers).map(|i| scope.spawn(worker(i))).collect();
        scope.spawn(move || ticker(hall, progress.slot(workers), &mut Rng::new(seed, workers)));
        let report = move || format!("LOCKWORD_STRESS_SEED={seed}\n{}", hall.state());
        scope.spawn(move || progress.watch(limit, report));
        // A failed assertion must end the test, not leave the others waiting.
        let end = Instant::now() + length;
        while Instant::now() < end && !handles.iter().any(|handle| handle.is_finished()) {
            thread::sleep(Duration::from_millis(10));
        }
        hall.stop.store(true, Ordering::Relaxed);
        let results: Vec<_> = handles.into_iter().map(|handle| handle.join()).collect();
        hall.drained.store(true, Ordering::Release);
        if results.iter().any(|result| result.is_err()) {
            fail(&format!("a thread failed\n{}", report()));
        }
        results.into_iter().map(|result| result.unwrap()).sum()
    });
    let tallies = hall.stations.iter().map(|station| station.tally.lock().left);
    assert_eq!(
        tallies.sum::<u64>(),
        entered,
        "an entry into a critical section was lost, LOCKWORD_STRESS_SEED={seed}"
    );
}

#[test]
fn every_operation_makes_progress() {
    let seconds = env_number("LOCKWORD_STRESS_SECS", 2);
    #[cfg(feature = "deadlock_detection")]
    let _watcher = {
        lockword::debug::on_report(|report| fail(&report.to_string()));
        lockword::debug::watch(Duration::from_millis(1), |found| fail(&found.to_string()))
    };
    run(Duration::from_secs(seconds), LIMIT, false);
}

/// The watchdog itself: a lock that is never released must be reported.
#[test]
fn a_planted_stall_is_reported() {
    const NAME: &str = "a_planted_stall_is_reported";
    if support::child::role().is_some() {
        run(Duration::from_secs(60), Duration::from_millis(300), true);
        return;
    }
    let ended = support::child::run(NAME, "stalled", Duration::from_secs(30));
    assert!(!ended.timed_out, "the watchdog says nothing:\n{}", ended.output);
    assert_eq!(ended.status.code(), Some(STALLED), "{}", ended.output);
    for word in ["no progress of thread", " on lock 0, step", "held locks: [0"] {
        assert!(ended.output.contains(word), "no {word:?} in:\n{}", ended.output);
    }
}
