//! One thread, one lock that no other thread wants: how long a lock + unlock takes.
//!
//! ```text
//! cargo bench --features peers --bench uncontended                   # all five situations, a minute
//! cargo bench --features peers --bench uncontended -- hot-neighbour  # one of them
//! ```
//!
//! lockword keeps "does anyone wait?" in a static table that locks share, so the same lock is
//! measured in five situations:
//!
//! - `alone`: no other lock in use
//! - `hot-neighbour`: other threads contend all the time on another lock, which hashes to the
//!   *next* bucket of that table
//! - `hot-same-bucket`: the same, and that lock hashes to the *same* bucket
//! - `waiter-same-bucket`: a thread sleeps all the time on another lock in the same bucket
//! - `starving-same-bucket`: two threads do, and both have been woken before, found that lock taken
//!   again, and wait for it again. lockword hands a lock off to such a waiter, so its unlock has
//!   more to find out
//!
//! The peers have no such table: for them the other lock is just another lock, some distance away
//! in memory, and their figures show the cost of the disturbance itself. The waiters of peers just
//! sleep.
//!
//! The measuring thread has its own processor; otherwise a neighbour would take processor time from
//! it, and not only cache lines. The hot neighbour is two threads on up to two other processors. If
//! there is only one other, as on the two-core reference machine, the two threads share it, and
//! each yields the processor while it holds the lock: so the other thread always finds the lock
//! held, spins, and goes to sleep, and every unlock has a thread to wake. With fewer than two
//! processors, or where threads cannot be pinned, the `hot` figures also contain lost processor
//! time.
//!
//! The loop takes the guard and drops it; the data is not touched. The slices are taken
//! round-robin over the locks; the table and the criterion report both show these samples (see
//! `support/report.rs` for how).

mod support;

use std::any::TypeId;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lockword::contention::{
    LockKind, Lockword, MachineInfo, MeasuredMutex, statistics, system, work,
};
use support::contenders::{self, Cell, Guard, LOCKWORD, PARKING_LOT, SPIN, STD, Workload};
use support::options::BenchOptions;
use support::{report, table};

/// Rounds in full mode.
const ROUNDS: usize = 40;

/// The number of locks to choose from: some for every bucket, far enough from each other.
const CANDIDATES: usize = 20_000;

/// What happens around the measured lock.
#[derive(Clone, Copy, PartialEq)]
enum Situation {
    Alone,
    HotNeighbour,
    HotSameBucket,
    WaiterSameBucket,
    StarvingSameBucket,
}

/// Lock + unlock in a situation.
struct Uncontended {
    situation: Situation,
    slice: Duration,
}

/// The result of a slice.
struct UncontendedSample {
    /// Nanoseconds per lock + unlock.
    ns: f64,
    /// How often a second the hot neighbour was locked, which shows that it was hot.
    neighbour: f64,
}

impl Workload for Uncontended {
    type Sample = UncontendedSample;

    fn name(&self) -> String {
        let name = match self.situation {
            Situation::Alone => "alone",
            Situation::HotNeighbour => "hot-neighbour",
            Situation::HotSameBucket => "hot-same-bucket",
            Situation::WaiterSameBucket => "waiter-same-bucket",
            Situation::StarvingSameBucket => "starving-same-bucket",
        };
        name.to_owned()
    }

    fn run<K: LockKind>(&self) -> UncontendedSample {
        let locks: Vec<K::Mutex<u64>> = (0..CANDIDATES).map(|_| K::Mutex::new(0)).collect();
        let measured = &locks[0];
        let other = match self.situation {
            Situation::HotNeighbour => self.other::<K>(&locks, 1),
            _ => self.other::<K>(&locks, 0),
        };
        let cpus = system::processors();
        // One processor for the measured thread, up to two for the others.
        let (own, others) = if cpus.len() < 2 { (&[][..], &[][..]) } else { cpus.split_at(1) };
        let others = &others[..others.len().min(2)];

        thread::scope(|scope| {
            // A separate thread, so that its pinning ends with it.
            let measure = scope.spawn(|| {
                system::pin(own);
                match self.situation {
                    Situation::Alone => {
                        UncontendedSample { ns: self.measure::<K>(measured), neighbour: 0.0 }
                    }
                    Situation::HotNeighbour | Situation::HotSameBucket => {
                        self.beside_hot::<K>(measured, other, others)
                    }
                    Situation::WaiterSameBucket => self.beside_waiter::<K>(measured, other, others),
                    Situation::StarvingSameBucket => {
                        self.beside_starving::<K>(measured, other, others)
                    }
                }
            });
            measure.join().unwrap()
        })
    }
}

