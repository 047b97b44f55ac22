//! PostgreSQL: registers in one table.
//!
//! ```no_run
//! use lockword::cluster::{Node, transports::postgres::Postgres};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Postgres::connect(&"postgres://app:secret@db:5432/app".parse()?).await?;
//! engine.create_schema().await?; // or run the SQL of `schema_sql` as a migration
//! let node = Node::builder(engine).build()?;
//! node.lock("jobs/nightly")?.acquire().await?.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! Against a single primary it is linearizable, and nothing that was acknowledged is lost when the
//! server is killed. A version is the larger of the last one plus one and the server's clock in
//! microseconds, computed when the row is locked; so versions grow although the clock steps back.
//!
//! **A failover can lose writes.** With asynchronous replicas (the default) the last writes that the
//! old primary has acknowledged may be missing in the new one, and an old primary that is still
//! reached goes on. Then two nodes may hold a lock at a time, and the order of fencing tokens is not
//! guaranteed across that event; the same is true of a restored backup. With
//! `synchronous_standby_names` and `synchronous_commit` at `on` or `remote_apply`, and an old primary
//! that is fenced off, a failover loses nothing. etcd does that by itself.
//!
//! So [`Consistency::Lossy`] is declared if, when it connects, there is a replica
//! (`pg_stat_replication` has a row) without both of these settings. A backup that is being taken
//! and a logical subscriber look like a replica; one that is away, or lives on archived files, is not
//! seen; and one that comes later changes neither what was declared nor what works. Who knows better
//! says so in the address: `replicas=none`, if no failover ever leads to one; `async`, if it may;
//! `sync`, if it leads only to those that have what was acknowledged. Then a server without these two
//! settings is refused, by the first connection and by each later one ([`TransportError::Unavailable`],
//! as long as that is so): give them to the one that takes over, too. What becomes of them while a
//! connection lasts is not seen.
//!
//! `synchronous_commit = off` is set to `on` for its own connections. Where that is not possible
//! (`pooled=true`), and with `fsync = off`, [`Consistency::Lossy`] is declared too. A later connection
//! to a server that may lose what it has acknowledged in this way, where the first one did not, is
//! refused ([`TransportError::Unsupported`]).
//!
//! Who is to be woken is told by `NOTIFY`, in the statement of the write, and only when somebody
//! waits: PostgreSQL makes all transactions that notify commit one after the other.
//!
//! # What it needs
//!
//! PostgreSQL 12 or later, the primary. The table of [`Postgres::schema_sql`], and on it:
//!
//! ```sql
//! GRANT SELECT, INSERT, UPDATE ON public.lockword TO app;
//! GRANT DELETE ON public.lockword TO app; -- for housekeeping() and delete() only
//! ```
//!
//! [`Postgres::create_schema`] needs the right to create a table in the schema, unless the table is
//! there. Two connections per [`Postgres`] (and its clones): one for requests, and one that hears of
//! changes, from the first time that somebody waits for a lock. Any `default_transaction_isolation`
//! will do.
//!
//! Nothing deletes a register but [`Postgres::housekeeping`], which deletes those that have been idle
//! for longer than a day. Call it daily where names are not used again. The row without a name is the
//! *floor*: its version is at least that of all registers that were deleted. Never delete it.
//!
//! The housekeeping has a connection of its own, and goes through the table page by page, by the
//! primary key. An index on `idle_since` would make it shorter and each release longer: a column that
//! has an index cannot be updated in place (HOT).
//!
//! **Keep no row locked by hand.** Requests share a connection, on which the server answers one after
//! the other. A write to a row that somebody has locked is refused after a twentieth of `timeout_ms`
//! (a quarter of a second; never less than 50 ms) as [`TransportError::Unavailable`], and the node
//! tries again later. (Nodes that contend for a register keep its row for as long as a commit takes. If
//! that is long, since a synchronous replica is far away, make `timeout_ms` a hundred times as long.) So
//! long the requests for other locks wait; and again for each such try, and
//! for each such row. Who locks the floor so keeps new registers from being created.
//!
//! # The address
//!
//! `postgres://user:password@host:port/database`, or `postgresql://`. A host may be the folder of a
//! socket: `postgres://user@%2Fvar%2Frun%2Fpostgresql/app`. After a question mark there may be:
//!
//! | option | meaning | unless given |
//! |---|---|---|
//! | `sslmode` | `verify-full`: TLS, and the server's certificate must be trusted and have its name; `require` is the same here; `disable`: no TLS | `disable` |
//! | `sslrootcert` | file of the authorities to trust, PEM | the system's |
//! | `sslcert`, `sslkey` | files of the client's certificate and key, PEM | none |
//! | `table` | `name` or `schema.name`, of `a-z`, `0-9` and `_`, of at most 46 bytes together | `public.lockword` |
//! | `create_schema` | `true`: creates the table if it is not there | `false` |
//! | `replicas` | `none`, `sync` or `async`: what a failover may lead to | what is seen |
//! | `pooled` | `true`: there is a transaction pooler in between | `false` |
//! | `connect_timeout` | seconds | 5 |
//! | `timeout_ms` | how long an answer may take | 5000 |
//! | `application_name` | what the server shows | `lockword` |
//!
//! **Through a pooler** such as PgBouncer in transaction mode, add `pooled=true`: then no statement
//! is prepared by name, nothing is set for longer than a transaction, and there is no `LISTEN`.
//! Whoever waits looks from time to time ([`Wakeups::Poll`]). Writes notify all the same, those who
//! listen past the pooler. Where it was forgotten, the errors say so.
//!
//! # Errors
//!
//! What the server refuses was certainly not applied: a full disk, too little memory, a lock of
//! somebody else's that lasts, a replica ([`TransportError::Unavailable`]); missing rights
//! ([`Denied`](TransportError::Denied)); a missing table ([`Unsupported`](TransportError::Unsupported)).
//! A write whose connection was lost or that was not answered in time is
//! [`Indeterminate`](TransportError::Indeterminate). A statement that lost against another transaction
//! (40001, 40P01) is repeated while half of the time is left, and nothing else is. A read, a write and
//! a deletion end within `timeout_ms`, whatever it takes: to connect, to be repeated. A new watch ends
//! within eight times the longer of the two timeouts.
//!
//! After a server was lost the next call connects again (where little of a call's time was left when it
//! fell silent, one `timeout_ms` later at most); watches have ended, and the next one listens
//! again.
//!
//! # By hand
//!
//! ```sql
//! SELECT key, version, idle_since, convert_from(value, 'UTF8') AS value
//!   FROM public.lockword WHERE key = 'jobs/nightly';
//! SELECT * FROM pg_stat_activity WHERE application_name = 'lockword';
//! LISTEN "public.lockword"; -- what everybody is told; "public.lockword:NODE" for one node
//! ```

