//! A busy node: what others do with it must cost no lock that is held.

use lockword::cluster::layers::{Intercept, Interceptor};
use lockword::cluster::{Key, Memory, Node, NodeId, Transport, TransportError, Watch, async_trait};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Long enough for a machine that has much else to do; where nothing is renewed, none is.
const LEASE: Duration = Duration::from_secs(2);

/// Threads that make handles of ever new keys of a node, and drop them.
struct Churn {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Churn {
    fn begin(node: &Node) -> Self {
        let (stop, made) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let churn = |_| {
            let (node, stop, made) = (node.clone(), stop.clone(), made.clone());
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    drop(node.lock(format!("k{}", made.fetch_add(1, Relaxed))).unwrap());
                }
            })
        };
        let threads = (0..8).map(churn).collect();
        Self { stop, made, threads }
    }

    /// How many there were.
    fn end(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.made.load(Relaxed)
    }
}

/// Others' load must not cost a held lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn renewal_under_load_of_other_keys() {
    let a = Node::builder(Memory::new()).lease(LEASE).build().unwrap();
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
    let lost = tokio::time::timeout(3 * LEASE, guard.lost()).await;
    stop.store(true, Relaxed);
    println!("{lost:?} after {:?}, {} grants", began.elapsed(), count.load(Relaxed));
    assert!(lost.is_err(), "{lost:?} after {:?}", began.elapsed());
}

/// Handles that are made and dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewal_under_load_of_handles() {
    let a = Node::builder(Memory::new()).lease(LEASE).build().unwrap();
    let guard = a.lock("held").unwrap().acquire().await.unwrap();
    let churn = Churn::begin(&a);
    let began = Instant::now();
    let lost = tokio::time::timeout(3 * LEASE, guard.lost()).await;
    let keys = a.keys();
    let made = churn.end();
    println!("{lost:?} after {:?}, {made} handles, {keys} keys known", began.elapsed());
    assert!(lost.is_err(), "{lost:?} after {:?}", began.elapsed());
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

/// A watch that yields without end starves the timers of other keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_watch() {
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

/// The end of a node must come in time, whatever others do with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_under_load_of_handles() {
    let a = Node::builder(Memory::new()).lease(LEASE).build().unwrap();
    let guard = a.lock("held").unwrap().acquire().await.unwrap();
    let churn = Churn::begin(&a);
    while churn.made.load(Relaxed) < 1000 {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    let report = tokio::time::timeout(5 * LEASE, a.shutdown()).await;
    let took = began.elapsed();
    churn.end();
    println!("{report:?} {took:?}");
    drop(guard);
    assert!(took < LEASE, "{took:?}, not two request timeouts (800 ms)");
}
