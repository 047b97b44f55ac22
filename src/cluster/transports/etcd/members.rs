//! The servers of the cluster, and which of them is asked.
//!
//! There is a client for each server, made when it is first needed, so that it is known which server
//! failed, and so that a request that was certainly not sent goes to another one. The client library
//! can spread requests over servers by itself, but asks the dead ones as often as the others.

use super::failure::{Failure, Kind};
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
    client: tokio::sync::Mutex<Option<Client>>,
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
        let member = |(name, endpoint)| Member { name, endpoint, client: Default::default() };
        let members = servers.into_iter().map(member).collect();
        Self { members, options, current: Mutex::new(0), request_timeout }
    }

    /// The names, for messages.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| &*member.name)
    }

    /// Has `request` be made of the current server, and of the next ones while it fails and may be
    /// made again. Ends within the request timeout.
    pub(super) async fn ask<T, E: Into<Failure>>(
        &self,
        effect: Effect,
        request: impl Request<T, E>,
    ) -> Result<T, Failure> {
        self.ask_each(effect, request).await.map_err(|(_, failure)| failure)
    }

    /// The same; an error comes with the server's name.
    pub(super) async fn ask_each<T, E: Into<Failure>>(
        &self,
        effect: Effect,
        request: impl Request<T, E>,
    ) -> Result<T, (String, Failure)> {
        let end = Instant::now() + self.request_timeout;
        let mut left = self.members.len();
        let mut worst: Option<(String, Failure)> = None;
        loop {
            let turn = Turn { members: self, number: *self.current.lock(), stays: false };
            let member = &self.members[turn.number];
            left = left.saturating_sub(1);
            let failure = match self.ask_one(member, effect, left == 0, end, &request).await {
                Ok(answer) => {
                    turn.end(false);
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            // Another server would deny the same; but a certificate is each server's own.
            let next = matches!(failure.kind, Kind::Passing | Kind::Doubt | Kind::Untrusted);
            let again = next && (failure.kind != Kind::Doubt || effect == Effect::None);
            turn.end(next);
            let telling = |failure: &Failure| !matches!(failure.kind, Kind::Passing | Kind::Doubt);
            let replace = !again || worst.as_ref().is_none_or(|(_, worst)| !telling(worst));
            if replace {
                worst = Some((member.name.clone(), failure));
            }
            if !again || left == 0 || Instant::now() >= end {
                let nothing = || (String::new(), Failure::new(Kind::Passing, "no server is known"));
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
        let client = match timeout_at(dialled, member.client(&self.options)).await {
            Ok(client) => client?,
            Err(_) => return Err(Failure::new(Kind::Passing, "no connection in time")),
        };
        let until = if effect == Effect::Writes { end } else { Instant::now() + share(last) };
        let Ok(answer) = timeout_at(until.min(end), request.of(client)).await else {
            return Err(Failure::new(Kind::Doubt, "no answer in time"));
        };
        let answer = answer.map_err(Into::into);
        if answer.as_ref().is_err_and(Failure::is_dead_client) {
            *member.client.lock().await = None;
        }
        answer
    }
}

impl Member {
    /// The client. Makes the connection if there was none yet; one that broke is renewed by the
    /// client itself, at the next request.
    async fn client(&self, options: &ConnectOptions) -> Result<Client, Failure> {
        let mut slot = self.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let dialled = self.endpoint.connect().await;
        let channel = Channel::Tonic(dialled.map_err(|why| Failure::of_dialling(&why))?);
        // Gets a token, if there is a user. Nothing of ours is written by that.
        let client = Client::from_channel(channel, Some(options.clone())).await;
        let client = client.map_err(Failure::from).map_err(|failure| match failure.kind {
            Kind::Doubt => Failure { kind: Kind::Passing, ..failure },
            _ => failure,
        })?;
        Ok(slot.insert(client).clone())
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
