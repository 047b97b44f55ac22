//! Values that are too large for one message of the client.

use super::{client, key, put, raw, typed, write};
use crate::support::etcd::{EtcdServer, EtcdSetup};
use crate::support::relay::Relay;
use futures_util::StreamExt;
use lockword::cluster::{Exchange, LockError, LossReason, Node, NodeId, Transport};
use std::time::Duration;
use tokio::time::timeout;

/// A server that allows values of up to 10 MB.
fn start() -> Option<EtcdServer> {
    let arguments = vec!["--max-request-bytes", "10000000"];
    EtcdServer::start_with(EtcdSetup { arguments, ..EtcdSetup::default() })
}

/// Returns the revision.
async fn fill(server: &EtcdServer, key: &str) -> i64 {
    let put = raw(&server.url()).await.put(format!("lockword/{key}"), "x".repeat(9_000_000)).await;
    put.expect("it allows that")
}

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_too_large_for_a_message_fails_its_own_key_alone() {
    let Some(server) = start() else { return };
    let relay = Relay::new(server.port);
    let etcd = client(&format!("etcd://{}", relay.server())).await;
    let node = Node::builder(etcd.clone()).build().unwrap();
    let other = node.lock("other").unwrap().acquire().await.unwrap();
    let guard = node.lock("k").unwrap().acquire().await.unwrap();
    let other_watch = &mut etcd.watch(&key("other/watched"), NodeId::new(1)).await.unwrap();
    let watch = &mut etcd.watch(&key("k"), NodeId::new(1)).await.unwrap();
    fill(&server, "k").await;
    // The register that a new client looks at; and the history before it goes.
    let newest = fill(&server, "lockword").await;
    raw(&server.url()).await.compact(newest).await;
    client(&server.address()).await;

    let too_large = |error: LockError| {
        let text = error.to_string();
        assert!(matches!(error, LockError::Unreadable { .. }), "{text}");
        assert!(text.contains("bytes, too many"), "{text}");
    };
    // The watch of this key ends, and can begin again.
    while let Some(Ok(_)) = timeout(SOON, watch.next()).await.expect("it ends") {}
    let watch = &mut etcd.watch(&key("k"), NodeId::new(1)).await.unwrap();
    let before = relay.passed_back();
    let loaded = etcd.load(&key("k")).await.unwrap().unwrap();
    assert_eq!(loaded.value.len(), (1 << 20) + 1);
    let read = relay.passed_back() - before;
    assert!(read < 6 << 20, "{read} bytes");
    let refused = etcd.compare_exchange(&key("k"), None, write("x", false)).await.unwrap();
    assert_eq!(refused, Exchange::Mismatch(Some(loaded)));
    let why = timeout(SOON, guard.lost()).await.unwrap();
    assert!(matches!(why, LossReason::Unreadable(_)), "{why}");
    drop(guard);
    too_large(timeout(SOON, node.lock("k").unwrap().acquire()).await.unwrap().unwrap_err());
    too_large(node.lock("k").unwrap().try_acquire().await.unwrap_err());
    too_large(node.inspect("k").await.unwrap_err());

    // Over the same connection all else goes on.
    assert!(other.is_valid());
    let version = put(&etcd, &key("other/watched"), &write("{}", false)).await;
    let seen = timeout(SOON, other_watch.next()).await.unwrap().unwrap().unwrap().unwrap();
    assert_eq!(seen.version, version);
    assert_eq!(server.connections(), 1);
    // The key is of use again when that value is gone.
    raw(&server.url()).await.delete("lockword/k").await;
    assert_eq!(timeout(SOON, watch.next()).await.unwrap().unwrap().unwrap(), None);
    node.lock("k").unwrap().acquire().await.unwrap().release().await.unwrap();
    other.release().await.unwrap();
}

#[tokio::test]
async fn housekeeping_passes_over_values_that_are_too_large() {
    let Some(server) = start() else { return };
    let etcd = typed(&server.address()).await;
    for number in 0..40 {
        put(&etcd, &key(&format!("many/{number}")), &write("{}", true)).await;
    }
    for name in ["a", "many/20x", "many/30x", "many/30y", "z"] {
        fill(&server, name).await;
    }
    assert_eq!(etcd.housekeeping(Duration::ZERO).await.unwrap(), 40);
    assert_eq!(server.metric("etcd_debugging_mvcc_keys_total"), 5.0);
}
