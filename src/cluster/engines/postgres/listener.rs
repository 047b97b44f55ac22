//! The connection that receives notifications of changes. It leads to the server that the requests go to, and ends
//! with their connection: after a failover the old primary may go on, but nothing is written there.

use super::builder::PostgresConfig;
use super::session::{CheckAlive, ConnectionTask, PostgresConnection, Session, open, set_up};
use super::sql::{CAN_NOTIFY, PostgresFailure, wait_for};
use crate::Mutex;
use crate::cluster::engines::hint;
use crate::cluster::{Key, NodeId, TransportError, Wake, Watch};
use futures_util::future::{BoxFuture, select};
use futures_util::{FutureExt, StreamExt, stream};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Notification, SimpleQueryMessage};

/// How often the server is asked whether it is there, while there is a watch; and how long the answer
/// may take.
const PING: Duration = Duration::from_secs(1);

/// The longest time until a watch has yielded or ended.
pub(super) const WAKE_WITHIN: Duration = Duration::from_secs(3);

/// The channel to notify.
pub(super) fn channel(table: &str, wake: Wake) -> Option<String> {
    match wake {
        Wake::Nobody => None,
        Wake::Node(node) => Some(format!("{table}:{node}")),
        Wake::Everybody => Some(table.to_owned()),
    }
}

/// What a notification of a change of `key` carries.
pub(super) fn hint(key: &Key) -> String {
    hint::of(key.as_str())
}

/// The connection, and the watches that it serves.
pub(super) struct NotificationListener {
    client: Arc<Client>,
    routes: Arc<Mutex<NotificationRoutes>>,
    config: Arc<PostgresConfig>,
    task: AbortHandle,
}

type NoticeSender = watch::Sender<()>;

/// The watches, by node and by the hint of their key.
#[derive(Default)]
struct NotificationRoutes {
    is_closed: bool,
    next: u64,
    /// There is no entry of a node or a key without a watch.
    nodes: HashMap<NodeId, HashMap<String, Vec<(u64, NoticeSender)>>>,
    /// The notification that this connection has to receive first.
    hello: Option<(String, oneshot::Sender<()>)>,
}

impl NotificationRoutes {
    fn add(&mut self, hint: String, node: NodeId, notice_sender: NoticeSender) -> u64 {
        self.next += 1;
        let senders = self.nodes.entry(node).or_default().entry(hint).or_default();
        senders.push((self.next, notice_sender));
        self.next
    }

    /// Removes a watch, and returns whether it was the last one of its node.
    fn remove(&mut self, hint: &str, node: NodeId, number: u64) -> bool {
        let Some(keys) = self.nodes.get_mut(&node) else { return false };
        if let Some(senders) = keys.get_mut(hint) {
            senders.retain(|(other, _)| *other != number);
            if senders.is_empty() {
                keys.remove(hint);
            }
        }
        keys.is_empty() && self.nodes.remove(&node).is_some()
    }

    /// The watches that a notification on `channel` concerns.
    fn senders(&self, table: &str, channel: &str, hint: &str) -> Vec<NoticeSender> {
        let number = |node: &str| u64::from_str_radix(node.strip_prefix(':')?, 16).ok();
        let nodes: Vec<_> = match channel.strip_prefix(table) {
            Some("") => self.nodes.values().collect(),
            Some(node) => {
                number(node).and_then(|n| self.nodes.get(&NodeId::new(n))).into_iter().collect()
            }
            None => vec![],
        };
        let senders = nodes.into_iter().filter_map(|keys| keys.get(hint)).flatten();
        senders.map(|(_, notice_sender)| notice_sender.clone()).collect()
    }
}

/// Passes a notification on to the watches that it concerns. Anybody may have sent it; one that is not
/// the hint of a watched key is ignored.
fn deliver(routes: &Mutex<NotificationRoutes>, table: &str, said: &Notification) {
    if said.payload().starts_with(HELLO) {
        let hello = routes.lock().hello.take_if(|(hello, _)| hello == said.payload());
        hello.map(|(_, heard)| heard.send(()));
        return;
    }
    // Not under the lock: a waker may drop a watch, which takes the lock.
    let senders = routes.lock().senders(table, said.channel(), said.payload());
    for notice_sender in senders {
        notice_sender.send_replace(());
    }
}

