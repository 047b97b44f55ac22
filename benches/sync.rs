//! `lockword::sync::Mutex` against `std::sync::Mutex`: the effect of changing one line.
//!
//! ```text
//! cargo bench --features peers --bench sync             # all cells, about a minute
//! cargo bench --features peers --bench sync -- alone    # one of them
//! ```
//!
//! In this bench *lockword* is `lockword::sync::Mutex`, with its poison flag; *no-poison* is
//! `lockword::Mutex`, which shows the cost of the flag. The loops call `.lock().unwrap()` where
//! users of std do.
//!
//! `alone` is one thread that locks and unlocks. The others are threads x units of work inside /
//! outside, as in the bench `contended`, in nanoseconds of wall-clock time for an acquisition. The
//! slices are taken round-robin over the locks; the table and the criterion report both show these
//! samples (see `support/report.rs` for how).

mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use lockword::contention::{Load, LockKind, MachineInfo, MeasuredMutex, Work};
use support::contenders::{self, Cell, STD, Workload};
use support::options::BenchOptions;
use support::{report, table};

/// Rounds in full mode.
const ROUNDS: usize = 20;

/// (threads, units of work inside, outside).
const CONTENDED: [(usize, u32, u32); 5] =
    [(2, 10, 10), (8, 10, 100), (4, 100, 100), (16, 100, 100), (8, 1000, 1000)];

/// A cell of the bench.
enum SyncWorkload {
    Alone { slice: Duration },
    Contended(Load),
}

impl Workload for SyncWorkload {
    /// Nanoseconds for an acquisition.
    type Sample = f64;

    fn name(&self) -> String {
        match self {
            SyncWorkload::Alone { .. } => "alone".to_owned(),
            SyncWorkload::Contended(Load { threads, inside, outside, .. }) => {
                format!("{threads}x{}/{}", inside.units_of(), outside.units_of())
            }
        }
    }

    fn run<K: LockKind>(&self) -> f64 {
        match self {
            SyncWorkload::Alone { slice } => alone::<K>(*slice),
            SyncWorkload::Contended(load) => {
                let sample = load.throughput::<K>();
                1e9 / sample.unwrap_or_else(|error| panic!("{}: {error}", self.name())).per_second()
            }
        }
    }
}

/// One thread that locks, adds and unlocks.
fn alone<K: LockKind>(slice: Duration) -> f64 {
    const PASS: u32 = 10_000;
    let mutex = K::Mutex::<u64>::new(0);
    pass::<K>(&mutex, PASS);
    let (mut count, start) = (0, Instant::now());
    loop {
        pass::<K>(&mutex, PASS);
        count += PASS;
        let elapsed = start.elapsed();
        if elapsed >= slice {
            return elapsed.as_secs_f64() * 1e9 / f64::from(count);
        }
    }
}

#[inline(never)]
fn pass<K: LockKind>(mutex: &K::Mutex<u64>, count: u32) {
    for _ in 0..count {
        drop(black_box(mutex).lock());
    }
}

fn main() {
    let options = BenchOptions::read("sync");
    let mut cells = vec![SyncWorkload::Alone { slice: options.slice(Duration::from_millis(25)) }];
    for (threads, inside, outside) in CONTENDED {
        let slice = options.slice(Duration::from_millis(80 + 10 * threads as u64));
        let load = Load::new(threads)
            .inside(Work::units(inside))
            .outside(Work::units(outside))
            .slice_ms(slice.as_millis() as u64);
        cells.push(SyncWorkload::Contended(load));
    }
    let cells = options.select_cells(cells, Workload::name);
    let contenders = options.select_contenders(contenders::std_compat_mutexes::<SyncWorkload>());
    let measured = contenders::interleave(&options, cells, &contenders, options.rounds(ROUNDS));

    report::publish_times(&options, &measured, Workload::name);
    if !options.list {
        print(&options, &measured);
    }
}

fn print(options: &BenchOptions, measured: &[Cell<SyncWorkload, f64>]) {
    println!("\nlockword::sync::Mutex (here: lockword) and std's, ns for an acquisition");
    println!("{}; {} rounds\n", MachineInfo::read(), options.rounds(ROUNDS));
    report::print_times("threads x in/out", measured, Workload::name);

    println!("Targets (how many times faster than std):");
    let alone = measured.iter().find(|cell| matches!(cell.load, SyncWorkload::Alone { .. }));
    let lead = alone.and_then(|cell| report::lead_over(cell, STD)).map(|lead| lead.mid);
    table::verdict(options.quick, "alone: at least 1.5", lead, |v| v >= 1.5);
}
