//! What the bench needs of an engine, and of the contenders on it.

use lockword::cluster::layers::{Counts, Intercept};
use lockword::cluster::{Node, Transport, async_trait, connect, connect_on};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// The engines of this build.
pub fn all() -> Vec<&'static dyn Engine> {
    vec![
        #[cfg(target_os = "linux")]
        &crate::dir::Dir,
        #[cfg(all(unix, feature = "redis"))]
        &crate::redis::Redis,
        #[cfg(all(unix, feature = "etcd"))]
        &crate::etcd::Etcd,
        #[cfg(all(unix, feature = "postgres"))]
        &crate::postgres::Postgres(crate::postgres::Variant::Plain),
        #[cfg(all(unix, feature = "postgres"))]
        &crate::postgres::Postgres(crate::postgres::Variant::Unlogged),
        #[cfg(all(unix, feature = "postgres"))]
        &crate::postgres::Postgres(crate::postgres::Variant::Slow),
    ]
}

/// Some round trips.
const KEPT_TURN: Duration = Duration::from_millis(5);

/// The contender that acquires.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ContenderKind {
    /// A node of lockword, on the thread of the process.
    Lockword,
    /// The same, with node and connections on the runtime of the callers.
    OnRuntime,
    /// A node that keeps its turn for [`KEPT_TURN`].
    KeptTurn,
    /// A node over `layers::Sealed`.
    #[cfg(feature = "sealed")]
    Sealed,
    /// A node that keeps no place in the queue: what keeping one buys.
    NoPlace,
    /// Bare writes, without a lock.
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
    pub server: Box<dyn Any + Send + Sync>,
}

/// An engine. Everything but lockword itself uses the engine's own client, or bare calls of it (etcd).
#[async_trait]
pub trait Engine: Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether this is a cell of the engine.
    fn has(&self, cell: &str) -> bool {
        let _ = cell;
        true
    }

    /// The name of the peer, if it is part of this build.
    fn peer(&self) -> Option<&'static str>;

    /// Starts a server. `None`: it is not installed.
    fn start(&self) -> Option<Running>;

    /// Clients that write twice, each to a register of its own. All of them share one connection.
    async fn raw(&self, address: &str, count: usize) -> Vec<Box<dyn Pair>>;

    /// A client of the peer.
    async fn acquirer(&self, address: &str) -> Box<dyn Pair>;

    /// The bytes in which the server stores the registers, with their index, and without what can be
    /// cleaned up.
    async fn stored(&self, server: &Running) -> f64;

    /// The bytes that the server has written until now: only the difference of two calls means something. `None`: it
    /// writes over what was there.
    async fn written(&self, server: &Running) -> Option<f64> {
        let _ = server;
        None
    }

    /// Two clients, one of which writes and the other learns of it: by an event that has the register (etcd), or
    /// by a notice, after which it reads (the others).
    async fn notifier(&self, address: &str) -> Box<dyn Notifier>;
}

/// A client that acquires and releases, with at least one round trip each.
#[async_trait]
pub trait Pair: Send {
    async fn acquire(&mut self);
    async fn release(&mut self);
}

/// A client that writes, and another one that learns of it.
#[async_trait]
pub trait Notifier: Send {
    /// Writes, and returns how long it took until the other client had read it.
    async fn notify(&mut self) -> Duration;
}

/// An engine, and the address of its server.
#[derive(Clone)]
pub struct At {
    pub engine: &'static dyn Engine,
    pub address: String,
}

impl ContenderKind {
    pub fn is_lockword(self) -> bool {
        !matches!(self, Self::Raw | Self::Peer)
    }
}

impl At {
    /// A node of lockword, and the count of its requests.
    pub async fn node(&self, what: ContenderKind) -> (Node, Counts) {
        let counts = Counts::default();
        let builder = if what == ContenderKind::OnRuntime {
            let here = Handle::current();
            let transport = connect_on(&here, &self.address).await.expect("the server runs");
            Node::builder(Intercept::new(transport, counts.clone())).runtime(here)
        } else {
            let transport = self.connect_into(&counts).await;
            match what {
                #[cfg(feature = "sealed")]
                ContenderKind::Sealed => Node::builder(sealed(transport)),
                _ => Node::builder(transport),
            }
        };
        let builder = match what {
            ContenderKind::KeptTurn => builder.keep_turn(KEPT_TURN),
            ContenderKind::NoPlace => builder.keep_place(Duration::ZERO),
            _ => builder,
        };
        (builder.build().expect("a node"), counts)
    }

    /// A transport of lockword whose requests are added to `counts`.
    pub async fn connect_into(&self, counts: &Counts) -> Arc<dyn Transport> {
        let transport = connect(&self.address).await.expect("the server runs");
        Arc::new(Intercept::new(transport, counts.clone()))
    }

    /// A client of the engine or of the peer.
    pub async fn other(&self, what: ContenderKind) -> Box<dyn Pair> {
        match what {
            ContenderKind::Peer => self.engine.acquirer(&self.address).await,
            _ => self.engine.raw(&self.address, 1).await.pop().expect("it is one"),
        }
    }
}

#[cfg(feature = "sealed")]
fn sealed(transport: Arc<dyn Transport>) -> impl Transport {
    use lockword::cluster::layers::{SealKeys, Sealed};
    Sealed::new(transport, SealKeys::new(&[1; 32], &[2; 32]).expect("they differ"))
}

/// The sizes of the values that lockword writes: held, and free.
#[allow(dead_code, reason = "without engines it is not used")]
pub const SIZES: [usize; 2] = [150, 40];
