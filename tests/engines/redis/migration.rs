//! A slot of a Redis Cluster that moves to another server while its locks are held and contended.

use super::{client, key, put, write};
use crate::support::redis::RedisServer;
use crate::support::redis_cluster::RedisCluster;
use lockword::cluster::{
    ConnectError, Exchange, LockStatus, Node, Transport, TransportError, Version, connect,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const LEASE: Duration = Duration::from_millis(1200);
const SOON: Duration = Duration::from_secs(10);

/// A step of the move.
type Step<'a> = (&'a str, Box<dyn Fn() + 'a>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_guard_is_lost_while_the_slot_moves() {
    let Some(cluster) = RedisCluster::start() else { return };
    // By the address of either.
    let mut nodes = vec![];
    for server in [&cluster.source, &cluster.target, &cluster.source] {
        let redis = client(&server.address()).await;
        nodes.push(Node::builder(redis).lease(LEASE).build().unwrap());
    }
    let mut guards = vec![];
    for (number, node) in nodes.iter().enumerate() {
        guards.push(node.lock(format!("held/{number}")).unwrap().acquire().await.unwrap());
    }
    // Contended, by turns of all nodes: how many there were, and the last token.
    let (stop, turns, last) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut tasks = JoinSet::new();
    for node in &nodes {
        let lock = node.lock("contended").unwrap();
        let (stop, turns, last) = (stop.clone(), turns.clone(), last.clone());
        tasks.spawn(async move {
            while !stop.load(Relaxed) {
                let guard = lock.acquire().await.unwrap();
                let token = guard.token().get();
                assert!(last.swap(token, Relaxed) < token, "a token goes back");
                let before = turns.load(Relaxed);
                tokio::task::yield_now().await;
                turns.store(before + 1, Relaxed);
                assert!(guard.is_valid());
                guard.release().await.unwrap();
            }
        });
    }
    let steps: [Step; 5] = [
        ("begins", Box::new(|| cluster.begin())),
        ("has the floor", Box::new(|| cluster.move_names(&["{lockword}floor"]))),
        ("has one that is held", Box::new(|| cluster.move_names(&["{lockword}:held/0"]))),
        ("has the contended one", Box::new(|| cluster.move_names(&["{lockword}:contended"]))),
        ("is over", Box::new(|| cluster.finish())),
    ];
    for (number, (name, step)) in steps.iter().enumerate() {
        let before = turns.load(Relaxed);
        step();
        // Longer than a lease: what is not renewed is lost.
        sleep(LEASE + Duration::from_millis(300)).await;
        for guard in &guards {
            assert!(guard.is_valid(), "{name}: {} is lost", guard.key());
        }
        let now = turns.load(Relaxed);
        assert!(now > before + 5, "{name}: {} turns", now - before);
        // A new one, and a node that begins now.
        let redis = client(&cluster.source.address()).await;
        let late = Node::builder(redis).lease(LEASE).build().unwrap();
        let new = late.lock(format!("new/{number}")).unwrap();
        let new = timeout(SOON, new.acquire()).await.unwrap_or_else(|_| panic!("{name}: none"));
        new.unwrap().release().await.unwrap();
        let seen = late.inspect("held/0").await.unwrap();
        assert!(matches!(seen.status, LockStatus::Held { .. }), "{name}: {:?}", seen.status);
    }
    stop.store(true, Relaxed);
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    for guard in guards {
        guard.release().await.unwrap();
    }
    assert_eq!(cluster.source.say::<usize>(&["DBSIZE"]), 0, "{:?}", cluster.left());
}

