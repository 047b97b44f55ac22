//! [`Comparison`]: measures several locks under several loads, in turns.

use super::conditions::Conditions;
use super::load::{Arrivals, Load, LoadError};
use super::lock_kind::{CondvarKind, LockKind};
use super::report::{CellReport, ComparisonReport, FORMAT, LockReport, MaximumReport};
use super::slice::{self, Slice, SliceError};
use super::statistics::{WaitHistogram, median};
use super::system::{DisturbanceMonitor, MachineInfo, processors};
#[cfg(feature = "peers")]
use super::tasks::{self, AsyncLockKind};
use super::worker::Pass;
use crate::primitive::{AtomicBool, Ordering};
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

/// A comparison of several locks under several loads.
///
/// Rounds are the outermost loop and locks the innermost: a disturbance of some seconds affects all
/// locks of a load alike, and each load in a few rounds only. The order of the locks changes from
/// round to round ([`rotation`]). In the first round each lock warms up for a tenth of a slice,
/// which is not counted.
///
/// Before the rounds, the maxima are measured of which loads are a share
/// ([`Arrivals::OfMaximum`]): the median of three slices of the same load, when more arrive than can
/// be served. After the rounds these are measured again: see [`MaximumReport`].
///
/// [`MaximumReport`]: super::MaximumReport
///
/// There are up to two passes: one reads no clock and counts acquisitions, the other times every
/// wait (see [`Comparison::waits`]).
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    locks: Vec<Contender>,
    loads: Vec<Load>,
    rounds: Option<usize>,
    waits: bool,
    limit: Option<Duration>,
    command: Vec<String>,
}

/// A lock that takes part. Starting a slice is the only indirect call.
#[derive(Clone, Debug)]
struct Contender {
    name: String,
    measure: Measure,
    shape: Shape,
}

/// Which loads a lock can take part in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    /// All but queues.
    Lock,
    /// All.
    WithCondvar,
    /// Those with tasks.
    #[cfg(feature = "peers")]
    Async,
}

impl Shape {
    /// Why a lock cannot take part under a load, if so.
    fn unfit(self, load: &Load) -> Option<LoadError> {
        match self {
            Shape::Lock if load.queue.is_some() => Some(LoadError::NoCondvar),
            #[cfg(feature = "peers")]
            Shape::Async if load.tasks.is_none() => Some(LoadError::OnlyTasks),
            _ if load.tasks.is_some() && cfg!(not(feature = "peers")) => Some(LoadError::NoRuntime),
            _ => None,
        }
    }
}

type Measure = fn(&Load, Pass, &AtomicBool) -> Result<Option<Slice>, SliceError>;

/// How far a running comparison is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The number of slices that are done.
    pub done: usize,
    /// The number of all slices.
    pub total: usize,
    /// The name of the load of the next slice; at the end, of the last one.
    pub cell: &'a str,
    /// The name of the lock of that slice.
    pub lock: &'a str,
    /// The round of that slice, from 0.
    pub round: usize,
    /// The number of all rounds. It and [`Progress::total`] grow with [`Comparison::until_undisturbed`].
    pub rounds: usize,
    /// Whether that slice times waits.
    pub timed: bool,
}

impl Comparison {
    /// A comparison without locks and loads, of five rounds, which does not time waits.
    #[must_use]
    pub fn new() -> Self {
        Comparison::default()
    }

    /// Adds a lock under a name, which must be unique.
    #[must_use]
    pub fn lock<K: LockKind>(mut self, name: impl Into<String>) -> Self {
        let (name, measure) = (name.into(), slice::measure::<K>);
        self.locks.push(Contender { name, measure, shape: Shape::Lock });
        self
    }

    /// Adds a lock that has a Condvar: it takes part under loads with a queue, too ([`Load::queue`]).
    #[must_use]
    pub fn lock_with_condvar<K: CondvarKind>(mut self, name: impl Into<String>) -> Self {
        let (name, measure) = (name.into(), slice::measure_queue::<K>);
        self.locks.push(Contender { name, measure, shape: Shape::WithCondvar });
        self
    }

