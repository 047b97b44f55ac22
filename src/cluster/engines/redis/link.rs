//! The connection: made when it is needed, shared by all calls, given up when it is of no use.

use super::address::Settings;
use super::errors::{self, Meaning, NoConnection};
use super::script::Call;
use super::silence::Silence;
use super::subscriptions::Subscriptions;
use super::{check, tls};
use crate::Mutex;
use crate::cluster::engines::connect::PendingConnection;
use crate::cluster::{ConnectError, TransportError};
use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Cmd, PushInfo, RedisError, Value};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// How long it may take to get a connection. One that was begun while the network was cut is of no
/// use when it is whole again.
pub(super) const CONNECTING: Duration = Duration::from_secs(3);

/// How long an answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How often a cluster's word that our slot is elsewhere is followed.
const REDIRECTIONS: usize = 3;

/// The way to the server.
pub(super) struct Link {
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last connection. It may be dead.
    last: Option<Arc<Connection>>,
    connecting: Option<PendingConnection<Connected>>,
}

type Connected = Result<Arc<Connection>, NoConnection>;

impl Link {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, state: Mutex::default() }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A connection that works as far as is known: the present one, or else a new one. Who comes
    /// while one is being made waits for it too.
    pub(super) async fn connection(&self) -> Connected {
        let last = self.state.lock().last.clone();
        if let Some(last) = last {
            if last.is_usable() {
                return Ok(last);
            }
            self.forget(&last);
        }
        let pending = self.pending();
        let result = pending.result().await.unwrap_or_else(|| {
            let cause = "the runtime that was connecting has gone".into();
            Err(ConnectError::Unreachable { server: self.settings.server(), cause }.into())
        });
        let mut state = self.state.lock();
        if state.connecting.take_if(|now| now.is(&pending)).is_some() {
            let last = std::mem::replace(&mut state.last, result.clone().ok());
            drop(state);
            drop(last);
        }
        result
    }

    /// The attempt that is in flight, or a new one: whoever waits for it may go away.
    fn pending(&self) -> PendingConnection<Connected> {
        let mut state = self.state.lock();
        // One that has ended since nobody waited for it may be as dead as the last connection.
        let is_good = |result: &Connected| result.as_ref().is_ok_and(|made| made.is_usable());
        if let Some(pending) = state.connecting.as_ref().filter(|now| now.is_of_use(is_good)) {
            return pending.clone();
        }
        let pending = PendingConnection::begin(Connection::open(self.settings.clone()));
        let dead = state.connecting.replace(pending.clone());
        // Not under the lock: whoever listens there is woken.
        drop(state);
        drop(dead);
        pending
    }

    /// Reads.
    pub(super) async fn read(&self, command: &Cmd) -> Result<Value, TransportError> {
        self.follow(command).await.map_err(|error| error.of_a_call(false))
    }

    /// Runs a script that may write.
    pub(super) async fn run(&self, script: &Call<'_>) -> Result<Value, TransportError> {
        let response = match self.follow(&script.by_digest()).await {
            Err(Failed::Sent(error)) if matches!(errors::meaning(&error), Meaning::NoScript) => {
                self.follow(&script.spelt_out()).await
            }
            response => response,
        };
        response.map_err(|error| error.of_a_call(true))
    }

    /// Sends `command` to the server that has our slot.
    async fn follow(&self, command: &Cmd) -> Result<Value, Failed> {
        let mut redirections = 0;
        loop {
            let connection = self.connection().await.map_err(Failed::NotSent)?;
            let error = match connection.ask(command).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            match errors::meaning(&error) {
                Meaning::Elsewhere if redirections < REDIRECTIONS => {
                    // Where it is, a new connection finds out.
                    redirections += 1;
                    self.forget(&connection);
                }
                Meaning::NotNow if error.code() == Some("READONLY") => {
                    // It was the primary. Which one is it now? The address may tell.
                    self.forget(&connection);
                    return Err(Failed::Sent(error));
                }
                _ => return Err(Failed::Sent(error)),
            }
        }
    }

    /// Gives `connection` up, if it is still the present one.
    fn forget(&self, connection: &Arc<Connection>) {
        let last = self.state.lock().last.take_if(|last| Arc::ptr_eq(last, connection));
        connection.give_up();
        drop(last);
    }
}

/// Why there is no answer.
enum Failed {
    NotSent(NoConnection),
    Sent(RedisError),
}