use crate::cluster::{
    Capabilities, ConnectError, Consistency, Exchange, Key, NodeId, Transport, TransportError,
    Version, Versioned, Wakeups, Watch, Write, async_trait,
};
use address::Settings;
use failure::Failure;
use futures_util::{StreamExt, stream};
use link::Link;
use listener::Listener;
use session::{Param, Session, Which};
use std::fmt;
use std::sync::Arc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::Row;
use url::Url;

// What an address says.
mod address;
// What went wrong, in our words.
mod failure;
// A connection that is opened when it is asked for.
mod link;
// The connection that hears of changes.
mod listener;
// What a failover may lead to.
mod replicas;
// The connection for requests.
mod session;
// The table, and the statements upon it.
mod sql;
// Whom to trust, and as whom to come.
mod tls;

/// Registers in a table of PostgreSQL: see the [module's documentation](self). A clone shares the
/// connections.
#[derive(Clone)]
pub struct Postgres {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Arc<Settings>,
    requests: Link<Session>,
    changes: Link<Listener>,
    capabilities: Capabilities,
}

impl Postgres {
    /// Connects to the server at this address; what it may say is told [above](self).
    ///
    /// Whether the table is there is not looked at: [`create_schema`](Self::create_schema) can be
    /// called next. Needs a tokio runtime with timers and I/O enabled.
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    pub async fn connect(url: &Url) -> Result<Self, ConnectError> {
        let settings = Arc::new(Settings::new(url)?);
        let requests = Link::new();
        let connect = || Session::connect(settings.clone());
        let session = requests.get(connect).await.map_err(|failure: Failure| failure.connect)?;
        let mut capabilities = Capabilities::new("postgres");
        capabilities.wakeups = if settings.pooled { Wakeups::Poll } else { Wakeups::PushToOne };
        capabilities.wake_within = listener::WITHIN;
        let fails_over =
            replicas::lag(&session, &settings).await.map_err(|failure| failure.connect)?;
        if session.is_lossy || fails_over {
            capabilities.consistency = Consistency::Lossy;
        }
        let create = settings.create_schema;
        let server = settings.server.clone();
        let inner = Inner { settings, requests, changes: Link::new(), capabilities };
        let postgres = Self { inner: Arc::new(inner) };
        if create {
            let why = |error: TransportError| ConnectError::Unsuitable {
                server,
                why: format!("the table could not be created: {error}"),
            };
            postgres.create_schema().await.map_err(why)?;
        }
        Ok(postgres)
    }

