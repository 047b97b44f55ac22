//! PostgreSQL: upserts, `NOTIFY`, and `pg_advisory_lock`. Also with unlogged tables, and with commits that take
//! two milliseconds each.

use crate::engine::{Engine, Notifier, Pair, Running, SIZES};
use crate::servers::postgres::{PostgresServer, PostgresSetup};
use lockword::cluster::async_trait;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

pub struct Postgres(pub Variant);

pub enum Variant {
    Plain,
    Unlogged,
    Slow,
}

/// Like ours: room for updates in place.
const TABLE: &str = "TABLE raw (key text PRIMARY KEY, version bigint NOT NULL, \
    value bytea NOT NULL) WITH (fillfactor = 50)";
const UPSERT: &str = "INSERT INTO raw AS r (key, version, value) VALUES ($1, 1, $2) \
    ON CONFLICT (key) DO UPDATE SET version = r.version + 1, value = $2 RETURNING version";

#[async_trait]
impl Engine for Postgres {
    fn name(&self) -> &'static str {
        match self.0 {
            Variant::Plain => "postgres",
            Variant::Unlogged => "postgres-unlogged",
            Variant::Slow => "postgres-slow",
        }
    }

    fn has(&self, cell: &str) -> bool {
        match self.0 {
            Variant::Plain => true,
            Variant::Unlogged => ["uncontended", "processes-8", "elsewhere"].contains(&cell),
            Variant::Slow => ["uncontended", "elsewhere", "keys-64"].contains(&cell),
        }
    }

    fn peer(&self) -> Option<&'static str> {
        Some("advisory lock")
    }

    fn start(&self) -> Option<Running> {
        let (mut more, mut kind) = ("", "");
        let mut settings = vec!["max_connections=200".to_owned()];
        match self.0 {
            Variant::Plain => {}
            Variant::Unlogged => (more, kind) = ("unlogged=true", "UNLOGGED"),
            Variant::Slow => {
                settings.extend(["commit_delay=2000".to_owned(), "commit_siblings=0".to_owned()])
            }
        }
        let server = PostgresServer::start(PostgresSetup { settings, ..PostgresSetup::default() })?;
        let address = server.address(more).trim_end_matches('?').to_owned();
        let create = server.address(&format!("create_schema=true&{more}"));
        let create = create.trim_end_matches('&');
        crate::in_process::runtime(1).block_on(async {
            drop(lockword::cluster::connect(create).await.expect("PostgreSQL runs"));
            let table = format!("CREATE {kind} {TABLE}");
            connect(&address).await.batch_execute(&table).await.expect("a table");
        });
        Some(Running { address, server: Box::new(server) })
    }

    async fn raw(&self, address: &str, count: usize) -> Vec<Box<dyn Pair>> {
        let client = Arc::new(connect(address).await);
        let upsert = client.prepare(UPSERT).await.expect("it is understood");
        let raw = |number| {
            let (client, upsert) = (client.clone(), upsert.clone());
            // Of each client another one.
            let key = format!("raw/{}/{number}", fastrand::u64(..));
            Box::new(Raw { client, upsert, key }) as Box<dyn Pair>
        };
        (0..count).map(raw).collect()
    }

    async fn acquirer(&self, address: &str) -> Box<dyn Pair> {
        let client = connect(address).await;
        let lock = client.prepare("SELECT pg_advisory_lock(1)").await.expect("it is understood");
        let unlock = client.prepare("SELECT pg_advisory_unlock(1)").await;
        Box::new(Peer { client, lock, unlock: unlock.expect("it is understood") })
    }

    async fn stored(&self, server: &Running) -> f64 {
        number(&server.address, "SELECT pg_total_relation_size('public.lockword')").await
    }

    /// The log.
    async fn written(&self, server: &Running) -> Option<f64> {
        let written = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
        Some(number(&server.address, written).await)
    }

    async fn notifier(&self, address: &str) -> Box<dyn Notifier> {
        let (listener, mut wire) =
            tokio_postgres::connect(plain(address), NoTls).await.expect("it runs");
        let (tell, heard) = unbounded_channel();
        let reader = connect(address).await;
        let read = reader.prepare("SELECT version, value FROM raw WHERE key = 'notifier'").await;
        let read = read.expect("it is understood");
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| wire.poll_message(cx)).await {
                if !matches!(message, AsyncMessage::Notification(_)) {
                    continue;
                }
                reader.query_one(&read, &[]).await.expect("it was written");
                if tell.send(Instant::now()).is_err() {
                    break;
                }
            }
        });
        listener.batch_execute("LISTEN notifier").await.expect("it runs");
        let client = connect(address).await;
        let notify = format!("{UPSERT}, pg_notify('notifier', 'x') IS NULL");
        let notify = client.prepare(&notify).await;
        Box::new(NotifiedClient {
            client,
            notify: notify.expect("it is understood"),
            heard,
            listener,
        })
    }
}

/// The address without lockword's options, as the bare client understands it.
fn plain(address: &str) -> &str {
    address.split('?').next().expect("there is a first part")
}

async fn number(address: &str, query: &str) -> f64 {
    let row = connect(address).await.query_one(query, &[]).await.expect("it runs");
    row.get::<_, i64>(0) as f64
}

async fn connect(address: &str) -> Client {
    let connected = tokio_postgres::connect(plain(address), NoTls).await;
    let (client, wire) = connected.expect("PostgreSQL runs");
    tokio::spawn(wire);
    client
}

struct Raw {
    client: Arc<Client>,
    upsert: Statement,
    key: String,
}

impl Raw {
    async fn write(&mut self, size: usize) {
        let value = vec![b'x'; size];
        self.client.query_one(&self.upsert, &[&self.key, &value]).await.expect("it runs");
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
        let value = vec![b'x'; SIZES[0]];
        self.client.query_one(&self.notify, &[&"notifier", &value]).await.expect("it runs");
        self.heard.recv().await.expect("it is notified") - start
    }
}
