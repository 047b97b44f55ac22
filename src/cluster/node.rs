//! A member of the cluster, and the state that its handles and its driver share.

use super::background::Background;
use super::blocking;
use super::builder::{Config, NodeBuilder};
use super::error::{LockContext, LockError, TaskNotRun};
use super::health::Responses;
use super::key::{Key, KeyError};
use super::local::clock::NodeClock;
use super::local::driver::Driver;
use super::local::driver_task::DriverThread;
use super::local::observations::Observations;
use super::local::run_queue::{RunQueue, TimerId};
use super::local::{HoldLimits, KeyHandle, LocalKey};
use super::lock::DistributedLock;
use super::observer::Observer;
#[cfg(feature = "metrics")]
use super::observer::metrics::MetricsObserver;
use super::observer::tracing::TracingObserver;
use super::process::{Process, leak};
use super::protocol::{IdSource, Observation, Time, WentBack};
use super::transport::{Capabilities, NodeId, Transport, TransportError, Version};
use crate::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};

/// One member of the cluster. A program usually makes one for each engine at its start, and keeps it.
///
/// Its background task renews the leases. It runs on one thread of the process, which is this crate's own
/// and which all nodes share, so a caller that blocks its own thread between calls does not delay renewals.
/// (An [`Observer`] or a [`Transport`] that blocks does.) Or it runs on a
/// [runtime that is given](NodeBuilder::runtime).
///
/// A clone is the same node. When the last clone is dropped, the node is closed: callers that wait for
/// a lock get [`LockError::Closed`], and all guards are lost at once. What the node holds is released in
/// the background, for at most one [request timeout](NodeBuilder::request_timeout). To wait for that,
/// use [`shutdown`](Self::shutdown).
///
/// A [`DistributedLock`] or a guard does not keep the node alive; a [`blocking::Node`] does.
#[derive(Clone, Debug)]
pub struct Node {
    owner: Arc<NodeOwner>,
}

/// Closes the node when the last clone is dropped.
#[derive(Debug)]
struct NodeOwner {
    shared: Arc<NodeShared>,
}

/// What became of the locks that a node held when it was shut down. Each of them is in one of the lists,
/// which are in alphabetical order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shutdown {
    /// The keys that were held up to the shutdown, and released by it.
    pub released: Vec<Key>,
    /// The keys that were held at the shutdown, and lost before the engine has confirmed their release.
    /// Nothing of this node is left in them.
    pub lost: Vec<Key>,
    /// The keys for which the engine has not confirmed that they were held up to their release, or that
    /// nothing of this node is left in them. Other nodes get them after the lease of this node, or
    /// after its handoff lease if this node was only waiting.
    pub indeterminate: Vec<Key>,
}

impl Shutdown {
    /// Sorts the lists. A key that is indeterminate is in no other one.
    pub(crate) fn settle(&mut self) {
        let Self { released, lost, indeterminate } = self;
        for list in [&mut *released, lost, indeterminate] {
            list.sort();
            list.dedup();
        }
        let is_settled = |key: &Key| indeterminate.binary_search(key).is_err();
        released.retain(is_settled);
        lost.retain(is_settled);
    }
}

impl Node {
    /// A builder of a node over this engine. An `Arc<dyn Transport>` is accepted too.
    pub fn builder(transport: impl Transport) -> NodeBuilder {
        NodeBuilder::new(transport)
    }

    pub(crate) fn new(shared: Arc<NodeShared>) -> Self {
        Self { owner: Arc::new(NodeOwner { shared }) }
    }

