//! etcd: transactions, watches, and its own lock.

use crate::engine::{Engine, Notifier, Pair, Running, SIZES};
use crate::servers::etcd::EtcdServer;
use etcd_client::{Client, Compare, CompareOp, LockOptions, Txn, TxnOp};
use lockword::cluster::async_trait;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

pub struct Etcd;

/// Of the peer, in seconds: longer than a slice.
const LEASE: i64 = 600;

#[async_trait]
impl Engine for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn peer(&self) -> Option<&'static str> {
        Some("etcd's lock")
    }

    fn start(&self) -> Option<Running> {
        let server = EtcdServer::start()?;
        Some(Running { address: server.address(), server: Box::new(server) })
    }

    async fn raw(&self, address: &str) -> Box<dyn Pair> {
        let mut client = connect(address).await;
        client.delete("raw", None).await.expect("etcd answers");
        Box::new(Raw { client, revision: 0 })
    }

    async fn acquirer(&self, address: &str) -> Box<dyn Pair> {
        let mut client = connect(address).await;
        let lease = client.lease_grant(LEASE, None).await.expect("etcd answers").id();
        Box::new(Peer { client, lease, key: vec![] })
    }

    async fn notifier(&self, address: &str) -> Box<dyn Notifier> {
        let mut client = connect(address).await;
        let mut stream = client.watch("notifier", None).await.expect("etcd answers");
        let created = stream.message().await.expect("etcd answers").expect("a message");
        assert!(created.created(), "the watch is in force");
        let (tell, heard) = unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(_)) = stream.message().await
                && tell.send(Instant::now()).is_ok()
            {}
        });
        Box::new(NotifiedClient { client: connect(address).await, heard })
    }
}

async fn connect(address: &str) -> Client {
    let url = address.replace("etcd://", "http://");
    Client::connect([url], None).await.expect("etcd runs")
}

/// The only writer.
struct Raw {
    client: Client,
    revision: i64,
}

impl Raw {
    async fn write(&mut self, size: usize) {
        let swap = Txn::new()
            .when([Compare::mod_revision("raw", CompareOp::Equal, self.revision)])
            .and_then([TxnOp::put("raw", vec![b'x'; size], None)])
            .or_else([TxnOp::get("raw", None)]);
        let done = self.client.txn(swap).await.expect("etcd answers");
        assert!(done.succeeded(), "there is no other writer");
        self.revision = done.header().expect("a header").revision();
    }
}

#[async_trait]
impl Pair for Raw {
    async fn acquire(&mut self) {
        self.write(SIZES[0]).await;
    }

    async fn release(&mut self) {
        self.write(SIZES[1]).await;
    }
}

/// It has a lease of its own, since clients with the same lease share the lock.
struct Peer {
    client: Client,
    lease: i64,
    key: Vec<u8>,
}

#[async_trait]
impl Pair for Peer {
    async fn acquire(&mut self) {
        let options = LockOptions::new().with_lease(self.lease);
        let locked = self.client.lock("peer", Some(options)).await.expect("etcd answers");
        self.key = locked.key().to_vec();
    }

    async fn release(&mut self) {
        self.client.unlock(std::mem::take(&mut self.key)).await.expect("etcd answers");
    }
}

struct NotifiedClient {
    client: Client,
    heard: UnboundedReceiver<Instant>,
}

#[async_trait]
impl Notifier for NotifiedClient {
    async fn notify(&mut self) -> Duration {
        let start = Instant::now();
        self.client.put("notifier", vec![b'x'; SIZES[0]], None).await.expect("etcd answers");
        self.heard.recv().await.expect("it is notified") - start
    }
}