impl NotificationListener {
    /// Connects, and checks that it receives a notification that is sent over `session`. If the address leads to
    /// another server by now, `session` ends.
    ///
    /// # Errors
    ///
    /// [`PostgresFailure`].
    pub(super) async fn connect(
        config: Arc<PostgresConfig>,
        session: Arc<Session>,
    ) -> Result<Arc<Self>, PostgresFailure> {
        let (client, connection) = open(&config).await?;
        let client = Arc::new(client);
        let routes = Arc::new(Mutex::new(NotificationRoutes::default()));
        let (weak, table) = (Arc::downgrade(&client), config.table.clone());
        let (receiver_routes, requests_ended) = (routes.clone(), session.ended());
        let task = ConnectionTask(
            tokio::spawn(async move {
                let receiving = receive(connection, weak, receiver_routes, table);
                select(pin!(receiving), pin!(requests_ended)).await;
            })
            .abort_handle(),
        );
        let facts = set_up(&client, &config).await?;
        if facts.started != session.facts.started {
            session.kill();
            let why = "the address leads to another server than before";
            return Err(PostgresFailure::unreachable(&config.server, why));
        }
        if !facts.can_notify {
            let why = "its queue is full, or this user may not execute pg_notify(text, text)";
            return Err(PostgresFailure::of_notices(&config.server, why));
        }
        let listen = format!("LISTEN \"{}\"", config.table);
        match timeout(config.connect_timeout, client.batch_execute(&listen)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(PostgresFailure::of_connecting(&config.server, &error)),
            Err(_) => {
                return Err(PostgresFailure::unreachable(&config.server, "it does not answer"));
            }
        }
        check_notifications(&routes, &config, &session).await?;
        Ok(Arc::new(Self { client, routes, task: task.keep(), config }))
    }

    /// A watch of `key` for `node`. It is in force when this returns.
    ///
    /// # Errors
    ///
    /// [`TransportError::Unavailable`].
    pub(super) async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let (watch, listening) = self.subscribe(key, node)?;
        match timeout(self.config.timeout, listening).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(TransportError::unavailable(ENDED)),
            Err(_) => {
                self.task.abort();
                return Err(TransportError::unavailable("no answer to LISTEN"));
            }
        }
        Ok(Box::pin(stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            match watch.notices.changed().await {
                Ok(()) => Some((Ok(None), Some(watch))),
                Err(_) => Some((Err(TransportError::unavailable(ENDED)), None)),
            }
        })))
    }

    /// Adds a watch, and sends LISTEN. Both happen under one lock, so that the server receives LISTEN
    /// and UNLISTEN in the order in which watches come and go.
    fn subscribe(
        &self,
        key: &Key,
        node: NodeId,
    ) -> Result<(PostgresWatch, ListenFuture), TransportError> {
        let (notice_sender, notices) = watch::channel(());
        let hint = hint(key);
        let mut routes = self.routes.lock();
        if routes.is_closed {
            return Err(TransportError::unavailable(ENDED));
        }
        let watch = PostgresWatch {
            notices,
            number: routes.add(hint.clone(), node, notice_sender),
            hint,
            node,
            table: self.config.table.clone(),
            client: Arc::downgrade(&self.client),
            routes: Arc::downgrade(&self.routes),
        };
        let listen = format!("LISTEN \"{}:{node}\"", self.config.table);
        let listening = send(self.client.clone(), listen);
        Ok((watch, listening))
    }
}

const ENDED: &str = "the connection for notifications has ended";

type ListenFuture = BoxFuture<'static, Result<(), tokio_postgres::Error>>;