    /// The lock of this key. This acquires nothing and sends nothing to the engine. It succeeds on a
    /// closed node too; [`acquire`](DistributedLock::acquire) then returns [`LockError::Closed`].
    ///
    /// # Errors
    ///
    /// [`LockError::Key`] if the name is not a valid [`Key`].
    pub fn lock<K>(&self, key: K) -> Result<DistributedLock, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        let handle = self.shared().handle(to_key(key)?);
        Ok(DistributedLock { handle, limits: HoldLimits::default() })
    }

    /// The same node for plain threads, which need no runtime.
    #[must_use]
    pub fn blocking(&self) -> blocking::Node {
        blocking::Node::new(self.clone())
    }

    /// The number by which the engine's registers name this node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.shared().node
    }

    /// Closes the node, for all of its clones, and waits until the engine has confirmed that all of its
    /// locks are released: for at most two [request timeouts](NodeBuilder::request_timeout).
    ///
    /// From the first poll on, no lock is granted any more, callers that wait get
    /// [`LockError::Closed`], and all guards are lost. A later call waits for the same and returns the
    /// same report. In a forked child of the process that built the node, it does nothing and returns an
    /// empty report.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the shutdown goes on in the background.
    pub async fn shutdown(&self) -> Shutdown {
        if self.shared().is_foreign() {
            return Shutdown::default();
        }
        close(self.shared(), 2);
        self.shared().report().await
    }

    /// How many keys this node remembers. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn keys(&self) -> usize {
        self.shared().keys()
    }

    /// How many tasks and threads of this node wait for this key. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn waiting(&self, key: &str) -> usize {
        let local = Key::new(key).ok().and_then(|key| self.shared().find(&key));
        local.map_or(0, |local| local.state().waiting())
    }

    pub(crate) fn shared(&self) -> &Arc<NodeShared> {
        &self.owner.shared
    }
}

pub(crate) fn to_key<K>(key: K) -> Result<Key, LockError>
where
    K: TryInto<Key, Error: Into<KeyError>>,
{
    key.try_into().map_err(|why| LockError::Key(why.into()))
}

impl Drop for NodeOwner {
    fn drop(&mut self) {
        if self.shared.is_foreign() {
            return leak(&self.shared);
        }
        close(&self.shared, 1);
    }
}

/// Closes the node. The driver has this many request timeouts to release what is held.
fn close(shared: &Arc<NodeShared>, request_timeouts: u32) {
    let now = shared.clock.now();
    // Before the keys are closed, so that every release from now on is in the report.
    shared.run_queue.close(now + shared.config.request_timeout * request_timeouts);
    shared.close_keys();
}

/// What the handles of a node and its driver share. It owns the driver, which refers to it: the end of the
/// driver's task breaks this cycle, by dropping the driver.
///
/// In a forked child of the process that built the node, no mutex of it is taken, and it is never dropped
/// ([`NodeShared::is_foreign`]).
pub(crate) struct NodeShared {
    /// The process that built the node.
    process: Process,
    pub(crate) config: Config,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) capabilities: Capabilities,
    pub(crate) node: NodeId,
    pub(crate) clock: NodeClock,
    pub(crate) runtime: tokio::runtime::Handle,
    /// The thread of `runtime`, unless the runtime was given.
    pub(crate) background: Option<Background>,
    pub(crate) run_queue: RunQueue,
    /// The driver, until it ends.
    pub(crate) driver: Mutex<Option<Driver>>,
    pub(crate) driver_thread: DriverThread,
    /// The driver's task has found the driver locked by a caller, who has to wake it.
    pub(crate) is_driver_wanted: AtomicBool,
    pub(crate) observers: Vec<Box<dyn Observer>>,
    /// For jitter.
    pub(crate) random: Mutex<fastrand::Rng>,
    /// For claim ids and heartbeats.
    pub(crate) ids: IdSource,
    pub(crate) observations: Mutex<Observations>,
    pub(crate) responses: Mutex<Responses>,
    #[cfg(feature = "metrics")]
    pub(crate) metrics: MetricsObserver,
    registry: Mutex<KeyRegistry>,
    end: Mutex<NodeEnd>,
}

/// The keys that have a handle, or for which the driver has something to do.
#[derive(Default)]
struct KeyRegistry {
    keys: HashMap<Key, Arc<LocalKey>>,
    is_closed: bool,
}

