//! Engines that answer what they never should, or misbehave otherwise.

use crate::support::{builder, ms, node, settle};
use lockword::cluster::layers::{Intercept, Interceptor};
use lockword::cluster::{
    Exchange, Key, LockError, Memory, Node, NodeId, Transport, TransportError, Version, Versioned,
    Watch, Write, async_trait,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Responds to the nth write with a lie instead of the truth.
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

/// A renewal is answered by a version that is older.
#[tokio::test(start_paused = true)]
async fn tokens_after_a_swap_with_an_old_version() {
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
    println!("first is valid: {}", first.is_valid());
    first.release().await.ok();
    let next = next.await.unwrap();
    assert!(next > token, "{next} after {token}");
}

/// A mismatch that shows the very version that was expected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mismatch_that_is_none() {
    let lie = |_, _, _| Exchange::Mismatch(None);
    let engine = Intercept::new(Memory::new(), Lying { writes: Arc::default(), lie });
    let a = Node::builder(engine.clone()).lease(ms(1500)).build().unwrap();
    let lock = a.lock("k").unwrap();
    let got = lock.acquire_timeout(ms(500)).await;
    let writes = engine.interceptor().writes.load(Relaxed);
    println!("{got:?}");
    assert!(writes < 1000, "{writes} writes in 500 ms");
}

/// A foreign value that is gone again, where a watch said "look yourself".
#[tokio::test(start_paused = true)]
async fn a_foreign_value_that_is_gone() {
    let engine = Memory::new();
    let (a, b) = (node(engine.clone(), "a"), node(engine.clone(), "b"));
    let lock = a.lock("k").unwrap();
    let key = Key::new("k").unwrap();
    let theirs = b.lock("k").unwrap().acquire().await.unwrap();
    assert!(lock.acquire_timeout(ms(100)).await.is_err()); // From here on it watches.
    drop(theirs);
    settle().await;
    let version = engine.load(&key).await.unwrap().map(|now| now.version);
    let write = Write {
        value: b"foreign".as_slice().into(),
        wake: lockword::cluster::Wake::Everybody,
        idle: false,
    };
    engine.compare_exchange(&key, version, write).await.unwrap();
    settle().await;
    let error = lock.acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Unreadable { .. }), "{error}");
    assert!(engine.delete(&key));
    settle().await;
    drop(lock.acquire().await.unwrap());
}

/// Watches end at once. Counts them, and the loads.
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

/// How often it asks again.
#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_at_once() {
    let asked = Arc::new(AtomicU64::new(0));
    let engine = Memory::new();
    let a = node(Intercept::new(engine.clone(), Flapping(asked.clone())), "a");
    let b = node(engine, "b");
    let _theirs = b.lock("k").unwrap().acquire().await.unwrap();
    assert!(a.lock("k").unwrap().acquire_timeout(Duration::from_secs(10)).await.is_err());
    let asked = asked.load(Relaxed);
    assert!(asked < 300, "{asked} requests in 10 s");
}

/// A future whose drop panics: as a transport's may, when the request is given up.
struct Rude;
impl Drop for Rude {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("rude");
        }
    }
}

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

/// A request that panics when it is dropped.
#[tokio::test(start_paused = true)]
async fn a_request_that_panics_when_dropped() {
    let a =
        builder(Intercept::new(Memory::new(), DropsPanic), "a").lease(ms(1000)).build().unwrap();
    let good = a.lock("good").unwrap().acquire().await.unwrap();
    let rude = a.lock("rude").unwrap().acquire_timeout(ms(700)).await;
    println!("{rude:?}");
    tokio::time::sleep(ms(100)).await;
    assert!(good.is_valid(), "{:?}", good.lost().await);
}