    /// The table as SQL, for those who run migrations: with the name that the address says.
    #[must_use]
    pub fn schema_sql(&self) -> String {
        sql::schema(&self.inner.settings.table)
    }

    /// Creates the table, if it is not there. Whoever may write to one that is there needs no other
    /// right.
    ///
    /// # Errors
    ///
    /// [`TransportError::Denied`] without the right to do so, and any other.
    pub async fn create_schema(&self) -> Result<(), TransportError> {
        let Settings { table, limits, .. } = &*self.inner.settings;
        let session = self.inner.session(&self.inner.requests).await?;
        let seen = session.yes(&sql::is_there(table)).await.map_err(|failure| failure.call)?;
        let is_there = seen.is_some_and(|seen| seen[0]);
        let text = if is_there { sql::floor(table) } else { sql::create_schema(table, *limits) };
        session.batch(&text).await.map_err(|told| {
            if told.broken {
                session.kill();
            }
            told.error
        })
    }

    /// Deletes the registers that have been idle for longer than a day, and tells how many those
    /// were. To be called from time to time by whoever uses names that are not used again; nothing
    /// else deletes one. It has a connection of its own, for so long.
    ///
    /// # Errors
    ///
    /// [`TransportError`]; some may have been deleted.
    pub async fn housekeeping(&self) -> Result<u64, TransportError> {
        let Self { inner } = self;
        let (own, mut all, mut after) = (Link::new(), 0, String::new());
        loop {
            let row = inner.ask(&own, Which::DeleteIdle, &[&after], true, inner.end()).await?;
            let row = row.ok_or_else(|| TransportError::corrupt("no count"))?;
            all += count(&row)?;
            match column(&row, 1)? {
                Some(last) => after = last,
                None => return Ok(all),
            }
        }
    }

    /// Deletes the register of `key`, whether it is idle or not, and tells whether there was one.
    /// Versions go on above the one that is deleted, which `DELETE` by hand does not see to. For
    /// tests and operators.
    ///
    /// # Errors
    ///
    /// [`TransportError`].
    pub async fn delete(&self, key: &Key) -> Result<bool, TransportError> {
        let Self { inner } = self;
        let (link, end) = (&inner.requests, inner.end());
        let row = inner.ask(link, Which::Delete, &[&key.as_str()], true, end).await?;
        Ok(row.as_ref().map_or(Ok(0), count)? > 0)
    }
}

impl Inner {
    async fn session(&self, link: &Link<Session>) -> Result<Arc<Session>, TransportError> {
        let connect = || Session::connect(self.settings.clone());
        let session = link.get(connect).await.map_err(|failure| failure.call)?;
        if session.is_lossy && self.capabilities.consistency == Consistency::Linearizable {
            let why = "fsync or synchronous_commit is off now, and was on before";
            return Err(TransportError::unsupported(why));
        }
        Ok(session)
    }

    /// When a call that begins now ends, at the latest.
    fn end(&self) -> Instant {
        Instant::now() + self.settings.timeout
    }

