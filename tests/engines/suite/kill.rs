//! The server is killed (SIGKILL), and started again.

use super::stage::{LONG, PATIENCE, SHORT, Stage, acquire, granted, release, soon, wait};
use crate::support::engine::Engine;
use lockword::cluster::LossReason;
use std::time::{Duration, Instant};

pub async fn in_a_hold<E: Engine>() {
    let Some(stage) = Stage::<E>::start().await else { return };
    let (one, two) = (stage.node(LONG).await, stage.node(LONG).await);
    let looker = stage.looker().await;
    let held = acquire(&one).await;
    let token = held.token();
    stage.server.process().kill9();
    assert!(held.is_valid(), "a lease is longer than that");
    stage.server.process().restart();
    assert!(held.is_valid(), "a lease is longer than that");
    release(held).await;
    let next = acquire(&two).await;
    assert!(next.token() > token, "{} after {token}", next.token());
    release(next).await;
    stage.end(&looker).await;
}

pub async fn in_a_wait<E: Engine>() {
    let Some(stage) = Stage::<E>::start().await else { return };
    let (one, two) = (stage.node(LONG).await, stage.node(LONG).await);
    let looker = stage.looker().await;
    let held = acquire(&one).await;
    let token = held.token();
    let waiting = wait(&two, &looker).await;
    stage.server.process().kill9();
    stage.server.process().restart();
    assert!(!waiting.is_finished(), "it is held");
    release(held).await;
    let began = Instant::now();
    let next = granted(waiting).await;
    // Its watch was made anew: without one it looks three times in a lease.
    assert!(began.elapsed() < LONG / 6, "{:?}", began.elapsed());
    assert!(next.token() > token, "{} after {token}", next.token());
    release(next).await;
    stage.end(&looker).await;
}

/// The write that gives the lock back is in flight when the server dies, at various points of it.
pub async fn in_a_release<E: Engine>() {
    let Some(stage) = Stage::<E>::start().await else { return };
    let lease = Duration::from_secs(8);
    let (one, two) = (stage.node(lease).await, stage.node(lease).await);
    let looker = stage.looker().await;
    let mut last = None;
    for pause in [0, 300, 1500] {
        let held = acquire(&one).await;
        assert!(Some(held.token()) > last, "{} after {last:?}", held.token());
        let token = held.token();
        let waiting = wait(&two, &looker).await;
        let before = stage.history.operations().len();
        let releasing = tokio::spawn(held.release());
        until_now(|| stage.history.operations().len() > before);
        let moment = Instant::now() + Duration::from_micros(pause);
        until_now(|| Instant::now() >= moment);
        stage.server.process().kill9();
        stage.server.process().restart();
        // Whatever it is told, it does not hold it any more.
        let outcome = soon("the release", releasing).await.expect("no panic");
        let next = granted(waiting).await;
        assert!(next.token() > token, "{} after {token}, {outcome:?}", next.token());
        last = Some(next.token());
        release(next).await;
    }
    stage.end(&looker).await;
}

/// Who holds is told at the end of its lease, although nobody answers; who waits gets in afterwards.
pub async fn for_longer_than_the_lease<E: Engine>() {
    let Some(stage) = Stage::<E>::start().await else { return };
    let (one, two) = (stage.node(SHORT).await, stage.node(SHORT).await);
    let looker = stage.looker().await;
    let held = acquire(&one).await;
    let waiting = wait(&two, &looker).await;
    stage.server.process().kill9();
    let began = Instant::now();
    let why = soon("the loss", held.lost()).await;
    assert!(matches!(why, LossReason::Expired { .. }), "{why}");
    assert!(!held.is_valid());
    assert!(began.elapsed() < SHORT + Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(!waiting.is_finished(), "nobody can have answered");
    stage.server.process().restart();
    let next = granted(waiting).await;
    assert!(next.token() > held.token(), "{} after {}", next.token(), held.token());
    let late = soon("the late release", held.release()).await;
    assert!(late.is_err(), "{late:?}");
    drop(next);
    release(acquire(&one).await).await;
    stage.end(&looker).await;
}

/// Waits without a pause.
fn until_now(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "in vain");
        std::thread::yield_now();
    }
}
