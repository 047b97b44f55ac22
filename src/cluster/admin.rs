//! What operators ask for: who has a key, and to take it from whoever has it.

use super::node::{Node, to_key};
use crate::cluster::error::{BREAKING, LockError};
use crate::cluster::key::{Key, KeyError};
use crate::cluster::local::requests;
use crate::cluster::node::NodeShared;
use crate::cluster::protocol::force_release;
use crate::cluster::protocol::register::Register;
use crate::cluster::transport::{Exchange, NodeId, TransportError, Version, Versioned};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// What a key's register showed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyState {
    /// The key.
    pub key: Key,
    /// The register's version. `None` if there is no register.
    pub version: Option<Version>,
    /// Who has the lock.
    pub status: LockStatus,
    /// For how long this node has seen it so: the same holder, with no sign of life from it since.
    /// Zero if this is the first look. A holder gives a sign at every third of its lease.
    ///
    /// A node remembers that for the keys that it has a [`DistributedLock`] of.
    ///
    /// [`DistributedLock`]: crate::cluster::DistributedLock
    pub unchanged_for: Duration,
    /// The nodes that wait, the oldest first.
    pub queue: Vec<QueuedNode>,
}

/// Who has a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockStatus {
    /// Nobody, and nobody waits.
    Free,
    /// Nobody yet: it is kept for the first in the queue.
    Reserved,
    /// A node. It may be dead.
    Held {
        /// Its number.
        node: NodeId,
        /// Its label.
        label: String,
        /// Its lease: others wait so long when it is dead.
        lease: Duration,
    },
}

/// A node that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueuedNode {
    /// Its number.
    pub node: NodeId,
    /// Its label.
    pub label: String,
}

/// Whose lock was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForcedRelease {
    /// The number of the node that held it.
    pub node: NodeId,
    /// Its label.
    pub label: String,
}

/// How often [`Node::break_lock`] begins anew because somebody else has written.
const TRIES: u32 = 100;

impl Node {
    /// Looks at a key. Takes nothing, and writes nothing.
    ///
    /// # Errors
    ///
    /// [`LockError`] if the name is no key, if the engine does not answer, or if the value is not
    /// understood.
    pub async fn inspect<K>(&self, key: K) -> Result<KeyState, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        let (core, key) = (self.core().clone(), to_key(key)?);
        on_runtime(core, key, inspect).await
    }

    /// **Takes the lock away from whoever is seen to hold it, alive or dead.** For operators, who know
    /// that the holder is gone for good and do not want to wait for the end of its lease.
    ///
    /// A holder that lives is *not* asked. It goes on until it sees the loss, by its next renewal
    /// at the latest, while the next in the queue already has the lock: two hold at a time, and only
    /// the fencing token keeps them apart. The lock is reserved for the first in the queue, and all
    /// that wait are woken.
    ///
    /// Returns whom it was taken from; `None` if nobody held it, or if whoever did has given it up
    /// meanwhile: nobody else is broken in its place.
    ///
    /// # Errors
    ///
    /// [`LockError`] if the name is no key, if the value is not understood, or if the engine does
    /// not answer. If that error is [`TransportError::Indeterminate`], the lock may be broken.
    pub async fn break_lock<K>(&self, key: K) -> Result<Option<ForcedRelease>, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        let (core, key) = (self.core().clone(), to_key(key)?);
        on_runtime(core, key, break_lock).await
    }
}

/// Runs it as a task of the node's runtime, since engines need one.
async fn on_runtime<T, F>(
    core: Arc<NodeShared>,
    key: Key,
    run: impl FnOnce(Arc<NodeShared>, Key) -> F,
) -> Result<T, LockError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, LockError>> + Send + 'static,
{
    let closed = core.closed(&key);
    if core.run_queue.is_dead() {
        return Err(closed);
    }
    let runtime = core.runtime.clone();
    let task = AbortOnDrop(runtime.spawn(run(core, key)));
    task.finish().await.unwrap_or(Err(closed))
}

/// A task that nobody waits for any more ends.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> AbortOnDrop<T> {
    async fn finish(mut self) -> Option<T> {
        (&mut self.0).await.ok()
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn inspect(core: Arc<NodeShared>, key: Key) -> Result<KeyState, LockError> {
    let error =
        |source| LockError::Transport { at: core.context(&key), tried: "looking at", source };
    let seen = requests::load(&core, &key).await.map_err(error)?;
    let register = decode(&core, &key, seen.as_ref())?;
    let local = core.find(&key);
    let now = core.clock.now();
    let since = local.map_or(now, |local| local.state().sighted(&register, now));
    let status = match register.holder {
        None if register.queue.is_empty() => LockStatus::Free,
        None => LockStatus::Reserved,
        Some(holder) => {
            LockStatus::Held { node: holder.claim.node, label: holder.label, lease: holder.lease }
        }
    };
    let queue = register.queue.into_iter();
    let queue = queue.map(|waiter| QueuedNode { node: waiter.claim.node, label: waiter.label });
    Ok(KeyState {
        key,
        version: seen.map(|seen| seen.version),
        status,
        unchanged_for: now.since(since),
        queue: queue.collect(),
    })
}

async fn break_lock(core: Arc<NodeShared>, key: Key) -> Result<Option<ForcedRelease>, LockError> {
    let error = |source| LockError::Transport { at: core.context(&key), tried: BREAKING, source };
    let mut seen = requests::load(&core, &key).await.map_err(error)?;
    let mut condemned = None;
    for _ in 0..TRIES {
        let register = decode(&core, &key, seen.as_ref())?;
        let (Some(write), Some(holder)) = (force_release(&register), register.holder) else {
            return Ok(None);
        };
        if *condemned.get_or_insert(holder.claim) != holder.claim {
            // It is gone already, and this one has done nothing.
            return Ok(None);
        }
        let expected = seen.map(|seen| seen.version);
        match requests::compare_exchange(&core, &key, expected, write).await.map_err(error)? {
            Exchange::Swapped(_) => {
                return Ok(Some(ForcedRelease { node: holder.claim.node, label: holder.label }));
            }
            Exchange::Mismatch(newer) => seen = newer,
        }
    }
    Err(error(TransportError::unavailable(format!("others wrote first, {TRIES} times"))))
}

fn decode(core: &NodeShared, key: &Key, seen: Option<&Versioned>) -> Result<Register, LockError> {
    let Some(seen) = seen else { return Ok(Register::empty()) };
    Register::decode(&seen.value)
        .map_err(|source| LockError::Unreadable { at: core.context(key), source })
}