    /// Whether it is too late to try again in a call that ends at `end`: a write that is cut short is
    /// indeterminate, one that failed is not.
    fn is_late(&self, end: Instant) -> bool {
        Instant::now() + self.settings.timeout / 2 >= end
    }

    /// Asks, and asks again where that is harmless.
    async fn ask(
        &self,
        link: &Link<Session>,
        which: Which,
        params: &[Param<'_>],
        write: bool,
        end: Instant,
    ) -> Result<Option<Row>, TransportError> {
        let mut tries = 0;
        loop {
            let session = match timeout_at(end, self.session(link)).await {
                Ok(session) => session?,
                Err(_) => return Err(TransportError::unavailable("no connection in time")),
            };
            let told = match session.query(which, params, write, end).await {
                Ok(row) => return Ok(row),
                Err(told) => told,
            };
            if told.broken {
                session.kill();
            }
            if !told.again || self.is_late(end) {
                return Err(told.error);
            }
            sleep(session::pause(tries)).await;
            tries += 1;
        }
    }
}

#[async_trait]
impl Transport for Postgres {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        let Self { inner } = self;
        let (link, end) = (&inner.requests, inner.end());
        let row = inner.ask(link, Which::Load, &[&key.as_str()], false, end).await?;
        row.map(|row| register(&row, 0)).transpose()
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let Inner { settings, requests, capabilities, .. } = &*self.inner;
        let end = self.inner.end();
        let Write { value, wake, idle } = new;
        if value.len() > capabilities.largest_value {
            return Err(TransportError::unsupported("a value of more than 64 KiB"));
        }
        let (channel, whole) = listener::channel(&settings.table, wake, &value);
        let (key, value) = (key.as_str(), &*value);
        let Some(expected) = expected else {
            let params: [Param<'_>; 5] = [&key, &value, &idle, &channel, &whole];
            let row = self.inner.ask(requests, Which::Create, &params, true, end).await?;
            let Some(row) = row else {
                let why = "the row without a name is missing in the table: call create_schema()";
                return Err(TransportError::unsupported(why));
            };
            return match column(&row, 0)? {
                true => Ok(Exchange::Swapped(version(column(&row, 1)?)?)),
                false => Ok(Exchange::Mismatch(Some(register(&row, 1)?))),
            };
        };
        let number = i64::try_from(expected.get()).expect("below 2^52");
        let params: [Param<'_>; 6] = [&key, &number, &value, &idle, &channel, &whole];
        loop {
            let row = self.inner.ask(requests, Which::Update, &params, true, end).await?;
            let Some(row) = row else {
                return Ok(Exchange::Mismatch(None));
            };
            if let Some(written) = column(&row, 0)? {
                return Ok(Exchange::Swapped(version(written)?));
            }
            let seen = register(&row, 1)?;
            if seen.version != expected {
                return Ok(Exchange::Mismatch(Some(seen)));
            }
            // It has become what was expected while the statement ran.
            if self.inner.is_late(end) {
                return Err(TransportError::unavailable("it changes all the time"));
            }
        }
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let Inner { settings, changes, .. } = &*self.inner;
        if settings.pooled {
            // Nothing is heard through a pooler.
            return Ok(stream::empty().boxed());
        }
        let session = self.inner.session(&self.inner.requests).await?;
        let connect = || Listener::connect(settings.clone(), session.clone());
        let listener = changes.get(connect).await;
        listener.map_err(|failure| failure.call)?.watch(key, node).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities.clone()
    }
}

fn count(row: &Row) -> Result<u64, TransportError> {
    let count: i64 = column(row, 0)?;
    Ok(u64::try_from(count).unwrap_or_default())
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    at: usize,
) -> Result<T, TransportError> {
    row.try_get(at).map_err(|error| TransportError::corrupt(error.to_string()))
}

fn version(number: i64) -> Result<Version, TransportError> {
    Version::new(u64::try_from(number).unwrap_or_default())
}

/// The version in column `at`, and the value in the next.
fn register(row: &Row, at: usize) -> Result<Versioned, TransportError> {
    let value: &[u8] = column(row, at + 1)?;
    Ok(Versioned { version: version(column(row, at)?)?, value: value.into() })
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Postgres").field(&self.inner.settings).finish()
    }
}