    /// Adds a lock for tasks, which takes part under loads with [`Load::tasks`] only (feature `peers`).
    #[cfg(feature = "peers")]
    #[must_use]
    pub fn async_lock<K: AsyncLockKind>(mut self, name: impl Into<String>) -> Self {
        let (name, measure) = (name.into(), tasks::measure::<K>);
        self.locks.push(Contender { name, measure, shape: Shape::Async });
        self
    }

    /// Adds a load. Its [`Load::name`] must be unique.
    #[must_use]
    pub fn load(mut self, load: Load) -> Self {
        self.loads.push(load);
        self
    }

    /// Sets the number of rounds, which is the number of samples of each lock under each load.
    #[must_use]
    pub fn rounds(mut self, rounds: usize) -> Self {
        self.rounds = Some(rounds);
        self
    }

    /// Sets whether to time waits, in additional slices, which doubles the duration.
    ///
    /// A wait includes one reading of the clock, 20 to 30 ns on most machines. No wait is much
    /// longer than a slice and [`Load::extra_ms`] (see [`Waits`]), so slices must be longer than the waits to be measured.
    ///
    /// [`Waits`]: super::Waits
    #[must_use]
    pub fn waits(mut self, yes: bool) -> Self {
        self.waits = yes;
        self
    }

    /// Sets that there are as many rounds of each load as give [`Comparison::rounds`] undisturbed ones
    /// (see [`Conditions::disturbance`]), but none is begun after so much time has passed since the
    /// start. By default there are as many rounds as requested, disturbed or not.
    ///
    /// The disturbed rounds stay in the report.
    ///
    /// [`Conditions::disturbance`]: super::Conditions::disturbance
    #[must_use]
    pub fn until_undisturbed(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Sets the command line that started the comparison, one word each, for the report. It is
    /// empty by default.
    #[must_use]
    pub fn command(mut self, words: Vec<String>) -> Self {
        self.command = words;
        self
    }

    fn round_count(&self) -> usize {
        self.rounds.unwrap_or(5)
    }

    /// Whether each pass times waits.
    fn passes(&self) -> &'static [bool] {
        if self.waits { &[false, true] } else { &[false] }
    }

    /// The number of slices of the comparison.
    #[must_use]
    pub fn total_slices(&self) -> usize {
        self.round_count() * self.loads.len() * self.locks.len() * self.passes().len()
    }

