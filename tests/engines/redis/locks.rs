//! Locks over Redis.

use super::{Server, client};
use lockword::cluster::Node;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_tasks_on_three_nodes_count_without_an_atomic_step() {
    const TURNS: u64 = 20;
    let Some(server) = Server::start() else { return };
    let mut nodes = vec![];
    for number in 0..3 {
        let redis = client(&server.address()).await;
        nodes.push(Node::builder(redis).label(format!("node {number}")).build().unwrap());
    }
    // The sum, read and written in two steps; and the last token.
    let counter = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    for task in 0..10 {
        let (lock, counter) = (nodes[task % 3].lock("counter").unwrap(), counter.clone());
        tasks.spawn(async move {
            for _ in 0..TURNS {
                let guard = lock.acquire().await.unwrap();
                let before = counter.0.load(Relaxed);
                tokio::task::yield_now().await;
                let token = guard.token().get();
                assert!(counter.1.swap(token, Relaxed) < token);
                counter.0.store(before + 1, Relaxed);
                guard.release().await.unwrap();
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert_eq!(counter.0.load(Relaxed), 10 * TURNS);
}
