//! The connections: opened when they are needed, checked, and replaced when the server is silent or the
//! connection is lost. All requests share one, and all watches another: the server closes the connection of a
//! subscriber to whom others send more than it takes, and a lock must not be lost by that.

use super::builder::{RedisAttempt, RedisConfig, ReplicaWait};
use super::commands::{self, LuaScript, RedisConnectError, RedisErrorKind, ScriptCall};
use super::socket::{
    RedisAddress, SocketPlace, first_success, open_client, server_login, with_hint,
};
use super::subscriptions::Subscriptions;
use crate::Mutex;
use crate::cluster::engines::connect::{ConnectionRuntime, PendingConnection};
use crate::cluster::engines::prefix;
use crate::cluster::{ConnectError, TransportError};
use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, PushInfo, RedisError, Value, cmd, from_redis_value, pipe,
};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

/// How many redirections within a cluster one request or one attempt to connect follows.
const REDIRECTIONS: usize = 3;

/// A connection on which something was asked, and on which nothing was heard for this long, is given
/// up.
const SILENCE: Duration = Duration::from_secs(2);

/// How long a request that a server has put off is repeated, because its slot moves. The node repeats it then.
const PUT_OFF: Duration = Duration::from_secs(1);

/// How long it waits in between.
const PAUSE: Duration = Duration::from_millis(10);

/// The current connections to the server, and how to open the next ones.
pub(super) struct RedisConnector {
    config: RedisConfig,
    runtime: ConnectionRuntime,
    for_requests: Mutex<ConnectorState>,
    for_watches: Mutex<ConnectorState>,
    /// To the server to which the slot moves.
    for_moving: Mutex<ConnectorState>,
}

#[derive(Default)]
struct ConnectorState {
    /// The server, if it is not that of the configuration.
    server: Option<RedisAddress>,
    /// The last connection. It may be dead.
    last: Option<Arc<RedisConnection>>,
    connecting: Option<PendingConnection<RedisConnectResult>>,
}

type RedisConnectResult = Result<Arc<RedisConnection>, RedisConnectError>;

impl RedisConnector {
    pub(super) fn new(config: RedisConfig, runtime: ConnectionRuntime) -> Self {
        let state = Mutex::default;
        Self { config, runtime, for_requests: state(), for_watches: state(), for_moving: state() }
    }

    pub(super) fn config(&self) -> &RedisConfig {
        &self.config
    }

    /// The connection for requests.
    pub(super) async fn connection(&self) -> RedisConnectResult {
        self.connection_of(&self.for_requests).await
    }

    /// The connection for watches.
    pub(super) async fn watching(&self) -> RedisConnectResult {
        self.connection_of(&self.for_watches).await
    }

    /// The connection to the server to which the slot moves.
    async fn moving_to(&self, server: RedisAddress) -> RedisConnectResult {
        let lead = |state: &mut ConnectorState| {
            let is_other = state.server.as_ref() != Some(&server);
            let other = ConnectorState { server: Some(server), ..ConnectorState::default() };
            is_other.then(|| std::mem::replace(state, other))
        };
        let before = lead(&mut self.for_moving.lock());
        drop(before);
        self.connection_of(&self.for_moving).await
    }

    /// A connection that works as far as is known: the present one, or else a new one. All callers
    /// wait for the same attempt.
    async fn connection_of(&self, state: &Mutex<ConnectorState>) -> RedisConnectResult {
        let last = state.lock().last.clone();
        if let Some(last) = last {
            if last.is_usable() {
                return Ok(last);
            }
            self.give_up(state, &last);
        }
        let pending = self.pending(state);
        let result = pending.result().await.unwrap_or_else(|| {
            let cause = "the runtime that was connecting has ended".into();
            Err(ConnectError::Unreachable { server: self.config.server(), cause }.into())
        });
        let mut state = state.lock();
        if state.connecting.take_if(|now| now.is(&pending)).is_some() {
            let last = std::mem::replace(&mut state.last, result.clone().ok());
            drop(state);
            drop(last);
        }
        result
    }

