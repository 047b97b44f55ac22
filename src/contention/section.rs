//! [`Section`]: work as the loop does it.

use super::work::{Work, work};
use crate::primitive::{AtomicBool, Ordering, spin_loop};
use std::time::{Duration, Instant};

/// Work inside a lock or outside. `state` goes through it, so that it cannot be optimised away.
pub(super) trait Section: Copy {
    /// Whether the work inside begins with the result of the work outside, and the other way round.
    /// If not, the processor does some of both at the same time: about as much as takes 100 ns.
    const CHAINED: bool;

    fn spend(self, state: u64, stop: &AtomicBool) -> u64;
}

/// Up to so many units are a [`Short`] section: some 100 us.
const SHORT: u32 = 100_000;

/// Units between two looks at the signal to stop: some 30 us.
const CHUNK: u32 = 32_768;

/// A count of units, and nothing else in the loop.
#[derive(Clone, Copy)]
pub(super) struct Short<const CHAINED: bool>(u32);

/// Anything else: it ends early at the signal to stop, so that 64 threads in a queue do not make
/// it last for 64 times as long.
#[derive(Clone, Copy)]
pub(super) enum Long {
    Units(u32),
    Clock(Duration),
}

impl<const CHAINED: bool> Short<CHAINED> {
    /// `None` if it is too long, or goes by the clock.
    pub(super) fn new(work: Work) -> Option<Self> {
        let units = work.units_of();
        (work.clock_ns().is_none() && units <= SHORT).then_some(Short(units))
    }
}

impl From<Work> for Long {
    fn from(work: Work) -> Long {
        match work.clock_ns() {
            Some(ns) => Long::Clock(Duration::from_nanos(ns)),
            None => Long::Units(work.units_of()),
        }
    }
}

impl<const CHAINED: bool> Section for Short<CHAINED> {
    const CHAINED: bool = CHAINED;

    #[inline(always)]
    fn spend(self, state: u64, _stop: &AtomicBool) -> u64 {
        work(state, self.0)
    }
}

impl Section for Long {
    const CHAINED: bool = true;

    #[inline]
    fn spend(self, mut state: u64, stop: &AtomicBool) -> u64 {
        match self {
            Long::Units(mut left) => {
                while left > CHUNK {
                    if stop.load(Ordering::Relaxed) {
                        return state;
                    }
                    state = work(state, CHUNK);
                    left -= CHUNK;
                }
                work(state, left)
            }
            Long::Clock(time) => {
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
            let long = Long::from(Work::units(units)).spend(7, &go);
            assert_eq!(long, work(7, units), "{units} units");
        }
        let short = Short::<true>::new;
        assert!(short(Work::units(SHORT + 1)).is_none() && short(Work::clock(10)).is_none());
        let short = short(Work::units(10)).expect("short enough");
        assert_eq!(short.spend(7, &go), work(7, 10));
    }

    #[test]
    fn by_the_clock_it_lasts_at_least_so_long_and_a_stop_ends_it() {
        let hold = Long::from(Work::clock(2_000_000));
        let start = Instant::now();
        hold.spend(0, &AtomicBool::new(false));
        assert!(start.elapsed() >= Duration::from_millis(2));
        // An hour, had it not been stopped.
        Long::Clock(Duration::from_secs(3600)).spend(0, &AtomicBool::new(true));
        // Some four seconds.
        let start = Instant::now();
        Long::Units(u32::MAX).spend(0, &AtomicBool::new(true));
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}