    /// An estimate of the duration without a disturbance, including the start and end of threads.
    #[must_use]
    pub fn expected(&self) -> Duration {
        // For each slice, and for each thread in it.
        const OVERHEAD: (Duration, Duration) =
            (Duration::from_micros(500), Duration::from_micros(50));
        // There is one at the start and one at the end.
        const CALIBRATION: Duration = Duration::from_millis(60);
        let slices = (self.round_count() * self.passes().len()) as f64;
        let maxima = self.maxima_needed().into_iter().map(|(load, _)| {
            // At the maximum, a slice takes its extra time, too.
            let slice = Duration::from_millis(load.slice_ms + load.extra_ms()).as_secs_f64();
            // Most are measured before and after the rounds.
            2.0 * slice * (MAXIMUM_SLICES + 1) as f64
        });
        let maxima: f64 = maxima.sum();
        let of_load = |load: &Load| {
            let warm_up = warm_up_ms(load);
            let overhead = OVERHEAD.0 + OVERHEAD.1 * u32::try_from(load.threads).unwrap_or(0);
            let slice = Duration::from_millis(load.slice_ms) + overhead;
            slice.as_secs_f64() * slices + (Duration::from_millis(warm_up) + overhead).as_secs_f64()
        };
        let seconds = self.loads.iter().map(of_load).sum::<f64>() * self.locks.len() as f64;
        let seconds = seconds + maxima;
        CALIBRATION + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 2)
    }

    /// Runs the comparison. It blocks for about [`Comparison::expected`].
    ///
    /// `progress` is called before each slice and at the end. When `cancel` is set to true, the
    /// comparison ends within some 50 ms: the current slice is dropped, and the report has what was
    /// measured before, perhaps without any sample of some locks.
    ///
    /// # Errors
    ///
    /// If the comparison is not valid, the system refuses a thread, a lock panics or is never
    /// released, or mutual exclusion is violated. What was measured before is lost.
    pub fn run(
        &self,
        progress: &mut dyn FnMut(&Progress<'_>),
        cancel: &AtomicBool,
    ) -> Result<ComparisonReport, ComparisonError> {
        self.validate()?;
        let start = Instant::now();
        let started = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let machine = MachineInfo::read();
        let monitor = DisturbanceMonitor::start(&machine);
        let mut cells: Vec<MeasuredCell> =
            self.loads.iter().map(|load| MeasuredCell::new(self, load)).collect();

        let rounds = self.round_count();
        let mut run =
            ComparisonRun { done: 0, total: self.total_slices(), rounds, progress, cancel };
        let maxima = run.resolve(self, &mut cells)?;
        let mut cut_short = maxima.is_none();
        for round in 0.. {
            let wanted: Vec<_> =
                cells.iter_mut().filter(|cell| cell.has(self.limit) < rounds).collect();
            let is_over = round > 0 && self.limit.is_some_and(|limit| start.elapsed() >= limit);
            if cut_short || wanted.is_empty() || is_over {
                break;
            }
            if round >= rounds {
                run.rounds = round + 1;
                run.total += wanted.len() * self.locks.len() * self.passes().len();
            }
            for cell in wanted {
                cut_short = cut_short || !run.round(self, cell, round)?;
                cell.end_round(round, &machine);
            }
        }
        if let Some(maxima) = maxima.filter(|_| !cut_short) {
            run.maxima_after(self, &maxima, &mut cells)?;
        }
        if !cut_short && let (Some(cell), Some(lock)) = (cells.last(), self.locks.last()) {
            run.report(&cell.name, &lock.name, run.rounds - 1, self.waits);
        }

        let mut warnings = self.unpinned();
        if cfg!(debug_assertions) {
            warnings.push(
                "this build is not optimised: measure with one that is (--release)".to_owned(),
            );
        }
        if cfg!(feature = "trace") {
            warnings.push(
                "this build has deadlock_detection or profile, with which the locks of lockword are slower: measure \
                 one without"
                    .to_owned(),
            );
        }
        warnings.extend(cells.iter().filter_map(MeasuredCell::unpinned));
        warnings.extend(monitor.warnings());
        Ok(ComparisonReport {
            format: FORMAT,
            lockword: env!("CARGO_PKG_VERSION").to_owned(),
            started,
            command: self.command.clone(),
            reference: None,
            machine,
            rounds,
            cut_short,
            cells: cells.into_iter().map(MeasuredCell::report).collect(),
            warnings,
        })
    }

    /// Runs the comparison to its end, without reporting progress.
    ///
    /// # Errors
    ///
    /// As [`Comparison::run`].
    pub fn run_quietly(&self) -> Result<ComparisonReport, ComparisonError> {
        self.run(&mut |_| {}, &AtomicBool::new(false))
    }

    /// Checks whether the comparison can be run.
    ///
    /// # Errors
    ///
    /// If there is no lock, no load or no round, two locks or two loads have the same name, or a
    /// load is not valid.
    pub fn validate(&self) -> Result<(), ComparisonError> {
        if self.locks.is_empty() {
            return Err(ComparisonError::NoLock);
        }
        if self.loads.is_empty() {
            return Err(ComparisonError::NoLoad);
        }
        if self.round_count() == 0 {
            return Err(ComparisonError::NoRounds);
        }
        for load in &self.loads {
            let named = |error| ComparisonError::Load { load: load.name(), error };
            load.validate().map_err(named)?;
        }
        let locks: Vec<String> = self.locks.iter().map(|lock| lock.name.clone()).collect();
        if let Some(name) = first_duplicate(&locks) {
            return Err(ComparisonError::SameLock(name.clone()));
        }
        for (load, lock) in self.loads.iter().flat_map(|l| self.locks.iter().map(move |k| (l, k))) {
            if let Some(error) = lock.shape.unfit(load) {
                let (lock, load) = (lock.name.clone(), load.name());
                return Err(ComparisonError::Slice { lock, load, error: error.into() });
            }
        }
        for load in &self.loads {
            if let Arrivals::OfMaximum { lock: Some(lock), .. } = &load.arrivals
                && !locks.contains(lock)
            {
                let (load, lock) = (load.name(), lock.clone());
                return Err(ComparisonError::NoSuchLock { load, lock });
            }
        }
        let loads: Vec<String> = self.loads.iter().map(Load::name).collect();
        first_duplicate(&loads).map_or(Ok(()), |name| Err(ComparisonError::SameLoad(name.clone())))
    }

    /// The maxima that have to be measured: each with a load that has saturating arrivals, and the
    /// index of the lock.
    fn maxima_needed(&self) -> Vec<(Load, usize)> {
        let mut needed: Vec<(Load, usize)> = vec![];
        for load in &self.loads {
            for maximum in self.maxima_of(load).into_iter().map(|at| (saturated(load), at)) {
                if !needed.contains(&maximum) {
                    needed.push(maximum);
                }
            }
        }
        needed
    }

    /// The locks, as indices, on whose maxima a load depends.
    fn maxima_of(&self, load: &Load) -> Vec<usize> {
        let Arrivals::OfMaximum { lock, .. } = &load.arrivals else { return vec![] };
        let wanted = |at: &usize| lock.as_ref().is_none_or(|lock| *lock == self.locks[*at].name);
        (0..self.locks.len()).filter(wanted).collect()
    }

    /// A warning if threads are to be bound to processors and the system does not support it.
    fn unpinned(&self) -> Vec<String> {
        if self.loads.iter().any(|load| load.pin) && processors().is_empty() {
            vec!["not pinned: this system does not let threads choose their processors".to_owned()]
        } else {
            vec![]
        }
    }
}

