//! [`Load`]: how many threads want which locks, how often, and how long they hold them.

use super::lock_kind::LockKind;
use super::report::Sample;
use super::slice;
use super::slice::SliceError;
use super::statistics::WaitHistogram;
use super::work::{Nanoseconds, Work};
use super::worker::Pass;
use crate::primitive::AtomicBool;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A load: what the threads of a measurement do, independently of the lock.
///
/// Each thread repeats these steps until the end of the slice: choose a lock, lock it, work inside,
/// unlock it, work outside.
///
/// ```
/// use lockword::contention::{Load, Work};
///
/// let load = Load::new(8).inside(Work::nanos(100)).outside(Work::nanos(500)).locks(16);
/// assert_eq!(load.name(), "8 threads, 100/500 ns, 16 locks");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// The number of threads, without the hog. 1 to [`Load::MAX_THREADS`].
    pub threads: usize,
    /// The work while the lock is held.
    pub inside: Work,
    /// The work between two acquisitions of a thread.
    pub outside: Work,
    /// The number of locks, each on its own cache lines. 1 to [`Load::MAX_LOCKS`].
    pub locks: usize,
    /// How a thread chooses among them.
    pub skew: Skew,
    /// Batches of acquisitions with pauses between them; `None` for no pauses. Not in an open loop.
    pub batch: Option<Batch>,
    /// The work inside of one more thread, the hog, which holds the first lock for this long,
    /// unlocks it and locks it again at once. Its acquisitions are only counted in
    /// [`Sample::hog_acquisitions`].
    ///
    /// [`Sample::hog_acquisitions`]: super::Sample::hog_acquisitions
    pub hog: Option<Work>,
    /// How many acquisitions in 100 only read, at random; `None` if all lock, or write. The hog writes always.
    /// 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<f64>,
    /// The capacity of a bounded queue under the lock, with a Condvar for each side; `None` for no queue.
    /// Half of the threads push and the others pop; of an odd number one more pops. A sample has the
    /// items that each of the latter took, and waits are those of a push or pop until the lock is held
    /// and there is room, or an item. 1 to [`Load::MAX_QUEUE`]; with 2 threads at least, one lock, and
    /// neither a hog, nor reads, nor an open loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<usize>,
    /// The number of tasks, on a runtime of tokio's whose threads are [`Load::threads`] (feature
    /// `peers`); `None` for threads without tasks. A task yields after each acquisition. A lock that
    /// blocks its thread takes part, too. A sample has the acquisitions of each task. 1 to
    /// [`Load::MAX_TASKS`]; with neither a queue, nor a hog, batches, reads, pinning or an open loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<usize>,
    /// When a thread requests its next acquisition.
    pub arrivals: Arrivals,
    /// Whether to bind thread `i` to processor `i` modulo the number of processors, if the system
    /// supports it.
    pub pin: bool,
    /// The length of a slice in milliseconds, 1 to [`Load::MAX_SLICE_MS`]. One lock is measured for
    /// this long before the turn of the next.
    pub slice_ms: u64,
}

/// How a thread chooses its next lock.
///
/// The choices are made beforehand. They are the same for every lock kind that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Skew {
    /// All locks with the same probability.
    Uniform,
    /// Zipf's law: lock number k (from 1) is chosen in proportion to `1 / k^s`. The exponent `s` is
    /// 0 (uniform) or more; about 1 is common in practice.
    Zipf(f64),
}

/// A number of acquisitions, then a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The number of acquisitions, with the work outside between them. At least 1.
    pub acquisitions: u32,
    /// The pause after them, in nanoseconds. A pause of 100 us or more is spent asleep; a shorter
    /// one is spent working, since a sleep would take longer.
    pub pause_ns: u64,
}