impl Uncontended {
    /// A lock whose bucket is the `after`th after that of the first lock, some distance away from
    /// it.
    fn other<'a, K: LockKind>(
        &self,
        locks: &'a [K::Mutex<u64>],
        after: usize,
    ) -> &'a K::Mutex<u64> {
        let mut far = locks[64..].iter();
        if TypeId::of::<K>() != TypeId::of::<Lockword>() {
            return far.next().unwrap();
        }
        let bucket =
            |lock: &K::Mutex<u64>| lockword::__bucket(std::ptr::from_ref(lock).addr()).index;
        // There is a candidate for every bucket, so also for the last one.
        let buckets = 1 + locks.iter().map(bucket).max().expect("candidates");
        let wanted = (bucket(&locks[0]) + after) % buckets;
        far.find(|lock| bucket(lock) == wanted).expect("a candidate for every bucket")
    }

    /// The measurement: nanoseconds per lock + unlock.
    fn measure<K: LockKind>(&self, lock: &K::Mutex<u64>) -> f64 {
        const PASS: u32 = 10_000;
        pass::<K>(lock, PASS);
        let (mut count, start) = (0, Instant::now());
        loop {
            pass::<K>(lock, PASS);
            count += PASS;
            let elapsed = start.elapsed();
            if elapsed >= self.slice {
                return elapsed.as_secs_f64() * 1e9 / f64::from(count);
            }
        }
    }

    /// Measures while two threads contend on `other`.
    fn beside_hot<K: LockKind>(
        &self,
        measured: &K::Mutex<u64>,
        other: &K::Mutex<u64>,
        cpus: &[usize],
    ) -> UncontendedSample {
        let stop = AtomicBool::new(false);
        let contend = || {
            system::pin(cpus);
            let mut count = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                let mut data = other.lock();
                *data = work(*data, 50);
                if cpus.len() < 2 {
                    thread::yield_now();
                }
            }
            count
        };
        thread::scope(|scope| {
            let started = Instant::now();
            let threads = [scope.spawn(contend), scope.spawn(contend)];
            // The threads are contending by then.
            thread::sleep(Duration::from_millis(2));
            let ns = self.measure::<K>(measured);
            stop.store(true, Ordering::Relaxed);
            let seconds = started.elapsed().as_secs_f64();
            let count: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
            UncontendedSample { ns, neighbour: count as f64 / seconds }
        })
    }

    /// Measures while a thread waits for `other`, which the measuring thread holds.
    fn beside_waiter<K: LockKind>(
        &self,
        measured: &K::Mutex<u64>,
        other: &K::Mutex<u64>,
        cpus: &[usize],
    ) -> UncontendedSample {
        let about_to_wait = Barrier::new(2);
        thread::scope(|scope| {
            let held = other.lock();
            let waiter = scope.spawn(|| {
                system::pin(cpus);
                about_to_wait.wait();
                *other.lock() += 1;
            });
            about_to_wait.wait();
            if TypeId::of::<K>() == TypeId::of::<Lockword>() {
                until_parked(std::ptr::from_ref(other).addr());
            } else {
                // It makes no difference to the measured lock whether a peer's waiter sleeps yet.
                thread::yield_now();
            }
            let ns = self.measure::<K>(measured);
            drop(held);
            waiter.join().unwrap();
            UncontendedSample { ns, neighbour: 0.0 }
        })
    }

    /// Measures while two threads, of which the first has been passed over, wait for `other`.
    fn beside_starving<K: LockKind>(
        &self,
        measured: &K::Mutex<u64>,
        other: &K::Mutex<u64>,
        cpus: &[usize],
    ) -> UncontendedSample {
        let over = AtomicBool::new(false);
        let about_to_wait = Barrier::new(1 + STARVING as usize);
        let wait = || {
            system::pin(cpus);
            about_to_wait.wait();
            // Again and again, since they may acquire it before one has been passed over.
            while !over.load(Ordering::Relaxed) {
                *other.lock() += 1;
            }
        };
        thread::scope(|scope| {
            let mut held = other.lock();
            let waiters = [(); STARVING as usize].map(|()| scope.spawn(wait));
            about_to_wait.wait();
            if TypeId::of::<K>() == TypeId::of::<Lockword>() {
                held = pass_over::<K>(other, held);
            } else {
                thread::sleep(Duration::from_millis(2));
            }
            let ns = self.measure::<K>(measured);
            over.store(true, Ordering::Relaxed);
            drop(held);
            waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
            UncontendedSample { ns, neighbour: 0.0 }
        })
    }
}

/// How many threads wait. The first of them is passed over; the queue wakes nobody behind it.
const STARVING: u32 = 2;

/// How long to try to have them passed over.
const TRIAL: Duration = Duration::from_secs(5);

