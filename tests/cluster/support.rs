//! Nodes for tests.

use lockword::cluster::{Node, NodeBuilder, Transport};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A node that lives by tokio's clock, which the test has paused.
pub fn builder(transport: impl Transport, label: &str) -> NodeBuilder {
    Node::builder(transport).label(label).tokio_clock()
}

pub fn node(transport: impl Transport, label: &str) -> Node {
    builder(transport, label).build().unwrap()
}

/// Polls once. Nobody is woken.
pub fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Lets everything happen that happens without time passing (much): a paused clock moves on by this.
pub async fn settle() {
    tokio::time::sleep(ms(1)).await;
}
