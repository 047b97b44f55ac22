//! The connection that hears of changes.

use super::address::Settings;
use super::failure::Failure;
use super::link::Alive;
use super::session::{Session, Wire, Wired, open, set_up};
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

/// How often it is asked, while somebody watches, whether the server is still there; and how long
/// that answer may take.
const PING: Duration = Duration::from_secs(1);

/// A watch yields within this time, or ends.
pub(super) const WITHIN: Duration = Duration::from_secs(3);

/// The longest value that a notification has room for, in bytes: it takes less than 8000, two for
/// each byte, and has a key and a version too.
const LARGEST: usize = 3_800;

/// The channel to notify on, and whether the value goes along.
pub(super) fn channel(table: &str, wake: Wake, value: &[u8]) -> (Option<String>, bool) {
    let channel = match wake {
        Wake::Nobody => None,
        Wake::Node(node) => Some(format!("{table}:{node}")),
        Wake::Everybody => Some(table.to_owned()),
    };
    (channel, value.len() <= LARGEST)
}

/// The connection, and who listens.
pub(super) struct Listener {
    client: Arc<Client>,
    routes: Arc<Mutex<Routes>>,
    settings: Arc<Settings>,
    wire: AbortHandle,
}

type NoticeSender = watch::Sender<Option<Versioned>>;

/// Who is to be told.
#[derive(Default)]
struct Routes {
    is_closed: bool,
    next: u64,
    /// No node and no key without a bell.
    nodes: HashMap<NodeId, HashMap<Key, Vec<(u64, NoticeSender)>>>,
    /// What this connection is to hear first.
    hello: Option<(String, oneshot::Sender<()>)>,
}

impl Routes {
    fn add(&mut self, key: &Key, node: NodeId, notice_sender: NoticeSender) -> u64 {
        self.next += 1;
        let bells = self.nodes.entry(node).or_default().entry(key.clone()).or_default();
        bells.push((self.next, notice_sender));
        self.next
    }

    /// Whether nobody is left for this node.
    fn remove(&mut self, key: &Key, node: NodeId, number: u64) -> bool {
        let Some(keys) = self.nodes.get_mut(&node) else { return false };
        if let Some(bells) = keys.get_mut(key) {
            bells.retain(|(other, _)| *other != number);
            if bells.is_empty() {
                keys.remove(key);
            }
        }
        keys.is_empty() && self.nodes.remove(&node).is_some()
    }

    /// The bells of `key` that a notification on `channel` is for.
    fn bells(&self, table: &str, channel: &str, key: &Key) -> Vec<NoticeSender> {
        let number = |node: &str| u64::from_str_radix(node.strip_prefix(':')?, 16).ok();
        let nodes: Vec<_> = match channel.strip_prefix(table) {
            Some("") => self.nodes.values().collect(),
            Some(node) => {
                number(node).and_then(|n| self.nodes.get(&NodeId::new(n))).into_iter().collect()
            }
            None => vec![],
        };
        let bells = nodes.into_iter().filter_map(|keys| keys.get(key)).flatten();
        bells.map(|(_, notice_sender)| notice_sender.clone()).collect()
    }
}

/// Rings for what a notification says. What is not of ours is ignored.
fn ring(routes: &Mutex<Routes>, table: &str, said: &Notification) {
    if said.payload().starts_with(HELLO) {
        let hello = routes.lock().hello.take_if(|(hello, _)| hello == said.payload());
        hello.map(|(_, heard)| heard.send(()));
        return;
    }
    let Some((key, register)) = read(said.payload()) else { return };
    // Not under the lock: a waker may drop a watch, which takes it.
    let bells = routes.lock().bells(table, said.channel(), &key);
    for notice_sender in bells {
        notice_sender.send_replace(register.clone());
    }
}

/// `key version`, or `key version value` in hexadecimal digits.
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