/// The first name that occurs a second time.
fn first_duplicate(names: &[String]) -> Option<&String> {
    names.iter().enumerate().find_map(|(at, name)| names[..at].contains(name).then_some(name))
}

/// How many slices are measured for a maximum.
const MAXIMUM_SLICES: usize = 3;

/// The load with more arrivals than any lock serves.
fn saturated(load: &Load) -> Load {
    load.clone().arrivals(Arrivals::Open { per_second: Load::MAX_RATE })
}

/// The length of the warm-up, in milliseconds.
fn warm_up_ms(load: &Load) -> u64 {
    (load.slice_ms / 10).clamp(1, 100)
}

/// A load, and what was measured under it so far.
struct MeasuredCell {
    name: String,
    load: Load,
    /// The load that is run: a share of a maximum is replaced by what it came to.
    run: Load,
    maximum: Option<MaximumReport>,
    locks: Vec<(LockReport, Option<WaitHistogram>)>,
    /// The largest number of threads of a slice that the system refused to bind to their
    /// processors.
    unpinned: usize,
    /// The number of rounds.
    rounds: usize,
    /// The number of rounds in which nothing disturbed any of the locks.
    undisturbed: usize,
}

impl MeasuredCell {
    fn new(comparison: &Comparison, load: &Load) -> MeasuredCell {
        let lock = |lock: &Contender| {
            let report = LockReport {
                lock: lock.name.clone(),
                samples: vec![],
                waits: None,
                round_waits: vec![],
            };
            (report, None)
        };
        let locks = comparison.locks.iter().map(lock).collect();
        let run = load.clone();
        MeasuredCell {
            name: load.name(),
            load: load.clone(),
            run,
            maximum: None,
            locks,
            unpinned: 0,
            rounds: 0,
            undisturbed: 0,
        }
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

    /// The number of rounds so far that count: with a limit, only those that were not disturbed.
    fn has(&self, limit: Option<Duration>) -> usize {
        if limit.is_some() { self.undisturbed } else { self.rounds }
    }

    /// Counts a round that has ended.
    fn end_round(&mut self, round: usize, machine: &MachineInfo) {
        let quiet = |conditions: &Conditions| conditions.disturbance(&self.load, machine).is_none();
        let all_quiet = self.locks.iter().all(|(lock, _)| {
            lock.samples.get(round).is_some_and(|sample| quiet(&sample.conditions))
                && lock.round_waits.get(round).is_none_or(|waits| quiet(&waits.conditions))
        });
        self.rounds += 1;
        self.undisturbed += usize::from(all_quiet);
    }

    fn report(self) -> CellReport {
        let lock = |(report, waits): (LockReport, Option<WaitHistogram>)| LockReport {
            waits: waits.map(|waits| waits.summary()),
            ..report
        };
        let locks = self.locks.into_iter().map(lock).collect();
        let offered = match self.run.arrivals {
            Arrivals::Open { per_second } => Some(per_second),
            _ => None,
        };
        CellReport { name: self.name, load: self.load, offered, maximum: self.maximum, locks }
    }
}

/// A maximum of which loads are a share.
struct Maximum {
    /// The load, with saturating arrivals.
    load: Load,
    /// The lock, as an index.
    lock: usize,
    /// What it served a second in each slice.
    rates: Vec<f64>,
}

impl Maximum {
    fn median(&self) -> f64 {
        median(&self.rates).mid
    }
}

/// The state of a running comparison.
struct ComparisonRun<'a> {
    done: usize,
    total: usize,
    rounds: usize,
    progress: &'a mut dyn FnMut(&Progress<'_>),
    cancel: &'a AtomicBool,
}

