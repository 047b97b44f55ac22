//! Made-up reports for the tests.

use lockword::contention::{
    CellReport, FORMAT, Load, LockReport, Machine, Report, Sample, Waits, Work,
};

/// A report of these cells.
pub fn report(cells: Vec<CellReport>) -> Report {
    Report {
        format: FORMAT,
        lockword: env!("CARGO_PKG_VERSION").to_owned(),
        started: 1_764_090_000,
        command: ["lockword", "bench"].map(str::to_owned).to_vec(),
        machine: Machine {
            cpu: Some("Made-up Processor".to_owned()),
            processors: 2,
            system: "Linux 6.1".to_owned(),
            architecture: "x86_64".to_owned(),
            governor: None,
            load_average: Some(0.1),
            unit_ns: 1.0,
        },
        rounds: 9,
        cut_short: false,
        cells,
        warnings: vec![],
    }
}

/// A cell of so many threads; each of the locks' samples gets so many.
pub fn cell(threads: usize, mut locks: Vec<LockReport>) -> CellReport {
    let load = Load::new(threads).inside(Work::nanos(100)).outside(Work::nanos(100));
    for sample in locks.iter_mut().flat_map(|lock| &mut lock.samples) {
        let all = sample.total();
        let each = all / threads as u64;
        sample.acquisitions = vec![each; threads];
        sample.acquisitions[0] += all - each * threads as u64;
    }
    CellReport { name: load.name(), load, locks }
}

/// A lock with nine samples around so many acquisitions a second: the odd ones are larger by the
/// share `spread`, the even ones smaller.
pub fn lock(name: &str, per_second: f64, spread: f64) -> LockReport {
    let sample = |round: usize| {
        let factor = if round % 2 == 1 { 1.0 + spread } else { 1.0 - spread };
        let count = per_second * factor * 10.0;
        Sample {
            elapsed_ns: 1e10,
            acquisitions: vec![count as u64],
            cpu_ns: Some(2e10),
            hog_acquisitions: None,
        }
    };
    let curve =
        vec![(0.0, 50), (0.5, 120), (0.9, 900), (0.99, 4_000), (0.999, 35_000), (1.0, 1_200_000)];
    LockReport {
        lock: name.to_owned(),
        samples: (0..9).map(sample).collect(),
        waits: Some(Waits {
            count: 1_000_000,
            p50: 120,
            p99: 4_000,
            p999: 35_000,
            max: 1_200_000,
            curve,
        }),
    }
}
