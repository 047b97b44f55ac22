//! Locks, when all is well.

use super::{client, ms};
use crate::support::etcd::Etcd;
use futures_util::future::{join_all, poll_immediate};
use lockword::cluster::{DistributedLock, Node};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Adds one in a way that loses counts, and sees tokens that do not grow, where two are at it.
#[derive(Default)]
struct Counter {
    count: AtomicU64,
    token: AtomicU64,
}

impl Counter {
    async fn add(&self, lock: &DistributedLock) {
        let guard = lock.acquire().await.unwrap();
        let count = self.count.load(Ordering::Relaxed);
        tokio::task::yield_now().await;
        let token = guard.token().get();
        assert!(self.token.swap(token, Ordering::Relaxed) < token, "an older token");
        self.count.store(count + 1, Ordering::Relaxed);
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_tasks_on_each_of_three_nodes_lose_no_count() {
    let Some(server) = Etcd::start() else { return };
    let counter = Arc::new(Counter::default());
    let mut nodes = vec![];
    let mut tasks = vec![];
    for number in 0..3 {
        let transport = client(&server.address()).await;
        // Few hand-overs, so that it goes from node to node often.
        let node = Node::builder(transport).label(format!("n{number}")).handovers(4).build();
        for _ in 0..10 {
            let (lock, counter) = (node.lock("counter").unwrap(), counter.clone());
            tasks.push(tokio::spawn(async move {
                for _ in 0..10 {
                    counter.add(&lock).await;
                }
            }));
        }
        nodes.push(node);
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(counter.count.load(Ordering::Relaxed), 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_behind() {
    let Some(server) = Etcd::start() else { return };
    let watchers = || server.metric("etcd_debugging_mvcc_watcher_total");
    let node = Node::builder(client(&server.address()).await).lease(ms(1000)).build();
    let other = Node::builder(client(&server.address()).await).build();
    let lock = node.lock("busy").unwrap();
    for _ in 0..1000 {
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    let held = other.lock("busy").unwrap().acquire().await.unwrap();
    // Several of a time, given up at various moments.
    for round in 0..20 {
        let waiting = join_all((0..5).map(|_| lock.acquire()));
        assert!(tokio::time::timeout(ms(round), waiting).await.is_err(), "it is held");
    }
    assert!(poll_immediate(lock.acquire()).await.is_none());
    held.release().await.unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    assert_eq!(server.connections(), 2, "one for each node");
    assert_eq!(server.metric("etcd_debugging_mvcc_keys_total"), 1.0);
    // A watch that nobody needs is kept for a lease.
    drop(lock);
    wait("the watch to end", || watchers() == 0.0).await;
    node.shutdown().await;
    other.shutdown().await;
    drop((node, other));
    wait("the connections to end", || server.connections() == 0).await;
}

async fn wait(what: &str, until: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !until() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(ms(10)).await;
    }
}

#[test]
fn threads_without_a_runtime_have_locks_too() {
    let Some(server) = Etcd::start() else { return };
    let connecting = tokio::runtime::Runtime::new().unwrap();
    let transport = connecting.block_on(client(&server.address()));
    // The runtime in which the connection was made has gone: another one is made.
    drop(connecting);
    let node = Node::builder(transport).build().blocking();
    let lock = node.lock("thread").unwrap();
    let guard = lock.acquire().unwrap();
    assert!(guard.is_valid());
    guard.release().unwrap();
}
