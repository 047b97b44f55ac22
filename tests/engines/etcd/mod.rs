//! etcd, against servers that the tests start.

mod authentication;
mod credentials;
mod faults;
mod full_database;
mod grants;
mod large_values;
mod laws;
mod locks;

use crate::support::etcd_client::connect as raw;
use lockword::cluster::engines::etcd::Etcd;
use lockword::cluster::{
    Exchange, Key, Transport, TransportError, Version, Versioned, Wake, Write, connect,
};
use std::sync::Arc;
use std::time::Duration;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}

async fn client(address: &str) -> Arc<dyn Transport> {
    connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"))
}

async fn typed(address: &str) -> Etcd {
    Etcd::connect(&address.parse().expect("a URL")).await.expect("etcd is there")
}

fn write(value: &str, idle: bool) -> Write {
    Write { value: value.as_bytes().into(), wake: Wake::Everybody, idle }
}

/// Writes, whatever the register holds.
async fn put(transport: &impl Transport, key: &Key, new: &Write) -> Version {
    let mut expected = transport.load(key).await.expect("it is there").map(|found| found.version);
    loop {
        match transport.compare_exchange(key, expected, new.clone()).await {
            Ok(Exchange::Swapped(version)) => return version,
            Ok(Exchange::Mismatch(found)) => expected = found.map(|found| found.version),
            Err(error) => panic!("{key} cannot be written: {error}"),
        }
    }
}

/// What the register holds, as soon as the engine answers again.
async fn load_in_the_end(transport: &impl Transport, key: &Key) -> Option<Versioned> {
    loop {
        match transport.load(key).await {
            Ok(found) => return found,
            Err(TransportError::Unavailable(_)) => tokio::time::sleep(ms(5)).await,
            Err(other) => panic!("{key} cannot be read: {other}"),
        }
    }
}
