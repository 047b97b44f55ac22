//! The machine's settings, its events, and its actions.

use crate::cluster::protocol::register::Unreadable;
use crate::cluster::transport::{
    Exchange, NodeId, TransportError, Version, Versioned, Wakeups, Write,
};
use std::ops::{Add, Sub};
use std::time::Duration;

/// The settings of a machine.
#[derive(Clone, Debug)]
pub(crate) struct MachineSettings {
    pub(crate) node: NodeId,
    /// The node's label in the register, for human readers.
    pub(crate) label: String,
    /// How long the lock stays with a holder whose heartbeat does not move.
    pub(crate) lease: Duration,
    /// How long the next waiter has to confirm a reserved lock before the node after it may take it.
    pub(crate) claim_window: Duration,
    /// The longest time between two loads by the first in the queue if no watch wakes it.
    pub(crate) poll: Duration,
    /// How many nodes the queue in the register holds. Other nodes wait to join it.
    pub(crate) queue_limit: usize,
    /// How long the transport may fail before [`Intent::Wait`] fails.
    pub(crate) unavailable_timeout: Duration,
    /// How the transport wakes a waiter.
    pub(crate) wakeups: Wakeups,
    /// The seed for nonces and jitter. No two machines may have the same.
    pub(crate) seed: u64,
}

/// What is wanted at this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// The lock is not wanted. A request for it that is in flight is undone.
    Nothing,
    /// The lock is wanted if it is free. Otherwise the machine returns [`Action::Failed`] with
    /// [`Failure::Busy`], and the intent is over.
    Try,
    /// The lock is wanted, however long it takes.
    Wait,
}

/// An event for the machine.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// What is wanted at this node from now on. While the lock is held or being released, it is what
    /// is wanted after that. An intent lasts until the lock is granted or the intent fails; then it
    /// is [`Intent::Nothing`] again.
    Intent(Intent),
    /// Renew as soon as possible: the local tokens run short, or the node has to learn whether others
    /// wait.
    Refresh,
    /// Release the lock. If it is not held any more, the outcome is [`Outcome::Lost`].
    ///
    /// If the intent is [`Intent::Wait`] and others wait, the same write puts this node at the end of
    /// the queue.
    Release,
    /// The response to [`Action::Load`].
    Loaded { request: u64, result: Result<Option<Versioned>, TransportError> },
    /// The response to [`Action::CompareExchange`].
    Exchanged { request: u64, result: Result<Exchange, TransportError> },
    /// The response to [`Action::Watch`].
    Watching(Result<(), TransportError>),
    /// The watch yielded: the register, or only that it may have changed.
    Noticed(Option<Versioned>),
    /// The watch has ended.
    WatchEnded,
    /// The time of [`Machine::wake_at`](super::Machine::wake_at) has come.
    Timer,
}

/// An action for the driver.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Load the register. The response is [`Event::Loaded`].
    Load { request: u64 },
    /// Compare and exchange the register. The response is [`Event::Exchanged`]. If none arrives in
    /// time, the driver drops the request and responds with [`TransportError::Indeterminate`].
    CompareExchange { request: u64, expected: Option<Version>, write: Write },
    /// Subscribe. The response is [`Event::Watching`], then [`Event::Noticed`] and
    /// [`Event::WatchEnded`] follow.
    Watch,
    /// End the watch or the attempt to subscribe. No event of it may follow.
    Unwatch,
    /// This node holds the lock from now on.
    Granted(Grant),
    /// The lease is renewed until `deadline`. New tokens may be made of `version`.
    Renewed { version: Version, deadline: Time },
    /// This node does not hold the lock any more, and has not released it.
    Lost(Loss),
    /// The lock was released by [`Event::Release`].
    Released(Outcome),
    /// The intent has failed and is over.
    Failed(Failure),
}

/// A grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The version of the write that granted it.
    pub(crate) version: Version,
    /// When the lease ends unless it is renewed.
    pub(crate) deadline: Time,
    pub(crate) via: GrantedVia,
}

/// How this node got the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrantedVia {
    /// The lock was free: it had no holder and no queue.
    Free,
    /// The lock was reserved for this node, or for one before it that did not confirm.
    Handoff,
    /// The lock was taken from a holder whose heartbeat did not move for a lease.
    Takeover,
}

/// Why the lock was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// No renewal succeeded in time. `last` is the last request's error, if it failed.
    Expired { last: Option<String> },
    /// The register has another holder or none: another node took the lock over, or an operator
    /// released it by force.
    TakenOver,
    /// The register can no longer be read.
    Unreadable(Unreadable),
}

/// The outcome of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The lock was held until the release, and is now free or reserved for the next waiter.
    Held,
    /// The lock was lost before the release.
    Lost,
    /// The lock is not held any more. Whether it was held until the release is not known: the
    /// release was a write of unknown outcome, or the engine did not respond before the lease was
    /// over.
    Indeterminate,
}

/// Why an intent failed.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The lock has a holder or a queue; for [`Intent::Try`] only. `holder` is the holder's label.
    Busy { holder: Option<String> },
    /// A permanent error of the engine, or one that has lasted for
    /// [`MachineSettings::unavailable_timeout`]; for [`Intent::Try`] any error.
    Transport(TransportError),
    /// The register cannot be read.
    Unreadable(Unreadable),
}

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
