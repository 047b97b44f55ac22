//! [`Comparison`]: some locks under some loads, in turns.

use super::load::{Load, LoadError};
use super::lock_kind::LockKind;
use super::report::{CellReport, ComparisonReport, FORMAT, LockReport};
use super::slice::{self, Slice, SliceError};
use super::statistics::WaitHistogram;
use super::system::{DisturbanceMonitor, MachineInfo, processors};
use super::worker::Pass;
use crate::primitive::{AtomicBool, Ordering};
use std::fmt;
use std::time::{Duration, SystemTime};

/// Some locks, put under some loads in turns.
///
/// Rounds are the outermost loop and locks the innermost: a disturbance of some seconds hits all
/// locks of a load alike, and no load in more than a few rounds. The order of the locks changes
/// from round to round ([`rotation`]). In the first round each lock warms up for a tenth of a
/// slice, which is not counted.
///
/// There are two passes: one reads no clock and counts acquisitions, the other times each wait.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    locks: Vec<Contender>,
    loads: Vec<Load>,
    rounds: Option<usize>,
    waits: bool,
    command: Vec<String>,
}

/// A lock that takes part: the only indirect call is the one that starts a slice.
#[derive(Clone, Debug)]
struct Contender {
    name: String,
    measure: Measure,
}

type Measure = fn(&Load, Pass, &AtomicBool) -> Result<Option<Slice>, SliceError>;

/// How far a comparison is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Slices that are done.
    pub done: usize,
    /// All slices.
    pub total: usize,
    /// The load of the slice that comes next; of the last one at the end.
    pub cell: &'a str,
    /// Its lock.
    pub lock: &'a str,
    /// Its round, from 0.
    pub round: usize,
    /// All rounds.
    pub rounds: usize,
    /// Whether it times waits.
    pub timed: bool,
}

impl Comparison {
    /// Without locks and loads. Five rounds, unless [`Comparison::rounds`] says otherwise, and
    /// waits are not timed.
    #[must_use]
    pub fn new() -> Self {
        Comparison::default()
    }

    /// Adds a lock.
    #[must_use]
    pub fn lock<K: LockKind>(mut self, name: impl Into<String>) -> Self {
        self.locks.push(Contender { name: name.into(), measure: slice::measure::<K> });
        self
    }

    /// Adds a load.
    #[must_use]
    pub fn load(mut self, load: Load) -> Self {
        self.loads.push(load);
        self
    }

    /// So many rounds: samples of each lock under each load.
    #[must_use]
    pub fn rounds(mut self, rounds: usize) -> Self {
        self.rounds = Some(rounds);
        self
    }

    /// Whether to time waits, in slices of their own: it takes twice the time.
    ///
    /// A wait includes the reading of the clock, 20 to 30 ns on most machines. No wait is much
    /// longer than a slice, however long the lock would have kept the thread waiting: [`Waits`]
    /// says why. Slices must be longer than the waits to be measured.
    ///
    /// [`Waits`]: super::Waits
    #[must_use]
    pub fn waits(mut self, yes: bool) -> Self {
        self.waits = yes;
        self
    }

    /// The command line that asked for it, a word each: the report repeats it.
    #[must_use]
    pub fn command(mut self, words: Vec<String>) -> Self {
        self.command = words;
        self
    }

    fn wanted_rounds(&self) -> usize {
        self.rounds.unwrap_or(5)
    }

