//! PostgreSQL, against servers that the tests start.

use crate::support::postgres::{PostgresServer, PostgresSetup};
use lockword::cluster::engines::postgres::Postgres;
use lockword::cluster::{
    ConnectError, DistributedLock, Exchange, Key, Node, NodeBuilder, Transport, TransportError,
    Version, Wake, Write,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use url::Url;

mod addresses;
mod connecting;
mod credentials;
mod faults;
mod floors;
mod grants;
mod laws;
mod locks;
mod notices;
mod overload;
mod replicas;
mod row_locks;
mod table;
mod unlogged;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A server with the table in it. `None`: skip the test.
async fn server() -> Option<PostgresServer> {
    server_with(PostgresSetup::default()).await
}

async fn server_with(setup: PostgresSetup) -> Option<PostgresServer> {
    let server = PostgresServer::start(setup)?;
    client(&server.address("create_schema=true")).await;
    Some(server)
}

async fn connect(address: &str) -> Result<Postgres, ConnectError> {
    Postgres::connect(&Url::parse(address).expect("an address")).await
}

async fn client(address: &str) -> Postgres {
    connect(address).await.expect("it runs")
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a name")
}

fn value(value: &str) -> Write {
    Write { value: value.as_bytes().into(), wake: Wake::Nobody, idle: false }
}

/// Writes, whatever is there.
async fn put(engine: &Postgres, name: &str, text: &str) -> Version {
    let mut found = None;
    loop {
        match engine.compare_exchange(&key(name), found, value(text)).await.expect("it runs") {
            Exchange::Swapped(version) => return version,
            Exchange::Mismatch(now) => found = now.map(|now| now.version),
        }
    }
}

fn node(engine: &Postgres, label: &str) -> NodeBuilder {
    Node::builder(engine.clone()).label(label)
}

fn lock(node: &Node, name: &str) -> DistributedLock {
    node.lock(name).expect("a name")
}

/// Waits until it is so; panics after a while.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so().await {
        assert!(Instant::now() < end, "in vain: {what}");
        sleep(ms(5)).await;
    }
}

/// How many connections of lockword the server has.
async fn connections(by_hand: &tokio_postgres::Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lockword'";
    by_hand.query_one(sql, &[]).await.expect("it runs").get(0)
}

/// An option of the address with which a client waits for a lock of the database until it has it.
const WAITING_LONG: &str = "timeout_ms=60000";

/// How many connections wait for a lock of the database.
async fn waiting(by_hand: &tokio_postgres::Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    by_hand.query_one(sql, &[]).await.expect("it runs").get(0)
}

async fn is_waiting(by_hand: &tokio_postgres::Client) -> bool {
    waiting(by_hand).await > 0
}

fn is_indeterminate<T>(response: &Result<T, TransportError>) -> bool {
    matches!(response, Err(TransportError::Indeterminate(_)))
}