/// The report of the driver, and the wakers of those that wait for it.
#[derive(Default)]
struct NodeEnd {
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
        clock: NodeClock,
        runtime: tokio::runtime::Handle,
        background: Option<Background>,
        observers: Vec<Box<dyn Observer>>,
        #[cfg(feature = "metrics")] metrics: MetricsObserver,
        random: fastrand::Rng,
        ids: IdSource,
    ) -> Self {
        Self {
            process: Process::current(),
            config,
            transport,
            capabilities,
            node,
            clock,
            runtime,
            background,
            run_queue: RunQueue::default(),
            driver: Mutex::default(),
            driver_thread: DriverThread::default(),
            is_driver_wanted: AtomicBool::new(false),
            observers,
            random: Mutex::new(random),
            ids,
            observations: Mutex::default(),
            responses: Mutex::default(),
            #[cfg(feature = "metrics")]
            metrics,
            registry: Mutex::default(),
            end: Mutex::default(),
        }
    }

    /// Whether this is a forked child of the process that built the node. Then every mutex of the node may
    /// be held for ever, by a thread that does not exist.
    #[inline]
    pub(crate) fn is_foreign(&self) -> bool {
        !self.process.is_current()
    }

    /// Whether there is no driver any more, or none in this process.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_foreign() || self.run_queue.is_shut_down()
    }

    /// The context of an error at this key.
    pub(crate) fn context(&self, key: &Key) -> LockContext {
        LockContext { key: key.clone(), transport: self.capabilities.name }
    }

    /// The error of a key whose node is closed.
    pub(crate) fn closed(&self, key: &Key) -> LockError {
        LockError::Closed { at: self.context(key) }
    }

    /// Whether anybody is told what happens.
    pub(crate) fn is_observed(&self) -> bool {
        cfg!(any(feature = "tracing", feature = "metrics")) || !self.observers.is_empty()
    }

    /// Tells the observers: see [`NodeShared::call`].
    pub(crate) fn observe(&self, tell: impl Fn(&dyn Observer)) {
        self.call(|| tell(&TracingObserver));
        #[cfg(feature = "metrics")]
        self.call(|| tell(&self.metrics));
        for observer in &self.observers {
            self.call(|| tell(&**observer));
        }
    }

    /// Wakes all of these: see [`NodeShared::call`].
    pub(crate) fn wake(&self, wakers: impl IntoIterator<Item = Waker>) {
        for waker in wakers {
            // In a forked child not even its drop may run.
            let waker = ManuallyDrop::new(waker);
            self.call(|| ManuallyDrop::into_inner(waker).wake());
        }
    }

    /// Calls code of the user, and catches its panic, which is nobody else's matter. Must not be called
    /// under a mutex, but for that of the driver. In a forked child nothing is called. The code may fork,
    /// so the caller has to ask [`NodeShared::is_foreign`] before it goes on to anything that may not
    /// happen in a child.
    pub(crate) fn call(&self, code: impl FnOnce()) {
        if !self.is_foreign() {
            // The panic hook has reported it.
            let _ = catch_unwind(AssertUnwindSafe(code));
        }
    }

    /// The error of a request that got nowhere, since the background task does not run.
    pub(crate) fn not_run(&self) -> TransportError {
        let last_run = self.driver_thread.last_run();
        let silent_for = last_run.map(|at| self.clock.now().since(at));
        TransportError::unavailable(TaskNotRun { silent_for, is_given: self.background.is_none() })
    }

    /// A future that is ready at that moment, or when the driver is gone ([`NodeShared::is_gone`]).
    pub(crate) fn sleep_until(self: &Arc<Self>, at: Time) -> SleepUntil {
        SleepUntil { shared: self.clone(), at, timer: None }
    }

    /// A handle of this key. The key is added to the registry if it is not there.
    pub(crate) fn handle(self: &Arc<Self>, key: Key) -> KeyHandle {
        if self.is_foreign() {
            return KeyHandle::new(self.clone(), Arc::new(LocalKey::new(key, true)));
        }
        let mut registry = self.registry.lock();
        let is_closed = registry.is_closed;
        let local = registry
            .keys
            .entry(key.clone())
            .or_insert_with(|| Arc::new(LocalKey::new(key, is_closed)));
        KeyHandle::new(self.clone(), local.clone())
    }

    /// Notes that an answer has shown this version of a key.
    pub(crate) fn observed_version(&self, key: &Key, version: Version) {
        self.observations.lock().note_version(key, version);
    }

    /// Notes what was seen of the holder of a key, for two leases. Returns since when that is known.
    pub(crate) fn observed_holder(&self, key: &Key, holder: Observation) -> Time {
        let keep_for = 2 * holder.lease.max(self.config.lease);
        self.observations.lock().note_holder(key, holder, keep_for, self.clock.now())
    }

    /// Tells the observer that the engine went back, unless it knows. Each machine of the key finds that
    /// anew, and so does each inspection.
    pub(crate) fn engine_went_back(&self, key: &Key, why: WentBack) {
        let is_news = self.observations.lock().is_news(key, why);
        if is_news {
            self.observe(|observer| observer.engine_went_back(key, why.shown, why.newest));
        }
    }

    /// The local state of this key, if the node knows it.
    pub(crate) fn find(&self, key: &Key) -> Option<Arc<LocalKey>> {
        if self.is_foreign() {
            return None;
        }
        self.registry.lock().keys.get(key).cloned()
    }

    /// How many keys the node knows.
    fn keys(&self) -> usize {
        if self.is_foreign() { 0 } else { self.registry.lock().keys.len() }
    }

    /// Whether the node was closed. Not in a forked child.
    pub(crate) fn is_closed(&self) -> bool {
        self.registry.lock().is_closed
    }

    /// What the node knows of each key.
    pub(crate) fn known(&self) -> Vec<Arc<LocalKey>> {
        self.registry.lock().keys.values().cloned().collect()
    }

    /// The keys that the node knows, in alphabetical order.
    pub(crate) fn known_keys(&self) -> Vec<Key> {
        let mut keys: Vec<_> = self.registry.lock().keys.keys().cloned().collect();
        keys.sort();
        keys
    }

    /// Forgets the key if it is unused. Returns whether it is.
    pub(crate) fn forget(&self, local: &Arc<LocalKey>) -> bool {
        let mut registry = self.registry.lock();
        let unused = local.state().is_unused();
        if unused && registry.has(local) {
            registry.keys.remove(&local.key);
        }
        unused
    }

    /// Forgets the key if it is unused and the driver never knew of it.
    pub(crate) fn forget_never_scheduled(&self, local: &Arc<LocalKey>) {
        let mut registry = self.registry.lock();
        let unused = local.state().is_unused_and_never_scheduled();
        if unused && registry.has(local) {
            registry.keys.remove(&local.key);
        }
    }

    /// Closes all keys, and those that are added later: see [`LocalKey::close`].
    fn close_keys(&self) {
        let mut registry = self.registry.lock();
        registry.is_closed = true;
        let mut locals: Vec<_> = registry.keys.values().cloned().collect();
        drop(registry);
        // The order of a map is not that of the next run.
        locals.sort_by(|a, b| a.key.cmp(&b.key));
        for local in locals {
            if self.is_foreign() {
                return;
            }
            local.close(self, &self.closed(&local.key));
        }
    }

    /// The driver is gone: ends everything that waits for it, and publishes its report.
    pub(crate) fn shut_down(&self, report: Shutdown) {
        self.close_keys();
        if self.is_foreign() {
            return;
        }
        let mut wakers = self.run_queue.shut_down();
        let mut locals: Vec<_> = self.registry.lock().keys.values().cloned().collect();
        locals.sort_by(|a, b| a.key.cmp(&b.key));
        for local in &locals {
            wakers.extend(local.abandon(self));
            if self.is_foreign() {
                return std::mem::forget(wakers);
            }
        }
        let mut end = self.end.lock();
        end.report.get_or_insert(report);
        wakers.append(&mut end.wakers);
        drop(end);
        // When all is done, since they may ask for it.
        self.wake(wakers);
    }

    /// Waits for the end of the driver, and returns its report.
    async fn report(&self) -> Shutdown {
        std::future::poll_fn(|cx| {
            if self.is_foreign() {
                return Poll::Ready(Shutdown::default());
            }
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
}

impl KeyRegistry {
    /// Whether this is the local state that is registered for its key.
    fn has(&self, local: &Arc<LocalKey>) -> bool {
        self.keys.get(&local.key).is_some_and(|known| Arc::ptr_eq(known, local))
    }
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

/// A sleep on the clock of the node. The task that awaits it needs no runtime.
#[derive(Debug)]
pub(crate) struct SleepUntil {
    shared: Arc<NodeShared>,
    at: Time,
    timer: Option<TimerId>,
}

impl Future for SleepUntil {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { shared, at, timer } = &mut *self;
        if shared.is_foreign()
            || shared.clock.now() >= *at
            || !shared.run_queue.set_timer(*at, timer, cx.waker())
        {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Drop for SleepUntil {
    fn drop(&mut self) {
        if self.shared.is_foreign() {
            return leak(&self.shared);
        }
        self.shared.run_queue.cancel_timer(self.timer);
    }
}