    /// The attempt that is in flight, or a new one. It goes on when its caller stops waiting.
    fn pending(&self, state: &Mutex<ConnectorState>) -> PendingConnection<RedisConnectResult> {
        let mut state = state.lock();
        // An attempt that ended while nobody waited may have led to a connection that is dead by now.
        let is_good =
            |result: &RedisConnectResult| result.as_ref().is_ok_and(|made| made.is_usable());
        if let Some(pending) = state.connecting.as_ref().filter(|now| now.is_of_use(is_good)) {
            return pending.clone();
        }
        let mut config = RedisConfig { attempt: RedisAttempt::default(), ..self.config.clone() };
        let runtime = self.runtime.handle();
        let pending = match &state.server {
            Some(server) => {
                config.address = server.clone();
                PendingConnection::begin(runtime, RedisConnection::open_unchecked(config))
            }
            None => PendingConnection::begin(runtime, RedisConnection::open(config)),
        };
        let dead = state.connecting.replace(pending.clone());
        // Dropped after the lock is released, since that wakes the watches of the dead connection.
        drop(state);
        drop(dead);
        pending
    }

    /// Runs a script that only reads.
    pub(super) async fn read(&self, script: &ScriptCall<'_>) -> Result<Value, TransportError> {
        self.run(script).await.map_err(|failure| failure.into_transport_error(false))
    }

    /// Runs a script that may write.
    pub(super) async fn write(&self, script: &ScriptCall<'_>) -> Result<Value, TransportError> {
        self.run(script).await.map_err(|failure| failure.into_transport_error(true))
    }

    /// Runs a script that only reads at the server of this connection, and at no other one.
    pub(super) async fn read_at(
        &self,
        connection: &Arc<RedisConnection>,
        script: &ScriptCall<'_>,
    ) -> Result<Value, TransportError> {
        let response = self.ask(connection, &script.with_text()).await;
        response.map_err(|failure| failure.into_transport_error(false))
    }

    async fn run(&self, script: &ScriptCall<'_>) -> Result<Value, RequestFailure> {
        let mut response = self.follow(&script.by_digest()).await;
        if response.is_error(|kind| matches!(kind, RedisErrorKind::NoScript)) {
            response = self.follow(&script.with_text()).await;
        }
        if response.is_error(|kind| matches!(kind, RedisErrorKind::Moving))
            && let Some(register) = script.register()
        {
            response = self.run_while_moving(script, register).await;
        }
        response
    }

    /// Sends `command` to the server that has the slot of the prefix.
    async fn follow(&self, command: &Cmd) -> Result<Value, RequestFailure> {
        let mut redirections = 0;
        loop {
            let response = self.ask(&self.connection().await?, command).await;
            if !response.is_error(|kind| matches!(kind, RedisErrorKind::Moved))
                || redirections == REDIRECTIONS
            {
                return response;
            }
            // A new connection finds out which server has the slot.
            redirections += 1;
        }
    }

    /// Runs a script whose slot is moving from the server that has it to another one. Each key is at one of
    /// the two, so the register alone decides to which of them the request is for.
    async fn run_while_moving(
        &self,
        script: &ScriptCall<'_>,
        register: &str,
    ) -> Result<Value, RequestFailure> {
        let end = Instant::now() + PUT_OFF;
        loop {
            let response = self.step_while_moving(script, register).await;
            let is_put_off =
                |kind: &_| matches!(kind, RedisErrorKind::Moving | RedisErrorKind::Moved);
            if !response.is_error(is_put_off) || Instant::now() >= end {
                return response;
            }
            sleep(PAUSE).await;
        }
    }

    async fn step_while_moving(
        &self,
        script: &ScriptCall<'_>,
        register: &str,
    ) -> Result<Value, RequestFailure> {
        let from = self.connection().await?;
        let response = self.ask(&from, &script.while_moving("", b"")).await;
        let Err(RequestFailure::Sent(error)) = &response else { return response };
        if matches!(commands::kind(error), RedisErrorKind::Moved) {
            // It has moved.
            return self.follow(&script.with_text()).await;
        }
        if error.code() != Some("ASK") {
            return response;
        }
        let Some(to) = commands::redirected(error, &from.host) else { return response };
        let to = self.moving_to(to).await?;
        let (mut name, mut floor) = (String::new(), vec![]);
        if script.needs_floor() {
            (name, floor) = match self.floor_while_moving(&from, &to, register).await {
                Ok(found) => found,
                Err(RequestFailure::Sent(error))
                    if matches!(
                        commands::kind(&error),
                        RedisErrorKind::Corrupt | RedisErrorKind::Denied
                    ) =>
                {
                    return Err(RequestFailure::Sent(error));
                }
                // Nothing was written.
                Err(_) => return response,
            };
        }
        let response = to.ask_for_lock(&script.while_moving(&name, &floor), true).await;
        if let Err(RequestFailure::Sent(error)) = &response
            && error.is_connection_dropped()
        {
            self.give_up(&self.for_moving, &to);
        }
        response
    }

