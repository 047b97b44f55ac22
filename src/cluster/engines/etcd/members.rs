//! The servers of the cluster, and which of them is asked.
//!
//! There is a client for each server, made when it is first needed. So it is known which server
//! failed, and a request that was certainly not sent goes to another one.

use super::failure::{EtcdFailure, EtcdFailureKind};
use super::rpc::Client;
use crate::Mutex;
use crate::cluster::background::run_on;
use crate::cluster::engines::connect::ConnectionRuntime;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Endpoint;

/// All servers.
pub(super) struct Members {
    members: Vec<Member>,
    /// Who logs in, if anybody does.
    user: Option<Credentials>,
    /// Where the connections live.
    runtime: ConnectionRuntime,
    /// The one that is asked first.
    current: Mutex<usize>,
    connect_timeout: Duration,
    timeout: Duration,
}

/// The name of a user, and the password.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) name: String,
    pub(super) password: String,
}

struct Member {
    /// Host and port.
    name: String,
    endpoint: Endpoint,
    login: tokio::sync::Mutex<MemberLogin>,
}

/// The client of a member, which has the connection and the user's token.
#[derive(Default)]
struct MemberLogin {
    client: Option<Client>,
    /// How many times the token was renewed.
    renewals: u64,
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
    /// `servers`: the name of each, and how to connect to it. At least one.
    pub(super) fn new(
        servers: Vec<(String, Endpoint)>,
        user: Option<Credentials>,
        runtime: ConnectionRuntime,
        connect_timeout: Duration,
        timeout: Duration,
    ) -> Self {
        let member = |(name, endpoint)| Member { name, endpoint, login: Default::default() };
        let members = servers.into_iter().map(member).collect();
        Self { members, user, runtime, current: Mutex::new(0), connect_timeout, timeout }
    }

    /// The names, for messages.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| &*member.name)
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
                Err(failure) => failure,
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
                worst = Some((member.name.clone(), failure));
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
                    match timeout_at(until.min(end), member.renew(renewals, &self.user)).await {
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
        let mut login = self.login.lock().await;
        let renewals = login.renewals;
        if let Some(client) = &login.client {
            return Ok((client.clone(), renewals));
        }
        let (endpoint, user) = (self.endpoint.clone(), members.user.clone());
        // The tasks of a connection run where it was made.
        let connect = async move {
            let connected = endpoint.connect().await;
            let connected = connected.map_err(|why| EtcdFailure::of_connecting(&why))?;
            log_in(Client::new(connected), &user).await
        };
        let ended = || Err(EtcdFailure::new(EtcdFailureKind::Transient, "connecting has ended"));
        let client = run_on(members.runtime.handle(), connect).await.unwrap_or_else(ended)?;
        Ok((login.client.insert(client).clone(), renewals))
    }

    /// Replaces the token that the client had after this number of `renewals`, unless another request
    /// has done that; concurrent requests wait for it. The connection stays, and its watches go on.
    async fn renew(&self, renewals: u64, user: &Option<Credentials>) -> Result<(), EtcdFailure> {
        let mut login = self.login.lock().await;
        if let Some(client) = login.client.clone().filter(|_| login.renewals == renewals) {
            login.client = Some(log_in(client, user).await?);
            login.renewals += 1;
        }
        Ok(())
    }
}

/// The client with a new token, if there is a user. It writes no register.
async fn log_in(client: Client, user: &Option<Credentials>) -> Result<Client, EtcdFailure> {
    let Some(Credentials { name, password }) = user else { return Ok(client) };
    let token = client.clone().authenticate(name, password).await;
    client.with_token(&token.map_err(EtcdFailure::of_login)?).map_err(|_| {
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
    use super::{Client, EtcdFailureKind, Members, RequestEffect};
    use crate::cluster::engines::connect::ConnectionRuntime;
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
        let servers = vec![("a".to_owned(), endpoint)];
        let mut members =
            Members::new(servers, None, on, Duration::from_secs(2), Duration::from_secs(5));
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
