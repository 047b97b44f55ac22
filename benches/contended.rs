//! Some threads, one lock: throughput, fairness and CPU time under closed-loop load.
//!
//! ```text
//! cargo bench --features peers --bench contended               # all 30 cells, about seven minutes
//! cargo bench --features peers --bench contended -- 8x100/100  # threads x inside/outside
//! cargo bench --features peers --bench contended -- 64x        # all with that in their name
//! LOCKWORD_BENCH_LOCKS=lockword,std cargo bench --features peers --bench contended
//! ```
//!
//! The load generator is `lockword::contention`. The unit of work is a step of dependent arithmetic
//! (`lockword::contention::work`), whose duration on the machine is measured first and printed.
//! Each slice starts its threads behind a barrier, runs them for a fixed time and counts the
//! acquisitions of each. The slices are taken round-robin over the locks, and over all cells before
//! the next round begins; the table and the criterion report both show these samples (see
//! `support/report.rs` for how).
//!
//! How to read the table:
//!
//! - *M/s*: millions of acquisitions a second, the median of the slices, with the 95 %
//!   confidence interval of the median.
//! - *fair*: acquisitions of the unluckiest thread over those of the luckiest. `slice` is the
//!   median of this ratio within one slice; `sum` adds up the rounds first, thread by thread,
//!   which favours a lock that lets a different thread win each time. Where they differ, each
//!   target is judged by the figure that is worse for lockword.
//! - *CPU ns*: CPU time of all threads per acquisition, from each thread's own CPU clock.
//! - *lockword's lead*: lockword's throughput over the line's, paired round by round; on
//!   lockword's own line, over the best peer that parks. That peer is in brackets if its
//!   unluckiest thread got less than a tenth of the luckiest's: a lock that lets one thread run
//!   alone has the throughput of an uncontended lock, so the cell counts for the mean only.

mod support;

use std::time::Duration;

use lockword::contention::statistics::{self, Median};
use lockword::contention::{Load, LockKind, MachineInfo, Sample, Work};
use support::contenders::{self, Cell, LOCKWORD, PARKING_LOT, STD, Series, Workload};
use support::options::BenchOptions;
use support::report::{self, BenchmarkSamples};
use support::table::{self, TextTable};

type Measured = Cell<Contended, Sample>;

/// Rounds in full mode.
const ROUNDS: usize = 10;

const THREADS: [usize; 5] = [2, 4, 8, 16, 64];

/// Units of work (inside, outside).
const MIXES: [(u32, u32); 6] = [(0, 0), (10, 10), (10, 100), (100, 100), (1000, 1000), (1000, 0)];

/// Below this share of the luckiest thread's acquisitions, the unluckiest one is starved.
const STARVED: f64 = 0.1;

/// A load of one lock.
struct Contended(Load);

impl Workload for Contended {
    type Sample = Sample;

    fn name(&self) -> String {
        let Load { threads, inside, outside, .. } = self.0;
        format!("{threads}x{}/{}", inside.units_of(), outside.units_of())
    }

    fn run<K: LockKind>(&self) -> Sample {
        self.0.throughput::<K>().unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }
}

fn main() {
    let options = BenchOptions::read("contended");
    let mut cells = Vec::new();
    for threads in THREADS {
        for (inside, outside) in MIXES {
            // Long enough for each of 64 threads on two processors to get several time slices of 4
            // ms from the scheduler. Otherwise the fairness within a slice would be the
            // scheduler's.
            let slice = options.slice(Duration::from_millis(80 + 10 * threads as u64));
            let load = Load::new(threads)
                .inside(Work::units(inside))
                .outside(Work::units(outside))
                .slice_ms(slice.as_millis() as u64);
            cells.push(Contended(load));
        }
    }
    let cells = options.select_cells(cells, Workload::name);
    let contenders = options.select_contenders(contenders::mutexes::<Contended>());
    let machine = MachineInfo::read();
    let measured = contenders::interleave(&options, cells, &contenders, options.rounds(ROUNDS));

    let mut lines = Vec::new();
    for cell in &measured {
        for series in &cell.series {
            let (cell, lock) = (cell.load.name(), series.lock.to_owned());
            lines.push(BenchmarkSamples { cell, lock, ns: series.map(nanoseconds) });
        }
    }
    report::publish(&options, &lines);
    if !options.list {
        println!("\nThroughput of one lock under closed-loop load");
        println!("{machine}; {} rounds;", options.rounds(ROUNDS));
        println!("one unit of work takes {:.2} ns\n", machine.unit_ns);
        print(&measured);
        targets(&options, &measured);
    }
}

fn print(measured: &[Measured]) {
    let heads = [
        "threads x in/out",
        "lock",
        "M/s",
        "95 % CI",
        "fair: slice",
        "sum",
        "CPU ns",
        "lockword's lead [95 % CI]",
        "",
    ];
    let mut table = TextTable::new(2, &heads);
    for cell in measured {
        for series in &cell.series {
            let speed = statistics::median(&speeds(series));
            let cpu = statistics::median(&series.map(cpu_nanoseconds));
            let peer = match series.lock {
                LOCKWORD => best_parking_peer(cell),
                _ => Some(series),
            };
            let note = match (series.lock, peer) {
                (LOCKWORD, Some(peer)) if starves(peer) => format!("(best: {})", peer.lock),
                (LOCKWORD, Some(peer)) => format!("best: {}", peer.lock),
                _ => String::new(),
            };
            table.row(vec![
                cell.load.name(),
                series.lock.to_owned(),
                table::figure(speed.mid),
                table::interval(&speed),
                format!("{:.2}", slice_fairness(series)),
                format!("{:.2}", sum_fairness(series)),
                table::figure(cpu.mid),
                peer.and_then(|p| lead(cell, p.lock))
                    .map_or_else(String::new, |l| table::ratio(&l)),
                note,
            ]);
        }
        table.gap();
    }
    table.print();
}

