//! One thread, many locks: how long an uncontended lock + unlock takes when the next lock is a
//! random one of 1, 64, 4096 or a million.
//!
//! ```text
//! cargo bench --features peers --bench many_locks          # all four sizes, under a minute
//! cargo bench --features peers --bench many_locks -- 4096  # one of them
//! ```
//!
//! Every lock protects a `u64` that is incremented under it, so that a lock and its data take 16
//! bytes with each of the locks that take part, and none has an advantage by its size. The index
//! comes from a xorshift generator, whose cost (about a nanosecond) is included in every figure.
//!
//! One more cell runs only if it is asked for by its name:
//!
//! ```text
//! cargo bench --features peers --bench many_locks -- 500-now-and-then
//! ```
//!
//! - `500-now-and-then`: 500 locks, in two halves. Two pairs of threads go through a half each: one
//!   thread holds a lock for half a millisecond, and the other comes for it meanwhile. A fifth thread
//!   uses all locks for a moment every five milliseconds. So each lock is contended now and then and
//!   used without contention in between, and lockword calls `membarrier` often. The figure is the
//!   time of a contention; what matters is what `strace` counts meanwhile (see `benches/README.md`),
//!   for which the bench prints how long this load ran
//!
//! The slices are taken round-robin over the locks; the table and the criterion report both
//! show these samples (see `support/report.rs` for how).

mod support;

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lockword::contention::{LockKind, MachineInfo, MeasuredMutex};
use support::contenders::{self, Cell, LOCKWORD, PARKING_LOT, STD, Workload};
use support::options::BenchOptions;
use support::{report, table};

/// Rounds in full mode.
const ROUNDS: usize = 40;

/// Rounds of `500-now-and-then` in full mode.
const NOW_AND_THEN_ROUNDS: usize = 3;

/// The cell that runs only if it is asked for.
const NOW_AND_THEN: &str = "500-now-and-then";

/// The locks of that cell; the pairs of threads that contend on them; how long a lock is held; and
/// the time between two uses of each lock by one thread alone.
const NOW_AND_THEN_LOCKS: usize = 500;
const PAIRS: usize = 2;
const HOLD: Duration = Duration::from_micros(500);
const BETWEEN_USES: Duration = Duration::from_millis(5);

/// Random access to a vector of locks.
struct ManyLocks {
    locks: usize,
    slice: Duration,
}

/// Locks that are contended one after the other.
struct NowAndThen {
    slice: Duration,
}

impl Workload for ManyLocks {
    /// Nanoseconds per lock + unlock.
    type Sample = f64;

    fn name(&self) -> String {
        self.locks.to_string()
    }

    fn run<K: LockKind>(&self) -> f64 {
        let locks: Vec<K::Mutex<u64>> = (0..self.locks).map(|_| K::Mutex::new(0)).collect();
        let mut state = 0x9E37_79B9_7F4A_7C15;
        // Warms up caches and branch predictors.
        pass::<K>(&locks, &mut state, 10_000);
        let (mut count, start) = (0, Instant::now());
        loop {
            const PASS: u32 = 20_000;
            pass::<K>(&locks, &mut state, PASS);
            count += PASS;
            let elapsed = start.elapsed();
            if elapsed >= self.slice {
                return elapsed.as_secs_f64() * 1e9 / f64::from(count);
            }
        }
    }
}

impl Workload for NowAndThen {
    /// Nanoseconds per contention, and how long the load ran.
    type Sample = (f64, Duration);

    fn name(&self) -> String {
        NOW_AND_THEN.to_owned()
    }

