//! PostgreSQL.

use super::super::disk::Disk;
use super::super::postgres::{Server, Setup};
use super::super::process::Process;
use super::{Engine, Left, OnDisk, WhenFull};

impl Engine for Server {
    // One is for notifications.
    const CONNECTIONS: usize = 2;

    async fn start() -> Option<Self> {
        start(None).await
    }

    fn process(&self) -> &Process {
        &self.process
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn address_at(&self, port: u16) -> String {
        Server::address_at(self, port, "")
    }

    /// It does not tell of others' subscriptions: one that is kept shows as a connection.
    async fn left(&self) -> Left {
        let by_hand = self.client().await;
        let connections = "SELECT count(*) FROM pg_stat_activity \
            WHERE application_name = 'lockword'";
        let keys = "SELECT count(*) FROM public.lockword WHERE key <> ''";
        let count = async |sql: &str| {
            let row = by_hand.query_one(sql, &[]).await.expect("it runs");
            usize::try_from(row.get::<_, i64>(0)).expect("a count")
        };
        Left { connections: count(connections).await, watches: 0, keys: count(keys).await }
    }
}

impl OnDisk for Server {
    // While its log still has room: that is reserved in pieces of 16 MB.
    const WHEN_FULL: WhenFull = WhenFull::Refuses;

    async fn start_on_disk() -> Option<Self> {
        start(Some(96)).await
    }

    fn disk(&self) -> &Disk {
        &self.disk
    }
}

async fn start(disk: Option<u32>) -> Option<Server> {
    // The suite's 32 processes have two connections each.
    let settings = vec!["max_connections=120".to_owned()];
    let server = Server::start(Setup { settings, disk, ..Setup::default() })?;
    let address = server.address("create_schema=true");
    lockword::cluster::connect(&address).await.expect("the table can be made");
    Some(server)
}
