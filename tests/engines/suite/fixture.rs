//! An engine, nodes that use it, and the history of what their transports returned.
#![allow(dead_code, reason = "an engine without a server does not need all of it")]

use crate::support::engine::Engine;
use lockword::cluster::conformance::History;
use lockword::cluster::layers::{Intercept, Interceptor};
use lockword::cluster::{
    DistributedGuard, DistributedLock, Exchange, Key, LockError, LockStatus, Node, NodeBuilder,
    Transport, TransportError, Version, Write, async_trait, connect,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Longer than anything here may take.
pub const LIMIT: Duration = Duration::from_secs(60);
/// A lease that is longer than any server needs to start again.
pub const LONG: Duration = Duration::from_secs(30);
/// A lease that ends soon.
pub const SHORT: Duration = Duration::from_millis(1200);
/// The name of the lock.
pub const KEY: &str = "suite/k";

pub struct Fixture<E> {
    pub server: E,
    pub history: History,
    clients: AtomicUsize,
}

impl<E: Engine> Fixture<E> {
    /// `None`: skip the test.
    pub async fn start() -> Option<Self> {
        Some(Self::of(E::start().await?))
    }

    pub fn of(server: E) -> Self {
        Self { server, history: History::new(), clients: AtomicUsize::new(0) }
    }

    /// A node with a connection of its own.
    pub async fn node(&self, lease: Duration) -> Node {
        self.node_at(&self.server.address(), lease).await
    }

    pub async fn node_at(&self, address: &str, lease: Duration) -> Node {
        node(address, lease, self.next(), &self.history).await
    }

    /// The same that keeps for as long what it is handed as what it takes.
    pub async fn patient_node(&self) -> Node {
        let builder = builder(&self.server.address(), LONG, self.next(), &self.history).await;
        builder.handoff_lease(LONG).build().unwrap()
    }

    fn next(&self) -> usize {
        self.clients.fetch_add(1, Ordering::Relaxed)
    }

    /// A node that looks, and leaves no trace in the history.
    pub async fn looker(&self) -> Node {
        Node::builder(client(&self.server.address()).await).label("looker").build().unwrap()
    }

    /// In the end the lock is free, and what the transports returned is consistent.
    pub async fn end(&self, looker: &Node) {
        is_free(looker).await;
        self.check();
    }

    pub fn check(&self) {
        if let Err(violation) = self.history.check() {
            panic!("{violation}");
        }
    }
}

/// A node whose transport's answers go into this history.
pub async fn node(address: &str, lease: Duration, number: usize, history: &History) -> Node {
    builder(address, lease, number, history).await.build().unwrap()
}

async fn builder(address: &str, lease: Duration, number: usize, history: &History) -> NodeBuilder {
    let transport = Intercept::new(client(address).await, history.recorder(number));
    Node::builder(Intercept::new(transport, Unique))
        .label(format!("n{number}"))
        .lease(lease)
        .unavailable_timeout(LIMIT * 2)
}

/// Before an address: the client seals.
pub const SEALED: &str = "sealed+";

pub async fn client(address: &str) -> Arc<dyn Transport> {
    #[cfg(feature = "sealed")]
    if let Some(address) = address.strip_prefix(SEALED) {
        use lockword::cluster::layers::{SealKeys, Sealed};
        let keys = SealKeys::new(&[1; 32], &[2; 32]).expect("they differ");
        return Arc::new(Sealed::new(Box::pin(client(address)).await, keys));
    }
    connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"))
}

pub fn lock(node: &Node) -> DistributedLock {
    node.lock(KEY).expect("a key")
}

pub async fn acquire(node: &Node) -> DistributedGuard {
    soon("the lock", lock(node).acquire()).await.expect("it is granted")
}

/// Begins to wait for the lock, and is in the queue when this returns.
pub async fn wait(node: &Node, looker: &Node) -> JoinHandle<Result<DistributedGuard, LockError>> {
    let lock = lock(node);
    let waiting = tokio::spawn(async move { lock.acquire().await });
    let id = node.id();
    until("it is in the queue", async || {
        let state = looker.inspect(KEY).await;
        state.is_ok_and(|state| state.queue.iter().any(|queued| queued.node == id))
    })
    .await;
    waiting
}

/// The guard for which a task waited.
pub async fn granted(waiting: JoinHandle<Result<DistributedGuard, LockError>>) -> DistributedGuard {
    soon("the lock", waiting).await.expect("no panic").expect("it is granted")
}

pub async fn release(guard: DistributedGuard) {
    soon("the release", guard.release()).await.expect("it was held");
}

pub async fn is_free(looker: &Node) {
    until("the lock is free", async || {
        let state = looker.inspect(KEY).await;
        state.is_ok_and(|state| state.status == LockStatus::Free && state.queue.is_empty())
    })
    .await;
}

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// Waits until it is so.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so().await {
        assert!(Instant::now() < end, "in vain: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Makes every value that is written differ from all others, as a history wants it: by blanks behind
/// it. (When a node leaves the queue, the register is as it was before it joined.)
struct Unique;

#[async_trait]
impl<T: Transport> Interceptor<T> for Unique {
    async fn compare_exchange(
        &self,
        inner: &T,
        key: &Key,
        expected: Option<Version>,
        mut new: Write,
    ) -> Result<Exchange, TransportError> {
        static WRITES: AtomicUsize = AtomicUsize::new(0);
        let number = WRITES.fetch_add(1, Ordering::Relaxed);
        let blanks = (0..24).map(|bit| if number >> bit & 1 == 0 { b' ' } else { b'\t' });
        new.value = new.value.iter().copied().chain(blanks).collect();
        inner.compare_exchange(key, expected, new).await
    }
}
