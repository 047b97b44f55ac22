//! PostgreSQL: registers in one table.

use crate::cluster::{
    Capabilities, ConnectError, Consistency, Exchange, Key, NodeId, Transport, TransportError,
    Version, Versioned, Wakeups, Watch, Write, async_trait,
};
use address::Settings;
use failure::Failure;
use futures_util::{StreamExt, stream};
use listener::Listener;
use session::{Link, Param, Session, Which};
use std::fmt;
use std::sync::Arc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::Row;
use url::Url;

// What an address says.
mod address;
// What went wrong, in our words.
mod failure;
// The connection that hears of changes.
mod listener;
// A connection, and how to have one.
mod session;
// The table, and the statements upon it.
mod sql;
// Whom to trust, and as whom to come.
mod tls;

/// Registers in a table of PostgreSQL. A clone shares the connections.
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
    /// Connects to the server at this address; what it may say is told [above](Postgres).
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
        if session.is_lossy {
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

    /// Creates the table, if it is not there.
    ///
    /// # Errors
    ///
    /// [`TransportError::Denied`] without the right to do so, and any other.
    pub async fn create_schema(&self) -> Result<(), TransportError> {
        let session = self.inner.session().await?;
        let text = sql::create_schema(&self.inner.settings.table);
        session.batch(&text).await.map_err(|told| {
            if told.broken {
                session.kill();
            }
            told.error
        })
    }

    /// Deletes the registers that have been idle for longer than a day, and tells how many those
    /// were. To be called from time to time by whoever uses names that are not used again; nothing
    /// else deletes one.
    ///
    /// # Errors
    ///
    /// [`TransportError`]; some may have been deleted.
    pub async fn housekeeping(&self) -> Result<u64, TransportError> {
        let mut all = 0;
        loop {
            let deleted = self.inner.delete(Which::DeleteIdle, &[]).await?;
            all += deleted;
            if deleted < sql::BATCH {
                return Ok(all);
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
        Ok(self.inner.delete(Which::Delete, &[&key.as_str()]).await? > 0)
    }
}

impl Inner {
    async fn session(&self) -> Result<Arc<Session>, TransportError> {
        let connect = || Session::connect(self.settings.clone());
        let session = self.requests.get(connect).await.map_err(|failure| failure.call)?;
        if session.is_lossy && self.capabilities.consistency == Consistency::Linearizable {
            let why = "fsync or synchronous_commit is off now, and was on before";
            return Err(TransportError::unsupported(why));
        }
        Ok(session)
    }

    /// Asks, and asks again where that is harmless.
    async fn ask(
        &self,
        which: Which,
        params: &[Param<'_>],
        write: bool,
    ) -> Result<Option<Row>, TransportError> {
        let end = Instant::now() + self.settings.timeout;
        let mut tries = 0;
        loop {
            let session = match timeout_at(end, self.session()).await {
                Ok(session) => session?,
                Err(_) => return Err(TransportError::unavailable("no connection in time")),
            };
            let told = match session.query(which, params, write).await {
                Ok(row) => return Ok(row),
                Err(told) => told,
            };
            if told.broken {
                session.kill();
            }
            if !told.again || Instant::now() >= end {
                return Err(told.error);
            }
            sleep(session::pause(tries)).await;
            tries += 1;
        }
    }

    async fn delete(&self, which: Which, params: &[Param<'_>]) -> Result<u64, TransportError> {
        let row = self.ask(which, params, true).await?;
        let count: i64 = row.map_or(Ok(0), |row| column(&row, 0))?;
        Ok(u64::try_from(count).unwrap_or_default())
    }
}

#[async_trait]
impl Transport for Postgres {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        let row = self.inner.ask(Which::Load, &[&key.as_str()], false).await?;
        row.map(|row| register(&row, 0)).transpose()
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let Inner { settings, capabilities, .. } = &*self.inner;
        let Write { value, wake, idle } = new;
        if value.len() > capabilities.largest_value {
            return Err(TransportError::unsupported("a value of more than 64 KiB"));
        }
        let (channel, whole) = listener::channel(&settings.table, wake, &value);
        let (key, value) = (key.as_str(), &*value);
        let Some(expected) = expected else {
            let params: [Param<'_>; 5] = [&key, &value, &idle, &channel, &whole];
            let Some(row) = self.inner.ask(Which::Create, &params, true).await? else {
                let why = "the row without a name is missing in the table: call create_schema()";
                return Err(TransportError::unsupported(why));
            };
            return match column(&row, 0)? {
                true => Ok(Exchange::Swapped(version(column(&row, 1)?)?)),
                false => Ok(Exchange::Mismatch(Some(register(&row, 1)?))),
            };
        };
        // Below 2^52.
        let expected = expected.get() as i64;
        let params: [Param<'_>; 6] = [&key, &expected, &value, &idle, &channel, &whole];
        let Some(row) = self.inner.ask(Which::Update, &params, true).await? else {
            return Ok(Exchange::Mismatch(None));
        };
        match column(&row, 0)? {
            Some(written) => Ok(Exchange::Swapped(version(written)?)),
            None => Ok(Exchange::Mismatch(Some(register(&row, 1)?))),
        }
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let Inner { settings, changes, .. } = &*self.inner;
        if settings.pooled {
            // Nothing is heard through a pooler.
            return Ok(stream::empty().boxed());
        }
        let listener = changes.get(|| Listener::connect(settings.clone())).await;
        listener.map_err(|failure| failure.call)?.watch(key, node).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities.clone()
    }
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
