//! The servers of the cluster, and which of them is asked.
//!
//! There is a client for each server, made when it is first needed. So it is known which server
//! failed, and a request that was certainly not sent goes to another one.

use super::connector::EtcdConnector;
use super::failure::{EtcdFailure, EtcdFailureKind};
use super::rpc::Client;
use crate::Mutex;
use crate::cluster::ConnectError;
use crate::cluster::engines::connect::{ConnectionRuntime, PendingConnection};
use crate::cluster::engines::credentials::{Credentials, LoginSource};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Endpoint;

/// All servers.
pub(super) struct Members {
    members: Vec<Member>,
    /// Who logs in, if anybody does.
    source: LoginSource,
    /// Where the connections live.
    runtime: ConnectionRuntime,
    /// The one that is asked first.
    current: Mutex<usize>,
    connect_timeout: Duration,
    timeout: Duration,
}

/// A server, and how to connect to it.
pub(super) struct EtcdServer {
    /// Host and port.
    pub(super) name: String,
    pub(super) endpoint: Endpoint,
    pub(super) connector: EtcdConnector,
}

struct Member {
    server: EtcdServer,
    login: Mutex<MemberLogin>,
}

/// The logins at a member: each makes a client, which has a connection and the user's token.
#[derive(Default)]
struct MemberLogin {
    /// The last one. It may have failed.
    last: Option<PendingLogin>,
    /// How many have begun.
    number: u64,
    /// A client whose connection the next one uses. Without it, it makes one.
    connected: Option<Client>,
}

/// All requests wait for the same login, which goes on when they have stopped waiting.
type PendingLogin = PendingConnection<Result<Client, EtcdFailure>>;

/// What a request does to the register. This decides when it may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestEffect {
    /// It reads: it may be sent again whenever it has failed.
    Reads,
    /// It writes: it may be sent again only if it was certainly not applied.
    Writes,
}

/// A request that can be sent more than once: a function of the client to send it with.
pub(super) trait EtcdRequest<T, E>: Sync {
    fn send(&self, client: Client) -> impl Future<Output = Result<T, E>> + Send;
}

impl<T, E, F, Fut> EtcdRequest<T, E> for F
where
    F: Fn(Client) -> Fut + Sync,
    Fut: Future<Output = Result<T, E>> + Send,
{
    fn send(&self, client: Client) -> impl Future<Output = Result<T, E>> + Send {
        self(client)
    }
}

impl Members {
    /// At least one server.
    pub(super) fn new(
        servers: Vec<EtcdServer>,
        source: LoginSource,
        runtime: ConnectionRuntime,
        connect_timeout: Duration,
        timeout: Duration,
    ) -> Self {
        let member = |server| Member { server, login: Mutex::default() };
        let members = servers.into_iter().map(member).collect();
        Self { members, source, runtime, current: Mutex::new(0), connect_timeout, timeout }
    }

