//! [`Work`]: what a thread does inside a lock or outside, for a stated time, without a clock.
//!
//! A clock costs more than a short section. So work is arithmetic whose unit is timed once (the
//! calibration), and after that it is only counted.

use crate::primitive::{AtomicBool, Ordering, spin_loop};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

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

/// Work inside a lock or outside. `state` goes through it, so that it cannot be optimised away.
pub(super) trait Section: Copy {
    /// Whether the work inside begins with the result of the work outside, and the other way round.
    /// If not, the processor does some of both at the same time: about as much as takes 100 ns.
    const CHAINED: bool;

    fn spend(self, state: u64, stop: &AtomicBool) -> u64;
}

/// Up to so many units are a [`ShortSection`] section: some 100 us.
const SHORT: u32 = 100_000;

/// Units between two looks at the signal to stop: some 30 us.
const CHUNK: u32 = 32_768;

/// A count of units, and nothing else in the loop.
#[derive(Clone, Copy)]
pub(super) struct ShortSection<const CHAINED: bool>(u32);

/// Anything else: it ends early at the signal to stop, so that 64 threads in a queue do not make
/// it last for 64 times as long.
#[derive(Clone, Copy)]
pub(super) enum LongSection {
    Units(u32),
    Clock(Duration),
}

impl<const CHAINED: bool> ShortSection<CHAINED> {
    /// `None` if it is too long, or goes by the clock.
    pub(super) fn new(work: Work) -> Option<Self> {
        let units = work.units_of();
        (work.clock_ns().is_none() && units <= SHORT).then_some(ShortSection(units))
    }
}

impl From<Work> for LongSection {
    fn from(work: Work) -> LongSection {
        match work.clock_ns() {
            Some(ns) => LongSection::Clock(Duration::from_nanos(ns)),
            None => LongSection::Units(work.units_of()),
        }
    }
}

impl<const CHAINED: bool> Section for ShortSection<CHAINED> {
    const CHAINED: bool = CHAINED;

    #[inline(always)]
    fn spend(self, state: u64, _stop: &AtomicBool) -> u64 {
        work(state, self.0)
    }
}

impl Section for LongSection {
    const CHAINED: bool = true;

    #[inline]
    fn spend(self, mut state: u64, stop: &AtomicBool) -> u64 {
        match self {
            LongSection::Units(mut left) => {
                while left > CHUNK {
                    if stop.load(Ordering::Relaxed) {
                        return state;
                    }
                    state = work(state, CHUNK);
                    left -= CHUNK;
                }
                work(state, left)
            }
            LongSection::Clock(time) => {
                let start = Instant::now();
                while start.elapsed() < time && !stop.load(Ordering::Relaxed) {
                    spin_loop();
                }
                state
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn long_work_is_the_same_work() {
        let go = AtomicBool::new(false);
        for units in [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let long = LongSection::from(Work::units(units)).spend(7, &go);
            assert_eq!(long, work(7, units), "{units} units");
        }
        let short = ShortSection::<true>::new;
        assert!(short(Work::units(SHORT + 1)).is_none() && short(Work::clock(10)).is_none());
        let short = short(Work::units(10)).expect("short enough");
        assert_eq!(short.spend(7, &go), work(7, 10));
    }

    #[test]
    fn by_the_clock_it_lasts_at_least_so_long_and_a_stop_ends_it() {
        let hold = LongSection::from(Work::clock(2_000_000));
        let start = Instant::now();
        hold.spend(0, &AtomicBool::new(false));
        assert!(start.elapsed() >= Duration::from_millis(2));
        // An hour, had it not been stopped.
        LongSection::Clock(Duration::from_secs(3600)).spend(0, &AtomicBool::new(true));
        // Some four seconds.
        let start = Instant::now();
        LongSection::Units(u32::MAX).spend(0, &AtomicBool::new(true));
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}
