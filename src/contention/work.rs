//! [`Work`]: what a thread does inside or outside the critical section, for a stated time; and
//! [`Section`], the form in which the measured loop executes it.
//!
//! Reading a clock takes longer than a short critical section. Work is therefore arithmetic whose
//! unit is timed once (the calibration) and then only counted.

use crate::primitive::{AtomicBool, Ordering, spin_loop};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Executes `units` steps of arithmetic, each of which depends on the result of the one before, and
/// returns the last result.
///
/// A step is a rotation, an exclusive-or and an addition: three cycles of latency, without a closed
/// form that a compiler finds. The result must be used, or the compiler removes the loop.
#[inline]
#[must_use]
pub fn work(mut state: u64, units: u32) -> u64 {
    for _ in 0..units {
        state = (state.rotate_left(5) ^ 0x9E37_79B9_7F4A_7C15).wrapping_add(0x2545_F491_4F6C_DD1D);
    }
    state
}

/// How long one unit of [`work`] takes on this machine, in nanoseconds.
///
/// The first call in a process measures it, which takes some 30 ms. Later calls return the same
/// figure.
#[must_use]
pub fn unit_ns() -> f64 {
    static UNIT: OnceLock<f64> = OnceLock::new();
    *UNIT.get_or_init(calibrate)
}

/// Measures a unit again: the fastest of some tries, because any disturbance makes it slower.
pub(super) fn calibrate() -> f64 {
    calibrate_with(1_000_000, 20)
}

/// The shortest time of a unit in so many tries, each of which executes so many units.
fn calibrate_with(units: u32, tries: usize) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..tries {
        let start = Instant::now();
        black_box(work(black_box(1), black_box(units)));
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(units));
    }
    best
}

/// Measures a unit in a third of a millisecond, to see whether the processor has kept its speed.
pub(super) fn unit_ns_now() -> f64 {
    calibrate_with(50_000, 6)
}

/// An amount of work of a thread, in nanoseconds, in units, or by the clock.
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

    /// The largest amount that a [`Load`](super::Load) accepts, in nanoseconds: one second.
    pub const MAX_NS: u64 = 1_000_000_000;

    /// As many units of [`work`] as take `ns` nanoseconds on this machine without a disturbance.
    #[must_use]
    pub const fn nanos(ns: u64) -> Work {
        Work(Amount::Nanos(ns))
    }

    /// A number of units of [`work`], the same on every machine.
    ///
    /// If both the work inside and the work outside are given in units, neither depends on the
    /// other's result, and the processor executes some of both at the same time. Short sections
    /// then take less time than the sum of their units. Work in nanoseconds is one chain of
    /// dependent steps, inside and outside together.
    #[must_use]
    pub const fn units(units: u32) -> Work {
        Work(Amount::Units(units))
    }

    /// Reads the monotonic clock until `ns` nanoseconds have passed.
    ///
    /// The time in which the thread is preempted counts as work. Use it for long work only: each
    /// reading of a clock takes some 20 ns, and the loop has no clock otherwise.
    #[must_use]
    pub const fn clock(ns: u64) -> Work {
        Work(Amount::Clock(ns))
    }

    /// How long the work takes without a disturbance, in nanoseconds. For units it needs the
    /// calibration (see [`unit_ns`]).
    #[must_use]
    pub fn nominal_ns(self) -> f64 {
        match self.0 {
            Amount::Nanos(ns) | Amount::Clock(ns) => ns as f64,
            Amount::Units(units) => f64::from(units) * unit_ns(),
        }
    }

    /// The number of units of [`work`] on this machine, at most `u32::MAX`; 0 for work by the
    /// clock.
    #[must_use]
    pub fn units_of(self) -> u32 {
        match self.0 {
            Amount::Nanos(0) | Amount::Clock(_) => 0,
            // The cast saturates.
            Amount::Nanos(ns) => (ns as f64 / unit_ns()).round() as u32,
            Amount::Units(units) => units,
        }
    }

    /// Whether the amount is given in units.
    pub(super) fn is_counted(self) -> bool {
        matches!(self.0, Amount::Units(_))
    }

    /// The duration of work by the clock, in nanoseconds; `None` for other work.
    pub(super) fn clock_ns(self) -> Option<u64> {
        match self.0 {
            Amount::Clock(ns) => Some(ns),
            _ => None,
        }
    }

    /// Both amounts with a slash between them, and the unit only once if it is the same.
    pub(super) fn pair(self, other: Work) -> String {
        match (self.0, other.0) {
            (Amount::Nanos(a), Amount::Nanos(b)) => format!("{a}/{b} ns"),
            (Amount::Units(a), Amount::Units(b)) => format!("{a}/{b} units"),
            _ => format!("{self} / {other}"),
        }
    }
}

