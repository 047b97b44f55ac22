//! The cluster as a whole: nodes, locks and guards over the in-memory engine, mostly on a clock that the
//! test advances.

mod acquire;
#[cfg(feature = "audit")]
mod audit;
mod bad_transports;
mod callbacks;
mod cancel;
mod config;
mod dead_holders;
#[cfg(target_os = "linux")]
mod exit;
#[cfg(target_os = "linux")]
mod fork;
#[cfg(target_os = "linux")]
mod fork_in_callbacks;
mod health;
mod hints;
mod load;
mod local_handoff;
mod loss;
#[cfg(feature = "metrics")]
mod metrics;
mod observer;
mod operators;
mod overload;
mod periodic;
mod publishing;
mod shutdown;
mod threads;
#[cfg(feature = "tracing")]
mod tracing;
mod went_back;
mod workers;

#[cfg(target_os = "linux")]
#[path = "../support/child.rs"]
mod child;
#[cfg(target_os = "linux")]
#[path = "../support/forked.rs"]
mod forked;

mod support {
    //! Nodes for tests, and polling by hand.

    use lockword::cluster::{Node, NodeBuilder, Transport};
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    pub const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A builder of a node on tokio's clock, which the test has paused.
    pub fn builder(transport: impl Transport, label: &str) -> NodeBuilder {
        Node::builder(transport).label(label).tokio_clock()
    }

    /// A node on tokio's clock, which the test has paused.
    pub fn node(transport: impl Transport, label: &str) -> Node {
        builder(transport, label).build().unwrap()
    }

    /// Polls the future once, without a waker.
    pub fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Runs all tasks until they wait for time to pass: only then the paused clock advances.
    pub async fn settle() {
        tokio::time::sleep(ms(1)).await;
    }
}
