//! Reader-writer locks: readers alone and together, mixes of reads and writes, and the longest waits.
//!
//! ```text
//! cargo bench --features peers --bench rwlock             # all cells, about four minutes
//! cargo bench --features peers --bench rwlock -- readers  # those with that in their name
//! ```
//!
//! - `read`, `write`: one thread, one lock; read + unlock, write + unlock
//! - `2-readers`, `8-readers`: threads that read one lock and do nothing else
//! - `2x1/1000` and so on: two threads, of whose operations one in so many writes, at regular intervals
//! - `million`: a million new locks, each of which is written once. A lock that prepares for readers
//!   beforehand pays for it here
//! - `writer-waits`: four threads read for 20 us at a time and never stop; a fifth one writes, pauses for
//!   200 us, and writes again
//! - `reader-waits`: the same with four writers and a reader
//!
//! Every figure is nanoseconds per operation of all threads together, so a quarter of it is four times the
//! throughput; but for the last two cells, where it is the longest wait of a slice of two seconds, and the median
//! is that of five slices. The lock protects a `u64`, which is read, or incremented.
//!
//! The slices are taken round-robin over the locks; the table and the criterion report both show these samples
//! (see `support/report.rs` for how). The waits are too few for a report. crossbeam's ShardedLock takes a
//! kibibyte: it is shown, but not compared with.

mod support;

use std::hint::{black_box, spin_loop};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lockword::contention::{LockKind, MachineInfo, MeasuredMutex};
use support::contenders::{self, Cell, STD, Workload};
use support::options::BenchOptions;
use support::{report, table};

/// Rounds in full mode.
const ROUNDS: usize = 20;
/// Rounds of the cells of waits in full mode.
const WAIT_ROUNDS: usize = 5;

/// Operations between two looks at the clock, or at the flag that ends a slice.
const BATCH: u64 = 256;

/// The threads of a cell of waits on the other side, how long they hold the lock, and the pause of the one whose
/// waits are measured.
const OTHERS: usize = 4;
const HOLD: Duration = Duration::from_micros(20);
const PAUSE: Duration = Duration::from_micros(200);

/// What a cell does.
#[derive(Clone, Copy, PartialEq)]
enum Load {
    /// Threads, and one operation in how many writes. 0 for none.
    Mix { threads: usize, every: u64 },
    /// New locks, each written once.
    WrittenOnce { locks: usize },
    /// The longest wait of a writer beside readers, or of a reader beside writers.
    Wait { writes: bool },
}

/// A cell.
#[derive(Clone)]
struct ReadersAndWriters {
    name: &'static str,
    load: Load,
    slice: Duration,
}

impl Workload for ReadersAndWriters {
    /// Nanoseconds.
    type Sample = f64;

    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn run<K: LockKind>(&self) -> f64 {
        match self.load {
            Load::Mix { threads, every } => self.mix::<K>(threads, every),
            Load::WrittenOnce { locks } => written_once::<K>(locks),
            Load::Wait { writes } => self.longest_wait::<K>(writes),
        }
    }
}

/// A number on cache lines of its own, with its lock.
#[repr(align(128))]
struct Padded<M>(M);

/// Does [`BATCH`] operations, of which one in `every` writes. `next` is how many are left until then.
#[inline(never)]
fn batch<K: LockKind>(lock: &K::Mutex<u64>, every: u64, next: &mut u64) {
    let lock = black_box(lock);
    if every == 0 {
        for _ in 0..BATCH {
            black_box(lock.read(|number| *number));
        }
        return;
    }
    let mut left = *next;
    for _ in 0..BATCH {
        left -= 1;
        if left == 0 {
            left = every;
            *lock.lock() += 1;
        } else {
            black_box(lock.read(|number| *number));
        }
    }
    *next = left;
}

impl ReadersAndWriters {
    fn mix<K: LockKind>(&self, threads: usize, every: u64) -> f64 {
        let lock = Padded(K::Mutex::<u64>::new(0));
        let (start, stop, count) =
            (Barrier::new(threads + 1), AtomicBool::new(false), AtomicU64::new(0));
        // A lock may find out first that it is read often, for some milliseconds.
        let warm_up = self.slice / 4;
        thread::scope(|scope| {
            for thread in 0..threads as u64 {
                let (lock, start, stop, count) = (&lock.0, &start, &stop, &count);
                scope.spawn(move || {
                    // They do not write at the same time.
                    let mut next = every * (thread + 1) / threads as u64;
                    next += u64::from(next == 0);
                    start.wait();
                    let end = Instant::now() + warm_up;
                    while Instant::now() < end {
                        batch::<K>(lock, every, &mut next);
                    }
                    start.wait();
                    let mut batches = 0;
                    while !stop.load(Ordering::Relaxed) {
                        batch::<K>(lock, every, &mut next);
                        batches += 1;
                    }
                    count.fetch_add(batches * BATCH, Ordering::Relaxed);
                });
            }
            start.wait();
            start.wait();
            let began = Instant::now();
            thread::sleep(self.slice);
            stop.store(true, Ordering::Relaxed);
            began.elapsed()
        })
        .as_secs_f64()
            * 1e9
            / count.into_inner().max(1) as f64
    }

