//! What the handles of a node and its driver share.

use super::clock::Clock;
use super::config::Config;
use super::driving::Driving;
use super::error::{LockError, Place};
use super::guard::LossReason;
use super::key::Key;
use super::local::{Handle, Local};
use super::mailbox::{Alarm, Mailbox};
use super::node::Shutdown;
use super::observer::Observer;
use super::time::Time;
use super::trace::Trace;
use super::transport::{Capabilities, NodeId, Transport};
use crate::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// See the module. Handles keep it alive; it keeps no task alive.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) capabilities: Capabilities,
    pub(crate) node: NodeId,
    pub(crate) clock: Clock,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) mailbox: Mailbox,
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

impl Core {
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
            mailbox: Mailbox::default(),
            driving: Driving::default(),
            observer,
            random: Mutex::new(random),
            registry: Mutex::default(),
            end: Mutex::default(),
        }
    }

    /// Where something happens, for messages.
    pub(crate) fn place(&self, key: &Key) -> Place {
        Place { key: key.clone(), transport: self.capabilities.name }
    }

    pub(crate) fn closed(&self, key: &Key) -> LockError {
        LockError::Closed { at: self.place(key) }
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

    /// As [`Core::forget`], if the driver was never called for it.
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
                self.mailbox.call(local);
            }
        }
    }

    /// The driver is gone: nothing will be done any more.
    pub(crate) fn bury(self: &Arc<Self>, report: Shutdown) {
        self.close_keys();
        self.mailbox.bury();
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

    /// What a tenure was lost by when its node was closed.
    pub(crate) const CLOSED: LossReason = LossReason::Closed;
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("node", &self.node)
            .field("transport", &self.capabilities.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A timer on the node's clock; it needs no runtime where it is awaited.
#[derive(Debug)]
pub(crate) struct Sleep {
    core: Arc<Core>,
    at: Time,
    alarm: Option<Alarm>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { core, at, alarm } = &mut *self;
        if core.clock.now() >= *at || !core.mailbox.set_alarm(*at, alarm, cx.waker()) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.core.mailbox.stop_alarm(self.alarm);
    }
}