    fn run<K: LockKind>(&self) -> Self::Sample {
        let locks: Vec<K::Mutex<u64>> = (0..NOW_AND_THEN_LOCKS).map(|_| K::Mutex::new(0)).collect();
        let start = Instant::now();
        let is_over = || start.elapsed() >= self.slice;
        // Two threads go through the same locks in step: the second comes while the first holds.
        let pair = |locks: &[K::Mutex<u64>]| {
            let (step, is_last) = (Barrier::new(2), AtomicBool::new(false));
            thread::scope(|scope| {
                scope.spawn(|| {
                    for lock in locks.iter().cycle() {
                        step.wait();
                        let was_last = is_last.load(Ordering::Relaxed);
                        *lock.lock() += 1;
                        step.wait();
                        if was_last {
                            return;
                        }
                    }
                });
                let mut count = 0;
                for lock in locks.iter().cycle() {
                    let held = lock.lock();
                    count += 1;
                    is_last.store(is_over(), Ordering::Relaxed);
                    step.wait();
                    thread::sleep(HOLD);
                    drop(held);
                    step.wait();
                    if is_last.load(Ordering::Relaxed) {
                        break;
                    }
                }
                count
            })
        };
        let (pair, is_over) = (&pair, &is_over);
        let count: u64 = thread::scope(|scope| {
            let parts = locks.chunks(NOW_AND_THEN_LOCKS / PAIRS);
            let pairs: Vec<_> = parts.map(|part| scope.spawn(move || pair(part))).collect();
            // In between each lock is used alone.
            while !is_over() {
                for lock in &locks {
                    *lock.lock() += 1;
                }
                thread::sleep(BETWEEN_USES);
            }
            pairs.into_iter().map(|pair| pair.join().unwrap()).sum()
        });
        let elapsed = start.elapsed();
        (elapsed.as_secs_f64() * 1e9 / count as f64, elapsed)
    }
}

/// The next random number: Marsaglia's xorshift.
#[inline(always)]
fn next(state: &mut u64) -> usize {
    let mut x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    *state = x;
    (x >> 32) as usize
}

/// Locks and unlocks `count` random locks. The number of locks is a power of two.
#[inline(never)]
fn pass<K: LockKind>(locks: &[K::Mutex<u64>], state: &mut u64, count: u32) {
    let locks = black_box(locks);
    let mask = locks.len() - 1;
    // A copy, so that it stays in a register.
    let mut x = *state;
    for _ in 0..count {
        *locks[next(&mut x) & mask].lock() += 1;
    }
    *state = x;
}

fn main() {
    let options = BenchOptions::read("many_locks");
    if options.asks_for(NOW_AND_THEN) {
        return now_and_then(&options);
    }
    let slice = options.slice(Duration::from_millis(25));
    let cells: Vec<ManyLocks> =
        [1, 64, 4096, 1 << 20].into_iter().map(|locks| ManyLocks { locks, slice }).collect();
    let cells = options.select_cells(cells, Workload::name);
    let contenders = options.select_contenders(contenders::mutexes::<ManyLocks>());
    let measured = contenders::interleave(&options, cells, &contenders, options.rounds(ROUNDS));

    report::publish_times(&options, &measured, Workload::name);
    if !options.list {
        print(&options, &measured);
    }
}

/// Measures the cell that was asked for.
fn now_and_then(options: &BenchOptions) {
    let slice = if options.quick { Duration::from_millis(200) } else { Duration::from_secs(2) };
    let cells = vec![NowAndThen { slice }];
    let contenders = options.select_contenders(contenders::common_mutexes::<NowAndThen>());
    let rounds = options.rounds(NOW_AND_THEN_ROUNDS);
    let measured = contenders::interleave(options, cells, &contenders, rounds);
    let seconds = |cell: &Cell<NowAndThen, (f64, Duration)>, lock| {
        let series = cell.of(lock)?;
        Some(series.samples.iter().map(|(_, elapsed)| elapsed.as_secs_f64()).sum::<f64>())
    };
    let lockword: f64 = measured.iter().filter_map(|cell| seconds(cell, LOCKWORD)).sum();
    let measured: Vec<_> = measured.into_iter().map(|cell| cell.into_figures(|s| s.0)).collect();
    report::publish_times(options, &measured, Workload::name);
    if !options.list {
        println!("\n{NOW_AND_THEN_LOCKS} locks that are contended now and then, ns per contention");
        println!("{}; {rounds} rounds\n", MachineInfo::read());
        report::print_times("load", &measured, Workload::name);
        println!("lockword was under this load for {lockword:.2} s");
    }
}

fn print(options: &BenchOptions, measured: &[Cell<ManyLocks, f64>]) {
    println!("\nRandom access to N locks by one thread, ns per lock + unlock");
    println!("{}; {} rounds\n", MachineInfo::read(), options.rounds(ROUNDS));
    report::print_times("locks", measured, Workload::name);

    println!("Targets (how many times faster than the peer):");
    for cell in measured {
        let need = if cell.load.locks <= 4096 { 1.4 } else { 1.0 };
        for peer in [STD, PARKING_LOT] {
            let lead = report::lead_over(cell, peer).map(|lead| lead.mid);
            let target = format!("{} locks: over {peer}, at least {need}", cell.load.locks);
            table::verdict(options.quick, &target, lead, |v| v >= need);
        }
    }
}
