//! A process's membership.

use super::blocking;
use super::config::NodeBuilder;
use super::core::Core;
use super::error::{ConfigError, LockError};
use super::key::{Key, KeyError};
use super::lock::DistributedLock;
use super::transport::{NodeId, Transport};
use std::sync::Arc;

// Looking at a key, and breaking its lock.
mod operate;

pub use operate::{Broken, KeyState, Possession, Queued};

/// One member of the cluster: usually one for a process and an engine, made at its start and kept.
///
/// A clone is the same node. With the last of them the node ends: who waits gets
/// [`LockError::Closed`], guards are lost at once, and what is held is given back in the background,
/// as far as that succeeds within one [request timeout](NodeBuilder::request_timeout). To wait for
/// that, use [`shutdown`](Self::shutdown).
#[derive(Clone, Debug)]
pub struct Node {
    owner: Result<Arc<Owner>, ConfigError>,
}

/// Ends the node when the last handle is dropped.
#[derive(Debug)]
struct Owner {
    core: Arc<Core>,
}

/// What was left when a node was shut down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shutdown {
    /// The keys that were held, and were given back.
    pub released: Vec<Key>,
    /// The keys of which the engine has not said that nothing of this node is left in them. Others
    /// get them when the lease is over, or a claim window.
    pub in_doubt: Vec<Key>,
}

impl Node {
    /// Builds a node over this engine; an `Arc<dyn Transport>` will do, too.
    pub fn builder(transport: impl Transport) -> NodeBuilder {
        NodeBuilder::new(transport)
    }

    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { owner: Ok(Arc::new(Owner { core })) }
    }

    /// A node that reports this wherever it is used.
    pub(crate) fn broken(why: ConfigError) -> Self {
        Self { owner: Err(why) }
    }

    /// The lock of this name. Nothing is taken, and nothing is asked of the engine.
    ///
    /// # Errors
    ///
    /// [`LockError::Key`] if the name is no [`Key`], and [`LockError::Config`] if the node was built
    /// with a setting that is not allowed.
    pub fn lock<K>(&self, key: K) -> Result<DistributedLock, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        Ok(DistributedLock { handle: self.core()?.handle(to_key(key)?) })
    }

    /// The same node for plain threads, which need no runtime.
    #[must_use]
    pub fn blocking(&self) -> blocking::Node {
        blocking::Node::new(self.clone())
    }

    /// The number that this node has in the engine's registers. `None` if it could not be built.
    #[must_use]
    pub fn id(&self) -> Option<NodeId> {
        self.core().ok().map(|core| core.node)
    }

    /// How many keys this node remembers. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn keys(&self) -> usize {
        self.core().map_or(0, |core| core.keys())
    }

    /// How many tasks and threads of this node wait for this key. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn waiting(&self, key: &str) -> usize {
        let local =
            self.core().ok().zip(Key::new(key).ok()).and_then(|(core, key)| core.find(&key));
        local.map_or(0, |local| local.state().waiting())
    }

    /// Ends the node, for all of its clones: nothing is granted any more, who waits gets
    /// [`LockError::Closed`], guards are lost at once, and what is held is given back. Waits until
    /// the engine has confirmed that, for two [request timeouts](NodeBuilder::request_timeout) at
    /// most.
    ///
    /// Called again, it reports the same.
    pub async fn shutdown(&self) -> Shutdown {
        let Ok(core) = self.core() else { return Shutdown::default() };
        close(core, 2);
        core.ended().await
    }

    pub(crate) fn core(&self) -> Result<&Arc<Core>, LockError> {
        match &self.owner {
            Ok(owner) => Ok(&owner.core),
            Err(why) => Err(why.clone().into()),
        }
    }
}

pub(crate) fn to_key<K>(key: K) -> Result<Key, LockError>
where
    K: TryInto<Key, Error: Into<KeyError>>,
{
    key.try_into().map_err(|why| LockError::Key(why.into()))
}

fn close(core: &Arc<Core>, request_timeouts: u32) {
    let now = core.clock.now();
    // First: what is given back from now on is in the report.
    core.mailbox.close(now + core.config.request_timeout * request_timeouts);
    core.close_keys();
}

impl Drop for Owner {
    fn drop(&mut self) {
        close(&self.core, 1);
    }
}
