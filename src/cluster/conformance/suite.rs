//! The suite: its settings and hooks, and the clients of one run.

use super::checks;
use super::history::{History, KeyHistory, Recorder};
use crate::Mutex;
use crate::cluster::layers::Intercept;
use crate::cluster::{
    Exchange, Key, NodeId, Transport, TransportError, Version, Versioned, Wake, Wakeups, Watch,
    Write,
};
use fastrand::Rng;
use futures_util::future::BoxFuture;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How many clients there are.
const CLIENTS: usize = 4;
/// How often a step that must be done is tried in spite of passing errors.
const TRIES: u32 = 200;

type MakeClient<T> = Arc<dyn Fn() -> BoxFuture<'static, T> + Send + Sync>;
pub(super) type IndeterminateHook<T> =
    Arc<dyn Fn(Arc<T>, Key) -> BoxFuture<'static, ()> + Send + Sync>;
pub(super) type DeleteHook = Arc<dyn Fn(Key) -> BoxFuture<'static, ()> + Send + Sync>;
pub(super) type ClockHook = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Checks an engine against the [laws](crate::cluster::transport#the-laws), as far as that can be done
/// without hooks: [`SuiteReport::not_checked`] has the rest. Each call of `make` makes a new client of
/// the engine. [`Suite`] has hooks and settings.
///
/// Needs a tokio runtime with its timers enabled. It takes about a second if the engine responds
/// within a tenth of a millisecond.
///
/// # Errors
///
/// The first violation found.
///
/// # Cancel safety
///
/// That of [`Suite::run`].
pub async fn run<F, Fut, T>(make: F) -> Result<SuiteReport, Violation>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = T> + Send + 'static,
    T: Transport,
{
    Suite::new(make).run().await
}

/// The checks of all laws, with settings and with the hooks that some of them need.
///
/// ```
/// use lockword::cluster::{Memory, conformance::Suite};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let engine = Memory::new();
/// let client = engine.clone();
/// let suite = Suite::new(move || std::future::ready(client.clone())).rounds(4);
/// let suite = suite.delete_hook(move |key| {
///     engine.delete(&key);
///     std::future::ready(())
/// });
/// let report = suite.run().await.unwrap();
/// println!("{report}");
/// # });
/// ```
pub struct Suite<T> {
    make: MakeClient<T>,
    rounds: usize,
    seed: u64,
    call_timeout: Duration,
    settling: Duration,
    delete_hook: Option<DeleteHook>,
    indeterminate_hook: Option<IndeterminateHook<T>>,
    clock_hook: Option<ClockHook>,
}

impl<T: Transport> Suite<T> {
    /// A suite for the engine of which each call of `make` makes a new client.
    pub fn new<F, Fut>(make: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        Self {
            make: Arc::new(move || Box::pin(make())),
            rounds: 16,
            seed: fastrand::u64(..),
            call_timeout: Duration::from_secs(10),
            settling: Duration::from_millis(20),
            delete_hook: None,
            indeterminate_hook: None,
            clock_hook: None,
        }
    }

    /// How often each check is repeated: at least once, 16 times by default.
    #[must_use]
    pub fn rounds(self, rounds: usize) -> Self {
        Self { rounds: rounds.max(1), ..self }
    }

    /// What the choices of the workload are drawn from; random by default. The names of the keys are
    /// always random, and the runtime decides when each task runs.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// How long a call may take before it counts as one that never ends: 10 seconds by default.
    #[must_use]
    pub fn call_timeout(self, call_timeout: Duration) -> Self {
        Self { call_timeout, ..self }
    }

    /// How late the engine may still receive a request that its client has given up: 20 milliseconds
    /// by default. The suite waits for this time to see writes that should never be applied.
    #[must_use]
    pub fn settling(self, settling: Duration) -> Self {
        Self { settling, ..self }
    }

    /// `hook` deletes the register of a key, if there is one, by the means of the engine. With it,
    /// law 2 is checked across deletions.
    #[must_use]
    pub fn delete_hook<H, Fut>(self, hook: H) -> Self
    where
        H: Fn(Key) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self { delete_hook: Some(Arc::new(move |key| Box::pin(hook(key)))), ..self }
    }

    /// `hook` makes the outcome of the next write of this key by this client unknown to the client: it
    /// arranges that the request or its response is lost, or that the request arrives late. With it,
    /// law 3 is checked. The suite awaits the hook before each such write. The
    /// [module's documentation](super) has a recipe.
    #[must_use]
    pub fn indeterminate_hook<H, Fut>(self, hook: H) -> Self
    where
        H: Fn(Arc<T>, Key) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self {
            indeterminate_hook: Some(Arc::new(move |client, key| Box::pin(hook(client, key)))),
            ..self
        }
    }

    /// `hook` sets the engine's clock back, by a minute for example. With it, law 2 is checked across
    /// such steps.
    #[must_use]
    pub fn clock_hook<H, Fut>(self, hook: H) -> Self
    where
        H: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self { clock_hook: Some(Arc::new(move || Box::pin(hook()))), ..self }
    }

    /// Runs all checks.
    ///
    /// Needs a tokio runtime with its timers enabled.
    ///
    /// # Errors
    ///
    /// The first violation found.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the run ends without a result. Requests that are in flight are given
    /// up, and the registers that the run has written stay in the engine. A new run uses other keys.
    pub async fn run(self) -> Result<SuiteReport, Violation> {
        let mut engines = vec![];
        for _ in 0..CLIENTS {
            engines.push(Arc::new((self.make)().await));
        }
        let mut run = SuiteRun {
            engines,
            rounds: self.rounds,
            call_timeout: self.call_timeout,
            settling: self.settling,
            name: format!("{:08x}", fastrand::u32(..)).into(),
            keys: 0,
            dice: Rng::with_seed(self.seed),
            report: SuiteReport::default(),
            started: vec![],
        };
        checks::sequential(&mut run).await?;
        checks::races(&mut run).await?;
        checks::watches(&mut run).await?;
        checks::lost_responses(&mut run, self.indeterminate_hook).await?;
        checks::versions(&mut run, self.delete_hook, self.clock_hook).await?;
        checks::drops(&mut run).await?;
        let mut report = run.report;
        for history in run.started {
            let operations = history.operations();
            report.operations += operations.len();
            report.indeterminate += operations.iter().filter(|o| o.is_indeterminate()).count();
        }
        report.checked.sort_unstable();
        report.checked.dedup();
        Ok(report)
    }
}

