//! A busy node: what it does for other keys must cost no lock that is held.

use lockword::cluster::{Memory, Node};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Long enough for a busy machine; a lock that is not renewed is lost all the same in these tests.
pub const LEASE: Duration = Duration::from_secs(2);

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

    /// Ends the threads. Returns how many handles they made.
    fn end(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.made.load(Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn renewals_are_in_time_while_thousands_of_other_keys_are_used() {
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
    assert!(count.load(Relaxed) > 0);
    assert!(lost.is_err(), "{lost:?} after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_are_in_time_while_handles_are_made_and_dropped() {
    let a = Node::builder(Memory::new()).lease(LEASE).build().unwrap();
    let guard = a.lock("held").unwrap().acquire().await.unwrap();
    let churn = Churn::begin(&a);
    let began = Instant::now();
    let lost = tokio::time::timeout(3 * LEASE, guard.lost()).await;
    let made = churn.end();
    assert!(made > 0);
    assert!(lost.is_err(), "{lost:?} after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_in_time_while_handles_are_made_and_dropped() {
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
    assert!(report.is_ok());
    drop(guard);
    assert!(took < LEASE, "{took:?}, not two request timeouts (800 ms)");
}

/// More keys than the driver polls in one go, all of them busy. None waits for the others to rest.
#[tokio::test]
async fn every_busy_key_gets_its_turn() {
    const KEYS: usize = 100;
    let node = Node::builder(Memory::new()).runtime(Handle::current()).build().unwrap();
    let counts: Arc<[AtomicU64]> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let mut tasks = JoinSet::new();
    for key in 0..KEYS {
        let (lock, counts) = (node.lock(format!("k{key}")).unwrap(), counts.clone());
        tasks.spawn(async move {
            while counts.iter().map(|count| count.load(Relaxed)).sum::<u64>() < 10_000 {
                lock.acquire().await.unwrap().release().await.unwrap();
                counts[key].fetch_add(1, Relaxed);
            }
        });
    }
    tasks.join_all().await;
    let counts: Vec<u64> = counts.iter().map(|count| count.load(Relaxed)).collect();
    // A tenth of its share.
    assert!(counts.iter().all(|count| *count >= 10), "{counts:?}");
}
