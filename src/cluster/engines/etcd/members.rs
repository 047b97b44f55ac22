//! The servers of the cluster, and which of them is asked.
//!
//! There is a client for each server, made when it is first needed, so that it is known which server
//! failed, and so that a request that was certainly not sent goes to another one. The client library
//! can spread requests over servers by itself, but asks the dead ones as often as the others.

use super::failure::{Failure, FailureKind};
use crate::Mutex;
use etcd_client::{Channel, Client, ConnectOptions};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Endpoint;

/// How long a connection may take. One that takes longer is not worth the wait.
const DIAL: Duration = Duration::from_secs(2);

/// All servers.
pub(super) struct Members {
    members: Vec<Member>,
    options: ConnectOptions,
    /// Which one is asked first.
    current: Mutex<usize>,
    request_timeout: Duration,
}

struct Member {
    /// Host and port.
    name: String,
    endpoint: Endpoint,
    login: tokio::sync::Mutex<Login>,
}

/// The connection to a member, and what it knows the user by.
#[derive(Default)]
struct Login {
    client: Option<Client>,
    /// How many tokens were got in place of old ones.
    renewals: u64,
}

/// What a request does to the register, which decides when it may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: whenever it fails.
    None,
    /// It writes: only when it was certainly not applied.
    Writes,
}

/// A request, which can be made more than once: a function of the client to make it of.
pub(super) trait Request<T, E>: Sync {
    fn of(&self, client: Client) -> impl Future<Output = Result<T, E>> + Send;
}

impl<T, E, F, Fut> Request<T, E> for F
where
    F: Fn(Client) -> Fut + Sync,
    Fut: Future<Output = Result<T, E>> + Send,
{
    fn of(&self, client: Client) -> impl Future<Output = Result<T, E>> + Send {
        self(client)
    }
}

impl Members {
    /// `servers`: host and port, and how to get there. At least one.
    pub(super) fn new(
        servers: Vec<(String, Endpoint)>,
        options: ConnectOptions,
        request_timeout: Duration,
    ) -> Self {
        let member = |(name, endpoint)| Member { name, endpoint, login: Default::default() };
        let members = servers.into_iter().map(member).collect();
        Self { members, options, current: Mutex::new(0), request_timeout }
    }

