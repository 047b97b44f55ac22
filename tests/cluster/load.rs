//! A busy node: what others do with it must cost no lock that is held.

use crate::support::ms;
use lockword::cluster::{
    Capabilities, Exchange, Key, Memory, Node, NodeId, Transport, TransportError, Version,
    Versioned, Watch, Write, async_trait,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Others' load must not cost a held lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn renewal_under_load_of_other_keys() {
    let a = Node::builder(Memory::new()).lease(ms(500)).build();
    let guard = a.lock("held").unwrap().acquire().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let mut all = vec![];
    for i in 0..3000 {
        let lock = a.lock(format!("k{i}")).unwrap();
        let (stop, count) = (stop.clone(), count.clone());
        all.push(tokio::spawn(async move {
            while !stop.load(Relaxed) {
                if let Ok(guard) = lock.acquire().await {
                    count.fetch_add(1, Relaxed);
                    drop(guard);
                }
            }
        }));
    }
    let began = Instant::now();
    let lost = tokio::time::timeout(Duration::from_secs(4), guard.lost()).await;
    stop.store(true, Relaxed);
    println!("{lost:?} after {:?}, {} grants", began.elapsed(), count.load(Relaxed));
    assert!(lost.is_err(), "{lost:?} after {:?}", began.elapsed());
}

/// Handles that are made and dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewal_under_load_of_handles() {
    let a = Node::builder(Memory::new()).lease(ms(500)).build();
    let guard = a.lock("held").unwrap().acquire().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..8)
        .map(|t| {
            let (a, stop) = (a.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut i = 0_u64;
                while !stop.load(Relaxed) {
                    drop(a.lock(format!("k{t}-{i}")).unwrap());
                    i += 1;
                }
                i
            })
        })
        .collect();
    let began = Instant::now();
    let lost = tokio::time::timeout(Duration::from_secs(4), guard.lost()).await;
    let keys = a.keys();
    stop.store(true, Relaxed);
    let made: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
    println!("{lost:?} after {:?}, {made} handles, {keys} keys known", began.elapsed());
    assert!(lost.is_err(), "{lost:?} after {:?}", began.elapsed());
}

/// A watch that never stops to yield.
#[derive(Clone)]
struct Endless(Memory);

#[async_trait]
impl Transport for Endless {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.0.load(key).await
    }
    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        self.0.compare_exchange(key, expected, new).await
    }
    async fn watch(&self, key: &Key, _: NodeId) -> Result<Watch, TransportError> {
        let now = self.0.load(key).await?;
        Ok(Box::pin(futures_util::stream::repeat(Ok(now))))
    }
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}

/// A watch that yields without end starves the timers of other keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_watch() {
    let engine = Endless(Memory::new());
    let a = Node::builder(engine.clone()).lease(ms(1500)).build();
    let b = Node::builder(engine.0.clone()).lease(ms(1500)).build();
    let mine = a.lock("mine").unwrap().acquire().await.unwrap();
    let _theirs = b.lock("k").unwrap().acquire().await.unwrap();
    let lock = a.lock("k").unwrap();
    let waits = tokio::spawn(async move { lock.acquire().await.map(drop) });
    let lost = tokio::time::timeout(Duration::from_secs(3), mine.lost()).await;
    waits.abort();
    assert!(lost.is_err(), "{lost:?}");
}

/// The end of a node must come in time, whatever others do with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_under_load_of_handles() {
    let a = Node::builder(Memory::new()).lease(ms(500)).build();
    let guard = a.lock("held").unwrap().acquire().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..8)
        .map(|t| {
            let (a, stop) = (a.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut i = 0_u64;
                while !stop.load(Relaxed) {
                    drop(a.lock(format!("k{t}-{i}")).unwrap());
                    i += 1;
                }
            })
        })
        .collect();
    tokio::time::sleep(ms(100)).await;
    let began = Instant::now();
    let report = tokio::time::timeout(Duration::from_secs(4), a.shutdown()).await;
    let took = began.elapsed();
    stop.store(true, Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    println!("{report:?} {took:?}");
    drop(guard);
    assert!(took < ms(500), "{took:?}, not two request timeouts (200 ms)");
}
