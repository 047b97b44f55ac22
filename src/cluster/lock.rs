//! A key of a node, to be locked by tasks.

use super::error::LockError;
use super::guard::DistributedGuard;
use super::key::Key;
use super::local::{Handle, WaitMode};
use super::observer::tracing;
use std::fmt;
use std::time::Duration;

/// A lock that all nodes share which use the same key over the same engine: from
/// [`Node::lock`](super::Node::lock).
///
/// A clone is the same lock. Locks of one node and one key meet in one queue, whether they are clones
/// or not, and whether they are waited for by tasks or by threads: the first come is the first
/// served, except that a thread that is the next may be overtaken for a moment, 50 us unless that is
/// [set](super::NodeBuilder::barging_time). It does not keep the node alive.
///
/// **It is not reentrant.** A task that holds the lock and acquires it once more waits for itself:
/// for ever, or until its lease is lost.
///
/// The futures can be awaited on any executor, and dropped at any moment: a lock that was about to
/// be granted is passed on, and nothing of the attempt is left in the engine's queue.
#[derive(Clone)]
pub struct DistributedLock {
    pub(crate) handle: Handle,
}

impl DistributedLock {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.handle.local.key
    }

    /// Waits for the lock, however long that takes.
    ///
    /// # Errors
    ///
    /// [`LockError`] if the node was closed, if the engine refuses, or if it cannot be reached for
    /// longer than the node's [patience](super::NodeBuilder::patience).
    pub async fn acquire(&self) -> Result<DistributedGuard, LockError> {
        tracing::acquiring(self.key(), self.handle.acquire(WaitMode::Wait)).await
    }

    /// The lock, if nobody has it or waits for it. Does not wait for it, but for the engine's answer.
    ///
    /// A holder that has died is told from one that lives by its standing still for a lease, as seen
    /// by this node since this lock (or a clone) first tried or waited. So keep the lock, and try
    /// again: who tries by a new one each time, or from a new process, is told
    /// [`LockError::Busy`] for ever. [`acquire_timeout`](Self::acquire_timeout) for longer than the
    /// lease does without that.
    ///
    /// # Errors
    ///
    /// [`LockError::Busy`] if somebody does; and as [`acquire`](Self::acquire), but at the engine's
    /// first error.
    pub async fn try_acquire(&self) -> Result<DistributedGuard, LockError> {
        tracing::acquiring(self.key(), self.handle.acquire(WaitMode::Try)).await
    }

    /// Waits for the lock, for `timeout` at most.
    ///
    /// A timeout that is shorter than the engine's answer takes never succeeds:
    /// [`try_acquire`](Self::try_acquire) does. One that is shorter than a dead holder's lease, or
    /// than the claim windows of dead nodes in the queue, does not outlast them.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`], and as [`acquire`](Self::acquire).
    pub async fn acquire_timeout(&self, timeout: Duration) -> Result<DistributedGuard, LockError> {
        tracing::acquiring(self.key(), self.handle.acquire(WaitMode::Within(timeout))).await
    }
}

impl fmt::Debug for DistributedLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DistributedLock").field("key", self.key()).finish_non_exhaustive()
    }
}
