//! The observer of a node: for metrics, logs and audits.

use crate::cluster::error::LockError;
use crate::cluster::fence::FencingToken;
use crate::cluster::guard::{AcquiredVia, LossReason};
use crate::cluster::key::Key;
use crate::cluster::transport::{TransportError, Version};
use std::time::Duration;

pub(crate) mod tracing;

/// Receives the events of the locks of a node: see
/// [`NodeBuilder::observer`](crate::cluster::NodeBuilder::observer).
///
/// Every method does nothing by default. The node calls them where the event happens:
///
/// | Method | Thread |
/// |---|---|
/// | `acquire_started`, `acquired`, `acquire_failed` | the one that polls the caller's future, or that made the blocking call |
/// | `renewed`, `engine_went_back` | the one that runs the node's background task |
/// | `lost` | the one that notices it first: that of the background task, one that polls [`DistributedGuard::lost`](super::DistributedGuard::lost), gives the guard back, or closes the node |
/// | `released` | the one that releases or drops the guard, if the outcome is known at once (`HandedOff`, or a loss that was known before); otherwise the one that runs the background task |
/// | `request_finished` | the one that runs the background task; for `inspect` and `break_lock`, another task of the node's runtime |
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
    /// A caller begins to acquire the lock.
    fn acquire_started(&self, key: &Key) {
        let _ = key;
    }

    /// The lock was acquired: after what time, via what, and with which token.
    fn acquired(&self, key: &Key, waited: Duration, via: AcquiredVia, token: FencingToken) {
        let _ = (key, waited, via, token);
    }

    /// An acquisition failed: after what time, and with which error. This is not called if its future
    /// was dropped.
    fn acquire_failed(&self, key: &Key, waited: Duration, error: &LockError) {
        let _ = (key, waited, error);
    }

    /// The lease of the lock was renewed.
    fn renewed(&self, key: &Key) {
        let _ = key;
    }

    /// A guard is lost, for whatever reason; the shutdown of the node is one. This is called once for each
    /// guard. That is not [valid](super::DistributedGuard::is_valid) any more, and its
    /// [`lost`](super::DistributedGuard::lost) is ready after this call, within it on this thread.
    ///
    /// If only the release shows that the lock was lost before, [`released`](Self::released) alone is
    /// called.
    fn lost(&self, key: &Key, why: &LossReason) {
        let _ = (key, why);
    }

    /// A guard was released or dropped, with this result.
    fn released(&self, key: &Key, outcome: ReleaseOutcome) {
        let _ = (key, outcome);
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

/// How the release of a guard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReleaseOutcome {
    /// The lease stays at this node for another task or thread that waits, or for the next one
    /// ([`keep_turn`](super::NodeBuilder::keep_turn)), and no request was sent. (If all of those that wait
    /// give up, the lease is released once more.)
    HandedOff,
    /// The engine has confirmed the release, and the lock was held until then.
    Held,
    /// The lock was lost before.
    Lost,
    /// It is not known whether the lock was held until the release.
    Indeterminate,
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
