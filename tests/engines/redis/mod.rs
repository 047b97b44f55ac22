//! Redis, against servers that the tests start.

mod addresses;
mod cluster;
mod credentials;
mod faults;
mod floors;
mod grants;
mod laws;
mod migration;
mod refusals;
mod replicas;
mod sentinel;

use crate::support::redis::{RedisServer, RedisSetup};
use lockword::cluster::engines::redis::Redis;
use lockword::cluster::{Exchange, Key, NodeId, Transport, TransportError, Version, Wake, Write};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A client of the server at this address.
async fn client(address: &str) -> Redis {
    let url = url::Url::parse(address).expect("an address");
    Redis::connect(&url).await.unwrap_or_else(|error| panic!("{address}: {error}"))
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a good name")
}

fn write(value: &str) -> Write {
    Write { value: value.as_bytes().into(), wake: Wake::Everybody, idle: false }
}

fn idle(value: &str) -> Write {
    Write { idle: true, ..write(value) }
}

/// A write that has to succeed.
async fn put(redis: &Redis, key: &Key, expected: Option<Version>, new: Write) -> Version {
    match redis.compare_exchange(key, expected, new).await {
        Ok(Exchange::Swapped(version)) => version,
        other => panic!("{key}: {other:?}"),
    }
}

/// Waits until it is so.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !so() {
        assert!(Instant::now() < end, "still not so: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