    /// The name of the floor of a register that is not at `from`, from which its slot moves `to` another server; and
    /// the floor, if it is still there: it is no smaller than any version that the register had there.
    ///
    /// No floor is made while the slot moves. What is not at the one server has moved to the other one, or is nowhere.
    async fn floor_while_moving(
        &self,
        from: &RedisConnection,
        to: &RedisConnection,
        register: &str,
    ) -> Result<(String, Vec<u8>), RequestFailure> {
        let names = &self.config.names;
        let prefixes: Vec<&str> = prefix::of_key(names.key(register).unwrap_or_default()).collect();
        let mut name = names.floor();
        if !prefixes.is_empty() {
            let mut asked = cmd("HMGET");
            asked.arg(names.floors()).arg(&prefixes);
            let found = match from.ask(&asked).await {
                Err(error) if error.code() == Some("ASK") => to.ask_for_lock(&asked, true).await?,
                found => found.map_err(RequestFailure::Sent)?,
            };
            if let Some(longest) = commands::longest(&found) {
                name = names.floor_of(prefixes[longest]);
            }
        }
        match from.ask(cmd("GET").arg(&name)).await {
            Ok(Value::BulkString(floor)) => Ok((name, floor)),
            Err(error) if error.code() == Some("ASK") => Ok((name, vec![])),
            Ok(_) => {
                let why = (ErrorKind::UnexpectedReturnType, "the floor is no text");
                Err(RequestFailure::Sent(why.into()))
            }
            Err(error) => Err(RequestFailure::Sent(error)),
        }
    }

    /// Sends `command` over `connection`, which is for requests, and gives it up if it is of no use.
    async fn ask(
        &self,
        connection: &Arc<RedisConnection>,
        command: &Cmd,
    ) -> Result<Value, RequestFailure> {
        let response = connection.ask_for_lock(command, false).await;
        if let Err(RequestFailure::Sent(error)) = &response {
            let is_of_use = match commands::kind(error) {
                // The address may lead to the right server.
                RedisErrorKind::Moved | RedisErrorKind::NotInCharge => false,
                // Its task may not have ended yet. The next request must not be sent over it.
                _ => !error.is_connection_dropped(),
            };
            if !is_of_use {
                self.forget(connection);
            }
        }
        response
    }

    /// Gives `connection` up, which is for requests.
    fn forget(&self, connection: &Arc<RedisConnection>) {
        self.give_up(&self.for_requests, connection);
    }

    /// Gives a connection up; with that of the requests also that of the watches, since the next one may lead
    /// to another server, and a watch of this one would wait for what is published there.
    fn give_up(&self, state: &Mutex<ConnectorState>, connection: &Arc<RedisConnection>) {
        let last = state.lock().last.take_if(|last| Arc::ptr_eq(last, connection));
        connection.give_up();
        if last.is_some() && std::ptr::eq(state, &self.for_requests) {
            let watching = self.for_watches.lock().last.take();
            // Not under the lock: this wakes watches.
            watching.inspect(|watching| watching.give_up());
            let moving = std::mem::take(&mut *self.for_moving.lock());
            drop(moving);
        }
    }
}

/// Why there is no answer.
enum RequestFailure {
    /// There was no connection.
    NotSent(RedisConnectError),
    Sent(RedisError),
    /// There is one, which too few replicas have confirmed.
    Unconfirmed {
        response: Value,
        why: String,
    },
}

impl From<RedisConnectError> for RequestFailure {
    fn from(error: RedisConnectError) -> Self {
        Self::NotSent(error)
    }
}

