//! Sentinels: the primary that they name is used, also after a failover.

use super::{client, key, put, until, write};
use crate::support::process::free_port;
use crate::support::redis_sentinel::RedisSentinel;
use futures_util::StreamExt;
use lockword::cluster::engines::redis::Redis;
use lockword::cluster::{ConnectError, Exchange, LossReason, Node, NodeId, Transport, connect};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(20);
/// Longer than a failover takes.
const LEASE: Duration = Duration::from_secs(6);

/// A server that is killed while a lock is held and another node waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_and_a_waiter_survive_the_death_of_the_primary() {
    let Some(servers) = RedisSentinel::start() else { return };
    let node = async |label: &str| {
        let redis = client(&servers.address()).await;
        Node::builder(redis).label(label).lease(LEASE).build().unwrap()
    };
    let (one, two) = (node("one").await, node("two").await);
    let held = one.lock("jobs").unwrap().acquire().await.unwrap();
    let waits = two.lock("jobs").unwrap();
    let waits = tokio::spawn(async move { waits.acquire().await.unwrap() });
    while one.inspect("jobs").await.unwrap().queue.is_empty() {}
    // The replica has it: the guard survives. What it has not is lost (`Consistency::Lossy`).
    until("the replica has it", || servers.primary.is_replicated_by(&servers.replica)).await;
    let began = Instant::now();
    servers.primary.process.kill9();
    until("the replica is the primary", || RedisSentinel::is_primary(&servers.replica)).await;
    // Longer than what is left of the lease.
    sleep((began + LEASE + Duration::from_millis(500)) - Instant::now()).await;
    assert!(held.is_valid(), "not renewed at the new primary: {}", held.lost().await);
    assert!(!waits.is_finished(), "two holders");
    let first = held.token();
    held.release().await.unwrap();
    let second = timeout(SOON, waits).await.expect("the waiter gets it").unwrap();
    assert!(second.token() > first);
    second.release().await.unwrap();
}

/// A failover that an operator asks for: the old primary becomes a replica, and ends its connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_is_followed() {
    let Some(servers) = RedisSentinel::start() else { return };
    let redis = client(&servers.address()).await;
    let node = async |lease: Duration| {
        Node::builder(client(&servers.address()).await).lease(lease).build().unwrap()
    };
    // One that is not renewed meanwhile, and one that is all the time: what it writes at the old primary,
    // when the new one is one already, is lost.
    let (calm, busy) = (node(LEASE * 10).await, node(LEASE / 6).await);
    let kept = calm.lock("kept").unwrap().acquire().await.unwrap();
    let renewed = busy.lock("renewed").unwrap().acquire().await.unwrap();
    let first = put(&redis, &key("k"), None, write("at the old one")).await;
    let mut watch = redis.watch(&key("k"), NodeId::new(1)).await.unwrap();
    // What the replica has not yet is lost.
    until("the replica has it", || servers.primary.is_replicated_by(&servers.replica)).await;
    servers.fail_over();
    let (old, new) = (&servers.primary, &servers.replica);
    until("they have changed roles", || {
        RedisSentinel::is_primary(new) && !RedisSentinel::is_primary(old)
    })
    .await;
    let end = timeout(SOON, watch.next()).await.expect("the watch goes on").unwrap();
    assert!(end.is_err(), "{end:?}");
    let end = Instant::now() + SOON;
    let done = loop {
        match redis.compare_exchange(&key("k"), Some(first), write("at the new one")).await {
            Ok(done) => break done,
            Err(error) => assert!(Instant::now() < end, "not found: {error}"),
        }
    };
    assert!(matches!(done, Exchange::Swapped(_)), "{done:?}");
    assert_eq!(new.say::<String>(&["HGET", "{lockword}:k", "value"]), "at the new one");
    assert!(kept.is_valid());
    kept.release().await.unwrap();
    let outcome = timeout(LEASE / 2, renewed.lost()).await;
    println!("the lock that was renewed: {outcome:?}");
    match outcome {
        Err(_) => renewed.release().await.unwrap(),
        Ok(reason) => assert!(matches!(reason, LossReason::EngineWentBack), "{reason}"),
    }
    let again = timeout(SOON, busy.lock("renewed").unwrap().acquire()).await.expect("it is free");
    again.unwrap().release().await.unwrap();
}

/// A sentinel that names this port of the loopback interface, whatever it is asked.
async fn liar(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let port = port.to_string();
            let answer = format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len());
            let mut buffer = [0; 1024];
            if stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    own
}

#[tokio::test]
async fn the_next_sentinel_is_asked_while_time_is_left() {
    let Some(servers) = RedisSentinel::start() else { return };
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let behind = |first: u16| {
        servers.address().replacen("127.0.0.1:", &format!("127.0.0.1:{first},127.0.0.1:"), 1)
    };
    for (case, first) in [
        ("nobody listens", free_port()),
        ("it is silent", silent_port),
        ("it names a replica", liar(servers.replica.port).await),
        ("it names a server that is not there", liar(free_port()).await),
        ("it names a server that is silent", liar(silent_port).await),
    ] {
        let redis = connect(&behind(first)).await.unwrap_or_else(|error| panic!("{case}: {error}"));
        redis.load(&key("k")).await.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert!(servers.primary.connections() > 0, "{case}");
    }
    // The only one that is there names the replica.
    let liar = liar(servers.replica.port).await;
    let error = connect(&format!("redis+sentinel://127.0.0.1:{liar}/main")).await.err().unwrap();
    assert!(matches!(error, ConnectError::Unsuitable { .. }), "{error}");
    assert!(error.to_string().contains("replica"), "{error}");
}

#[tokio::test]
async fn what_a_sentinel_refuses_is_said() {
    let Some(servers) = RedisSentinel::start() else { return };
    let port = servers.port;
    let refused = async |address: String| {
        let error = connect(&address).await.err().unwrap_or_else(|| panic!("{address} is let in"));
        let said = error.to_string();
        assert!(said.contains(&format!("sentinel 127.0.0.1:{port}")), "{said}");
        assert!(!said.contains("wrong-one"), "{said}");
        (error, said)
    };
    for address in [
        format!("redis+sentinel://127.0.0.1:{port}/main"),
        // The password of the server is not that of the sentinel.
        format!("redis+sentinel://:wrong-one@127.0.0.1:{port}/main"),
        format!("redis+sentinel://127.0.0.1:{port}/main?sentinel_password=wrong-one"),
    ] {
        let (error, said) = refused(address).await;
        assert!(matches!(error, ConnectError::Denied { .. }), "{said}");
    }
    let (error, said) = refused(servers.address().replace("/main", "/other")).await;
    assert!(matches!(error, ConnectError::Unsuitable { .. }), "{said}");
    assert!(said.contains("\"other\""), "{said}");
    // The same by a builder.
    let builder = Redis::sentinel_builder([format!("127.0.0.1:{port}")], "main")
        .sentinel_password(RedisSentinel::PASSWORD);
    assert!(!format!("{builder:?}").contains(RedisSentinel::PASSWORD));
    builder.connect().await.unwrap();
}
