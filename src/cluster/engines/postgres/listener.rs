//! The connection that receives notifications of changes.

use super::builder::PostgresConfig;
use super::session::{CheckAlive, ConnectionTask, PostgresConnection, Session, open, set_up};
use super::sql::PostgresFailure;
use crate::Mutex;
use crate::cluster::{Key, NodeId, TransportError, Version, Versioned, Wake, Watch};
use futures_util::future::{BoxFuture, select};
use futures_util::{FutureExt, StreamExt, stream};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, Notification};

/// How often the server is asked whether it is there, while there is a watch; and how long the answer
/// may take.
const PING: Duration = Duration::from_secs(1);

/// The longest time until a watch has yielded or ended.
pub(super) const WAKE_WITHIN: Duration = Duration::from_secs(3);

/// The longest value that is part of a notification, in bytes. A notification has less than 8000 bytes:
/// a key, a version, and two digits for each byte of the value.
const LARGEST_NOTIFIED: usize = 3_800;

/// The channel to notify, and whether the value is part of the notification.
pub(super) fn channel(table: &str, wake: Wake, value: &[u8]) -> (Option<String>, bool) {
    let channel = match wake {
        Wake::Nobody => None,
        Wake::Node(node) => Some(format!("{table}:{node}")),
        Wake::Everybody => Some(table.to_owned()),
    };
    (channel, value.len() <= LARGEST_NOTIFIED)
}

/// The connection, and the watches that it serves.
pub(super) struct NotificationListener {
    client: Arc<Client>,
    routes: Arc<Mutex<NotificationRoutes>>,
    config: Arc<PostgresConfig>,
    task: AbortHandle,
}

type NoticeSender = watch::Sender<Option<Versioned>>;

/// The watches, by node and key.
#[derive(Default)]
struct NotificationRoutes {
    is_closed: bool,
    next: u64,
    /// There is no entry of a node or a key without a watch.
    nodes: HashMap<NodeId, HashMap<Key, Vec<(u64, NoticeSender)>>>,
    /// The notification that this connection has to receive first.
    hello: Option<(String, oneshot::Sender<()>)>,
}

impl NotificationRoutes {
    fn add(&mut self, key: &Key, node: NodeId, notice_sender: NoticeSender) -> u64 {
        self.next += 1;
        let senders = self.nodes.entry(node).or_default().entry(key.clone()).or_default();
        senders.push((self.next, notice_sender));
        self.next
    }

    /// Removes a watch, and returns whether it was the last one of its node.
    fn remove(&mut self, key: &Key, node: NodeId, number: u64) -> bool {
        let Some(keys) = self.nodes.get_mut(&node) else { return false };
        if let Some(senders) = keys.get_mut(key) {
            senders.retain(|(other, _)| *other != number);
            if senders.is_empty() {
                keys.remove(key);
            }
        }
        keys.is_empty() && self.nodes.remove(&node).is_some()
    }

    /// The watches of `key` that a notification on `channel` concerns.
    fn senders(&self, table: &str, channel: &str, key: &Key) -> Vec<NoticeSender> {
        let number = |node: &str| u64::from_str_radix(node.strip_prefix(':')?, 16).ok();
        let nodes: Vec<_> = match channel.strip_prefix(table) {
            Some("") => self.nodes.values().collect(),
            Some(node) => {
                number(node).and_then(|n| self.nodes.get(&NodeId::new(n))).into_iter().collect()
            }
            None => vec![],
        };
        let senders = nodes.into_iter().filter_map(|keys| keys.get(key)).flatten();
        senders.map(|(_, notice_sender)| notice_sender.clone()).collect()
    }
}

/// Passes a notification on to the watches that it concerns. One that lockword did not send is ignored.
fn deliver(routes: &Mutex<NotificationRoutes>, table: &str, said: &Notification) {
    if said.payload().starts_with(HELLO) {
        let hello = routes.lock().hello.take_if(|(hello, _)| hello == said.payload());
        hello.map(|(_, heard)| heard.send(()));
        return;
    }
    let Some((key, register)) = read(said.payload()) else { return };
    // Not under the lock: a waker may drop a watch, which takes the lock.
    let senders = routes.lock().senders(table, said.channel(), &key);
    for notice_sender in senders {
        notice_sender.send_replace(register.clone());
    }
}

/// Reads `key version`, or `key version value` with the value in hexadecimal digits.
fn read(payload: &str) -> Option<(Key, Option<Versioned>)> {
    let mut parts = payload.split(' ');
    let key = Key::new(parts.next()?).ok()?;
    let version = parts.next().and_then(|number| number.parse().ok());
    let version = version.and_then(|number| Version::new(number).ok());
    let value = parts.next().and_then(|digits| {
        let pairs = digits.as_bytes().chunks(2);
        pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
    });
    let register = version.zip(value).map(|(version, value)| Versioned { version, value });
    Some((key, register))
}

impl NotificationListener {
    /// Connects, and checks that it receives a notification that is sent over `session`.
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
        let task = ConnectionTask(
            tokio::spawn(receive(connection, weak, routes.clone(), table)).abort_handle(),
        );
        set_up(&client, &config).await?;
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
                Ok(()) => {
                    let register = watch.notices.borrow_and_update().clone();
                    Some((Ok(register), Some(watch)))
                }
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
        let (notice_sender, notices) = watch::channel(None);
        let mut routes = self.routes.lock();
        if routes.is_closed {
            return Err(TransportError::unavailable(ENDED));
        }
        let watch = PostgresWatch {
            notices,
            number: routes.add(key, node, notice_sender),
            key: key.clone(),
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
    let say = format!("SELECT pg_notify('{table}', '{hello}')");
    routes.lock().hello = Some((hello, tell));
    let said = session.batch(&say).await;
    said.map_err(|failure| PostgresFailure::unreachable(server, failure.error.to_string()))?;
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

/// No key begins with this.
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
    notices: watch::Receiver<Option<Versioned>>,
    number: u64,
    key: Key,
    node: NodeId,
    table: String,
    client: Weak<Client>,
    routes: Weak<Mutex<NotificationRoutes>>,
}

impl Drop for PostgresWatch {
    fn drop(&mut self) {
        let (Some(routes), client) = (self.routes.upgrade(), self.client.upgrade()) else { return };
        let mut routes = routes.lock();
        if routes.remove(&self.key, self.node, self.number)
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

/// Receives notifications until the connection ends, or the server does not answer.
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
            if !matches!(timeout(PING, client.batch_execute("")).await, Ok(Ok(()))) {
                return;
            }
        }
    });
    select(receiving, asking).await;
}