    fn passes(&self) -> &'static [bool] {
        if self.waits { &[false, true] } else { &[false] }
    }

    /// How many slices there will be.
    #[must_use]
    pub fn total_slices(&self) -> usize {
        self.wanted_rounds() * self.loads.len() * self.locks.len() * self.passes().len()
    }

    /// About how long it will take. Threads take some time to start and stop, too.
    #[must_use]
    pub fn expected(&self) -> Duration {
        // Of a slice, and for each thread in it.
        const OVERHEAD: (Duration, Duration) =
            (Duration::from_micros(500), Duration::from_micros(50));
        // Two calibrations.
        const CALIBRATION: Duration = Duration::from_millis(60);
        let slices = (self.wanted_rounds() * self.passes().len()) as f64;
        let of_load = |load: &Load| {
            let warm_up = warm_up_ms(load);
            let overhead = OVERHEAD.0 + OVERHEAD.1 * u32::try_from(load.threads).unwrap_or(0);
            let slice = Duration::from_millis(load.slice_ms) + overhead;
            slice.as_secs_f64() * slices + (Duration::from_millis(warm_up) + overhead).as_secs_f64()
        };
        let seconds = self.loads.iter().map(of_load).sum::<f64>() * self.locks.len() as f64;
        CALIBRATION + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 2)
    }

    /// Runs it. `progress` is called before each slice and at the end. `cancel` ends it early, when
    /// it is set to true from elsewhere: within some 50 ms, the slice that was cut is dropped, and
    /// the report has all that was measured before (perhaps no sample at all of some locks).
    ///
    /// # Errors
    ///
    /// If it cannot be run as it stands, or a lock panics, never comes back, or lets two threads
    /// in. Nothing is measured, or what was is lost.
    pub fn run(
        &self,
        progress: &mut dyn FnMut(&Progress<'_>),
        cancel: &AtomicBool,
    ) -> Result<ComparisonReport, ComparisonError> {
        self.validate()?;
        let started = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let machine = MachineInfo::read();
        let monitor = DisturbanceMonitor::start(&machine);
        let mut cells: Vec<MeasuredCell> =
            self.loads.iter().map(|load| MeasuredCell::new(self, load)).collect();

        let rounds = self.wanted_rounds();
        let mut run =
            ComparisonRun { done: 0, total: self.total_slices(), rounds, progress, cancel };
        let mut cut_short = false;
        'all: for round in 0..rounds {
            for cell in &mut cells {
                for &timed in self.passes() {
                    for turn in rotation(round, self.locks.len()) {
                        if !run.slice(cell, &self.locks[turn], (round, timed, turn))? {
                            cut_short = true;
                            break 'all;
                        }
                    }
                }
            }
        }
        if !cut_short && let (Some(cell), Some(lock)) = (cells.last(), self.locks.last()) {
            run.report(&cell.name, &lock.name, rounds - 1, self.waits);
        }

        let mut warnings = self.unpinned();
        warnings.extend(cells.iter().filter_map(MeasuredCell::unpinned));
        warnings.extend(monitor.warnings());
        Ok(ComparisonReport {
            format: FORMAT,
            lockword: env!("CARGO_PKG_VERSION").to_owned(),
            started,
            command: self.command.clone(),
            machine,
            rounds,
            cut_short,
            cells: cells.into_iter().map(MeasuredCell::report).collect(),
            warnings,
        })
    }

    /// Runs it to its end, and tells nobody how far it is.
    ///
    /// # Errors
    ///
    /// As [`Comparison::run`].
    pub fn run_quietly(&self) -> Result<ComparisonReport, ComparisonError> {
        self.run(&mut |_| {}, &AtomicBool::new(false))
    }

    /// Whether it can be run as it stands.
    ///
    /// # Errors
    ///
    /// If there is no lock, no load or no round, two of them have one name, or a load is not valid.
    pub fn validate(&self) -> Result<(), ComparisonError> {
        if self.locks.is_empty() {
            return Err(ComparisonError::NoLock);
        }
        if self.loads.is_empty() {
            return Err(ComparisonError::NoLoad);
        }
        if self.wanted_rounds() == 0 {
            return Err(ComparisonError::NoRounds);
        }
        for load in &self.loads {
            let named = |error| ComparisonError::Load { load: load.name(), error };
            load.validate().map_err(named)?;
        }
        let locks: Vec<String> = self.locks.iter().map(|lock| lock.name.clone()).collect();
        if let Some(name) = twice(&locks) {
            return Err(ComparisonError::SameLock(name.clone()));
        }
        let loads: Vec<String> = self.loads.iter().map(Load::name).collect();
        twice(&loads).map_or(Ok(()), |name| Err(ComparisonError::SameLoad(name.clone())))
    }

    /// A warning if threads should be bound to processors and cannot be.
    fn unpinned(&self) -> Vec<String> {
        if self.loads.iter().any(|load| load.pin) && processors().is_empty() {
            vec!["not pinned: this system does not let threads choose their processors".to_owned()]
        } else {
            vec![]
        }
    }
}

