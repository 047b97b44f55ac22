//! A table that is not written to the log, and that a crash empties.

use super::*;
use crate::support::relay::Relay;
use lockword::cluster::{Consistency, LossReason};
use tokio::time::timeout;

const UNLOGGED: &str = "unlogged=true&create_schema=true";

/// A server without the table.
fn bare_server() -> Option<PostgresServer> {
    PostgresServer::start(PostgresSetup::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_locks_are_lost_and_tokens_go_on() {
    let Some(server) = bare_server() else { return };
    let engine = client(&server.address(UNLOGGED)).await;
    assert_eq!(engine.capabilities().consistency, Consistency::Lossy);
    let by_hand = server.client().await;
    let kind = "SELECT relpersistence::text FROM pg_class WHERE oid = 'public.lockword'::regclass";
    assert_eq!(by_hand.query_one(kind, &[]).await.unwrap().get::<_, String>(0), "u");
    let lease = ms(3000);
    let nodes = ["one", "two"].map(|name| node(&engine, name).lease(lease).build().unwrap());
    let held = lock(&nodes[0], "k").acquire().await.unwrap();
    let other = put(&engine, "other", "v").await;

    // The stop of `pg_ctl -m immediate` is no better for such a table.
    server.process.kill9();
    server.process.restart();
    let count = "SELECT count(*) FROM public.lockword";
    let by_hand = server.client().await;
    assert_eq!(
        by_hand.query_one(count, &[]).await.unwrap().get::<_, i64>(0),
        0,
        "not even a floor"
    );
    assert!(engine.load(&key("other")).await.unwrap().is_none());
    assert_eq!(
        engine.compare_exchange(&key("other"), Some(other), value("w")).await.unwrap(),
        Exchange::Mismatch(None)
    );
    assert!(!engine.delete(&key("other")).await.unwrap(), "it restores the floor");
    by_hand.batch_execute("TRUNCATE public.lockword").await.unwrap();

    let reason = timeout(lease * 2, held.lost()).await.expect("it learns of it");
    assert!(matches!(reason, LossReason::TakenOver), "{reason:?}");
    let next = timeout(lease * 3, lock(&nodes[1], "k").acquire()).await.unwrap().unwrap();
    assert!(next.token() > held.token(), "{:?} after {:?}", next.token(), held.token());
    drop(held);
    next.release().await.unwrap();
    let again = lock(&nodes[0], "k").acquire().await.unwrap();
    again.release().await.unwrap();
    assert!(put(&engine, "other", "w").await > other);
    // A register that is deleted raises the new floor.
    let last = put(&engine, "gone", "v").await;
    assert!(engine.delete(&key("gone")).await.unwrap());
    assert!(put(&engine, "gone", "w").await > last);
    // A clean restart loses nothing.
    let version = put(&engine, "kept", "v").await;
    server.process.signal(libc::SIGINT);
    until("it has shut down", async || server.process.ended().is_some()).await;
    server.process.restart();
    until("it is there", async || engine.load(&key("kept")).await.is_ok()).await;
    assert_eq!(engine.load(&key("kept")).await.unwrap().unwrap().version, version);
}

/// Many that create at a time after a crash, one by one and together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_floor_is_restored_whoever_comes_first() {
    let Some(server) = bare_server() else { return };
    let engines =
        [client(&server.address(UNLOGGED)).await, client(&server.address(UNLOGGED)).await];
    let old = put(&engines[0], "k/0", "v").await;
    server.process.kill9();
    server.process.restart();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..60 {
        let engine = engines[number % 2].clone();
        tasks.spawn(async move {
            let name = key(&format!("k/{number}"));
            loop {
                match engine.compare_exchange(&name, None, value("w")).await {
                    Ok(Exchange::Swapped(version)) => return version,
                    // The old connection.
                    Err(TransportError::Indeterminate(_) | TransportError::Unavailable(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
        });
    }
    while let Some(version) = tasks.join_next().await {
        assert!(version.unwrap() > old);
    }
    // That of a logged table is not restored behind its owner's back.
    let by_hand = server.client().await;
    by_hand.batch_execute("ALTER TABLE public.lockword SET LOGGED").await.unwrap();
    let logged = client(&server.address("")).await;
    by_hand.batch_execute("DELETE FROM public.lockword WHERE key = ''").await.unwrap();
    let error = logged.compare_exchange(&key("new"), None, value("v")).await.unwrap_err();
    assert!(error.to_string().contains("create_schema()"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_the_other_kind_is_refused() {
    let Some(server) = bare_server() else { return };
    let by_hand = server.client().await;
    for (create, option, change) in
        [("", "unlogged=true", "SET UNLOGGED"), ("UNLOGGED", "", "SET LOGGED")]
    {
        // It connects before there is a table.
        let early = client(&server.address(option)).await;
        let other = if option.is_empty() { "unlogged=true" } else { "" };
        drop(client(&server.address(&format!("{other}&create_schema=true"))).await);
        let made = "SELECT relpersistence = 'u' FROM pg_class \
            WHERE oid = 'public.lockword'::regclass";
        let made: bool = by_hand.query_one(made, &[]).await.unwrap().get(0);
        assert_eq!(made, !create.is_empty());
        let error = early.create_schema().await.unwrap_err();
        assert!(matches!(error, TransportError::Unsupported(_)), "{error:?}");
        assert!(error.to_string().contains(change), "{error}");
        for more in ["", "&create_schema=true", "&pooled=true"] {
            let error = connect(&server.address(&format!("{option}{more}"))).await.unwrap_err();
            assert!(matches!(error, ConnectError::Unsuitable { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(&format!("ALTER TABLE public.lockword {change}")), "{text}");
        }
        by_hand.batch_execute("DROP TABLE public.lockword").await.unwrap();
    }
    // A table that becomes one that a crash empties is found out by the next connection, before the crash
    // can harm.
    let relay = Relay::new(server.port);
    let engine = client(&server.address_at(relay.port(), "create_schema=true")).await;
    put(&engine, "k", "v").await;
    by_hand.batch_execute("ALTER TABLE public.lockword SET UNLOGGED").await.unwrap();
    put(&engine, "k", "w").await;
    server.process.kill9();
    server.process.restart();
    until("it is refused", async || {
        matches!(engine.load(&key("k")).await, Err(TransportError::Unsupported(_)))
    })
    .await;
    let error = engine.compare_exchange(&key("k"), None, value("x")).await.unwrap_err();
    assert!(error.to_string().contains("SET LOGGED"), "{error}");
}