/// Whether a response is an error of this kind.
trait IsError {
    fn is_error(&self, is_meant: impl FnOnce(&RedisErrorKind) -> bool) -> bool;
}

impl IsError for Result<Value, RequestFailure> {
    fn is_error(&self, is_meant: impl FnOnce(&RedisErrorKind) -> bool) -> bool {
        matches!(self, Err(RequestFailure::Sent(error)) if is_meant(&commands::kind(error)))
    }
}

impl RequestFailure {
    /// The error of a request that was to write (`writes`), or only to read.
    fn into_transport_error(self, writes: bool) -> TransportError {
        match self {
            Self::NotSent(error) => error.into(),
            Self::Sent(error) => commands::request_failed(error, writes),
            Self::Unconfirmed { response, why } => match writes && commands::has_written(&response)
            {
                true => TransportError::indeterminate(why),
                false => TransportError::unavailable(why),
            },
        }
    }
}

/// One connection. Its socket is closed with the last handle, or when it is given up.
pub(super) struct RedisConnection {
    client: MultiplexedConnection,
    /// The task that reads and writes.
    driver: AbortHandle,
    pub(super) subscriptions: Arc<Subscriptions>,
    silence: SilenceDetector,
    /// How long an answer may take.
    pub(super) timeout: Duration,
    /// The host of its server.
    host: String,
    wait: Option<ReplicaWait>,
}

impl RedisConnection {
    /// Connects to the server of `config`: the one to which its cluster redirects, or that the sentinels
    /// name.
    async fn open(config: RedisConfig) -> RedisConnectResult {
        within_limit(config, async |config| {
            let connection = match &config.sentinels {
                None => Self::open_primary(config).await?,
                Some(sentinels) => {
                    // A sentinel may not know of a failover yet: then the next one is asked.
                    first_success(sentinels.addresses.iter().map(|sentinel| async {
                        let mut config = config.clone();
                        config.address = sentinel.clone();
                        config.address = sentinels.primary(&config).await?;
                        Self::open_primary(&config).await
                    }))
                    .await?
                }
            };
            tokio::spawn(tend(Arc::downgrade(&connection)));
            Ok(connection)
        })
        .await
    }

    async fn open_primary(config: &RedisConfig) -> RedisConnectResult {
        logged_in(config, async |mut config| {
            let server = config.address.to_string();
            for _ in 0..=REDIRECTIONS {
                let open = |place| {
                    let config = &config;
                    async move {
                        let connection = Self::open_here(config, &place).await?;
                        let redirected = check(&connection, config).await?;
                        Ok((connection, redirected))
                    }
                };
                match first_success(places(&config).await?.into_iter().map(open)).await? {
                    (connection, None) => return Ok(connection),
                    (_, Some(redirected)) => config.address = redirected,
                }
            }
            let cause = "its cluster redirects from one server to the next".into();
            Err(ConnectError::Unreachable { server, cause }.into())
        })
        .await
    }

    /// Connects to the server of `config`, to which a slot moves.
    async fn open_unchecked(config: RedisConfig) -> RedisConnectResult {
        within_limit(config, async |config| {
            logged_in(config, async |config| {
                let config = &config;
                let open = |place| async move { Self::open_here(config, &place).await };
                first_success(places(config).await?.into_iter().map(open)).await
            })
            .await
        })
        .await
    }

    async fn open_here(config: &RedisConfig, place: &SocketPlace) -> RedisConnectResult {
        let subscriptions = Arc::new(Subscriptions::default());
        let receiver = subscriptions.clone();
        let options = AsyncConnectionConfig::new()
            .set_push_sender(move |push: PushInfo| {
                receiver.receive(push);
                Ok::<(), ()>(())
            })
            .set_response_timeout(Some(config.timeout));
        let server = config.address.to_string();
        let (client, driver) =
            open_client(config, place, &server_login(config), options, &server).await?;
        let end = EndOnDrop(subscriptions.clone());
        let driver = tokio::spawn(async move {
            let _end = end;
            driver.await;
        });
        let driver = driver.abort_handle();
        let silence = SilenceDetector::new(subscriptions.clone());
        let (timeout, wait) = (config.timeout, config.wait);
        let host = config.address.host().to_owned();
        Ok(Arc::new(Self { client, driver, subscriptions, silence, timeout, host, wait }))
    }

