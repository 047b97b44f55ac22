//! [`Work`]: what a thread does inside a lock or outside, for a stated time, without a clock.
//!
//! A clock costs more than a short section. So work is arithmetic whose unit is timed once (the
//! calibration), and after that it is only counted.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Instant;

/// `units` steps of arithmetic, each of which needs the result of the one before.
///
/// A step is a rotate, an exclusive-or and an addition: three cycles of latency, with no closed
/// form that a compiler would find. The result must be used, or the loop goes.
#[inline]
#[must_use]
pub fn work(mut state: u64, units: u32) -> u64 {
    for _ in 0..units {
        state = (state.rotate_left(5) ^ 0x9E37_79B9_7F4A_7C15).wrapping_add(0x2545_F491_4F6C_DD1D);
    }
    state
}

/// What one unit of [`work`] takes on this machine, in nanoseconds.
///
/// It is measured by the first call, which takes some 30 ms; later calls return the same figure.
#[must_use]
pub fn unit_ns() -> f64 {
    static UNIT: OnceLock<f64> = OnceLock::new();
    *UNIT.get_or_init(calibrate)
}

/// Measures a unit afresh: the fastest of some tries, since whatever disturbs only slows down.
pub(super) fn calibrate() -> f64 {
    const UNITS: u32 = 1_000_000;
    const TRIES: usize = 20;
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        let start = Instant::now();
        black_box(work(black_box(1), black_box(UNITS)));
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(UNITS));
    }
    best
}

/// An amount of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Work(Amount);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Amount {
    Nanos(u64),
    Units(u32),
    Clock(u64),
}

impl Work {
    /// No work at all.
    pub const NONE: Work = Work::nanos(0);

    /// The most that a [`Load`](super::Load) accepts, in nanoseconds: a second.
    pub const MAX_NS: u64 = 1_000_000_000;

    /// As much work as takes so many nanoseconds on this machine when nothing disturbs it.
    #[must_use]
    pub const fn nanos(ns: u64) -> Work {
        Work(Amount::Nanos(ns))
    }

    /// So many units of [`work`], the same on every machine.
    ///
    /// A processor does some of the work inside and of the work outside at the same time if both
    /// are given in units, as it does in programs where neither needs the other's result. So short
    /// sections take less time than their units add up to. Work in nanoseconds is one chain.
    #[must_use]
    pub const fn units(units: u32) -> Work {
        Work(Amount::Units(units))
    }

    /// Looks at the monotonic clock until so many nanoseconds have passed.
    ///
    /// A thread that is preempted meanwhile does not work on afterwards. For long times only: to
    /// look at a clock takes some 20 ns, and it puts a clock into a loop that has none otherwise.
    #[must_use]
    pub const fn clock(ns: u64) -> Work {
        Work(Amount::Clock(ns))
    }

    /// How long it takes when nothing disturbs, in nanoseconds.
    #[must_use]
    pub fn nominal_ns(self) -> f64 {
        match self.0 {
            Amount::Nanos(ns) | Amount::Clock(ns) => ns as f64,
            Amount::Units(units) => f64::from(units) * unit_ns(),
        }
    }

    /// How many units of [`work`] it is on this machine; 0 if it is done by the clock.
    #[must_use]
    pub fn units_of(self) -> u32 {
        match self.0 {
            Amount::Nanos(0) | Amount::Clock(_) => 0,
            // Too many for a `u32` become the most there are.
            Amount::Nanos(ns) => (ns as f64 / unit_ns()).round() as u32,
            Amount::Units(units) => units,
        }
    }

    /// Whether it is given in units.
    pub(super) fn is_counted(self) -> bool {
        matches!(self.0, Amount::Units(_))
    }

    /// The time to spend by the clock, in nanoseconds, if that is how it is done.
    pub(super) fn clock_ns(self) -> Option<u64> {
        match self.0 {
            Amount::Clock(ns) => Some(ns),
            _ => None,
        }
    }

    /// Two amounts with a stroke between, and one unit if they have the same.
    pub(super) fn pair(self, other: Work) -> String {
        match (self.0, other.0) {
            (Amount::Nanos(a), Amount::Nanos(b)) => format!("{a}/{b} ns"),
            (Amount::Units(a), Amount::Units(b)) => format!("{a}/{b} units"),
            _ => format!("{self} / {other}"),
        }
    }
}

/// `100 ns`, `10 units`, `200 us by the clock`.
impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Amount::Nanos(ns) => write!(f, "{}", Nanoseconds(ns)),
            Amount::Units(units) => write!(f, "{units} units"),
            Amount::Clock(ns) => write!(f, "{} by the clock", Nanoseconds(ns)),
        }
    }
}

/// Nanoseconds in the largest unit in which they are a whole number.
pub(super) struct Nanoseconds(pub(super) u64);

impl fmt::Display for Nanoseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ns if ns > 0 && ns % 1_000_000 == 0 => write!(f, "{} ms", ns / 1_000_000),
            ns if ns > 0 && ns % 1_000 == 0 => write!(f, "{} us", ns / 1_000),
            ns => write!(f, "{ns} ns"),
        }
    }
}
