//! The connection for requests; and how a connection is opened when it is needed.

use super::builder::{PostgresConfig, PostgresTls, Replicas};
use super::sql::{self, PostgresFailure, SYNC, SqlStatement, StatementFailure};
use crate::Mutex;
use crate::cluster::engines::connect::PendingConnection;
use crate::cluster::engines::credentials::Credentials;
use crate::cluster::engines::options::check_plaintext;
use crate::cluster::{ConnectError, TransportError};
use futures_util::FutureExt;
use futures_util::future::try_join5;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Connection, Row, SimpleQueryMessage, Socket};

/// A connection that may have ended.
pub(super) trait CheckAlive: Send + Sync + 'static {
    fn is_alive(&self) -> bool;
}

type PostgresConnectResult<S> = Result<Arc<S>, PostgresFailure>;

/// One connection, opened when it is asked for, and again when it has ended.
pub(super) struct Reconnecting<S>(Mutex<Option<PendingConnection<PostgresConnectResult<S>>>>);

impl<S: CheckAlive> Reconnecting<S> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The connection. If there is none that is alive, `connect` opens one, on the runtime `on`.
    ///
    /// # Errors
    ///
    /// [`PostgresFailure`] of this attempt.
    pub(super) async fn get<F>(
        &self,
        on: &Handle,
        connect: impl Fn() -> F,
    ) -> PostgresConnectResult<S>
    where
        F: Future<Output = PostgresConnectResult<S>> + Send + 'static,
    {
        let ended = || Err(PostgresFailure::unreachable("the server", "the runtime has ended"));
        let mut result = self.pending(on, &connect).result().await.unwrap_or_else(ended);
        if result.as_ref().is_ok_and(|session| !session.is_alive()) {
            // An attempt that ended while nobody waited, and whose connection has ended since.
            result = self.pending(on, &connect).result().await.unwrap_or_else(ended);
        }
        result
    }

    /// Forgets the connection, which ends when nobody uses it any more.
    pub(super) fn forget(&self) {
        let dead = self.0.lock().take();
        drop(dead);
    }

    /// The last attempt if it is of use, otherwise a new one.
    fn pending<F>(
        &self,
        on: &Handle,
        connect: impl Fn() -> F,
    ) -> PendingConnection<PostgresConnectResult<S>>
    where
        F: Future<Output = PostgresConnectResult<S>> + Send + 'static,
    {
        let mut last = self.0.lock();
        let is_good = |result: &PostgresConnectResult<S>| {
            result.as_ref().is_ok_and(|session| session.is_alive())
        };
        if let Some(pending) = last.as_ref().filter(|pending| pending.is_of_use(is_good)) {
            return pending.clone();
        }
        let pending = PendingConnection::begin(on, connect());
        let dead = last.replace(pending.clone());
        // Dropped after the lock is released, since that wakes the watches of the dead connection.
        drop(last);
        drop(dead);
        pending
    }
}

/// The oldest version of PostgreSQL that has what the statements need.
const OLDEST: u32 = 120_000;

/// The socket of a connection, with everything that is read from it.
pub(super) type PostgresConnection =
    Connection<Socket, <PostgresTls as MakeTlsConnect<Socket>>::Stream>;
pub(super) type Param<'a> = &'a (dyn ToSql + Sync);

/// Opens a connection to the first server that is of use, with the present credentials and files of TLS. It makes
/// progress only while the second part is polled.
///
/// # Errors
///
/// [`PostgresFailure`]; it takes `connect_timeout` at most.
pub(super) async fn open(
    config: &PostgresConfig,
) -> Result<(Client, PostgresConnection), PostgresFailure> {
    let end = Instant::now() + config.connect_timeout;
    let (tls, note) = config.tls.current(config.connect_timeout / 2).await;
    let tls = config.tls_with(&tls);
    let attempt = |credentials| open_with(config, end, tls.clone(), credentials);
    let is_refused = |failure: &PostgresFailure| {
        matches!(failure.connect, ConnectError::Denied { .. }) && Instant::now() < end
    };
    config.login.log_in(end, is_refused, attempt).await.map_err(|failure| {
        failure.map(|error| {
            let error = config.login.explain(error);
            match &note {
                Some(note) => error.with_note(note),
                None => error,
            }
        })
    })
}

