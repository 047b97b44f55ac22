//! One of the processes: this binary again. Its tasks and threads use the locks, and write down what
//! they see.

use super::record::{End, Line, Log, MS, Nanos, Response, Seen, Why, WriteRequest, mark, now};
use fastrand::Rng;
use futures_util::StreamExt;
use lockword::cluster::layers::{Intercept, Interceptor};
use lockword::cluster::{
    DistributedGuard, Exchange, Key, LockError, LossReason, Node, NodeId, ReleaseError, Transport,
    TransportError, Version, Versioned, Watch, Write, async_trait, blocking, connect,
};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::io::stdin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// The environment variable with the plan of a process.
pub const PLAN: &str = "LOCKWORD_CHAOS_PLAN";
/// The words that a process is told.
pub const LEAVE: &str = "leave";
pub const FINISH: &str = "finish";

/// How many keys are in use at a time.
const KEYS: u32 = 2;
/// For how long. Then all processes go on with new ones, so that the history of each key is short.
pub const EPOCH: Nanos = 4_000 * MS;
/// The key that everybody takes at the end.
pub const LAST_KEY: &str = "chaos/last";
const TASKS: u32 = 3;
const THREADS: u32 = 2;

/// What a process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The number of the process. No other process of the run has it.
    pub process: u32,
    /// Where the engine is, as this process sees it.
    pub address: String,
    /// The history.
    pub log: String,
    pub seed: u64,
    pub lease_ms: u64,
}

/// The keys of an epoch.
pub fn keys(epoch: u64) -> impl Iterator<Item = String> + Clone {
    (0..KEYS).map(move |number| format!("chaos/{epoch}/{number}"))
}

/// The present epoch.
pub fn epoch() -> u64 {
    now() / EPOCH
}

/// The process.
pub fn run(plan: &str) {
    let plan: Plan = serde_json::from_str(plan).expect("a plan");
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("threads can be started");
    let orders = Arc::new(Orders::default());
    thread::spawn({
        let orders = orders.clone();
        move || orders.listen()
    });
    runtime.block_on(work(plan, orders));
}

/// What the parent has said.
#[derive(Default)]
struct Orders {
    is_leaving: AtomicBool,
    is_finishing: AtomicBool,
}

impl Orders {
    /// Listens until the parent's end is this one's.
    fn listen(&self) {
        let mut word = String::new();
        while stdin().read_line(&mut word).is_ok_and(|read| read > 0) {
            match word.trim() {
                LEAVE => self.is_leaving.store(true, Ordering::SeqCst),
                FINISH => self.is_finishing.store(true, Ordering::SeqCst),
                other => panic!("{other}?"),
            }
            word.clear();
        }
        std::process::exit(1);
    }

    fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::SeqCst)
    }

    fn goes_on(&self) -> bool {
        !self.is_leaving() && !self.is_finishing.load(Ordering::SeqCst)
    }
}

async fn work(plan: Plan, orders: Arc<Orders>) {
    let log = Arc::new(Log::open(&plan.log));
    let (process, lease) = (plan.process, Duration::from_millis(plan.lease_ms));
    thread::spawn({
        let log = log.clone();
        move || note_stalls(process, lease / 8, &log)
    });
    let transport = loop {
        match connect(&plan.address).await {
            Ok(transport) => break transport,
            Err(_) if orders.is_leaving() => return log.write(&Line::Done { process, at: now() }),
            // The engine is down, or cannot be reached yet.
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    };
    let recorder = Recorder { process, log: log.clone(), requests: Arc::default() };
    let node = Node::builder(Intercept::new(transport, recorder))
        .label(format!("p{process}"))
        .lease(lease)
        .build()
        .expect("the settings are good");
    let shared = Arc::new(Shared { node, log, orders, plan, guards: AtomicU64::new(0) });
    let tasks: Vec<_> = (0..TASKS).map(|user| tokio::spawn(shared.clone().task(user))).collect();
    let threads = (TASKS..TASKS + THREADS).map(|user| {
        let shared = shared.clone();
        tokio::task::spawn_blocking(move || shared.thread(user))
    });
    let users: Vec<_> = tasks.into_iter().chain(threads).collect();
    while !shared.orders.is_leaving() && !users.iter().all(|user| user.is_finished()) {
        sleep(Duration::from_millis(5)).await;
    }
    if shared.orders.is_leaving() {
        shared.node.shutdown().await;
    }
    for user in users {
        user.await.expect("no user panics");
    }
    shared.node.shutdown().await;
    shared.log.write(&Line::Done { process, at: now() });
}

/// Writes down when this process does not run for a while.
fn note_stalls(process: u32, least: Duration, log: &Log) {
    let mut from = now();
    loop {
        thread::sleep(Duration::from_millis(10));
        let to = now();
        if u128::from(to - from) > least.as_nanos() {
            log.write(&Line::Stall { process, from, to });
        }
        from = to;
    }
}

/// What all users of this process share.
struct Shared {
    node: Node,
    log: Arc<Log>,
    orders: Arc<Orders>,
    plan: Plan,
    guards: AtomicU64,
}

/// How a lock is asked for.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Wait,
    Try,
    Within(Duration),
    /// The future is dropped after this time.
    Cancel(Duration),
}

