//! [`Comparison`]: some locks under some loads, in turns.

use super::disturbance::Watch;
use super::error::{ComparisonError, SliceError};
use super::load::Load;
use super::lock::Family;
use super::order::rotation;
use super::report::{CellReport, FORMAT, LockReport, Machine, Report};
use super::slice::{self, Slice};
use super::system::processors;
use super::waits::WaitHistogram;
use super::worker::Pass;
use crate::primitive::{AtomicBool, Ordering};
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
    pub fn lock<F: Family>(mut self, name: impl Into<String>) -> Self {
        self.locks.push(Contender { name: name.into(), measure: slice::measure::<F> });
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
    ) -> Result<Report, ComparisonError> {
        self.validate()?;
        let started = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let machine = Machine::read();
        let watch = Watch::start(&machine);
        let mut cells: Vec<Cell> = self.loads.iter().map(|load| Cell::new(self, load)).collect();

        let rounds = self.wanted_rounds();
        let mut run = Run { done: 0, total: self.total_slices(), rounds, progress, cancel };
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
        warnings.extend(cells.iter().filter_map(Cell::unpinned));
        warnings.extend(watch.warnings());
        Ok(Report {
            format: FORMAT,
            lockword: env!("CARGO_PKG_VERSION").to_owned(),
            started,
            command: self.command.clone(),
            machine,
            rounds,
            cut_short,
            cells: cells.into_iter().map(Cell::report).collect(),
            warnings,
        })
    }

    /// Runs it to its end, and tells nobody how far it is.
    ///
    /// # Errors
    ///
    /// As [`Comparison::run`].
    pub fn run_quietly(&self) -> Result<Report, ComparisonError> {
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
struct Cell {
    name: String,
    load: Load,
    locks: Vec<(LockReport, Option<WaitHistogram>)>,
    /// The most threads in a slice that the system refused to bind to their processors.
    unpinned: usize,
}

impl Cell {
    fn new(comparison: &Comparison, load: &Load) -> Cell {
        let lock = |lock: &Contender| {
            let report = LockReport { lock: lock.name.clone(), samples: vec![], waits: None };
            (report, None)
        };
        let locks = comparison.locks.iter().map(lock).collect();
        Cell { name: load.name(), load: load.clone(), locks, unpinned: 0 }
    }

    /// A warning if the system refused to bind threads.
    fn unpinned(&self) -> Option<String> {
        let Cell { name, unpinned, .. } = self;
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
struct Run<'a> {
    done: usize,
    total: usize,
    rounds: usize,
    progress: &'a mut dyn FnMut(&Progress<'_>),
    cancel: &'a AtomicBool,
}

impl Run<'_> {
    /// Measures a slice, and says whether it came to its end.
    fn slice(
        &mut self,
        cell: &mut Cell,
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
        let Run { done, total, rounds, .. } = *self;
        (self.progress)(&Progress { done, total, cell, lock, round, rounds, timed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contention::Std;

    #[test]
    fn threads_that_could_not_be_bound_make_a_warning() {
        let load = Load::new(2).slice_ms(1).pin(true);
        let mut cell = Cell::new(&Comparison::new(), &load);
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
}
