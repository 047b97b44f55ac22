//! etcd: transactions, watches, and its own lock.

use crate::engine::{Engine, Notifier, Pair, Running, SIZES};
use crate::servers::etcd::EtcdServer;
use crate::servers::etcd_client::EtcdClient;
use crate::servers::etcd_client::rpc::{
    Compare, CompareResult, RangeRequest, RequestOp, TxnRequest, TxnResponse, WatchCreateRequest,
};
use lockword::cluster::async_trait;
use prost::Message;
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

    async fn raw(&self, address: &str, count: usize) -> Vec<Box<dyn Pair>> {
        let client = connect(address).await;
        let mut raws: Vec<Box<dyn Pair>> = vec![];
        for number in 0..count {
            // Of each client another one.
            let key = format!("raw/{}/{number}", fastrand::u64(..));
            client.delete(&*key).await;
            raws.push(Box::new(Raw { client: client.clone(), key, revision: 0 }));
        }
        raws
    }

    async fn acquirer(&self, address: &str) -> Box<dyn Pair> {
        let client = connect(address).await;
        let grant = LeaseGrantRequest { seconds: LEASE };
        let granted = client.call("/etcdserverpb.Lease/LeaseGrant", grant).await;
        let LeaseGrantResponse { lease } = granted.expect("etcd answers");
        Box::new(Peer { client, lease, key: vec![] })
    }

    /// What is left of the database after a compaction: the least, since writes may go on.
    async fn stored(&self, server: &Running) -> f64 {
        let client = connect(&server.address).await;
        let revision = client.put("revision", "").await.expect("etcd answers");
        client.compact(revision).await;
        let mut least = f64::INFINITY;
        let end = Instant::now() + Duration::from_millis(400);
        while Instant::now() < end {
            least = least.min(in_use(server));
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        least
    }

    /// Until a compaction it keeps every revision.
    async fn written(&self, server: &Running) -> Option<f64> {
        Some(in_use(server))
    }

    async fn notifier(&self, address: &str) -> Box<dyn Notifier> {
        let EtcdClient(client) = connect(address).await;
        let request = WatchCreateRequest { key: "notifier".into(), start_revision: 0 };
        let mut stream = client.watch(request).await.expect("etcd answers");
        let created = stream.message().await.expect("etcd answers").expect("a message");
        assert!(created.created, "the watch is in force");
        let (tell, heard) = unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(_)) = stream.message().await
                && tell.send(Instant::now()).is_ok()
            {}
        });
        Box::new(NotifiedClient { client: connect(address).await, heard })
    }
}

async fn connect(address: &str) -> EtcdClient {
    crate::servers::etcd_client::connect(&address.replace("etcd://", "http://")).await
}

/// The bytes of its database that are in use. It writes there ten times a second.
fn in_use(server: &Running) -> f64 {
    let etcd = server.server.downcast_ref::<EtcdServer>().expect("it is one of etcd");
    etcd.metric("etcd_mvcc_db_total_size_in_use_in_bytes")
}

/// The only writer.
struct Raw {
    client: EtcdClient,
    key: String,
    revision: i64,
}

impl Raw {
    async fn write(&mut self, size: usize) {
        let key = &*self.key;
        let swap = TxnRequest {
            compare: vec![Compare::revision(key, CompareResult::Equal, self.revision)],
            success: vec![RequestOp::put(key, vec![b'x'; size])],
            failure: vec![RequestOp::range(RangeRequest::of(key))],
        };
        let done = self.client.call("/etcdserverpb.KV/Txn", swap).await;
        let done: TxnResponse = done.expect("etcd answers");
        assert!(done.succeeded, "there is no other writer");
        self.revision = done.header.expect("a header").revision;
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
    client: EtcdClient,
    lease: i64,
    key: Vec<u8>,
}

#[async_trait]
impl Pair for Peer {
    async fn acquire(&mut self) {
        let lock = LockRequest { name: "peer".into(), lease: self.lease };
        let locked = self.client.call("/v3lockpb.Lock/Lock", lock).await;
        let LockResponse { key } = locked.expect("etcd answers");
        self.key = key;
    }

    async fn release(&mut self) {
        let unlock = UnlockRequest { key: std::mem::take(&mut self.key) };
        self.client.call("/v3lockpb.Lock/Unlock", unlock).await.expect("etcd answers")
    }
}

#[derive(Clone, PartialEq, Message)]
struct LeaseGrantRequest {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

#[derive(Clone, PartialEq, Message)]
struct LeaseGrantResponse {
    #[prost(int64, tag = "2")]
    lease: i64,
}

#[derive(Clone, PartialEq, Message)]
struct LockRequest {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(int64, tag = "2")]
    lease: i64,
}

#[derive(Clone, PartialEq, Message)]
struct LockResponse {
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct UnlockRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

struct NotifiedClient {
    client: EtcdClient,
    heard: UnboundedReceiver<Instant>,
}

#[async_trait]
impl Notifier for NotifiedClient {
    async fn notify(&mut self) -> Duration {
        let start = Instant::now();
        self.client.put("notifier", vec![b'x'; SIZES[0]]).await.expect("etcd answers");
        self.heard.recv().await.expect("it is notified") - start
    }
}