/// Checks that notifications arrive. Through a transaction pooler LISTEN succeeds, and none arrives.
async fn check_notifications(
    routes: &Mutex<NotificationRoutes>,
    config: &PostgresConfig,
    session: &Session,
) -> Result<(), PostgresFailure> {
    let PostgresConfig { server, table, .. } = config;
    let (tell, heard) = oneshot::channel();
    let hello = format!("{HELLO}{:016x}", fastrand::u64(..));
    // Others that notify may have the turn at the commit for long.
    let patient = wait_for(config.limits.notice);
    let say =
        format!("SELECT CASE WHEN {patient} THEN pg_notify('{table}', '{hello}') IS NULL END");
    routes.lock().hello = Some((hello, tell));
    session.batch(&say).await.map_err(|failure| {
        let why = failure.error.to_string();
        match failure.refused {
            Some(code) if code != SqlState::LOCK_NOT_AVAILABLE => {
                PostgresFailure::of_notices(server, why)
            }
            _ => PostgresFailure::unreachable(server, why),
        }
    })?;
    match timeout(config.connect_timeout, heard).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(PostgresFailure::unreachable(server, ENDED)),
        Err(_) => {
            let why = "no notification arrives after LISTEN: if a transaction pooler is in between, \
                       add pooled=true to the address";
            Err(PostgresFailure::unsuitable(server, why))
        }
    }
}

/// No hint begins with this.
const HELLO: char = '?';

/// Sends a statement at once. The future waits for the answer.
fn send(client: Arc<Client>, text: String) -> ListenFuture {
    let mut response = async move { client.batch_execute(&text).await }.boxed();
    match response.as_mut().now_or_never() {
        Some(done) => std::future::ready(done).boxed(),
        None => response,
    }
}

impl CheckAlive for NotificationListener {
    fn is_alive(&self) -> bool {
        !self.client.is_closed() && !self.routes.lock().is_closed
    }
}

/// One watch. Dropping it ends it.
struct PostgresWatch {
    notices: watch::Receiver<()>,
    number: u64,
    hint: String,
    node: NodeId,
    table: String,
    client: Weak<Client>,
    routes: Weak<Mutex<NotificationRoutes>>,
}

impl Drop for PostgresWatch {
    fn drop(&mut self) {
        let (Some(routes), client) = (self.routes.upgrade(), self.client.upgrade()) else { return };
        let mut routes = routes.lock();
        if routes.remove(&self.hint, self.node, self.number)
            && let Some(client) = client
        {
            // The answer does not matter.
            drop(send(client, format!("UNLISTEN \"{}:{}\"", self.table, self.node)));
        }
    }
}

/// Ends all watches when the connection has ended, in whatever way.
struct CloseOnDrop(Arc<Mutex<NotificationRoutes>>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        let mut routes = self.0.lock();
        routes.is_closed = true;
        let ended = (std::mem::take(&mut routes.nodes), routes.hello.take());
        drop(routes);
        drop(ended);
    }
}

/// Whether the server answers, and notifications can be sent: those of others are refused when this
/// user's are, or there is no room for them.
async fn hears(client: &Client) -> bool {
    let Ok(said) = client.simple_query(&format!("SELECT {CAN_NOTIFY}")).await else { return false };
    said.iter().any(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0) == Some("t"),
        _ => false,
    })
}

/// Receives notifications until the connection ends, the server does not answer, or none can be sent.
async fn receive(
    mut connection: PostgresConnection,
    client: Weak<Client>,
    routes: Arc<Mutex<NotificationRoutes>>,
    table: String,
) {
    let closing = CloseOnDrop(routes);
    let routes = &closing.0;
    let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
    let receiving = pin!(async {
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(said) = message {
                deliver(routes, &table, &said);
            }
        }
    });
    let asking = pin!(async {
        loop {
            sleep(PING).await;
            if routes.lock().nodes.is_empty() {
                continue;
            }
            let Some(client) = client.upgrade() else { return };
            if !matches!(timeout(PING, hears(&client)).await, Ok(true)) {
                return;
            }
        }
    });
    select(receiving, asking).await;
}
