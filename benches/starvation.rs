//! Threads that hold the lock for long and lock it again at once: how long does a waiter wait?
//!
//! ```text
//! cargo bench --features peers --bench starvation             # three loads, about two minutes
//! cargo bench --features peers --bench starvation -- 8x200us  # one of them
//! ```
//!
//! `8x200us` is eight threads that each hold the lock for 200 us, release it and lock it again at
//! once. A holder spins on the monotonic clock, so a holder that is preempted holds for longer,
//! with any lock. Every wait is recorded; one that lasts beyond the end of the slice is recorded
//! when it ends.
//!
//! The slices (two seconds each) are taken round-robin over the locks. The table pools the waits
//! of all rounds; the longest wait is the longest of any round, and fairness is given both as
//! the median round's and the worst round's. *lockword's lead* is lockword's throughput over the
//! line's, paired round by round; on lockword's own line, over the best peer that parks, whose
//! name is in brackets if it starves a thread. Below the table, lockword's waits are set beside
//! those of the parking peer that waits least. The criterion report shows the distribution of the
//! same waits: its samples are a hundred quantiles of the pool, from 0.5 % to 99.5 %, passed
//! through `iter_custom`.

mod support;

use std::time::Duration;

use lockword::contention::statistics::{self, Median};
use lockword::contention::{Load, LockKind, MachineInfo, Sample, WaitHistogram, Work};
use support::contenders::{self, Cell, LOCKWORD, PARKING_LOT_FAIR, STD, Series, Workload};
use support::options::BenchOptions;
use support::report::{self, BenchmarkSamples};
use support::table::{self, TextTable};

type Measured = Cell<Hogs, WaitSample>;
/// The result of a slice.
type WaitSample = (Sample, WaitHistogram);

/// Rounds in full mode.
const ROUNDS: usize = 3;

/// (threads, microseconds each holds the lock).
const LOADS: [(usize, u64); 3] = [(2, 200), (8, 200), (5, 50)];

/// Threads that only hold the one lock.
struct Hogs(Load);

impl Workload for Hogs {
    type Sample = WaitSample;

    fn name(&self) -> String {
        format!("{}x{}us", self.0.threads, self.0.inside.nominal_ns() / 1e3)
    }

    fn run<K: LockKind>(&self) -> WaitSample {
        self.0.timed::<K>().unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }
}

fn main() {
    let options = BenchOptions::read("starvation");
    let full = Duration::from_secs(2);
    let slice = if options.quick { Duration::from_millis(50) } else { full };
    let cells = LOADS.map(|(threads, us)| {
        let hold = Work::clock(1_000 * us);
        let load = Load::new(threads).inside(hold).outside(Work::NONE);
        Hogs(load.slice_ms(slice.as_millis() as u64))
    });
    let cells = options.select_cells(cells.into(), Workload::name);
    let contenders = options.select_contenders(contenders::mutexes_and_fair::<Hogs>());
    let measured = contenders::interleave(&options, cells, &contenders, options.rounds(ROUNDS));

    let mut lines = Vec::new();
    for cell in &measured {
        for series in &cell.series {
            let waits = pool(series);
            // At least 1 ns, because criterion divides by it.
            let quantile = |i: i32| waits.quantile_ns((f64::from(i) + 0.5) / 100.0).max(1) as f64;
            let ns = if waits.count() == 0 { vec![] } else { (0..100).map(quantile).collect() };
            lines.push(BenchmarkSamples {
                cell: cell.load.name(),
                lock: series.lock.to_owned(),
                ns,
            });
        }
    }
    report::publish(&options, &lines);
    if options.list {
        return;
    }
    println!("\nThreads that hold the lock for long and re-lock at once: their waits");
    let rounds = options.rounds(ROUNDS);
    println!("{}; {rounds} rounds of {} s\n", MachineInfo::read(), slice.as_secs_f64());
    print(&measured);
    println!("Targets:");
    for cell in &measured {
        targets(&options, cell);
    }
}

