//! Moments on one node's clock.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on one node's clock, as the time since an origin that is the same for all moments of that
/// node. Moments of two nodes cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Time(Duration);

impl Time {
    pub(crate) const fn new(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// The time from `earlier` to this moment; zero if this moment is before `earlier`.
    pub(crate) fn since(self, earlier: Time) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The time since the origin.
    pub(crate) fn since_origin(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    /// A moment that is too late to be represented becomes the latest moment.
    fn add(self, later: Duration) -> Time {
        Self(self.0.saturating_add(later))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    /// A moment before the origin becomes the origin.
    fn sub(self, earlier: Duration) -> Time {
        Self(self.0.saturating_sub(earlier))
    }
}

#[cfg(test)]
mod tests {
    use super::Time;
    use std::time::Duration;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let (second, origin) = (Duration::from_secs(1), Time::new(Duration::ZERO));
        let latest = Time::new(Duration::MAX);
        assert_eq!((origin - second, latest + second), (origin, latest));
        assert_eq!((origin + second).since(origin), second);
        assert_eq!(origin.since(origin + second), Duration::ZERO);
    }
}