/// When a thread requests its next acquisition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// A closed loop: as soon as the thread is done with the previous acquisition and the work
    /// outside. While a lock stalls nothing more is requested, so a stall of any length appears as
    /// a single long wait per thread, among many short ones.
    Closed,
    /// An open loop: on a fixed schedule, whether or not the lock keeps up. The schedule of all
    /// threads begins when the first of them starts. Waits are counted from the scheduled time, and
    /// late arrivals are served back to back. So all of a stall is visible.
    ///
    /// The schedule ends with the slice. What is late then is still served, for half a slice more (at
    /// least 10 ms), and the sample is longer by that; otherwise a thread that is not running at that
    /// moment would take the arrivals of its absence with it. What is not served after that counts
    /// with the wait up to then.
    ///
    /// Keeping the schedule takes a clock, in both passes.
    Open {
        /// Arrivals a second of all threads together, which take turns. [`Load::MIN_RATE`] to
        /// [`Load::MAX_RATE`].
        per_second: f64,
    },
    /// An open loop at a share of what a lock serves at most. Every lock is offered the same arrivals.
    ///
    /// The maximum is measured at the beginning of a [`Comparison`](super::Comparison), as the rate of
    /// the same loop when more arrive than can be served; [`CellReport::offered`] is what the share
    /// came to. A load is measured in a comparison only.
    ///
    /// [`CellReport::offered`]: super::CellReport::offered
    OfMaximum {
        /// The share in percent, above 0 and at most [`Load::MAX_PERCENT`].
        percent: f64,
        /// The lock, by its name in the comparison; `None` for the one whose maximum is the highest.
        lock: Option<String>,
    },
}

impl Arrivals {
    /// Whether requests follow a schedule.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self, Arrivals::Closed)
    }
}

impl Load {
    /// The largest number of threads.
    pub const MAX_THREADS: usize = 4096;
    /// The largest number of locks.
    pub const MAX_LOCKS: usize = 1 << 16;
    /// The largest number of tasks.
    pub const MAX_TASKS: usize = 1 << 14;
    /// The largest capacity of a queue.
    pub const MAX_QUEUE: usize = 1 << 20;
    /// The lowest rate of an open loop, in arrivals a second: one in about thirty years.
    pub const MIN_RATE: f64 = 1e-9;
    /// The highest rate of an open loop, in arrivals a second.
    pub const MAX_RATE: f64 = 1e9;
    /// The highest share of a maximum, in percent.
    pub const MAX_PERCENT: f64 = 1_000.0;
    /// The longest slice, in milliseconds: one hour.
    pub const MAX_SLICE_MS: u64 = 3_600_000;

    /// A load of this number of threads on one lock, with 100 ns of work inside and 100 ns outside,
    /// in a closed loop, with slices of 100 ms.
    #[must_use]
    pub fn new(threads: usize) -> Load {
        Load {
            threads,
            inside: Work::nanos(100),
            outside: Work::nanos(100),
            locks: 1,
            skew: Skew::Uniform,
            batch: None,
            hog: None,
            read: None,
            queue: None,
            tasks: None,
            arrivals: Arrivals::Closed,
            pin: false,
            slice_ms: 100,
        }
    }

    /// Sets [`Load::inside`].
    #[must_use]
    pub fn inside(self, inside: Work) -> Load {
        Load { inside, ..self }
    }

    /// Sets [`Load::outside`].
    #[must_use]
    pub fn outside(self, outside: Work) -> Load {
        Load { outside, ..self }
    }

    /// Sets [`Load::locks`].
    #[must_use]
    pub fn locks(self, locks: usize) -> Load {
        Load { locks, ..self }
    }

    /// Sets [`Load::skew`].
    #[must_use]
    pub fn skew(self, skew: Skew) -> Load {
        Load { skew, ..self }
    }

    /// Sets [`Load::batch`].
    #[must_use]
    pub fn batch(self, batch: Batch) -> Load {
        Load { batch: Some(batch), ..self }
    }

    /// Sets [`Load::hog`].
    #[must_use]
    pub fn hog(self, hold: Work) -> Load {
        Load { hog: Some(hold), ..self }
    }

    /// Sets [`Load::read`].
    #[must_use]
    pub fn read(self, percent: f64) -> Load {
        Load { read: Some(percent), ..self }
    }

    /// Sets [`Load::queue`].
    #[must_use]
    pub fn queue(self, capacity: usize) -> Load {
        Load { queue: Some(capacity), ..self }
    }

    /// Sets [`Load::tasks`].
    #[must_use]
    pub fn tasks(self, tasks: usize) -> Load {
        Load { tasks: Some(tasks), ..self }
    }

