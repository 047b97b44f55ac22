//! Floors of prefixes, and roles that have rights on one prefix only.

use super::*;
use crate::support::postgres::Pooler;
use lockword::cluster::LockError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The role `jobs` gets rights on `jobs/`, and `app` has them on all.
const ROLES: &str = "
    CREATE ROLE app LOGIN; CREATE ROLE jobs LOGIN;
    GRANT SELECT, INSERT, UPDATE, DELETE ON public.lockword TO app;";

/// As documented.
const MAY_DELETE_BELOW: &str = "
    CREATE POLICY \"delete jobs\" ON public.lockword FOR DELETE TO jobs
        USING (starts_with(key, 'jobs/') AND right(key, 1) <> '*')";

/// For its housekeeping.
const MAY_DELETE: &str = "GRANT DELETE ON public.lockword TO jobs";

const LARGEST: i64 = (1 << 52) - 1;
const HOUR: i64 = 3_600_000_000;

/// The address for a role.
fn address_of(server: &PostgresServer, role: &str, more: &str) -> String {
    format!("postgres://{role}@127.0.0.1:{}/postgres?{more}", server.port)
}

/// PostgreSQL's own client, as a role.
async fn by_hand_as(server: &PostgresServer, role: &str) -> tokio_postgres::Client {
    let address = address_of(server, role, "");
    let (client, wire) =
        tokio_postgres::connect(&address, tokio_postgres::NoTls).await.expect("it runs");
    tokio::spawn(wire);
    client
}

async fn version_of(by_hand: &tokio_postgres::Client, key: &str) -> Option<i64> {
    let sql = "SELECT version FROM public.lockword WHERE key = $1";
    by_hand.query_opt(sql, &[&key]).await.expect("it runs").map(|row| row.get(0))
}

/// A server with both roles and the floor of `jobs/`; and the client of its owner.
async fn with_roles() -> Option<(PostgresServer, Postgres)> {
    let server = server().await?;
    let owner = client(&server.address("")).await;
    for sql in [ROLES, &grants::sql("jobs", "jobs/"), MAY_DELETE_BELOW] {
        server.client().await.batch_execute(sql).await.unwrap();
    }
    Some((server, owner))
}