impl<T> Clone for Suite<T> {
    fn clone(&self) -> Self {
        let (make, delete_hook) = (Arc::clone(&self.make), self.delete_hook.clone());
        let indeterminate_hook = self.indeterminate_hook.clone();
        let clock_hook = self.clock_hook.clone();
        Self { make, delete_hook, indeterminate_hook, clock_hook, ..*self }
    }
}

impl<T> fmt::Debug for Suite<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Suite");
        shown.field("rounds", &self.rounds).field("seed", &self.seed);
        shown.field("call_timeout", &self.call_timeout).field("settling", &self.settling);
        shown.finish_non_exhaustive()
    }
}

/// One run of a suite.
pub(super) struct SuiteRun<T> {
    engines: Vec<Arc<T>>,
    pub(super) rounds: usize,
    call_timeout: Duration,
    pub(super) settling: Duration,
    pub(super) dice: Rng,
    report: SuiteReport,
    /// No other run has it.
    name: Arc<str>,
    keys: usize,
    started: Vec<History>,
}

impl<T: Transport> SuiteRun<T> {
    /// A key that was never used before.
    pub(super) fn key(&mut self) -> Key {
        self.keys += 1;
        let name = format!("lockword-conformance/{}/{}", self.name, self.keys);
        Key::new(&name).expect("short, and of the alphabet")
    }

    /// A client of each transport, all recorded in one new history.
    pub(super) fn clients(&mut self) -> (Vec<Client<T>>, History) {
        let history = History::new();
        self.started.push(history.clone());
        let client = |(number, transport): (usize, &Arc<T>)| Client {
            transport: Intercept::new(Arc::clone(transport), history.recorder(number)),
            number,
            history: history.clone(),
            call_timeout: self.call_timeout,
            run: format!("{}.{}", self.name, self.started.len()).into(),
            written: Mutex::new(0),
        };
        (self.engines.iter().enumerate().map(client).collect(), history)
    }

    /// The largest value that the engine stores, in bytes.
    pub(super) fn largest_value(&self) -> usize {
        self.engines[0].capabilities().largest_value
    }

