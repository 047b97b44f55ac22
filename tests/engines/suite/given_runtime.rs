//! Connections on a runtime that was given.

use super::fixture::{KEY, soon};
use crate::support::engine::Engine;
use lockword::cluster::{Key, Node, TransportError, connect_on};
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
use lockword::cluster::{NodeId, Transport, connect};
use std::time::Duration;
use tokio::runtime::Builder;

/// A connection ends with its runtime, so it lives there and not on the thread of the process. The
/// requests that follow fail by themselves, and do not wait for ever.
pub(super) async fn connections_end_with_it<E: Engine>() {
    let Some(server) = E::start().await else { return };
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let engine = connect_on(runtime.handle(), &server.address()).await.expect("it runs");
    let node = Node::builder(engine.clone()).runtime(runtime.handle().clone()).build().unwrap();
    let guard = node.lock(KEY).unwrap().acquire().await.expect("it is free");
    guard.release().await.expect("it is held");
    let key = Key::new(KEY).unwrap();
    engine.load(&key).await.expect("the runtime runs");
    runtime.shutdown_background();
    let closed = async {
        loop {
            // A directory has no connection, and what need not wait is done by the caller; but for a list.
            let made = match engine.load(&key).await {
                Ok(_) => engine.list("").await.map(drop),
                Err(error) => Err(error),
            };
            match made {
                Ok(()) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => break error,
            }
        }
    };
    let error = soon("the end of the connection", closed).await;
    assert!(matches!(error, TransportError::Unavailable(_)), "{error}");
}

/// The runtime of the callers needs timers, and no I/O.
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
pub(super) async fn callers_need_timers_only<E: Engine>() {
    let Some(server) = E::start().await else { return };
    let address = server.address();
    let calls = tokio::task::spawn_blocking(move || {
        Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
            let engine = connect(&address).await.expect("it runs");
            let node = Node::builder(engine.clone()).build().unwrap();
            let guard = node.lock(KEY).unwrap().acquire().await.expect("it is free");
            let watch = engine.watch(&Key::new(KEY).unwrap(), NodeId::new(1)).await;
            assert!(watch.is_ok(), "{:?}", watch.err());
            guard.release().await.expect("it is held");
        });
    });
    soon("the calls", calls).await.expect("no panic");
}

/// Connecting ends by itself on a runtime that cannot do it, and says what is wrong with that one.
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
pub(super) async fn one_of_no_use_is_refused<E: Engine>() {
    let Some(server) = E::start().await else { return };
    let address = server.address();
    let separator = if address.contains('?') { '&' } else { '?' };
    let address = format!("{address}{separator}connect_timeout_ms=200&timeout_ms=200");
    let undriven = Builder::new_current_thread().enable_all().build().unwrap();
    let worker = || {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1);
        builder
    };
    let without_any = worker().build().unwrap();
    let without_timers = worker().enable_io().build().unwrap();
    let without_io = worker().enable_time().build().unwrap();
    for (runtime, why) in [
        (undriven, "nothing drives"),
        (without_any, "no timers"),
        (without_timers, "no timers"),
        (without_io, "no I/O"),
    ] {
        let connected = soon("refusal", connect_on(runtime.handle(), &address)).await;
        let error = connected.map(|_| "it connects").expect_err(why);
        assert!(matches!(error, lockword::cluster::ConnectError::Runtime { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        runtime.shutdown_background();
    }
}