impl ComparisonRun<'_> {
    /// Measures a round of a load. Returns false if it was cancelled.
    fn round(
        &mut self,
        comparison: &Comparison,
        cell: &mut MeasuredCell,
        round: usize,
    ) -> Result<bool, ComparisonError> {
        for &timed in comparison.passes() {
            for turn in rotation(round, comparison.locks.len()) {
                if !self.slice(cell, &comparison.locks[turn], (round, timed, turn))? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Replaces each share of a maximum by what it comes to. Returns the maxima; `None` if it was cancelled.
    fn resolve(
        &mut self,
        comparison: &Comparison,
        cells: &mut [MeasuredCell],
    ) -> Result<Option<Vec<Maximum>>, ComparisonError> {
        let mut maxima = vec![];
        for (load, lock) in comparison.maxima_needed() {
            let Some(rates) = self.maximum(&load, &comparison.locks[lock], 0)? else {
                return Ok(None);
            };
            maxima.push(Maximum { load, lock, rates });
        }
        for cell in cells {
            let Arrivals::OfMaximum { percent, .. } = cell.load.arrivals else { continue };
            let locks = comparison.maxima_of(&cell.load);
            let of_cell = |maximum: &&Maximum| {
                maximum.load == saturated(&cell.load) && locks.contains(&maximum.lock)
            };
            let highest = maxima
                .iter()
                .filter(of_cell)
                .max_by(|a, b| a.median().total_cmp(&b.median()))
                .expect("it has been measured");
            // A lock that was not acquired at all has no maximum; the rate must not be zero.
            let per_second = (percent / 100.0 * highest.median()).clamp(1.0, Load::MAX_RATE);
            cell.run.arrivals = Arrivals::Open { per_second };
            cell.maximum = Some(MaximumReport {
                lock: comparison.locks[highest.lock].name.clone(),
                before: highest.rates.clone(),
                after: vec![],
            });
        }
        Ok(Some(maxima))
    }

    /// Measures the maxima again of which loads are a share. If it was cancelled, some are not.
    fn maxima_after(
        &mut self,
        comparison: &Comparison,
        maxima: &[Maximum],
        cells: &mut [MeasuredCell],
    ) -> Result<(), ComparisonError> {
        for Maximum { load, lock, .. } in maxima {
            let lock = &comparison.locks[*lock];
            let mut of_this: Vec<&mut MaximumReport> = cells
                .iter_mut()
                .filter(|cell| *load == saturated(&cell.load))
                .filter_map(|cell| cell.maximum.as_mut())
                .filter(|maximum| maximum.lock == lock.name)
                .collect();
            if of_this.is_empty() {
                continue;
            }
            let Some(rates) = self.maximum(load, lock, self.rounds - 1)? else { return Ok(()) };
            of_this.iter_mut().for_each(|maximum| maximum.after.clone_from(&rates));
        }
        Ok(())
    }

    /// What a lock serves a second under a load with saturating arrivals, in some slices. `None` if it was
    /// cancelled.
    fn maximum(
        &mut self,
        load: &Load,
        lock: &Contender,
        round: usize,
    ) -> Result<Option<Vec<f64>>, ComparisonError> {
        let failed =
            |error| ComparisonError::Slice { lock: lock.name.clone(), load: load.name(), error };
        let brief = load.clone().slice_ms(warm_up_ms(load));
        self.report(&load.name(), &lock.name, round, false);
        if (lock.measure)(&brief, Pass::WarmUp, self.cancel).map_err(failed)?.is_none() {
            return Ok(None);
        }
        let mut rates = vec![];
        for _ in 0..MAXIMUM_SLICES {
            let slice = (lock.measure)(load, Pass::Count, self.cancel).map_err(failed)?;
            let Some(slice) = slice else { return Ok(None) };
            rates.push(slice.sample.per_second());
        }
        Ok(Some(rates))
    }

    /// Measures a slice. Returns false if it was cancelled.
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
            let brief = cell.run.clone().slice_ms(warm_up_ms(&cell.load));
            if (lock.measure)(&brief, Pass::WarmUp, self.cancel).map_err(failed)?.is_none() {
                return Ok(false);
            }
        }
        let pass = if timed { Pass::Time } else { Pass::Count };
        let measured = (lock.measure)(&cell.run, pass, self.cancel).map_err(failed)?;
        let Some(slice) = measured else { return Ok(false) };
        cell.unpinned = cell.unpinned.max(slice.unpinned);
        let (report, waits) = &mut cell.locks[turn];
        match slice.waits {
            None => report.samples.push(slice.sample),
            Some(more) => {
                report.round_waits.push(more.percentiles(&slice.sample));
                waits.get_or_insert_with(WaitHistogram::new).add(&more);
            }
        }
        self.done += 1;
        Ok(true)
    }

    fn report(&mut self, cell: &str, lock: &str, round: usize, timed: bool) {
        let ComparisonRun { done, total, rounds, .. } = *self;
        (self.progress)(&Progress { done, total, cell, lock, round, rounds, timed });
    }
}

