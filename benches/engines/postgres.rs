//! PostgreSQL: upserts, `NOTIFY`, and `pg_advisory_lock`.

use crate::engine::{Engine, Notifier, Pair, Running, SIZES};
use crate::servers::postgres::{PostgresServer, PostgresSetup};
use lockword::cluster::async_trait;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

pub struct Postgres;

/// Like ours: room for updates in place.
const TABLE: &str = "CREATE TABLE raw (key text PRIMARY KEY, version bigint NOT NULL, \
    value bytea NOT NULL) WITH (fillfactor = 50)";
const UPSERT: &str = "INSERT INTO raw AS r (key, version, value) VALUES ('raw', 1, $1) \
    ON CONFLICT (key) DO UPDATE SET version = r.version + 1, value = $1 RETURNING version";

#[async_trait]
impl Engine for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn peer(&self) -> Option<&'static str> {
        Some("advisory lock")
    }

    fn start(&self) -> Option<Running> {
        let settings = vec!["max_connections=200".to_owned()];
        let server = PostgresServer::start(PostgresSetup { settings, ..PostgresSetup::default() })?;
        // Plain, so that the bare client understands it too.
        let address = server.address("").trim_end_matches('?').to_owned();
        let create = server.address("create_schema=true");
        crate::in_process::runtime(1).block_on(async {
            drop(lockword::cluster::connect(&create).await.expect("PostgreSQL runs"));
            connect(&address).await.batch_execute(TABLE).await.expect("a table");
        });
        Some(Running { address, server: Box::new(server) })
    }

    async fn raw(&self, address: &str) -> Box<dyn Pair> {
        let client = connect(address).await;
        let upsert = client.prepare(UPSERT).await.expect("it is understood");
        Box::new(Raw { client, upsert })
    }

    async fn acquirer(&self, address: &str) -> Box<dyn Pair> {
        let client = connect(address).await;
        let lock = client.prepare("SELECT pg_advisory_lock(1)").await.expect("it is understood");
        let unlock = client.prepare("SELECT pg_advisory_unlock(1)").await;
        Box::new(Peer { client, lock, unlock: unlock.expect("it is understood") })
    }

    async fn notifier(&self, address: &str) -> Box<dyn Notifier> {
        let (listener, mut wire) = tokio_postgres::connect(address, NoTls).await.expect("it runs");
        let (tell, heard) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| wire.poll_message(cx)).await {
                let at = Instant::now();
                if matches!(message, AsyncMessage::Notification(_)) && tell.send(at).is_err() {
                    break;
                }
            }
        });
        listener.batch_execute("LISTEN notifier").await.expect("it runs");
        let client = connect(address).await;
        let notify = client.prepare("SELECT pg_notify('notifier', $1)").await;
        Box::new(NotifiedClient {
            client,
            notify: notify.expect("it is understood"),
            heard,
            listener,
        })
    }
}

async fn connect(address: &str) -> Client {
    let (client, wire) = tokio_postgres::connect(address, NoTls).await.expect("PostgreSQL runs");
    tokio::spawn(wire);
    client
}

struct Raw {
    client: Client,
    upsert: Statement,
}

impl Raw {
    async fn write(&mut self, size: usize) {
        let value = vec![b'x'; size];
        self.client.query_one(&self.upsert, &[&value]).await.expect("it runs");
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

/// It has a connection of its own, since users of the same connection share the lock.
struct Peer {
    client: Client,
    lock: Statement,
    unlock: Statement,
}

#[async_trait]
impl Pair for Peer {
    async fn acquire(&mut self) {
        self.client.query_one(&self.lock, &[]).await.expect("it runs");
    }

    async fn release(&mut self) {
        let row = self.client.query_one(&self.unlock, &[]).await.expect("it runs");
        assert!(row.get::<_, bool>(0), "it was locked");
    }
}

struct NotifiedClient {
    client: Client,
    notify: Statement,
    heard: UnboundedReceiver<Instant>,
    #[allow(dead_code, reason = "its connection is the one that listens")]
    listener: Client,
}

#[async_trait]
impl Notifier for NotifiedClient {
    async fn notify(&mut self) -> Duration {
        let start = Instant::now();
        let text = "x".repeat(SIZES[0]);
        self.client.query_one(&self.notify, &[&text]).await.expect("it runs");
        self.heard.recv().await.expect("it is notified") - start
    }
}
