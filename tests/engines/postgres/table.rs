use super::*;
use futures_util::{FutureExt, StreamExt};
use lockword::cluster::{Consistency, LockError, NodeId, Versioned};

/// A table that was changed by hand has versions that are none. What is found is corrupt, and nothing was written;
/// what was written may be anything.
#[tokio::test]
async fn a_bad_version_is_corrupt_where_it_is_found_and_indeterminate_where_it_was_written() {
    let Some(server) = server().await else { return };
    let engine = client(&server.address("")).await;
    let version = put(&engine, "k", "v").await;
    let by_hand = server.client().await;
    let sql = "ALTER TABLE public.lockword DROP CONSTRAINT lockword_version_check; \
        INSERT INTO public.lockword (key, version, value) VALUES ('odd', 4503599627370496, 'v'); \
        UPDATE public.lockword SET version = 4503599627370496 WHERE key = ''";
    by_hand.batch_execute(sql).await.unwrap();
    let read = engine.load(&key("odd")).await;
    assert!(matches!(read, Err(TransportError::Corrupt(_))), "{read:?}");
    for expected in [Some(version), None] {
        let found = engine.compare_exchange(&key("odd"), expected, value("w")).await;
        assert!(matches!(found, Err(TransportError::Corrupt(_))), "{expected:?}: {found:?}");
    }
    for wake in [Wake::Nobody, Wake::Everybody] {
        engine.delete(&key("new")).await.unwrap();
        let write = Write { wake, ..value("w") };
        let written = engine.compare_exchange(&key("new"), None, write).await;
        assert!(is_indeterminate(&written), "{written:?}");
    }
    assert!(engine.load(&key("new")).await.is_err(), "the control: it was written");
}

/// A stranger has written a value that no node would read.
#[tokio::test]
async fn no_more_of_a_value_is_read_than_is_needed_to_refuse_it() {
    let Some(server) = server().await else { return };
    let engine = client(&server.address("")).await;
    put(&engine, "k", "v").await;
    let sql = "UPDATE public.lockword SET value = convert_to(repeat('x', 3000000), 'UTF8') \
        WHERE key = 'k'";
    server.client().await.batch_execute(sql).await.unwrap();
    let bound = (1 << 20) + 1;
    assert_eq!(engine.load(&key("k")).await.unwrap().unwrap().value.len(), bound);
    for expected in [None, Some(Version::new(1).unwrap())] {
        let written = engine.compare_exchange(&key("k"), expected, value("w")).await.unwrap();
        let Exchange::Mismatch(Some(seen)) = written else { panic!("{written:?}") };
        assert_eq!(seen.value.len(), bound);
    }
    let error = node(&engine, "looker").build().unwrap().inspect("k").await.unwrap_err();
    assert!(matches!(error, LockError::Unreadable { .. }), "{error}");
}

