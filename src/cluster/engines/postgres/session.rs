//! The connection for requests.

use super::address::{Replicas, Settings};
use super::failure::{Failure, Told, told};
use super::link::Alive;
use super::sql::{self, Statement};
use crate::Mutex;
use crate::cluster::TransportError;
use futures_util::FutureExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Connection, Row, SimpleQueryMessage, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The oldest server that has all that the statements need.
const OLDEST: u32 = 120_000;

pub(super) type Wire = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;
pub(super) type Param<'a> = &'a (dyn ToSql + Sync);

/// Opens a connection. Nothing moves on it unless the second part is polled.
///
/// # Errors
///
/// [`Failure`]; it takes `connect_timeout` at most.
pub(super) async fn open(settings: &Settings) -> Result<(Client, Wire), Failure> {
    let limit = settings.connect_timeout;
    let connect = settings.config.connect(settings.tls.clone());
    match timeout(limit, connect).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(error)) => Err(Failure::connecting(&settings.server, &error)),
        Err(_) => {
            let why = format!("no answer in {limit:?}");
            Err(Failure::unreachable(&settings.server, why))
        }
    }
}

/// Prepares the server's side of a connection, and tells whether the server may forget what it has
/// acknowledged.
///
/// # Errors
///
/// [`Failure`] if it is of no use.
pub(super) async fn set_up(client: &Client, settings: &Settings) -> Result<bool, Failure> {
    let server = &settings.server;
    let must_be_sync = settings.replicas == Some(Replicas::Sync);
    let text = sql::setup((!settings.pooled).then_some(settings.limits), must_be_sync);
    let response = match timeout(settings.connect_timeout, client.simple_query(&text)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(Failure::connecting(server, &error)),
        Err(_) => return Err(Failure::unreachable(server, "it does not answer")),
    };
    let rows = response.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let column = |at| rows.and_then(|row| row.try_get(at).ok().flatten()).unwrap_or_default();
    let version: u32 = column(0).parse().unwrap_or_default();
    if version < OLDEST {
        let why = format!("PostgreSQL 12 or later is needed; its version is {version}");
        return Err(Failure::unsuitable(server, why));
    }
    if column(3) != "false" || column(4) != "off" {
        let why = "it is read-only: a replica, or default_transaction_read_only is on; use the \
                   address of the primary";
        return Err(Failure::passing(server, why));
    }
    if must_be_sync && column(5) != "t" {
        let why = "the address says replicas=sync, but synchronous_standby_names is empty, or \
                   synchronous_commit is not on or remote_apply";
        return Err(Failure::passing(server, why));
    }
    Ok(column(1) != "on" || column(2) == "off")
}

/// The connection for requests. Many may be in flight at a time.
pub(super) struct Session {
    client: Client,
    settings: Arc<Settings>,
    wire: AbortHandle,
    pub(super) is_lossy: bool,
    prepared: OnceCell<Prepared>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_dead: bool,
    is_probed: bool,
}

/// The statements that the server knows by name.
struct Prepared {
    load: tokio_postgres::Statement,
    create: tokio_postgres::Statement,
    update: tokio_postgres::Statement,
}

/// Which statement.
#[derive(Clone, Copy)]
pub(super) enum Which {
    Load,
    Create,
    Update,
    DeleteIdle,
    Delete,
}

impl Session {
    /// # Errors
    ///
    /// [`Failure`].
    pub(super) async fn connect(settings: Arc<Settings>) -> Result<Arc<Self>, Failure> {
        let (client, wire) = open(&settings).await?;
        let wire = Wired(tokio::spawn(wire.map(drop)).abort_handle());
        let is_lossy = set_up(&client, &settings).await?;
        let wire = wire.keep();
        let (prepared, state) = (OnceCell::new(), Mutex::new(State::default()));
        Ok(Arc::new(Self { client, settings, wire, is_lossy, prepared, state }))
    }