fn print(measured: &[Measured]) {
    let heads = [
        "threads x hold",
        "lock",
        "longest wait",
        "p99.9",
        "p99",
        "median",
        "luckiest",
        "unluckiest",
        "ratio",
        "worst round",
        "per second",
        "95 % CI",
        "lockword's lead [95 % CI]",
        "",
    ];
    let mut table = TextTable::new(2, &heads);
    for cell in measured {
        for series in &cell.series {
            let waits = pool(series);
            let at = |q| table::time(waits.quantile_ns(q) as f64);
            // Of each round, because unfairness evens out in the sum of the rounds.
            let middle = |figure: fn(&[u64]) -> Option<&u64>| {
                let of = |(sample, _): &WaitSample| figure(&sample.acquisitions).copied();
                let figures = series.map(|slice| of(slice).unwrap_or(0) as f64);
                format!("{:.0}", statistics::median(&figures).mid)
            };
            let speed = statistics::median(&speeds(series));
            let fairness = fairness(series);
            let peer = match series.lock {
                LOCKWORD => best_parking_peer(cell, |peer| -statistics::median(&speeds(peer)).mid),
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
                at(1.0),
                at(0.999),
                at(0.99),
                at(0.5),
                middle(|counts| counts.iter().max()),
                middle(|counts| counts.iter().min()),
                format!("{:.3}", statistics::median(&fairness).mid),
                statistics::least(fairness).map_or_else(String::new, |worst| format!("{worst:.3}")),
                format!("{:.0}", speed.mid),
                format!("[{:.0}, {:.0}]", speed.low, speed.high),
                peer.and_then(|peer| lead(cell, peer.lock))
                    .map_or_else(String::new, |lead| table::ratio(&lead)),
                note,
            ]);
        }
        table.gap();
    }
    table.print();

    println!("lockword's waits relative to those of the parking peer that waits least:");
    for cell in measured {
        let beside = |q| {
            let at = |series: &Series<WaitSample>| pool(series).quantile_ns(q) as f64;
            let peer = best_parking_peer(cell, at)?;
            Some(format!("{:.2} of {}'s", at(cell.of(LOCKWORD)?) / at(peer), peer.lock))
        };
        for (what, q) in [("longest wait", 1.0), ("p99.9", 0.999)] {
            let ratio = beside(q).unwrap_or_else(|| "not measured".to_owned());
            println!("  {:<16} {what:<14} {ratio}", cell.load.name());
        }
    }
    println!();
}

fn targets(options: &BenchOptions, cell: &Measured) {
    let name = cell.load.name();
    let judge = |target: &str, value: Option<f64>, met: &dyn Fn(f64) -> bool| {
        table::verdict(options.quick, &format!("{name}: {target}"), value, met);
    };
    let wait = |lock: &str, q| Some(pool(cell.of(lock)?).quantile_ns(q) as f64);
    let ratio = |peer: &str, q| Some(wait(LOCKWORD, q)? / wait(peer, q)?);
    let lockword = cell.of(LOCKWORD);

    judge("longest wait relative to std's, <= 1/20", ratio(STD, 1.0), &|v| v <= 0.05);
    judge("p99.9 relative to FairMutex's, <= 2", ratio(PARKING_LOT_FAIR, 0.999), &|v| v <= 2.0);
    let fair = lockword.map(|s| statistics::median(&fairness(s)).mid);
    judge("unluckiest over luckiest thread, >= 1/2", fair, &|v| v >= 0.5);
    let speed = lead(cell, STD).map(|lead| lead.mid);
    judge("throughput relative to std's, >= 0.95", speed, &|v| v >= 0.95);
}

/// The waits of all rounds together.
fn pool(series: &Series<WaitSample>) -> WaitHistogram {
    let mut pool = WaitHistogram::new();
    series.samples.iter().for_each(|(_, waits)| pool.add(waits));
    pool
}

fn speeds(series: &Series<WaitSample>) -> Vec<f64> {
    series.map(|(sample, _)| sample.per_second())
}

fn fairness(series: &Series<WaitSample>) -> Vec<f64> {
    series.map(|(sample, _)| sample.unluckiest_over_luckiest())
}

/// Whether a lock starves a thread: less than a tenth of the luckiest's acquisitions.
fn starves(series: &Series<WaitSample>) -> bool {
    statistics::median(&fairness(series)).mid < 0.1
}

/// The lock other than lockword whose waiters go to sleep and whose figure is smallest.
fn best_parking_peer(
    cell: &Measured,
    figure: impl Fn(&Series<WaitSample>) -> f64,
) -> Option<&Series<WaitSample>> {
    let peers = cell.series.iter().filter(|s| s.parks && s.lock != LOCKWORD);
    peers.min_by(|a, b| figure(a).total_cmp(&figure(b)))
}

/// lockword's throughput over a peer's, paired round by round.
fn lead(cell: &Measured, peer: &str) -> Option<Median> {
    Some(statistics::paired_ratio(&speeds(cell.of(LOCKWORD)?), &speeds(cell.of(peer)?)))
}
