//! The server's disk is full, and then there is room again.

use super::fixture::{Fixture, LONG, acquire, client, granted, release, until, wait};
use crate::support::engine::{OnDisk, WhenFull};
use lockword::cluster::{Exchange, Key, TransportError, Wake, Write};

pub async fn loses_nothing<E: OnDisk>() {
    let Some(server) = E::start_on_disk().await else { return };
    let fixture = Fixture::of(server);
    // None of them renews while the disk is full.
    let (one, two) = (fixture.node(LONG * 20).await, fixture.node(LONG * 20).await);
    let looker = fixture.looker().await;
    let held = acquire(&one).await;
    let token = held.token();
    let waiting = wait(&two, &looker).await;
    let engine = client(&fixture.server.address()).await;
    let key = Key::new("suite/full").expect("a key");
    let (mut version, mut value, mut count) = (None, vec![], 0);
    let (error, new) = loop {
        let new: Vec<u8> = (0..16_384).map(|_| fastrand::u8(..)).collect();
        let write = Write { value: new.as_slice().into(), wake: Wake::Nobody, idle: false };
        match engine.compare_exchange(&key, version, write).await {
            Ok(Exchange::Swapped(written)) => (version, value) = (Some(written), new),
            Ok(Exchange::Mismatch(found)) => panic!("{found:?} instead of {version:?}"),
            Err(error) => break (error, new),
        }
        if count == 0 {
            fixture.server.disk().fill();
        }
        // Some room was reserved before.
        count += 1;
    };
    println!("after {count} writes: {error:?}");
    assert!(count > 0, "there was room");
    match E::WHEN_FULL {
        WhenFull::Refuses => assert!(matches!(error, TransportError::Unavailable(_)), "{error:?}"),
        WhenFull::Ends => {
            // Whether it was asked before it ended is for the client to know.
            assert!(error.is_transient(), "{error:?}");
            until("it ends", async || fixture.server.process().ended().is_some()).await;
        }
    }
    fixture.server.disk().make_space();
    if E::WHEN_FULL == WhenFull::Ends {
        println!("it has ended, and is started again");
        fixture.server.process().restart();
    }
    // Nothing is lost that was acknowledged; and only what is indeterminate may be there besides.
    let mut found = None;
    until("the engine answers", async || {
        let loaded = engine.load(&key).await;
        found = loaded.as_ref().ok().cloned();
        loaded.is_ok()
    })
    .await;
    let found = found.flatten();
    let is_last = found.as_ref().map(|found| (found.version, &*found.value))
        == version.map(|version| (version, &*value));
    let is_new = found.as_ref().is_some_and(|found| *found.value == *new);
    let indeterminate = matches!(error, TransportError::Indeterminate(_));
    assert!(is_last || indeterminate && is_new, "{:?} after {version:?}", found.map(|f| f.version));
    // Nor is anything held or refused any more.
    assert!(held.is_valid());
    release(held).await;
    let next = granted(waiting).await;
    assert!(next.token() > token, "{} after {token}", next.token());
    let token = next.token();
    release(next).await;
    let last = acquire(&one).await;
    assert!(last.token() > token, "{} after {token}", last.token());
    release(last).await;
    fixture.end(&looker).await;
}
