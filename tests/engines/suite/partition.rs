//! One client is cut off. It is not told, and nor is the server.

use super::stage::{KEY, SHORT, Stage, acquire, granted, release, soon, wait};
use crate::support::engine::Engine;
use crate::support::wire::Wire;
use lockword::cluster::fence::Gate;
use lockword::cluster::{Key, LossReason};
use std::time::{Duration, Instant};

/// What it has sent arrives late.
pub async fn held_back<E: Engine>() {
    cut_off::<E>(Wire::hold).await;
}

/// What it has sent is lost.
pub async fn dropped<E: Engine>() {
    cut_off::<E>(Wire::drop_all).await;
}

async fn cut_off<E: Engine>(cut: fn(&Wire)) {
    let Some(stage) = Stage::<E>::start().await else { return };
    let wire = Wire::new(stage.server.port());
    let far = stage.node_at(&stage.server.address_at(wire.port()), SHORT).await;
    let near = stage.node(SHORT).await;
    let looker = stage.looker().await;
    let (gate, key) = (Gate::new(), Key::new(KEY).expect("a key"));
    let held = acquire(&far).await;
    gate.pass(&key, held.token()).expect("it is the first");
    let waiting = wait(&near, &looker).await;
    cut(&wire);
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
    wire.pass();
    drop(held);
    let waiting = wait(&far, &looker).await;
    assert!(next.is_valid());
    let token = next.token();
    release(next).await;
    let back = granted(waiting).await;
    assert!(back.token() > token, "{} after {token}", back.token());
    release(back).await;
    stage.end(&looker).await;
}