impl Failed {
    /// As the error of a call that was to write, or only to read.
    fn of_a_call(self, writes: bool) -> TransportError {
        match self {
            Self::NotSent(error) => errors::not_sent(error),
            Self::Sent(error) => errors::failed(error, writes),
        }
    }
}

/// One connection. Its socket is closed with the last handle, or when it is given up.
pub(super) struct Connection {
    client: MultiplexedConnection,
    /// The task that reads and writes.
    driver: AbortHandle,
    pub(super) subscriptions: Arc<Subscriptions>,
    silence: Silence,
}

impl Connection {
    /// Connects to the server of these settings, or to where it says that our slot is.
    async fn open(mut settings: Settings) -> Connected {
        let server = settings.server();
        let open = async {
            for _ in 0..=REDIRECTIONS {
                let connection = Self::open_here(&settings).await?;
                match check::check(&connection, &settings).await? {
                    None => {
                        tokio::spawn(tend(Arc::downgrade(&connection)));
                        return Ok(connection);
                    }
                    Some(elsewhere) => (settings.host, settings.port) = elsewhere,
                }
            }
            let cause = "its cluster sends us from one server to the next".into();
            Err(ConnectError::Unreachable { server: server.clone(), cause }.into())
        };
        timeout(CONNECTING, open).await.unwrap_or_else(|_| {
            let cause = format!("no answer in {CONNECTING:?}").into();
            Err(ConnectError::Unreachable { server: server.clone(), cause }.into())
        })
    }

    async fn open_here(settings: &Settings) -> Connected {
        let server = || settings.server();
        let stream = tls::open(&settings.host, settings.port, settings.tls.as_ref()).await;
        let stream = stream.map_err(|error| errors::no_stream(error, server()))?;
        let subscriptions = Arc::new(Subscriptions::default());
        let ear = subscriptions.clone();
        let config = AsyncConnectionConfig::new()
            .set_push_sender(move |push: PushInfo| {
                ear.hear(push);
                Ok::<(), ()>(())
            })
            .set_response_timeout(Some(PATIENCE));
        let opened = MultiplexedConnection::new_with_config(&settings.login, stream, config).await;
        let (client, driver) = opened.map_err(|error| errors::no_connection(error, server()))?;
        let end = EndOnDrop(subscriptions.clone());
        let driver = tokio::spawn(async move {
            let _end = end;
            driver.await;
        });
        let driver = driver.abort_handle();
        let silence = Silence::new(subscriptions.clone());
        Ok(Arc::new(Self { client, driver, subscriptions, silence }))
    }

    /// Sends a command and waits for the answer.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, RedisError> {
        let mut client = self.client.clone();
        self.heeding(command.query_async(&mut client)).await
    }

    /// Subscribes to these channels.
    pub(super) async fn subscribe(&self, channels: &[Arc<str>]) -> Result<(), RedisError> {
        let mut client = self.client.clone();
        let channels: Vec<&str> = channels.iter().map(|channel| &**channel).collect();
        self.heeding(client.subscribe(channels)).await
    }

    /// Ends the subscription to these channels.
    pub(super) async fn unsubscribe(&self, channels: &[Arc<str>]) -> Result<(), RedisError> {
        let mut client = self.client.clone();
        let channels: Vec<&str> = channels.iter().map(|channel| &**channel).collect();
        self.heeding(client.unsubscribe(channels)).await
    }

    /// Waits for an answer, and keeps count of whether any comes.
    async fn heeding<A>(
        &self,
        call: impl Future<Output = Result<A, RedisError>>,
    ) -> Result<A, RedisError> {
        let waiting = self.silence.wait();
        let result = call.await;
        // An error may be that nothing was heard.
        if result.is_ok() || result.as_ref().is_err_and(|error| error.code().is_some()) {
            waiting.heard();
        }
        result
    }

    fn is_usable(&self) -> bool {
        let over = self.driver.is_finished() || self.subscriptions.is_over();
        !over && !self.silence.is_long()
    }

    /// Closes it. Calls in flight fail, and watches end.
    pub(super) fn give_up(&self) {
        self.driver.abort();
        self.subscriptions.end("the server was silent, or is not the right one any more");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Keeps the subscriptions of a connection as its watches want them, until either is gone.
async fn tend(connection: Weak<Connection>) {
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
