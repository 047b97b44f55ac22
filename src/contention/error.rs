//! What can go wrong, and what to do about it.

use super::load::Load;
use super::work::{Nanoseconds, Work};
use std::fmt;

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
    /// A burst of no acquisitions.
    EmptyBurst,
    /// A rate below [`Load::MIN_RATE`] (zero and less, too), or above [`Load::MAX_RATE`].
    Rate(f64),
    /// Bursts and a fixed rate at the same time.
    BurstInOpenLoop,
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
            LoadError::EmptyBurst => {
                write!(f, "a burst of zero acquisitions: it takes at least one")
            }
            LoadError::Rate(rate) => {
                let (least, most) = (Load::MIN_RATE, Load::MAX_RATE);
                write!(
                    f,
                    "{rate:?} arrivals a second: it must be above 0, at least {least:e} and at \
                     most {most:e}"
                )
            }
            LoadError::BurstInOpenLoop => write!(
                f,
                "bursts and a fixed rate: a fixed rate leaves no room for pauses, give one of them"
            ),
        }
    }
}

impl std::error::Error for LoadError {}

/// A slice that could not be measured to its end.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SliceError {
    /// The load cannot be run.
    Load(LoadError),
    /// The system refused a thread.
    Spawn {
        /// How many threads there were already.
        started: usize,
        /// What the system said.
        reason: String,
    },
    /// The lock under test panicked on a thread. What it said is the text.
    Panicked(String),
    /// After the end of the slice nothing moved for ten seconds.
    Stuck {
        /// How many threads had not come back. They, and the locks, are left behind.
        threads: usize,
    },
    /// Two threads were inside at the same time, and an increment under the lock was lost.
    ///
    /// Each slice is checked for it. Two threads inside need not lose one: see
    /// [`SliceError::Intrusion`].
    NoMutualExclusion {
        /// What was counted under the locks.
        counted: u64,
        /// What the threads counted for themselves, after the end of the slice too.
        acquisitions: u64,
    },
    /// Two threads were inside at the same time: one found another's mark under the lock at the end
    /// of its section, where it had left its own at the beginning.
    ///
    /// The slices that time waits and the warm-up of a [`Comparison`](super::Comparison) are checked
    /// for it; the slices that only count acquisitions are not.
    Intrusion {
        /// How many acquisitions found another's mark.
        intrusions: u64,
        /// All acquisitions, after the end of the slice too.
        acquisitions: u64,
    },
}

impl fmt::Display for SliceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SliceError::Load(error) => error.fmt(f),
            SliceError::Spawn { started, reason } => write!(
                f,
                "the system refused a thread after {started} of them ({reason}): \
                 use fewer, or raise its limit"
            ),
            SliceError::Panicked(text) => write!(f, "the lock panicked: {text}"),
            SliceError::Stuck { threads } => write!(
                f,
                "{threads} threads still wait for a lock that nobody uses any more: \
                 the lock has lost a wake-up, or was never released"
            ),
            SliceError::NoMutualExclusion { counted, acquisitions } => write!(
                f,
                "no mutual exclusion: {acquisitions} acquisitions, but only {counted} \
                 were counted under the lock"
            ),
            SliceError::Intrusion { intrusions, acquisitions } => write!(
                f,
                "no mutual exclusion: another thread came in during {intrusions} \
                 of {acquisitions} acquisitions"
            ),
        }
    }
}

impl std::error::Error for SliceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SliceError::Load(error) => Some(error),
            _ => None,
        }
    }
}

impl From<LoadError> for SliceError {
    fn from(error: LoadError) -> Self {
        SliceError::Load(error)
    }
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