    /// Whether the engine has wake-ups. Where it has none, the suite opens no watch, as a node opens
    /// none.
    pub(super) fn has_wakeups(&self) -> bool {
        self.engines[0].capabilities().wakeups != Wakeups::Poll
    }

    pub(super) fn checked(&mut self, law: Law) {
        self.report.checked.push(law);
    }

    pub(super) fn not_checked(&mut self, law: Law, what: &'static str, why: &'static str) {
        self.report.not_checked.push(NotChecked { law, what, why });
    }
}

/// One client of the engine. Its operations are recorded; each must end within `call_timeout`.
pub(super) struct Client<T> {
    pub(super) transport: Intercept<Arc<T>, Recorder>,
    pub(super) number: usize,
    pub(super) history: History,
    call_timeout: Duration,
    /// The beginning of its values. No other client has the same, with its number.
    run: Arc<str>,
    written: Mutex<u64>,
}

/// The result of an operation. The inner error is one that passes by itself.
pub(super) type CallResult<A> = Result<Result<A, TransportError>, Violation>;

impl<T: Transport> Client<T> {
    /// A client with the same connection, whose operations are recorded in `history`.
    pub(super) fn recording_in(&self, history: &History) -> Self {
        let inner = Arc::clone(self.transport.inner());
        let transport = Intercept::new(inner, history.recorder(self.number));
        let (history, run) = (history.clone(), Arc::clone(&self.run));
        Self { transport, history, run, written: Mutex::new(*self.written.lock()), ..*self }
    }

    /// A write of a value that was never written before.
    pub(super) fn new_write(&self, wake: Wake, idle: bool) -> Write {
        let mut written = self.written.lock();
        *written += 1;
        let value = format!("{}/{}/{written}", self.run, self.number);
        Write { value: value.into_bytes().into(), wake, idle }
    }

    pub(super) async fn load(&self, key: &Key) -> CallResult<Option<Versioned>> {
        self.ends("load", key, self.transport.load(key)).await
    }

    pub(super) async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> CallResult<Exchange> {
        let call = self.transport.compare_exchange(key, expected, new);
        self.ends("compare_exchange", key, call).await
    }

    pub(super) async fn watch(&self, key: &Key, node: NodeId) -> CallResult<Watch> {
        self.ends("watch", key, self.transport.watch(key, node)).await
    }

    async fn ends<A>(
        &self,
        what: &str,
        key: &Key,
        call: impl Future<Output = Result<A, TransportError>>,
    ) -> CallResult<A> {
        match timeout(self.call_timeout, call).await {
            Ok(Ok(response)) => Ok(Ok(response)),
            Ok(Err(error)) if error.is_transient() => Ok(Err(error)),
            Ok(Err(error)) => {
                Err(Violation::new(Law::Responses, format!("{what} of {key} failed: {error}")))
            }
            Err(_) => {
                let call_timeout = self.call_timeout;
                let what = format!("{what} of {key} did not end within {call_timeout:?}");
                Err(Violation::new(Law::Responses, what))
            }
        }
    }

    /// Loads the register, in spite of passing errors.
    pub(super) async fn must_load(&self, key: &Key) -> Result<Option<Versioned>, Violation> {
        for tries in 0..TRIES {
            match self.load(key).await? {
                Ok(found) => return Ok(found),
                Err(_) => self.wait(tries).await,
            }
        }
        Err(self.gave_up("load", key))
    }

    /// Writes, whatever the register holds, in spite of passing errors.
    pub(super) async fn must_write(
        &self,
        key: &Key,
        wake: Wake,
        idle: bool,
    ) -> Result<Versioned, Violation> {
        let mut found = self.must_load(key).await?;
        for tries in 0..TRIES {
            let new = self.new_write(wake, idle);
            let value = new.value.clone();
            let expected = found.map(|found| found.version);
            match self.compare_exchange(key, expected, new).await? {
                Ok(Exchange::Swapped(version)) => return Ok(Versioned { version, value }),
                Ok(Exchange::Mismatch(now)) => found = now,
                Err(_) => {
                    self.wait(tries).await;
                    found = self.must_load(key).await?;
                }
            }
        }
        Err(self.gave_up("write", key))
    }

