//! What is run, with whose help.

use super::client::Client;
use super::history::{History, Response};
use super::law::{Law, NotChecked, Report, Violation};
use super::recorded::Recorded;
use super::{deletion, drops, indeterminate, race, script, watches};
use crate::Mutex;
use crate::cluster::{Key, Transport, Wakeups};
use fastrand::Rng;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

type Done<A> = Pin<Box<dyn Future<Output = A> + Send>>;
type Make<T> = Arc<dyn Fn() -> Done<T> + Send + Sync>;
/// Called with a client's transport and a key.
pub(super) type Doubting<T> = Arc<dyn Fn(Arc<T>, Key) -> Done<()> + Send + Sync>;
/// Called with a key.
pub(super) type Deleting = Arc<dyn Fn(Key) -> Done<()> + Send + Sync>;
/// Called with nothing.
pub(super) type SteppingBack = Arc<dyn Fn() -> Done<()> + Send + Sync>;

/// Why nothing that concerns a watch is checked.
pub(super) const NO_WAKEUPS: &str = "the engine declares `Wakeups::Poll`";
/// How many clients race.
pub(super) const CLIENTS: usize = 4;

/// The checks of all laws, with what the caller can help with.
///
/// ```
/// use lockword::cluster::{Memory, conformance::Suite};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let engine = Memory::new();
/// let client = engine.clone();
/// let suite = Suite::new(move || std::future::ready(client.clone())).rounds(4);
/// let suite = suite.deleting(move |key| {
///     engine.delete(&key);
///     std::future::ready(())
/// });
/// let report = suite.run().await.unwrap();
/// println!("{report}");
/// # });
/// ```
pub struct Suite<T> {
    make: Make<T>,
    rounds: usize,
    seed: u64,
    call_timeout: Duration,
    settling: Duration,
    deleting: Option<Deleting>,
    indeterminate_hook: Option<Doubting<T>>,
    stepping_back: Option<SteppingBack>,
}

impl<T: Transport> Suite<T> {
    /// A suite for the engine of whose clients `make` makes a new one at each call.
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
            deleting: None,
            indeterminate_hook: None,
            stepping_back: None,
        }
    }

    /// How often each check is repeated: 16 unless told. At least 1.
    #[must_use]
    pub fn rounds(self, rounds: usize) -> Self {
        Self { rounds: rounds.max(1), ..self }
    }

    /// What the choices of the workload are drawn from: random unless told. How tasks take turns is
    /// the runtime's affair, and names of keys are random always.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// How long a call may take before it counts as one that never ends: 10 seconds unless told.
    #[must_use]
    pub fn call_timeout(self, call_timeout: Duration) -> Self {
        Self { call_timeout, ..self }
    }

    /// How late a request whose sender has given it up may still arrive: so long the suite waits for
    /// writes that should never happen. 20 milliseconds unless told.
    #[must_use]
    pub fn settling(self, settling: Duration) -> Self {
        Self { settling, ..self }
    }

    /// `hook` deletes the register of a key, if there is one, behind the transport's back. Law 2 is
    /// checked across that.
    #[must_use]
    pub fn deleting<H, Fut>(self, hook: H) -> Self
    where
        H: Fn(Key) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self { deleting: Some(Arc::new(move |key| Box::pin(hook(key)))), ..self }
    }

    /// `hook` makes the answer to the next write of that key by that client be lost, whether the
    /// write is applied, or not, or later. Law 3 is checked then. It is called before each such
    /// write.
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

    /// `hook` steps the engine's clock back, by a minute say. Law 2 is checked across that.
    #[must_use]
    pub fn stepping_back<H, Fut>(self, hook: H) -> Self
    where
        H: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self { stepping_back: Some(Arc::new(move || Box::pin(hook()))), ..self }
    }

    /// Checks all laws.
    ///
    /// Needs a tokio runtime with its timers enabled.
    ///
    /// # Errors
    ///
    /// The first violation.
    pub async fn run(self) -> Result<Report, Violation> {
        let mut engines = vec![];
        for _ in 0..CLIENTS {
            engines.push(Arc::new((self.make)().await));
        }
        let mut run = Run {
            engines,
            rounds: self.rounds,
            call_timeout: self.call_timeout,
            settling: self.settling,
            name: format!("{:08x}", fastrand::u32(..)).into(),
            keys: 0,
            dice: Rng::with_seed(self.seed),
            report: Report::default(),
            started: vec![],
        };
        script::check(&mut run).await?;
        race::check(&mut run).await?;
        watches::check(&mut run).await?;
        indeterminate::check(&mut run, self.indeterminate_hook).await?;
        deletion::check(&mut run, self.deleting, self.stepping_back).await?;
        drops::check(&mut run).await?;
        let mut report = run.report;
        for history in run.started {
            let operations = history.operations();
            let indeterminate = |operation: &&_| is_indeterminate(operation);
            report.operations += operations.len();
            report.indeterminate += operations.iter().filter(indeterminate).count();
        }
        report.checked.sort_unstable();
        report.checked.dedup();
        Ok(report)
    }
}

fn is_indeterminate(operation: &super::history::Operation) -> bool {
    matches!(operation.response, Some((_, Response::Indeterminate)))
}

impl<T> Clone for Suite<T> {
    fn clone(&self) -> Self {
        let make = Arc::clone(&self.make);
        let (deleting, indeterminate_hook) =
            (self.deleting.clone(), self.indeterminate_hook.clone());
        let stepping_back = self.stepping_back.clone();
        Self { make, deleting, indeterminate_hook, stepping_back, ..*self }
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

/// A run in flight.
pub(super) struct Run<T> {
    pub(super) engines: Vec<Arc<T>>,
    pub(super) rounds: usize,
    pub(super) call_timeout: Duration,
    pub(super) settling: Duration,
    pub(super) dice: Rng,
    pub(super) report: Report,
    name: Arc<str>,
    keys: usize,
    started: Vec<History>,
}

impl<T: Transport> Run<T> {
    /// A key that nobody used before.
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
            transport: Arc::clone(transport),
            recorded: Recorded::new(Arc::clone(transport), number, &history),
            number,
            history: history.clone(),
            call_timeout: self.call_timeout,
            run: format!("{}.{}", self.name, self.started.len()).into(),
            written: Mutex::new(0),
        };
        (self.engines.iter().enumerate().map(client).collect(), history)
    }

    /// Whether the engine has wake-ups. Where it has none, no watch is opened, as by a node.
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
