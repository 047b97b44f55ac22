//! The figures of one slice, and the tables and verdicts over them.

use crate::support::options::BenchOptions;
use crate::support::table::{self, TextTable};
use lockword::cluster::layers::Operations;
use lockword::contention::{MachineInfo, statistics};

/// How long the acquisitions waited, in nanoseconds.
pub struct Waits {
    /// The median.
    pub half: f64,
    /// The 99th percentile.
    pub most: f64,
    pub all: f64,
}

/// The figures of one slice of one contender.
pub struct Sample {
    /// Nanoseconds, of what the cell measures.
    pub ns: f64,
    /// The calls of the transport for one acquisition.
    pub requests: Option<f64>,
    /// Those of them that have written.
    pub writes: Option<f64>,
    pub waits: Option<Waits>,
    /// The smallest number of grants of a contender over the largest.
    pub evenness: Option<f64>,
}

impl Sample {
    pub fn new(ns: f64) -> Self {
        Self { ns, requests: None, writes: None, waits: None, evenness: None }
    }

    pub fn with_requests(self, requests: Operations, acquisitions: u64) -> Self {
        self.with_counts(requests.total(), requests.swaps, acquisitions)
    }

    pub fn with_counts(self, requests: u64, writes: u64, acquisitions: u64) -> Self {
        let each = |count: u64| Some(count as f64 / acquisitions.max(1) as f64);
        Self { requests: each(requests), writes: each(writes), ..self }
    }

    pub fn with_grants(self, grants: &[u64]) -> Self {
        let (least, most) = (grants.iter().min(), grants.iter().max());
        let evenness = *least.unwrap_or(&0) as f64 / (*most.unwrap_or(&0)).max(1) as f64;
        Self { evenness: Some(evenness), ..self }
    }
}

/// A contender of a cell: its name, and a function that measures one slice of it.
pub struct Contender {
    pub name: &'static str,
    pub run: Box<dyn Fn() -> Sample>,
}

pub struct Cell {
    pub engine: &'static str,
    pub name: String,
    pub contenders: Vec<Contender>,
}

/// The samples of each contender, index `i` in round `i`.
pub type Measured = Vec<(Cell, Vec<Vec<Sample>>)>;

fn middle(samples: &[Sample], of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
    let figures: Vec<f64> = samples.iter().filter_map(of).collect();
    (!figures.is_empty()).then(|| statistics::median(&figures).mid)
}

fn ns(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|sample| sample.ns).collect()
}

pub fn print(options: &BenchOptions, rounds: usize, measured: &Measured) {
    println!("\nThe lock across nodes, on engines");
    println!("{}; {rounds} rounds\n", MachineInfo::read());
    let heads = [
        "cell", "", "time", "95 % CI", "a second", "requests", "writes", "wait p50", "p99", "max",
        "even", "times",
    ];
    let mut rows = TextTable::new(2, &heads);
    for (cell, samples) in measured {
        let first = ns(&samples[0]);
        for (contender, samples) in cell.contenders.iter().zip(samples) {
            let own = ns(samples);
            let time = statistics::median(&own);
            let shown = |of: fn(&Sample) -> Option<f64>, show: fn(f64) -> String| {
                middle(samples, of).map_or_else(String::new, show)
            };
            rows.row(vec![
                cell.name.clone(),
                contender.name.to_owned(),
                table::time(time.mid),
                format!("[{}, {}]", table::time(time.low), table::time(time.high)),
                table::figure(1e9 / time.mid),
                shown(|sample| sample.requests, table::figure),
                shown(|sample| sample.writes, table::figure),
                shown(|sample| Some(sample.waits.as_ref()?.half), table::time),
                shown(|sample| Some(sample.waits.as_ref()?.most), table::time),
                shown(|sample| Some(sample.waits.as_ref()?.all), table::time),
                shown(|sample| sample.evenness, table::figure),
                table::ratio(&statistics::paired_ratio(&own, &first)),
            ]);
        }
        rows.gap();
    }
    rows.print();
    println!(
        "Time: for an acquisition and its release; in elsewhere, from a release to the next grant."
    );
    println!(
        "Requests, and those that wrote: for an acquisition. Even: the unluckiest one's grants over the luckiest's."
    );
    println!(
        "Times: how many times as long as the first line's it takes. Waits: medians of rounds."
    );
    println!("\nTargets:");
    let mut engines: Vec<&str> = measured.iter().map(|(cell, _)| cell.engine).collect();
    engines.dedup();
    for engine in engines {
        verdicts(options.quick, engine, measured);
    }
}

fn verdicts(quick: bool, engine: &str, measured: &Measured) {
    let find = |cell: &str| {
        let name = format!("{engine}/{cell}");
        measured.iter().find(|(cell, _)| cell.name == name).map(|(_, samples)| samples)
    };
    // The time of one over that of the other, round by round.
    let ratio = |cell: &str, over: usize, under: usize| {
        let samples = find(cell)?;
        let ratio = statistics::paired_ratio(&ns(samples.get(over)?), &ns(samples.get(under)?));
        Some(ratio.mid)
    };
    let target = format!("{engine}: uncontended, at most 1.25 times two bare round trips");
    table::verdict(quick, &target, ratio("uncontended", 0, 1), |v| v <= 1.25);
    let target = format!("{engine}: 8 threads, at least 50 times the peer's acquisitions");
    table::verdict(quick, &target, ratio("threads-8", 1, 0), |v| v >= 50.0);
    let bound = "of a write of which another client learns";
    for cell in ["elsewhere", "elsewhere-2s"] {
        let target = format!("{engine}: {cell}, at most 1.25 times {bound}");
        table::verdict(quick, &target, ratio(cell, 0, 1), |v| v <= 1.25);
    }
    let target = format!("{engine}: 64 keys, at least 0.6 of bare pairs over one connection");
    table::verdict(quick, &target, ratio("keys-64", 1, 0), |v| v >= 0.6);
    let requests = |cell: &str| middle(&find(cell)?[0], |sample| sample.requests);
    let growth = requests("waiting-32").zip(requests("waiting-4")).map(|(many, few)| many / few);
    let target = format!("{engine}: requests with 32 nodes, at most 1.05 times those with 4");
    table::verdict(quick, &target, growth, |v| v <= 1.05);
}
