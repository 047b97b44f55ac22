//! Redis, with a memory and without.

use super::super::disk::Disk;
use super::super::process::Process;
use super::super::redis::{How, Server};
use super::{Engine, Left, OnDisk, WhenFull};

/// It writes each change to its disk before it answers.
pub struct Durable(Server);

/// It keeps nothing on its disk.
pub struct Forgetful(Server);

impl Engine for Durable {
    const CONNECTIONS: usize = 1;

    async fn start() -> Option<Self> {
        Some(Self(Server::with(How { durable: true, ..How::default() })?))
    }

    fn process(&self) -> &Process {
        &self.0.process
    }

    fn port(&self) -> u16 {
        self.0.port
    }

    fn address_at(&self, port: u16) -> String {
        self.0.address_at(port)
    }

    async fn left(&self) -> Left {
        left(&self.0)
    }
}

impl OnDisk for Durable {
    // With `appendfsync always` it has no other way: it did already what it cannot write down.
    const WHEN_FULL: WhenFull = WhenFull::Ends;

    async fn start_on_disk() -> Option<Self> {
        Some(Self(Server::with(How { durable: true, disk: Some(4), ..How::default() })?))
    }

    fn disk(&self) -> &Disk {
        &self.0.disk
    }
}

impl Engine for Forgetful {
    const CONNECTIONS: usize = 1;

    async fn start() -> Option<Self> {
        Some(Self(Server::start()?))
    }

    fn process(&self) -> &Process {
        &self.0.process
    }

    fn port(&self) -> u16 {
        self.0.port
    }

    fn address_at(&self, port: u16) -> String {
        self.0.address_at(port)
    }

    async fn left(&self) -> Left {
        left(&self.0)
    }
}

fn left(server: &Server) -> Left {
    Left {
        connections: server.connections(),
        watches: server.say::<Vec<String>>(&["PUBSUB", "CHANNELS"]).len(),
        // All but the floor.
        keys: server.say::<usize>(&["DBSIZE"])
            - server.say::<usize>(&["EXISTS", "{lockword}floor"]),
    }
}
