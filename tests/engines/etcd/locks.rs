//! Locks, when all is well.

use super::client;
use crate::support::etcd::EtcdServer;
use lockword::cluster::{DistributedLock, Node};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
async fn ten_tasks_on_each_of_three_nodes_exclude_each_other() {
    let Some(server) = EtcdServer::start() else { return };
    let counter = Arc::new(Counter::default());
    let mut nodes = vec![];
    let mut tasks = vec![];
    for number in 0..3 {
        let transport = client(&server.address()).await;
        // Few handoffs, so that it goes from node to node often.
        let node =
            Node::builder(transport).label(format!("n{number}")).local_handoffs(4).build().unwrap();
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

#[test]
fn threads_without_a_runtime_can_lock() {
    let Some(server) = EtcdServer::start() else { return };
    let connecting = tokio::runtime::Runtime::new().unwrap();
    let transport = connecting.block_on(client(&server.address()));
    // The runtime in which the connection was made has gone: another one is made.
    drop(connecting);
    let node = Node::builder(transport).build().unwrap().blocking();
    let lock = node.lock("thread").unwrap();
    let guard = lock.acquire().unwrap();
    assert!(guard.is_valid());
    guard.release().unwrap();
}
