//! When all is done, nothing is left: on the server, and in the nodes.

use super::stage::{client, soon, until};
use crate::support::engine::Engine;
use lockword::cluster::Node;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;

const KEYS: usize = 10;
const PAIRS: usize = 10_000;
const CANCELLED: usize = 1_000;

pub async fn nothing<E: Engine>() {
    let Some(server) = E::start().await else { return };
    let builder = async || {
        let transport = client(&server.address()).await;
        Node::builder(transport).lease(Duration::from_secs(6))
    };
    let build = async || builder().await.patience(Duration::from_secs(60)).build();
    let (one, two) = (build().await, build().await);
    let key = |number: usize| format!("left/{number}");

    let began = Instant::now();
    let mut pairs = JoinSet::new();
    for number in 0..KEYS {
        let lock = one.lock(key(number)).unwrap();
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
        let held = one.lock(key(number)).unwrap().acquire().await.unwrap();
        let lock = two.lock(key(number)).unwrap();
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

    // What nobody needs any more is kept for a while.
    until("the nodes forget the keys", async || one.keys() == 0 && two.keys() == 0).await;
    until("nothing is watched", async || server.left().await.watches == 0).await;
    let left = server.left().await;
    println!("{left:?}");
    assert_eq!(left.keys, KEYS);
    assert!(left.connections <= 4, "{left:?}: two nodes");
    for node in [&one, &two] {
        let shutdown = soon("the shutdown", node.shutdown()).await;
        assert!(shutdown.in_doubt.is_empty() && shutdown.released.is_empty(), "{shutdown:?}");
    }
    drop((one, two));
    until("the connections end", async || server.left().await.connections == 0).await;
}
