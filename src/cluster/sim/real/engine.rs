//! The virtual engine, and the network between it and the nodes.
//!
//! The engine is a linearizable register for each key. A request leaves its node when its future is
//! polled for the first time, arrives after a latency, is served when its turn comes, and the response
//! travels back; whether the future still exists then does not matter to the engine. On the way it
//! meets the faults of the [profile](super::profile).
//!
//! The engine remembers which versions it has told each node in an answer. A write that expects any
//! other version was built on a hint, and breaks a rule. It may go back to an older state: see
//! [`returns`](super::returns).

use super::returns::Returns;
use super::world::{US, World};
use crate::cluster::key::Key;
use crate::cluster::process::virtual_child;
use crate::cluster::protocol::force_release;
use crate::cluster::protocol::register::Register;
use crate::cluster::sim::network::{Author, Store};
use crate::cluster::sim::world::{MS, Moment};
use crate::cluster::transport::{
    Capabilities, Consistency, Exchange, NodeId, Notices, Transport, TransportError, Version,
    Versioned, Wake, Wakeups, Watch, Write,
};
use async_trait::async_trait;
use futures_util::stream::poll_fn;
use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// How long a request is served, and how long while the engine is overloaded.
const SERVICE: [Moment; 2] = [10 * US, 50 * US];
const OVERLOADED_SERVICE: [Moment; 2] = [5 * MS, 60 * MS];

/// The engine.
pub(super) struct Engine {
    pub(super) stores: Vec<Store>,
    watchers: Vec<Watcher>,
    /// When it has served all that has arrived.
    pub(super) free_at: Moment,
    /// Until when it is stopped, and overloaded.
    pub(super) stopped_until: Moment,
    pub(super) overloaded_until: Moment,
    /// What was told in answers: the node, the key, and the version.
    pub(super) told: BTreeSet<Told>,
    /// By key: when each write took effect.
    written_at: Vec<Vec<Moment>>,
    pub(super) returns: Returns,
}

/// A node was told of a version of a key.
pub(super) type Told = (usize, usize, Version);

/// A watch that is in force.
struct Watcher {
    node: usize,
    key: usize,
    items: Items,
}

type Items = mpsc::UnboundedSender<Result<Option<Versioned>, TransportError>>;

/// The engine's client of one node.
pub(super) struct EngineClient {
    world: Arc<World>,
    node: usize,
    /// It has so many requests in flight at most. The others wait for their turn within the client.
    in_flight: Semaphore,
}

#[derive(Clone)]
pub(super) enum Request {
    Load,
    Exchange(Option<Version>, Write),
    Watch(Items),
}

pub(super) enum Response {
    Loaded(Option<Versioned>),
    Exchanged(Exchange),
    Watching,
}

/// Where the response of a request goes. Nothing comes if it is dropped.
type Answer = oneshot::Sender<Result<Response, TransportError>>;

impl Engine {
    pub(super) fn new(keys: usize) -> Self {
        Self {
            stores: (0..keys).map(|_| Store::default()).collect(),
            watchers: vec![],
            free_at: 0,
            stopped_until: 0,
            overloaded_until: 0,
            told: BTreeSet::new(),
            written_at: vec![vec![]; keys],
            returns: Returns::new(keys),
        }
    }

    /// When this write of a key took effect.
    pub(super) fn written_at(&self, key: usize, number: usize) -> Moment {
        self.written_at[key][number]
    }

    /// A copy of a node knows what that knows.
    pub(super) fn copy_told(&mut self, node: usize, copy: usize) {
        let told: Vec<_> = self.told.iter().filter(|told| told.0 == node).copied().collect();
        self.told.extend(told.into_iter().map(|(_, key, version)| (copy, key, version)));
        self.returns.copy(node, copy);
    }

    fn tell(&mut self, node: usize, key: usize, seen: Option<&Versioned>) {
        self.told.extend(seen.map(|seen| (node, key, seen.version)));
    }
}

impl EngineClient {
    pub(super) fn new(world: Arc<World>, node: usize) -> Self {
        let in_flight = Semaphore::new(world.profile.in_flight);
        Self { world, node, in_flight }
    }