    /// Asks, until `end`.
    ///
    /// # Errors
    ///
    /// What went wrong. `write`: the statement changes something.
    pub(super) async fn query(
        self: &Arc<Self>,
        which: Which,
        params: &[Param<'_>],
        write: bool,
        end: Instant,
    ) -> Result<Option<Row>, Told> {
        let Settings { timeout, limits, .. } = &*self.settings;
        let awaited = Awaited(self, true);
        let (mut silent_since, mut indeterminate) = (Instant::now(), false);
        let response = timeout_at(end, async {
            let Some(known) = self.known(which) else {
                indeterminate = write;
                let params = self.typed(which, params);
                return self.client.query_typed(&self.text(which).text, &params).await;
            };
            let prepared = known.await?.of(which);
            (silent_since, indeterminate) = (Instant::now(), write);
            self.client.query(prepared, params).await
        });
        let response = response.await;
        // Not every silence is death: what was left of the time may have been short. Then it is probed.
        let broken = response.is_err() && silent_since.elapsed() >= limits.statement;
        if broken || response.is_ok() {
            awaited.ended();
        }
        match response {
            Ok(Ok(rows)) => Ok(rows.into_iter().next()),
            Ok(Err(error)) => Err(told(&error, indeterminate)),
            Err(_) => {
                let why = format!("no answer in {timeout:?}");
                let error = match indeterminate {
                    true => TransportError::indeterminate(why),
                    false => TransportError::unavailable(why),
                };
                Err(Told { error, again: false, broken })
            }
        }
    }

    /// The statements that are known by name, if this one is to be among them.
    fn known(
        &self,
        which: Which,
    ) -> Option<impl Future<Output = Result<&Prepared, tokio_postgres::Error>>> {
        let by_name =
            !self.settings.pooled && matches!(which, Which::Load | Which::Create | Which::Update);
        by_name.then(|| self.prepared.get_or_try_init(|| self.prepare()))
    }

    async fn prepare(&self) -> Result<Prepared, tokio_postgres::Error> {
        let prepare = async |which| {
            let Statement { text, types } = self.text(which);
            self.client.prepare_typed(text, types).await
        };
        Ok(Prepared {
            load: prepare(Which::Load).await?,
            create: prepare(Which::Create).await?,
            update: prepare(Which::Update).await?,
        })
    }

    fn text(&self, which: Which) -> &Statement {
        let all = &self.settings.statements;
        match which {
            Which::Load => &all.load,
            Which::Create => &all.create,
            Which::Update => &all.update,
            Which::DeleteIdle => &all.delete_idle,
            Which::Delete => &all.delete,
        }
    }

    fn typed<'a>(&self, which: Which, params: &[Param<'a>]) -> Vec<(Param<'a>, Type)> {
        params.iter().copied().zip(self.text(which).types.iter().cloned()).collect()
    }

    /// Whether the server says yes to each column of `text`. `None`: it does not let us see.
    ///
    /// # Errors
    ///
    /// [`Failure`] if it does not answer.
    pub(super) async fn yes(&self, text: &str) -> Result<Option<Vec<bool>>, Failure> {
        let settings = &self.settings;
        let response = match timeout(settings.timeout, self.client.simple_query(text)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.code().is_some_and(|code| code.code() == "42501") => {
                return Ok(None);
            }
            Ok(Err(error)) => return Err(Failure::connecting(&settings.server, &error)),
            Err(_) => {
                self.kill();
                return Err(Failure::unreachable(&settings.server, "it does not answer"));
            }
        };
        Ok(response.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at) == Some("t")).collect())
            }
            _ => None,
        }))
    }

    /// Several statements without parameters, as one.
    ///
    /// # Errors
    ///
    /// What went wrong.
    pub(super) async fn batch(&self, text: &str) -> Result<(), Told> {
        match timeout(self.settings.timeout, self.client.batch_execute(text)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(told(&error, true)),
            Err(_) => {
                let error = TransportError::indeterminate("no answer in time");
                Err(Told { error, again: false, broken: true })
            }
        }
    }

    /// Ends it: whatever is in flight fails.
    pub(super) fn kill(&self) {
        self.state.lock().is_dead = true;
        self.wire.abort();
    }

    /// Somebody has stopped to wait for an answer. If there is still none after a while the
    /// connection is dead, and nobody else would find that out.
    fn probe(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        if std::mem::replace(&mut self.state.lock().is_probed, true) {
            return;
        }
        let session = self.clone();
        runtime.spawn(async move {
            let response =
                timeout(session.settings.timeout, session.client.batch_execute("")).await;
            session.state.lock().is_probed = false;
            if !matches!(response, Ok(Ok(()))) {
                session.kill();
            }
        });
    }
}

impl Prepared {
    fn of(&self, which: Which) -> &tokio_postgres::Statement {
        match which {
            Which::Create => &self.create,
            Which::Update => &self.update,
            _ => &self.load,
        }
    }
}

/// An answer is awaited, unless the waiting is given up.
struct Awaited<'a>(&'a Arc<Session>, bool);

impl Awaited<'_> {
    fn ended(mut self) {
        self.1 = false;
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if self.1 {
            self.0.probe();
        }
    }
}

/// Ends the connection's task, unless it is kept.
pub(super) struct Wired(pub(super) AbortHandle);

impl Wired {
    pub(super) fn keep(self) -> AbortHandle {
        let wire = self.0.clone();
        std::mem::forget(self);
        wire
    }
}

impl Drop for Wired {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Alive for Session {
    fn is_alive(&self) -> bool {
        !self.state.lock().is_dead && !self.client.is_closed()
    }
}

/// What to wait before a statement is tried again.
pub(super) fn pause(tries: u32) -> Duration {
    Duration::from_micros(fastrand::u64(100..=1000 << tries.min(5)))
}
