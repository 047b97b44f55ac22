//! [`Report`]: what was counted, as data. It implements serde's `Serialize` and `Deserialize`.
//!
//! Times are in nanoseconds.

use super::histogram::Distribution;
use super::record::SAMPLING_INTERVAL;
use super::table::{self, OVERFLOW, Site};
use crate::primitive::Ordering;
use crate::traced::{self, LockType, Mode, Traced};
use core::fmt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the serialized format. A reader should refuse a report with any other [`Report::format`].
pub const FORMAT: u32 = 1;

/// What the locks of the process did in a run of the profile.
///
/// As text ([`Display`](fmt::Display)) it is a table for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// The value of [`FORMAT`] of the writer.
    pub format: u32,
    /// The version of this crate.
    pub lockword: String,
    /// When the run began: seconds since 1970, UTC; 0 if none has.
    pub started: u64,
    /// How long the run lasted up to its end, or up to this report, in nanoseconds.
    pub elapsed_ns: u64,
    /// Whether the run goes on.
    pub is_running: bool,
    /// Of so many acquisitions without waiting one was counted, and of so many holds one was timed; see
    /// [`SAMPLING_INTERVAL`].
    pub sampling_interval: u32,
    /// The places, those with the longest waits (all together) first.
    pub places: Vec<PlaceReport>,
    /// What is in no place.
    pub dropped: Dropped,
}

/// What was counted at one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlaceReport {
    /// Where the lock is acquired.
    pub place: Place,
    /// What is acquired there.
    pub kind: Kind,
    /// The acquisitions: the contended ones exactly, the others as estimated from the sample.
    pub acquisitions: u64,
    /// The acquisitions for which the lock was not free at once. Exact.
    pub contended: u64,
    /// The waits that ended by a timeout. Exact.
    pub timeouts: u64,
    /// How long contended acquisitions waited, and those that gave up. Exact, but for the two percentiles.
    pub waits: Times,
    /// How long the lock was held, in the sample.
    pub holds: Times,
    /// Behind whom they waited, the longest waits (all together) first.
    pub behind: Vec<BehindReport>,
}

/// The waits behind one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BehindReport {
    /// Where the lock had been acquired by who held it when the wait began. `None`: it is not known, since the holder had only
    /// just got the lock, or had just left; or they were readers, from before the run or in the way of an upgrade. Or it is one
    /// of many places.
    pub place: Option<Place>,
    /// Readers held it. Then `place` is where the last one known has come in, which may have left since.
    pub readers: bool,
    /// The waits.
    pub waits: u64,
    /// Their times together, in nanoseconds.
    pub total_ns: u64,
}

/// A distribution of times, in nanoseconds; all 0 if there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Times {
    /// How many.
    pub count: u64,
    /// All together.
    pub total_ns: u64,
    /// The median, to a thirtieth of it.
    pub p50_ns: u64,
    /// The 99th percentile, to a thirtieth of it.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// What was not counted at its place, since the table had no room for more places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Dropped {
    /// Acquisitions without waiting, as estimated from the sample.
    pub acquisitions: u64,
    /// Waits. Exact.
    pub waits: u64,
    /// How long those waits were together, in nanoseconds.
    pub wait_ns: u64,
}

/// A place in the source. As text: `file:line:column`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Place {
    /// The file, as the compiler was told of it.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

/// What is acquired at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// A mutex.
    Mutex,
    /// A fair mutex.
    FairMutex,
    /// A reader-writer lock, by a reader.
    Read,
    /// A reader-writer lock, by a writer.
    Write,
    /// A reader-writer lock, by the reader that may become a writer.
    UpgradableRead,
    /// A reader-writer lock, by that reader, which becomes a writer.
    Upgrade,
    /// A reentrant mutex, by a thread that does not hold it yet.
    ReentrantMutex,
}

impl Kind {
    /// In the order of their numbers.
    pub(super) const ALL: [Kind; 7] = [
        Kind::Mutex,
        Kind::FairMutex,
        Kind::Read,
        Kind::Write,
        Kind::UpgradableRead,
        Kind::Upgrade,
        Kind::ReentrantMutex,
    ];

    pub(super) fn of(lock: &Traced, mode: Mode) -> Kind {
        match (lock.lock_type(), mode) {
            (LockType::Mutex | LockType::SendMutex | LockType::SyncMutex, _) => Kind::Mutex,
            (LockType::FairMutex, _) => Kind::FairMutex,
            (_, Mode::Shared | Mode::Recursive) => Kind::Read,
            (_, Mode::Exclusive) => Kind::Write,
            (_, Mode::Upgradable) => Kind::UpgradableRead,
            (_, Mode::Upgrade) => Kind::Upgrade,
        }
    }