    async fn request(&self, key: &Key, request: Request) -> Result<Response, TransportError> {
        let Self { world, node, in_flight } = self;
        if virtual_child::is_running() {
            world.violate(format!("a child of {node} sends a request"));
        }
        let key = world.key_index(key);
        let by = if world.is_operator_polled() { Author::Operator } else { Author::Node(*node) };
        let _turn = in_flight.acquire().await;
        let known = world.check_request(*node, key, by, &request);
        let (answer, response) = oneshot::channel();
        world.send(*node, key, by, request, answer);
        let response = match response.await {
            Ok(response) => response?,
            Err(_) => pending().await,
        };
        world.answered(*node, key, by, known, &response);
        Ok(response)
    }
}

#[async_trait]
impl Transport for EngineClient {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        match self.request(key, Request::Load).await? {
            Response::Loaded(seen) => Ok(seen),
            _ => unreachable!("the response is of the request's kind"),
        }
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        match self.request(key, Request::Exchange(expected, new)).await? {
            Response::Exchanged(exchanged) => Ok(exchanged),
            _ => unreachable!("the response is of the request's kind"),
        }
    }

    async fn watch(&self, key: &Key, _: NodeId) -> Result<Watch, TransportError> {
        let (items, mut watched) = mpsc::unbounded_channel();
        self.request(key, Request::Watch(items)).await?;
        Ok(Box::pin(poll_fn(move |cx| watched.poll_recv(cx))))
    }

    fn capabilities(&self) -> Capabilities {
        let is_hint = self.world.profile.items_are_hints;
        let notices = if is_hint { Notices::Hints } else { Notices::Answers };
        let is_lossy = self.world.profile.is_lossy;
        let consistency = if is_lossy { Consistency::Lossy } else { Consistency::Linearizable };
        let wakeups = self.world.wakeups;
        Capabilities { consistency, wakeups, notices, ..Capabilities::new("virtual") }
    }
}

// ---- Requests ----

impl World {
    fn key_index(&self, key: &Key) -> usize {
        self.keys.iter().position(|known| known == key).expect("a key of this run")
    }

    pub(super) fn latency(&self) -> Moment {
        self.between(self.profile.latency)
    }

    /// The latency of a message, and now and then a delay.
    fn travel_time(&self) -> Moment {
        let delay =
            if self.fault(self.profile.delayed) { self.below(self.profile.max_delay) } else { 0 };
        self.latency() + delay
    }

    /// A request leaves its node.
    fn send(
        self: &Arc<Self>,
        node: usize,
        key: usize,
        by: Author,
        request: Request,
        answer: Answer,
    ) {
        let profile = &self.profile;
        let after = self.travel_time();
        if self.fault(profile.refused) {
            self.record(format_args!("engine: it refuses a request of {node}"));
            return self.respond(node, after, answer, Err(TransportError::unavailable("refused")));
        }
        let mut answer = Some(answer);
        if matches!(request, Request::Exchange(..)) && self.fault(profile.indeterminate) {
            self.record(format_args!("engine: the connection of {node}'s write is reset"));
            let error = Err(TransportError::indeterminate("the connection was reset"));
            let answer = answer.take().expect("no response was sent yet");
            self.respond(node, self.latency(), answer, error);
        }
        if self.fault(profile.request_lost) {
            return self.record(format_args!("engine: a request of {node} is lost"));
        }
        self.after(after, move |world| world.arrive(node, key, by, request, answer));
    }

    /// A request arrives at the engine, and waits for its turn.
    fn arrive(
        &self,
        node: usize,
        key: usize,
        by: Author,
        request: Request,
        answer: Option<Answer>,
    ) {
        if self.nodes.lock()[node].is_partitioned {
            return self.record(format_args!("engine: a request of {node} is cut off"));
        }
        let now = self.now();
        let mut engine = self.engine.lock();
        if engine.stopped_until > now {
            let until = engine.stopped_until - now;
            drop(engine);
            // What has arrived at a process that is stopped is read when that goes on.
            if self.chance(500) {
                let after = until + self.latency();
                self.after(after, move |world| world.arrive(node, key, by, request, answer));
            }
            return;
        }
        let service = if engine.overloaded_until > now { OVERLOADED_SERVICE } else { SERVICE };
        engine.free_at = engine.free_at.max(now) + self.between(service);
        let after = engine.free_at - now;
        drop(engine);
        self.after(after, move |world| world.serve(node, key, by, request, answer));
    }

