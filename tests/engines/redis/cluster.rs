//! A Redis Cluster: the registers of a prefix are on one of its servers, which may change.

use super::{NodeId, RedisServer, RedisSetup, client, key, put, until, write};
use crate::support::process::free_port;
use futures_util::StreamExt;
use lockword::cluster::Transport;
use std::time::Duration;

/// A server of a cluster, and the port on which the others talk to it.
fn start() -> Option<(RedisServer, String)> {
    let bus = free_port().to_string();
    let yes = ["--cluster-enabled", "yes", "--cluster-port", &bus];
    let no = ["--cluster-require-full-coverage", "no"];
    let extra = [&yes[..], &no[..]].concat().into_iter().map(Into::into).collect();
    Some((RedisServer::start_with(RedisSetup { extra, ..RedisSetup::default() })?, bus))
}

#[tokio::test]
async fn the_slot_is_found_and_followed() {
    let (Some((one, _)), Some((two, bus))) = (start(), start()) else { return };
    let id = |server: &RedisServer| server.say::<String>(&["CLUSTER", "MYID"]);
    let ids = (id(&one), id(&two));
    let slot: u16 = one.say(&["CLUSTER", "KEYSLOT", "{lockword}floor"]);
    assert_eq!(slot, one.say::<u16>(&["CLUSTER", "KEYSLOT", "{lockword}:any"]));
    let slot = slot.to_string();
    // It gets another slot too, since a server without slots becomes a replica.
    let _: () = two.say(&["CLUSTER", "ADDSLOTS", "0", &slot]);
    let _: () = one.say(&["CLUSTER", "MEET", "127.0.0.1", &two.port.to_string(), &bus]);
    let owner_as_seen_by = |server: &RedisServer, id: &str| {
        let nodes: String = server.say(&["CLUSTER", "NODES"]);
        nodes.lines().any(|line| line.starts_with(id) && line.ends_with(&format!(" {slot}")))
    };
    until("they know each other", || owner_as_seen_by(&one, &ids.1)).await;
    until("the cluster is up", || {
        one.say::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
            && two.say::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
    })
    .await;

    let redis = client(&one.address()).await;
    let first = put(&redis, &key("jobs"), None, write("at two")).await;
    assert_eq!(two.say::<i64>(&["EXISTS", "{lockword}:jobs"]), 1);
    let mut watch = redis.watch(&key("jobs"), NodeId::new(1)).await.unwrap();
    let second = put(&redis, &key("jobs"), Some(first), write("still at two")).await;
    assert_eq!(watch.next().await.unwrap().unwrap(), None);
    assert_eq!((one.connections(), two.connections()), (0, 2));

    // The slot moves, with what is in it.
    let _: () = one.say(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids.1]);
    let _: () = two.say(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids.0]);
    let port = one.port.to_string();
    let all = ["{lockword}:jobs", "{lockword}floor"];
    let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
    migrate.extend(all);
    let _: () = two.say(&migrate);
    let _: () = one.say(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids.0]);
    let _: () = two.say(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids.0]);
    let third = put(&redis, &key("jobs"), Some(second), write("at one")).await;
    assert!(third > second);
    assert_eq!(&*redis.load(&key("jobs")).await.unwrap().unwrap().value, b"at one");
    assert_eq!(one.say::<i64>(&["EXISTS", "{lockword}:jobs"]), 1);
    // The old watch has ended.
    let end = tokio::time::timeout(Duration::from_secs(5), watch.next()).await;
    assert!(matches!(end, Ok(Some(Err(_)))), "{end:?}");
    until("the old connection is closed", || two.connections() == 0).await;
}

/// The address is that of one server; which one is the primary changes.
#[tokio::test]
async fn a_replica_leads_to_its_primary() {
    let (Some((one, _)), Some((two, bus))) = (start(), start()) else { return };
    let slot: u16 = one.say(&["CLUSTER", "KEYSLOT", "{lockword}floor"]);
    let _: () = one.say(&["CLUSTER", "ADDSLOTS", &slot.to_string()]);
    let _: () = one.say(&["CLUSTER", "MEET", "127.0.0.1", &two.port.to_string(), &bus]);
    let id: String = one.say(&["CLUSTER", "MYID"]);
    let knows = |server: &RedisServer, what: &str| {
        let nodes: String = server.say(&["CLUSTER", "NODES"]);
        nodes.lines().any(|line| line.starts_with(&id) && line.contains(what))
    };
    until("they know each other", || knows(&two, &format!(" {slot}"))).await;
    let _: () = two.say(&["CLUSTER", "REPLICATE", &id]);
    let role = |server: &RedisServer, role: &str| {
        server.say::<String>(&["INFO", "replication"]).contains(&format!("role:{role}"))
    };
    let synced = |server: &RedisServer| {
        server.say::<String>(&["INFO", "replication"]).contains("master_link_status:up")
    };
    let is_up = |server: &RedisServer| {
        server.say::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
    };
    until("it is a replica", || role(&two, "slave") && synced(&two)).await;
    until("the cluster is up", || is_up(&one) && is_up(&two)).await;

    // By the address of the replica, and of the primary.
    let (by_two, by_one) = (client(&two.address()).await, client(&one.address()).await);
    let first = put(&by_two, &key("jobs"), None, write("at one")).await;
    let mut watch = by_two.watch(&key("jobs"), NodeId::new(1)).await.unwrap();
    put(&by_one, &key("jobs"), Some(first), write("told")).await;
    assert_eq!(watch.next().await.unwrap().unwrap(), None);
    until("the replica has it", || one.is_replicated_by(&two)).await;
    let _: () = two.say(&["CLUSTER", "FAILOVER"]);
    until("they have changed roles", || role(&two, "master") && role(&one, "slave")).await;
    for redis in [&by_two, &by_one] {
        let found = redis.load(&key("jobs")).await.unwrap().unwrap();
        put(redis, &key("jobs"), Some(found.version), write("at two")).await;
    }
    assert_eq!(two.say::<String>(&["HGET", "{lockword}:jobs", "value"]), "at two");
}
