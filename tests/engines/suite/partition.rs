//! One client is cut off. Neither it nor the server notices.

use super::fixture::{
    Fixture, KEY, LIMIT, SHORT, acquire, client, granted, is_free, release, soon, until, wait,
};
use super::processes::{ChildProcess, LEASE, TAKE_OVER, ask, tell};
use crate::support::engine::Server;
use crate::support::network::{NEAR, NetworkLink};
use crate::support::relay::Relay;
use lockword::cluster::fence::Gate;
use lockword::cluster::{FencingToken, Key, LossReason, Node, ReleaseError};
use std::time::{Duration, Instant};

/// What it has sent arrives late.
pub async fn bytes_are_delayed<E: Server>() {
    cut_off::<E>(Relay::hold).await;
}

/// What it has sent is lost.
pub async fn bytes_are_dropped<E: Server>() {
    cut_off::<E>(Relay::drop_all).await;
}

async fn cut_off<E: Server>(cut: fn(&Relay)) {
    let Some(fixture) = Fixture::<E>::start().await else { return };
    let relay = Relay::new(fixture.server.port());
    let far = fixture.node_at(&fixture.server.address_at(relay.port()), SHORT).await;
    let near = fixture.node(SHORT).await;
    let looker = fixture.looker().await;
    let (gate, key) = (Gate::new(), Key::new(KEY).expect("a key"));
    let held = acquire(&far).await;
    gate.pass(&key, held.token()).expect("it is the first");
    let waiting = wait(&near, &looker).await;
    cut(&relay);
    let began = Instant::now();
    let next = granted(waiting).await;
    // First the one is lost, then the other is granted.
    assert!(!held.is_valid(), "two hold");
    let took = began.elapsed();
    assert!(took < SHORT + Duration::from_secs(2), "{took:?}");
    let why = soon("the loss", held.lost()).await;
    assert!(matches!(why, LossReason::Expired { .. }), "{why}");
    // What it does all the same is refused.
    gate.pass(&key, next.token()).expect("it is newer");
    let refused = gate.pass(&key, held.token()).expect_err("it is late");
    assert_eq!(refused.newest, next.token());
    // And back.
    relay.pass();
    drop(held);
    let waiting = wait(&far, &looker).await;
    assert!(next.is_valid());
    let token = next.token();
    release(next).await;
    let back = granted(waiting).await;
    assert!(back.token() > token, "{} after {token}", back.token());
    release(back).await;
    fixture.end(&looker).await;
}

/// A process whose network ends at a link, which is pulled out: no packet arrives any more, and no
/// reset.
pub async fn network_is_down<E: Server>() {
    let Some(link) = NetworkLink::new() else { return };
    let Some(fixture) = Fixture::<E>::start().await else { return };
    let relay = Relay::from(link.listener(), fixture.server.port());
    let address = fixture.server.address_at(relay.port()).replace("127.0.0.1", NEAR);
    let near = fixture.node(LEASE).await;
    let looker = fixture.looker().await;
    let (gate, key) = (Gate::new(), Key::new(KEY).expect("a key"));
    let mut far = ChildProcess::start_at(&link.far, "lose", &address, "");
    let token: u64 = far.hear().expect("it holds").parse().expect("a token");
    let token = FencingToken::from_u64(token);
    gate.pass(&key, token).expect("it is the first");
    let waiting = wait(&near, &looker).await;
    link.take_down();
    let began = Instant::now();
    let next = granted(waiting).await;
    let took = began.elapsed();
    // It knows this by its own clock alone.
    far.say("is it valid?");
    assert_eq!(far.hear().as_deref(), Some("false"), "two hold");
    println!("in after {took:?} of a lease of {LEASE:?}");
    assert!(took < TAKE_OVER, "{took:?}");
    assert!(next.token() > token, "{} after {token}", next.token());
    gate.pass(&key, next.token()).expect("it is newer");
    let refused = gate.pass(&key, token).expect_err("it is late");
    assert_eq!(refused.newest, next.token());
    // And back.
    link.bring_up();
    far.say("the cable is in");
    assert_eq!(far.hear().as_deref(), Some("it was not held"));
    until("it is in the queue", async || {
        looker.inspect(KEY).await.is_ok_and(|state| !state.queue.is_empty())
    })
    .await;
    assert!(next.is_valid());
    let newest = next.token().get();
    release(next).await;
    let back: u64 = far.hear().expect("it holds again").parse().expect("a token");
    assert!(back > newest, "{back} after {newest}");
    // What the child wrote was not recorded: there is no history.
    is_free(&looker).await;
}

/// The process at the far end.
pub async fn lose(address: &str) {
    let node = Node::builder(client(address).await)
        .lease(LEASE)
        .unavailable_timeout(LIMIT * 2)
        .build()
        .unwrap();
    let lock = node.lock(KEY).unwrap();
    let held = lock.acquire().await.unwrap();
    tell(held.token());
    // Renews meanwhile, as long as it can.
    tokio::task::spawn_blocking(ask).await.unwrap();
    tell(held.is_valid());
    let why = soon("the loss", held.lost()).await;
    assert!(matches!(why, LossReason::Expired { .. }), "{why}");
    tokio::task::spawn_blocking(ask).await.unwrap();
    match soon("the late release", held.release()).await {
        Err(ReleaseError::Lost { .. }) => tell("it was not held"),
        other => tell(format!("{other:?}")),
    }
    let back = soon("the lock", lock.acquire()).await.unwrap();
    tell(back.token());
    release(back).await;
}
