//! etcd.

use super::super::disk::Disk;
use super::super::etcd::{Etcd, Setup};
use super::super::process::Process;
use super::{Engine, Left, OnDisk, WhenFull};
use std::time::{Duration, Instant};

impl Engine for Etcd {
    const CONNECTIONS: usize = 1;

    async fn start() -> Option<Self> {
        Etcd::start()
    }

    fn process(&self) -> &Process {
        &self.process
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn address_at(&self, port: u16) -> String {
        format!("etcd://127.0.0.1:{port}")
    }

    async fn left(&self) -> Left {
        Left {
            connections: self.connections(),
            watches: self.metric("etcd_debugging_mvcc_watcher_total") as usize,
            keys: self.metric("etcd_debugging_mvcc_keys_total") as usize,
        }
    }
}

impl OnDisk for Etcd {
    const WHEN_FULL: WhenFull = WhenFull::Ends;

    async fn start_on_disk() -> Option<Self> {
        let server = Self::start_with(Setup { disk: Some(150), ..Setup::default() })?;
        // Its log has reserved 64 MB, and reserves 64 more, all or nothing.
        let end = Instant::now() + Duration::from_secs(60);
        while server.disk.len("data/member/wal/0.tmp").unwrap_or(0) < 64_000_000 {
            assert!(Instant::now() < end, "it keeps its log in another way");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Some(server)
    }

    fn disk(&self) -> &Disk {
        &self.disk
    }
}
