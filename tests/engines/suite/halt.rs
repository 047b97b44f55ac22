//! The server stands still (SIGSTOP), and goes on.

use super::stage::{SHORT, Stage, acquire, granted, release, soon, wait};
use crate::support::engine::Engine;
use lockword::cluster::LossReason;
use std::time::{Duration, Instant};

pub async fn for_longer_than_the_lease<E: Engine>() {
    let Some(stage) = Stage::<E>::start().await else { return };
    let (one, two) = (stage.node(SHORT).await, stage.node(SHORT).await);
    let looker = stage.looker().await;
    let held = acquire(&one).await;
    let waiting = wait(&two, &looker).await;
    stage.server.process().stop();
    let began = Instant::now();
    let why = soon("the loss", held.lost()).await;
    assert!(matches!(why, LossReason::Expired { .. }), "{why}");
    assert!(began.elapsed() < SHORT + Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(!waiting.is_finished(), "nobody can have answered");
    stage.server.process().cont();
    // What was sent meanwhile may happen now; it harms nobody.
    let next = granted(waiting).await;
    assert!(!held.is_valid(), "two hold");
    assert!(next.token() > held.token(), "{} after {}", next.token(), held.token());
    let late = soon("the late release", held.release()).await;
    assert!(late.is_err(), "{late:?}");
    release(next).await;
    for node in [&one, &two, &one, &two] {
        release(acquire(node).await).await;
    }
    stage.end(&looker).await;
}