    fn serve(
        self: &Arc<Self>,
        node: usize,
        key: usize,
        by: Author,
        request: Request,
        answer: Option<Answer>,
    ) {
        let response = match request {
            Request::Load => {
                let seen = self.engine.lock().stores[key].load();
                self.record(format_args!("engine: {node} loads {key}: {}", show(seen.as_ref())));
                Response::Loaded(seen)
            }
            Request::Exchange(expected, write) => {
                let basis = expected.map(|version| (node, key, version));
                let engine = self.engine.lock();
                let is_void = basis.is_some_and(|basis| engine.returns.is_void(&basis));
                let is_known = basis.is_none_or(|basis| is_void || engine.told.contains(&basis));
                let is_next = engine.stores[key].version() == expected;
                drop(engine);
                if !is_known {
                    self.violate(format!("{node} writes by a version that no answer had"));
                }
                if by == Author::Operator && is_next {
                    // The holder is not asked, and goes on.
                    self.excuse_all(key);
                }
                let Some(exchanged) = self.exchange(key, expected, &write, by) else { return };
                if is_void && matches!(exchanged, Exchange::Swapped(_)) {
                    self.overwritten(key);
                }
                Response::Exchanged(exchanged)
            }
            Request::Watch(items) => {
                self.record(format_args!("engine: {node} watches {key}"));
                self.engine.lock().watchers.push(Watcher { node, key, items });
                Response::Watching
            }
        };
        let mut engine = self.engine.lock();
        match &response {
            Response::Loaded(seen) | Response::Exchanged(Exchange::Mismatch(seen)) => {
                engine.tell(node, key, seen.as_ref());
            }
            Response::Exchanged(Exchange::Swapped(version)) => {
                engine.told.insert((node, key, *version));
            }
            Response::Watching => {}
        }
        drop(engine);
        if self.fault(self.profile.response_lost) {
            return self.record(format_args!("engine: a response to {node} is lost"));
        }
        if let Some(answer) = answer {
            self.respond(node, self.travel_time(), answer, Ok(response));
        }
        self.check_guards();
    }

    fn respond(
        &self,
        node: usize,
        after: Moment,
        answer: Answer,
        response: Result<Response, TransportError>,
    ) {
        self.after(after, move |world| {
            if !world.nodes.lock()[node].is_partitioned {
                // It may be that nobody waits for it any more.
                let _ = answer.send(response);
            }
        });
    }

    /// Performs a write. `None` if it breaks the contract of the transport.
    pub(super) fn exchange(
        self: &Arc<Self>,
        key: usize,
        expected: Option<Version>,
        write: &Write,
        by: Author,
    ) -> Option<Exchange> {
        let step = if self.chance(300) { 1 + self.below(999) } else { 1 };
        let exchanged = self.engine.lock().stores[key].exchange(expected, write, by, step);
        match exchanged {
            Ok(exchanged) => {
                self.record(format_args!(
                    "engine: {by:?} writes {key}, expecting {}: {}",
                    expected.map_or(0, Version::get),
                    match &exchanged {
                        Exchange::Swapped(version) => {
                            format!("{version} = {}", String::from_utf8_lossy(&write.value))
                        }
                        Exchange::Mismatch(seen) => format!("no, it is {}", show(seen.as_ref())),
                    }
                ));
                if let Exchange::Swapped(version) = exchanged {
                    self.engine.lock().written_at[key].push(self.now());
                    self.note_holder(key, by);
                    self.check_renewal(key, by);
                    self.checks.lock().counts.writes += 1;
                    if let (true, Some(retention)) = (write.idle, self.profile.retention) {
                        self.after(retention, move |world| {
                            if world.engine.lock().stores[key].drop_if_idle(version) {
                                world.record(format_args!("engine: the idle {key} is dropped"));
                            }
                        });
                    }
                    self.notify(key, write.wake);
                }
                Some(exchanged)
            }
            Err(why) => {
                self.violate(why);
                None
            }
        }
    }

    /// An operator releases the lock of a key by force.
    pub(super) fn force_release(self: &Arc<Self>, key: usize) {
        let seen = self.engine.lock().stores[key].load();
        let register = seen.as_ref().map(|seen| Register::decode(&seen.value));
        let write = register.and_then(Result::ok).and_then(|register| force_release(&register));
        if let (Some(seen), Some(write)) = (seen, write) {
            self.excuse_all(key);
            self.exchange(key, Some(seen.version), &write, Author::Operator);
        }
    }
}

// ---- Watches ----

