//! etcd.

use super::super::etcd::Etcd;
use super::super::process::Process;
use super::{Engine, Left};

impl Engine for Etcd {
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
