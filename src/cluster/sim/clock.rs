//! True time, and what a node's clock makes of it.

use crate::cluster::time::Time;
use std::time::Duration;

/// True time: nanoseconds since the simulation began. No node knows it.
pub(super) type Moment = u64;

/// Milliseconds of true time.
pub(super) const MS: Moment = 1_000_000;

const MILLION: u128 = 1_000_000;

pub(super) fn span(duration: Duration) -> Moment {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A clock that only goes forward, at a rate that is a little wrong.
#[derive(Debug)]
pub(super) struct Clock {
    /// What it shows when true time begins.
    offset: Moment,
    /// By how many millionths it is fast (or slow, if negative).
    error: i64,
    /// Since when it stands still, with its virtual machine.
    stopped: Option<Moment>,
    /// For how long it has stood still before, and when it last went on.
    missed: Moment,
    went_on: Moment,
}

impl Clock {
    pub(super) fn new(offset: Moment, error: i64) -> Self {
        Self { offset, error, stopped: None, missed: 0, went_on: 0 }
    }

    fn rate(&self) -> u128 {
        u128::try_from(1_000_000 + self.error).expect("a clock goes forward")
    }

    /// What it shows.
    pub(super) fn read(&self, now: Moment) -> Time {
        let run = u128::from(self.stopped.unwrap_or(now) - self.missed);
        let shown = u128::from(self.offset) + run * self.rate() / MILLION;
        Time::new(Duration::from_nanos(u64::try_from(shown).unwrap()))
    }

    /// When it first shows `time`, if it is not stopped any more.
    pub(super) fn when(&self, time: Time) -> Moment {
        let shown = time.since_origin().as_nanos().saturating_sub(u128::from(self.offset));
        let run = (shown * MILLION).div_ceil(self.rate());
        u64::try_from(run).unwrap_or(u64::MAX / 2).saturating_add(self.missed)
    }

    pub(super) fn stop(&mut self, now: Moment) {
        self.stopped.get_or_insert(now);
    }

    pub(super) fn go_on(&mut self, now: Moment) {
        if let Some(since) = self.stopped.take() {
            self.missed += now - since;
            self.went_on = now;
        }
    }

    /// Whether it stood still at any time since then.
    pub(super) fn stopped_since(&self, then: Moment) -> bool {
        self.stopped.is_some() || (self.missed > 0 && self.went_on >= then)
    }
}

#[test]
fn a_clock_shows_a_time_when_it_says_so() {
    for error in [-10_000, -1, 0, 7, 10_000] {
        let mut clock = Clock::new(5, error);
        for late in [0, 3 * MS] {
            for after in [1, 999, 1_000_003, 7_777_777_777] {
                let time = Time::new(Duration::from_nanos(after + 5));
                let moment = clock.when(time);
                assert!(clock.read(moment) >= time);
                assert!(moment == late || clock.read(moment - 1) < time);
            }
            clock.stop(0);
            clock.go_on(3 * MS);
        }
    }
}