/// The first of some names that is there before.
fn twice(names: &[String]) -> Option<&String> {
    names.iter().enumerate().find_map(|(at, name)| names[..at].contains(name).then_some(name))
}

fn warm_up_ms(load: &Load) -> u64 {
    (load.slice_ms / 10).clamp(1, 100)
}

/// A load, and what was measured under it.
struct MeasuredCell {
    name: String,
    load: Load,
    locks: Vec<(LockReport, Option<WaitHistogram>)>,
    /// The most threads in a slice that the system refused to bind to their processors.
    unpinned: usize,
}

impl MeasuredCell {
    fn new(comparison: &Comparison, load: &Load) -> MeasuredCell {
        let lock = |lock: &Contender| {
            let report = LockReport { lock: lock.name.clone(), samples: vec![], waits: None };
            (report, None)
        };
        let locks = comparison.locks.iter().map(lock).collect();
        MeasuredCell { name: load.name(), load: load.clone(), locks, unpinned: 0 }
    }

    /// A warning if the system refused to bind threads.
    fn unpinned(&self) -> Option<String> {
        let MeasuredCell { name, unpinned, .. } = self;
        (*unpinned > 0).then(|| {
            format!(
                "not pinned: in a slice of `{name}` the system refused {unpinned} of the threads"
            )
        })
    }

    fn report(self) -> CellReport {
        let lock = |(report, waits): (LockReport, Option<WaitHistogram>)| LockReport {
            waits: waits.map(|waits| waits.summary()),
            ..report
        };
        let locks = self.locks.into_iter().map(lock).collect();
        CellReport { name: self.name, load: self.load, locks }
    }
}

/// A comparison that runs.
struct ComparisonRun<'a> {
    done: usize,
    total: usize,
    rounds: usize,
    progress: &'a mut dyn FnMut(&Progress<'_>),
    cancel: &'a AtomicBool,
}

impl ComparisonRun<'_> {
    /// Measures a slice, and says whether it came to its end.
    fn slice(
        &mut self,
        cell: &mut MeasuredCell,
        lock: &Contender,
        (round, timed, turn): (usize, bool, usize),
    ) -> Result<bool, ComparisonError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Ok(false);
        }
        self.report(&cell.name, &lock.name, round, timed);
        let failed = |error| ComparisonError::Slice {
            lock: lock.name.clone(),
            load: cell.name.clone(),
            error,
        };
        if round == 0 && !timed {
            let brief = cell.load.clone().slice_ms(warm_up_ms(&cell.load));
            if (lock.measure)(&brief, Pass::WarmUp, self.cancel).map_err(failed)?.is_none() {
                return Ok(false);
            }
        }
        let pass = if timed { Pass::Time } else { Pass::Count };
        let measured = (lock.measure)(&cell.load, pass, self.cancel).map_err(failed)?;
        let Some(slice) = measured else { return Ok(false) };
        cell.unpinned = cell.unpinned.max(slice.unpinned);
        let (report, waits) = &mut cell.locks[turn];
        match slice.waits {
            None => report.samples.push(slice.sample),
            Some(more) => waits.get_or_insert_with(WaitHistogram::new).add(&more),
        }
        self.done += 1;
        Ok(true)
    }

    fn report(&mut self, cell: &str, lock: &str, round: usize, timed: bool) {
        let ComparisonRun { done, total, rounds, .. } = *self;
        (self.progress)(&Progress { done, total, cell, lock, round, rounds, timed });
    }
}

