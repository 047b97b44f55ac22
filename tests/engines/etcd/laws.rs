//! The laws, and registers that are deleted.

use super::{client, key, ms, put, raw, typed, write};
use crate::support::etcd::{Cluster, EtcdServer};
use crate::support::relay::{Loss, Relay};
use futures_util::StreamExt;
use lockword::cluster::conformance::{Law, Suite};
use lockword::cluster::engines;
use lockword::cluster::layers::{Intercept, Interceptor};
use lockword::cluster::{Exchange, NodeId, Transport, TransportError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A connection of a client that can be cut.
struct Cut {
    relay: Relay,
    cuts: AtomicUsize,
}

impl Interceptor<engines::etcd::Etcd> for Cut {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_keeps_the_laws() {
    let Some(server) = EtcdServer::start() else { return };
    let server = Arc::new(server);
    let url = server.url();
    let port = server.server().rsplit(':').next().unwrap().parse().unwrap();
    let make = move || async move {
        let relay = Relay::new(port);
        let etcd = typed(&format!("etcd://{}", relay.server())).await;
        Intercept::new(etcd, Cut { relay, cuts: AtomicUsize::new(0) })
    };
    let suite = Suite::new(make)
        .settling(ms(100))
        .indeterminate_hook(|client: Arc<Intercept<_, Cut>>, _| async move {
            let Cut { relay, cuts } = client.interceptor();
            match cuts.fetch_add(1, Ordering::Relaxed) % 3 {
                0 => relay.lose(Loss::Request),
                _ => relay.lose(Loss::Response),
            }
        })
        .delete_hook(move |key| {
            let url = url.clone();
            async move {
                let deleted = raw(&url).await.delete(format!("lockword/{key}")).await;
                assert_eq!(deleted, 1, "{key}");
            }
        });
    let report = suite.run().await.unwrap_or_else(|broken| panic!("{broken}"));
    println!("{report}");
    assert_eq!(report.checked.len(), 8, "{report}");
    assert!(report.indeterminate > 10, "{report}");
    // No clock of etcd's matters.
    let [missing] = &*report.not_checked else { panic!("{report}") };
    assert_eq!(missing.what, "versions after a step of the clock", "{report}");
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_keep_the_laws() {
    let Some(cluster) = Cluster::start() else { return };
    let (cluster, next) = (Arc::new(cluster), AtomicUsize::new(0));
    let addresses = [0, 1, 2].map(|first| cluster.address(first));
    let make = move || {
        let address = addresses[next.fetch_add(1, Ordering::Relaxed) % 3].clone();
        async move { client(&address).await }
    };
    let suite = Suite::new(make).rounds(6).call_timeout(Duration::from_secs(20));
    let report = suite.run().await.unwrap_or_else(|broken| panic!("{broken}"));
    println!("{report}");
    assert!(report.checked.contains(&Law::Linearizable), "{report}");
    assert_eq!(report.checked.len(), 7, "{report}");
}

#[tokio::test]
async fn housekeeping_deletes_idle_registers_and_their_versions_are_not_reused() {
    let Some(server) = EtcdServer::start() else { return };
    let etcd = typed(&server.address()).await;
    let (idle, used) = (key("idle"), key("used"));
    // More than a page of them.
    for number in 0..70 {
        put(&etcd, &key(&format!("many/{number}")), &write("{}", true)).await;
    }
    let old = put(&etcd, &idle, &write("{}", true)).await;
    let kept = put(&etcd, &used, &write("{\"holder\": 1}", false)).await;
    // Not ours: another prefix, and a neighbour's.
    let raw = raw(&server.url()).await;
    for other in ["lockword0", "lockwore/idle", "other/idle"] {
        raw.put(other, "{} ").await.unwrap();
    }
    assert_eq!(etcd.housekeeping(Duration::ZERO).await.unwrap(), 71);
    assert_eq!(etcd.load(&idle).await.unwrap(), None);
    assert_eq!(etcd.load(&used).await.unwrap().unwrap().version, kept);
    assert_eq!(server.metric("etcd_debugging_mvcc_keys_total"), 4.0);
    // Its version is gone for good.
    let late = etcd.compare_exchange(&idle, Some(old), write("late", false)).await.unwrap();
    assert_eq!(late, Exchange::Mismatch(None));
    // Also after a restart of the server, which remembers no deleted key.
    server.process.restart();
    super::load_in_the_end(&etcd, &idle).await;
    let new = put(&etcd, &idle, &write("{}", true)).await;
    assert!(new > old, "{new} after {old}");
}

#[tokio::test]
async fn housekeeping_keeps_a_register_that_is_written_meanwhile() {
    let Some(server) = EtcdServer::start() else { return };
    let etcd = typed(&server.address()).await;
    let (again, held, idle) = (key("idle/again"), key("held"), key("idle/still"));
    for key in [&again, &held, &idle] {
        put(&etcd, key, &write("{}", true)).await;
    }
    let housekeeper = etcd.clone();
    let housekeeping = tokio::spawn(async move { housekeeper.housekeeping(ms(300)).await });
    // It has looked when it has asked for the one page.
    let ranges = r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Range""#;
    let before = server.metric(ranges);
    while server.metric(ranges) <= before {
        tokio::task::yield_now().await;
    }
    put(&etcd, &again, &write("{}", true)).await;
    put(&etcd, &held, &write("{\"holder\": 1}", false)).await;
    assert_eq!(housekeeping.await.unwrap().unwrap(), 1);
    assert!(etcd.load(&again).await.unwrap().is_some(), "idle, but not for so long");
    assert!(etcd.load(&held).await.unwrap().is_some());
    assert!(etcd.load(&idle).await.unwrap().is_none());
}

#[tokio::test]
async fn a_register_can_be_read_and_written_by_hand() {
    let Some(server) = EtcdServer::start() else { return };
    let etcd = typed(&format!("{}/teams/locks", server.address())).await;
    let raw = raw(&server.url()).await;
    put(&etcd, &key("a/b"), &write("{\"x\": 1}", false)).await;
    let read = raw.get("teams/locks/a/b").await.unwrap().unwrap();
    assert_eq!(read.trim_end(), "{\"x\": 1}");
    raw.put("teams/locks/a/b", "{\"x\": 2}").await.unwrap();
    assert_eq!(&*etcd.load(&key("a/b")).await.unwrap().unwrap().value, b"{\"x\": 2}");
    raw.put("teams/locks/a/b", "").await.unwrap();
    assert_eq!(&*etcd.load(&key("a/b")).await.unwrap().unwrap().value, b"");
}

#[tokio::test]
async fn a_watch_survives_compaction() {
    let Some(server) = EtcdServer::start() else { return };
    let etcd = typed(&server.address()).await;
    let raw = raw(&server.url()).await;
    let key = key("compacted");
    let mut watch = etcd.watch(&key, NodeId::new(1)).await.unwrap();
    for round in 0..20 {
        let written = put(&etcd, &key, &write(&round.to_string(), false)).await;
        raw.compact(written.get().cast_signed()).await;
        if round % 2 == 0 {
            watch = etcd.watch(&key, NodeId::new(1)).await.unwrap();
        }
    }
    let written = put(&etcd, &key, &write("last", false)).await;
    let seen = watch.next().await.unwrap();
    let mut seen = seen.unwrap().unwrap();
    while seen.version < written {
        seen = watch.next().await.unwrap().unwrap().unwrap();
    }
    assert_eq!(&*seen.value, b"last");
}

#[tokio::test]
async fn hundreds_of_watches_share_a_connection() {
    let Some(server) = EtcdServer::start() else { return };
    let etcd = typed(&server.address()).await;
    let mut watches = vec![];
    for number in 0..500 {
        let key = key(&format!("watched/{number}"));
        watches.push((etcd.watch(&key, NodeId::new(1)).await.unwrap(), key));
    }
    for (watch, key) in &mut watches {
        let version = put(&etcd, key, &write("{}", false)).await;
        let seen = watch.next().await.unwrap().unwrap().unwrap();
        assert_eq!(seen.version, version);
    }
    assert_eq!(server.connections(), 1);
    drop(watches);
    while server.metric("etcd_debugging_mvcc_watcher_total") > 0.0 {
        tokio::time::sleep(ms(5)).await;
    }
}

#[tokio::test]
async fn a_value_that_is_too_large_is_refused() {
    let Some(server) = EtcdServer::start() else { return };
    let etcd = typed(&server.address()).await;
    let largest = etcd.capabilities().largest_value;
    put(&etcd, &key("large"), &write(&"x".repeat(largest), false)).await;
    let larger = write(&"x".repeat(largest + 1), false);
    let refused = etcd.compare_exchange(&key("larger"), None, larger).await;
    assert!(matches!(refused, Err(TransportError::Unsupported(_))), "{refused:?}");
    assert_eq!(etcd.load(&key("larger")).await.unwrap(), None);
}