/// The order in which `count` locks take their turns in round number `round`, as indices.
///
/// The order is reversed in every odd round, and rotated by one after every second round. So in
/// `2 * count` rounds each lock is first twice, and follows each of its neighbours equally often.
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

/// Why a [`Comparison`] cannot be run, or failed.
///
/// It has no figures: what was measured before a slice failed is lost. Measure locks that may fail
/// in separate comparisons.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ComparisonError {
    /// There is no lock.
    NoLock,
    /// There is no load.
    NoLoad,
    /// The number of rounds is zero.
    NoRounds,
    /// Two locks have this name.
    SameLock(String),
    /// Two loads have this name.
    SameLoad(String),
    /// A load is a share of the maximum of a lock that does not take part.
    NoSuchLock {
        /// The load's name.
        load: String,
        /// The lock's name.
        lock: String,
    },
    /// A load is not valid.
    Load {
        /// The load's name.
        load: String,
        /// Why it is not valid.
        error: LoadError,
    },
    /// A slice failed.
    Slice {
        /// The lock's name.
        lock: String,
        /// The load's name.
        load: String,
        /// Why the slice failed.
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
            ComparisonError::NoSuchLock { load, lock } => {
                write!(f, "load `{load}`: the lock `{lock}` does not take part")
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
    use crate::contention::{Std, unit_ns};
    use crate::primitive::AtomicUsize;

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
            let locks = measures.map(|measure| Contender {
                name: String::new(),
                measure,
                shape: Shape::Lock,
            });
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
    fn disturbed_rounds_are_measured_again() {
        // Of each second slice the processor had another speed, until four of them were measured.
        static SLICES: AtomicUsize = AtomicUsize::new(0);
        let measure: Measure = |load, pass, cancel| {
            let slice = slice::measure::<Std>(load, pass, cancel)?;
            let number = SLICES.fetch_add(1, Ordering::Relaxed);
            let unit_ns = if number < 8 && number % 2 == 1 { f64::INFINITY } else { unit_ns() };
            let conditions =
                Conditions { unit_ns, run_delay: None, most_run_delay: None, others_running: None };
            Ok(slice.map(|mut slice| {
                slice.sample.conditions = conditions;
                slice
            }))
        };
        for (limit, rounds) in [(Some(Duration::MAX), 9), (Some(Duration::ZERO), 1), (None, 5)] {
            // The first one is the warm-up.
            SLICES.store(0, Ordering::Relaxed);
            let mut comparison = Comparison::new().load(Load::new(1).slice_ms(1));
            comparison.limit = limit;
            comparison.locks =
                vec![Contender { name: "lock".to_owned(), measure, shape: Shape::Lock }];
            let report = comparison.run_quietly().expect("it runs");
            assert_eq!(report.cells[0].locks[0].samples.len(), rounds);
            assert!(!report.cut_short && report.rounds == 5);
        }
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