async fn open_with(
    config: &PostgresConfig,
    end: Instant,
    tls: PostgresTls,
    credentials: Credentials,
) -> Result<(Client, PostgresConnection), PostgresFailure> {
    let client_config = config.client_with(credentials);
    let (targets, mut failures) = targets(config, end).await;
    let (count, mut unencrypted) = (targets.len(), None);
    for (tried, (host, address, port)) in targets.into_iter().enumerate() {
        // Each has its part of the time that is left, so that a silent one leaves some to those behind it.
        let left = u32::try_from(count - tried).unwrap_or(u32::MAX);
        let limit = end.saturating_duration_since(Instant::now()) / left;
        let mut client = client_config.clone();
        client.host(host).port(port);
        if let Some(address) = address {
            if config.guards_password
                && let Err(error) = check_plaintext(address, &config.server, "sslmode=verify-full")
            {
                // Another address may be one of this machine.
                unencrypted = Some(error);
                continue;
            }
            client.hostaddr(address);
        }
        if count > 1 {
            client.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let failure = match timeout(limit, client.connect(tls.clone())).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => PostgresFailure::of_connecting(&config.server, &error),
            Err(_) => {
                PostgresFailure::unreachable(&config.server, format!("no answer in {limit:?}"))
            }
        };
        let ConnectError::Unreachable { cause, .. } = &failure.connect else {
            // It answers, and so would the others.
            return Err(failure);
        };
        let name = address.map_or_else(|| host.to_owned(), |address| address.to_string());
        failures.push((format!("{name}:{port}"), cause.to_string()));
    }
    if let Some(error) = unencrypted {
        return Err(error.into());
    }
    let why = match &failures[..] {
        [(_, why)] => why.clone(),
        all => all.iter().map(|(at, why)| format!("{at}: {why}")).collect::<Vec<_>>().join("; "),
    };
    Err(PostgresFailure::unreachable(&config.server, why))
}

/// A server, one of its addresses unless it is a file, and its port.
type Target<'a> = (&'a str, Option<IpAddr>, u16);

/// Every address of every server, in order; and the servers that have none, with the reason.
async fn targets(
    config: &PostgresConfig,
    end: Instant,
) -> (Vec<Target<'_>>, Vec<(String, String)>) {
    let (mut targets, mut failures) = (vec![], vec![]);
    for (host, port) in &config.hosts {
        if host.starts_with('/') {
            targets.push((&**host, None, *port));
            continue;
        }
        // A name server that is silent leaves time to connect to the others.
        let limit = end.saturating_duration_since(Instant::now()) / 2;
        let why = match timeout(limit, lookup_host((&**host, *port))).await {
            Ok(Ok(found)) => {
                let before = targets.len();
                targets.extend(found.map(|found| (&**host, Some(found.ip()), *port)));
                if targets.len() > before {
                    continue;
                }
                "it has no address".to_owned()
            }
            Ok(Err(why)) => why.to_string(),
            Err(_) => format!("no address in {limit:?}"),
        };
        failures.push((format!("{host}:{port}"), why));
    }
    (targets, failures)
}

/// What the server said when a connection was set up.
pub(super) struct ServerFacts {
    /// It can lose writes that it has acknowledged.
    pub(super) is_lossy: bool,
    /// It lets this user notify.
    pub(super) can_notify: bool,
    /// Since when it runs: two connections with the same are connections to the same server.
    pub(super) started: String,
}

/// Sets the server's side of a connection up, and checks the server.
///
/// # Errors
///
/// [`PostgresFailure`] if the connection is of no use.
pub(super) async fn set_up(
    client: &Client,
    config: &PostgresConfig,
) -> Result<ServerFacts, PostgresFailure> {
    let server = &config.server;
    let must_be_sync = config.replicas == Some(Replicas::Sync);
    let own = (!config.pooled).then_some(config.limits);
    let text = sql::setup(own, must_be_sync, &config.table);
    let response = match timeout(config.connect_timeout, client.simple_query(&text)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(PostgresFailure::of_connecting(server, &error)),
        Err(_) => return Err(PostgresFailure::unreachable(server, "it does not answer")),
    };
    let rows = response.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let column = |at| rows.and_then(|row| row.try_get(at).ok().flatten()).unwrap_or_default();
    let version: u32 = column(0).parse().unwrap_or_default();
    if version < OLDEST {
        let why = format!("PostgreSQL 12 or later is needed; its version is {version}");
        return Err(PostgresFailure::unsuitable(server, why));
    }
    if column(3) != "false" || column(4) != "off" {
        let why = "it is read-only: a replica, or default_transaction_read_only is on; use the \
                   address of the primary";
        return Err(PostgresFailure::unsuitable_for_now(server, why));
    }
    if must_be_sync && column(5) != "t" {
        let why = "the option replicas=sync is set, but synchronous_standby_names is empty, or \
                   synchronous_commit is not on or remote_apply";
        return Err(PostgresFailure::unsuitable_for_now(server, why));
    }
    // A crash ends all connections. So no client goes on with a table that was emptied and that it does not expect.
    if !column(8).is_empty() && (column(8) == "t") != config.unlogged {
        let why = sql::other_kind(&config.table, !config.unlogged);
        return Err(PostgresFailure::unsuitable(server, why));
    }
    let is_lossy = column(1) != "on" || column(2) == "off";
    Ok(ServerFacts { is_lossy, can_notify: column(6) == "t", started: column(7).to_owned() })
}

