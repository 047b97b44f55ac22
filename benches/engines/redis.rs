//! Redis: scripts that compare and set, `PUBLISH`, and the crate `rslock`.

use crate::engine::{Engine, Notifier, Pair, Running, SIZES};
use crate::servers::redis::RedisServer;
use ::redis::aio::MultiplexedConnection;
use ::redis::{Client, Script, cmd};
use futures_util::StreamExt;
use lockword::cluster::async_trait;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

pub struct Redis;

const COMPARE_AND_SET: &str = "\
    local found = redis.call('HGET', KEYS[1], 'version') or '' \
    if found ~= ARGV[1] then return {'0', found} end \
    local version = string.format('%.0f', (tonumber(found) or 0) + 1) \
    redis.call('HSET', KEYS[1], 'version', version, 'value', ARGV[2]) \
    if ARGV[3] ~= '' then redis.call('PUBLISH', ARGV[3], 'x') end \
    return {'1', version}";

const SUM_OF_MEMORY: &str = "\
    local sum = 0 \
    for _, key in ipairs(redis.call('KEYS', '{lockword}:*')) do \
        sum = sum + redis.call('MEMORY', 'USAGE', key, 'SAMPLES', '0') end \
    return sum";

#[async_trait]
impl Engine for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn peer(&self) -> Option<&'static str> {
        cfg!(feature = "engine_peers").then_some("rslock")
    }

    fn start(&self) -> Option<Running> {
        let server = RedisServer::start()?;
        Some(Running { address: server.address(), server: Box::new(server) })
    }

    async fn raw(&self, address: &str, count: usize) -> Vec<Box<dyn Pair>> {
        let wire = connect(address).await;
        let mut raws: Vec<Box<dyn Pair>> = vec![];
        for number in 0..count {
            // Of each client another one.
            raws.push(Box::new(
                Raw::new(&wire, format!("raw/{}/{number}", fastrand::u64(..)), "").await,
            ));
        }
        raws
    }

    #[cfg(feature = "engine_peers")]
    async fn acquirer(&self, address: &str) -> Box<dyn Pair> {
        Box::new(Peer { manager: rslock::LockManager::new(vec![address]), guard: None })
    }

    #[cfg(not(feature = "engine_peers"))]
    async fn acquirer(&self, _: &str) -> Box<dyn Pair> {
        unreachable!("there is no peer in this build")
    }

    async fn stored(&self, server: &Running) -> f64 {
        let mut wire = connect(&server.address).await;
        let mut sum = cmd("EVAL");
        sum.arg(SUM_OF_MEMORY).arg(0);
        let sum: f64 = sum.query_async(&mut wire).await.expect("Redis answers");
        sum
    }

    async fn notifier(&self, address: &str) -> Box<dyn Notifier> {
        let client = Client::open(address).expect("an address");
        let mut listener = client.get_async_pubsub().await.expect("Redis runs");
        listener.subscribe("notifier").await.expect("Redis answers");
        let (tell, heard) = unbounded_channel();
        let mut reader = connect(address).await;
        tokio::spawn(async move {
            let mut messages = listener.on_message();
            while messages.next().await.is_some() {
                let mut read = cmd("HMGET");
                read.arg("notifier").arg("version").arg("value");
                let _: (String, String) = read.query_async(&mut reader).await.expect("it runs");
                if tell.send(Instant::now()).is_err() {
                    break;
                }
            }
        });
        let raw = Raw::new(&connect(address).await, "notifier".to_owned(), "notifier").await;
        Box::new(NotifiedClient { raw, heard })
    }
}

async fn connect(address: &str) -> MultiplexedConnection {
    let client = Client::open(address).expect("an address");
    client.get_multiplexed_async_connection().await.expect("Redis runs")
}

/// The only writer.
struct Raw {
    wire: MultiplexedConnection,
    digest: String,
    key: String,
    channel: &'static str,
    version: String,
}

impl Raw {
    async fn new(wire: &MultiplexedConnection, key: String, channel: &'static str) -> Self {
        let (mut wire, script) = (wire.clone(), Script::new(COMPARE_AND_SET));
        script.prepare_invoke().load_async(&mut wire).await.expect("Redis takes the script");
        let () = cmd("DEL").arg(&key).query_async(&mut wire).await.expect("Redis answers");
        let (digest, version) = (script.get_hash().to_owned(), String::new());
        Self { wire, digest, key, channel, version }
    }

    async fn write(&mut self, size: usize) {
        let mut script = cmd("EVALSHA");
        script.arg(&self.digest).arg(1).arg(&self.key);
        script.arg(&self.version).arg(vec![b'x'; size]).arg(self.channel);
        let response: (String, String) = script.query_async(&mut self.wire).await.expect("it runs");
        assert_eq!(response.0, "1", "there is no other writer");
        self.version = response.1;
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

#[cfg(feature = "engine_peers")]
struct Peer {
    manager: rslock::LockManager,
    guard: Option<rslock::LockGuard>,
}

#[cfg(feature = "engine_peers")]
#[async_trait]
impl Pair for Peer {
    async fn acquire(&mut self) {
        let lease = Duration::from_secs(10);
        let guard = self.manager.acquire("peer".as_bytes(), lease).await;
        self.guard = Some(guard.expect("it waits until it has it"));
    }

    async fn release(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.release().await;
        }
    }
}

struct NotifiedClient {
    raw: Raw,
    heard: UnboundedReceiver<Instant>,
}

#[async_trait]
impl Notifier for NotifiedClient {
    async fn notify(&mut self) -> Duration {
        let start = Instant::now();
        self.raw.write(SIZES[0]).await;
        self.heard.recv().await.expect("it is notified") - start
    }
}
