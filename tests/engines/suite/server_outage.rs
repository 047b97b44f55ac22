//! The server is killed (SIGKILL) and started again, or stopped (SIGSTOP) and continued.

use super::fixture::{Fixture, LIMIT, LONG, SHORT, acquire, granted, release, soon, until, wait};
use crate::support::engine::Server;
use lockword::cluster::{LossReason, Node};
use std::time::{Duration, Instant};

pub async fn killed_while_held<E: Server>() {
    let Some(fixture) = Fixture::<E>::start().await else { return };
    let (one, two) = (fixture.node(LONG).await, fixture.node(LONG).await);
    let looker = fixture.looker().await;
    let held = acquire(&one).await;
    let token = held.token();
    fixture.server.process().kill9();
    assert!(held.is_valid(), "a lease is longer than that");
    fixture.server.process().restart();
    assert!(held.is_valid(), "a lease is longer than that");
    release(held).await;
    let next = acquire(&two).await;
    assert!(next.token() > token, "{} after {token}", next.token());
    release(next).await;
    fixture.end(&looker).await;
}

pub async fn killed_while_a_node_waits<E: Server>() {
    let Some(fixture) = Fixture::<E>::start().await else { return };
    let (one, two) = (fixture.node(LONG).await, fixture.node(LONG).await);
    let looker = fixture.looker().await;
    let held = acquire(&one).await;
    let token = held.token();
    let waiting = wait(&two, &looker).await;
    fixture.server.process().kill9();
    watches(&two, 0).await;
    fixture.server.process().restart();
    watches(&two, 1).await;
    assert!(!waiting.is_finished(), "it is held");
    release(held).await;
    let began = Instant::now();
    let next = granted(waiting).await;
    // It watches again: without a notice the first in the queue looks twelve times in a lease.
    assert!(began.elapsed() < LONG / 24, "{:?}", began.elapsed());
    assert!(next.token() > token, "{} after {token}", next.token());
    release(next).await;
    fixture.end(&looker).await;
}

/// Waits until the node has so many watches in force.
async fn watches(node: &Node, number: usize) {
    until("the watches", async || node.health().watches == number).await;
}

/// The write that releases the lock is in flight when the server dies, at several points of it.
pub async fn killed_during_a_release<E: Server>() {
    let Some(fixture) = Fixture::<E>::start().await else { return };
    // The one that waits may be handed the lock right before, and not renew until the server has started.
    let (one, two) = (fixture.patient_node().await, fixture.patient_node().await);
    let looker = fixture.looker().await;
    let mut last = None;
    for pause in [0, 300, 1500] {
        let held = acquire(&one).await;
        assert!(Some(held.token()) > last, "{} after {last:?}", held.token());
        let token = held.token();
        let waiting = wait(&two, &looker).await;
        let before = fixture.history.operations().len();
        let releasing = tokio::spawn(held.release());
        until_now(|| fixture.history.operations().len() > before);
        let moment = Instant::now() + Duration::from_micros(pause);
        until_now(|| Instant::now() >= moment);
        fixture.server.process().kill9();
        fixture.server.process().restart();
        // Whatever the outcome, it does not hold the lock any more.
        let outcome = soon("the release", releasing).await.expect("no panic");
        let next = granted(waiting).await;
        assert!(next.token() > token, "{} after {token}, {outcome:?}", next.token());
        last = Some(next.token());
        release(next).await;
    }
    fixture.end(&looker).await;
}

/// The holder learns of the loss at the end of its lease, although no server answers. The waiting node
/// gets the lock afterwards.
pub async fn down_for_longer_than_the_lease<E: Server>() {
    let Some(fixture) = Fixture::<E>::start().await else { return };
    let (one, two) = (fixture.node(SHORT).await, fixture.node(SHORT).await);
    let looker = fixture.looker().await;
    let held = acquire(&one).await;
    let waiting = wait(&two, &looker).await;
    fixture.server.process().kill9();
    let began = Instant::now();
    let why = soon("the loss", held.lost()).await;
    assert!(matches!(why, LossReason::Expired { .. }), "{why}");
    assert!(!held.is_valid());
    assert!(began.elapsed() < SHORT + Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(!waiting.is_finished(), "no server can have answered");
    fixture.server.process().restart();
    let next = granted(waiting).await;
    assert!(next.token() > held.token(), "{} after {}", next.token(), held.token());
    let late = soon("the late release", held.release()).await;
    assert!(late.is_err(), "{late:?}");
    drop(next);
    release(acquire(&one).await).await;
    fixture.end(&looker).await;
}

/// The server is stopped (SIGSTOP), and continues.
pub async fn stopped_for_longer_than_the_lease<E: Server>() {
    let Some(fixture) = Fixture::<E>::start().await else { return };
    let (one, two) = (fixture.node(SHORT).await, fixture.node(SHORT).await);
    let looker = fixture.looker().await;
    let held = acquire(&one).await;
    let waiting = wait(&two, &looker).await;
    fixture.server.process().stop();
    let began = Instant::now();
    let why = soon("the loss", held.lost()).await;
    assert!(matches!(why, LossReason::Expired { .. }), "{why}");
    assert!(began.elapsed() < SHORT + Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(!waiting.is_finished(), "no server can have answered");
    fixture.server.process().cont();
    // A request that was sent meanwhile may be applied now. It does no harm.
    let next = granted(waiting).await;
    assert!(!held.is_valid(), "two hold");
    assert!(next.token() > held.token(), "{} after {}", next.token(), held.token());
    let late = soon("the late release", held.release()).await;
    assert!(late.is_err(), "{late:?}");
    release(next).await;
    for node in [&one, &two, &one, &two] {
        release(acquire(node).await).await;
    }
    fixture.end(&looker).await;
}

/// Waits without a pause.
fn until_now(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "in vain");
        std::thread::yield_now();
    }
}
