//! The engines, and who takes part on each.

use lockword::cluster::layers::{Counts, Intercept};
use lockword::cluster::{Transport, async_trait, connect};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

#[cfg(all(unix, feature = "etcd"))]
mod etcd;
#[cfg(all(unix, feature = "postgres"))]
mod postgres;
#[cfg(all(unix, feature = "redis"))]
mod redis;

/// The engines of this build.
pub fn all() -> Vec<&'static dyn Engine> {
    vec![
        #[cfg(all(unix, feature = "redis"))]
        &redis::Redis,
        #[cfg(all(unix, feature = "etcd"))]
        &etcd::Etcd,
        #[cfg(all(unix, feature = "postgres"))]
        &postgres::Postgres,
    ]
}

/// Who acquires.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A node of ours.
    Lockword,
    /// Nobody: bare writes.
    Raw,
    /// Another lock.
    Peer,
}

/// A server that runs, for as long as this lives.
#[allow(dead_code, reason = "without engines there is none")]
pub struct Running {
    /// For `lockword::cluster::connect`.
    pub address: String,
    /// The server.
    pub server: Box<dyn Any>,
}

/// An engine. All that is not of ours is done by its own client.
#[async_trait]
pub trait Engine: Send + Sync {
    fn name(&self) -> &'static str;

    /// The name of the peer, if it is part of this build.
    fn peer(&self) -> Option<&'static str>;

    /// Starts a server. `None`: it is not installed.
    fn start(&self) -> Option<Running>;

    /// A client that writes twice.
    async fn raw(&self, address: &str) -> Box<dyn Pair>;

    /// A client of the peer.
    async fn acquirer(&self, address: &str) -> Box<dyn Pair>;

    /// Two clients, one of which is told what the other says.
    async fn notifier(&self, address: &str) -> Box<dyn Notifier>;
}

/// Something that is done in pairs, a round trip or more each.
#[async_trait]
pub trait Pair: Send {
    async fn acquire(&mut self);
    async fn release(&mut self);
}

/// A notification.
#[async_trait]
pub trait Notifier: Send {
    /// How long it took until the other client had it.
    async fn ring(&mut self) -> Duration;
}

/// An engine, and where it is.
#[derive(Clone)]
pub struct At {
    pub engine: &'static dyn Engine,
    pub address: String,
}

impl At {
    /// A transport of our own.
    pub async fn connect(&self) -> (Arc<dyn Transport>, Counts) {
        let counts = Counts::default();
        (self.connect_into(&counts).await, counts)
    }

    /// The same, counted into these numbers.
    pub async fn connect_into(&self, counts: &Counts) -> Arc<dyn Transport> {
        let transport = connect(&self.address).await.expect("the server runs");
        Arc::new(Intercept::new(transport, counts.clone()))
    }

    /// A client of somebody else.
    pub async fn other(&self, what: What) -> Box<dyn Pair> {
        match what {
            What::Peer => self.engine.acquirer(&self.address).await,
            _ => self.engine.raw(&self.address).await,
        }
    }
}

/// Values of the size that ours have: held, and free.
#[allow(dead_code, reason = "without engines nobody needs it")]
pub const SIZES: [usize; 2] = [150, 40];