/// The connection for requests. Many requests may be in flight at a time.
pub(super) struct Session {
    client: Client,
    config: Arc<PostgresConfig>,
    task: AbortHandle,
    /// Closed when the connection has ended.
    ended: watch::Receiver<()>,
    pub(super) facts: ServerFacts,
    prepared: OnceCell<PreparedStatements>,
    state: Mutex<SessionState>,
}

#[derive(Default)]
struct SessionState {
    is_dead: bool,
    is_probed: bool,
}

/// The statements that are prepared on the server.
struct PreparedStatements {
    load: tokio_postgres::Statement,
    create: tokio_postgres::Statement,
    create_and_notify: tokio_postgres::Statement,
    update: tokio_postgres::Statement,
    update_and_notify: tokio_postgres::Statement,
}

/// The name of a statement.
#[derive(Clone, Copy)]
pub(super) enum StatementKind {
    Load,
    Create,
    CreateAndNotify,
    Update,
    UpdateAndNotify,
    CreateAll,
    CreateAllAndNotify,
    UpdateAll,
    UpdateAllAndNotify,
    DeleteIdle,
    Delete,
    List,
}

impl Session {
    /// # Errors
    ///
    /// [`PostgresFailure`].
    pub(super) async fn connect(config: Arc<PostgresConfig>) -> Result<Arc<Self>, PostgresFailure> {
        let (client, connection) = open(&config).await?;
        let (alive, ended) = watch::channel(());
        let drive = connection.map(move |_| drop(alive));
        let task = ConnectionTask(tokio::spawn(drive).abort_handle());
        let facts = set_up(&client, &config).await?;
        let task = task.keep();
        let (prepared, state) = (OnceCell::new(), Mutex::new(SessionState::default()));
        Ok(Arc::new(Self { client, config, task, ended, facts, prepared, state }))
    }

