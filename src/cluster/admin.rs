//! For operators: inspect a key, and break a lock.

use super::background::run_on;
use super::error::{BREAKING, INSPECTING, LockError};
use super::fence::FencingToken;
use super::guard::MAX_PUBLISHED;
use super::key::{Key, KeyError};
use super::local::driver::{compare_exchange, load};
use super::local::driver_task::as_driver;
use super::node::{Node, NodeShared, to_key};
use super::protocol::break_note::{self, BreakNote};
use super::protocol::register::{ClaimId, Holder, Register};
use super::protocol::{Observation, WentBack, force_release};
use super::text::{shown, shown_within};
use super::transport::{Exchange, NodeId, TransportError, Version, Versioned};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The state of a key, as [`Node::inspect`] found it in the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyState {
    /// The key.
    pub key: Key,
    /// The version of the key's register; `None` if the engine has no register of the key.
    pub version: Option<Version>,
    /// Whether the lock is held, and by which node.
    pub status: LockStatus,
    /// For how long this node has seen the same holder without a renewal. A holder that lives renews after
    /// each third of its lease. Zero in the first inspection, and if nobody holds the lock.
    ///
    /// The node remembers what it saw of a key, by an inspection or an attempt to acquire the lock, for
    /// two leases (the longer of its own and the holder's), unless it has looked at 10,000 other keys
    /// since.
    pub unchanged_for: Duration,
    /// The nodes that wait, in the order in which they joined.
    pub queue: Vec<QueuedNode>,
    /// The last time that the lock was broken. It is remembered until the
    /// engine deletes the register.
    pub last_break: Option<LastBreak>,
}

/// Who has broken a lock, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastBreak {
    /// The label of the node that broke it.
    pub by: String,
    /// The label of the node from which it was taken.
    pub of: String,
    /// That node.
    pub node: NodeId,
    /// The reason that was given. It may be empty.
    pub reason: String,
    /// When, by the wall clock of the node that broke it. `None` if it does not say so.
    pub at: Option<SystemTime>,
}

/// Whether a lock is held.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockStatus {
    /// No node holds it, and none waits.
    Free,
    /// A node holds it. That node may be dead.
    #[non_exhaustive]
    Held {
        /// The number of the node.
        node: NodeId,
        /// The label of the node. Here and below, control characters are left out of labels, and what
        /// is longer than 64 bytes is cut.
        label: String,
        /// The lease of the node: the time after which others take the lock if the node is dead.
        lease: Duration,
        /// The node that held it before has handed it to this one, which has written nothing since: it may use
        /// the lock already, or has yet to notice, or is dead. Its lease is its
        /// [handoff lease](super::NodeBuilder::handoff_lease) until it renews.
        is_handed: bool,
        /// When the node took the lock, by its own wall clock. `None` if it does not say so.
        since: Option<SystemTime>,
        /// The token with which it took the lock, once it has renewed its lease. Tasks and threads of the
        /// node that have handed the lock to each other since have larger ones.
        token: Option<FencingToken>,
        /// What the holder [publishes](super::DistributedGuard::publish). It comes from the engine, where others may
        /// have written it: control characters are left out, and what is longer than 256 bytes is cut.
        value: Option<String>,
    },
}

/// A node that waits for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueuedNode {
    /// The number of the node.
    pub node: NodeId,
    /// The label of the node.
    pub label: String,
    /// A number of this wait, which no other wait of the node has: who sees it again sees the same place in the queue.
    /// (A node that [keeps its place](super::NodeBuilder::keep_place) has it before it wants the lock again.)
    pub wait: u64,
}

/// The node from which [`Node::break_lock`] has taken a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForcedRelease {
    /// The number of the node.
    pub node: NodeId,
    /// The label of the node.
    pub label: String,
    /// The lock was [handed](LockStatus::Held::is_handed) to the node, which had written nothing since.
    pub was_handed: bool,
}

/// Which holder is to be broken, and what is noted.
#[derive(Clone, Debug, Default)]
struct BreakOrder {
    /// Only this node. Otherwise the one that is found first.
    of: Option<NodeId>,
    reason: String,
}

/// How many writes [`Node::break_lock`] makes at most, if other nodes write in between each time.
pub(crate) const MAX_BREAKS: u32 = 100;

