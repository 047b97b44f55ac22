//! An engine, as the suite of faults needs it.

use super::disk::Disk;
use super::process::ServerProcess;
use std::path::PathBuf;

/// An engine that a test starts.
pub trait Engine: Send + Sync + Sized + 'static {
    /// How many connections a node may have.
    const CONNECTIONS: usize;

    /// Starts it with default options. `None`: it is not installed, skip the test.
    fn start() -> impl Future<Output = Option<Self>> + Send;

    /// The address for `lockword::cluster::connect`.
    fn address(&self) -> String;

    /// The folder with its data.
    fn data(&self) -> PathBuf;

    /// What it has of its clients now.
    fn usage(&self) -> impl Future<Output = Usage> + Send;
}

/// An engine that is a server. Its data outlives its process, except for Redis without a disk.
pub trait Server: Engine {
    fn process(&self) -> &ServerProcess;

    fn port(&self) -> u16;

    /// The address with another port.
    fn address_at(&self, port: u16) -> String;
}

/// A server whose disk can be full.
pub trait OnDisk: Server {
    /// What it does when the disk is full.
    const WHEN_FULL: WhenFull;

    /// Starts a server with a disk of its own. `None`: skip the test.
    fn start_on_disk() -> impl Future<Output = Option<Self>> + Send;

    fn disk(&self) -> &Disk;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It refuses writes, and goes on.
    Refuses,
    /// It ends.
    Ends,
}

/// What an engine has of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Connections of lockword.
    pub connections: usize,
    /// Watches or subscriptions, if the server shows them.
    pub watches: usize,
    /// Registers.
    pub keys: usize,
}