    /// The kind as shown. The lock of a reentrant mutex is one of a mutex, which `lock_api` acquires.
    fn at(self, place: &Place) -> Kind {
        let is_of = |name: &str| place.file.contains(name);
        let is_reentrant =
            self == Kind::Mutex && is_of("lock_api") && place.file.ends_with("remutex.rs");
        if is_reentrant { Kind::ReentrantMutex } else { self }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Mutex => "mutex",
            Kind::FairMutex => "fair mutex",
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::UpgradableRead => "upgradable read",
            Kind::Upgrade => "upgrade",
            Kind::ReentrantMutex => "reentrant mutex",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl From<traced::Place> for Place {
    fn from(traced::Place(it): traced::Place) -> Place {
        Place { file: it.file().to_owned(), line: it.line(), column: it.column() }
    }
}

/// What the sites of one place have together. (A `Location` may be there more than once, for one place.)
struct Sum {
    samples: u64,
    timeouts: u64,
    waits: Distribution,
    holds: Distribution,
    behind: BTreeMap<(Option<Place>, bool), (u64, u64)>,
}

impl Sum {
    fn new() -> Self {
        let (waits, holds) = (Distribution::new(), Distribution::new());
        Sum { samples: 0, timeouts: 0, waits, holds, behind: BTreeMap::new() }
    }

    fn add(&mut self, site: &Site) {
        self.samples += site.samples.load(Ordering::Relaxed);
        self.timeouts += site.timeouts.load(Ordering::Relaxed);
        self.waits.add(&site.waits);
        self.holds.add(&site.holds);
        for behind in site.behind.iter().chain([&site.behind_others]) {
            let waits = behind.waits.load(Ordering::Relaxed);
            if waits != 0 {
                let holder = behind.holder();
                let readers = holder.is_some_and(|holder| holder.is_shared);
                let key = (holder.map(|holder| Place::from(holder.place)), readers);
                let sum = self.behind.entry(key).or_default();
                sum.0 += waits;
                sum.1 += behind.total_ns.load(Ordering::Relaxed);
            }
        }
    }

    fn report(self, place: Place, kind: Kind) -> PlaceReport {
        // A thread may be in the middle of counting.
        let contended = self.waits.count.saturating_sub(self.timeouts);
        let behind = self.behind.into_iter();
        let mut behind: Vec<_> = behind
            .map(|((place, readers), (waits, total_ns))| BehindReport {
                place,
                readers,
                waits,
                total_ns,
            })
            .collect();
        behind.sort_by_key(|behind| core::cmp::Reverse((behind.total_ns, behind.waits)));
        PlaceReport {
            place,
            kind,
            acquisitions: contended + self.samples * u64::from(SAMPLING_INTERVAL),
            contended,
            timeouts: self.timeouts,
            waits: Times::of(&self.waits),
            holds: Times::of(&self.holds),
            behind,
        }
    }
}

impl Times {
    fn of(times: &Distribution) -> Times {
        Times {
            count: times.count,
            total_ns: times.total_ns,
            p50_ns: times.quantile(0.5),
            p99_ns: times.quantile(0.99),
            max_ns: times.max_ns,
        }
    }

    /// The mean, in nanoseconds; 0 if there are no times.
    #[must_use]
    pub fn mean_ns(&self) -> u64 {
        self.total_ns.checked_div(self.count).unwrap_or(0)
    }
}

/// The places that have counted anything.
pub(super) fn places() -> Vec<PlaceReport> {
    let mut sums = BTreeMap::new();
    for site in table::sites() {
        if let Some((place, kind)) = site.owner() {
            let place = Place::from(place);
            let kind = kind.at(&place);
            sums.entry((place, kind)).or_insert_with(Sum::new).add(site);
        }
    }
    let reports = sums.into_iter().map(|((place, kind), sum)| sum.report(place, kind));
    let mut reports: Vec<_> = reports
        .filter(|place| place.acquisitions + place.waits.count + place.holds.count > 0)
        .collect();
    reports.sort_by_key(|place| core::cmp::Reverse((place.waits.total_ns, place.acquisitions)));
    reports
}

/// What is in no place.
pub(super) fn dropped() -> Dropped {
    Dropped {
        acquisitions: OVERFLOW.samples.load(Ordering::Relaxed) * u64::from(SAMPLING_INTERVAL),
        waits: OVERFLOW.waits.load(Ordering::Relaxed),
        wait_ns: OVERFLOW.wait_ns.load(Ordering::Relaxed),
    }
}

/// A report to test with.
#[cfg(test)]
pub(super) fn sample() -> Report {
    let place = |line| Place { file: "src/a b.rs".to_owned(), line, column: 5 };
    let times = |count, total_ns| Times {
        count,
        total_ns,
        p50_ns: 1_500,
        p99_ns: 2_000_000,
        max_ns: total_ns,
    };
    let holder =
        |line, waits, total_ns| BehindReport { place: line, readers: false, waits, total_ns };
    let busy = PlaceReport {
        place: place(7),
        kind: Kind::Write,
        acquisitions: 1_220,
        contended: 20,
        timeouts: 1,
        waits: times(21, 3_000_900),
        holds: times(20, 40_000),
        behind: vec![holder(Some(place(9)), 20, 3_000_500), holder(None, 1, 400)],
    };
    let calm = PlaceReport {
        place: place(9),
        kind: Kind::Read,
        acquisitions: 61,
        contended: 0,
        timeouts: 0,
        waits: Times::default(),
        holds: Times::default(),
        behind: vec![],
    };
    Report {
        format: FORMAT,
        lockword: "1.2.3".to_owned(),
        started: 1_800_000_000,
        elapsed_ns: 2_345_000_000,
        is_running: true,
        sampling_interval: SAMPLING_INTERVAL,
        places: vec![busy, calm],
        dropped: Dropped::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reentrant_mutex_is_one_of_lock_api() {
        let at =
            |file: &str, kind: Kind| kind.at(&Place { file: file.to_owned(), line: 1, column: 1 });
        let file = "/registry/src/index/lock_api-0.4.14/src/remutex.rs";
        assert_eq!(at(file, Kind::Mutex), Kind::ReentrantMutex);
        assert_eq!(at(file, Kind::Write), Kind::Write);
        for file in ["src/my_remutex.rs", "lock_api-0.4.14/src/mutex.rs"] {
            assert_eq!(at(file, Kind::Mutex), Kind::Mutex, "{file}");
        }
    }
}