impl Ask {
    fn draw(rng: &mut Rng, lease: Duration) -> Self {
        match rng.u8(..10) {
            0..4 => Self::Wait,
            4..6 => Self::Try,
            6..8 => Self::Within(lease.mul_f64(rng.f64() * 2.0)),
            _ => Self::Cancel(Duration::from_micros(rng.u64(..200_000))),
        }
    }
}

/// A guard, and what is known of it.
struct InUse {
    guard: u64,
    key: String,
    /// Until when it is to be held.
    until: Nanos,
    /// The longest pause between two checks.
    pause: Duration,
    /// When a check was written down last.
    written: Cell<Nanos>,
    /// A later check, which was not.
    unwritten: RefCell<Option<Line>>,
}

/// How often a check is written down.
const CHECK_EVERY: Nanos = 5 * MS;

impl InUse {
    fn draw_pause(&self, rng: &mut Rng) -> Duration {
        self.pause.mul_f64(rng.f64())
    }
}

impl Shared {
    fn rng(&self, user: u32) -> Rng {
        Rng::with_seed(self.plan.seed ^ (u64::from(self.plan.process) << 32) ^ u64::from(user))
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(self.plan.lease_ms)
    }

    fn draw_key(rng: &mut Rng) -> String {
        keys(epoch()).nth(rng.usize(..KEYS as usize)).expect("there are so many")
    }

    /// A task, until the process ends.
    async fn task(self: Arc<Self>, user: u32) {
        let mut rng = self.rng(user);
        while self.orders.goes_on() {
            let (key, ask) = (Self::draw_key(&mut rng), Ask::draw(&mut rng, self.lease()));
            if !self.use_lock(user, &key, ask, &mut rng).await {
                return;
            }
            sleep(Duration::from_micros(rng.u64(..20_000))).await;
        }
        if !self.orders.is_leaving() {
            self.use_lock(user, LAST_KEY, Ask::Wait, &mut rng).await;
        }
    }

    /// A thread, until the process ends.
    fn thread(self: Arc<Self>, user: u32) {
        let mut rng = self.rng(user);
        let node = self.node.blocking();
        while self.orders.goes_on() {
            let (key, ask) = (Self::draw_key(&mut rng), Ask::draw(&mut rng, self.lease()));
            if !self.block_on_lock(user, &node, &key, ask, &mut rng) {
                return;
            }
            thread::sleep(Duration::from_micros(rng.u64(..20_000)));
        }
        if !self.orders.is_leaving() {
            self.block_on_lock(user, &node, LAST_KEY, Ask::Wait, &mut rng);
        }
    }

    /// One use by a task. Returns `false` if the node is closed.
    async fn use_lock(&self, user: u32, key: &str, ask: Ask, rng: &mut Rng) -> bool {
        let lock = self.node.lock(key).expect("a key");
        let from = now();
        let granted = match ask {
            Ask::Wait => Some(lock.acquire().await),
            Ask::Try => Some(lock.try_acquire().await),
            Ask::Within(limit) => Some(lock.acquire_timeout(limit).await),
            Ask::Cancel(limit) => timeout(limit, lock.acquire()).await.ok(),
        };
        let to = now();
        match granted {
            Some(Ok(guard)) => {
                let (token, via) = (guard.token().get(), guard.acquired_via());
                let in_use = self.granted(user, key, token, format!("{via:?}"), [from, to], rng);
                self.hold(guard, in_use, rng).await;
                true
            }
            Some(Err(error)) => {
                sleep(Duration::from_millis(10)).await;
                self.refused(user, key, ask, &error, [from, to])
            }
            None => {
                let (tried, why) = (format!("{ask:?}"), "cancelled".to_owned());
                let (process, key) = (self.plan.process, key.to_owned());
                let usual = true;
                self.log.write(&Line::Refused { process, user, key, tried, why, usual, from, to });
                true
            }
        }
    }

