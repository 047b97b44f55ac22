//! The samples as a criterion report; and the table of benches that measure nanoseconds per
//! operation.
//!
//! Criterion measures one benchmark to its end before it starts the next, so it cannot
//! interleave. The benches therefore measure by themselves (see [`super::contenders::interleave`])
//! and pass the finished samples to criterion through `iter_custom`: its sample `i` of `n`
//! iterations is our slice `i` times `n`. Criterion's console lines, its HTML report under
//! `target/criterion` and its comparison with the last run show the same data as the table.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode};
use lockword::contention::statistics::{self, Median};

use super::contenders::{Cell, LOCKWORD, STD, Series};
use super::options::BenchOptions;
use super::table::{self, TextTable};

/// The samples of one lock in one cell: nanoseconds per operation, one sample for each slice.
pub struct BenchmarkSamples {
    /// The cell.
    pub cell: String,
    /// The lock.
    pub lock: String,
    /// The samples.
    pub ns: Vec<f64>,
}

/// The smallest number of samples that criterion accepts.
const MIN_SAMPLES: usize = 10;

/// Publishes the samples as a criterion report.
///
/// With fewer than ten there is no report, since repeating samples would feign certainty. In
/// criterion's test mode each benchmark is only called once.
pub fn publish(options: &BenchOptions, lines: &[BenchmarkSamples]) {
    let mut criterion = Criterion::default().configure_from_args();
    if options.list {
        for line in lines {
            println!("{}/{}/{}: benchmark", options.bench, line.cell, line.lock);
        }
        return;
    }
    if !options.quick && lines.iter().any(|line| line.ns.len() < MIN_SAMPLES) {
        println!("No criterion report: it needs at least {MIN_SAMPLES} rounds.");
        return;
    }
    let by_cell = lines.chunk_by(|a, b| a.cell == b.cell);
    for lines in by_cell {
        let mut group = criterion.benchmark_group(format!("{}/{}", options.bench, lines[0].cell));
        for line in lines {
            group
                .sampling_mode(SamplingMode::Flat)
                .sample_size(line.ns.len().max(MIN_SAMPLES))
                // The slices were measured warm; these times only set the iteration count.
                .warm_up_time(Duration::from_nanos(1))
                .measurement_time(Duration::from_millis(10))
                .nresamples(2_000);
            let mut call = 0;
            group.bench_function(BenchmarkId::from_parameter(&line.lock), |bencher| {
                bencher.iter_custom(|iterations| {
                    // The first call is the warm-up; the second one gets sample 0.
                    let index = (call + line.ns.len() - 1) % line.ns.len();
                    call += 1;
                    // No two samples may be equal to the nanosecond, or criterion's plots fail.
                    let ns = line.ns[index] * iterations as f64;
                    Duration::from_nanos(ns as u64 + call as u64)
                });
            });
        }
        group.finish();
    }
}

/// Publishes the samples of a bench whose samples are one time each (see [`publish`]).
pub fn publish_times<W>(
    options: &BenchOptions,
    measured: &[Cell<W, f64>],
    name: impl Fn(&W) -> String,
) {
    let mut lines = Vec::new();
    for cell in measured {
        for series in &cell.series {
            let (cell, lock) = (name(&cell.load), series.lock.to_owned());
            lines.push(BenchmarkSamples { cell, lock, ns: series.samples.clone() });
        }
    }
    publish(options, &lines);
}

/// Prints the table of a bench whose samples are nanoseconds per operation: one line for each lock
/// in each cell. The lead is how many times faster lockword is than the line's lock; on lockword's
/// own line, than the best peer that parks.
pub fn print_times<W>(head: &str, measured: &[Cell<W, f64>], name: impl Fn(&W) -> String) {
    let heads =
        [head, "lock", "median ns", "95 % CI", "quartiles", "lockword's lead [95 % CI]", ""];
    let mut table = TextTable::new(2, &heads);
    for cell in measured {
        for series in &cell.series {
            table.row(times_row(cell, series, &name));
        }
        table.gap();
    }
    table.print();
}

/// The same table with the CPU time per operation beside the wall-clock time, and what the CPU time
/// is relative to std's. `cpu` has the same cells and locks as `measured`.
pub fn print_times_and_cpu<W>(
    head: &str,
    measured: &[Cell<W, f64>],
    cpu: &[Cell<W, f64>],
    name: impl Fn(&W) -> String,
) {
    let heads = [
        head,
        "lock",
        "median ns",
        "95 % CI",
        "quartiles",
        "lockword's lead [95 % CI]",
        "",
        "CPU ns",
        "95 % CI",
        "relative to std's [95 % CI]",
    ];
    let mut table = TextTable::new(2, &heads);
    for (cell, cpu) in measured.iter().zip(cpu) {
        for series in &cell.series {
            let mut row = times_row(cell, series, &name);
            let own = cpu.of(series.lock).filter(|own| own.samples.iter().all(|v| v.is_finite()));
            let median = own.map(|own| statistics::median(&own.samples));
            let ratio = own.and_then(|own| relative_to(cpu, own.lock, STD));
            row.push(median.map_or_else(String::new, |median| table::figure(median.mid)));
            row.push(median.map_or_else(String::new, |median| table::interval(&median)));
            row.push(ratio.map_or_else(String::new, |ratio| table::ratio(&ratio)));
            table.row(row);
        }
        table.gap();
    }
    table.print();
}

/// The line of a lock in a table of times.
fn times_row<W>(
    cell: &Cell<W, f64>,
    series: &Series<f64>,
    name: impl Fn(&W) -> String,
) -> Vec<String> {
    let median = statistics::median(&series.samples);
    let sorted = statistics::sorted(&series.samples);
    let (first, third) = (statistics::quantile(&sorted, 0.25), statistics::quantile(&sorted, 0.75));
    let (lead, note) = if series.lock == LOCKWORD {
        let best = best_parking_peer(cell);
        let lead = best.and_then(|peer| lead_over(cell, peer.lock));
        (lead, best.map_or_else(String::new, |peer| format!("best: {}", peer.lock)))
    } else {
        (lead_over(cell, series.lock), String::new())
    };
    vec![
        name(&cell.load),
        series.lock.to_owned(),
        table::figure(median.mid),
        table::interval(&median),
        format!("{} - {}", table::figure(first), table::figure(third)),
        lead.map_or_else(String::new, |lead| table::ratio(&lead)),
        note,
    ]
}

/// The fastest lock other than lockword whose waiters go to sleep.
pub fn best_parking_peer<W>(cell: &Cell<W, f64>) -> Option<&Series<f64>> {
    let peers = cell.series.iter().filter(|s| s.parks && s.lock != LOCKWORD);
    let middle = |series: &&Series<f64>| statistics::median(&series.samples).mid;
    peers.min_by(|a, b| middle(a).total_cmp(&middle(b)))
}

/// How many times faster lockword is than a peer: the median of the rounds.
pub fn lead_over<W>(cell: &Cell<W, f64>, peer: &str) -> Option<Median> {
    relative_to(cell, peer, LOCKWORD)
}

/// The figure of a lock over that of another lock: the median of the rounds.
pub fn relative_to<W>(cell: &Cell<W, f64>, lock: &str, other: &str) -> Option<Median> {
    Some(statistics::paired_ratio(&cell.of(lock)?.samples, &cell.of(other)?.samples))
}
