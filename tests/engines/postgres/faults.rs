use super::*;
use crate::support::relay::{Loss, Relay, silent_to_the_second_client};
use futures_util::StreamExt;
use lockword::cluster::NodeId;
use tokio::time::timeout;

/// Both ways: what was written is indeterminate, and so is what was not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_connection_is_lost_is_indeterminate() {
    let Some(server) = server().await else { return };
    let relay = Relay::new(server.port);
    let engine = client(&server.address_at(relay.port(), "")).await;
    for (loss, left) in [(Loss::Request, "old"), (Loss::Response, "new")] {
        let version = put(&engine, "k", "old").await;
        relay.lose(loss);
        let response = engine.compare_exchange(&key("k"), Some(version), value("new")).await;
        assert!(is_indeterminate(&response), "{loss:?}: {response:?}");
        // It connects again by itself. What was passed on is applied sooner or later.
        until("it is applied", async || {
            &*engine.load(&key("k")).await.unwrap().unwrap().value == left.as_bytes()
        })
        .await;
        relay.lose(loss);
        let response = engine.load(&key("k")).await;
        assert!(matches!(response, Err(TransportError::Unavailable(_))), "{loss:?}: {response:?}");
        engine.load(&key("k")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_cut_off_gets_errors_in_time() {
    let Some(server) = server().await else { return };
    let relay = Relay::new(server.port);
    let engine =
        client(&server.address_at(relay.port(), "timeout_ms=1000&connect_timeout=1")).await;
    let version = put(&engine, "k", "v").await;
    let mut watch = engine.watch(&key("k"), NodeId::new(1)).await.unwrap();
    relay.hold();
    let began = Instant::now();
    let response = engine.compare_exchange(&key("k"), Some(version), value("w")).await;
    assert!(is_indeterminate(&response), "{response:?}");
    let response = engine.load(&key("k")).await;
    assert!(matches!(response, Err(TransportError::Unavailable(_))), "{response:?}");
    // Each of the two ends in time; and a second is for the machine.
    assert!(began.elapsed() < ms(3000), "{:?}", began.elapsed());
    // The watch finds out by itself.
    let ended = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap();
    assert!(matches!(ended, Some(Err(TransportError::Unavailable(_)))), "{ended:?}");
    assert!(watch.next().await.is_none());
    let within = engine.capabilities().wake_within + ms(3000);
    assert!(began.elapsed() < within, "{:?}", began.elapsed());
    assert!(engine.watch(&key("k"), NodeId::new(1)).await.is_err());
    relay.pass();
    until("it works again", async || engine.load(&key("k")).await.is_ok()).await;
    until("and hears", async || engine.watch(&key("k"), NodeId::new(1)).await.is_ok()).await;
    // A cancelled call does not leave a dead connection for later calls.
    relay.hold();
    let asked = tokio::time::timeout(ms(20), engine.load(&key("k"))).await;
    assert!(asked.is_err(), "{asked:?}");
    let by_hand = server.client().await;
    until("it is given up", async || {
        tokio::time::timeout(ms(5), engine.load(&key("k")))
            .await
            .is_ok_and(|response| response.is_err())
    })
    .await;
    relay.pass();
    until("it works again", async || engine.load(&key("k")).await.is_ok()).await;
    drop((engine, relay));
    until("nothing is left", async || connections(&by_hand).await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_is_found_again() {
    let Some(server) = server().await else { return };
    let engine = client(&server.address("")).await;
    let version = put(&engine, "k", "v").await;
    let mut watch = engine.watch(&key("k"), NodeId::new(1)).await.unwrap();
    server.process.kill9();
    assert!(matches!(watch.next().await, Some(Err(_))));
    let error = engine.load(&key("k")).await.unwrap_err();
    assert!(matches!(error, TransportError::Unavailable(_)), "{error:?}");
    server.process.restart();
    let found = engine.load(&key("k")).await.unwrap().unwrap();
    assert_eq!(found.version, version, "nothing is lost");
    let mut watch = engine.watch(&key("k"), NodeId::new(1)).await.unwrap();
    let write = Write { wake: Wake::Everybody, ..value("w") };
    let told = engine.compare_exchange(&key("k"), Some(version), write).await.unwrap();
    assert!(matches!(told, Exchange::Swapped(newer) if newer > version), "{told:?}");
    watch.next().await.unwrap().unwrap();
}

/// The old primary goes on, and so does one of the two connections to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_watches_go_to_another_server_together() {
    let Some(old) = server().await else { return };
    let new = old.replica();
    new.client().await.batch_execute("SELECT pg_promote()").await.unwrap();
    let relay = Relay::new(old.port);
    let engine = client(&old.address_at(relay.port(), "")).await;
    put(&engine, "k", "old").await;
    let mut watch = engine.watch(&key("k"), NodeId::new(1)).await.unwrap();
    // There, and back again.
    for (from, to, keeps_watch) in [(&old, &new, true), (&new, &old, false)] {
        let by_hand = from.client().await;
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE application_name = 'lockword' AND (query LIKE 'UNLISTEN%' \
                 OR query LIKE 'LISTEN%' OR query LIKE '%queue_usage() < %') = {}",
            !keeps_watch
        );
        relay.lead_to(to.port);
        let ended = by_hand.query(&sql, &[]).await.unwrap();
        assert!(!ended.is_empty(), "one of the two");
        let ended = timeout(engine.capabilities().wake_within, watch.next()).await;
        assert!(matches!(ended, Ok(Some(Err(_)))), "{keeps_watch}: {ended:?}");
        let began = Instant::now();
        until("a watch is in force", async || {
            match engine.watch(&key("k"), NodeId::new(1)).await {
                Ok(again) => watch = again,
                Err(TransportError::Unavailable(_)) => return false,
                Err(error) => panic!("{error}"),
            }
            true
        })
        .await;
        assert!(began.elapsed() < ms(3000), "{:?}", began.elapsed());
        let other = client(&to.address("")).await;
        let version = put(&other, "k", "new").await;
        let write = Write { wake: Wake::Everybody, ..value("newer") };
        other.compare_exchange(&key("k"), Some(version), write).await.unwrap();
        let heard = timeout(engine.capabilities().wake_within, watch.next()).await;
        assert!(matches!(heard, Ok(Some(Ok(None)))), "{keeps_watch}: {heard:?}");
        let read = engine.load(&key("k")).await.unwrap().unwrap();
        assert_eq!(&*read.value, b"newer", "of the same server");
    }
}

#[tokio::test]
async fn a_call_does_not_get_the_failure_of_an_abandoned_attempt() {
    let Some(server) = server().await else { return };
    let (port, was_left) = silent_to_the_second_client(server.port).await;
    let engine = client(&server.address_at(port, "connect_timeout=1")).await;
    let version = put(&engine, "k", "v").await;
    server.process.restart();
    // It finds the connection dead, and begins another.
    while timeout(ms(300), engine.load(&key("k"))).await.is_ok() {}
    was_left.await.expect("the attempt is given up");
    // Connections share a thread: it has ended the attempt when it has made another connection.
    drop(client(&server.address("")).await);
    let found = engine.load(&key("k")).await.expect("the server answers since then").unwrap();
    assert_eq!(found.version, version);
}

/// The first try fails before half of the time is over; the second one would end when all of it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_repeats_a_statement_ends_in_time() {
    let Some(server) = server().await else { return };
    let limit = ms(5000);
    let engine = client(&server.address("timeout_ms=5000")).await;
    let version = put(&engine, "k", "old").await;
    let by_hand = server.client().await;
    let sql = "CREATE SEQUENCE tries; \
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            IF nextval('tries') > 1 THEN PERFORM pg_sleep(3.5); RETURN new; END IF; \
            PERFORM pg_sleep(1.7); \
            RAISE SQLSTATE '40001'; \
        END $$; \
        CREATE TRIGGER slow BEFORE UPDATE ON public.lockword \
            FOR EACH ROW WHEN (new.key = 'k') EXECUTE FUNCTION slow()";
    by_hand.batch_execute(sql).await.unwrap();
    // The one that made the table goes.
    until("there is one connection", async || connections(&by_hand).await == 1).await;
    let pid = "SELECT pid FROM pg_stat_activity WHERE application_name = 'lockword'";
    let pid = async || by_hand.query_one(pid, &[]).await.unwrap().get::<_, i32>(0);
    let before = pid().await;
    let began = Instant::now();
    let response = engine.compare_exchange(&key("k"), Some(version), value("new")).await;
    let took = began.elapsed();
    println!("after {took:?}: {response:?}");
    assert!(is_indeterminate(&response), "after {took:?}: {response:?}");
    assert!(took >= limit, "{took:?}");
    // The others' connection is not given up because one of them came late.
    assert_eq!(&*engine.load(&key("k")).await.unwrap().unwrap().value, b"new");
    assert_eq!(pid().await, before);
}
