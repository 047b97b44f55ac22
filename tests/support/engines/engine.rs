//! The server of an engine, as the suite of faults needs it.

use super::disk::Disk;
use super::process::ServerProcess;

/// A server that a test starts. Its data outlives its process, except for Redis without a disk.
pub trait Engine: Send + Sync + Sized + 'static {
    /// How many connections a node may have.
    const CONNECTIONS: usize;

    /// Starts a server with default options. `None`: it is not installed, skip the test.
    fn start() -> impl Future<Output = Option<Self>> + Send;

    fn process(&self) -> &ServerProcess;

    fn port(&self) -> u16;

    /// The address for `lockword::cluster::connect`, with another port.
    fn address_at(&self, port: u16) -> String;

    fn address(&self) -> String {
        self.address_at(self.port())
    }

    /// What the server has of its clients now.
    fn usage(&self) -> impl Future<Output = Usage> + Send;
}

/// A server whose disk can be full.
pub trait OnDisk: Engine {
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

/// What a server has of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Connections of lockword.
    pub connections: usize,
    /// Watches or subscriptions, if the server shows them.
    pub watches: usize,
    /// Registers.
    pub keys: usize,
}
