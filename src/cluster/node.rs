//! A process's membership.

use super::blocking;
use super::builder::{Config, NodeBuilder};
use super::error::{LockContext, LockError};
use super::guard::LossReason;
use super::key::{Key, KeyError};
use super::local::clock::Clock;
use super::local::driver::Driving;
use super::local::run_queue::{Alarm, RunQueue};
use super::local::{Handle, Local};
use super::lock::DistributedLock;
use super::observer::Observer;
use super::observer::tracing::Trace;
use super::time::Time;
use super::transport::{Capabilities, NodeId, Transport};
use crate::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// One member of the cluster: usually one for a process and an engine, made at its start and kept.
///
/// A clone is the same node. With the last of them the node ends: who waits gets
/// [`LockError::Closed`], guards are lost at once, and what is held is given back in the background,
/// as far as that succeeds within one [request timeout](NodeBuilder::request_timeout). To wait for
/// that, use [`shutdown`](Self::shutdown).
#[derive(Clone, Debug)]
pub struct Node {
    owner: Arc<Owner>,
}

/// Ends the node when the last handle is dropped.
#[derive(Debug)]
struct Owner {
    core: Arc<NodeShared>,
}

/// What was left when a node was shut down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shutdown {
    /// The keys that were held, and were given back.
    pub released: Vec<Key>,
    /// The keys of which the engine has not said that nothing of this node is left in them. Others
    /// get them when the lease is over, or a claim window.
    pub indeterminate: Vec<Key>,
}

impl Node {
    /// Builds a node over this engine; an `Arc<dyn Transport>` will do, too.
    pub fn builder(transport: impl Transport) -> NodeBuilder {
        NodeBuilder::new(transport)
    }

    pub(crate) fn new(core: Arc<NodeShared>) -> Self {
        Self { owner: Arc::new(Owner { core }) }
    }

    /// The lock of this name. Nothing is taken, and nothing is asked of the engine.
    ///
    /// # Errors
    ///
    /// [`LockError::Key`] if the name is no [`Key`].
    pub fn lock<K>(&self, key: K) -> Result<DistributedLock, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        Ok(DistributedLock { handle: self.core().handle(to_key(key)?) })
    }

    /// The same node for plain threads, which need no runtime.
    #[must_use]
    pub fn blocking(&self) -> blocking::Node {
        blocking::Node::new(self.clone())
    }

    /// The number that this node has in the engine's registers.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.core().node
    }

    /// How many keys this node remembers. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn keys(&self) -> usize {
        self.core().keys()
    }

    /// How many tasks and threads of this node wait for this key. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn waiting(&self, key: &str) -> usize {
        let local = Key::new(key).ok().and_then(|key| self.core().find(&key));
        local.map_or(0, |local| local.state().waiting())
    }

    /// Ends the node, for all of its clones: nothing is granted any more, who waits gets
    /// [`LockError::Closed`], guards are lost at once, and what is held is given back. Waits until
    /// the engine has confirmed that, for two [request timeouts](NodeBuilder::request_timeout) at
    /// most.
    ///
    /// Called again, it reports the same.
    pub async fn shutdown(&self) -> Shutdown {
        close(self.core(), 2);
        self.core().ended().await
    }

    pub(crate) fn core(&self) -> &Arc<NodeShared> {
        &self.owner.core
    }
}

pub(crate) fn to_key<K>(key: K) -> Result<Key, LockError>
where
    K: TryInto<Key, Error: Into<KeyError>>,
{
    key.try_into().map_err(|why| LockError::Key(why.into()))
}

fn close(core: &Arc<NodeShared>, request_timeouts: u32) {
    let now = core.clock.now();
    // First: what is given back from now on is in the report.
    core.run_queue.close(now + core.config.request_timeout * request_timeouts);
    core.close_keys();
}

impl Drop for Owner {
    fn drop(&mut self) {
        close(&self.core, 1);
    }
}

// What the handles of a node and its driver share.
/// See the module. Handles keep it alive; it keeps no task alive.
pub(crate) struct NodeShared {
    pub(crate) config: Config,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) capabilities: Capabilities,
    pub(crate) node: NodeId,
    pub(crate) clock: Clock,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) run_queue: RunQueue,
    pub(crate) driving: Driving,
    pub(crate) observer: Option<Box<dyn Observer>>,
    pub(crate) random: Mutex<fastrand::Rng>,
    registry: Mutex<Registry>,
    end: Mutex<End>,
}

/// The keys that anybody has a handle of, or the driver has something to do for.
#[derive(Default)]
struct Registry {
    keys: HashMap<Key, Arc<Local>>,
    is_closed: bool,
}

/// The driver's last words, and who waits for them.
#[derive(Default)]
struct End {
    report: Option<Shutdown>,
    wakers: Vec<Waker>,
}

