//! The connection breaks when a request was sent: before it arrives, or before its answer does.

use super::fixture::{Fixture, LONG, SEALED, acquire, client, granted, release, soon, until, wait};
use crate::support::engine::Server;
use crate::support::relay::{Loss, Relay};
use lockword::cluster::{Exchange, Key, ReleaseError, TransportError, Version, Wake, Write};
use std::cell::Cell;

const LOSSES: [Loss; 2] = [Loss::Request, Loss::Response];

/// How every write of a register begins. Other bytes that a client sends do not have it.
const REGISTER: &str = "{\"lockword\":";
/// The same where values are sealed.
const SEAL: &str = "lw-seal";

fn is_sealed<E: Server>(fixture: &Fixture<E>) -> bool {
    fixture.server.address().starts_with(SEALED)
}

/// The error of the write says that the outcome is unknown.
pub async fn of_a_write<E: Server>() {
    let Some(fixture) = Fixture::<E>::start().await else { return };
    let relay = Relay::new(fixture.server.port());
    let engine = client(&fixture.server.address_at(relay.port())).await;
    let near = client(&fixture.server.address()).await;
    let key = Key::new("suite/indeterminate").expect("a key");
    let write =
        |value: &str| Write { value: value.as_bytes().into(), wake: Wake::Nobody, idle: false };
    let mut version: Option<Version> = None;
    for round in 0..5 {
        for lost in LOSSES {
            // It may have to connect again first.
            until("the engine answers", async || engine.load(&key).await.is_ok()).await;
            let new = format!("{lost:?} {round}");
            // By its value: a client may still send frames of its own, which are not the write.
            relay.lose_with(lost, if is_sealed(&fixture) { SEAL } else { &new });
            let response = engine.compare_exchange(&key, version, write(&new)).await;
            assert!(
                matches!(response, Err(TransportError::Indeterminate(_))),
                "{lost:?} {round}: {response:?}"
            );
            assert!(!relay.is_armed(), "{lost:?} {round}: nothing was lost");
            // Of two that expect the same, one is applied at most.
            let settled = near.compare_exchange(&key, version, write("settled")).await.unwrap();
            version = match settled {
                Exchange::Swapped(version) => Some(version),
                Exchange::Mismatch(found) => {
                    assert_ne!(lost, Loss::Request, "it did not arrive");
                    let found = found.expect("it was written");
                    assert_eq!(&*found.value, new.as_bytes(), "{lost:?} {round}");
                    Some(found.version)
                }
            };
        }
    }
}

/// The lock finds out what became of its write, and no node stays in the queue.
pub async fn of_a_lock<E: Server>() {
    let Some(fixture) = Fixture::<E>::start().await else { return };
    let relay = Relay::new(fixture.server.port());
    let far = fixture.node_at(&fixture.server.address_at(relay.port()), LONG).await;
    let near = fixture.node(LONG).await;
    let looker = fixture.looker().await;
    let register = if is_sealed(&fixture) { SEAL } else { REGISTER };
    let last = Cell::new(None);
    let grew = |token| {
        assert!(last.replace(Some(token)) < Some(token), "a token did not grow");
    };
    for lost in LOSSES.into_iter().cycle().take(6) {
        relay.lose_with(lost, register);
        let held = acquire(&far).await;
        grew(held.token());
        assert!(!relay.is_armed(), "nothing was lost");
        let waiting = wait(&near, &looker).await;
        relay.lose_with(lost, register);
        match soon("the release", held.release()).await {
            Ok(()) => {}
            // It had heard that the other one waits, and so its write was made: without a word of it,
            // it cannot know whether it held the lock until then.
            Err(ReleaseError::Indeterminate { .. }) if lost == Loss::Response => {}
            Err(other) => panic!("{lost:?}: {other}"),
        }
        let next = granted(waiting).await;
        grew(next.token());
        assert!(!relay.is_armed(), "nothing was lost");
        // One that waits, too.
        relay.lose_with(lost, register);
        let waiting = wait(&far, &looker).await;
        release(next).await;
        let held = granted(waiting).await;
        grew(held.token());
        release(held).await;
    }
    fixture.end(&looker).await;
}
