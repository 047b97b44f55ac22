//! Which faults, how often, how long.

#[cfg(doc)]
use crate::cluster::TransportError;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Which faults, how often and how long. Nothing by default.
///
/// A probability is from 0 (never) to 1 (always); for an operation at most one of `refuse`,
/// `lose_request`, `lose_answer` and `late` happens, so they should not add up to more than 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How long a request takes to the engine; and an answer back, and an item of a watch.
    pub delay: RangeInclusive<Duration>,
    /// How likely it is that a request is not sent, and the caller knows it:
    /// [`TransportError::Unavailable`].
    pub refuse: f64,
    /// How likely it is that a request is lost on its way. The caller waits for [`Plan::timeout`],
    /// and cannot know: [`TransportError::Indeterminate`] for a write, otherwise
    /// [`TransportError::Unavailable`].
    pub lose_request: f64,
    /// How likely it is that the answer is lost on its way. To the caller it looks the same.
    pub lose_answer: f64,
    /// How likely it is that a request arrives late: after [`Plan::timeout`], when the caller has its
    /// error already, and then [`Plan::lateness`].
    pub late: f64,
    /// How late a late request is; and how long an item of a watch is held back for its successor.
    pub lateness: RangeInclusive<Duration>,
    /// How long a caller waits for an answer that does not come; and how long a watch that is cut off
    /// is silent before it ends with an error.
    pub timeout: Duration,
    /// How likely it is that an item of a watch comes twice.
    pub repeat: f64,
    /// How likely it is that an item of a watch comes after its successor.
    pub reorder: f64,
    /// How likely it is that a watch ends with an error instead of yielding an item.
    pub end: f64,
    /// How likely it is that an item of a watch is swallowed and nobody is told. This breaks law 5.
    pub swallow: f64,
    /// During a partition, calls fail at once with [`TransportError::Unavailable`], as if the network
    /// told so. Otherwise they wait for [`Plan::timeout`].
    pub partition_is_noticed: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO..=Duration::ZERO,
            refuse: 0.0,
            lose_request: 0.0,
            lose_answer: 0.0,
            late: 0.0,
            lateness: Duration::ZERO..=Duration::ZERO,
            timeout: Duration::from_secs(1),
            repeat: 0.0,
            reorder: 0.0,
            end: 0.0,
            swallow: 0.0,
            partition_is_noticed: false,
        }
    }
}
