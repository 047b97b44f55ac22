//! Moments that two processes of one machine understand alike.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// A moment on two clocks of this machine, in nanoseconds.
///
/// One counts the time of a suspend; the other is not slewed by time synchronization, which may change
/// the rate of the first one by a tenth. What is to happen at a moment happens when the first of the
/// two is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub with_suspend: u64,
    pub steady: u64,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCKS: (ClockId, ClockId) = (ClockId::Boottime, ClockId::MonotonicRaw);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCKS: (ClockId, ClockId) = (ClockId::Monotonic, ClockId::Monotonic);

impl Moment {
    pub fn now() -> Moment {
        Moment { with_suspend: read(CLOCKS.0), steady: read(CLOCKS.1) }
    }

    pub fn after(self, time: Duration) -> Moment {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Moment {
            with_suspend: self.with_suspend.saturating_add(ns),
            steady: self.steady.saturating_add(ns),
        }
    }

    /// How long it is until then; zero if it has passed.
    pub fn left(self) -> Duration {
        let now = Moment::now();
        let with_suspend = self.with_suspend.saturating_sub(now.with_suspend);
        Duration::from_nanos(with_suspend.min(self.steady.saturating_sub(now.steady)))
    }
}

fn read(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    // The clocks of a machine begin at its start.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::Moment;
    use std::time::Duration;

    #[test]
    fn a_moment_is_there_when_either_clock_says_so() {
        let minute = Duration::from_secs(60);
        let then = Moment::now().after(minute);
        assert!(then.left() <= minute && then.left() > minute / 2);
        assert_eq!(Moment { with_suspend: 0, ..then }.left(), Duration::ZERO);
        assert_eq!(Moment { steady: 0, ..then }.left(), Duration::ZERO);
    }
}
