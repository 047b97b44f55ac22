//! What happens, for those who count and measure.

use crate::cluster::error::LockError;
use crate::cluster::guard::{AcquiredVia, LossReason};
use crate::cluster::key::Key;
use crate::cluster::token::FencingToken;
use crate::cluster::transport::TransportError;
use std::time::Duration;

pub(crate) mod tracing;

/// Is told what happens to the locks of a node: see
/// [`NodeBuilder::observer`](crate::cluster::NodeBuilder::observer).
///
/// Every method does nothing unless it is overridden. They are called where it happens, on the
/// caller's thread or in the node's background task, so they should be quick: count, and return.
/// Nothing of the node is locked meanwhile. But nothing of the node goes on meanwhile either, so an
/// observer must not wait for its locks ([`LockError::WouldDeadlock`]). Nor should it keep the
/// [`Node`](super::Node), which would then never be dropped. A panic is caught.
pub trait Observer: Send + Sync + 'static {
    /// Somebody began to wait for the lock, or tries it.
    fn acquire_started(&self, key: &Key) {
        let _ = key;
    }

    /// The lock was acquired, after `waited`. With [`AcquiredVia`], it is told how.
    fn acquired(&self, key: &Key, waited: Duration, via: AcquiredVia, token: FencingToken) {
        let _ = (key, waited, via, token);
    }

    /// Somebody does not get the lock. (Nothing is told of a future that was dropped.)
    fn acquire_failed(&self, key: &Key, waited: Duration, error: &LockError) {
        let _ = (key, waited, error);
    }

    /// The lease of this key goes on.
    fn renewed(&self, key: &Key) {
        let _ = key;
    }

    /// The lock was lost while it was held.
    fn lost(&self, key: &Key, why: &LossReason) {
        let _ = (key, why);
    }

    /// A guard was dropped or released.
    fn released(&self, key: &Key, how: Released) {
        let _ = (key, how);
    }

    /// The engine answered, after `took`; or it did not, and `error` says so.
    fn remote(&self, key: &Key, what: Remote, took: Duration, error: Option<&TransportError>) {
        let _ = (key, what, took, error);
    }
}

/// What became of a guard that is no longer used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Released {
    /// The lease stays at this node, where somebody waits: it was handed to that one, or left for a
    /// moment to whoever comes first, with no message. (If all of them leave before they have it, it is
    /// released once more.)
    HandedOff,
    /// The engine was told; the lock was held up to then.
    Held,
    /// It had been lost before.
    Lost,
    /// It is not known whether it was held up to then.
    Indeterminate,
}

/// An operation on the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Remote {
    /// [`Transport::load`](super::Transport::load).
    Load,
    /// [`Transport::compare_exchange`](super::Transport::compare_exchange).
    CompareExchange,
    /// [`Transport::watch`](super::Transport::watch).
    Watch,
}