    /// Runs a statement, until `end`. `write`: the statement changes something.
    ///
    /// # Errors
    ///
    /// [`StatementFailure`].
    pub(super) async fn query(
        self: &Arc<Self>,
        which: StatementKind,
        params: &[Param<'_>],
        write: bool,
        end: Instant,
    ) -> Result<Vec<Row>, StatementFailure> {
        let PostgresConfig { timeout, limits, .. } = &*self.config;
        let probe = ProbeOnDrop(self, true);
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
        // Not every silence means that the connection is broken, since `end` may have been near. Then
        // the connection is probed.
        let is_broken = response.is_err() && silent_since.elapsed() >= limits.statement;
        if is_broken || response.is_ok() {
            probe.disarm();
        }
        match response {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => Err(StatementFailure::new(&error, indeterminate)),
            Err(_) => {
                let why = format!("no answer in {timeout:?}");
                let error = match indeterminate {
                    true => TransportError::indeterminate(why),
                    false => TransportError::unavailable(why),
                };
                Err(StatementFailure { is_broken, ..error.into() })
            }
        }
    }

    /// The prepared statements, if this one is to be one of them.
    fn known(
        &self,
        which: StatementKind,
    ) -> Option<impl Future<Output = Result<&PreparedStatements, tokio_postgres::Error>>> {
        let is_usual = matches!(
            which,
            StatementKind::Load
                | StatementKind::Create
                | StatementKind::CreateAndNotify
                | StatementKind::Update
                | StatementKind::UpdateAndNotify
        );
        (!self.config.pooled && is_usual).then(|| self.prepared.get_or_try_init(|| self.prepare()))
    }

    async fn prepare(&self) -> Result<PreparedStatements, tokio_postgres::Error> {
        let prepare = async |which| {
            let SqlStatement { text, types } = self.text(which);
            self.client.prepare_typed(text, types).await
        };
        let (load, create, create_and_notify, update, update_and_notify) = try_join5(
            prepare(StatementKind::Load),
            prepare(StatementKind::Create),
            prepare(StatementKind::CreateAndNotify),
            prepare(StatementKind::Update),
            prepare(StatementKind::UpdateAndNotify),
        )
        .await?;
        Ok(PreparedStatements { load, create, create_and_notify, update, update_and_notify })
    }

    fn text(&self, which: StatementKind) -> &SqlStatement {
        let all = &self.config.statements;
        match which {
            StatementKind::Load => &all.load,
            StatementKind::Create => &all.create,
            StatementKind::CreateAndNotify => &all.create_and_notify,
            StatementKind::Update => &all.update,
            StatementKind::UpdateAndNotify => &all.update_and_notify,
            StatementKind::CreateAll => &all.create_all,
            StatementKind::CreateAllAndNotify => &all.create_all_and_notify,
            StatementKind::UpdateAll => &all.update_all,
            StatementKind::UpdateAllAndNotify => &all.update_all_and_notify,
            StatementKind::DeleteIdle => &all.delete_idle,
            StatementKind::Delete => &all.delete,
            StatementKind::List => &all.list,
        }
    }

    fn typed<'a>(&self, which: StatementKind, params: &[Param<'a>]) -> Vec<(Param<'a>, Type)> {
        params.iter().copied().zip(self.text(which).types.iter().cloned()).collect()
    }

    /// Whether each column of the query `text` is true. `None`: this user may not read it.
    ///
    /// # Errors
    ///
    /// [`PostgresFailure`] if it does not answer.
    pub(super) async fn query_bools(
        &self,
        text: &str,
    ) -> Result<Option<Vec<bool>>, PostgresFailure> {
        let config = &self.config;
        let response = match timeout(config.timeout, self.client.simple_query(text)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.code().is_some_and(|code| code.code() == "42501") => {
                return Ok(None);
            }
            Ok(Err(error)) => return Err(PostgresFailure::of_connecting(&config.server, &error)),
            Err(_) => {
                self.kill();
                return Err(PostgresFailure::unreachable(&config.server, "it does not answer"));
            }
        };
        Ok(response.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at) == Some("t")).collect())
            }
            _ => None,
        }))
    }

    /// Whether a failover may lead to a replica that lacks acknowledged writes.
    ///
    /// # Errors
    ///
    /// [`PostgresFailure`] if the server does not answer.
    pub(super) async fn replicas_may_lag(&self) -> Result<bool, PostgresFailure> {
        match self.config.replicas {
            // `Sync` is checked by every new connection.
            Some(Replicas::None | Replicas::Sync) => return Ok(false),
            Some(Replicas::Async) => return Ok(true),
            None => {}
        }
        // Whether there are replicas now, and whether they have every acknowledged write.
        let seen = format!("SELECT EXISTS (SELECT FROM pg_stat_replication), {SYNC}");
        let seen = self.query_bools(&seen).await?;
        // Nothing is promised if this user may not read it.
        let (has_replicas, is_sync) = seen.map_or((true, false), |seen| (seen[0], seen[1]));
        Ok(has_replicas && !is_sync)
    }

    /// Runs several statements without parameters as one.
    ///
    /// # Errors
    ///
    /// [`StatementFailure`].
    pub(super) async fn batch(&self, text: &str) -> Result<(), StatementFailure> {
        match timeout(self.config.timeout, self.client.batch_execute(text)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(StatementFailure::new(&error, true)),
            Err(_) => {
                let error = TransportError::indeterminate("no answer in time");
                Err(StatementFailure { is_broken: true, ..error.into() })
            }
        }
    }

    /// Waits until the connection has ended. It does not keep the connection.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut ended = self.ended.clone();
        async move { while ended.changed().await.is_ok() {} }
    }

    /// Ends the connection. All requests in flight fail.
    pub(super) fn kill(&self) {
        self.state.lock().is_dead = true;
        self.task.abort();
    }

    /// Ends the connection unless the server answers in time. This runs after a caller has stopped
    /// waiting for an answer, since no request may find out that the connection is dead.
    fn probe(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        if std::mem::replace(&mut self.state.lock().is_probed, true) {
            return;
        }
        let session = self.clone();
        runtime.spawn(async move {
            let response = timeout(session.config.timeout, session.client.batch_execute("")).await;
            session.state.lock().is_probed = false;
            if !matches!(response, Ok(Ok(()))) {
                session.kill();
            }
        });
    }
}

impl PreparedStatements {
    fn of(&self, which: StatementKind) -> &tokio_postgres::Statement {
        match which {
            StatementKind::Create => &self.create,
            StatementKind::CreateAndNotify => &self.create_and_notify,
            StatementKind::Update => &self.update,
            StatementKind::UpdateAndNotify => &self.update_and_notify,
            _ => &self.load,
        }
    }
}