/// The loser of a race for a row gets what the winner wrote, not what was there when it asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_waited_for_a_row_sees_the_row_as_it_is_then() {
    let Some(server) = server().await else { return };
    let (winner, by_hand) = (server.client().await, server.client().await);
    for (more, isolation) in [
        ("", "read committed"),
        ("&pooled=true", "read committed"),
        ("&pooled=true", "serializable"),
    ] {
        let sql =
            format!("ALTER DATABASE postgres SET default_transaction_isolation = '{isolation}'");
        by_hand.batch_execute(&sql).await.unwrap();
        let engine = client(&server.address(&format!("{WAITING_LONG}{more}"))).await;
        let old = put(&engine, "k", "old").await;
        let newer = i64::try_from(old.get()).unwrap() + 3_600_000_000;
        let change = |to: &str| {
            let set = format!("value = '{to}', version = {newer} WHERE key = 'k'");
            format!("BEGIN; UPDATE public.lockword SET {set}")
        };
        let insert = format!(
            "BEGIN; INSERT INTO public.lockword (key, version, value) VALUES ('k', {newer}, 'new')"
        );
        let lose = async |begin: &str, expected, end: &str| {
            winner.batch_execute(begin).await.unwrap();
            let (asking, name) = (engine.clone(), key("k"));
            let asked = tokio::spawn(async move {
                asking.compare_exchange(&name, expected, value("loser")).await
            });
            until("it waits", async || is_waiting(&by_hand).await).await;
            winner.batch_execute(end).await.unwrap();
            asked.await.unwrap().unwrap()
        };
        let new = Versioned {
            version: Version::new(old.get() + 3_600_000_000).unwrap(),
            value: b"new".as_slice().into(),
        };
        // Its version is not the expected one any more.
        let told = lose(&change("new"), Some(old), "COMMIT").await;
        assert_eq!(told, Exchange::Mismatch(Some(new.clone())));
        // Its version becomes the expected one, but is not yet: that is the truth, and waits for nobody.
        let sql = "UPDATE public.lockword SET version = 1 WHERE key = 'k'";
        by_hand.batch_execute(sql).await.unwrap();
        winner.batch_execute(&change("newer")).await.unwrap();
        let write = |expected| {
            let (engine, name) = (engine.clone(), key("k"));
            async move { engine.compare_exchange(&name, expected, value("late")).await.unwrap() }
        };
        for expected in [Some(new.version), None] {
            let Exchange::Mismatch(Some(seen)) = write(expected).await else {
                panic!("its version is 1")
            };
            assert_eq!((seen.version.get(), &*seen.value), (1, b"new".as_slice()));
        }
        winner.batch_execute("COMMIT").await.unwrap();
        let Exchange::Swapped(version) = write(Some(new.version)).await else {
            panic!("the row has the version that was expected")
        };
        assert!(version > new.version, "{version}");
        // It is gone.
        let delete = "BEGIN; DELETE FROM public.lockword WHERE key = 'k'";
        assert_eq!(lose(delete, Some(version), "COMMIT").await, Exchange::Mismatch(None));
        // It is created meanwhile, and is not.
        let told = lose(&insert, None, "COMMIT").await;
        assert_eq!(told, Exchange::Mismatch(Some(new.clone())));
        by_hand.batch_execute("DELETE FROM public.lockword WHERE key = 'k'").await.unwrap();
        let told = lose(&insert, None, "ROLLBACK").await;
        assert!(matches!(told, Exchange::Swapped(_)), "{told:?}");
    }
}

/// A row as the server keeps it: where it is, who wrote it, who locked it; and the next transaction id of the
/// server.
async fn traces(by_hand: &tokio_postgres::Client) -> Vec<String> {
    let rows = "SELECT concat_ws(' ', key, ctid, xmin, xmax) FROM public.lockword ORDER BY key";
    let next = "SELECT txid_snapshot_xmax(txid_current_snapshot())::text";
    let mut traces = vec![];
    for sql in [rows, next] {
        let rows = by_hand.query(sql, &[]).await.unwrap();
        traces.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    traces
}

/// Beside an open snapshot a row version that nobody needs is kept, and looked at by everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_try_and_a_mismatch_write_nothing() {
    let settings = vec!["autovacuum=off".to_owned()];
    let Some(server) = server_with(PostgresSetup { settings, ..PostgresSetup::default() }).await
    else {
        return;
    };
    let by_hand = server.client().await;
    for more in ["", "pooled=true"] {
        let engine = client(&server.address(more)).await;
        put(&engine, "k", "v").await;
        let lease = Duration::from_secs(60);
        let (a, b) = (
            node(&engine, "a").lease(lease).build().unwrap(),
            node(&client(&server.address(more)).await, "b").lease(lease).build().unwrap(),
        );
        let guard = lock(&a, "held").acquire().await.unwrap();
        let before = traces(&by_hand).await;
        assert_eq!(
            before.len(),
            4,
            "two registers, the floor and the next transaction: {before:?}"
        );
        for _ in 0..20 {
            let tried = lock(&b, "held").try_acquire().await;
            assert!(matches!(tried, Err(LockError::Busy { .. })), "{tried:?}");
            for wake in [Wake::Nobody, Wake::Everybody] {
                for expected in [None, Some(Version::new(1).unwrap())] {
                    let write = Write { wake, ..value("w") };
                    let told = engine.compare_exchange(&key("k"), expected, write).await.unwrap();
                    let Exchange::Mismatch(Some(seen)) = told else { panic!("{told:?}") };
                    assert_eq!(&*seen.value, b"v");
                }
            }
            let expected = Some(Version::new(1).unwrap());
            let told = engine.compare_exchange(&key("none"), expected, value("w")).await.unwrap();
            assert_eq!(told, Exchange::Mismatch(None));
        }
        assert_eq!(traces(&by_hand).await, before, "{more}");
        guard.release().await.unwrap();
        assert_ne!(traces(&by_hand).await, before, "the control: a release is seen");
        for name in ["k", "held"] {
            engine.delete(&key(name)).await.unwrap();
        }
    }
}

