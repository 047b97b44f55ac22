//! An engine whose watches yield what anybody may have sent.

use crate::support::{builder, ms, settle};
use futures_util::stream;
use lockword::cluster::layers::{Intercept, Interceptor};
use lockword::cluster::{
    Capabilities, Key, LossReason, Memory, Node, NodeId, Notices, Transport, TransportError,
    Version, Versioned, Watch, async_trait,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::broadcast;

/// What a forger sends to all watches, besides true hints. Counts the loads.
struct Forger {
    items: broadcast::Sender<Option<Versioned>>,
    loads: AtomicU64,
}

impl Forger {
    fn new() -> Arc<Self> {
        Arc::new(Self { items: broadcast::Sender::new(1000), loads: AtomicU64::new(0) })
    }

    /// Shows a lock that nobody holds.
    fn show_free(&self, version: Version) {
        let value = br#"{"lockword":"3.0","heartbeat":7,"queue":[]}"#;
        let _ = self.items.send(Some(Versioned { version, value: value[..].into() }));
    }
}

#[async_trait]
impl Interceptor<Memory> for Forger {
    async fn load(&self, inner: &Memory, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.loads.fetch_add(1, Relaxed);
        // A round trip.
        tokio::time::sleep(ms(2)).await;
        inner.load(key).await
    }

    async fn watch(
        &self,
        inner: &Memory,
        key: &Key,
        node: NodeId,
    ) -> Result<Watch, TransportError> {
        let forged = stream::unfold(self.items.subscribe(), |mut items| async {
            let item = items.recv().await.ok()?;
            Some((Ok(item), items))
        });
        Ok(Box::pin(stream::select(inner.watch(key, node).await?, forged)))
    }

    fn capabilities(&self, inner: &Memory) -> Capabilities {
        let mut capabilities = inner.capabilities();
        capabilities.notices = Notices::Hints;
        capabilities
    }
}

fn node(engine: &Memory, forger: &Arc<Forger>, label: &str) -> Node {
    builder(Intercept::new(engine.clone(), forger.clone()), label).build().unwrap()
}

/// The nodes "a", which holds the lock and watches the key, and "b", which waits for it.
#[tokio::test(start_paused = true)]
async fn a_forged_free_lock_is_taken_from_nobody() {
    let (engine, forger, key) = (Memory::new(), Forger::new(), Key::new("k").unwrap());
    let (a, b) = (node(&engine, &forger, "a"), node(&engine, &forger, "b"));
    let first = b.lock(&key).unwrap().acquire().await.unwrap();
    let lock = a.lock(&key).unwrap();
    let second = tokio::spawn(async move { lock.acquire().await });
    tokio::time::sleep(ms(50)).await;
    drop(first);
    let guard = second.await.unwrap().unwrap();
    let lock = b.lock(&key).unwrap();
    let waiting = tokio::spawn(async move { lock.acquire().await });
    // Until the first renewal after the handoff.
    tokio::time::sleep(ms(500)).await;
    let before = engine.load(&key).await.unwrap().unwrap();
    let version = |number| Version::new(number).unwrap();
    for shown in [before.version, version(before.version.get() + 1), version(1), Version::MAX] {
        forger.show_free(shown);
        tokio::time::sleep(ms(50)).await;
        assert!(guard.is_valid() && !waiting.is_finished(), "{shown}");
        assert_eq!(engine.load(&key).await.unwrap().unwrap(), before, "{shown}");
    }
    guard.release().await.unwrap();
    waiting.await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_hints_costs_a_load_for_each_round_trip_and_a_true_one_is_heard() {
    let (engine, forger, key) = (Memory::new(), Forger::new(), Key::new("k").unwrap());
    let (a, b) = (node(&engine, &forger, "a"), node(&engine, &forger, "b"));
    let first = b.lock(&key).unwrap().acquire().await.unwrap();
    let lock = a.lock(&key).unwrap();
    let second = tokio::spawn(async move { lock.acquire().await });
    tokio::time::sleep(ms(50)).await;
    drop(first);
    let guard = second.await.unwrap().unwrap();
    settle().await;
    let before = forger.loads.load(Relaxed);
    for _ in 0..100 {
        for _ in 0..100 {
            forger.show_free(Version::MAX);
        }
        settle().await;
    }
    // Two nodes watch, and 100 ms are 50 round trips.
    let loads = forger.loads.load(Relaxed) - before;
    assert!(guard.is_valid() && loads <= 2 * 52, "{loads} loads");
    assert!(node(&engine, &forger, "op").break_lock("k").await.unwrap().is_some());
    let lost = tokio::time::timeout(Duration::from_millis(20), guard.lost()).await;
    assert!(matches!(lost, Ok(LossReason::Broken { .. })), "{lost:?}");
}