    /// The names, for messages.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| &*member.name)
    }

    /// When a request that begins now has to have ended.
    pub(super) fn end(&self) -> Instant {
        Instant::now() + self.request_timeout
    }

    /// Has `request` be made of the current server, and of the next ones while it fails and may be
    /// made again. Ends within the request timeout.
    pub(super) async fn ask<T, E: Into<Failure>>(
        &self,
        effect: Effect,
        request: impl Request<T, E>,
    ) -> Result<T, Failure> {
        self.ask_until(self.end(), effect, request).await
    }

    /// The same, and ends by `end`.
    pub(super) async fn ask_until<T, E: Into<Failure>>(
        &self,
        end: Instant,
        effect: Effect,
        request: impl Request<T, E>,
    ) -> Result<T, Failure> {
        self.ask_each(end, effect, request).await.map_err(|(_, failure)| failure)
    }

    /// The same; an error comes with the server's name.
    pub(super) async fn ask_each<T, E: Into<Failure>>(
        &self,
        end: Instant,
        effect: Effect,
        request: impl Request<T, E>,
    ) -> Result<T, (String, Failure)> {
        let mut left = self.members.len();
        let mut worst: Option<(String, Failure)> = None;
        loop {
            let turn = Turn { members: self, number: *self.current.lock(), stays: false };
            let member = &self.members[turn.number];
            left = left.saturating_sub(1);
            let failure = match self.ask_one(member, effect, left == 0, end, &request).await {
                Ok(response) => {
                    turn.end(false);
                    return Ok(response);
                }
                Err(failure) => failure,
            };
            // Another server would deny the same; but a certificate is each server's own.
            let next = matches!(
                failure.kind,
                FailureKind::Passing | FailureKind::Indeterminate | FailureKind::Untrusted
            );
            let again =
                next && (failure.kind != FailureKind::Indeterminate || effect == Effect::None);
            turn.end(next);
            let telling = |failure: &Failure| {
                !matches!(failure.kind, FailureKind::Passing | FailureKind::Indeterminate)
            };
            let replace = !again || worst.as_ref().is_none_or(|(_, worst)| !telling(worst));
            if replace {
                worst = Some((member.name.clone(), failure));
            }
            if !again || left == 0 || Instant::now() >= end {
                let nothing =
                    || (String::new(), Failure::new(FailureKind::Passing, "no server is known"));
                return Err(worst.unwrap_or_else(nothing));
            }
        }
    }

    /// One server's answer. Unless it is the `last`, something that is not written leaves time for
    /// the others.
    async fn ask_one<T, E: Into<Failure>>(
        &self,
        member: &Member,
        effect: Effect,
        last: bool,
        end: Instant,
        request: &impl Request<T, E>,
    ) -> Result<T, Failure> {
        let left = end.saturating_duration_since(Instant::now());
        let share = |last: bool| if last { left } else { left / 2 };
        let dialled = Instant::now() + share(last).min(DIAL);
        let until = if effect == Effect::Writes { end } else { Instant::now() + share(last) };
        let mut renewed = false;
        loop {
            let client = timeout_at(dialled, member.client(&self.options)).await;
            let Ok(client) = client else {
                return Err(Failure::new(FailureKind::Passing, "no connection in time"));
            };
            let (client, renewals) = client?;
            let Ok(response) = timeout_at(until.min(end), request.of(client)).await else {
                return Err(Failure::new(FailureKind::Indeterminate, "no answer in time"));
            };
            let response = response.map_err(Into::into);
            match &response {
                Err(failure) if failure.is_dead_client() => {
                    member.login.lock().await.client = None;
                }
                // Refused for certain. Once: the next may be old because of the next change.
                Err(failure) if failure.is_old_token() && !renewed => {
                    renewed = true;
                    match timeout_at(until.min(end), member.renew(renewals)).await {
                        Ok(Ok(())) => continue,
                        Ok(Err(failure)) => return Err(failure),
                        Err(_) => {
                            return Err(Failure::new(FailureKind::Passing, "no token in time"));
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
    /// The client, and how many of its tokens were renewed. Makes the connection if there was none
    /// yet; one that broke is renewed by the client itself, at the next request.
    async fn client(&self, options: &ConnectOptions) -> Result<(Client, u64), Failure> {
        let mut login = self.login.lock().await;
        let renewals = login.renewals;
        if let Some(client) = &login.client {
            return Ok((client.clone(), renewals));
        }
        let dialled = self.endpoint.connect().await;
        let channel = Channel::Tonic(dialled.map_err(|why| Failure::of_dialling(&why))?);
        // Gets a token, if there is a user. Nothing of ours is written by that.
        let client = Client::from_channel(channel, Some(options.clone())).await;
        let client = client.map_err(Failure::of_login)?;
        Ok((login.client.insert(client).clone(), renewals))
    }

    /// Gets a token in place of the one that the client had after so many `renewals`, unless another
    /// request has done that: those that come meanwhile wait for it. The connection stays, and its
    /// watches go on.
    async fn renew(&self, renewals: u64) -> Result<(), Failure> {
        let mut login = self.login.lock().await;
        if let Some(client) = login.client.clone().filter(|_| login.renewals == renewals) {
            client.refresh_token().await.map_err(Failure::of_login)?;
            login.renewals += 1;
        }
        Ok(())
    }
}

/// A server's turn. Where it failed, or was given up by a caller who did not want to wait any
/// longer, it is another one's next.
struct Turn<'a> {
    members: &'a Members,
    number: usize,
    stays: bool,
}

impl Turn<'_> {
    fn end(mut self, next: bool) {
        self.stays = !next;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut current = self.members.current.lock();
        if !self.stays && *current == self.number {
            *current = (self.number + 1) % self.members.members.len();
        }
    }
}