    /// The longest wait, in nanoseconds, of a thread that writes or reads beside others that do the opposite.
    fn longest_wait<K: LockKind>(&self, writes: bool) -> f64 {
        let lock = Padded(K::Mutex::<u64>::new(0));
        let (start, stop) = (Barrier::new(OTHERS + 1), AtomicBool::new(false));
        let section = |writes: bool, hold: Duration| {
            let requested = Instant::now();
            let held = |number: u64| {
                let wait = requested.elapsed();
                let since = Instant::now();
                while since.elapsed() < hold {
                    spin_loop();
                }
                (number, wait)
            };
            if writes {
                let mut guard = lock.0.lock();
                let (number, wait) = held(*guard);
                *guard = number + 1;
                wait
            } else {
                lock.0.read(|number| held(*number)).1
            }
        };
        thread::scope(|scope| {
            for _ in 0..OTHERS {
                scope.spawn(|| {
                    start.wait();
                    while !stop.load(Ordering::Relaxed) {
                        section(!writes, HOLD);
                    }
                });
            }
            start.wait();
            let end = Instant::now() + self.slice;
            let mut longest = Duration::ZERO;
            while Instant::now() < end {
                longest = longest.max(section(writes, Duration::ZERO));
                thread::sleep(PAUSE);
            }
            stop.store(true, Ordering::Relaxed);
            longest.as_nanos().max(1) as f64
        })
    }
}

/// Nanoseconds per write of new locks.
fn written_once<K: LockKind>(locks: usize) -> f64 {
    let locks: Vec<K::Mutex<u64>> = (0..locks).map(|_| K::Mutex::new(0)).collect();
    let start = Instant::now();
    for lock in black_box(&locks) {
        *lock.lock() += 1;
    }
    start.elapsed().as_secs_f64() * 1e9 / locks.len() as f64
}

fn main() {
    let options = BenchOptions::read("rwlock");
    let slice = options.slice(Duration::from_millis(80));
    let mix = |name, threads, every| ReadersAndWriters {
        name,
        load: Load::Mix { threads, every },
        slice,
    };
    let locks = if options.quick { 10_000 } else { 1_000_000 };
    let cells = vec![
        mix("read", 1, 0),
        mix("write", 1, 1),
        mix("2-readers", 2, 0),
        mix("8-readers", 8, 0),
        mix("2x1/1000", 2, 1000),
        mix("2x1/100", 2, 100),
        mix("2x1/10", 2, 10),
        mix("2x1/3", 2, 3),
        ReadersAndWriters { name: "million", load: Load::WrittenOnce { locks }, slice },
    ];
    let long = if options.quick { Duration::from_millis(20) } else { Duration::from_secs(2) };
    let wait = |name, writes| ReadersAndWriters { name, load: Load::Wait { writes }, slice: long };
    let waits = vec![wait("writer-waits", true), wait("reader-waits", false)];

    let contenders = options.select_contenders(contenders::rwlocks::<ReadersAndWriters>());
    let cells = options.select_cells(cells, Workload::name);
    let waits = options.select_cells(waits, Workload::name);
    let rounds = |cells: &[_], rounds| if cells.is_empty() { 0 } else { options.rounds(rounds) };
    let (many, few) = (rounds(&cells, ROUNDS), rounds(&waits, WAIT_ROUNDS));
    let measured = contenders::interleave(&options, cells, &contenders, many);
    let waited = contenders::interleave(&options, waits, &contenders, few);

    report::publish_times(&options, &measured, Workload::name);
    if options.list {
        return;
    }
    println!("\nReader-writer locks, ns per operation of all threads together");
    println!("{}; {many} rounds{}\n", MachineInfo::read(), options.surroundings());
    report::print_times("load", &measured, Workload::name);
    if !waited.is_empty() {
        println!("The longest wait of a slice of {} s, in ns; {few} rounds\n", long.as_secs_f64());
        report::print_times("load", &waited, Workload::name);
    }
    println!("Targets (how many times faster than the peer):");
    measured.iter().chain(&waited).for_each(|cell| target(&options, cell));
}

fn target(options: &BenchOptions, cell: &Cell<ReadersAndWriters, f64>) {
    // Over std, or over the best of the peers but ShardedLock.
    let (over_std, need) = match cell.load.load {
        Load::Mix { threads: 1, every: 0 } => (true, 8.0),
        Load::Mix { threads: 1, .. } => (true, 0.9),
        Load::Mix { every: 0, .. } => (false, 20.0),
        Load::Mix { every: 1000, .. } => (false, 1.5),
        Load::Mix { every: 100, .. } => (false, 1.0),
        Load::Mix { .. } => (false, 0.95),
        Load::WrittenOnce { .. } => (true, 1.0),
        Load::Wait { .. } => (false, 0.5),
    };
    let best = report::best_parking_peer(cell).map_or(STD, |peer| peer.lock);
    let peer = if over_std { STD } else { best };
    let lead = report::lead_over(cell, peer).map(|lead| lead.mid);
    let target = format!("{}: over {peer}, at least {need}", cell.load.name);
    table::verdict(options.quick, &target, lead, |v| v >= need);
}
