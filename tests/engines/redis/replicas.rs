//! The option that waits for replicas.

use super::{RedisServer, RedisSetup, TransportError, client, key, put, until, write};
use lockword::cluster::engines::redis::Redis;
use lockword::cluster::{ConnectError, Node, Transport, connect};
use std::time::{Duration, Instant};

const WAIT: &str = "?wait_replicas=1&wait_timeout_ms=200";
/// For answers that are to be confirmed, on a machine that is busy with the other tests.
const LONG: &str = "?wait_replicas=1&wait_timeout_ms=1000";

/// A primary and its replica.
async fn pair() -> Option<(RedisServer, RedisServer)> {
    let setup = |extra| RedisSetup { password: true, extra, ..RedisSetup::default() };
    let primary = RedisServer::start_with(setup(vec![]))?;
    let of = format!("127.0.0.1 {}", primary.port);
    let login = ["--masteruser", "admin", "--masterauth", "x"].map(String::from);
    let extra = [vec!["--replicaof".into(), of], login.to_vec()].concat();
    let replica = RedisServer::start_with(setup(extra))?;
    until("it replicates", || primary.is_replicated_by(&replica)).await;
    Some((primary, replica))
}

#[tokio::test]
async fn what_no_replica_confirms_is_not_known() {
    let Some((primary, replica)) = pair().await else { return };
    let redis = client(&(primary.address() + WAIT)).await;
    let plain = client(&primary.address()).await;
    let sure = client(&(primary.address() + LONG)).await;
    let first = put(&sure, &key("k"), None, write("1")).await;
    put(&sure, &key("gone"), None, write("1")).await;
    assert_eq!(replica.say::<String>(&["HGET", "{lockword}:k", "value"]), "1");

    replica.process.stop();
    let began = Instant::now();
    let error = redis.compare_exchange(&key("k"), Some(first), write("2")).await.unwrap_err();
    assert!(matches!(error, TransportError::Indeterminate(_)), "{error}");
    assert!(error.to_string().contains("0 of 1 replicas"), "{error}");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(2), "{took:?}");
    // It was written. Neither a load nor a mismatch shows it, since a failover may undo it.
    assert_eq!(&*plain.load(&key("k")).await.unwrap().unwrap().value, b"2");
    let others = client(&(primary.address() + WAIT)).await;
    for redis in [&redis, &others] {
        let error = redis.load(&key("k")).await.unwrap_err();
        assert!(matches!(error, TransportError::Unavailable(_)), "{error}");
        let error = redis.compare_exchange(&key("k"), None, write("3")).await.unwrap_err();
        assert!(matches!(error, TransportError::Unavailable(_)), "{error}");
    }
    let error = redis.delete(&key("gone")).await.unwrap_err();
    assert!(matches!(error, TransportError::Indeterminate(_)), "{error}");
    let error = redis.delete(&key("gone")).await.unwrap_err();
    assert!(matches!(error, TransportError::Unavailable(_)), "{error}");

    replica.process.cont();
    until("it has caught up", || primary.is_replicated_by(&replica)).await;
    let found = sure.load(&key("k")).await.unwrap().unwrap();
    assert_eq!(&*found.value, b"2");
    put(&sure, &key("k"), Some(found.version), write("3")).await;
}

#[tokio::test]
async fn no_lock_is_granted_that_no_replica_knows() {
    let Some((primary, replica)) = pair().await else { return };
    let node = Node::builder(client(&(primary.address() + WAIT)).await).build().unwrap();
    replica.process.stop();
    let refused = node.lock("jobs").unwrap().acquire_timeout(Duration::from_secs(2)).await;
    assert!(refused.is_err(), "{refused:?}");
    replica.process.cont();
    node.lock("jobs").unwrap().acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn what_it_needs_is_checked_when_it_connects() {
    let Some((primary, _replica)) = pair().await else { return };
    let _: () = primary.say(&["ACL", "SETUSER", "lock", "-wait"]);
    client(&primary.address()).await;
    let error = connect(&(primary.address() + WAIT)).await.err().expect("it is refused");
    assert!(matches!(error, ConnectError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("wait"), "{error}");
    for (replicas, timeout, why) in [
        (0, Duration::from_millis(1), "wait_replicas"),
        (1, Duration::ZERO, "wait_timeout_ms"),
        (1, Duration::from_millis(1001), "wait_timeout_ms"),
    ] {
        let builder = Redis::builder("127.0.0.1:1").wait_for_replicas(replicas, timeout);
        let error = builder.connect().await.map(drop).unwrap_err();
        assert!(matches!(error, ConnectError::Address { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
}