/// A key that is created while others are deleted gets a version above them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_waits_for_the_floor() {
    let Some(server) = server().await else { return };
    let (deleting, by_hand) = (server.client().await, server.client().await);
    for more in ["", "&pooled=true"] {
        let engine = client(&server.address(&format!("{WAITING_LONG}{more}"))).await;
        let old = put(&engine, "k", "old").await.get() + 3_600_000_000;
        let sql = format!(
            "UPDATE public.lockword SET version = {old} WHERE key = 'k'; BEGIN; \
             UPDATE public.lockword SET version = {old} WHERE key = ''; \
             DELETE FROM public.lockword WHERE key = 'k'"
        );
        deleting.batch_execute(&sql).await.unwrap();
        // It is there as long as its deletion is not committed.
        let told = engine.compare_exchange(&key("k"), None, value("new")).await.unwrap();
        assert!(matches!(told, Exchange::Mismatch(Some(_))), "{told:?}");
        let asking = engine.clone();
        let asked =
            tokio::spawn(
                async move { asking.compare_exchange(&key("l"), None, value("new")).await },
            );
        until("it waits", async || is_waiting(&by_hand).await).await;
        deleting.batch_execute("COMMIT").await.unwrap();
        let told = asked.await.unwrap().unwrap();
        assert!(matches!(told, Exchange::Swapped(new) if new.get() > old), "{told:?} above {old}");
        engine.delete(&key("l")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_housekeeping_deletes_registers_idle_for_a_day() {
    let Some(server) = server().await else { return };
    let (engine, by_hand) = (client(&server.address("")).await, server.client().await);
    let idle = |text| Write { idle: true, ..value(text) };
    for name in ["old", "new", "held"] {
        let write = if name == "held" { value("h") } else { idle("i") };
        engine.compare_exchange(&key(name), None, write).await.unwrap();
    }
    let future = "UPDATE public.lockword SET version = version + 3600000000, \
        idle_since = idle_since - interval '1 day 1 minute' WHERE key = 'old'";
    by_hand.batch_execute(future).await.unwrap();
    let old = engine.load(&key("old")).await.unwrap().unwrap().version;
    assert_eq!(engine.housekeeping().await.unwrap(), 1);
    assert_eq!(engine.housekeeping().await.unwrap(), 0);
    assert_eq!(engine.load(&key("old")).await.unwrap(), None);
    for name in ["new", "held"] {
        assert!(engine.load(&key(name)).await.unwrap().is_some(), "{name}");
    }
    // As if the clock had stepped back by an hour.
    assert!(put(&engine, "old", "again").await > old);
    assert!(put(&engine, "another", "new").await > old, "the floor is for all");
    // The first one to write ends the idleness.
    let version = engine.load(&key("new")).await.unwrap().unwrap().version;
    engine.compare_exchange(&key("new"), Some(version), value("held")).await.unwrap();
    let sql = "SELECT count(*) FROM public.lockword WHERE idle_since IS NOT NULL";
    assert_eq!(by_hand.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert!(engine.delete(&key("held")).await.unwrap());
    assert!(!engine.delete(&key("held")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_is_created_once_and_printed_as_sql() {
    let Some(server) = PostgresServer::start(PostgresSetup::default()) else { return };
    let engine = client(&server.address("table=locks.of_mine")).await;
    let error = engine.load(&key("k")).await.unwrap_err();
    assert!(matches!(error, TransportError::Unsupported(_)), "{error}");
    assert!(error.to_string().contains("create_schema()"), "{error}");
    let by_hand = server.client().await;
    by_hand.batch_execute("CREATE SCHEMA locks").await.unwrap();
    let mut creating = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let engine = client(&server.address("table=locks.of_mine")).await;
        creating.spawn(async move { engine.create_schema().await });
    }
    while let Some(created) = creating.join_next().await {
        created.unwrap().unwrap();
    }
    put(&engine, "k", "v").await;
    // The same by a migration, over what is there.
    by_hand.batch_execute(&engine.schema_sql()).await.unwrap();
    assert!(engine.load(&key("k")).await.unwrap().is_some());
    let sql = "SELECT convert_from(value, 'UTF8') FROM locks.of_mine WHERE key = 'k'";
    assert_eq!(by_hand.query_one(sql, &[]).await.unwrap().get::<_, String>(0), "v");
    // Without its floor it is of no use, and is not used.
    by_hand.batch_execute("TRUNCATE locks.of_mine").await.unwrap();
    let error = engine.compare_exchange(&key("k"), None, value("v")).await.unwrap_err();
    assert!(matches!(error, TransportError::Unsupported(_)), "{error}");
    // A table that was altered is used as it is now.
    engine.create_schema().await.unwrap();
    by_hand.batch_execute("ALTER TABLE locks.of_mine ALTER value TYPE bytea").await.unwrap();
    until("it works", async || engine.load(&key("k")).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_wakes_only_the_nodes_that_it_names() {
    let Some(server) = server().await else { return };
    let (engine, other) = (client(&server.address("")).await, client(&server.address("")).await);
    let (one, two) = (NodeId::new(1), NodeId::new(2));
    let mut first = engine.watch(&key("k"), one).await.unwrap();
    let mut second = engine.watch(&key("k"), two).await.unwrap();
    let mut elsewhere = engine.watch(&key("l"), two).await.unwrap();
    let mut version = put(&other, "k", "quiet").await;
    let mut tell = async |wake, text: &str| {
        let write = Write { wake, ..value(text) };
        match other.compare_exchange(&key("k"), Some(version), write).await.unwrap() {
            Exchange::Swapped(now) => version = now,
            told => panic!("{told:?}"),
        }
    };
    tell(Wake::Node(two), "for two").await;
    assert_eq!(second.next().await.unwrap().unwrap(), None, "it carries no register");
    tell(Wake::Everybody, "for all").await;
    for watch in [&mut first, &mut second] {
        assert_eq!(watch.next().await.unwrap().unwrap(), None);
    }
    tell(Wake::Everybody, &"x".repeat(60_000)).await;
    for watch in [&mut first, &mut second] {
        assert_eq!(watch.next().await.unwrap().unwrap(), None);
    }
    assert!(elsewhere.next().now_or_never().is_none(), "another key");
    // The notifications of one connection come in order: none was for the quiet write.
    assert!(first.next().now_or_never().is_none());
    // A name of 200 bytes, with a long value.
    let long = "k".repeat(Key::MAX_LEN);
    let mut watch = engine.watch(&key(&long), one).await.unwrap();
    let write = Write { wake: Wake::Node(one), ..value(&"x".repeat(3_800)) };
    other.compare_exchange(&key(&long), None, write).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap(), None);
    // Foreign notifications on these channels do no harm.
    let by_hand = server.client().await;
    for payload in ["", " ", "k", "k 1 00", "?", "?0123456789abcdef", "\u{e4}\u{e4}", "0123"] {
        for channel in ["public.lockword", "public.lockword:2", "public.lockword:x"] {
            let sql = format!("SELECT pg_notify('{channel}', '{payload}')");
            by_hand.batch_execute(&sql).await.unwrap();
        }
    }
    tell(Wake::Everybody, "after all").await;
    assert_eq!(second.next().await.unwrap().unwrap(), None);
    assert!(second.next().now_or_never().is_none(), "the others were of no key");
    // Without a watch the channel is not listened to.
    drop((first, second, elsewhere, watch));
    let again = engine.watch(&key("k"), one).await.unwrap();
    drop(again);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lockword' \
        AND query = 'UNLISTEN \"public.lockword:0000000000000001\"'";
    until("it is not listened for", async || {
        by_hand.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
}

/// A notification delays every other commit of the database, so no unneeded one is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_is_sent_only_by_a_write_that_asks_for_it_and_succeeds() {
    let Some(server) = server().await else { return };
    // There is no watch, and so no other notification.
    let (all, mut told) = server.listen("public.lockword").await;
    all.batch_execute("LISTEN \"public.lockword:0000000000000001\"").await.unwrap();
    // A hash of the key, and nothing else.
    let hint = "af63e64c8601fd8a";
    for more in ["", "pooled=true"] {
        let engine = client(&server.address(more)).await;
        let write = |wake| Write { wake, ..value("v") };
        let (one, two) = (Wake::Node(NodeId::new(1)), Wake::Node(NodeId::new(2)));
        let mut expected = None;
        for wake in [Wake::Nobody, Wake::Everybody, two, one, Wake::Nobody] {
            // One that is not made.
            let wrong = expected.is_none().then(|| Version::new(5).unwrap());
            let response = engine.compare_exchange(&key("k"), wrong, write(Wake::Everybody)).await;
            assert!(matches!(response, Ok(Exchange::Mismatch(_))), "{response:?}");
            let response = engine.compare_exchange(&key("k"), expected, write(wake)).await.unwrap();
            let Exchange::Swapped(version) = response else { panic!("{response:?}") };
            expected = Some(version);
            if wake == Wake::Everybody || wake == one {
                assert_eq!(told.recv().await.unwrap(), hint);
            }
        }
        engine.delete(&key("k")).await.unwrap();
        let response = engine.compare_exchange(&key("k"), None, write(one)).await.unwrap();
        assert!(matches!(response, Exchange::Swapped(_)), "{response:?}");
        assert_eq!(told.recv().await.unwrap(), hint);
        engine.delete(&key("k")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_lose_writes_makes_the_engine_lossy() {
    let settings = vec!["synchronous_commit=off".to_owned()];
    let Some(server) = server_with(PostgresSetup { settings, ..PostgresSetup::default() }).await
    else {
        return;
    };
    let engine = client(&server.address("")).await;
    assert_eq!(engine.capabilities().consistency, Consistency::Linearizable, "it is set to on");
    let pooled = client(&server.address("pooled=true")).await;
    assert_eq!(pooled.capabilities().consistency, Consistency::Lossy);
    let by_hand = server.client().await;
    by_hand.batch_execute("ALTER SYSTEM SET fsync = off").await.unwrap();
    by_hand.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until("the setting is read", async || {
        client(&server.address("")).await.capabilities().consistency == Consistency::Lossy
    })
    .await;
    // A client that has declared more does not go on with less.
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE application_name = 'lockword'";
    by_hand.batch_execute(sql).await.unwrap();
    until("it is refused", async || {
        matches!(engine.load(&key("k")).await, Err(TransportError::Unsupported(_)))
    })
    .await;
}
