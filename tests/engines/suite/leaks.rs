//! When all is done, nothing is left: on the server, and in the nodes.

use super::fixture::{client, soon, until};
use crate::support::engine::Engine;
use lockword::cluster::Node;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;

const NODES: usize = 5;
const KEYS: usize = 10;
const PAIRS: usize = 10_000;
const CANCELLED: usize = 1_000;

pub async fn nothing_is_left<E: Engine>() {
    let Some(server) = E::start().await else { return };
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let tasks_before = tasks();
    let build = async || {
        let transport = client(&server.address()).await;
        let lease = Duration::from_secs(6);
        Node::builder(transport)
            .lease(lease)
            .unavailable_timeout(Duration::from_secs(60))
            .build()
            .unwrap()
    };
    let mut nodes = vec![];
    for _ in 0..NODES {
        nodes.push(build().await);
    }
    let lock = |node: usize, key: usize| nodes[node % NODES].lock(format!("leaks/{key}")).unwrap();

    let began = Instant::now();
    let mut pairs = JoinSet::new();
    for number in 0..KEYS {
        let lock = lock(number, number);
        pairs.spawn(async move {
            for _ in 0..PAIRS / KEYS {
                lock.acquire().await.unwrap().release().await.unwrap();
            }
        });
    }
    while let Some(done) = pairs.join_next().await {
        done.unwrap();
    }
    println!("{PAIRS} pairs in {:?}", began.elapsed());

    let began = Instant::now();
    let mut cancelled = JoinSet::new();
    for number in 0..KEYS {
        let held = lock(number, number).acquire().await.unwrap();
        let lock = lock(number + 1, number);
        cancelled.spawn(async move {
            for turn in 0..CANCELLED / KEYS {
                // At various moments.
                let within = Duration::from_micros(turn as u64 * 100);
                assert!(timeout(within, lock.acquire()).await.is_err(), "it is held");
            }
            held.release().await.unwrap();
            lock.acquire().await.unwrap().release().await.unwrap();
        });
    }
    while let Some(done) = cancelled.join_next().await {
        done.unwrap();
    }
    println!("{CANCELLED} cancelled in {:?}", began.elapsed());

    // State that is not needed any more is kept for a while.
    until("the nodes forget the keys", async || nodes.iter().all(|node| node.keys() == 0)).await;
    until("nothing is watched", async || server.usage().await.watches == 0).await;
    let left = server.usage().await;
    println!("{left:?}");
    assert_eq!(left.keys, KEYS);
    assert!(left.connections <= E::CONNECTIONS * NODES, "{left:?}");
    for node in &nodes {
        let shutdown = soon("the shutdown", node.shutdown()).await;
        assert!(shutdown.indeterminate.is_empty() && shutdown.released.is_empty(), "{shutdown:?}");
    }
    drop(nodes);
    until("the connections end", async || server.usage().await.connections == 0).await;
    until("the tasks end", async || tasks() <= tasks_before).await;
}