    /// The names, for messages.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| &*member.server.name)
    }

    /// When a request that begins now has to end.
    pub(super) fn end(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Sends `request` to the current server, and to the next ones as long as it fails and may be sent
    /// again. Returns within the timeout.
    pub(super) async fn ask<T, E: Into<EtcdFailure>>(
        &self,
        effect: RequestEffect,
        request: impl EtcdRequest<T, E>,
    ) -> Result<T, EtcdFailure> {
        self.ask_until(self.end(), effect, request).await
    }

    /// The same as [`ask`](Self::ask), and returns by `end`.
    pub(super) async fn ask_until<T, E: Into<EtcdFailure>>(
        &self,
        end: Instant,
        effect: RequestEffect,
        request: impl EtcdRequest<T, E>,
    ) -> Result<T, EtcdFailure> {
        self.ask_each(end, effect, request).await.map_err(|(_, failure)| failure)
    }

    /// The same as [`ask_until`](Self::ask_until); an error comes with the server's name.
    pub(super) async fn ask_each<T, E: Into<EtcdFailure>>(
        &self,
        end: Instant,
        effect: RequestEffect,
        request: impl EtcdRequest<T, E>,
    ) -> Result<T, (String, EtcdFailure)> {
        let mut left = self.members.len();
        let mut reported: Option<(String, EtcdFailure)> = None;
        loop {
            let member_try =
                MemberTry { members: self, number: *self.current.lock(), stays: false };
            let member = &self.members[member_try.number];
            left = left.saturating_sub(1);
            let failure = match self.ask_one(member, effect, left == 0, end, &request).await {
                Ok(response) => {
                    member_try.end(false);
                    return Ok(response);
                }
                Err(failure) => failure.with_note_of_connection(member.server.connector.note()),
            };
            let telling = |failure: &EtcdFailure| {
                !matches!(
                    failure.kind,
                    EtcdFailureKind::Transient
                        | EtcdFailureKind::DeadClient
                        | EtcdFailureKind::Indeterminate
                )
            };
            // A refusal by one server is that of all, so no other server is asked. A certificate and an address belong to
            // one server, so the next one is asked.
            let next = !telling(&failure)
                || matches!(
                    failure.kind,
                    EtcdFailureKind::Untrusted | EtcdFailureKind::Unencrypted
                );
            let again = next
                && (failure.kind != EtcdFailureKind::Indeterminate
                    || effect == RequestEffect::Reads);
            member_try.end(next);
            if !again || reported.as_ref().is_none_or(|(_, reported)| !telling(reported)) {
                reported = Some((member.server.name.clone(), failure));
            }
            if !again || left == 0 || Instant::now() >= end {
                let nothing = || {
                    (
                        String::new(),
                        EtcdFailure::new(EtcdFailureKind::Transient, "no server is known"),
                    )
                };
                return Err(reported.unwrap_or_else(nothing));
            }
        }
    }

    /// The answer of one server. A request that reads leaves time for the other servers, unless this
    /// is the `last` one.
    async fn ask_one<T, E: Into<EtcdFailure>>(
        &self,
        member: &Member,
        effect: RequestEffect,
        last: bool,
        end: Instant,
        request: &impl EtcdRequest<T, E>,
    ) -> Result<T, EtcdFailure> {
        let left = end.saturating_duration_since(Instant::now());
        let share = |last: bool| if last { left } else { left / 2 };
        let connected_by = Instant::now() + share(last).min(self.connect_timeout);
        let until =
            if effect == RequestEffect::Writes { end } else { Instant::now() + share(last) };
        let mut is_refreshed = false;
        loop {
            let client = timeout_at(connected_by, member.client(self)).await;
            let Ok(client) = client else {
                return Err(EtcdFailure::new(EtcdFailureKind::Transient, "no connection in time"));
            };
            let (client, number) = client?;
            let sent = request.send(client.clone());
            let Ok(response) = timeout_at(until.min(end), sent).await else {
                return Err(EtcdFailure::new(EtcdFailureKind::Indeterminate, "no answer in time"));
            };
            let response = response.map_err(Into::into);
            match &response {
                Err(failure) if failure.kind == EtcdFailureKind::DeadClient => {
                    member.forget(number);
                }
                // The request was certainly refused. The token is refreshed once: the new one may be rejected,
                // too, because of another change.
                Err(failure) if failure.is_token_rejected() && !is_refreshed => {
                    is_refreshed = true;
                    let refreshed = member.refresh(self, client, number);
                    match timeout_at(until.min(end), refreshed).await {
                        Ok(Ok(())) => continue,
                        Ok(Err(failure)) => return Err(failure),
                        Err(_) => {
                            return Err(EtcdFailure::new(
                                EtcdFailureKind::Transient,
                                "no token in time",
                            ));
                        }
                    }
                }
                _ => {}
            }
            return response;
        }
    }
}

impl Member {
    /// The client, and the number of the login that has made it. Logs in if there is none; the client itself
    /// replaces a connection that broke, at the next request.
    ///
    /// # Errors
    ///
    /// That of the login, for all that wait for it.
    async fn client(&self, members: &Members) -> Result<(Client, u64), EtcdFailure> {
        let (login, number) = {
            let mut state = self.login.lock();
            let last = state.last.as_ref().filter(|last| last.is_of_use(Result::is_ok)).cloned();
            (last.unwrap_or_else(|| self.log_in(members, &mut state)), state.number)
        };
        Ok((self.result(login, number).await?, number))
    }

    /// Replaces the token of the `client` of the login with this `number`, unless a later login has begun, for
    /// which this waits. The connection stays, and its watches go on.
    ///
    /// # Errors
    ///
    /// That of the login.
    async fn refresh(
        &self,
        members: &Members,
        client: Client,
        number: u64,
    ) -> Result<(), EtcdFailure> {
        let (login, number) = {
            let mut state = self.login.lock();
            if state.number == number {
                state.connected = Some(client);
                self.log_in(members, &mut state);
            }
            (state.last.clone(), state.number)
        };
        match login {
            Some(login) => self.result(login, number).await.map(drop),
            // It was forgotten: the next request begins one.
            None => Ok(()),
        }
    }

    /// Waits for this login.
    async fn result(&self, login: PendingLogin, number: u64) -> Result<Client, EtcdFailure> {
        let ended = || Err(EtcdFailure::new(EtcdFailureKind::Transient, "connecting has ended"));
        let result = login.result().await.unwrap_or_else(ended);
        if result.as_ref().is_err_and(|failure| failure.kind == EtcdFailureKind::DeadClient) {
            self.forget(number);
        }
        result
    }