/// As `100 ns`, `10 units` or `200 us by the clock`.
impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Amount::Nanos(ns) => write!(f, "{}", Nanoseconds(ns)),
            Amount::Units(units) => write!(f, "{units} units"),
            Amount::Clock(ns) => write!(f, "{} by the clock", Nanoseconds(ns)),
        }
    }
}

/// Displays nanoseconds in the largest unit, up to milliseconds, in which they are a whole number.
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

/// Work inside or outside the critical section, as the measured loop executes it.
pub(super) trait Section: Copy {
    /// Whether the work inside depends on the result of the work outside, and vice versa. If not,
    /// the processor executes about 100 ns of both at the same time.
    const CHAINED: bool;

    /// Executes the work. The result depends on `state`, so that the compiler cannot remove the
    /// work.
    fn spend(self, state: u64, stop: &AtomicBool) -> u64;
}

/// The most units of a [`ShortSection`]: some 100 us.
const MAX_SHORT_UNITS: u32 = 100_000;

/// Units between two checks of the stop flag: some 30 us.
const CHUNK: u32 = 32_768;

/// A number of units, without a check of the stop flag in the loop.
#[derive(Clone, Copy)]
pub(super) struct ShortSection<const CHAINED: bool>(u32);

/// Long work, and work by the clock. It ends early when the stop flag is set, so that a slice with
/// 64 queued threads does not go on for 64 sections after its end.
#[derive(Clone, Copy)]
pub(super) enum LongSection {
    Units(u32),
    Clock(Duration),
}

impl<const CHAINED: bool> ShortSection<CHAINED> {
    /// `None` if the work is too long, or by the clock.
    pub(super) fn new(work: Work) -> Option<Self> {
        let units = work.units_of();
        (work.clock_ns().is_none() && units <= MAX_SHORT_UNITS).then_some(ShortSection(units))
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
    fn a_long_section_executes_the_same_work() {
        let go = AtomicBool::new(false);
        for units in [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let long = LongSection::from(Work::units(units)).spend(7, &go);
            assert_eq!(long, work(7, units), "{units} units");
        }
        let short = ShortSection::<true>::new;
        assert!(
            short(Work::units(MAX_SHORT_UNITS + 1)).is_none() && short(Work::clock(10)).is_none()
        );
        let short = short(Work::units(10)).expect("short enough");
        assert_eq!(short.spend(7, &go), work(7, 10));
    }

    #[test]
    fn work_by_the_clock_lasts_long_enough_and_a_stop_ends_it() {
        let hold = LongSection::from(Work::clock(2_000_000));
        let start = Instant::now();
        hold.spend(0, &AtomicBool::new(false));
        assert!(start.elapsed() >= Duration::from_millis(2));
        // It would take an hour.
        LongSection::Clock(Duration::from_secs(3600)).spend(0, &AtomicBool::new(true));
        // It would take some four seconds.
        let start = Instant::now();
        LongSection::Units(u32::MAX).spend(0, &AtomicBool::new(true));
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}