    /// Sends a command and waits for the answer.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, RedisError> {
        let mut client = self.client.clone();
        self.observed(command.query_async(&mut client)).await
    }

    /// Sends a command that is for the locks, and waits for the answer and for its replicas. `is_moving`: its
    /// key moves to this server, which has not got its slot yet.
    async fn ask_for_lock(&self, command: &Cmd, is_moving: bool) -> Result<Value, RequestFailure> {
        let mut client = self.client.clone();
        // All at once: each refers to the one before it on this connection.
        let mut all = pipe();
        if is_moving {
            all.cmd("ASKING");
        }
        all.add_command(command.clone());
        if let Some(wait) = self.wait {
            all.add_command(commands::wait(wait));
        }
        let number = all.len();
        let sent = self.observed(client.send_packed_commands(&all, 0, number));
        let mut responses = sent.await.map_err(RequestFailure::Sent)?;
        let confirmed = self.wait.zip(responses.pop_if(|_| self.wait.is_some()));
        let mut response = Value::Nil;
        for each in responses {
            response = each.extract_error().map_err(RequestFailure::Sent)?;
        }
        match confirmed.and_then(|(wait, confirmed)| commands::unconfirmed(wait, confirmed)) {
            Some(why) => Err(RequestFailure::Unconfirmed { response, why }),
            None => Ok(response),
        }
    }

    /// Subscribes to these channels.
    pub(super) async fn subscribe(&self, channels: &[Arc<str>]) -> Result<(), RedisError> {
        let mut client = self.client.clone();
        let channels: Vec<&str> = channels.iter().map(|channel| &**channel).collect();
        self.observed(client.subscribe(channels)).await
    }

    /// Ends the subscription to these channels.
    pub(super) async fn unsubscribe(&self, channels: &[Arc<str>]) -> Result<(), RedisError> {
        let mut client = self.client.clone();
        let channels: Vec<&str> = channels.iter().map(|channel| &**channel).collect();
        self.observed(client.unsubscribe(channels)).await
    }

    /// Waits for an answer, and tells the silence detector whether one came.
    async fn observed<A>(
        &self,
        call: impl Future<Output = Result<A, RedisError>>,
    ) -> Result<A, RedisError> {
        let pending = self.silence.begin();
        let result = call.await;
        // An error without a code may mean that nothing was heard.
        if result.is_ok() || result.as_ref().is_err_and(|error| error.code().is_some()) {
            pending.answered();
        }
        result
    }

    fn is_usable(&self) -> bool {
        let over = self.driver.is_finished() || self.subscriptions.is_over();
        !over && !self.silence.is_long()
    }

    /// Closes it. Requests in flight fail, and watches end.
    pub(super) fn give_up(&self) {
        self.driver.abort();
        self.subscriptions.end("the server was silent, or is not the right one any more");
    }
}

impl Drop for RedisConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Keeps the subscriptions of a connection as its watches want them, until the connection ends.
async fn tend(connection: Weak<RedisConnection>) {
    let Some(subscriptions) = connection.upgrade().map(|alive| alive.subscriptions.clone()) else {
        return;
    };
    while subscriptions.something_to_do().await {
        let Some(alive) = connection.upgrade() else { return };
        if subscriptions.tend(&alive).await.is_err() {
            alive.give_up();
            return;
        }
    }
}

/// Ends the watches when the task that reads has ended, in whatever way.
struct EndOnDrop(Arc<Subscriptions>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end("the connection was lost");
    }
}

/// Where the sockets of the server of `config` are.
async fn places(config: &RedisConfig) -> Result<Vec<SocketPlace>, RedisConnectError> {
    let places = config.address.resolve().await;
    Ok(places.map_err(|error| commands::socket_failed(error, config.address.to_string()))?)
}