fn targets(options: &BenchOptions, measured: &[Measured]) {
    let judge = |target: &str, value: Option<f64>, met: &dyn Fn(f64) -> bool| {
        table::verdict(options.quick, target, value, met);
    };
    let (some, all) = (measured.len(), THREADS.len() * MIXES.len());
    println!("Targets, over {some} of {all} cells:");
    for peer in [STD, PARKING_LOT] {
        let cells = measured.iter().filter(|cell| cell.load.0.outside.units_of() > 0);
        let leads = cells.filter_map(|cell| lead(cell, peer)).map(|lead| lead.mid);
        let target = format!("throughput over {peer}, mean of cells with work outside, >= 1.15");
        judge(&target, statistics::geometric_mean(leads), &|v| v >= 1.15);
    }
    for peer in [STD, PARKING_LOT] {
        let costs = measured.iter().filter_map(|cell| cpu_ratio(cell, peer));
        let target = format!("CPU time per acquisition relative to {peer}, mean, <= 1.00");
        judge(&target, statistics::geometric_mean(costs), &|v| v <= 1.0);
    }

    // (cell, lead over the best parking peer), where that peer starves no thread.
    let mut against_best = Vec::new();
    let mut monopolies = Vec::new();
    for cell in measured {
        let Some(peer) = best_parking_peer(cell) else { continue };
        let Some(lead) = lead(cell, peer.lock) else { continue };
        if starves(peer) {
            monopolies.push(format!("{} ({} {:.2})", cell.load.name(), peer.lock, lead.mid));
        } else {
            against_best.push((cell.load.name(), lead));
        }
    }
    let worst = against_best.iter().min_by(|a, b| a.1.high.total_cmp(&b.1.high));
    let name = worst.map_or("no cell", |(name, _)| name);
    let target = format!("least lead over the best parking peer ({name}), CI's upper end, >= 0.90");
    judge(&target, worst.map(|(_, lead)| lead.high), &|v| v >= 0.9);

    let series = || measured.iter().filter_map(|cell| cell.of(LOCKWORD));
    let fairness = statistics::least(series().map(|s| slice_fairness(s).min(sum_fairness(s))));
    judge("lockword's unluckiest over luckiest thread, worst cell, >= 0.10", fairness, &|v| {
        v >= STARVED
    });

    let below: Vec<_> = against_best.iter().filter(|(_, lead)| lead.mid < 1.0).collect();
    println!("\nCells in which lockword's median is behind the best parking peer's:");
    for (name, lead) in &below {
        println!("  {name:<16} {}", table::ratio(lead));
    }
    if below.is_empty() {
        println!("  none");
    }
    println!("Cells that count for the mean only, since the best parking peer starves a thread");
    println!("(its name, lockword's lead):");
    println!("  {}", if monopolies.is_empty() { "none".to_owned() } else { monopolies.join(", ") });
}

/// Millions of acquisitions a second.
fn speeds(series: &Series<Sample>) -> Vec<f64> {
    series.map(|sample| sample.per_second() / 1e6)
}

/// Wall-clock nanoseconds for an acquisition.
fn nanoseconds(sample: &Sample) -> f64 {
    1e9 / sample.per_second()
}

/// CPU nanoseconds for an acquisition; NaN where the system does not report it.
fn cpu_nanoseconds(sample: &Sample) -> f64 {
    sample.cpu_ns_each().unwrap_or(f64::NAN)
}

/// The lock other than lockword with the highest throughput whose waiters go to sleep.
fn best_parking_peer(cell: &Measured) -> Option<&Series<Sample>> {
    let peers = cell.series.iter().filter(|s| s.parks && s.lock != LOCKWORD);
    let middle = |series: &&Series<Sample>| statistics::median(&speeds(series)).mid;
    peers.max_by(|a, b| middle(a).total_cmp(&middle(b)))
}

/// lockword's throughput over a peer's.
fn lead(cell: &Measured, peer: &str) -> Option<Median> {
    let (lockword, peer) = (cell.of(LOCKWORD)?, cell.of(peer)?);
    Some(statistics::paired_ratio(&speeds(lockword), &speeds(peer)))
}

/// lockword's CPU time per acquisition over a peer's, where the system reports it.
fn cpu_ratio(cell: &Measured, peer: &str) -> Option<f64> {
    let (lockword, peer) = (cell.of(LOCKWORD)?, cell.of(peer)?);
    let cpu = |series: &Series<Sample>| series.map(cpu_nanoseconds);
    let ratio = statistics::paired_ratio(&cpu(lockword), &cpu(peer)).mid;
    ratio.is_finite().then_some(ratio)
}

/// Unluckiest over luckiest thread within a slice: the median of the slices.
fn slice_fairness(series: &Series<Sample>) -> f64 {
    statistics::median(&series.map(Sample::unluckiest_over_luckiest)).mid
}

/// The same with the rounds added up first, thread by thread.
fn sum_fairness(series: &Series<Sample>) -> f64 {
    let mut sum = series.samples[0].clone();
    for sample in &series.samples[1..] {
        for (sum, count) in sum.acquisitions.iter_mut().zip(&sample.acquisitions) {
            *sum += count;
        }
    }
    sum.unluckiest_over_luckiest()
}

/// Whether a peer starves a thread even if the rounds are added up.
fn starves(series: &Series<Sample>) -> bool {
    sum_fairness(series) < STARVED
}
