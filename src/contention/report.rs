//! [`ComparisonReport`]: the result of a comparison as data, for tables and files. It implements
//! serde's `Serialize` and `Deserialize`; the program writes it as JSON.
//!
//! Times are in nanoseconds, rates in acquisitions a second. A figure that the system does not
//! provide is `None`.

use super::conditions::Conditions;
use super::load::Load;
use super::system::MachineInfo;
use serde::{Deserialize, Serialize};

/// The version of the serialized format. A reader should refuse a report with any other
/// [`ComparisonReport::format`].
pub const FORMAT: u32 = 3;

/// The result of a [`Comparison`](super::Comparison).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparisonReport {
    /// The value of [`FORMAT`] of the writer.
    pub format: u32,
    /// The version of this crate that measured.
    pub lockword: String,
    /// When the comparison began: seconds since 1970, UTC.
    pub started: u64,
    /// The command line, one word each; see [`Comparison::command`](super::Comparison::command).
    pub command: Vec<String>,
    /// The lock with which ratios are shown. [`Comparison`](super::Comparison) leaves it open; then it is `lockword`, or
    /// `lockword_rw` where some acquisitions read, or else the first lock.
    pub reference: Option<String>,
    /// The machine.
    pub machine: MachineInfo,
    /// The number of rounds that were requested. If the comparison was cut short, there are fewer
    /// samples; with [`Comparison::until_undisturbed`](super::Comparison::until_undisturbed) there
    /// may be fewer or more.
    pub rounds: usize,
    /// Whether it was cancelled before all rounds were done.
    pub cut_short: bool,
    /// One cell for each load.
    pub cells: Vec<CellReport>,
    /// What may have distorted the figures (a busy machine, a processor that slowed down), one
    /// sentence each.
    pub warnings: Vec<String>,
}

/// A load, and the results of each lock under it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellReport {
    /// The load's name (see [`Load::name`]), which is unique in the report.
    pub name: String,
    /// The load.
    pub load: Load,
    /// In an open loop: how many acquisitions a second were due, of all threads together. Under
    /// [`Arrivals::OfMaximum`](super::Arrivals::OfMaximum) it is what the share came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<f64>,
    /// Under [`Arrivals::OfMaximum`](super::Arrivals::OfMaximum): the maximum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<MaximumReport>,
    /// The results of each lock, in the order in which the locks were added.
    pub locks: Vec<LockReport>,
}

/// What a lock serves a second when more arrive than can be served, of which a load is a share. Each
/// figure is of a slice of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaximumReport {
    /// The lock's name.
    pub lock: String,
    /// Before the rounds. The load is the share of their median.
    pub before: Vec<f64>,
    /// After the rounds; empty if the comparison was cut short.
    pub after: Vec<f64>,
}

/// The results of one lock under one load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LockReport {
    /// The lock's name.
    pub lock: String,
    /// One sample for each round: sample `i` is of round `i` for every lock of the cell.
    pub samples: Vec<Sample>,
    /// The waits of all rounds together; `None` if they were not requested.
    pub waits: Option<Waits>,
    /// The waits of each round; empty if they were not requested.
    pub round_waits: Vec<WaitPercentiles>,
}

/// The result of one slice of one lock under one load, from the pass that reads no clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The length of the slice as it was measured, in nanoseconds.
    pub elapsed_ns: f64,
    /// The acquisitions of each thread.
    pub acquisitions: Vec<u64>,
    /// The acquisitions of the hog, if there was one. No other figure here includes the hog.
    #[serde(default)]
    pub hog_acquisitions: Option<u64>,
    /// The CPU time of all threads together, in nanoseconds.
    pub cpu_ns: Option<f64>,
    /// What it was measured under.
    pub conditions: Conditions,
}

/// How long acquisitions waited, in nanoseconds, from the pass that times every wait.
///
/// Each wait includes one reading of the clock, 20 to 30 ns on most machines.
///
/// No wait is longer than the slice plus the time that the queue needs to empty after it: at the
/// end of the slice no thread requests the lock any more, and critical sections longer than some
/// 100 us are cut short. A thread that still waits then gets the lock soon, and its wait up to that
/// moment is recorded. So a thread that starved for the whole slice counts as one wait of about the
/// slice's length.
///
/// In an open loop, the end in this sense is [`Load::extra_ms`] after that of the slice, or when all
/// that was due by the end of the slice is served. An acquisition that was due and is not served by then
/// is recorded with its wait until then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waits {
    /// The number of waits.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
    pub p999: u64,
    /// The longest wait.
    pub max: u64,
    /// Points of the cumulative distribution, ascending: a share of the waits from 0 to 1, and the
    /// nanoseconds that they did not exceed.
    pub curve: Vec<(f64, u64)>,
}

/// The waits of one slice, in nanoseconds: see [`Waits`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WaitPercentiles {
    /// The number of waits.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
    pub p999: u64,
    /// The longest wait.
    pub max: u64,
    /// What they were measured under.
    pub conditions: Conditions,
}

impl Sample {
    /// The acquisitions of all threads, without the hog.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.acquisitions.iter().sum()
    }

    /// Acquisitions a second of all threads; 0 if the slice had no length.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        if self.elapsed_ns > 0.0 { self.total() as f64 / self.elapsed_ns * 1e9 } else { 0.0 }
    }

    /// The CPU time for an acquisition, in nanoseconds; `None` where the system does not provide
    /// it.
    #[must_use]
    pub fn cpu_ns_each(&self) -> Option<f64> {
        self.cpu_ns.map(|ns| ns / self.total().max(1) as f64)
    }

    /// The fewest acquisitions of a thread over the most: 1 is fair; at 0 one thread starved.
    #[must_use]
    pub fn unluckiest_over_luckiest(&self) -> f64 {
        let (least, most) = (self.acquisitions.iter().min(), self.acquisitions.iter().max());
        least.copied().unwrap_or(0) as f64 / most.copied().unwrap_or(0).max(1) as f64
    }

    /// The fairness factor: the share of all acquisitions that the luckier half of the threads got,
    /// from 0.5 (fair) to 1 (the other half got none); 0 if there was no acquisition. With an odd
    /// number of threads, the middle one counts half.
    ///
    /// The measure of long-term fairness of Dice and Kogan, "Compact NUMA-aware Locks" (EuroSys
    /// 2019).
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
