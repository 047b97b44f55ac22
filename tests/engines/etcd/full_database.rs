//! A database that is full.

use super::{client, key, put, raw, write};
use crate::support::etcd::{EtcdServer, EtcdSetup};
use futures_util::future::join_all;
use lockword::cluster::{
    ConnectError, Exchange, LockError, Node, Transport, TransportError, Version, connect,
};
use std::sync::Arc;

/// A server whose database may have this many bytes.
fn with_room(bytes: &'static str) -> Option<EtcdServer> {
    let arguments = vec!["--quota-backend-bytes", bytes];
    EtcdServer::start_with(EtcdSetup { arguments, ..EtcdSetup::default() })
}

#[tokio::test]
async fn a_full_database_refuses_a_write_without_indeterminacy() {
    let arguments = vec!["--quota-backend-bytes", "2000000"];
    let Some(server) = EtcdServer::start_with(EtcdSetup { arguments, ..EtcdSetup::default() })
    else {
        return;
    };
    let etcd = client(&server.address()).await;
    let held = put(&etcd, &key("held"), &write("{}", false)).await;
    let raw = raw(&server.url()).await;
    while raw.put("filler", vec![b'x'; 100_000]).await.is_ok() {}
    let refused = etcd.compare_exchange(&key("held"), Some(held), write("new", false)).await;
    let Err(TransportError::Unsupported(why)) = refused else { panic!("{refused:?}") };
    assert!(why.to_string().contains("space exceeded"), "{why}");
    assert_eq!(etcd.load(&key("held")).await.unwrap().unwrap().version, held);
    // A lock returns the error at once, and does not wait for the unavailable timeout.
    let node = Node::builder(etcd).build().unwrap();
    let error = node.lock("full").unwrap().acquire().await.map(drop).unwrap_err();
    let LockError::Transport { source: TransportError::Unsupported(_), .. } = error else {
        panic!("{error:?}")
    };
    // A new client learns it when it connects.
    let error = connect(&server.address()).await.map(drop).unwrap_err();
    assert!(matches!(error, ConnectError::Unsuitable { .. }), "{error:?}");
}

/// The last write of a writer, which the full database refused.
struct Refused {
    key: String,
    value: String,
    error: TransportError,
}

/// Writes until a write fails: always a new register (`anew`), or always the same.
async fn write_until_full(etcd: Arc<dyn Transport>, writer: usize, anew: bool) -> Refused {
    let filler = "x".repeat(20_000);
    let mut version: Option<Version> = None;
    for round in 0.. {
        let name = if anew { format!("{writer}/{round}") } else { writer.to_string() };
        let value = format!("{writer} {round} {filler}");
        match etcd.compare_exchange(&key(&name), version, write(&value, false)).await {
            Ok(Exchange::Swapped(new)) => version = (!anew).then_some(new),
            Ok(Exchange::Mismatch(found)) => panic!("{name} is somebody else's: {found:?}"),
            Err(error) => return Refused { key: name, value, error },
        }
    }
    unreachable!("a database without an end")
}

/// The server accepts a write while there is room, applies it when its turn comes, and then refuses it
/// if there is no room left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_applied_is_never_reported_as_refused() {
    let (mut applied, mut certain) = (0, 0);
    // Until both kinds were there, which depends on what is in flight when the room ends.
    for round in 0..10 {
        if applied > 0 && certain > 0 {
            break;
        }
        let Some(server) = with_room("8000000") else { return };
        // None can connect any more when it is full.
        let address = server.address();
        let mut clients = join_all((0..33).map(|_| client(&address))).await;
        let etcd = clients.remove(0);
        let writers = clients
            .into_iter()
            .enumerate()
            .map(|(writer, etcd)| tokio::spawn(write_until_full(etcd, writer, writer % 2 == 0)));
        let (mut indeterminate, mut denied) = (0, 0);
        for refused in join_all(writers).await {
            let Refused { key: name, value, error } = refused.unwrap();
            let found = etcd.load(&key(&name)).await.unwrap();
            let is_there = found.is_some_and(|found| *found.value == *value.as_bytes());
            match error {
                TransportError::Indeterminate(_) => indeterminate += usize::from(is_there),
                TransportError::Unsupported(_) if !is_there => denied += 1,
                other => panic!("{name} was written: {other}"),
            }
        }
        println!(
            "round {round}: {indeterminate} were applied and are indeterminate, {denied} were not"
        );
        applied += indeterminate;
        certain += denied;
    }
}