impl Node {
    /// Reads the state of a key from the engine, by one request, within the
    /// [request timeout](super::NodeBuilder::request_timeout). It changes nothing there. If the engine
    /// shows an older state than before, the [observer](super::Observer::engine_went_back) is told.
    ///
    /// # Errors
    ///
    /// - [`LockError::Key`] if the name is not a valid key.
    /// - [`LockError::Transport`] if the request fails. It is not repeated.
    /// - [`LockError::Unreadable`] if the engine has a value for the key that is not a lock of this
    ///   crate.
    /// - [`LockError::Closed`] if the node is closed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the request is given up.
    pub async fn inspect<K>(&self, key: K) -> Result<KeyState, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        inspect_on_runtime(self.shared().clone(), to_key(key)?).await
    }

    /// **Takes the lock away from its present holder, alive or dead.** This is for operators who know
    /// that the holder is gone for good and do not want to wait for the end of its lease.
    ///
    /// A holder that lives is *not* asked. It goes on until it sees the loss, which is at its next
    /// renewal at the latest, while the next node already has the lock. In that time two nodes hold the
    /// lock, and only the fencing token keeps them apart. The lock is handed to the first node in the
    /// queue, and all waiting nodes are woken.
    ///
    /// It is taken from a node that was [handed](LockStatus::Held::is_handed) the lock, too. If that one lives and does
    /// not hold it yet, it joins the queue again, unless it sees the handoff later than the break.
    ///
    /// Returns the node from which the lock was taken. Returns `None` if no node held it, or if the node that
    /// was seen first has released the lock meanwhile, or has written for the first time since it was handed
    /// the lock: the lock is not taken from another one in its place, nor from a node that has just shown
    /// that it lives.
    ///
    /// This takes one load and one write. If another node writes in between, it is repeated with what
    /// that node wrote, up to 100 times. Each request ends within the
    /// [request timeout](super::NodeBuilder::request_timeout).
    ///
    /// # Errors
    ///
    /// As [`inspect`](Self::inspect). If the source of [`LockError::Transport`] is
    /// [`TransportError::Indeterminate`], the lock may be broken or not: inspect the key. It is
    /// [`TransportError::Unavailable`] also if another node wrote first 100 times; then the lock is not
    /// broken.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a write that was sent may still be applied: the lock may be broken or
    /// not.
    pub async fn break_lock<K>(&self, key: K) -> Result<Option<ForcedRelease>, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        let (shared, key) = (self.shared().clone(), to_key(key)?);
        on_runtime(shared, key, |shared, key| break_lock(shared, key, BreakOrder::default())).await
    }

    /// As [`break_lock`](Self::break_lock), but only if `node` holds the lock, or was handed it: a node that has come after the one which an operator has looked at keeps the lock. The reason
    /// is noted in the register ([`KeyState::last_break`]), without control characters and cut after 64
    /// bytes.
    ///
    /// # Errors
    ///
    /// Those of [`break_lock`](Self::break_lock). [`TransportError::Unsupported`] also if the register has no
    /// room for the reason.
    ///
    /// # Cancel safety
    ///
    /// That of [`break_lock`](Self::break_lock).
    pub async fn break_lock_of<K>(
        &self,
        key: K,
        node: NodeId,
        reason: &str,
    ) -> Result<Option<ForcedRelease>, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        let (shared, key) = (self.shared().clone(), to_key(key)?);
        let order = BreakOrder { of: Some(node), reason: break_note::reason(reason) };
        on_runtime(shared, key, |shared, key| break_lock(shared, key, order)).await
    }

    /// The keys of the engine that begin with `prefix`, in order: those that have a register. The empty
    /// prefix is that of all keys. See [`Transport::list`](super::Transport::list).
    ///
    /// # Errors
    ///
    /// Those of [`Transport::list`](super::Transport::list): [`TransportError::Unsupported`] if the engine
    /// cannot list its keys. [`TransportError::Unavailable`] if the node is closed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the request is given up.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Key>, TransportError> {
        let (shared, prefix) = (self.shared().clone(), prefix.to_owned());
        let closed = || TransportError::unavailable("the node is closed");
        if shared.is_gone() {
            return Err(closed());
        }
        let runtime = shared.runtime.clone();
        let list = async move { shared.transport.list(&prefix).await };
        run_on(&runtime, list).await.unwrap_or_else(|| Err(closed()))
    }
}

/// As [`Node::inspect`].
pub(crate) async fn inspect_on_runtime(
    shared: Arc<NodeShared>,
    key: Key,
) -> Result<KeyState, LockError> {
    on_runtime(shared, key, inspect).await
}

/// Runs `run` as a task of the node's runtime, since transports need one.
pub(crate) async fn on_runtime<T, F>(
    shared: Arc<NodeShared>,
    key: Key,
    run: impl FnOnce(Arc<NodeShared>, Key) -> F,
) -> Result<T, LockError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, LockError>> + Send + 'static,
{
    let closed = shared.closed(&key);
    if shared.is_gone() {
        return Err(closed);
    }
    #[cfg(test)]
    if shared.clock.is_virtual() {
        // The simulator has no runtime.
        return run(shared, key).await;
    }
    let (runtime, node) = (shared.runtime.clone(), shared.clone());
    let task = run(shared, key);
    let task = async move { as_driver(&node, task).await };
    run_on(&runtime, task).await.unwrap_or(Err(closed))
}

/// The error of a request after which nothing is written. The end of the node cuts a request off.
fn nothing_written(
    shared: &NodeShared,
    key: &Key,
    tried: &'static str,
    source: TransportError,
) -> LockError {
    match shared.is_gone() {
        true => shared.closed(key),
        false => LockError::Transport { at: shared.context(key), tried, source },
    }
}