/// The turns of `count` locks in round number `round`, by their positions.
///
/// It turns around every other round, and rotates every second one. So in twice as many rounds as
/// there are locks each is first twice, and each comes after either neighbour equally often.
///
/// ```
/// use lockword::contention::rotation;
///
/// let turns = |round| rotation(round, 3).collect::<Vec<_>>();
/// assert_eq!([turns(0), turns(1), turns(2)], [[0, 1, 2], [2, 1, 0], [1, 2, 0]]);
/// ```
pub fn rotation(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |step| {
        let step = if round.is_multiple_of(2) { step } else { count - 1 - step };
        (round / 2 + step) % count
    })
}

/// A [`Comparison`](super::Comparison) that cannot be run, or came to no end.
///
/// It carries no figures: what was measured before a slice failed is lost. To keep it, compare
/// locks that may fail in comparisons of their own.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ComparisonError {
    /// No lock to measure.
    NoLock,
    /// No load to put them under.
    NoLoad,
    /// No round.
    NoRounds,
    /// Two locks of one name.
    SameLock(String),
    /// Two loads of one name.
    SameLoad(String),
    /// One of the loads cannot be run.
    Load {
        /// The load's name.
        load: String,
        /// What is wrong with it.
        error: LoadError,
    },
    /// A slice failed.
    Slice {
        /// The lock that was measured.
        lock: String,
        /// The load's name.
        load: String,
        /// What happened.
        error: SliceError,
    },
}

impl fmt::Display for ComparisonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ComparisonError::NoLock => write!(f, "no lock to measure: give at least one"),
            ComparisonError::NoLoad => write!(f, "no load to measure under: give at least one"),
            ComparisonError::NoRounds => write!(f, "zero rounds: a comparison takes at least one"),
            ComparisonError::SameLock(name) => {
                write!(f, "two locks are called `{name}`: give each a name of its own")
            }
            ComparisonError::SameLoad(name) => {
                write!(f, "the load `{name}` is given twice: leave one out")
            }
            ComparisonError::Load { load, error } => write!(f, "load `{load}`: {error}"),
            ComparisonError::Slice { lock, load, error } => {
                write!(f, "lock `{lock}` under load `{load}`: {error}")
            }
        }
    }
}

impl std::error::Error for ComparisonError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ComparisonError::Load { error, .. } => Some(error),
            ComparisonError::Slice { error, .. } => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contention::Std;

    #[test]
    fn threads_that_could_not_be_bound_make_a_warning() {
        let load = Load::new(2).slice_ms(1).pin(true);
        let mut cell = MeasuredCell::new(&Comparison::new(), &load);
        assert_eq!(cell.unpinned(), None);
        // A slice in which three threads were refused, and one with none after it.
        let refused: Measure = |load, pass, cancel| {
            let slice = slice::measure::<Std>(load, pass, cancel)?;
            Ok(slice.map(|slice| Slice { unpinned: 3, ..slice }))
        };
        let granted: Measure = |load, pass, cancel| {
            let slice = slice::measure::<Std>(load, pass, cancel)?;
            Ok(slice.map(|slice| Slice { unpinned: 0, ..slice }))
        };
        for measures in [[refused, granted], [granted, refused]] {
            let locks = measures.map(|measure| Contender { name: String::new(), measure });
            let mut comparison = Comparison::new().load(load.clone()).rounds(1);
            comparison.locks = locks.to_vec();
            comparison.locks[1].name = "second".to_owned();
            let report = comparison.run_quietly().expect("it runs");
            let said = |warning: &&String| warning.contains("refused 3 of the threads");
            assert_eq!(report.warnings.iter().filter(said).count(), 1, "{:?}", report.warnings);
        }
        cell.unpinned = 1;
        let warning = cell.unpinned().expect("there is one");
        assert!(warning.contains("`2 threads, ") && !warning.contains('\n'), "{warning}");
    }

    #[test]
    fn every_lock_has_one_turn_a_round_and_each_is_first_equally_often() {
        for count in 1..7 {
            let mut firsts = vec![0; count];
            for round in 0..2 * count {
                let turns: Vec<usize> = rotation(round, count).collect();
                firsts[turns[0]] += 1;
                let mut sorted = turns;
                sorted.sort_unstable();
                assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            }
            assert_eq!(firsts, vec![2; count]);
        }
    }
}