    /// Sets [`Load::arrivals`].
    #[must_use]
    pub fn arrivals(self, arrivals: Arrivals) -> Load {
        Load { arrivals, ..self }
    }

    /// Sets [`Load::pin`].
    #[must_use]
    pub fn pin(self, pin: bool) -> Load {
        Load { pin, ..self }
    }

    /// Sets [`Load::slice_ms`].
    #[must_use]
    pub fn slice_ms(self, slice_ms: u64) -> Load {
        Load { slice_ms, ..self }
    }

    /// For how long the arrivals of an open loop that are late at the end of the slice are served, in
    /// milliseconds: half of the slice, 10 at least; 0 in a closed loop.
    #[must_use]
    pub fn extra_ms(&self) -> u64 {
        if self.arrivals.is_open() { 10.max(self.slice_ms / 2) } else { 0 }
    }

    /// Checks whether the load can be run.
    ///
    /// # Errors
    ///
    /// The first field whose value is not accepted.
    pub fn validate(&self) -> Result<(), LoadError> {
        if self.threads == 0 {
            return Err(LoadError::NoThreads);
        }
        if self.threads > Load::MAX_THREADS {
            return Err(LoadError::TooManyThreads(self.threads));
        }
        if self.locks == 0 {
            return Err(LoadError::NoLocks);
        }
        if self.locks > Load::MAX_LOCKS {
            return Err(LoadError::TooManyLocks(self.locks));
        }
        if self.slice_ms == 0 || self.slice_ms > Load::MAX_SLICE_MS {
            return Err(LoadError::Slice(self.slice_ms));
        }
        if let Skew::Zipf(s) = self.skew
            && !(s.is_finite() && s >= 0.0)
        {
            return Err(LoadError::Zipf(s));
        }
        if let Some(percent) = self.read
            && !(0.0..=100.0).contains(&percent)
        {
            return Err(LoadError::Read(percent));
        }
        for work in [Some(self.inside), Some(self.outside), self.hog].into_iter().flatten() {
            if work.nominal_ns() > Work::MAX_NS as f64 {
                return Err(LoadError::TooMuchWork(work));
            }
        }
        if self.batch.is_some_and(|batch| batch.acquisitions == 0) {
            return Err(LoadError::EmptyBatch);
        }
        match self.arrivals {
            Arrivals::Open { per_second }
                if !(Load::MIN_RATE..=Load::MAX_RATE).contains(&per_second) =>
            {
                return Err(LoadError::Rate(per_second));
            }
            Arrivals::OfMaximum { percent, .. }
                if !(percent > 0.0 && percent <= Load::MAX_PERCENT) =>
            {
                return Err(LoadError::Percent(percent));
            }
            _ => {}
        }
        if self.arrivals.is_open() && self.batch.is_some() {
            return Err(LoadError::BatchesInOpenLoop);
        }
        self.validate_queue()?;
        self.validate_tasks()
    }

    fn validate_tasks(&self) -> Result<(), LoadError> {
        let Some(tasks) = self.tasks else { return Ok(()) };
        if !(1..=Load::MAX_TASKS).contains(&tasks) {
            return Err(LoadError::Tasks(tasks));
        }
        let not_possible = [
            (self.queue.is_some(), "a queue"),
            (self.hog.is_some(), "a hog"),
            (self.batch.is_some(), "batches"),
            (self.read.is_some(), "reads"),
            (self.pin, "pinning"),
            (self.arrivals.is_open(), "a rate"),
        ];
        match not_possible.iter().find(|(is_asked_for, _)| *is_asked_for) {
            Some((_, what)) => Err(LoadError::TasksWith(what)),
            None => Ok(()),
        }
    }

    fn validate_queue(&self) -> Result<(), LoadError> {
        let Some(capacity) = self.queue else { return Ok(()) };
        if !(1..=Load::MAX_QUEUE).contains(&capacity) {
            return Err(LoadError::Queue(capacity));
        }
        if self.threads < 2 {
            return Err(LoadError::QueueOfOneThread);
        }
        let not_possible = [
            (self.locks > 1, "several locks"),
            (self.hog.is_some(), "a hog"),
            (self.read.is_some(), "reads"),
            (self.arrivals.is_open(), "a rate"),
        ];
        match not_possible.iter().find(|(is_asked_for, _)| *is_asked_for) {
            Some((_, what)) => Err(LoadError::QueueWith(what)),
            None => Ok(()),
        }
    }

