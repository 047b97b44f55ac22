//! Metrics of prometheus: a family of counters is a `RwLock` around a map from labels to counters. Whoever counts
//! reads, and a new label writes.

mod harness;

use harness::{Cell, threads, work};
use prometheus::{IntCounterVec, Opts, Registry};
use std::sync::LazyLock;

/// They live as long as the program, as metrics do.
static METRICS: LazyLock<(Registry, IntCounterVec)> = LazyLock::new(|| {
    let (registry, opts) = (Registry::new(), Opts::new("requests", "all"));
    let family = IntCounterVec::new(opts, &["path"]).unwrap();
    registry.register(Box::new(family.clone())).unwrap();
    (registry, family)
});

/// Threads count under `labels` labels, and collect all counters once in `every` times: an operation each.
fn count(count: u64, labels: u64, every: u64, operations: u64) {
    let (registry, family) = &*METRICS;
    let names: Vec<String> = (0..labels).map(|label| format!("/{label}")).collect();
    threads(count, operations, |number, share| {
        for round in 0..share {
            let label = (number + round * 7) % labels;
            family.with_label_values(&[&names[label as usize]]).inc();
            if every != 0 && round % every == every - 1 {
                assert_eq!(registry.gather().len(), 1);
            }
            work(20);
        }
    });
}

fn main() {
    harness::main(&[
        Cell { name: "2-of-1", batch: 400_000, run: |n| count(2, 1, 0, n) },
        Cell { name: "8-of-1", batch: 400_000, run: |n| count(8, 1, 0, n) },
        Cell { name: "4-of-64", batch: 400_000, run: |n| count(4, 64, 0, n) },
        // Others read for longer.
        Cell { name: "4-of-64-collected", batch: 400_000, run: |n| count(4, 64, 1_000, n) },
    ]);
}