    async fn hold(&self, guard: DistributedGuard, in_use: InUse, rng: &mut Rng) {
        loop {
            if !self.check(&in_use, || (guard.is_valid(), guard.remaining())) {
                // It is lost, and so this is ready.
                let why = timeout(self.lease(), guard.lost()).await.ok();
                return self.lost(&in_use, why.as_ref());
            }
            if now() >= in_use.until {
                break;
            }
            if let Ok(why) = timeout(in_use.draw_pause(rng), guard.lost()).await {
                self.lost(&in_use, Some(&why));
                in_use.written.set(0);
                self.check(&in_use, || (guard.is_valid(), guard.remaining()));
                return;
            }
        }
        let from = now();
        let how = match rng.u8(..10) {
            0 => {
                drop(guard);
                End::Dropped
            }
            1 => match timeout(Duration::from_micros(rng.u64(..2_000)), guard.release()).await {
                Ok(released) => ended(released),
                Err(_) => End::Dropped,
            },
            _ => ended(guard.release().await),
        };
        self.ended(&in_use, how, from);
    }

    /// One use by a thread. Returns `false` if the node is closed.
    fn block_on_lock(
        &self,
        user: u32,
        node: &blocking::Node,
        key: &str,
        ask: Ask,
        rng: &mut Rng,
    ) -> bool {
        let lock = node.lock(key).expect("a key");
        let from = now();
        let granted = match ask {
            Ask::Wait => lock.acquire(),
            Ask::Try => lock.try_acquire(),
            Ask::Within(limit) | Ask::Cancel(limit) => lock.acquire_timeout(limit),
        };
        let to = now();
        let guard = match granted {
            Ok(guard) => guard,
            Err(error) => {
                thread::sleep(Duration::from_millis(10));
                return self.refused(user, key, ask, &error, [from, to]);
            }
        };
        let (token, via) = (guard.token().get(), guard.acquired_via());
        let in_use = self.granted(user, key, token, format!("{via:?}"), [from, to], rng);
        while self.check(&in_use, || (guard.is_valid(), guard.remaining())) && now() < in_use.until
        {
            thread::sleep(in_use.draw_pause(rng));
        }
        let from = now();
        let how = if rng.u8(..10) == 0 {
            drop(guard);
            End::Dropped
        } else {
            ended(guard.release())
        };
        self.ended(&in_use, how, from);
        true
    }

    fn granted(
        &self,
        user: u32,
        key: &str,
        token: u64,
        via: String,
        [from, to]: [Nanos; 2],
        rng: &mut Rng,
    ) -> InUse {
        let (process, guard) = (self.plan.process, self.guards.fetch_add(1, Ordering::Relaxed));
        let key = key.to_owned();
        let hold = match rng.u8(..20) {
            // With renewals.
            0 if key != LAST_KEY => self.lease().mul_f64(0.5 + rng.f64() * 2.0),
            _ => Duration::from_micros(rng.u64(..15_000)),
        };
        let until = to + hold.as_nanos() as u64;
        // Some look all the time: also just when their process was stopped and goes on.
        let pause = Duration::from_micros(if rng.u8(..3) == 0 { 200 } else { 50_000 });
        self.log.write(&Line::Granted {
            process,
            user,
            guard,
            key: key.clone(),
            token,
            via,
            from,
            to,
        });
        let (written, unwritten) = (Cell::new(0), RefCell::new(None));
        InUse { guard, key, until, pause, written, unwritten }
    }

    /// Returns `false` if the node is closed.
    fn refused(
        &self,
        user: u32,
        key: &str,
        ask: Ask,
        error: &LockError,
        [from, to]: [Nanos; 2],
    ) -> bool {
        let (process, key) = (self.plan.process, key.to_owned());
        let (tried, why) = (format!("{ask:?}"), error.to_string());
        let usual = match error {
            LockError::Busy { .. } | LockError::TimedOut { .. } | LockError::Closed { .. } => true,
            LockError::Transport { source, .. } => source.is_transient(),
            _ => false,
        };
        self.log.write(&Line::Refused { process, user, key, tried, why, usual, from, to });
        let is_closed = matches!(error, LockError::Closed { .. });
        assert!(!is_closed || self.orders.is_leaving(), "nobody has closed the node: {error}");
        !is_closed
    }