/// The floor moves first: it comes to no harm by registers that are written without it.
#[tokio::test]
async fn versions_grow_while_a_register_and_its_floor_are_apart() {
    let Some(cluster) = RedisCluster::start() else { return };
    let redis = client(&cluster.target.address()).await;
    let far = || Version::new(cluster.source.say(&["GET", "{lockword}floor"]));
    put(&redis, &key("here"), None, write("1")).await;
    let high = (1_u64 << 51).to_string();
    let there = put(&redis, &key("there"), None, write("1")).await;
    // Above the clock: only the floor can tell.
    let _: () = cluster.source.say(&["SET", "{lockword}floor", &high]);
    cluster.begin();
    // The floor is left behind.
    cluster.move_names(&["{lockword}:there"]);
    let there = put(&redis, &key("there"), Some(there), super::idle("2")).await;
    assert!(there > far().unwrap());
    let new = put(&redis, &key("new"), None, write("1")).await;
    assert!(new > far().unwrap());
    assert_eq!(cluster.target.say::<usize>(&["DBSIZE"]), 2, "both, and no second floor");
    let late = redis.compare_exchange(&key("new"), None, write("2")).await.unwrap();
    let Exchange::Mismatch(Some(seen)) = late else { panic!("{late:?}") };
    assert_eq!(seen.version, new);
    assert_eq!(redis.load(&key("new")).await.unwrap().unwrap().version, new);
    // To remove a register, the floor is needed.
    let error = redis.delete(&key("new")).await.unwrap_err();
    assert!(matches!(error, TransportError::Unavailable(_)), "{error}");
    // Nor is there a list of what is at two servers.
    let error = redis.list("").await.unwrap_err();
    assert!(matches!(error, TransportError::Unavailable(_)), "{error}");
    // The floor has moved, a register has not.
    cluster.move_names(&["{lockword}floor"]);
    let here = redis.load(&key("here")).await.unwrap().unwrap().version;
    let here = put(&redis, &key("here"), Some(here), super::idle("2")).await;
    let ttl = |server: &RedisServer, name: &str| server.say::<i64>(&["TTL", name]);
    assert_eq!(ttl(&cluster.source, "{lockword}:here"), -1, "it must stay");
    let last = put(&redis, &key("last"), None, write("1")).await;
    assert!(last.get() > 1_u64 << 51);
    assert!(redis.delete(&key("last")).await.unwrap());
    cluster.finish();
    assert_eq!(ttl(&cluster.target, "{lockword}:there"), -1, "it must stay");
    let here = put(&redis, &key("here"), Some(here), super::idle("3")).await;
    assert!(here > last);
    assert!(ttl(&cluster.target, "{lockword}:here") > 0);
    let keys: Vec<_> = redis.list("").await.unwrap();
    assert_eq!(keys, [key("here"), key("new"), key("there")]);
}

/// At whichever of the two servers it is.
#[tokio::test]
async fn a_foreign_floor_is_corrupt_while_the_slot_moves() {
    for words in [["SET", "{lockword}floor", "many"], ["RPUSH", "{lockword}floor", "many"]] {
        let Some(cluster) = RedisCluster::start() else { return };
        let redis = client(&cluster.source.address()).await;
        let _: ::redis::Value = cluster.source.say(&words);
        cluster.begin();
        let moves: [&dyn Fn(); 2] = [&|| (), &|| cluster.move_names(&["{lockword}floor"])];
        for step in moves {
            step();
            let error = redis.compare_exchange(&key("new"), None, write("1")).await.unwrap_err();
            assert!(matches!(error, TransportError::Corrupt(_)), "{words:?}: {error}");
        }
    }
}

#[tokio::test]
async fn the_documented_rights_suffice_while_the_slot_moves() {
    let Some(cluster) = RedisCluster::start_with(true) else { return };
    let redis = client(&cluster.source.address()).await;
    let first = put(&redis, &key("k"), None, write("1")).await;
    cluster.begin();
    cluster.move_names(&["{lockword}:k"]);
    put(&redis, &key("k"), Some(first), write("2")).await;
    put(&redis, &key("new"), None, write("1")).await;
    // A user without ASKING is refused before there is something to lose.
    let _: () = cluster.source.say(&["ACL", "SETUSER", "lock", "-asking"]);
    let error = connect(&cluster.source.address()).await.err().expect("it is refused");
    assert!(matches!(error, ConnectError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("asking"), "{error}");
}

/// A server that says that it is no primary any more, or that its part of the cluster is down, is left: the
/// address may lead to another one.
#[tokio::test]
async fn a_cluster_that_is_down_is_unavailable_and_comes_back() {
    let Some(cluster) = RedisCluster::start() else { return };
    let redis = client(&cluster.source.address()).await;
    let first = put(&redis, &key("k"), None, write("1")).await;
    let slot: u16 = cluster.source.say(&["CLUSTER", "KEYSLOT", "{lockword}floor"]);
    let _: () = cluster.source.say(&["CLUSTER", "DELSLOTS", &slot.to_string()]);
    for _ in 0..2 {
        let error = redis.compare_exchange(&key("k"), Some(first), write("2")).await.unwrap_err();
        assert!(matches!(error, TransportError::Unavailable(_)), "{error}");
        assert!(error.to_string().contains("CLUSTERDOWN"), "{error}");
    }
    let _: () = cluster.source.say(&["CLUSTER", "ADDSLOTS", &slot.to_string()]);
    put(&redis, &key("k"), Some(first), write("2")).await;
}