/// Opens a connection with the present files of TLS. Ends the attempt with an error when the connect timeout is
/// over.
async fn within_limit(
    mut config: RedisConfig,
    open: impl AsyncFnOnce(&RedisConfig) -> RedisConnectResult,
) -> RedisConnectResult {
    let limit = config.connect_timeout;
    let end = Instant::now() + limit;
    let mut note = None;
    if let Some(tls) = &config.tls {
        let (present, trouble) = tls.source.current(limit / 2).await;
        (config.attempt.tls, note) = (Some(present), trouble);
    }
    let result = timeout_at(end, open(&config)).await.unwrap_or_else(|_| {
        let cause = format!("no answer in {limit:?}").into();
        let error = ConnectError::Unreachable { server: config.server(), cause };
        // A server without TLS may wait for the rest of what it takes for a command.
        match config.attempt.in_handshake.load(Relaxed) {
            true => Err(with_hint(error, &config).into()),
            false => Err(error.into()),
        }
    });
    result.map_err(|failed| match note {
        Some(note) => RedisConnectError { error: failed.error.with_note(&note), ..failed },
        None => failed,
    })
}

/// Opens a connection with the present credentials: see [`LoginSource::log_in`].
///
/// [`LoginSource::log_in`]: crate::cluster::engines::credentials::LoginSource::log_in
async fn logged_in(
    config: &RedisConfig,
    open: impl AsyncFn(RedisConfig) -> RedisConnectResult,
) -> RedisConnectResult {
    let attempt = |credentials| {
        let mut config = config.clone();
        config.attempt.credentials = credentials;
        open(config)
    };
    let (login, end) = (&config.login, Instant::now() + config.connect_timeout);
    let opened = login.log_in(end, RedisConnectError::is_denied, attempt).await;
    opened.map_err(|failed| RedisConnectError { error: login.explain(failed.error), ..failed })
}

/// Checks that the server of a new connection is fit for locks, and that the user has the permissions
/// that are needed.
///
/// `Some`: it is part of a cluster, and this other server has the slot of the prefix.
async fn check(
    connection: &RedisConnection,
    config: &RedisConfig,
) -> Result<Option<RedisAddress>, RedisConnectError> {
    let server = || config.address.to_string();
    let failed = |error| RedisConnectError::from(commands::connect_failed(error, server()));
    // This comes first, since a replica in a cluster knows where its primary is. It reads a register that
    // nobody uses, which is in the slot of all those of the prefix.
    let (load, unused) = (LuaScript::load(), config.names.unused());
    match connection.ask(&load.call(&[&unused], &[]).with_text()).await {
        Ok(_) => {}
        // It has the slot, which moves to another server; or some user of a prefix has written to this name.
        Err(error)
            if matches!(
                commands::kind(&error),
                RedisErrorKind::Moving | RedisErrorKind::Corrupt
            ) => {}
        Err(error) => match commands::kind(&error) {
            RedisErrorKind::Moved => match commands::redirected(&error, config.address.host()) {
                Some(server) => return Ok(Some(server)),
                None => return Err(failed(error)),
            },
            _ => return Err(failed(error)),
        },
    }
    let info = connection.ask(&cmd("INFO")).await.map_err(failed)?;
    let info: String = from_redis_value(info).unwrap_or_default();
    suits(&info).map_err(|(why, is_transient)| RedisConnectError {
        error: ConnectError::Unsuitable { server: server(), why },
        is_transient,
    })?;
    if info.lines().any(|line| line == "cluster_enabled:1") {
        // It would be missed when a slot moves. It says nothing about the command that comes next.
        connection.ask(&cmd("ASKING")).await.map_err(failed)?;
    }
    if config.wait.is_some() {
        // With 0 replicas it does not wait.
        connection.ask(cmd("WAIT").arg(0).arg(1)).await.map_err(failed)?;
    }
    // In a script a refused PUBLISH would come too late: after the register was written.
    let probe = connection.ask(cmd("PUBLISH").arg(config.names.channel_of_none()).arg("")).await;
    probe.map(|_| None).map_err(failed)
}

