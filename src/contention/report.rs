//! [`ComparisonReport`]: what a comparison measured, as data. It is what the tables, the pages and the
//! files are made of, and it is written as JSON with serde.
//!
//! Times are in nanoseconds, rates in acquisitions a second. A field that the system does not
//! tell is `None`.

use super::load::Load;
use super::system::MachineInfo;
use serde::{Deserialize, Serialize};

/// The version of the format. A reader refuses any other: see [`ComparisonReport::format`].
pub const FORMAT: u32 = 1;

/// A whole comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparisonReport {
    /// [`FORMAT`] when it was written.
    pub format: u32,
    /// The version of this crate that wrote it.
    pub lockword: String,
    /// When it began: seconds since 1970, UTC.
    pub started: u64,
    /// The command line, a word each; empty if it was a program of one's own.
    pub command: Vec<String>,
    /// Where it ran.
    pub machine: MachineInfo,
    /// Rounds that were asked for. A cell that was cut short has fewer samples.
    pub rounds: usize,
    /// Whether it was ended before all rounds were done.
    pub cut_short: bool,
    /// One for each load.
    pub cells: Vec<CellReport>,
    /// What makes the figures doubtful (a busy machine, a processor that slowed down).
    pub warnings: Vec<String>,
}

/// One load, and what each lock did under it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellReport {
    /// Short and unique in the report: `8 threads, 100/100 ns`, say.
    pub name: String,
    /// The load.
    pub load: Load,
    /// One for each lock, in the order in which they were given.
    pub locks: Vec<LockReport>,
}

/// One lock under one load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LockReport {
    /// The lock.
    pub lock: String,
    /// One for each round; sample `i` of every lock of a cell is round `i`: they pair up.
    pub samples: Vec<Sample>,
    /// The waits, of all rounds together; `None` where they were not asked for.
    pub waits: Option<Waits>,
}

/// One slice of one lock under one load: from the pass that reads no clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// How long it took, in nanoseconds.
    pub elapsed_ns: f64,
    /// Acquisitions, a thread each.
    pub acquisitions: Vec<u64>,
    /// Acquisitions of the hog, if there was one. It is no part of any other figure here.
    #[serde(default)]
    pub hog_acquisitions: Option<u64>,
    /// CPU time of all threads, in nanoseconds.
    pub cpu_ns: Option<f64>,
}

/// How long acquisitions waited, in nanoseconds: from the pass that times each.
///
/// Each wait includes the reading of the clock, 20 to 30 ns on most machines.
///
/// No wait is longer than the slice and the time that the queue takes to empty after it: at the
/// end nobody joins the queue any more, and sections longer than some 100 us are cut short. Who
/// still waits then gets the lock soon, and its wait, up to that moment, is noted. So a thread that
/// starved for the whole slice counts as one wait of about the slice's length. In an open loop,
/// what was due and had not asked for the lock has waited until the end of the slice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waits {
    /// How many were timed.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// 99 of 100 waited for no longer.
    pub p99: u64,
    /// 999 of 1000 waited for no longer.
    pub p999: u64,
    /// The longest wait.
    pub max: u64,
    /// (share of all waits, nanoseconds that they did not exceed), rising, for a chart.
    pub curve: Vec<(f64, u64)>,
}

impl Sample {
    /// Acquisitions of all threads.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.acquisitions.iter().sum()
    }

    /// Acquisitions a second; 0 of a sample that took no time.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        if self.elapsed_ns > 0.0 { self.total() as f64 / self.elapsed_ns * 1e9 } else { 0.0 }
    }

    /// CPU time for an acquisition, in nanoseconds.
    #[must_use]
    pub fn cpu_ns_each(&self) -> Option<f64> {
        self.cpu_ns.map(|ns| ns / self.total().max(1) as f64)
    }

    /// The unluckiest thread's acquisitions over the luckiest's: 1 is fair, 0 starves one.
    #[must_use]
    pub fn unluckiest_over_luckiest(&self) -> f64 {
        let (least, most) = (self.acquisitions.iter().min(), self.acquisitions.iter().max());
        least.copied().unwrap_or(0) as f64 / most.copied().unwrap_or(0).max(1) as f64
    }

    /// Dice's factor: the luckier half of the threads' share of all acquisitions; 0.5 is fair, 1
    /// is as unfair as can be. (With an odd number of threads the middle one counts half.)
    ///
    /// Dave Dice's measure of long-term fairness: "Malthusian Locks", EuroSys 2017.
    #[must_use]
    pub fn fairness_factor(&self) -> f64 {
        let mut sorted = self.acquisitions.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let half = sorted.len() / 2;
        let mut lucky = sorted[..half].iter().sum::<u64>() as f64;
        if sorted.len() % 2 == 1 {
            lucky += sorted[half] as f64 / 2.0;
        }
        lucky / self.total().max(1) as f64
    }
}