/// Probes the connection when it is dropped, unless it was disarmed: when a caller stops waiting for an
/// answer.
struct ProbeOnDrop<'a>(&'a Arc<Session>, bool);

impl ProbeOnDrop<'_> {
    fn disarm(mut self) {
        self.1 = false;
    }
}

impl Drop for ProbeOnDrop<'_> {
    fn drop(&mut self) {
        if self.1 {
            self.0.probe();
        }
    }
}

/// The task that drives a connection. Dropping this ends the task, unless it is kept.
pub(super) struct ConnectionTask(pub(super) AbortHandle);

impl ConnectionTask {
    pub(super) fn keep(self) -> AbortHandle {
        let task = self.0.clone();
        std::mem::forget(self);
        task
    }
}

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl CheckAlive for Session {
    fn is_alive(&self) -> bool {
        !self.state.lock().is_dead && !self.client.is_closed()
    }
}

/// How long to wait before a statement is sent again, after this many attempts.
pub(super) fn backoff(tries: u32) -> Duration {
    Duration::from_micros(fastrand::u64(100..=1000 << tries.min(5)))
}

#[cfg(test)]
mod tests {
    use super::{CheckAlive, PostgresConnectResult, PostgresFailure, Reconnecting};
    use crate::primitive::{AtomicBool, Ordering};
    use futures_util::FutureExt;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::{Arc, Mutex, mpsc};
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread;
    use std::time::Duration;
    use tokio::runtime::{Builder, Handle};
    use tokio::sync::oneshot;
    use tokio::task::{coop::consume_budget, yield_now};

    struct Fake;

    impl CheckAlive for Fake {
        fn is_alive(&self) -> bool {
            true
        }
    }

    async fn works() -> PostgresConnectResult<Fake> {
        Ok(Arc::new(Fake))
    }

    #[tokio::test]
    async fn a_caller_without_budget_does_not_get_the_failure_of_an_old_attempt() {
        let (link, has_failed) = (Reconnecting::new(), Arc::new(AtomicBool::new(false)));
        let fails = || {
            let has_failed = has_failed.clone();
            async move {
                has_failed.store(true, Ordering::Relaxed);
                Err(PostgresFailure::unreachable("a server", "long ago"))
            }
        };
        // Nobody waits for it.
        assert!(link.get(&Handle::current(), fails).now_or_never().is_none());
        while !has_failed.load(Ordering::Relaxed) {
            yield_now().await;
        }
        let on = Handle::current();
        let mut asked = pin!(link.get(&on, works));
        let at_once = poll_fn(|cx| {
            // After this nothing of tokio is ready in this poll.
            while pin!(consume_budget()).poll(cx).is_ready() {}
            Poll::Ready(asked.as_mut().poll(cx))
        });
        let got = match at_once.await {
            Poll::Ready(got) => got,
            Poll::Pending => asked.await,
        };
        assert!(got.is_ok(), "{:?}", got.err());
    }

    /// A waker that asks for the connection when it is woken.
    struct ReentrantWaker(Arc<Reconnecting<Fake>>, Mutex<Option<oneshot::Sender<bool>>>);

    impl Wake for ReentrantWaker {
        fn wake(self: Arc<Self>) {
            let got = self.0.get(&Handle::current(), works).now_or_never();
            let tell = self.1.lock().unwrap().take().unwrap();
            tell.send(got.is_some_and(|got| got.is_ok())).unwrap();
        }
    }

    #[test]
    fn a_waker_may_ask_for_the_connection() {
        let (tell, told) = mpsc::channel();
        // A thread that may stay behind.
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().build().unwrap();
            tell.send(runtime.block_on(woken())).unwrap();
        });
        let got = told.recv_timeout(Duration::from_secs(10)).expect("it is not stuck");
        assert!(got, "the connection is there");
    }

    async fn woken() -> bool {
        let (open, gate) = oneshot::channel::<()>();
        let gate = Mutex::new(Some(gate));
        let connect = || {
            let gate = gate.lock().unwrap().take().unwrap();
            async move {
                gate.await.unwrap();
                works().await
            }
        };
        let link = Arc::new(Reconnecting::new());
        let (tell, told) = oneshot::channel();
        let waker = Waker::from(Arc::new(ReentrantWaker(link.clone(), Mutex::new(Some(tell)))));
        let on = Handle::current();
        let mut asked = pin!(link.get(&on, connect));
        assert!(asked.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        open.send(()).unwrap();
        told.await.unwrap()
    }
}
