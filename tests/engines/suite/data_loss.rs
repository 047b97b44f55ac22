//! A server that was killed, and what it still knows.

use super::fixture::{Fixture, LONG, acquire, client, release, soon};
use crate::support::engine::{Engine, Server};
use crate::support::redis::{DurableRedis, VolatileRedis};
use lockword::cluster::conformance::Law;
use lockword::cluster::fence::Gate;
use lockword::cluster::{Consistency, LockError, LossReason};

/// Redis that keeps nothing admits a second holder. That is declared, the history tells it, and the
/// resource refuses the first one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_a_disk_admits_a_second_holder_and_is_declared_lossy() {
    let Some(fixture) = Fixture::<VolatileRedis>::start().await else { return };
    let engine = client(&fixture.server.address()).await;
    let (one, two) = (fixture.node(LONG).await, fixture.node(LONG).await);
    let gate = Gate::new();
    let first = acquire(&one).await;
    gate.pass(first.key(), first.token()).expect("it is the first");
    fixture.server.process().kill9();
    fixture.server.process().restart();
    let second = acquire(&two).await;
    assert!(first.is_valid(), "it has no way to know yet");
    let declared = engine.capabilities().consistency;
    assert_eq!(declared, Consistency::Lossy);
    let loss = fixture.history.check_as(declared).expect("nothing else").expect("a write was lost");
    assert_eq!(loss.law, Law::Linearizable, "{loss}");
    gate.pass(second.key(), second.token()).expect("it is newer");
    let refused = gate.pass(first.key(), first.token()).expect_err("it is late");
    assert_eq!(refused.newest, second.token());
    let why = soon("the loss", first.lost()).await;
    assert!(matches!(why, LossReason::TakenOver), "{why}");
    assert!(second.is_valid());
    release(second).await;
}

/// With `appendonly yes` and `appendfsync always` the very same does not happen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_durable_log_admits_no_second_holder() {
    let Some(fixture) = Fixture::<DurableRedis>::start().await else { return };
    let (one, two) = (fixture.node(LONG).await, fixture.node(LONG).await);
    let looker = fixture.looker().await;
    let first = acquire(&one).await;
    for _ in 0..5 {
        fixture.server.process().kill9();
        fixture.server.process().restart();
        let refused = super::fixture::lock(&two).try_acquire().await;
        assert!(matches!(refused, Err(LockError::Busy { .. })), "{refused:?}");
        assert!(first.is_valid());
    }
    release(first).await;
    fixture.end(&looker).await;
}