impl NodeShared {
    #[expect(clippy::too_many_arguments, reason = "one caller, which names them all")]
    pub(crate) fn new(
        config: Config,
        transport: Arc<dyn Transport>,
        capabilities: Capabilities,
        node: NodeId,
        clock: Clock,
        runtime: tokio::runtime::Handle,
        observer: Option<Box<dyn Observer>>,
        random: fastrand::Rng,
    ) -> Self {
        Self {
            config,
            transport,
            capabilities,
            node,
            clock,
            runtime,
            run_queue: RunQueue::default(),
            driving: Driving::default(),
            observer,
            random: Mutex::new(random),
            registry: Mutex::default(),
            end: Mutex::default(),
        }
    }

    /// Where something happens, for messages.
    pub(crate) fn context(&self, key: &Key) -> LockContext {
        LockContext { key: key.clone(), transport: self.capabilities.name }
    }

    pub(crate) fn closed(&self, key: &Key) -> LockError {
        LockError::Closed { at: self.context(key) }
    }

    /// A handle of this key.
    pub(crate) fn handle(self: &Arc<Self>, key: Key) -> Handle {
        let mut registry = self.registry.lock();
        let is_closed = registry.is_closed;
        let local = registry
            .keys
            .entry(key.clone())
            .or_insert_with(|| Arc::new(Local::new(key, is_closed)));
        Handle::new(self.clone(), local.clone())
    }

    /// The key's part in this node, if it has one.
    pub(crate) fn find(&self, key: &Key) -> Option<Arc<Local>> {
        self.registry.lock().keys.get(key).cloned()
    }

    /// Forgets the key if nobody has a handle of it and nothing is going on. Whether it did.
    pub(crate) fn forget(&self, local: &Arc<Local>) -> bool {
        let mut registry = self.registry.lock();
        let unused = local.state().is_unused();
        if unused && registry.keys.get(&local.key).is_some_and(|known| Arc::ptr_eq(known, local)) {
            registry.keys.remove(&local.key);
        }
        unused
    }

    /// As [`NodeShared::forget`], if the driver was never called for it.
    pub(crate) fn forget_unknown(&self, local: &Arc<Local>) {
        let mut registry = self.registry.lock();
        let unknown = local.state().is_unknown();
        if unknown && registry.keys.get(&local.key).is_some_and(|known| Arc::ptr_eq(known, local)) {
            registry.keys.remove(&local.key);
        }
    }

    /// How many keys are known. For tests.
    pub(crate) fn keys(&self) -> usize {
        self.registry.lock().keys.len()
    }

    /// Nothing is granted any more, who waits is told, what is held is lost and to be released.
    pub(crate) fn close_keys(self: &Arc<Self>) {
        let mut registry = self.registry.lock();
        registry.is_closed = true;
        let locals: Vec<_> = registry.keys.values().cloned().collect();
        drop(registry);
        for local in locals {
            let error = self.closed(&local.key);
            if local.close(&error) {
                self.run_queue.call(local);
            }
        }
    }

    /// The driver is gone: nothing will be done any more.
    pub(crate) fn shut_down(self: &Arc<Self>, report: Shutdown) {
        self.close_keys();
        self.run_queue.shut_down();
        let locals: Vec<_> = self.registry.lock().keys.values().cloned().collect();
        for local in locals {
            local.abandon();
        }
        let mut end = self.end.lock();
        end.report.get_or_insert(report);
        let wakers = std::mem::take(&mut end.wakers);
        drop(end);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The driver's report, when it has ended.
    pub(crate) async fn ended(&self) -> Shutdown {
        std::future::poll_fn(|cx| {
            let mut end = self.end.lock();
            match &end.report {
                Some(report) => Poll::Ready(report.clone()),
                None => {
                    if !end.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                        end.wakers.push(cx.waker().clone());
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Tells the observer. Its panics are its own affair. Never call this under a mutex.
    pub(crate) fn observe(&self, tell: impl Fn(&dyn Observer)) {
        tell(&Trace);
        if let Some(observer) = &self.observer {
            // The default panic hook has told of it.
            let _ = catch_unwind(AssertUnwindSafe(|| tell(&**observer)));
        }
    }

    /// Ready at that time, or when there is no driver any more that could tell.
    pub(crate) fn sleep_until(self: &Arc<Self>, at: Time) -> Sleep {
        Sleep { core: self.clone(), at, alarm: None }
    }

    /// What a held lease was lost by when its node was closed.
    pub(crate) const CLOSED: LossReason = LossReason::Closed;
}

impl fmt::Debug for NodeShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeShared")
            .field("node", &self.node)
            .field("transport", &self.capabilities.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A timer on the node's clock; it needs no runtime where it is awaited.
#[derive(Debug)]
pub(crate) struct Sleep {
    core: Arc<NodeShared>,
    at: Time,
    alarm: Option<Alarm>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { core, at, alarm } = &mut *self;
        if core.clock.now() >= *at || !core.run_queue.set_alarm(*at, alarm, cx.waker()) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.core.run_queue.stop_alarm(self.alarm);
    }
}
