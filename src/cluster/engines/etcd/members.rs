//! The servers of the cluster, and which of them is asked.
//!
//! There is a client for each server, made when it is first needed. So it is known which server
//! failed, and a request that was certainly not sent goes to another one.

use super::connector::EtcdConnector;
use super::failure::{EtcdFailure, EtcdFailureKind};
use super::rpc::Client;
use crate::Mutex;
use crate::cluster::ConnectError;
use crate::cluster::background::run_on;
use crate::cluster::engines::connect::ConnectionRuntime;
use crate::cluster::engines::credentials::{Credentials, LoginSource};
use std::sync::atomic::{AtomicU64, Ordering};
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
    login: tokio::sync::Mutex<MemberLogin>,
    /// How many logins have failed.
    failures: AtomicU64,
}

/// The client of a member, which has the connection and the user's token.
#[derive(Default)]
struct MemberLogin {
    client: Option<Client>,
    /// How many times the token was renewed.
    renewals: u64,
    /// Why the last login failed, if one has.
    failure: Option<EtcdFailure>,
}

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
        let member =
            |server| Member { server, login: Default::default(), failures: AtomicU64::new(0) };
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
        let mut worst: Option<(String, EtcdFailure)> = None;
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
                Err(failure) => failure.with_note(member.server.connector.note()),
            };
            let telling = |failure: &EtcdFailure| {
                !matches!(
                    failure.kind,
                    EtcdFailureKind::Transient
                        | EtcdFailureKind::DeadClient
                        | EtcdFailureKind::Indeterminate
                )
            };
            // Another server would deny the same request; but each server has its own certificate.
            let next = !telling(&failure) || failure.kind == EtcdFailureKind::Untrusted;
            let again = next
                && (failure.kind != EtcdFailureKind::Indeterminate
                    || effect == RequestEffect::Reads);
            member_try.end(next);
            let replace = !again || worst.as_ref().is_none_or(|(_, worst)| !telling(worst));
            if replace {
                worst = Some((member.server.name.clone(), failure));
            }
            if !again || left == 0 || Instant::now() >= end {
                let nothing = || {
                    (
                        String::new(),
                        EtcdFailure::new(EtcdFailureKind::Transient, "no server is known"),
                    )
                };
                return Err(worst.unwrap_or_else(nothing));
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
        let mut renewed = false;
        loop {
            let client = timeout_at(connected_by, member.client(self)).await;
            let Ok(client) = client else {
                return Err(EtcdFailure::new(EtcdFailureKind::Transient, "no connection in time"));
            };
            let (client, renewals) = client?;
            let Ok(response) = timeout_at(until.min(end), request.send(client)).await else {
                return Err(EtcdFailure::new(EtcdFailureKind::Indeterminate, "no answer in time"));
            };
            let response = response.map_err(Into::into);
            match &response {
                Err(failure) if failure.kind == EtcdFailureKind::DeadClient => {
                    member.login.lock().await.client = None;
                }
                // The request was certainly refused. The token is renewed once: the new one may be old
                // too, because of another change.
                Err(failure) if failure.is_old_token() && !renewed => {
                    renewed = true;
                    match timeout_at(until.min(end), member.renew(self, renewals)).await {
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
    /// The client, and how many times its token was renewed. Connects if there was no client yet; the
    /// client itself renews a connection that broke, at the next request.
    async fn client(&self, members: &Members) -> Result<(Client, u64), EtcdFailure> {
        let mut login = self.lock().await?;
        let renewals = login.renewals;
        if let Some(client) = &login.client {
            return Ok((client.clone(), renewals));
        }
        let (endpoint, connector) = (self.server.endpoint.clone(), self.server.connector.clone());
        let connect = async move {
            let connected = endpoint.connect_with_connector(connector).await;
            Ok(Client::new(connected.map_err(|why| EtcdFailure::of_connecting(&why))?))
        };
        let client = self.log_in(members, &mut login, connect).await?;
        Ok((client, renewals))
    }

    /// Replaces the token that the client had after this number of `renewals`, unless another request
    /// has done that; concurrent requests wait for it. The connection stays, and its watches go on.
    async fn renew(&self, members: &Members, renewals: u64) -> Result<(), EtcdFailure> {
        let mut login = self.lock().await?;
        if let Some(client) = login.client.clone().filter(|_| login.renewals == renewals) {
            self.log_in(members, &mut login, async { Ok(client) }).await?;
            login.renewals += 1;
        }
        Ok(())
    }

    /// Waits for the turn to log in.
    ///
    /// # Errors
    ///
    /// That of the login before, if it has failed meanwhile. It would be the same: many requests that are refused
    /// at a time would ask one after the other, and the last ones would not learn why in time.
    async fn lock(&self) -> Result<tokio::sync::MutexGuard<'_, MemberLogin>, EtcdFailure> {
        let before = self.failures.load(Ordering::Relaxed);
        let login = self.login.lock().await;
        match &login.failure {
            // ORDERING: it is changed under the mutex only.
            Some(failure) if self.failures.load(Ordering::Relaxed) != before => {
                Err(failure.clone())
            }
            _ => Ok(login),
        }
    }

    /// Makes a client of the connection that `connect` makes, with a new token.
    async fn log_in(
        &self,
        members: &Members,
        login: &mut MemberLogin,
        connect: impl Future<Output = Result<Client, EtcdFailure>> + Send + 'static,
    ) -> Result<Client, EtcdFailure> {
        let (source, end) = (members.source.clone(), Instant::now() + members.connect_timeout);
        let ended = || Err(EtcdFailure::new(EtcdFailureKind::Transient, "connecting has ended"));
        // The tasks of a connection run where it was made, and so does what asks for credentials.
        let made = async move { with_token(connect.await?, &source, end).await };
        match run_on(members.runtime.handle(), made).await.unwrap_or_else(ended) {
            Ok(client) => Ok(login.client.insert(client).clone()),
            Err(failure) => {
                login.failure = Some(failure.clone());
                self.failures.fetch_add(1, Ordering::Relaxed);
                Err(failure)
            }
        }
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
    use crate::cluster::engines::connect::ConnectionRuntime;
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
        members.members[0].login.get_mut().client = Some(client);
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
