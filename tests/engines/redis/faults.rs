//! Servers that die or are stopped, clients that are cut off, connections that fail unnoticed.

use super::{NodeId, RedisServer, RedisSetup, TransportError, client, key, put, until, write};
use crate::support::relay::{Loss, Relay, silent_to_the_second_client};
use futures_util::{FutureExt, StreamExt};
use lockword::cluster::{Node, Transport};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_server_that_was_killed_is_found_again() {
    let Some(server) =
        RedisServer::start_with(RedisSetup { durable: true, ..RedisSetup::default() })
    else {
        return;
    };
    let redis = client(&server.address()).await;
    let key = key("survivor");
    let written = put(&redis, &key, None, write("before")).await;
    let mut watch = redis.watch(&key, NodeId::new(1)).await.unwrap();
    server.process.kill9();
    let item = timeout(SOON, watch.next()).await.expect("the watch ends").unwrap();
    assert!(matches!(item, Err(TransportError::Unavailable(_))), "{item:?}");
    assert!(watch.next().await.is_none());
    // The connection of the requests may not have seen it yet.
    assert!(redis.load(&key).await.is_err());
    for _ in 0..3 {
        // Nothing is sent to a server that is not there.
        let error = redis.compare_exchange(&key, Some(written), write("x")).await.unwrap_err();
        assert!(matches!(error, TransportError::Unavailable(_)), "{error}");
        assert!(
            redis.load(&key).await.is_err() && redis.watch(&key, NodeId::new(1)).await.is_err()
        );
    }
    server.process.restart();
    assert_eq!(redis.load(&key).await.unwrap().unwrap().version, written);
    let mut watch = redis.watch(&key, NodeId::new(1)).await.unwrap();
    put(&redis, &key, Some(written), write("after")).await;
    assert_eq!(watch.next().await.unwrap().unwrap(), None);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_write_to_a_stopped_server_is_indeterminate() {
    let Some(server) = RedisServer::start() else { return };
    let redis = client(&server.address()).await;
    let key = key("frozen");
    let written = put(&redis, &key, None, write("before")).await;
    let mut watch = redis.watch(&key, NodeId::new(1)).await.unwrap();
    server.process.stop();
    let began = Instant::now();
    let within = redis.capabilities().wake_within + Duration::from_secs(2);
    let (indeterminate, ended) = tokio::join!(
        redis.compare_exchange(&key, Some(written), write("late")),
        timeout(within, watch.next())
    );
    assert!(matches!(indeterminate, Err(TransportError::Indeterminate(_))), "{indeterminate:?}");
    assert!(matches!(ended, Ok(Some(Err(_)))), "{ended:?}");
    // Those that come after are sure not to have been sent.
    let refused = redis.compare_exchange(&key, Some(written), write("later")).await;
    assert!(matches!(refused, Err(TransportError::Unavailable(_))), "{refused:?}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    server.process.cont();
    let found = redis.load(&key).await.unwrap().unwrap();
    // The server found the request when it went on.
    assert_eq!(&*found.value, b"late");
    until("the old connections are gone", || server.connections() == 1).await;
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_indeterminate_and_applied_once() {
    let Some(server) = RedisServer::start() else { return };
    let relay = Relay::new(server.port);
    let redis = client(&server.address_at(relay.port())).await;
    let key = key("lost");
    let before = put(&redis, &key, None, write("before")).await;
    relay.lose_with(Loss::Response, "EVAL");
    let indeterminate = redis.compare_exchange(&key, Some(before), write("once")).await;
    assert!(matches!(indeterminate, Err(TransportError::Indeterminate(_))), "{indeterminate:?}");
    assert!(!relay.is_armed());
    let found = redis.load(&key).await.unwrap().unwrap();
    assert_eq!(&*found.value, b"once");
    // Two writes and a load. The first write found no script there, and each connection began with one.
    assert_eq!((server.calls("evalsha"), server.calls("eval")), (3, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_and_a_waiter_survive_a_restart_of_the_server() {
    let Some(server) =
        RedisServer::start_with(RedisSetup { durable: true, ..RedisSetup::default() })
    else {
        return;
    };
    let lease = Duration::from_secs(6);
    let node = |label: &str, redis| Node::builder(redis).label(label).lease(lease).build().unwrap();
    let one = node("one", client(&server.address()).await);
    let two = node("two", client(&server.address()).await);
    let held = one.lock("restarted").unwrap().acquire().await.unwrap();
    let waits = two.lock("restarted").unwrap();
    let waits = tokio::spawn(async move { waits.acquire().await.unwrap() });
    let queued = async || one.inspect("restarted").await.unwrap().queue.len();
    while queued().await == 0 {}
    server.process.kill9();
    server.process.restart();
    // Renewed by itself: it lives longer than a lease.
    tokio::time::sleep(lease + Duration::from_millis(500)).await;
    assert!(held.is_valid(), "the lease was renewed after the restart");
    assert!(!waits.is_finished());
    let first = held.token();
    held.release().await.unwrap();
    let second = timeout(SOON, waits).await.expect("the waiter gets it").unwrap();
    assert!(second.token() > first);
    second.release().await.unwrap();
}

#[test]
fn a_client_outlives_the_runtime_that_has_connected_it() {
    let Some(server) = RedisServer::start() else { return };
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let first = runtime();
    let redis = first.block_on(client(&server.address()));
    drop(first);
    runtime().block_on(async {
        let written = put(&redis, &key("moved"), None, write("x")).await;
        assert_eq!(redis.load(&key("moved")).await.unwrap().unwrap().version, written);
        assert!(redis.watch(&key("moved"), NodeId::new(1)).await.is_ok());
    });
}

#[tokio::test]
async fn a_call_does_not_get_the_failure_of_an_abandoned_attempt() {
    let Some(server) = RedisServer::start() else { return };
    let (port, was_left) = silent_to_the_second_client(server.port).await;
    let redis = client(&server.address_at(port)).await;
    let written = put(&redis, &key("k"), None, write("x")).await;
    server.process.restart();
    // It finds the connection dead, and begins another.
    while timeout(Duration::from_millis(300), redis.load(&key("k"))).await.is_ok() {}
    was_left.await.expect("the attempt is given up");
    // Connections share a thread: it has ended the attempt when it has made another connection.
    drop(client(&server.address()).await);
    let found = redis.load(&key("k")).await.expect("the server answers since then");
    assert!(found.is_none(), "it kept nothing of {written}");
}

#[tokio::test]
async fn a_cancelled_request_does_not_cost_the_connection() {
    let Some(server) = RedisServer::start() else { return };
    let redis = client(&server.address()).await;
    put(&redis, &key("k"), None, write("x")).await;
    let before = connection_of_requests(&server);
    // Polled once, so that it is sent. The connection is on another thread, and may be quicker.
    while redis.load(&key("k")).now_or_never().is_some() {}
    // Longer than a server may be silent that was asked something.
    sleep(Duration::from_millis(2500)).await;
    assert!(redis.load(&key("k")).await.unwrap().is_some());
    assert_eq!(connection_of_requests(&server), before);
}

/// The number of the connection that has no subscriptions.
fn connection_of_requests(server: &RedisServer) -> Option<String> {
    let list: String = server.say(&["CLIENT", "LIST"]);
    let is_meant = |line: &&str| line.contains(" addr=127.0.0.1") && line.contains(" sub=0");
    let line = list.lines().find(is_meant)?;
    line.split(' ').next()?.strip_prefix("id=").map(str::to_owned)
}

/// The next one may lead to another server, to which the watch does not listen.
#[tokio::test]
async fn a_watch_ends_with_the_connection_of_the_requests() {
    let Some(server) = RedisServer::start() else { return };
    let redis = client(&server.address()).await;
    put(&redis, &key("k"), None, write("x")).await;
    let mut watch = redis.watch(&key("k"), NodeId::new(1)).await.unwrap();
    let before = connection_of_requests(&server).expect("it is there");
    let _: i64 = server.say(&["CLIENT", "KILL", "ID", &before]);
    until("there is another one", || {
        let _ = redis.load(&key("k")).now_or_never();
        connection_of_requests(&server).is_some_and(|now| now != before)
    })
    .await;
    let item = timeout(SOON, watch.next()).await.expect("the watch goes on").unwrap();
    assert!(matches!(item, Err(TransportError::Unavailable(_))), "{item:?}");
}

/// Others must not end a lock by what they publish.
#[tokio::test]
async fn a_message_that_is_too_long_ends_the_watches_and_no_request() {
    let Some(server) = RedisServer::start() else { return };
    let redis = client(&server.address()).await;
    put(&redis, &key("k"), None, write("x")).await;
    let _: () = server.say(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 64kb 64kb 1"]);
    let long = "x".repeat(4 << 20);
    let before = connection_of_requests(&server);
    for _ in 0..3 {
        let mut watch = redis.watch(&key("k"), NodeId::new(1)).await.unwrap();
        let began = Instant::now();
        let ended = loop {
            assert!(began.elapsed() < SOON, "the server takes them all");
            let _: i64 = server.say(&["PUBLISH", "{lockword}:#0000000000000001", &long]);
            redis.load(&key("k")).await.expect("requests go on");
            // It may have been delivered.
            match watch.next().now_or_never() {
                Some(Some(Ok(None))) | None => {}
                Some(ended) => break ended,
            }
        };
        assert!(matches!(ended, Some(Err(TransportError::Unavailable(_)))), "{ended:?}");
    }
    assert_eq!(connection_of_requests(&server), before);
}