impl World {
    /// Tells the watches of a key of a write.
    fn notify(self: &Arc<Self>, key: usize, wake: Wake) {
        let mut engine = self.engine.lock();
        engine.watchers.retain(|watcher| !watcher.items.is_closed());
        let ids: Vec<_> = self.nodes.lock().iter().map(|node| node.id).collect();
        let wakes = |watcher: &&Watcher| match (self.wakeups, wake) {
            _ if watcher.key != key => false,
            (Wakeups::Poll, _) => false,
            (Wakeups::PushToAll, _) | (_, Wake::Everybody) => true,
            (_, Wake::Node(id)) => id == ids[watcher.node],
            (_, Wake::Nobody) => false,
        };
        let chosen = engine.watchers.iter().filter(wakes);
        let chosen: Vec<_> = chosen.map(|watcher| (watcher.node, watcher.items.clone())).collect();
        let seen = engine.stores[key].load();
        drop(engine);
        for (node, items) in chosen {
            if self.fault(self.profile.item_lost) {
                self.record(format_args!("engine: an item for {node} is lost"));
                continue;
            }
            for _ in 0..1 + u8::from(self.fault(self.profile.item_twice)) {
                let is_empty = self.fault(self.profile.item_empty);
                let item = if is_empty { None } else { seen.clone() };
                self.show(node, key, &items, item);
            }
            if self.fault(self.profile.watch_ends) {
                self.end_watch(node, &items);
            }
        }
    }

    /// Sends an item of the engine's own to a watch.
    fn show(&self, node: usize, key: usize, items: &Items, item: Option<Versioned>) {
        if let Some(item) = item.as_ref().filter(|_| !self.profile.items_are_hints) {
            let mut engine = self.engine.lock();
            engine.tell(node, key, Some(item));
            engine.returns.note_item(node, key, item.version);
        }
        self.deliver(node, items, Ok(item));
    }

    fn deliver(&self, node: usize, items: &Items, item: Result<Option<Versioned>, TransportError>) {
        let items = items.clone();
        self.after(self.travel_time(), move |world| {
            if !world.nodes.lock()[node].is_partitioned {
                let _ = items.send(item);
            }
        });
    }

    /// All watches end: the engine was started anew.
    pub(super) fn end_watches(&self) {
        let watchers = std::mem::take(&mut self.engine.lock().watchers);
        for Watcher { node, items, .. } in watchers {
            self.end_watch(node, &items);
        }
    }

    fn end_watch(&self, node: usize, items: &Items) {
        self.engine.lock().watchers.retain(|watcher| !watcher.items.same_channel(items));
        self.deliver(node, items, Err(TransportError::unavailable("the watch was cut")));
    }

    /// A stranger sends an item to a watch: garbage, an old register, a register of a version that
    /// does not exist, the present version with a register that nobody holds, or a next one in which the lock is
    /// handed over.
    pub(super) fn forge(self: &Arc<Self>) {
        let engine = self.engine.lock();
        if engine.watchers.is_empty() {
            return;
        }
        let Watcher { node, key, ref items } = engine.watchers[self.index(engine.watchers.len())];
        let (items, store) = (items.clone(), &engine.stores[key]);
        let of = |register: &Register| Arc::from(register.encode());
        let forged = match (self.below(6), store.load()) {
            (0, Some(seen)) => Versioned { version: seen.version, value: of(&Register::empty()) },
            (1, _) => Versioned { version: Version::MAX, value: of(&Register::empty()) },
            (2, Some(seen)) => {
                let version = Version::new(seen.version.get() + 1).unwrap_or(Version::MAX);
                Versioned { version, value: Arc::from(&b"garbage"[..]) }
            }
            (3, Some(seen)) => {
                let mut register = store.register();
                register.queue.clear();
                register.hand_over();
                Versioned { version: seen.version, value: of(&register) }
            }
            (4, Some(seen)) => {
                let mut register = store.register();
                register.hand_over();
                let version = Version::new(seen.version.get() + 1).unwrap_or(Version::MAX);
                Versioned { version, value: of(&register) }
            }
            _ => match store.log.get(self.index(store.log.len().max(1))) {
                Some(old) => Versioned { version: old.version, value: of(&old.register) },
                None => return,
            },
        };
        drop(engine);
        self.record(format_args!("a stranger sends {node}: {}", show(Some(&forged))));
        self.deliver(node, &items, Ok(Some(forged)));
    }
}

fn show(seen: Option<&Versioned>) -> String {
    seen.map_or("nothing".to_owned(), |seen| {
        format!("{} = {}", seen.version, String::from_utf8_lossy(&seen.value))
    })
}
