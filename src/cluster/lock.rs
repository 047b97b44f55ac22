//! The lock of a key, for tasks.

use super::error::LockError;
use super::guard::DistributedGuard;
use super::key::Key;
use super::local::{HoldLimits, KeyHandle, WaitMode};
use std::fmt;
use std::time::Duration;

/// A lock that is shared by all nodes which use the same key over the same engine. It is made by
/// [`Node::lock`](super::Node::lock).
///
/// A clone is the same lock. [`hold_at_most`](Self::hold_at_most) and
/// [`without_renewal`](Self::without_renewal) return a handle to the same lock whose guards expire:
///
/// ```
/// use lockword::cluster::{LossReason, Memory, Node};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = Node::builder(Memory::new()).build()?;
/// let lock = node.lock("jobs/nightly")?;
/// let bounded = lock.clone().hold_at_most(Duration::from_millis(20));
///
/// let hangs = bounded.acquire().await?;
/// let next = lock.acquire().await?; // After 20 ms, although the first guard is still there.
/// assert_eq!(hangs.lost().await, LossReason::HoldLimit);
/// assert!(next.is_valid());
/// # Ok(())
/// # }
/// ```
///
/// All locks of one node and one key share one queue, in which tasks and
/// threads wait. The queue is served in the order of the calls, with two exceptions. While a *thread* is
/// first in the queue, other callers may take the lock before it for a short time
/// ([`barging_window`](super::NodeBuilder::barging_window)). And a waiter that does not take its grant is
/// passed over ([below](Self#cancel-safety)).
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
///
/// A future that is kept and not polled does not keep the lock from others either: a grant that it does
/// not take within a [claim window](super::NodeBuilder::claim_window) is passed on if others wait, and at
/// the timeout of [`acquire_timeout`](Self::acquire_timeout) in any case. The future keeps its place
/// within the node, and waits again when it is polled.
#[derive(Clone)]
pub struct DistributedLock {
    pub(crate) handle: KeyHandle,
    pub(crate) limits: HoldLimits,
}

impl DistributedLock {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.handle.local.key
    }

    /// The same lock, whose guards are valid for at most `limit`, counted from the moment at which the
    /// guard is returned. Each guard has its own limit, also if the lock is handed on within the node.
    ///
    /// When the limit passes, the guard is [not valid](DistributedGuard::is_valid) any more,
    /// [`lost`](DistributedGuard::lost) is [`HoldLimit`](super::LossReason::HoldLimit), and the node
    /// gives the lock back, so that others get it at once, although the guard still exists. The lease is
    /// renewed until then. If this process dies, others get the lock after the lease, as always, which
    /// may be after the limit.
    ///
    /// A limit of zero makes guards that are never valid.
    #[must_use]
    pub fn hold_at_most(mut self, limit: Duration) -> Self {
        self.limits.at_most = Some(limit);
        self
    }

    /// The same lock, whose guards are valid for one lease, which is never renewed. When it ends,
    /// [`lost`](DistributedGuard::lost) is [`HoldLimit`](super::LossReason::HoldLimit).
    ///
    /// The node writes nothing between the grant and the release, and a guard that is leaked keeps the
    /// lock for no longer than the lease, whether this process lives or not. Each guard gets a lease of its
    /// own, so an acquisition goes through the engine, also if the node has the lock already.
    #[must_use]
    pub fn without_renewal(mut self) -> Self {
        self.limits.without_renewal = true;
        self
    }

    /// Waits for the lock, without a limit of time.
    ///
    /// # Errors
    ///
    /// - [`LockError::Closed`] if the node is closed.
    /// - [`LockError::Transport`] if the engine refuses a request, or if for longer than the
    ///   [unavailable timeout](super::NodeBuilder::unavailable_timeout) of the node it cannot be reached, or there
    ///   are too many requests for it ([overload](super#how-it-works)).
    /// - [`LockError::Unreadable`] if the engine has a value for the key that is not a lock of this
    ///   crate.
    /// - [`LockError::EngineWentBack`] if the engine shows an older version of the key than before, and
    ///   does not declare that it may.
    ///
    /// # Cancel safety
    ///
    /// See [`DistributedLock`]. The place in the queue is lost.
    pub async fn acquire(&self) -> Result<DistributedGuard, LockError> {
        self.acquire_by(WaitMode::Wait).await
    }

    /// Acquires the lock if no one holds it or waits for it. This waits for the response of the engine,
    /// but not for the lock.
    ///
    /// To find out that a holder is dead, a node has to observe its heartbeat for the length of its
    /// lease. An attempt looks once. The node remembers what it saw for two leases (the longer of its own
    /// and the holder's), unless the node has looked at 10,000 other keys since, and also if this lock is
    /// dropped meanwhile. So repeated attempts of one node find a dead holder. If every attempt comes from
    /// a new process, the result stays [`LockError::Busy`] for ever: use
    /// [`try_acquire_or_outlast`](Self::try_acquire_or_outlast) there.
    ///
    /// # Errors
    ///
    /// - [`LockError::Busy`] if someone holds the lock or waits for it, at this node or at another one.
    /// - The errors of [`acquire`](Self::acquire). The engine's first failure is returned;
    ///   the unavailable timeout does not apply. Where the node has more requests than the engine responds to in
    ///   time ([overload](super#how-it-works)), the call waits for a fifth of the lease at most to send
    ///   one.
    ///
    /// # Cancel safety
    ///
    /// See [`DistributedLock`].
    pub async fn try_acquire(&self) -> Result<DistributedGuard, LockError> {
        self.acquire_by(WaitMode::Try).await
    }

    /// As [`try_acquire`](Self::try_acquire), but a dead holder is outlasted: if the lock is held,
    /// this call watches the holder until it gives a sign of life, or until it is known to be dead. This is for programs that try once and end, such as a cron job.
    ///
    /// It takes as long as that. Beside a holder that renews: up to about half of its lease. Beside a dead
    /// one, or one that does not renew ([`without_renewal`](Self::without_renewal)): up to its lease, the
    /// allowance for the error of clocks, and the [claim windows](super::NodeBuilder::claim_window) of the
    /// nodes that are in the queue; beside one that was [handed](super::NodeBuilder::handoff_lease) the lock, that
    /// shorter lease takes the place of the lease. The call does not join the queue.
    ///
    /// # Errors
    ///
    /// - [`LockError::Busy`] as soon as the heartbeat moves or another node has the lock, and if a task or
    ///   thread of this node holds the lock or waits for it, or begins to.
    /// - The errors of [`acquire`](Self::acquire). The unavailable timeout applies.
    ///
    /// # Cancel safety
    ///
    /// See [`DistributedLock`].
    pub async fn try_acquire_or_outlast(&self) -> Result<DistributedGuard, LockError> {
        self.acquire_by(WaitMode::Outlast).await
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
    /// [`LockError::TimedOut`] after `timeout`, with what is wrong with the engine, if anything is; and
    /// the errors of [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// See [`DistributedLock`]. The place in the queue is lost.
    pub async fn acquire_timeout(&self, timeout: Duration) -> Result<DistributedGuard, LockError> {
        self.acquire_by(WaitMode::Within(timeout)).await
    }

    async fn acquire_by(&self, mode: WaitMode) -> Result<DistributedGuard, LockError> {
        self.handle.acquire(mode, self.limits).await
    }
}

impl fmt::Debug for DistributedLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DistributedLock").field("key", self.key()).finish_non_exhaustive()
    }
}