fn is_denied<T>(result: &Result<T, TransportError>) -> bool {
    matches!(result, Err(TransportError::Denied(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_with_rights_on_a_prefix_has_locks_there_and_nowhere_else() {
    let Some((server, owner)) = with_roles().await else { return };
    let by_hand = server.client().await;
    by_hand.batch_execute(MAY_DELETE).await.unwrap();
    for more in ["", "pooled=true"] {
        let engine = client(&address_of(&server, "jobs", more)).await;
        // Every way of a lock, over the role alone.
        let lease = ms(1500);
        let a = node(&engine, "a").lease(lease).build().unwrap();
        let b = node(&client(&address_of(&server, "jobs", more)).await, "b");
        let b = b.lease(lease).build().unwrap();
        let held = lock(&a, "jobs/nightly").acquire().await.unwrap();
        let waiting = lock(&b, "jobs/nightly");
        let waiting = tokio::spawn(async move { waiting.acquire().await.unwrap() });
        sleep(lease * 2).await;
        assert!(held.is_valid(), "it is renewed");
        let token = held.token();
        held.release().await.unwrap();
        let next = waiting.await.unwrap();
        assert!(next.token() > token);
        next.release().await.unwrap();
        for node in [a, b] {
            node.shutdown().await;
        }

        // Deleted by the housekeeping and by hand, and created again: above what was there, although the clock
        // is behind.
        let idle = Write { idle: true, ..value("i") };
        for name in ["jobs/old", "jobs/deep/old"] {
            engine.compare_exchange(&key(name), None, idle.clone()).await.unwrap();
        }
        let far = "UPDATE public.lockword SET version = version + 3600000000, \
            idle_since = idle_since - interval '2 days' WHERE key LIKE 'jobs/%old'";
        by_hand.batch_execute(far).await.unwrap();
        let mut old = vec![];
        for name in ["jobs/old", "jobs/deep/old"] {
            old.push(engine.load(&key(name)).await.unwrap().unwrap().version);
        }
        let shared = version_of(&by_hand, "").await;
        assert_eq!(engine.housekeeping().await.unwrap(), 2);
        assert!(put(&engine, "jobs/old", "new").await > old[0]);
        let last = put(&owner, "jobs/deep/old", "new").await;
        assert!(last > old[1], "also by another role");
        assert!(engine.delete(&key("jobs/deep/old")).await.unwrap());
        assert!(put(&engine, "jobs/deep/old", "new").await > last);
        assert_eq!(version_of(&by_hand, "").await, shared, "the shared floor is not used");
        assert_eq!(engine.list("").await.unwrap().len(), 3, "and no floor");
        for name in ["jobs/deep/old", "jobs/nightly", "jobs/old"] {
            assert!(engine.delete(&key(name)).await.unwrap(), "{name}");
        }

        // Elsewhere.
        put(&owner, "other/held", "v").await;
        for name in ["other/new", "jobs", "jobsx", "other/held"] {
            let created = engine.compare_exchange(&key(name), None, value("v")).await;
            assert!(is_denied(&created), "{name}: {created:?}");
            let deleted = engine.delete(&key(name)).await;
            assert!(is_denied(&deleted), "{name}: {deleted:?}");
            assert_eq!(engine.load(&key(name)).await.unwrap(), None, "{name} is not seen");
        }
        let node = node(&engine, "stranger").build().unwrap();
        let error = lock(&node, "other/new").acquire().await.unwrap_err();
        assert!(error.to_string().contains("create_floor()"), "{error}");
        assert!(matches!(error, LockError::Transport { .. }), "{error:?}");
    }
}

/// Several keys in one statement, some of which have other floors than the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_for_several_keys_uses_the_floor_of_each() {
    let Some(server) = server().await else { return };
    let (owner, by_hand) = (client(&server.address("")).await, server.client().await);
    for prefix in ["a/", "a/b/", "c/"] {
        owner.create_floor(prefix).await.unwrap();
    }
    // All above the clock.
    let now = put(&owner, "now", "v").await.get() as i64;
    let floors = [("", 1), ("a/*", 2), ("a/b/*", 4), ("c/*", 3)];
    for (floor, hours) in floors {
        let sql = "UPDATE public.lockword SET version = $2 WHERE key = $1";
        by_hand.execute(sql, &[&floor, &(now + hours * HOUR)]).await.unwrap();
    }
    // One that creates is slow, and the others are one statement.
    let kinds = [("x", 1), ("a/x", 2), ("a/b/x", 4), ("a/b/c/x", 4), ("c/x", 3), ("ax", 1)];
    let before = statements(&by_hand).await;
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..600 {
        let (name, hours) = kinds[number % kinds.len()];
        let (engine, name) = (owner.clone(), key(&format!("{name}{number}")));
        writes.spawn(async move {
            match engine.compare_exchange(&name, None, value("v")).await.unwrap() {
                Exchange::Swapped(version) => (name, version.get() as i64, hours),
                other => panic!("{name}: {other:?}"),
            }
        });
    }
    while let Some(done) = writes.join_next().await {
        let (name, version, hours) = done.unwrap();
        assert_eq!(version, now + hours * HOUR + 1, "{name}");
    }
    let commits = statements(&by_hand).await - before;
    assert!(commits < 300, "the control: {commits} commits for 600 registers");
    // The housekeeping raises each by its own.
    by_hand
        .batch_execute(
            "UPDATE public.lockword SET idle_since = now() - interval '2 days'; \
             UPDATE public.lockword SET version = version + 7 WHERE key LIKE 'a/x%'",
        )
        .await
        .unwrap();
    assert_eq!(owner.housekeeping().await.unwrap(), 601, "all but the floors");
    for (floor, hours) in floors {
        let raised = if floor == "a/*" { 8 } else { 1 };
        let now_there = version_of(&by_hand, floor).await;
        assert_eq!(now_there, Some(now + hours * HOUR + raised), "{floor:?}");
    }
}

/// How many transactions the server has had.
async fn statements(by_hand: &tokio_postgres::Client) -> i64 {
    let sql = "SELECT txid_snapshot_xmax(txid_current_snapshot())";
    by_hand.query_one(sql, &[]).await.unwrap().get(0)
}

/// The worst that a role can do harms its own prefix only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_can_end_its_own_versions_only() {
    let Some((server, owner)) = with_roles().await else { return };
    let (by_hand, evil) = (server.client().await, by_hand_as(&server, "jobs").await);
    let app = client(&address_of(&server, "app", "")).await;
    put(&app, "other/k", "v").await;
    // Nor does it keep the others waiting, by the lock of the table.
    let denied = client(&address_of(&server, "jobs", "")).await.create_floor("jobs/new/").await;
    assert!(is_denied(&denied), "{denied:?}");
    by_hand.batch_execute(MAY_DELETE).await.unwrap();
    // What it has no right to is refused, or not there.
    for sql in [
        "UPDATE public.lockword SET version = 4503599627370495 WHERE key = ''",
        "UPDATE public.lockword SET version = 4503599627370495 WHERE NOT starts_with(key, 'jobs/')",
        "DELETE FROM public.lockword WHERE key = 'jobs/*'",
        "DELETE FROM public.lockword WHERE NOT starts_with(key, 'jobs/')",
    ] {
        assert_eq!(evil.execute(sql, &[]).await.unwrap(), 0, "{sql}");
    }
    for sql in [
        "UPDATE public.lockword SET key = 'jobs/away' WHERE key = 'jobs/*'",
        "INSERT INTO public.lockword (key, version, value) VALUES ('', 1, '')",
        "INSERT INTO public.lockword (key, version, value) VALUES ('other/*', 1, '')",
        "INSERT INTO public.lockword (key, version, value) VALUES ('jobs/new/*', 1, '')",
        "INSERT INTO public.lockword (key, version, value) VALUES ('k', 1, '')",
        "TRUNCATE public.lockword",
        "ALTER TABLE public.lockword DISABLE ROW LEVEL SECURITY",
    ] {
        let error = evil.execute(sql, &[]).await.expect_err(sql);
        assert_eq!(error.code().unwrap().code(), "42501", "{sql}");
    }
    // What it has a right to: the largest version in its floor and in a register, and a floor that looks idle.
    put(&app, "jobs/bad", "v").await;
    let sql = "UPDATE public.lockword SET version = 4503599627370495, \
        idle_since = now() - interval '2 days'";
    assert_eq!(evil.execute(sql, &[]).await.unwrap(), 2);
    let error = app.compare_exchange(&key("jobs/new"), None, value("v")).await.unwrap_err();
    assert!(matches!(error, TransportError::Unsupported(_)), "the control: {error}");
    // Its registers are deleted by others.
    assert_eq!(app.housekeeping().await.unwrap(), 1);
    let ended = "INSERT INTO public.lockword (key, version, value) VALUES ('jobs/bad', $1, '')";
    evil.execute(ended, &[&LARGEST]).await.unwrap();
    assert!(app.delete(&key("jobs/bad")).await.unwrap());
    // A floor below it, and one above it in another place.
    for prefix in ["jobs/deep/", "other/"] {
        owner.create_floor(prefix).await.unwrap();
    }
    assert_eq!(version_of(&by_hand, "jobs/*").await, Some(LARGEST), "it is there");
    let shared = version_of(&by_hand, "").await.unwrap();
    assert!(shared < LARGEST / 2, "{shared}");
    for name in ["other/new", "new"] {
        assert!(put(&app, name, "v").await.get() < 1 << 51, "{name}");
    }
}

/// Registers are created and deleted, by both kinds of client, while floors are made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_floor_that_is_made_later_lets_no_version_repeat() {
    let Some(server) = server().await else { return };
    let Some(pooler) = Pooler::start(&server) else { return };
    let by_hand = server.client().await;
    // A pooled client may have another isolation, and then an old snapshot.
    let sql = "ALTER DATABASE postgres SET default_transaction_isolation = 'serializable'";
    by_hand.batch_execute(sql).await.unwrap();
    let owner = client(&server.address("")).await;
    // The clock is of no help: all versions are above it.
    let far = put(&owner, "now", "v").await.get() + 1_000 * HOUR as u64;
    let sql = format!("UPDATE public.lockword SET version = {far} WHERE key = ''");
    by_hand.batch_execute(&sql).await.unwrap();
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let last: Arc<[AtomicU64; 3]> = Arc::default();
    let names = ["a/b/x", "a/y", "z"];
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..6 {
        let more = ["", "pooled=true"][number % 2];
        let port = if more.is_empty() { server.port } else { pooler.port };
        let engine = client(&server.address_at(port, more)).await;
        let (stop, rounds, last) = (stop.clone(), rounds.clone(), last.clone());
        tasks.spawn(async move {
            for at in (0..names.len()).cycle() {
                if stop.load(Relaxed) {
                    break;
                }
                // Whoever has created it is the only one to write or delete it.
                let created = engine.compare_exchange(&key(names[at]), None, value("v")).await;
                let version = match created {
                    Ok(Exchange::Swapped(version)) => version.get(),
                    Ok(Exchange::Mismatch(_)) | Err(TransportError::Unavailable(_)) => continue,
                    other => panic!("{other:?}"),
                };
                let before = last[at].swap(version, Relaxed);
                assert!(before < version, "{}: {version} after {before}", names[at]);
                loop {
                    match engine.delete(&key(names[at])).await {
                        Ok(found) => break assert!(found, "{}", names[at]),
                        Err(TransportError::Unavailable(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                rounds.fetch_add(1, Relaxed);
            }
        });
    }
    for (number, prefix) in ["a/", "a/b/", "z/"].into_iter().enumerate() {
        let before = rounds.load(Relaxed);
        until("they go on", async || rounds.load(Relaxed) > before + 100).await;
        let mut makers = vec![];
        for _ in 0..2 {
            let owner = client(&server.address("")).await;
            makers.push(tokio::spawn(async move {
                loop {
                    match owner.create_floor(prefix).await {
                        Ok(()) => break,
                        Err(TransportError::Unavailable(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }));
        }
        for maker in makers {
            maker.await.unwrap();
        }
        assert!(version_of(&by_hand, &format!("{prefix}*")).await.is_some(), "{number}");
    }
    let before = rounds.load(Relaxed);
    until("they go on", async || rounds.load(Relaxed) > before + 100).await;
    stop.store(true, Relaxed);
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!(last.iter().all(|last| last.load(Relaxed) > far));
}

/// The same, step by step: statements that began before the floor was there use it, or are over by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_and_the_making_of_a_floor_wait_for_each_other() {
    let Some(server) = server().await else { return };
    let (looks, slow) = (server.client().await, server.client().await);
    let owner = client(&server.address(WAITING_LONG)).await;
    for name in ["a/0", "a/1"] {
        put(&owner, name, "v").await;
    }
    let far = put(&owner, "now", "v").await.get() as i64 + HOUR;
    let raise = |version: i64| format!("UPDATE public.lockword SET version = {version} WHERE key");
    looks.batch_execute(&format!("{} LIKE 'a/_'", raise(far))).await.unwrap();
    // A deletion that is not over.
    slow.batch_execute(&format!("BEGIN; {} = ''", raise(far - 1))).await.unwrap();
    let making = owner.clone();
    let making = tokio::spawn(async move { making.create_floor("a/").await });
    until("it waits for the deletion", async || waiting(&looks).await == 1).await;
    // One of these has a snapshot in which the floor is not there.
    let mut asked = tokio::task::JoinSet::new();
    for (number, isolation) in ["read committed", "serializable"].into_iter().enumerate() {
        let sql =
            format!("ALTER DATABASE postgres SET default_transaction_isolation = '{isolation}'");
        looks.batch_execute(&sql).await.unwrap();
        let engine = client(&server.address(&format!("{WAITING_LONG}&pooled=true"))).await;
        asked.spawn(async move { engine.delete(&key(&format!("a/{number}"))).await });
        let count = i64::try_from(number).unwrap() + 2;
        until("it waits too", async || waiting(&looks).await == count).await;
    }
    // It changes nothing of what they see.
    slow.batch_execute("ROLLBACK").await.unwrap();
    making.await.unwrap().unwrap();
    while let Some(deleted) = asked.join_next().await {
        assert!(deleted.unwrap().unwrap());
    }
    assert_eq!(version_of(&looks, "a/*").await, Some(far), "they raised the floor of the prefix");
    assert!(version_of(&looks, "").await < Some(far));
    assert!(put(&owner, "a/0", "v").await.get() as i64 > far);
}

#[tokio::test]
async fn what_is_no_prefix_has_no_floor() {
    let Some(server) = PostgresServer::start(PostgresSetup::default()) else { return };
    let engine = client(&server.address("")).await;
    for bad in ["", "jobs", "jobs/*", "a b/", "a'/"] {
        let error = engine.create_floor(bad).await.unwrap_err();
        assert!(matches!(error, TransportError::Unsupported(_)), "{bad}: {error}");
        assert!(error.to_string().contains("is no prefix"), "{bad}: {error}");
    }
    // There is no table, and then no floor above it.
    let error = engine.create_floor("jobs/").await.unwrap_err();
    assert!(error.to_string().contains("create_schema()"), "{error}");
    engine.create_schema().await.unwrap();
    let by_hand = server.client().await;
    by_hand.batch_execute("TRUNCATE public.lockword").await.unwrap();
    let error = engine.create_floor("jobs/").await.unwrap_err();
    assert!(error.to_string().contains("create_schema()"), "{error}");
    engine.create_schema().await.unwrap();
    // By a migration, twice, and no lower than the one above it.
    by_hand.batch_execute("UPDATE public.lockword SET version = 77").await.unwrap();
    for prefix in ["jobs/", "jobs/", "jobs/deep/"] {
        by_hand.batch_execute(&engine.floor_sql(prefix).unwrap()).await.unwrap();
    }
    for floor in ["jobs/*", "jobs/deep/*"] {
        assert_eq!(version_of(&by_hand, floor).await, Some(77), "{floor}");
    }
    assert!(engine.list("").await.unwrap().is_empty());
}
