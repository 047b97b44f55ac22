//! What the suite of faults needs of an engine, so that it is the same for each.

use super::disk::Disk;
use super::process::Process;

#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;

#[cfg(feature = "redis")]
pub use redis::{Durable, Forgetful};

/// A server of the test's own, whose data outlives its process (but for [`Forgetful`]).
pub trait Engine: Send + Sync + Sized + 'static {
    /// How many connections a node may have.
    const CONNECTIONS: usize;

    /// A server with nothing special. `None`: it is not installed, skip the test.
    fn start() -> impl Future<Output = Option<Self>> + Send;

    fn process(&self) -> &Process;

    fn port(&self) -> u16;

    /// For `lockword::cluster::connect`, by way of another port.
    fn address_at(&self, port: u16) -> String;

    fn address(&self) -> String {
        self.address_at(self.port())
    }

    /// What the server has now.
    fn left(&self) -> impl Future<Output = Left> + Send;
}

/// A server whose disk can be full.
pub trait OnDisk: Engine {
    /// What it does then.
    const WHEN_FULL: WhenFull;

    /// A server with a disk of its own. `None`: skip the test.
    fn start_on_disk() -> impl Future<Output = Option<Self>> + Send;

    fn disk(&self) -> &Disk;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It says that it has no room, and goes on.
    Refuses,
    /// It ends.
    Ends,
}

/// What a server has of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Connections of lockword.
    pub connections: usize,
    /// Watches or subscriptions, where the server tells of them.
    pub watches: usize,
    /// Registers.
    pub keys: usize,
}