/// Why a server of which `INFO` says this is not fit, and whether a later attempt may succeed.
fn suits(info: &str) -> Result<(), (String, bool)> {
    let find = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value.trim())
    };
    let version = find("redis_version").unwrap_or("0");
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let (major, minor): (u32, u32) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if (major, minor) < (6, 2) {
        return Err((
            format!("its version is {version}: 6.2 or newer is needed, or Valkey"),
            false,
        ));
    }
    if let Some(policy) = find("maxmemory_policy").filter(|policy| policy.starts_with("allkeys")) {
        let why = format!(
            "its maxmemory-policy is {policy}, which may drop a lock that is held: \
             set it to noeviction, or to one of volatile-*"
        );
        return Err((why, false));
    }
    if find("role").is_some_and(|role| role != "master") {
        return Err(("it is a replica: connect to the primary".to_owned(), true));
    }
    Ok(())
}

/// Detects that requests are not answered any more.
struct SilenceDetector {
    state: Mutex<SilenceState>,
    subscriptions: Arc<Subscriptions>,
}

#[derive(Default)]
struct SilenceState {
    /// How many requests wait for an answer.
    pending: usize,
    /// Since when nothing was heard, if something was asked. It stays when the last request is given
    /// up, until a probe, which is a request itself, is answered.
    since: Option<Instant>,
}

impl SilenceDetector {
    fn new(subscriptions: Arc<Subscriptions>) -> Self {
        Self { state: Mutex::default(), subscriptions }
    }

    fn is_long(&self) -> bool {
        self.state.lock().since.is_some_and(|since| since.elapsed() >= SILENCE)
    }

    /// A request is sent.
    fn begin(&self) -> PendingReply<'_> {
        let mut now = self.state.lock();
        now.pending += 1;
        now.since.get_or_insert_with(Instant::now);
        PendingReply(self)
    }
}

/// A request that waits for its answer.
struct PendingReply<'a>(&'a SilenceDetector);

impl PendingReply<'_> {
    /// The answer has come. Both fields change under one lock: when two answers come at a time, the
    /// later one finds that nothing is pending.
    fn answered(self) {
        let mut now = self.0.state.lock();
        now.pending -= 1;
        now.since = (now.pending > 0).then(Instant::now);
        drop(now);
        std::mem::forget(self);
    }
}

impl Drop for PendingReply<'_> {
    fn drop(&mut self) {
        let mut now = self.0.state.lock();
        now.pending -= 1;
        let is_last = now.pending == 0;
        drop(now);
        // The answer may come without being seen: that is no reason to give the connection up.
        if is_last {
            self.0.subscriptions.probe();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SilenceDetector, suits};
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn a_server_that_does_not_suit_is_refused_with_a_reason() {
        let good = "# Server\r\nredis_version:7.0.15\r\nrole:master\r\n";
        assert!(suits(good).is_ok());
        assert!(suits(&format!("{good}maxmemory_policy:volatile-lru\r\n")).is_ok());
        let evicting = format!("{good}maxmemory_policy:allkeys-lru\r\n");
        let (why, is_transient) = suits(&evicting).unwrap_err();
        assert!(why.contains("allkeys-lru") && !is_transient, "{why}");
        for old in ["5.0.3", "6.0.16"] {
            let info = format!("redis_version:{old}\r\nrole:master\r\n");
            let (why, is_transient) = suits(&info).unwrap_err();
            assert!(why.contains(old) && !is_transient, "{why}");
        }
        assert!(suits("redis_version:6.2.0\r\nrole:master\r\n").is_ok());
        let (why, is_transient) = suits("redis_version:7.0.15\r\nrole:slave\r\n").unwrap_err();
        assert!(why.contains("replica") && is_transient, "{why}");
        assert!(suits("").is_err());
    }

    /// Otherwise a connection that is idle, and works, would be given up.
    #[test]
    fn there_is_no_silence_when_all_requests_are_answered() {
        let silence = SilenceDetector::new(Arc::default());
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for round in 0..100_000 {
                        silence.begin().answered();
                        let now = silence.state.lock();
                        assert!(now.pending > 0 || now.since.is_none(), "in round {round}");
                    }
                });
            }
        });
    }

    #[test]
    fn requests_that_are_given_up_leave_the_silence_to_the_probe() {
        let silence = SilenceDetector::new(Arc::default());
        let (first, second) = (silence.begin(), silence.begin());
        drop(first);
        drop(second);
        assert!(silence.state.lock().since.is_some() && !silence.is_long());
        // The probe.
        silence.begin().answered();
        assert!(silence.state.lock().since.is_none());
    }
}
