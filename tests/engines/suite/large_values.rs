//! A value that no node wrote, and that is far larger than those that nodes write.

use super::fixture::{Fixture, KEY, acquire, lock, release, soon, wait};
use crate::support::engine::{Engine, Server};
use crate::support::relay::Relay;
use lockword::cluster::{LockError, LossReason, Node};
use std::time::Duration;

/// A server to whose registers a stranger has access.
pub trait Fillable: Server {
    /// The length of the value. It is larger than what a node reads.
    const LARGE: usize;

    /// Puts `x` so many times in the place of the register of [`KEY`].
    async fn fill(&self);
}

/// More than a node reads of some values that it refuses.
const RECEIVED: u64 = 10 << 20;

/// Nobody may notice a stranger's write before the next renewal, after a third of it.
const LEASE: Duration = Duration::from_secs(9);

fn is_too_large(error: &LockError) -> bool {
    matches!(error, LockError::Unreadable { .. }) && error.to_string().contains("bytes, too many")
}

/// A register that is filled costs its holder the lock, with that as the reason, and is an error for
/// those who want it. No more of it is read than shows that. The other locks of the node are renewed over
/// the same connection.
pub async fn are_refused_and_cost_no_other_key_its_lock<E: Fillable>() {
    let Some(fixture) = Fixture::<E>::start().await else { return };
    let relay = Relay::new(fixture.server.port());
    let node = fixture.node_at(&fixture.server.address_at(relay.port()), LEASE).await;
    let waiter = fixture.node(LEASE).await;
    let looker = fixture.looker().await;
    let other = node.lock("suite/other").unwrap().acquire().await.unwrap();
    let guard = acquire(&node).await;
    let waiting = wait(&waiter, &looker).await;
    let connections = fixture.server.usage().await.connections;
    let before = relay.passed_back();

    fixture.server.fill().await;
    let why = soon("the loss", guard.lost()).await;
    assert!(matches!(why, LossReason::Unreadable(_)), "{why}");
    let error = soon("the waiter", waiting).await.unwrap().unwrap_err();
    assert!(is_too_large(&error), "{error}");
    drop(guard);
    refused(&node).await;

    let read = relay.passed_back() - before;
    assert!(read < RECEIVED, "{read} of {} bytes were read", E::LARGE);
    assert!(other.is_valid());
    release(other).await;
    assert_eq!(fixture.server.usage().await.connections, connections);
}

async fn refused(node: &Node) {
    let error = soon("the refusal", lock(node).acquire()).await.unwrap_err();
    assert!(is_too_large(&error), "{error}");
    let error = soon("the refusal", node.inspect(KEY)).await.unwrap_err();
    assert!(is_too_large(&error), "{error}");
}

#[cfg(feature = "etcd")]
impl Fillable for crate::support::etcd::EtcdServer {
    // The server refuses requests of more than 1.5 MiB. `etcd/large_values.rs` has larger ones.
    const LARGE: usize = 1_500_000;

    async fn fill(&self) {
        let client = crate::support::etcd_client::connect(&self.url()).await;
        let value = "x".repeat(Self::LARGE);
        client.put(format!("lockword/{KEY}"), value).await.expect("anybody may");
    }
}

#[cfg(feature = "postgres")]
impl Fillable for crate::support::postgres::PostgresServer {
    const LARGE: usize = 20_000_000;

    async fn fill(&self) {
        let fill = format!(
            "UPDATE lockword SET version = version + 1, \
             value = convert_to(repeat('x', {}), 'UTF8') WHERE key = '{KEY}'",
            Self::LARGE
        );
        self.client().await.batch_execute(&fill).await.expect("it is the owner");
    }
}

#[cfg(feature = "redis")]
impl Fillable for crate::support::redis::DurableRedis {
    const LARGE: usize = 20_000_000;

    async fn fill(&self) {
        let client = ::redis::Client::open(self.address()).expect("an address");
        let mut client = client.get_connection().expect("it runs");
        let mut fill = ::redis::cmd("HSET");
        fill.arg(format!("{{lockword}}:{KEY}")).arg("version").arg((1_u64 << 52) - 1);
        fill.arg("value").arg("x".repeat(Self::LARGE));
        fill.exec(&mut client).expect("anybody may");
    }
}
