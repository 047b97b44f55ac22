//! [`Load`]: how many threads want which locks, how often, and for how long.

use super::lock_kind::LockKind;
use super::report::Sample;
use super::slice::{self, SliceError};
use super::statistics::WaitHistogram;
use super::work::{Nanoseconds, Work};
use super::worker::Pass;
use crate::primitive::AtomicBool;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A load that any lock can be put under.
///
/// Each thread repeats: choose a lock, lock it, work inside, unlock it, work outside.
///
/// ```
/// use lockword::contention::{Load, Work};
///
/// let load = Load::new(8).inside(Work::nanos(100)).outside(Work::nanos(500)).locks(16);
/// assert_eq!(load.name(), "8 threads, 100/500 ns, 16 locks");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Threads, the hog not counted. 1 to [`Load::MAX_THREADS`].
    pub threads: usize,
    /// Work while holding the lock.
    pub inside: Work,
    /// Work between two acquisitions.
    pub outside: Work,
    /// How many locks there are, each on cache lines of its own. 1 to [`Load::MAX_LOCKS`].
    pub locks: usize,
    /// How a thread chooses among them.
    pub skew: Skew,
    /// Acquisitions come in batches, if at all. Not in an open loop.
    pub batch: Option<Batch>,
    /// One more thread, which does nothing but hold the first lock for so long, unlock it, and lock
    /// it again at once. It is no part of what is counted, but for [`Sample::hog_acquisitions`].
    ///
    /// [`Sample::hog_acquisitions`]: super::Sample::hog_acquisitions
    pub hog: Option<Work>,
    /// When the next acquisition is due.
    pub arrivals: Arrivals,
    /// Binds thread `i` to processor `i`, modulo their number, where the system can.
    pub pin: bool,
    /// How long a slice lasts, in milliseconds: from 1 to an hour. One lock is measured for that
    /// long before it is another's turn.
    pub slice_ms: u64,
}

/// How a thread chooses its next lock.
///
/// The choices are made beforehand, the same for every lock implementation that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Skew {
    /// All locks alike.
    Uniform,
    /// Zipf's law: lock number k (from 1) is chosen in proportion to `1 / k^s`. `s` is 0 or more; 0
    /// is uniform, and about 1 is what popularity looks like.
    Zipf(f64),
}

/// Acquisitions in a row, then a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// How many in a row, with the work outside between them. At least 1.
    pub acquisitions: u32,
    /// The pause after them, in nanoseconds. One of 100 us or more is spent asleep; a shorter one
    /// is worked through, since a sleep would take longer.
    pub pause_ns: u64,
}

/// When the next acquisition of a thread is due.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// As soon as the thread is done with the one before. While a lock stalls, nothing asks for
    /// it, so a stall is one long wait among many short ones, however long it was.
    Closed,
    /// On a fixed schedule, whether or not the lock keeps up. It begins for all threads when the
    /// first of them starts. Waits are counted from the scheduled time, and late arrivals are
    /// served back to back. What was due and had not asked when the slice ended counts with the
    /// wait it had by then. So a stall shows in full.
    ///
    /// To keep the schedule takes a clock, in both passes.
    Open {
        /// Arrivals a second, of all threads together: they take turns. [`Load::MIN_RATE`] to
        /// [`Load::MAX_RATE`].
        per_second: f64,
    },
}

impl Load {
    /// The most threads that are accepted.
    pub const MAX_THREADS: usize = 4096;
    /// The most locks that are accepted.
    pub const MAX_LOCKS: usize = 1 << 16;
    /// The lowest rate of an open loop, in arrivals a second: one in thirty years.
    pub const MIN_RATE: f64 = 1e-9;
    /// The highest rate of an open loop, in arrivals a second.
    pub const MAX_RATE: f64 = 1e9;
    /// The longest slice, in milliseconds.
    pub const MAX_SLICE_MS: u64 = 3_600_000;

    /// So many threads on one lock, 100 ns inside and 100 ns outside, in a closed loop; slices of
    /// 100 ms.
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

    /// Whether it can be run at all.
    ///
    /// # Errors
    ///
    /// The first field that cannot be, and what it may be.
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
        for work in [Some(self.inside), Some(self.outside), self.hog].into_iter().flatten() {
            if work.nominal_ns() > Work::MAX_NS as f64 {
                return Err(LoadError::TooMuchWork(work));
            }
        }
        if self.batch.is_some_and(|batch| batch.acquisitions == 0) {
            return Err(LoadError::EmptyBatch);
        }
        if let Arrivals::Open { per_second } = self.arrivals {
            if !(Load::MIN_RATE..=Load::MAX_RATE).contains(&per_second) {
                return Err(LoadError::Rate(per_second));
            }
            if self.batch.is_some() {
                return Err(LoadError::BatchesInOpenLoop);
            }
        }
        Ok(())
    }

    /// Measures one slice of one lock, from a loop that reads no clock. A
    /// [`Comparison`](super::Comparison) is made of these.
    ///
    /// # Errors
    ///
    /// If the load cannot be run, or the lock panics, never comes back, or lets two threads in.
    pub fn throughput<K: LockKind>(&self) -> Result<Sample, SliceError> {
        let slice = slice::measure::<K>(self, Pass::Count, &AtomicBool::new(false))?;
        Ok(slice.expect("nobody cancels it").sample)
    }

    /// Measures one slice of one lock, in which each wait is timed.
    ///
    /// # Errors
    ///
    /// As [`Load::throughput`].
    pub fn timed<K: LockKind>(&self) -> Result<(Sample, WaitHistogram), SliceError> {
        let slice = slice::measure::<K>(self, Pass::Time, &AtomicBool::new(false))?;
        let slice = slice.expect("nobody cancels it");
        Ok((slice.sample, slice.waits.unwrap_or_default()))
    }

    /// It in a few words, with all that is not as [`Load::new`] makes it; the slice is left out.
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
        if let Arrivals::Open { per_second } = self.arrivals {
            name += &format!(", {per_second} a second");
        }
        if self.pin {
            name += ", pinned";
        }
        name
    }
}

/// A [`Load`] that cannot be run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LoadError {
    /// No thread.
    NoThreads,
    /// More threads than [`Load::MAX_THREADS`].
    TooManyThreads(usize),
    /// No lock to choose.
    NoLocks,
    /// More locks than [`Load::MAX_LOCKS`].
    TooManyLocks(usize),
    /// A slice of no time, or of more than [`Load::MAX_SLICE_MS`]; in milliseconds.
    Slice(u64),
    /// A Zipf exponent that is negative, infinite, or not a number.
    Zipf(f64),
    /// Work that takes longer than [`Work::MAX_NS`].
    TooMuchWork(Work),
    /// A batch of no acquisitions.
    EmptyBatch,
    /// A rate below [`Load::MIN_RATE`] (zero and less, too), or above [`Load::MAX_RATE`].
    Rate(f64),
    /// Batches and a fixed rate at the same time.
    BatchesInOpenLoop,
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
            LoadError::BatchesInOpenLoop => write!(
                f,
                "batches and a fixed rate: a fixed rate leaves no room for pauses, give one of them"
            ),
        }
    }
}

impl std::error::Error for LoadError {}
