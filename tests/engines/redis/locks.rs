//! Locks over Redis.

use super::{Server, client, until};
use lockword::cluster::Node;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_tasks_on_three_nodes_count_without_an_atomic_step() {
    const TURNS: u64 = 20;
    let Some(server) = Server::start() else { return };
    let mut nodes = vec![];
    for number in 0..3 {
        let redis = client(&server.address()).await;
        nodes.push(Node::builder(redis).label(format!("node {number}")).build());
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_behind() {
    let Some(server) = Server::start() else { return };
    let node = |redis| Node::builder(redis).lease(Duration::from_secs(1)).build();
    let one = node(client(&server.address()).await);
    let two = node(client(&server.address()).await);
    let lock = one.lock("used").unwrap();
    for _ in 0..1000 {
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    let held = lock.acquire().await.unwrap();
    let wanted = two.lock("used").unwrap();
    for micros in 0..100 {
        let acquire = wanted.acquire();
        let cancelled = tokio::time::timeout(Duration::from_micros(micros * 20), acquire).await;
        assert!(cancelled.is_err(), "it is held");
    }
    held.release().await.unwrap();
    let state = async || one.inspect("used").await.unwrap();
    while !state().await.queue.is_empty() {}
    assert_eq!(server.connections(), 2);
    // The register and the floor; and the register goes.
    until("the key is free, and has a time to live", || {
        server.say::<i64>(&["TTL", "{lockword}:used"]) > 0
    })
    .await;
    assert_eq!(server.say::<i64>(&["DBSIZE"]), 2);
    until("nothing is subscribed", || {
        server.say::<Vec<String>>(&["PUBSUB", "CHANNELS"]).is_empty()
    })
    .await;
    one.shutdown().await;
    two.shutdown().await;
    drop((one, two, lock, wanted));
    until("all connections are closed", || server.connections() == 0).await;
}
