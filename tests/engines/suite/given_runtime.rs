//! Connections on a runtime that was given.

use super::fixture::{KEY, soon};
use crate::support::engine::Engine;
use lockword::cluster::{Key, Node, TransportError, connect_on};
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
        while engine.load(&key).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        engine.load(&key).await.expect_err("nothing can connect")
    };
    let error = soon("the end of the connection", closed).await;
    assert!(matches!(error, TransportError::Unavailable(_)), "{error}");
}
