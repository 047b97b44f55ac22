//! The lock of a key, for tasks.

use super::error::LockError;
use super::guard::DistributedGuard;
use super::key::Key;
use super::local::{KeyHandle, WaitMode};
use super::observer::tracing;
use std::fmt;
use std::time::Duration;

/// A lock that is shared by all nodes which use the same key over the same engine. It is made by
/// [`Node::lock`](super::Node::lock).
///
/// A clone is the same lock. All locks of one node and one key share one queue, in which tasks and
/// threads wait. The queue is served in the order of the calls, with one exception: while a *thread* is
/// first in the queue, other callers may take the lock before it for a short time
/// ([`barging_window`](super::NodeBuilder::barging_window)).
///
/// A lock does not keep its node alive. The futures can be awaited on any executor.
///
/// **The lock is not reentrant.** A task that holds it and acquires it once more waits for itself: for
/// ever, or until its lease is lost.
///
/// # Cancel safety
///
/// The futures of this type may be dropped at any moment. A lock that was granted and not yet returned
/// is passed on or released, and the place in the queue is given up, as soon as the engine can be
/// reached.
#[derive(Clone)]
pub struct DistributedLock {
    pub(crate) handle: KeyHandle,
}

impl DistributedLock {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.handle.local.key
    }

    /// Waits for the lock, without a limit of time.
    ///
    /// # Errors
    ///
    /// - [`LockError::Closed`] if the node is closed.
    /// - [`LockError::Transport`] if the engine refuses a request, or if it cannot be reached for longer
    ///   than the [unavailable timeout](super::NodeBuilder::unavailable_timeout) of the node.
    /// - [`LockError::Unreadable`] if the engine has a value for the key that is not a lock of this
    ///   crate.
    ///
    /// # Cancel safety
    ///
    /// See [`DistributedLock`]. The place in the queue is lost.
    pub async fn acquire(&self) -> Result<DistributedGuard, LockError> {
        tracing::acquiring(self.key(), self.handle.acquire(WaitMode::Wait)).await
    }

    /// Acquires the lock if no one holds it or waits for it. This waits for the response of the engine,
    /// but not for the lock.
    ///
    /// To find out that a holder is dead, a node has to observe its heartbeat for the length of its
    /// lease. It does so from the first attempt by this lock or a clone of it, for as long as one of
    /// them is kept. So keep the lock, and try again later. If every attempt makes a new lock, or a new process, the result
    /// stays [`LockError::Busy`] for ever. [`acquire_timeout`](Self::acquire_timeout) with more than the
    /// lease needs no second attempt.
    ///
    /// # Errors
    ///
    /// - [`LockError::Busy`] if someone holds the lock or waits for it, at this node or at another one.
    /// - The errors of [`acquire`](Self::acquire). The engine's first failure is returned;
    ///   the unavailable timeout does not apply.
    ///
    /// # Cancel safety
    ///
    /// See [`DistributedLock`].
    pub async fn try_acquire(&self) -> Result<DistributedGuard, LockError> {
        tracing::acquiring(self.key(), self.handle.acquire(WaitMode::Try)).await
    }

    /// Waits for the lock, for at most `timeout`.
    ///
    /// A timeout that is shorter than a response of the engine never succeeds; use
    /// [`try_acquire`](Self::try_acquire) instead. A timeout that is shorter than the lease of a dead
    /// holder, or than the claim windows of dead nodes in the queue, ends before the lock can be taken
    /// from them.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`] after `timeout`, and the errors of [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// See [`DistributedLock`]. The place in the queue is lost.
    pub async fn acquire_timeout(&self, timeout: Duration) -> Result<DistributedGuard, LockError> {
        tracing::acquiring(self.key(), self.handle.acquire(WaitMode::Within(timeout))).await
    }
}

impl fmt::Debug for DistributedLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DistributedLock").field("key", self.key()).finish_non_exhaustive()
    }
}
