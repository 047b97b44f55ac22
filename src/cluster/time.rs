//! Moments on one node's clock.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on one node's clock: the time since some moment that is the same for all moments of that
/// node. Those of two nodes cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Time(Duration);

impl Time {
    pub(crate) const fn new(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// How long after `earlier` this is; nothing if it is before.
    pub(crate) fn since(self, earlier: Time) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub(crate) fn since_origin(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    /// A moment beyond the end of time is the end of time.
    fn add(self, later: Duration) -> Time {
        Self(self.0.saturating_add(later))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    /// A moment before the origin is the origin.
    fn sub(self, earlier: Duration) -> Time {
        Self(self.0.saturating_sub(earlier))
    }
}
