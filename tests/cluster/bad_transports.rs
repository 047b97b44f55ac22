//! Transports that break the laws: wrong responses, watches that misbehave, panics.

use crate::load::LEASE;
use crate::support::{builder, ms, node};
use lockword::cluster::layers::{Intercept, Interceptor};
use lockword::cluster::{
    Exchange, Key, LockError, LossReason, Memory, Node, NodeId, Transport, TransportError, Version,
    Versioned, Watch, Write, async_trait,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Responds to the nth write with what `lie` makes of the true response.
#[derive(Clone)]
struct Lying {
    writes: Arc<AtomicU64>,
    lie: fn(u64, Exchange, Option<Version>) -> Exchange,
}

#[async_trait]
impl Interceptor<Memory> for Lying {
    async fn compare_exchange(
        &self,
        inner: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let n = self.writes.fetch_add(1, Relaxed);
        let truth = inner.compare_exchange(key, expected, new).await?;
        Ok((self.lie)(n, truth, expected))
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_increase_although_a_renewal_returns_an_old_version() {
    let lie = |n, truth, _| match truth {
        Exchange::Swapped(_) if n == 1 => Exchange::Swapped(Version::new(5).unwrap()),
        truth => truth,
    };
    let engine = Intercept::new(Memory::new(), Lying { writes: Arc::default(), lie });
    let a = builder(engine, "a").lease(ms(1500)).build().unwrap();
    let lock = a.lock("k").unwrap();
    let first = lock.acquire().await.unwrap();
    let token = first.token();
    let next = lock.clone();
    let next = tokio::spawn(async move { next.acquire().await.unwrap().token() });
    tokio::time::sleep(ms(105)).await; // Renewed once.
    first.release().await.ok();
    let next = next.await.unwrap();
    assert!(next > token, "{next} after {token}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mismatch_with_the_expected_version_does_not_make_the_node_spin() {
    let lie = |_, _, _| Exchange::Mismatch(None);
    let engine = Intercept::new(Memory::new(), Lying { writes: Arc::default(), lie });
    let a = Node::builder(engine.clone()).lease(ms(1500)).build().unwrap();
    let lock = a.lock("k").unwrap();
    assert!(lock.acquire_timeout(ms(500)).await.is_err());
    let writes = engine.interceptor().writes.load(Relaxed);
    assert!(writes < 1000, "{writes} writes in 500 ms");
}

/// Every watch ends at once. Counts the watches and the loads.
struct Flapping(Arc<AtomicU64>);

#[async_trait]
impl Interceptor<Memory> for Flapping {
    async fn load(&self, inner: &Memory, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.0.fetch_add(1, Relaxed);
        inner.load(key).await
    }

    async fn watch(&self, _: &Memory, _: &Key, _: NodeId) -> Result<Watch, TransportError> {
        self.0.fetch_add(1, Relaxed);
        Ok(Box::pin(futures_util::stream::empty()))
    }
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_do_not_make_the_node_spin() {
    let asked = Arc::new(AtomicU64::new(0));
    let engine = Memory::new();
    let a = node(Intercept::new(engine.clone(), Flapping(asked.clone())), "a");
    let b = node(engine, "b");
    let _theirs = b.lock("k").unwrap().acquire().await.unwrap();
    assert!(a.lock("k").unwrap().acquire_timeout(Duration::from_secs(10)).await.is_err());
    let asked = asked.load(Relaxed);
    assert!(asked < 300, "{asked} requests in 10 s");
}

/// A watch that yields without end.
struct Endless;

#[async_trait]
impl Interceptor<Memory> for Endless {
    async fn watch(&self, inner: &Memory, key: &Key, _: NodeId) -> Result<Watch, TransportError> {
        let now = inner.load(key).await?;
        Ok(Box::pin(futures_util::stream::repeat(Ok(now))))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_watch_does_not_keep_other_keys_from_their_renewal() {
    let engine = Memory::new();
    let a = Node::builder(Intercept::new(engine.clone(), Endless)).lease(LEASE).build().unwrap();
    let b = Node::builder(engine).lease(LEASE).build().unwrap();
    let mine = a.lock("mine").unwrap().acquire().await.unwrap();
    let _theirs = b.lock("k").unwrap().acquire().await.unwrap();
    let lock = a.lock("k").unwrap();
    let waits = tokio::spawn(async move { lock.acquire().await.map(drop) });
    let lost = tokio::time::timeout(3 * LEASE, mine.lost()).await;
    waits.abort();
    assert!(lost.is_err(), "{lost:?}");
}

/// Panics when it is dropped, as a future of a transport may when the request is given up.
struct Rude;

impl Drop for Rude {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("rude");
        }
    }
}

/// Writes of the key `rude` never end, and panic when they are dropped.
struct DropsPanic;

#[async_trait]
impl Interceptor<Memory> for DropsPanic {
    async fn compare_exchange(
        &self,
        inner: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        if key.as_str() == "rude" {
            let _rude = Rude;
            std::future::pending::<()>().await;
        }
        inner.compare_exchange(key, expected, new).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_dropped_request_costs_no_other_key_its_lock() {
    let a =
        builder(Intercept::new(Memory::new(), DropsPanic), "a").lease(ms(1000)).build().unwrap();
    let good = a.lock("good").unwrap().acquire().await.unwrap();
    let rude = a.lock("rude").unwrap().acquire_timeout(ms(700)).await;
    assert!(rude.is_err());
    tokio::time::sleep(ms(100)).await;
    assert!(good.is_valid(), "{:?}", good.lost().await);
}

/// Every operation panics while this is true.
struct Panics(Arc<AtomicBool>);

impl Panics {
    fn check(&self) {
        assert!(!self.0.load(Relaxed), "a bug in the transport");
    }
}

#[async_trait]
impl Interceptor<Memory> for Panics {
    async fn load(&self, inner: &Memory, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.check();
        inner.load(key).await
    }

    async fn compare_exchange(
        &self,
        inner: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        self.check();
        inner.compare_exchange(key, expected, new).await
    }

    async fn watch(
        &self,
        inner: &Memory,
        key: &Key,
        node: NodeId,
    ) -> Result<Watch, TransportError> {
        self.check();
        inner.watch(key, node).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_transport_is_an_error_of_the_engine() {
    let is_bad = Arc::new(AtomicBool::new(true));
    let node = builder(Intercept::new(Memory::new(), Panics(is_bad.clone())), "a").build().unwrap();
    let lock = node.lock("k").unwrap();
    let error = lock.try_acquire().await.unwrap_err();
    assert!(
        error.to_string().contains("the transport panicked: a bug in the transport"),
        "{error}"
    );
    assert!(matches!(
        node.inspect("k").await.unwrap_err(),
        LockError::Transport { source: TransportError::Unavailable(_), .. }
    ));
    is_bad.store(false, Relaxed);
    let guard = lock.acquire().await.unwrap();
    is_bad.store(true, Relaxed);
    assert!(matches!(guard.lost().await, LossReason::Expired { last: Some(_) }));
    is_bad.store(false, Relaxed);
    assert!(lock.acquire().await.unwrap().is_valid());
}