pub(crate) async fn inspect(shared: Arc<NodeShared>, key: Key) -> Result<KeyState, LockError> {
    let error = |source| nothing_written(&shared, &key, INSPECTING, source);
    let seen = look(&shared, &key).await.map_err(error)?;
    let register = take_in(&shared, &key, seen.as_ref())?;
    let now = shared.clock.now();
    let lease = register.holder.as_ref().map_or(Duration::ZERO, |holder| holder.lease);
    let observation = Observation { liveness: register.liveness(), since: now, lease };
    let since = if register.is_idle() { now } else { shared.observed_holder(&key, observation) };
    let last_break = BreakNote::of(&register).map(|note| {
        let BreakNote { by, of, node, reason, at_ms, nonce: _ } = note;
        LastBreak { by, of, node, reason, at: at_ms.and_then(since_1970) }
    });
    let status = match register.holder {
        None => LockStatus::Free,
        Some(holder) => {
            let (node, label) = (holder.claim.node, shown(&holder.label));
            let since = holder.since_ms.and_then(since_1970);
            let granted = holder.granted.and_then(|number| Version::new(number).ok());
            let token = granted.and_then(|version| FencingToken::of(version, 0));
            let Holder { lease, is_handed, value, .. } = holder;
            let value = value.map(|value| shown_within(&value, MAX_PUBLISHED));
            LockStatus::Held { node, label, lease, is_handed, since, token, value }
        }
    };
    let queue = register.queue.into_iter();
    let queue = queue.map(|waiter| {
        let ClaimId { node, nonce } = waiter.claim;
        QueuedNode { node, label: shown(&waiter.label), wait: nonce }
    });
    Ok(KeyState {
        key,
        version: seen.map(|seen| seen.version),
        status,
        unchanged_for: now.since(since),
        queue: queue.collect(),
        last_break,
    })
}

fn since_1970(ms: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(ms))
}

async fn break_lock(
    shared: Arc<NodeShared>,
    key: Key,
    order: BreakOrder,
) -> Result<Option<ForcedRelease>, LockError> {
    let error = |source| LockError::Transport { at: shared.context(&key), tried: BREAKING, source };
    let unread = |source| nothing_written(&shared, &key, BREAKING, source);
    let mut seen = look(&shared, &key).await.map_err(unread)?;
    let mut target = None;
    for _ in 0..MAX_BREAKS {
        let mut register = take_in(&shared, &key, seen.as_ref())?;
        let Some(holder) = &register.holder else { return Ok(None) };
        let (claim, label, was_handed) = (holder.claim, shown(&holder.label), holder.is_handed);
        if order.of.is_some_and(|node| node != claim.node) {
            return Ok(None);
        }
        if *target.get_or_insert((claim, was_handed)) != (claim, was_handed) {
            // The holder that was to be broken has released the lock, or the one that was handed it has
            // written. This is another, or one that lives.
            return Ok(None);
        }
        let note = BreakNote {
            nonce: Some(claim.nonce),
            node: claim.node,
            of: label.clone(),
            by: shared.config.label.clone(),
            reason: order.reason.clone(),
            at_ms: shared.clock.wall_clock().map(|now| now()),
        };
        note.leave(&mut register);
        let Some(write) = force_release(&register) else { return Ok(None) };
        let expected = seen.map(|seen| seen.version);
        match compare_exchange(&shared, &key, expected, write, None).await.map_err(error)? {
            Exchange::Swapped(version) => {
                shared.observed_version(&key, version);
                let from = ForcedRelease { node: claim.node, label, was_handed };
                shared.observe(|observer| observer.broke(&key, &from, &order.reason));
                return Ok(Some(from));
            }
            Exchange::Mismatch(newer) => seen = newer,
        }
    }
    Err(error(TransportError::unavailable(format!("others wrote first, {MAX_BREAKS} times"))))
}

/// Loads the register. The observer is told if the engine went back.
async fn look(shared: &Arc<NodeShared>, key: &Key) -> Result<Option<Versioned>, TransportError> {
    // Before the request is sent: the response may be older than what the node sees meanwhile.
    let newest = shared.observations.lock().newest(key);
    let seen = load(shared, key).await?;
    if let Some((shown, newest)) = seen.as_ref().map(|seen| seen.version).zip(newest)
        && shown < newest
    {
        shared.engine_went_back(key, WentBack { shown, newest });
    }
    Ok(seen)
}

/// The register that an answer has shown. The node remembers its version.
fn take_in(
    shared: &NodeShared,
    key: &Key,
    seen: Option<&Versioned>,
) -> Result<Register, LockError> {
    let Some(seen) = seen else { return Ok(Register::empty()) };
    shared.observed_version(key, seen.version);
    Register::decode(&seen.value)
        .map_err(|source| LockError::Unreadable { at: shared.context(key), source })
}