    /// Forgets the connection, unless a later login than that with this `number` has begun.
    fn forget(&self, number: u64) {
        let mut state = self.login.lock();
        if state.number == number {
            let dead = (state.last.take(), state.connected.take());
            // Dropped after the lock is released, since that wakes the task of the connection.
            drop(state);
            drop(dead);
        }
    }

    /// Begins a login, with the connection that there is, or else a new one. It ends within the connect timeout.
    fn log_in(&self, members: &Members, state: &mut MemberLogin) -> PendingLogin {
        let (source, end) = (members.source.clone(), Instant::now() + members.connect_timeout);
        let (endpoint, connector) = (self.server.endpoint.clone(), self.server.connector.clone());
        let connected = state.connected.clone();
        let made = async move {
            let client = match connected {
                Some(client) => client,
                None => {
                    let connected = endpoint.connect_with_connector(connector).await;
                    Client::new(connected.map_err(|why| EtcdFailure::of_connecting(&why))?)
                }
            };
            with_token(client, &source, end).await
        };
        let made = async move {
            let late = || Err(EtcdFailure::new(EtcdFailureKind::Transient, "no login in time"));
            timeout_at(end, made).await.unwrap_or_else(|_| late())
        };
        // The tasks of a connection run where it was made, and so does what asks for credentials.
        let login = PendingLogin::begin(members.runtime.handle(), made);
        state.number += 1;
        state.last = Some(login.clone());
        login
    }
}

/// The client with a new token, if there is a user. It writes no register.
async fn with_token(
    client: Client,
    source: &LoginSource,
    end: Instant,
) -> Result<Client, EtcdFailure> {
    if source.user.is_none() && !source.has_password() {
        return Ok(client);
    }
    let is_refused = |failure: &EtcdFailure| failure.kind == EtcdFailureKind::Denied;
    let attempt = async |credentials: Credentials| {
        let Some(user) = credentials.user else {
            let cause = "they have no user, and the address names none".into();
            return Err(ConnectError::Credentials { cause }.into());
        };
        let password = credentials.password.unwrap_or_default();
        client.clone().authenticate(&user, &password).await.map_err(EtcdFailure::of_login)
    };
    let token = source.log_in(end, is_refused, attempt).await;
    let token = token.map_err(|failure| match is_refused(&failure) {
        true => failure.with_note(source.origin()),
        false => failure,
    })?;
    client.with_token(&token).map_err(|_| {
        EtcdFailure::new(EtcdFailureKind::Corrupt, "etcd's token has characters that none has")
    })
}

/// A try of one server. If it fails, or its caller stops waiting, the next request goes to another
/// server.
struct MemberTry<'a> {
    members: &'a Members,
    number: usize,
    stays: bool,
}

impl MemberTry<'_> {
    fn end(mut self, next: bool) {
        self.stays = !next;
    }
}

impl Drop for MemberTry<'_> {
    fn drop(&mut self) {
        let mut current = self.members.current.lock();
        if !self.stays && *current == self.number {
            *current = (self.number + 1) % self.members.members.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Client, EtcdFailureKind, EtcdServer, Members, RequestEffect};
    use crate::cluster::engines::connect::{ConnectionRuntime, PendingConnection};
    use crate::cluster::engines::credentials::LoginSource;
    use crate::cluster::engines::etcd::connector::EtcdConnector;
    use crate::cluster::engines::etcd::rpc::RangeRequest;
    use std::time::Duration;
    use tokio::runtime::Runtime;
    use tonic::transport::Endpoint;

    #[test]
    fn a_client_whose_connection_has_no_task_is_replaced() {
        let [ended, runtime] = [(), ()].map(|()| Runtime::new().unwrap());
        // Nothing listens there.
        let endpoint = Endpoint::from_static("http://127.0.0.1:1");
        let client = ended.block_on(async { Client::new(endpoint.connect_lazy()) });
        drop(ended);
        let on = ConnectionRuntime::Given(runtime.handle().clone());
        let limit = Duration::from_secs(2);
        let connector = EtcdConnector::new("a".to_owned(), None, false, limit);
        let servers = vec![EtcdServer { name: "a".to_owned(), endpoint, connector }];
        let source = LoginSource::default();
        let mut members = Members::new(servers, source, on, limit, Duration::from_secs(5));
        let login = PendingConnection::begin(runtime.handle(), std::future::ready(Ok(client)));
        members.members[0].login.get_mut().last = Some(login);
        let ask = || {
            let read = |client: Client| client.range(RangeRequest::of("k"));
            runtime.block_on(members.ask(RequestEffect::Writes, read)).unwrap_err()
        };
        assert_eq!(ask().kind, EtcdFailureKind::DeadClient);
        let anew = ask();
        assert_eq!(anew.kind, EtcdFailureKind::Transient);
        assert!(anew.said.contains("refused"), "{}", anew.said);
    }
}