    /// Opens a watch, in spite of passing errors.
    pub(super) async fn must_watch(&self, key: &Key, node: NodeId) -> Result<Watch, Violation> {
        for tries in 0..TRIES {
            match self.watch(key, node).await? {
                Ok(watch) => return Ok(watch),
                Err(_) => self.wait(tries).await,
            }
        }
        Err(self.gave_up("watch", key))
    }

    /// Lists the keys that begin with `prefix`, in spite of passing errors. `None`: the engine cannot.
    pub(super) async fn must_list(&self, prefix: &Key) -> Result<Option<Vec<Key>>, Violation> {
        for tries in 0..TRIES {
            let call = async {
                match self.transport.list(prefix.as_str()).await {
                    Err(TransportError::Unsupported(_)) => Ok(None),
                    listed => listed.map(Some),
                }
            };
            match self.ends("list", prefix, call).await? {
                Ok(listed) => return Ok(listed),
                Err(_) => self.wait(tries).await,
            }
        }
        Err(self.gave_up("list", prefix))
    }

    async fn wait(&self, tries: u32) {
        sleep(Duration::from_millis(u64::from(tries.min(20)))).await;
    }

    fn gave_up(&self, what: &str, key: &Key) -> Violation {
        Violation::new(Law::Responses, format!("{what} of {key} failed {TRIES} times in a row"))
    }
}

/// A law of [`transport`](crate::cluster::transport#the-laws), with its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Law {
    /// Not numbered: each call ends, and an engine that can be reached serves a call that is repeated.
    Responses,
    /// Law 1: [`compare_exchange`](crate::cluster::Transport::compare_exchange) and
    /// [`load`](crate::cluster::Transport::load) are linearizable.
    Linearizable,
    /// Law 2: versions only grow.
    Versions,
    /// Law 3: an unknown outcome is reported.
    Indeterminate,
    /// Law 4: a mismatch is the truth.
    Mismatch,
    /// Law 5: a live watch wakes.
    Watch,
    /// Law 6: dropping is harmless.
    Dropping,
    /// Not numbered: an engine that can [list](crate::cluster::Transport::list) its keys lists those that
    /// have a register. It is not checked where an engine cannot.
    Listing,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Responses => "the rule that every call ends",
            Self::Linearizable => "law 1 (linearizable)",
            Self::Versions => "law 2 (versions only grow)",
            Self::Indeterminate => "law 3 (an unknown outcome is reported)",
            Self::Mismatch => "law 4 (a mismatch is the truth)",
            Self::Watch => "law 5 (a live watch wakes)",
            Self::Dropping => "law 6 (dropping is harmless)",
            Self::Listing => "the rule that a list has all keys",
        })
    }
}

/// A law was broken.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Violation {
    /// The law.
    pub law: Law,
    /// What happened, in a sentence.
    pub what: String,
    /// The shortest history found that shows it, of one key. `None` if responses do not show it: a
    /// call did not end, or a watch did not wake.
    pub history: Option<KeyHistory>,
}

impl Violation {
    pub(super) fn new(law: Law, what: impl Into<String>) -> Self {
        Self { law, what: what.into(), history: None }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is broken: {}", self.law, self.what)?;
        match &self.history {
            Some(history) => write!(f, "\n{history}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Violation {}

/// What a run of the suite has checked without finding a violation. To be shown to people, it has a
/// [`Display`](fmt::Display) of one line for each law.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SuiteReport {
    /// The laws that were checked, but for the parts in `not_checked`.
    pub checked: Vec<Law>,
    /// What was not checked, and why.
    pub not_checked: Vec<NotChecked>,
    /// The number of operations.
    pub operations: usize,
    /// The number of writes whose outcome was unknown.
    pub indeterminate: usize,
}

/// A part of a law that a run did not check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotChecked {
    /// The law.
    pub law: Law,
    /// The part.
    pub what: &'static str,
    /// Why it was not checked.
    pub why: &'static str,
}

impl fmt::Display for SuiteReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} operations, {} of unknown outcome", self.operations, self.indeterminate)?;
        for law in &self.checked {
            writeln!(f, "kept: {law}")?;
        }
        for NotChecked { law, what, why } in &self.not_checked {
            writeln!(f, "not checked, of {law}: {what}: {why}")?;
        }
        Ok(())
    }
}
