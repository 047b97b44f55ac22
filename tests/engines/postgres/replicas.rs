use super::*;
use crate::suite::fixture;
use lockword::cluster::conformance::History;
use lockword::cluster::{Consistency, FencingToken};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

async fn declared(address: &str) -> Consistency {
    client(address).await.capabilities().consistency
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_may_lag_makes_the_engine_lossy() {
    let Some(server) = server().await else { return };
    let by_hand = server.client().await;
    let sql = "CREATE USER poor; GRANT SELECT, INSERT, UPDATE ON public.lockword TO poor";
    by_hand.batch_execute(sql).await.unwrap();
    let poor = server.address("").replace("//postgres@", "//poor@");
    let before = client(&server.address("")).await;
    assert_eq!(before.capabilities().consistency, Consistency::Linearizable);
    assert_eq!(declared(&server.address("replicas=async")).await, Consistency::Lossy);
    let replica = server.replica();
    let attached = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    until("it follows", async || {
        by_hand.query_one(attached, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    for (address, expected) in [
        (server.address(""), Consistency::Lossy),
        (server.address("pooled=true"), Consistency::Lossy),
        // What it needs to know, everybody may see.
        (poor.clone(), Consistency::Lossy),
        (server.address("replicas=none"), Consistency::Linearizable),
    ] {
        assert_eq!(declared(&address).await, expected, "{address}");
    }
    let refused = connect(&server.address("replicas=sync")).await.map(drop);
    assert!(matches!(refused, Err(ConnectError::Unsuitable { .. })), "{refused:?}");
    // A client that was connected before goes on, also with a new connection.
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE application_name = 'lockword'";
    by_hand.batch_execute(sql).await.unwrap();
    until("it works", async || before.load(&key("k")).await.is_ok()).await;
    put(&before, "k", "v").await;
    // Now it has what is acknowledged.
    by_hand.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    by_hand.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    for address in [server.address(""), poor.clone()] {
        until("it is synchronous", async || declared(&address).await == Consistency::Linearizable)
            .await;
    }
    let strict = client(&server.address("replicas=sync")).await;
    put(&strict, "k", "w").await;
    for commit in ["local", "remote_write"] {
        let sql = format!("ALTER USER poor SET synchronous_commit = '{commit}'");
        by_hand.batch_execute(&sql).await.unwrap();
        assert_eq!(declared(&poor).await, Consistency::Lossy, "{commit}");
    }
    // And one that goes.
    by_hand.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    by_hand.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    drop(replica);
    until("it is gone", async || declared(&poor).await == Consistency::Linearizable).await;
    // With `replicas=sync` a later connection is refused too, until the settings are right again.
    by_hand.batch_execute(sql).await.unwrap();
    until("it is refused", async || {
        strict.load(&key("k")).await.is_err_and(|error| error.to_string().contains("replicas=sync"))
    })
    .await;
    let refused = strict.compare_exchange(&key("k"), None, value("x")).await;
    assert!(matches!(refused, Err(TransportError::Unavailable(_))), "{refused:?}");
    by_hand.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    by_hand.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until("it works again", async || strict.load(&key("k")).await.is_ok()).await;
}

/// The primary is killed, and the standby that has each acknowledged commit is promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_takes_over_with_every_lock_and_every_acknowledged_write() {
    let Some(primary) = server().await else { return };
    let standby = primary.replica();
    // Not before the copy: the standby would wait for a standby of its own.
    let by_hand = primary.client().await;
    by_hand.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    by_hand.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    until("it is synchronous", async || {
        by_hand.query_one(synchronous, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", primary.port, standby.port);
    let address = format!("postgres://postgres@{hosts}/postgres");
    let (history, lease) = (History::new(), Duration::from_secs(10));
    let mut nodes = vec![];
    for number in 0..3 {
        nodes.push(fixture::node(&address, lease, number, &history).await);
    }
    let held = lock(&nodes[0], "held").acquire().await.unwrap();
    // The others take turns, before, meanwhile and after.
    let taken = Arc::new(AtomicUsize::new(0));
    let turns: Vec<_> = nodes[1..]
        .iter()
        .map(|node| {
            let (lock, taken) = (lock(node, "turns"), taken.clone());
            tokio::spawn(async move {
                let mut tokens: Vec<FencingToken> = vec![];
                let end = Instant::now() + lease * 3 / 2;
                while Instant::now() < end {
                    let guard = lock.acquire().await.unwrap();
                    tokens.push(guard.token());
                    taken.fetch_add(1, Relaxed);
                    // What became of a release during the failover may not be known.
                    let _ = guard.release().await;
                    sleep(ms(5)).await;
                }
                tokens
            })
        })
        .collect();
    until("they take turns", async || taken.load(Relaxed) >= 20).await;
    primary.process.kill9();
    standby.client().await.batch_execute("SELECT pg_promote()").await.unwrap();
    let mut tokens = vec![];
    for turn in turns {
        let of_node = turn.await.unwrap();
        assert!(of_node.is_sorted_by(|one, next| one < next), "{of_node:?}");
        tokens.extend(of_node);
    }
    let all = tokens.len();
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), all, "a token was given twice");
    // Its lease was over, if the new server did not have it, or had not renewed it.
    assert!(held.is_valid());
    held.release().await.unwrap();
    if let Err(violation) = history.check() {
        panic!("{violation}");
    }
}