impl Listener {
    /// Connects, and sees whether it hears what is said by way of `session`.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub(super) async fn connect(
        settings: Arc<Settings>,
        session: Arc<Session>,
    ) -> Result<Arc<Self>, Failure> {
        let (client, wire) = open(&settings).await?;
        let client = Arc::new(client);
        let routes = Arc::new(Mutex::new(Routes::default()));
        let (weak, table) = (Arc::downgrade(&client), settings.table.clone());
        let wire = Wired(tokio::spawn(hear(wire, weak, routes.clone(), table)).abort_handle());
        set_up(&client, &settings).await?;
        let listen = format!("LISTEN \"{}\"", settings.table);
        match timeout(settings.connect_timeout, client.batch_execute(&listen)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Failure::connecting(&settings.server, &error)),
            Err(_) => return Err(Failure::unreachable(&settings.server, "it does not answer")),
        }
        hello(&routes, &settings, &session).await?;
        Ok(Arc::new(Self { client, routes, wire: wire.keep(), settings }))
    }

    /// # Errors
    ///
    /// [`TransportError::Unavailable`].
    pub(super) async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let (ear, listening) = self.subscribe(key, node)?;
        match timeout(self.settings.timeout, listening).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(TransportError::unavailable(ENDED)),
            Err(_) => {
                self.wire.abort();
                return Err(TransportError::unavailable("no answer to LISTEN"));
            }
        }
        Ok(Box::pin(stream::unfold(Some(ear), |ear| async {
            let mut ear = ear?;
            match ear.rung.changed().await {
                Ok(()) => {
                    let register = ear.rung.borrow_and_update().clone();
                    Some((Ok(register), Some(ear)))
                }
                Err(_) => Some((Err(TransportError::unavailable(ENDED)), None)),
            }
        })))
    }

    /// The ear is in its place, and LISTEN is on its way: in the order of all who come and go.
    fn subscribe(&self, key: &Key, node: NodeId) -> Result<(Ear, Listening), TransportError> {
        let (notice_sender, rung) = watch::channel(None);
        let mut routes = self.routes.lock();
        if routes.is_closed {
            return Err(TransportError::unavailable(ENDED));
        }
        let ear = Ear {
            rung,
            number: routes.add(key, node, notice_sender),
            key: key.clone(),
            node,
            table: self.settings.table.clone(),
            client: Arc::downgrade(&self.client),
            routes: Arc::downgrade(&self.routes),
        };
        let listen = format!("LISTEN \"{}:{node}\"", self.settings.table);
        let listening = send(self.client.clone(), listen);
        Ok((ear, listening))
    }
}

const ENDED: &str = "the connection for notifications has ended";

type Listening = BoxFuture<'static, Result<(), tokio_postgres::Error>>;

/// Whether what is said is heard: through a pooler the server listens, but nobody is told.
async fn hello(
    routes: &Mutex<Routes>,
    settings: &Settings,
    session: &Session,
) -> Result<(), Failure> {
    let Settings { server, table, .. } = settings;
    let (tell, heard) = oneshot::channel();
    let hello = format!("{HELLO}{:016x}", fastrand::u64(..));
    let say = format!("SELECT pg_notify('{table}', '{hello}')");
    routes.lock().hello = Some((hello, tell));
    let said = session.batch(&say).await;
    said.map_err(|told| Failure::unreachable(server, told.error.to_string()))?;
    match timeout(settings.connect_timeout, heard).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Failure::unreachable(server, ENDED)),
        Err(_) => {
            let why = "nothing is heard after LISTEN: if a transaction pooler is in between, add \
                       pooled=true to the address";
            Err(Failure::unsuitable(server, why))
        }
    }
}

/// What no key begins with.
const HELLO: char = '?';

/// Sends a statement at once; the answer comes by the future.
fn send(client: Arc<Client>, text: String) -> Listening {
    let mut response = async move { client.batch_execute(&text).await }.boxed();
    match response.as_mut().now_or_never() {
        Some(done) => std::future::ready(done).boxed(),
        None => response,
    }
}

impl Alive for Listener {
    fn is_alive(&self) -> bool {
        !self.client.is_closed() && !self.routes.lock().is_closed
    }
}

/// One watch.
struct Ear {
    rung: watch::Receiver<Option<Versioned>>,
    number: u64,
    key: Key,
    node: NodeId,
    table: String,
    client: Weak<Client>,
    routes: Weak<Mutex<Routes>>,
}

impl Drop for Ear {
    fn drop(&mut self) {
        let (Some(routes), client) = (self.routes.upgrade(), self.client.upgrade()) else { return };
        let mut routes = routes.lock();
        if routes.remove(&self.key, self.node, self.number)
            && let Some(client) = client
        {
            // Nobody needs the answer.
            drop(send(client, format!("UNLISTEN \"{}:{}\"", self.table, self.node)));
        }
    }
}

/// Ends all watches when the connection is gone, however that happens.
struct Closing(Arc<Mutex<Routes>>);

impl Drop for Closing {
    fn drop(&mut self) {
        let mut routes = self.0.lock();
        routes.is_closed = true;
        let ended = (std::mem::take(&mut routes.nodes), routes.hello.take());
        drop(routes);
        drop(ended);
    }
}

/// Hears until the connection ends, or does not answer.
async fn hear(mut wire: Wire, client: Weak<Client>, routes: Arc<Mutex<Routes>>, table: String) {
    let closing = Closing(routes);
    let routes = &closing.0;
    let mut messages = stream::poll_fn(move |cx| wire.poll_message(cx));
    let hearing = pin!(async {
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(said) = message {
                ring(routes, &table, &said);
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
    select(hearing, asking).await;
}