    /// Measures one slice of one lock in a loop that reads no clock. A
    /// [`Comparison`](super::Comparison) consists of these.
    ///
    /// Blocks for about the length of the slice.
    ///
    /// # Errors
    ///
    /// If the load is not valid, the system refuses a thread, the lock panics or is never released,
    /// or mutual exclusion is violated.
    pub fn throughput<K: LockKind>(&self) -> Result<Sample, SliceError> {
        let slice = slice::measure::<K>(self, Pass::Count, &AtomicBool::new(false))?;
        Ok(slice.expect("it is not cancelled").sample)
    }

    /// Measures one slice of one lock, in which every wait is timed.
    ///
    /// # Errors
    ///
    /// As [`Load::throughput`].
    pub fn timed<K: LockKind>(&self) -> Result<(Sample, WaitHistogram), SliceError> {
        let slice = slice::measure::<K>(self, Pass::Time, &AtomicBool::new(false))?;
        let slice = slice.expect("it is not cancelled");
        Ok((slice.sample, slice.waits.unwrap_or_default()))
    }

    /// A short description of everything that differs from [`Load::new`], but for the length of the
    /// slice: `8 threads, 100/500 ns, 16 locks`. Two loads with one name differ in that at most.
    #[must_use]
    pub fn name(&self) -> String {
        let plural = if self.threads == 1 { "" } else { "s" };
        let work = self.inside.pair(self.outside);
        let mut name = format!("{} thread{plural}, {work}", self.threads);
        if self.locks != 1 {
            name += &format!(", {} locks", self.locks);
        }
        if let Skew::Zipf(s) = self.skew {
            name += &format!(", Zipf {s}");
        }
        if let Some(Batch { acquisitions, pause_ns }) = self.batch {
            name += &format!(", batches of {acquisitions} and {}", Nanoseconds(pause_ns));
        }
        if let Some(hold) = self.hog {
            name += &format!(", hog of {hold}");
        }
        if let Some(percent) = self.read {
            name += &format!(", {percent} % read");
        }
        if let Some(capacity) = self.queue {
            name += &format!(", queue of {capacity}");
        }
        if let Some(tasks) = self.tasks {
            name += &format!(", {tasks} task{}", if tasks == 1 { "" } else { "s" });
        }
        match &self.arrivals {
            Arrivals::Closed => {}
            Arrivals::Open { per_second } => name += &format!(", {per_second} a second"),
            Arrivals::OfMaximum { percent, lock: Some(lock) } => {
                name += &format!(", {percent} % of {lock}'s maximum");
            }
            Arrivals::OfMaximum { percent, lock: None } => {
                name += &format!(", {percent} % of the highest maximum");
            }
        }
        if self.pin {
            name += ", pinned";
        }
        name
    }
}