    /// Notes that the guard is valid, if it is.
    fn check(&self, in_use: &InUse, look: impl Fn() -> (bool, Duration)) -> bool {
        let from = now();
        let (is_valid, remaining) = look();
        let to = now();
        if is_valid {
            let (process, guard, key) = (self.plan.process, in_use.guard, in_use.key.clone());
            let remaining = remaining.as_nanos() as u64;
            let line = Line::Valid { process, guard, key, remaining, from, to };
            if to < in_use.written.get() + CHECK_EVERY {
                in_use.unwritten.replace(Some(line));
            } else {
                in_use.written.set(to);
                in_use.unwritten.take();
                self.log.write(&line);
            }
        }
        is_valid
    }

    fn lost(&self, in_use: &InUse, why: Option<&LossReason>) {
        let how = match why {
            Some(why) => end_of(why),
            None => {
                let (why, text) = (Why::Other("not told".to_owned()), String::new());
                End::Lost { why, text }
            }
        };
        self.ended(in_use, how, now());
    }

    fn ended(&self, in_use: &InUse, how: End, from: Nanos) {
        let (process, guard, key) = (self.plan.process, in_use.guard, in_use.key.clone());
        if let Some(last) = in_use.unwritten.take() {
            self.log.write(&last);
        }
        self.log.write(&Line::Ended { process, guard, key, how, from, to: now() });
    }
}

fn ended(released: Result<(), ReleaseError>) -> End {
    match released {
        Ok(()) => End::Released,
        Err(ReleaseError::Lost { why, .. }) => end_of(&why),
        Err(_) => End::Indeterminate,
    }
}

fn end_of(why: &LossReason) -> End {
    let text = why.to_string();
    let why = match why {
        LossReason::Expired { last } => Why::Expired { with_error: last.is_some() },
        LossReason::Closed => Why::Closed,
        other => Why::Other(format!("{other:?}")),
    };
    End::Lost { why, text }
}

/// Writes down what goes through the transport. Makes every value that is written differ from all others,
/// as a history wants it: by blanks behind it.
#[derive(Clone)]
struct Recorder {
    process: u32,
    log: Arc<Log>,
    requests: Arc<AtomicU64>,
}

fn seen(register: &Versioned) -> Seen {
    Seen { version: register.version.get(), mark: mark(&register.value) }
}

impl Recorder {
    fn invoked(&self, request: u64, key: &Key, write: Option<WriteRequest>) {
        let (process, key) = (self.process, key.to_string());
        self.log.write(&Line::Invoked { process, request, key, write, at: now() });
    }

    fn responded(&self, request: u64, response: Response) {
        let (at, process) = (now(), self.process);
        self.log.write(&Line::Responded { process, request, response, at });
    }
}

fn failed(error: &TransportError) -> Response {
    match error {
        TransportError::Indeterminate(_) => Response::Indeterminate(error.to_string()),
        other => Response::Failed(other.to_string()),
    }
}

#[async_trait]
impl<T: Transport> Interceptor<T> for Recorder {
    async fn load(&self, inner: &T, key: &Key) -> Result<Option<Versioned>, TransportError> {
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        self.invoked(request, key, None);
        let response = inner.load(key).await;
        let answer = match &response {
            Ok(found) => Response::Loaded(found.as_ref().map(seen)),
            Err(error) => failed(error),
        };
        self.responded(request, answer);
        response
    }

    async fn compare_exchange(
        &self,
        inner: &T,
        key: &Key,
        expected: Option<Version>,
        mut new: Write,
    ) -> Result<Exchange, TransportError> {
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        let value = String::from_utf8_lossy(&new.value).into_owned();
        let number = (u64::from(self.process) << 24) | request;
        let blanks = (0..40).map(|bit| if (number >> bit) & 1 == 0 { b' ' } else { b'\t' });
        new.value = new.value.iter().copied().chain(blanks).collect();
        let (expected_version, mark) = (expected.map(Version::get), mark(&new.value));
        let write = WriteRequest { expected: expected_version, mark, value };
        self.invoked(request, key, Some(write));
        let response = inner.compare_exchange(key, expected, new).await;
        let answer = match &response {
            Ok(Exchange::Swapped(version)) => Response::Swapped(version.get()),
            Ok(Exchange::Mismatch(found)) => Response::Mismatch(found.as_ref().map(seen)),
            Err(error) => failed(error),
        };
        self.responded(request, answer);
        response
    }

    async fn watch(&self, inner: &T, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let watch = inner.watch(key, node).await?;
        let (recorder, key) = (self.clone(), key.to_string());
        let note = move |item: &Result<Option<Versioned>, TransportError>| {
            if let Ok(Some(register)) = item {
                let (process, key, seen) = (recorder.process, key.clone(), seen(register));
                recorder.log.write(&Line::Noticed { process, key, seen, at: now() });
            }
        };
        Ok(watch.inspect(note).boxed())
    }
}
