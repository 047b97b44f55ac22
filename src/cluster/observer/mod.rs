//! The observer of a node: for metrics, logs and audits.
//!
//! The table of the metrics is in the docs of [`metrics`](self::metrics).

use crate::cluster::admin::ForcedRelease;
use crate::cluster::error::LockError;
use crate::cluster::fence::FencingToken;
use crate::cluster::guard::{AcquiredVia, LossReason};
use crate::cluster::key::Key;
use crate::cluster::transport::{NodeId, TransportError, Version};
use std::time::Duration;

#[cfg(feature = "audit")]
pub mod audit;
#[cfg(feature = "metrics")]
pub mod metrics;
pub(crate) mod tracing;

/// Receives the events of the locks of a node: see
/// [`NodeBuilder::observer`](crate::cluster::NodeBuilder::observer).
///
/// Every method does nothing by default. The node calls them where the event happens:
///
/// | Method | Thread |
/// |---|---|
/// | `node_built` | the one that builds the node |
/// | `acquire_started`, `acquired`, `acquire_failed` | the one that polls the caller's future, or that made the blocking call |
/// | `acquire_cancelled` | the one that drops the caller's future |
/// | `renewed`, `engine_went_back` | the one that runs the node's background task |
/// | `lost` | the one that notices it first: that of the background task, one that polls [`DistributedGuard::lost`](super::DistributedGuard::lost), gives the guard back, or closes the node |
/// | `released` | the one that releases or drops the guard, if the outcome is known at once (`HandedOff`, or a loss that was known before); otherwise the one that runs the background task |
/// | `request_finished` | the one that runs the background task; for `inspect` and `break_lock`, another task of the node's runtime |
/// | `broke` | a task of the node's runtime |
///
/// A caller that acquires or releases a lock may take a step of the background task itself, while that
/// sleeps. So an observer must not take a mutex that a caller holds during such a call.
///
/// A method should return soon, since the background task does nothing else meanwhile, not even renew
/// leases; nor do the other nodes of the process. An observer may use the node, since no mutex that its
/// methods wait for is held during a call. But it must not
/// wait for its locks: a blocking call from the background task returns [`LockError::WouldDeadlock`]. An
/// observer that keeps the [`Node`](super::Node) keeps it from being dropped. A panic of an observer is
/// caught.
pub trait Observer: Send + Sync + 'static {
    /// The node was built, and has this number and label in the registers of this engine. This is called once, before
    /// all others.
    fn node_built(&self, node: NodeId, label: &str, engine: &'static str) {
        let _ = (node, label, engine);
    }

    /// A caller begins to acquire the lock.
    fn acquire_started(&self, key: &Key) {
        let _ = key;
    }

    /// The lock was acquired: after what time, via what, and with which token.
    fn acquired(&self, key: &Key, waited: Duration, via: AcquiredVia, token: FencingToken) {
        let _ = (key, waited, via, token);
    }

    /// An acquisition failed: after what time, and with which error.
    fn acquire_failed(&self, key: &Key, waited: Duration, error: &LockError) {
        let _ = (key, waited, error);
    }

    /// The future of an acquisition was dropped before it was ready, after this time. Every acquisition that has
    /// started ends in one of `acquired`, `acquire_failed` and this.
    fn acquire_cancelled(&self, key: &Key, waited: Duration) {
        let _ = (key, waited);
    }

    /// The lease of the lock was renewed. `left`: how much of it was left at that moment.
    fn renewed(&self, key: &Key, left: Duration) {
        let _ = (key, left);
    }

    /// A guard is lost, for whatever reason; the shutdown of the node is one. This is called once for each
    /// guard. That is not [valid](super::DistributedGuard::is_valid) any more, and its
    /// [`lost`](super::DistributedGuard::lost) is ready after this call, within it on this thread. If only the
    /// release shows that the lock was lost before, this is called right before [`released`](Self::released).
    fn lost(&self, key: &Key, why: &LossReason, hold: Hold) {
        let _ = (key, why, hold);
    }

    /// A guard was released or dropped, with this result.
    fn released(&self, key: &Key, outcome: ReleaseOutcome, hold: Hold) {
        let _ = (key, outcome, hold);
    }

    /// [`Node::break_lock`](crate::cluster::Node::break_lock) or its kin has taken the lock from the node `from`, for
    /// this reason, which may be empty. It is not called if the outcome of the write is unknown: then the call fails.
    fn broke(&self, key: &Key, from: &ForcedRelease, reason: &str) {
        let _ = (key, from, reason);
    }

    /// The engine shows an older version of the key than before: `shown`, after `newest`. It was
    /// restored from a backup, or has lost writes, and this is told once each time: see
    /// [an engine that goes back](crate::cluster::transport#an-engine-that-goes-back). A lock that was
    /// held is lost next.
    fn engine_went_back(&self, key: &Key, shown: Version, newest: Version) {
        let _ = (key, shown, newest);
    }

    /// A request to the engine has ended: after what time since it was sent, and with which error if it failed. A request
    /// that was given up after the [request timeout](crate::cluster::NodeBuilder::request_timeout) has
    /// ended too.
    fn request_finished(
        &self,
        key: &Key,
        operation: RemoteOperation,
        took: Duration,
        error: Option<&TransportError>,
    ) {
        let _ = (key, operation, took, error);
    }
}

/// The time for which a task or a thread has held a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hold {
    /// The token of the guard.
    pub token: FencingToken,
    /// From the grant to the task or thread, until the guard was given back or found to be lost.
    pub held_for: Duration,
}

/// How the release of a guard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReleaseOutcome {
    /// The lease stays at this node for another task or thread that waits, or for the next one
    /// ([`keep_turn`](super::NodeBuilder::keep_turn)), and no request was sent. If all of those that wait give up, the
    /// lease is released, and nobody is told of that.
    HandedOff,
    /// The engine has confirmed the release, and the lock was held until then.
    Held,
    /// The lock was lost before.
    Lost,
    /// It is not known whether the lock was held until the release.
    Indeterminate,
}

impl ReleaseOutcome {
    /// The name, for logs and metrics: `handed_off`, `held`, `lost` or `indeterminate`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HandedOff => "handed_off",
            Self::Held => "held",
            Self::Lost => "lost",
            Self::Indeterminate => "indeterminate",
        }
    }
}

/// The operation of a request to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RemoteOperation {
    /// [`Transport::load`](super::Transport::load).
    Load,
    /// [`Transport::compare_exchange`](super::Transport::compare_exchange).
    CompareExchange,
    /// [`Transport::watch`](super::Transport::watch).
    Watch,
}

impl RemoteOperation {
    /// The name, for logs and metrics: `load`, `compare_exchange` or `watch`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::CompareExchange => "compare_exchange",
            Self::Watch => "watch",
        }
    }
}