/// Why a [`Load`] cannot be run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LoadError {
    /// The number of threads is zero.
    NoThreads,
    /// There are more threads than [`Load::MAX_THREADS`].
    TooManyThreads(usize),
    /// The number of locks is zero.
    NoLocks,
    /// There are more locks than [`Load::MAX_LOCKS`].
    TooManyLocks(usize),
    /// The length of the slice, in milliseconds, is zero or above [`Load::MAX_SLICE_MS`].
    Slice(u64),
    /// The Zipf exponent is negative, infinite, or not a number.
    Zipf(f64),
    /// The share of acquisitions that read is not a number from 0 to 100.
    Read(f64),
    /// The work takes longer than [`Work::MAX_NS`].
    TooMuchWork(Work),
    /// A batch has no acquisitions.
    EmptyBatch,
    /// The rate is below [`Load::MIN_RATE`], above [`Load::MAX_RATE`], or not a number.
    Rate(f64),
    /// The share of a maximum is not above 0, above [`Load::MAX_PERCENT`], or not a number.
    Percent(f64),
    /// A share of a maximum is asked for outside of a comparison, which measures the maximum.
    UnknownMaximum,
    /// The load has both batches and an open loop.
    BatchesInOpenLoop,
    /// The capacity of the queue is zero, or above [`Load::MAX_QUEUE`].
    Queue(usize),
    /// The load is a queue and has a single thread.
    QueueOfOneThread,
    /// The load is a queue, and has something that a queue cannot have.
    QueueWith(&'static str),
    /// The load is a queue, and the lock has no Condvar.
    NoCondvar,
    /// The number of tasks is zero, or above [`Load::MAX_TASKS`].
    Tasks(usize),
    /// The load has tasks, and something that tasks cannot have.
    TasksWith(&'static str),
    /// The load has tasks, and the crate was built without the feature `peers`.
    NoRuntime,
    /// The lock is one for tasks, and the load has none.
    OnlyTasks,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::NoThreads => write!(f, "zero threads: a load takes at least one"),
            LoadError::TooManyThreads(threads) => {
                write!(f, "{threads} threads: a load takes at most {}", Load::MAX_THREADS)
            }
            LoadError::NoLocks => write!(f, "zero locks: a load takes at least one"),
            LoadError::TooManyLocks(locks) => {
                write!(f, "{locks} locks: a load takes at most {}", Load::MAX_LOCKS)
            }
            LoadError::Slice(ms) => write!(
                f,
                "a slice of {ms} ms: give it 1 ms at least, and {} ms at most",
                Load::MAX_SLICE_MS
            ),
            LoadError::Zipf(s) => {
                write!(f, "a Zipf exponent of {s}: it must be a finite number, 0 or more")
            }
            LoadError::Read(percent) => {
                write!(f, "{percent} % of reads: it must be a number from 0 to 100")
            }
            LoadError::TooMuchWork(work) => {
                write!(f, "{work} of work: at most {} are accepted", Nanoseconds(Work::MAX_NS))
            }
            LoadError::EmptyBatch => {
                write!(f, "a batch of zero acquisitions: it takes at least one")
            }
            LoadError::Rate(rate) => {
                let (least, most) = (Load::MIN_RATE, Load::MAX_RATE);
                write!(
                    f,
                    "{rate:?} arrivals a second: it must be above 0, at least {least:e} and at \
                     most {most:e}"
                )
            }
            LoadError::Queue(capacity) => write!(
                f,
                "a queue of {capacity}: it takes at least 1, and at most {}",
                Load::MAX_QUEUE
            ),
            LoadError::QueueOfOneThread => {
                write!(
                    f,
                    "a queue and one thread: one pushes and one pops, so it takes two at least"
                )
            }
            LoadError::QueueWith(what) => {
                write!(f, "a queue and {what}: a queue has threads, work and batches only")
            }
            LoadError::NoCondvar => {
                write!(f, "a queue needs a Condvar, which this lock does not have")
            }
            LoadError::Tasks(tasks) => {
                write!(f, "{tasks} tasks: a load takes at least 1, and at most {}", Load::MAX_TASKS)
            }
            LoadError::TasksWith(what) => {
                write!(f, "tasks and {what}: tasks have threads, work and locks only")
            }
            LoadError::NoRuntime => {
                write!(f, "tasks need a runtime, which the feature `peers` of this crate has")
            }
            LoadError::OnlyTasks => {
                write!(f, "this lock is for tasks, and the load has none")
            }
            LoadError::Percent(percent) => write!(
                f,
                "{percent:?} % of a maximum: it must be above 0, and at most {}",
                Load::MAX_PERCENT
            ),
            LoadError::UnknownMaximum => {
                write!(f, "a share of a maximum: only a comparison measures the maximum")
            }
            LoadError::BatchesInOpenLoop => write!(
                f,
                "batches and a fixed rate: a fixed rate leaves no room for pauses, give one of them"
            ),
        }
    }
}

impl std::error::Error for LoadError {}

/// Chooses the lock of the next acquisition, and whether it reads.
///
/// The choices of a thread are drawn beforehand into a table, which its loop reads cyclically: to
/// draw from Zipf's law takes a logarithm or a search, which would take longer than the lock.
///
/// Zipf's law is sampled by inversion: the shares of the locks are added up, and a number between 0
/// and 1 falls into one of the sums. The numbers are drawn by stratified sampling, one at random in
/// each of as many equal intervals as the table has entries, so that the count of each lock in a
/// table is exact to within two entries. Then the table is shuffled (Fisher and Yates; Knuth, *The
/// Art of Computer Programming*, volume 2, algorithm P in section 3.4.2).
pub(super) trait LockChooser {
    /// The index of the lock.
    fn next(&mut self) -> usize;

