//! Servers that die, halt or lose each other, and clients that are cut off.

use super::{client, key, load_in_the_end, ms, put, write};
use crate::support::etcd::{Cluster, EtcdServer};
use crate::support::relay::Relay;
use futures_util::StreamExt;
use lockword::cluster::{Exchange, NodeId, Transport, TransportError, Version};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Longer than anything here may take.
const LIMIT: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unanswered_write_is_indeterminate_and_may_be_applied_late() {
    let Some(server) = EtcdServer::start() else { return };
    let etcd = client(&format!("{}?timeout_ms=1000", server.address())).await;
    let key = key("late");
    let first = put(&etcd, &key, &write("first", false)).await;
    server.process.stop();
    let began = Instant::now();
    let unknown = etcd.compare_exchange(&key, Some(first), write("second", false)).await;
    assert!(matches!(unknown, Err(TransportError::Indeterminate(_))), "{unknown:?}");
    let read = etcd.load(&key).await;
    assert!(matches!(read, Err(TransportError::Unavailable(_))), "{read:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
    server.process.cont();
    // A further write settles it: of two that expect the same, one at most is applied.
    let other = client(&server.address()).await;
    let third = other.compare_exchange(&key, Some(first), write("third", false)).await.unwrap();
    let expected: &[u8] = match third {
        Exchange::Swapped(_) => b"third",
        Exchange::Mismatch(_) => b"second",
    };
    let found = load_in_the_end(&etcd, &key).await.unwrap();
    assert_eq!(&*found.value, expected);
}

#[tokio::test]
async fn a_write_that_was_never_sent_is_not_indeterminate() {
    let Some(server) = EtcdServer::start() else { return };
    let etcd = client(&server.address()).await;
    let key = key("unsent");
    let first = put(&etcd, &key, &write("first", false)).await;
    server.process.kill9();
    // The first may have been in flight when the connection broke.
    let mut error = etcd.compare_exchange(&key, Some(first), write("x", false)).await;
    for _ in 0..3 {
        error = etcd.compare_exchange(&key, Some(first), write("x", false)).await;
    }
    assert!(matches!(error, Err(TransportError::Unavailable(_))), "{error:?}");
    server.process.restart();
    assert_eq!(load_in_the_end(&etcd, &key).await.unwrap().version, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_with_its_server_and_can_be_opened_again() {
    let Some(server) = EtcdServer::start() else { return };
    let etcd = client(&server.address()).await;
    let key = key("watched");
    let mut watch = etcd.watch(&key, NodeId::new(1)).await.unwrap();
    server.process.kill9();
    let last = soon("the watch to end", watch.next()).await;
    assert!(matches!(last, Some(Err(TransportError::Unavailable(_)))), "{last:?}");
    assert!(soon("the end", watch.next()).await.is_none());
    server.process.restart();
    load_in_the_end(&etcd, &key).await;
    let mut watch = etcd.watch(&key, NodeId::new(1)).await.unwrap();
    let version = put(&etcd, &key, &write("{}", false)).await;
    let seen = soon("the change", watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(seen.version, version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_a_silent_connection_ends() {
    let Some(server) = EtcdServer::start() else { return };
    let relay = Relay::new(server.port);
    let etcd = client(&format!("etcd://{}", relay.server())).await;
    let mut watch = etcd.watch(&key("watched"), NodeId::new(1)).await.unwrap();
    relay.hold();
    let began = Instant::now();
    let last = soon("the watch to end", watch.next()).await;
    assert!(matches!(last, Some(Err(_))), "{last:?}");
    let (elapsed, within) = (began.elapsed(), etcd.capabilities().wake_within);
    println!("a silent watch ends after {elapsed:?}, and is to within {within:?}");
    assert!(elapsed < within, "{elapsed:?}, not within {within:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_leave_nothing_behind() {
    let Some(server) = EtcdServer::start() else { return };
    let watchers = || server.metric("etcd_debugging_mvcc_watcher_total");
    let relay = Relay::new(server.port);
    let etcd = client(&format!("etcd://{}", relay.server())).await;
    let key = key("k");
    let version = put(&etcd, &key, &write("{}", false)).await;
    for _ in 0..30 {
        let mut watch = etcd.watch(&key, NodeId::new(1)).await.unwrap();
        relay.cut();
        soon("the watch to end", async { while let Some(Ok(_)) = watch.next().await {} }).await;
        assert_eq!(load_in_the_end(&etcd, &key).await.unwrap().version, version);
    }
    let one_left = async {
        while server.connections() > 1 || watchers() > 0.0 {
            tokio::time::sleep(ms(5)).await;
        }
    };
    soon("the others to end", one_left).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_is_replaced_by_another() {
    let Some(cluster) = Cluster::start() else { return };
    let first = (cluster.leader() + 1) % 3;
    let address = format!("{}?timeout_ms=2000", cluster.address(first));
    // The second client notices it by a read, the third by a call that is cancelled.
    let [writes, reads, waits] =
        [client(&address).await, client(&address).await, client(&address).await];
    let version = put(&writes, &key("k"), &write("0", false)).await;
    cluster.members[first].process.stop();
    let unknown = writes.compare_exchange(&key("k"), Some(version), write("1", false)).await;
    assert!(matches!(unknown, Err(TransportError::Indeterminate(_))), "{unknown:?}");
    let began = Instant::now();
    assert!(timeout(ms(200), waits.load(&key("k"))).await.is_err());
    assert_eq!(waits.load(&key("k")).await.unwrap().unwrap().version, version);
    assert_eq!(reads.load(&key("k")).await.unwrap().unwrap().version, version);
    let next = writes.compare_exchange(&key("k"), Some(version), write("2", false)).await;
    let Ok(Exchange::Swapped(next)) = next else { panic!("{next:?}") };
    assert!(next > version);
    assert!(began.elapsed() < ms(2000), "{:?}", began.elapsed());
    cluster.members[first].process.cont();
    // And of servers that are not there.
    let server = cluster.members[first].server();
    let gone = format!("127.0.0.1:{}", crate::support::process::free_port());
    let etcd = client(&format!("etcd://{gone},{server}")).await;
    assert_eq!(etcd.load(&key("k")).await.unwrap().unwrap().version, next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_minority_has_no_effect_and_a_lost_majority_fails_requests() {
    let Some(cluster) = Cluster::start() else { return };
    let leader = cluster.leader();
    let [first, second, third] = [0, 1, 2].map(|n| &cluster.members[(leader + n) % 3].process);
    let etcd = client(&format!("{}?timeout_ms=2000", cluster.address((leader + 1) % 3))).await;
    let key = key("k");
    let mut version = put(&etcd, &key, &write("0", false)).await;
    // The server that is asked first dies. One answer may be lost with it.
    second.kill9();
    version = write_in_the_end(&etcd, version, "1").await;
    let mut watch = etcd.watch(&key, NodeId::new(1)).await.unwrap();
    // The majority halts. Its leader has the write, which happens when it goes on, or never.
    first.stop();
    let last = soon("the watch to end", async {
        loop {
            match watch.next().await {
                Some(Ok(_)) => {}
                last => return last,
            }
        }
    })
    .await;
    assert!(matches!(last, Some(Err(TransportError::Unavailable(_)))), "{last:?}");
    let refused = etcd.compare_exchange(&key, Some(version), write("2", false)).await;
    let Err(error) = refused else { panic!("{refused:?}") };
    assert!(error.is_transient(), "{error:?}");
    let read = etcd.load(&key).await;
    assert!(matches!(read, Err(TransportError::Unavailable(_))), "{read:?}");
    first.cont();
    write_in_the_end(&etcd, version, "3").await;
    second.restart();
    third.kill9();
    put_in_the_end(&etcd, "4").await;
}

/// Writes `value` where `version` was, whatever became of writes in between.
async fn write_in_the_end(etcd: &impl Transport, version: Version, value: &str) -> Version {
    let end = Instant::now() + LIMIT;
    let mut expected = Some(version);
    loop {
        assert!(Instant::now() < end, "no write in {LIMIT:?}");
        match etcd.compare_exchange(&key("k"), expected, write(value, false)).await {
            Ok(Exchange::Swapped(new)) => {
                assert!(new > version, "{new} after {version}");
                return new;
            }
            Ok(Exchange::Mismatch(found)) => expected = found.map(|found| found.version),
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                tokio::time::sleep(ms(5)).await;
            }
        }
    }
}

async fn put_in_the_end(etcd: &impl Transport, value: &str) {
    let found = load_in_the_end(etcd, &key("k")).await.unwrap();
    write_in_the_end(etcd, found.version, value).await;
}
