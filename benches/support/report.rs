//! The samples as a criterion report.
//!
//! Criterion measures one benchmark to its end before it starts the next, so it cannot
//! interleave. The benches therefore measure by themselves (see [`super::roster::interleave`])
//! and hand the finished samples to criterion through `iter_custom`: its sample `i` of `n`
//! iterations is our slice `i` times `n`. Criterion's console lines, its HTML report under
//! `target/criterion` and its comparison with the last run show the same data as the table.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode};

use super::options::Options;

/// One line of the report: nanoseconds per operation, one a slice.
pub struct Line {
    /// The cell.
    pub cell: String,
    /// The lock.
    pub lock: String,
    /// The samples.
    pub ns: Vec<f64>,
}

/// The fewest samples that criterion accepts.
const FEWEST: usize = 10;

/// Hands the samples to criterion.
///
/// With fewer than ten there is no report: repeating them would feign certainty. In criterion's
/// test mode each is only called once.
pub fn publish(options: &Options, lines: &[Line]) {
    let mut criterion = Criterion::default().configure_from_args();
    if options.list {
        for line in lines {
            println!("{}/{}/{}: benchmark", options.bench, line.cell, line.lock);
        }
        return;
    }
    if !options.quick && lines.iter().any(|line| line.ns.len() < FEWEST) {
        println!("No criterion report: it needs at least {FEWEST} rounds.");
        return;
    }
    let by_cell = lines.chunk_by(|a, b| a.cell == b.cell);
    for lines in by_cell {
        let mut group = criterion.benchmark_group(format!("{}/{}", options.bench, lines[0].cell));
        for line in lines {
            group
                .sampling_mode(SamplingMode::Flat)
                .sample_size(line.ns.len().max(FEWEST))
                // The slices were measured warm; these times only set the iteration count.
                .warm_up_time(Duration::from_nanos(1))
                .measurement_time(Duration::from_millis(10))
                .nresamples(2_000);
            let mut call = 0;
            group.bench_function(BenchmarkId::from_parameter(&line.lock), |bencher| {
                bencher.iter_custom(|iterations| {
                    // The first call is the warm-up's: sample 0 comes with the second.
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