    /// Whether the acquisition only reads.
    fn reads(&mut self) -> bool;
}

/// Always the first lock.
pub(super) struct FirstLock;

/// Reads a table of choices cyclically.
pub(super) struct ChoiceTable {
    /// Their number is a power of two.
    indices: Box<[u32]>,
    at: usize,
}

/// The smallest and the largest number of entries of a table: 16 KiB and 256 KiB of memory.
const MIN_ENTRIES: usize = 1 << 12;
const MAX_ENTRIES: usize = 1 << 16;

impl ChoiceTable {
    /// A reader of the table that begins at this share of it, 0 to 1.
    #[cfg(feature = "peers")]
    pub(super) fn reader_at(&self, share: f64) -> ChoiceReader<'_> {
        ChoiceReader { indices: &self.indices, at: (share * self.indices.len() as f64) as usize }
    }
}

/// Reads a table of choices cyclically, beside others that do so.
#[cfg(feature = "peers")]
pub(super) struct ChoiceReader<'a> {
    indices: &'a [u32],
    at: usize,
}

#[cfg(feature = "peers")]
impl LockChooser for ChoiceReader<'_> {
    #[inline(always)]
    fn next(&mut self) -> usize {
        let index = self.indices[self.at & (self.indices.len() - 1)];
        self.at = self.at.wrapping_add(1);
        index as usize
    }

    #[inline(always)]
    fn reads(&mut self) -> bool {
        false
    }
}

impl LockChooser for FirstLock {
    #[inline(always)]
    fn next(&mut self) -> usize {
        0
    }

    #[inline(always)]
    fn reads(&mut self) -> bool {
        false
    }
}

impl LockChooser for ChoiceTable {
    #[inline(always)]
    fn next(&mut self) -> usize {
        let index = self.indices[self.at & (self.indices.len() - 1)];
        self.at = self.at.wrapping_add(1);
        index as usize
    }

    #[inline(always)]
    fn reads(&mut self) -> bool {
        false
    }
}

/// Any of the others, and some acquisitions read, at random.
pub(super) struct ReadChooser {
    /// `None` for the first lock.
    locks: Option<ChoiceTable>,
    /// Of 2^32 acquisitions.
    reads: u64,
    random: u64,
}

impl ReadChooser {
    /// For thread number `thread`.
    pub(super) fn new(percent: f64, locks: Option<ChoiceTable>, thread: usize) -> ReadChooser {
        let reads = (percent / 100.0 * (1_u64 << 32) as f64) as u64;
        ReadChooser { locks, reads, random: Xorshift::of_thread(thread).next() }
    }
}

impl LockChooser for ReadChooser {
    #[inline(always)]
    fn next(&mut self) -> usize {
        self.locks.as_mut().map_or(0, LockChooser::next)
    }

    #[inline(always)]
    fn reads(&mut self) -> bool {
        // A linear congruential generator, with Knuth's constants for MMIX: one multiplication.
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.random >> 32 < self.reads
    }
}

/// The cumulative shares of the locks; the last is 1.
pub(super) struct CumulativeShares(Vec<f64>);

impl CumulativeShares {
    pub(super) fn new(locks: usize, skew: Skew) -> CumulativeShares {
        let exponent = match skew {
            Skew::Uniform => 0.0,
            Skew::Zipf(exponent) => exponent,
        };
        let mut sum = 0.0;
        let mut sums: Vec<f64> = (1..=locks)
            .map(|number| {
                sum += (number as f64).powf(-exponent);
                sum
            })
            .collect();
        sums.iter_mut().for_each(|s| *s /= sum);
        CumulativeShares(sums)
    }