/// Releases and acquires a lock of lockword, for which `STARVING` threads wait, until the first of them
/// has been passed over and waits again. The caller holds the lock before and after that.
///
/// # Panics
///
/// If that has not happened after some seconds.
fn pass_over<'a, K: LockKind>(
    lock: &'a K::Mutex<u64>,
    mut held: Guard<'a, K, u64>,
) -> Guard<'a, K, u64> {
    let bucket = || lockword::__bucket(std::ptr::from_ref(lock).addr());
    let begun = Instant::now();
    // Short and long sections in turn: a waiter that was woken finds the lock taken, or is too late.
    for section_us in [5, 20, 100, 500].into_iter().cycle() {
        while bucket().waiters < STARVING {
            assert!(begun.elapsed() < TRIAL, "two waiters in the bucket");
            thread::yield_now();
        }
        drop(held);
        held = lock.lock();
        let section = Instant::now();
        while section.elapsed() < Duration::from_micros(section_us) {
            std::hint::spin_loop();
        }
        // Nobody behind a passed-over waiter is woken: one stands for both.
        if bucket().starving != 0 {
            break;
        }
        assert!(begun.elapsed() < TRIAL, "a passed-over waiter in the bucket");
    }
    // They sleep by then, as long as the lock is held.
    thread::sleep(Duration::from_millis(2));
    held
}

/// Returns when lockword counts a waiter in the bucket of `addr`: it is parked, or will be before
/// the end of the measurement's warm-up.
fn until_parked(addr: usize) {
    while lockword::__bucket(addr).waiters == 0 {
        thread::yield_now();
    }
}

/// Locks and unlocks `count` times.
#[inline(never)]
fn pass<K: LockKind>(lock: &K::Mutex<u64>, count: u32) {
    for _ in 0..count {
        drop(black_box(lock).lock());
    }
}

fn main() {
    let options = BenchOptions::read("uncontended");
    let slice = options.slice(Duration::from_millis(25));
    let situations = [
        Situation::Alone,
        Situation::HotNeighbour,
        Situation::HotSameBucket,
        Situation::WaiterSameBucket,
        Situation::StarvingSameBucket,
    ];
    let cells = situations.map(|situation| Uncontended { situation, slice });
    let cells = options.select_cells(cells.into(), Workload::name);
    let contenders = options.select_contenders(contenders::mutexes_and_fair::<Uncontended>());
    let measured = contenders::interleave(&options, cells, &contenders, options.rounds(ROUNDS));

    // (situation, lock, thousands of acquisitions of the neighbour a second).
    let mut neighbours = Vec::new();
    if !options.list {
        for cell in &measured {
            for series in &cell.series {
                let rate = statistics::median(&series.map(|slice| slice.neighbour / 1e3)).mid;
                neighbours.push((cell.load.name(), series.lock, rate));
            }
        }
    }
    let measured: Vec<_> =
        measured.into_iter().map(|cell| cell.into_figures(|slice| slice.ns)).collect();
    report::publish_times(&options, &measured, Workload::name);
    if !options.list {
        print(&options, &measured, &neighbours);
    }
}

fn print(
    options: &BenchOptions,
    measured: &[Cell<Uncontended, f64>],
    neighbours: &[(String, &'static str, f64)],
) {
    println!("\nOne thread, one lock, ns per lock + unlock");
    println!("{}; {} rounds\n", MachineInfo::read(), options.rounds(ROUNDS));
    report::print_times("situation", measured, Workload::name);

    println!("How hot the neighbour was, thousands of acquisitions a second:");
    for (situation, lock, rate) in neighbours.iter().filter(|(_, _, rate)| *rate > 0.0) {
        println!("  {situation:<20} {lock:<12} {rate:>8.0}");
    }

    println!("\nTargets (beside sleepers in the same bucket):");
    let sleepers = [Situation::WaiterSameBucket, Situation::StarvingSameBucket];
    for cell in measured.iter().filter(|cell| sleepers.contains(&cell.load.situation)) {
        let target = format!("{}: time relative to std's, at most 1.00", cell.load.name());
        let ratio = report::relative_to(cell, LOCKWORD, STD).map(|ratio| ratio.mid);
        table::verdict(options.quick, &target, ratio, |v| v <= 1.0);
    }

    let alone = measured.iter().find(|cell| cell.load.situation == Situation::Alone);
    let Some(alone) = alone else { return };
    println!("\nWhat a situation costs beside being alone:");
    for lock in alone.series.iter().map(|series| series.lock) {
        costs(alone, measured, lock);
    }

    println!("\nTargets (alone):");
    let lead = |peer| report::lead_over(alone, peer).map(|lead| lead.mid);
    for peer in [STD, PARKING_LOT] {
        let target = format!("how many times faster than {peer}, at least 1.65");
        table::verdict(options.quick, &target, lead(peer), |v| v >= 1.65);
    }
    let slower = lead(SPIN).map(|lead| 1.0 / lead);
    table::verdict(options.quick, "time relative to spin, at most 1.10", slower, |v| v <= 1.10);
}

/// Prints the cost of each situation for a lock, relative to being alone.
fn costs(alone: &Cell<Uncontended, f64>, measured: &[Cell<Uncontended, f64>], lock: &str) {
    let Some(alone) = alone.of(lock) else { return };
    for cell in measured.iter().filter(|cell| cell.load.situation != Situation::Alone) {
        let Some(disturbed) = cell.of(lock) else { continue };
        let cost = statistics::paired_ratio(&disturbed.samples, &alone.samples);
        let name = cell.load.name();
        println!("  {name:<20} {lock:<12} takes {} times as long", table::ratio(&cost));
    }
}