    /// The table of thread number `thread`; always the same for the same thread.
    pub(super) fn table(&self, thread: usize) -> ChoiceTable {
        let entries = (4 * self.0.len()).next_power_of_two().clamp(MIN_ENTRIES, MAX_ENTRIES);
        let mut random = Xorshift::of_thread(thread);
        let mut indices: Box<[u32]> = (0..entries)
            .map(|entry| {
                let number = (entry as f64 + random.fraction()) / entries as f64;
                let index = self.0.partition_point(|sum| *sum <= number);
                index.min(self.0.len() - 1) as u32
            })
            .collect();
        for last in (1..entries).rev() {
            indices.swap(last, random.below(last + 1));
        }
        ChoiceTable { indices, at: 0 }
    }
}

/// Marsaglia's generator xorshift ("Xorshift RNGs", 2003) with Vigna's multiplication of the
/// output.
struct Xorshift(u64);

impl Xorshift {
    fn of_thread(thread: usize) -> Xorshift {
        // The seed must not be 0, which xorshift never leaves: it is the product of two odd numbers.
        Xorshift(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(2 * thread as u64 + 1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number from 0 to 1, exclusive.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number from 0 to `end`, exclusive.
    fn below(&mut self, end: usize) -> usize {
        (self.fraction() * end as f64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each lock occurs in the table of a thread.
    fn counts(locks: usize, skew: Skew, thread: usize) -> Vec<usize> {
        let mut table = CumulativeShares::new(locks, skew).table(thread);
        let mut counts = vec![0; locks];
        (0..table.indices.len()).for_each(|_| counts[table.next()] += 1);
        counts
    }

    #[test]
    fn uniform_is_even() {
        for locks in [1, 2, 3, 64, 100] {
            let counts = counts(locks, Skew::Uniform, 0);
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert!(most.unwrap() - least.unwrap() <= 2, "{locks} locks: {counts:?}");
        }
        assert_eq!(counts(10, Skew::Zipf(0.0), 1), counts(10, Skew::Uniform, 1));
    }

    #[test]
    fn zipf_has_the_shares_of_its_law() {
        for exponent in [0.5, 1.0, 2.0] {
            let locks = 100;
            let counts = counts(locks, Skew::Zipf(exponent), 3);
            let entries: usize = counts.iter().sum();
            let sum: f64 = (1..=locks).map(|k| (k as f64).powf(-exponent)).sum();
            for (k, count) in (1..).zip(&counts) {
                let expected = entries as f64 * f64::from(k).powf(-exponent) / sum;
                assert!((*count as f64 - expected).abs() <= 2.0, "lock {k}: {count}, {expected}");
            }
        }
    }

    #[test]
    fn an_extreme_exponent_chooses_only_the_first_lock() {
        let counts = counts(1_000, Skew::Zipf(1e300), 0);
        assert_eq!(counts[0], counts.iter().sum::<usize>());
    }

    #[test]
    fn threads_choose_differently_and_each_always_the_same() {
        let shares = CumulativeShares::new(16, Skew::Uniform);
        let table = |thread| shares.table(thread).indices;
        assert_eq!(table(0), table(0));
        assert_ne!(table(0), table(1));
        // An unshuffled table would be in the order of the locks.
        assert!(!table(0).is_sorted());
    }

    #[test]
    fn reads_have_their_share() {
        for (percent, thread) in [(0.0, 0), (0.1, 1), (50.0, 2), (99.9, 3), (100.0, 4)] {
            let mut chooser = ReadChooser::new(percent, None, thread);
            let reads = (0..1_000_000).filter(|_| chooser.reads()).count() as f64;
            assert!((reads / 1e4 - percent).abs() < 0.2, "{percent} %: {reads} in a million");
        }
        let shares = CumulativeShares::new(16, Skew::Uniform);
        let (mut mixed, mut table) =
            (ReadChooser::new(1.0, Some(shares.table(3)), 3), shares.table(3));
        assert!((0..1_000).all(|_| mixed.next() == table.next()), "the same locks");
        assert_eq!(mixed.next().max(15), 15);
        assert_eq!(ReadChooser::new(1.0, None, 0).next(), 0);
    }

    #[test]
    fn a_table_has_room_for_the_largest_number_of_locks() {
        let chosen = counts(super::super::Load::MAX_LOCKS, Skew::Uniform, 0);
        let used = chosen.iter().filter(|count| **count > 0).count();
        assert!(used > chosen.len() / 2, "{used} of {}", chosen.len());
    }
}
