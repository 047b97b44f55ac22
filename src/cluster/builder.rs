//! How a node is built.

use super::error::ConfigError;
use super::local::clock::{Clock, Timer};
use super::local::driver::Driver;
use super::node::Node;
use super::node::NodeShared;
use super::observer::Observer;
use super::protocol::register;
use super::transport::{NodeId, Transport};
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// The settings of a node, all of them known.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) lease: Duration,
    pub(crate) claim_window: Duration,
    pub(crate) label: String,
    pub(crate) local_handoffs: u32,
    pub(crate) local_handoff_window: Duration,
    pub(crate) barging_window: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) unavailable_timeout: Duration,
    pub(crate) queue_limit: usize,
    pub(crate) poll: Duration,
}

/// Builds a [`Node`]: see [`Node::builder`].
///
/// Nodes that share keys may have different settings.
#[must_use = "call build"]
pub struct NodeBuilder {
    transport: Arc<dyn Transport>,
    lease: Duration,
    claim_window: Option<Duration>,
    label: Option<String>,
    local_handoffs: u32,
    local_handoff_window: Duration,
    barging_window: Duration,
    request_timeout: Option<Duration>,
    unavailable_timeout: Option<Duration>,
    queue_limit: usize,
    poll: Option<Duration>,
    observer: Option<Box<dyn Observer>>,
    runtime: Option<Handle>,
    tokio_clock: bool,
    seed: Option<u64>,
}

/// The longest label, in bytes.
const LABEL: usize = 64;
/// What an entry of the queue may take in the register, in bytes: two numbers in hexadecimal, a
/// label whose characters may all need a backslash, and the names.
const ENTRY: usize = 2 * LABEL + 96;

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

impl NodeBuilder {
    pub(crate) fn new(transport: impl Transport) -> Self {
        Self {
            transport: Arc::new(transport),
            lease: Duration::from_secs(10),
            claim_window: None,
            label: None,
            local_handoffs: 512,
            local_handoff_window: Duration::from_millis(50),
            barging_window: Duration::from_micros(50),
            request_timeout: None,
            unavailable_timeout: None,
            queue_limit: 100,
            poll: None,
            observer: None,
            runtime: None,
            tokio_clock: false,
            seed: None,
        }
    }

    /// How long a lock stays with this node when the node is not heard of any more: from 100 ms to
    /// an hour, 10 s unless it is set. It is renewed at a third of that.
    ///
    /// Others wait so long when this node dies. A node that is cut off from the engine, or does not
    /// run, for longer than that loses its locks.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long the next in the queue has to take a lock that is reserved for it, before this node,
    /// if it is the one after, takes it instead: from 1 ms to the lease. Unless it is set, a
    /// twentieth of the lease, but from 50 ms to 1 s.
    ///
    /// A queue of dead nodes costs a window each; where the engine wakes only the one whose turn it
    /// is, half as much again.
    ///
    /// Make it longer than the engine's answers and wake-ups usually take: what is passed over has to
    /// wait anew.
    pub fn claim_window(mut self, claim_window: Duration) -> Self {
        self.claim_window = Some(claim_window);
        self
    }

    /// What other nodes and operators see of this one: up to 64 bytes, without control characters.
    /// The program's name and process number unless it is set.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// How often, at most, tasks and threads of this node hand the lock to each other while another
    /// node waits: up to 1,000,000; 512 unless it is set; 0: never, not even when nobody else waits.
    ///
    /// A handoff costs a microsecond where a handoff to another node costs three writes and a
    /// wake-up: with 512, those cost little for each. A busy node renews its lease after half as
    /// many, since each write tells whether others wait, and makes 1024 new fencing tokens; so a
    /// small number costs writes even where nobody else waits.
    pub fn local_handoffs(mut self, local_handoffs: u32) -> Self {
        self.local_handoffs = local_handoffs;
        self
    }

    /// How long, at most, they do so: up to the lease; 50 ms unless it is set. The first of the two
    /// bounds counts.
    ///
    /// This is what a waiting node has to wait longer, besides the last holder's own time; 50 ms are
    /// several handoff over a network. A busy node renews its lease after half of that time, too.
    pub fn local_handoff_window(mut self, local_handoff_window: Duration) -> Self {
        self.local_handoff_window = local_handoff_window;
        self
    }

    /// For how long the tasks and threads of this node may overtake a thread of it that is the next in
    /// line: up to the lease; 50 us unless it is set; zero: never, so that all are served strictly in
    /// the order of coming.
    ///
    /// To wake a thread costs several microseconds, to take a lock that was just given back some tenths
    /// of one. So whoever comes then may take it before a thread that waits, until so long after one
    /// that had waited got it. Who waits, waits for that and a use more for each that stands before it,
    /// and for the one that has it. A use that takes longer is always followed by that of the next in
    /// line; nobody overtakes a task that is the next. The thread that is next is awake meanwhile, or is
    /// woken at the releases: a longer time costs more of that.
    pub fn barging_window(mut self, barging_window: Duration) -> Self {
        self.barging_window = barging_window;
        self
    }

    /// How long the engine may take for an answer: from 1 ms to the lease. Unless it is set, a fifth
    /// of the lease, but from 50 ms to 5 s.
    ///
    /// A write that takes longer is of unknown outcome, which the node resolves.
    pub fn request_timeout(mut self, request_timeout: Duration) -> Self {
        self.request_timeout = Some(request_timeout);
        self
    }

    /// How long the engine may fail before those who wait for a lock are told: up to a day; three
    /// leases unless it is set. Errors that do not pass by themselves are told at once.
    pub fn unavailable_timeout(mut self, unavailable_timeout: Duration) -> Self {
        self.unavailable_timeout = Some(unavailable_timeout);
        self
    }

    /// How many nodes wait in a key's queue: from 1 to 10,000; 100 unless it is set. It is lowered
    /// to what the engine's [largest value](super::Capabilities::largest_value) has room for. The
    /// others wait to join the queue.
    pub fn queue_limit(mut self, queue_limit: usize) -> Self {
        self.queue_limit = queue_limit;
        self
    }

    /// The longest time between two loads of a key that this node waits for, where the engine has no
    /// wake-ups: from 1 ms to the lease. Unless it is set, a tenth of the claim window, but at least
    /// 10 ms.
    ///
    /// After a change of the register the node loads it every tenth of this, and then less and less
    /// often. A node that is not the first in the queue loads it as many times less often as its place
    /// in the queue says, but at least twice in a claim window.
    pub fn poll(mut self, poll: Duration) -> Self {
        self.poll = Some(poll);
        self
    }

    /// Who is told what happens. Nobody unless it is set.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// The runtime of the node's background task, with timers and I/O enabled.
    ///
    /// Unless it is set: the one that `build` is called in, or, outside of any, a thread of the
    /// node's own. When the runtime ends, the node's locks are lost, and its waiters are told.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The node lives by tokio's clock, which a test can pause, and not by the system's.
    #[doc(hidden)]
    pub fn tokio_clock(mut self) -> Self {
        self.tokio_clock = true;
        self
    }

    /// The node's number and all that it draws follow from this. For tests: no two nodes may have
    /// the same.
    #[doc(hidden)]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The node. A setting that is not allowed is reported by every [`Node::lock`]; to know at once,
    /// use [`try_build`](Self::try_build).
    #[must_use = "a node that is dropped takes no locks"]
    pub fn build(self) -> Node {
        self.try_build().unwrap_or_else(Node::broken)
    }

    /// The node.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if a setting is not allowed, or if the background task cannot run.
    pub fn try_build(self) -> Result<Node, ConfigError> {
        let config = self.check()?;
        // Two numbers, so that two nodes whose number is the same by chance still differ in what
        // they draw for their attempts.
        let (node, random) = match self.seed {
            Some(seed) => (seed, seed),
            None => {
                let draw = || getrandom::u64().map_err(random_error);
                (draw()?, draw()?)
            }
        };
        let (node, random) = (NodeId::new(node), fastrand::Rng::with_seed(random));
        let own = match self.runtime.or_else(|| Handle::try_current().ok()) {
            Some(runtime) => Err(runtime),
            None => Ok(own_runtime().map_err(runtime_error)?),
        };
        let runtime = match &own {
            Ok(own) => own.handle().clone(),
            Err(runtime) => runtime.clone(),
        };
        let clock = if self.tokio_clock { Clock::tokio(&runtime) } else { Clock::System };
        let timer = timer(&runtime, &clock).map_err(runtime_error)?;
        let core = Arc::new(NodeShared::new(
            config,
            self.transport.clone(),
            self.transport.capabilities(),
            node,
            clock,
            runtime.clone(),
            self.observer,
            random,
        ));
        let driver = Driver::new(core.clone(), timer);
        match own {
            Err(runtime) => drop(runtime.spawn(driver)),
            Ok(own) => run_on_own_thread(own, driver).map_err(runtime_error)?,
        }
        Ok(Node::new(core))
    }

    fn check(&self) -> Result<Config, ConfigError> {
        let lease = within("lease", self.lease, 100 * MS..=HOUR)?;
        let claim_window =
            self.claim_window.unwrap_or((lease / 20).clamp(50 * MS, Duration::from_secs(1)));
        let request_timeout =
            self.request_timeout.unwrap_or((lease / 5).clamp(50 * MS, Duration::from_secs(5)));
        let unavailable_timeout = self.unavailable_timeout.unwrap_or(lease * 3);
        let claim_window = within("claim_window", claim_window, MS..=lease)?;
        let poll = self.poll.unwrap_or((claim_window / 10).max(10 * MS));
        let transport = self.transport.capabilities();
        if transport.largest_value < 1024 {
            let (transport, largest) = (transport.name, transport.largest_value);
            return Err(ConfigError::SmallValues { transport, largest });
        }
        Ok(Config {
            lease,
            claim_window,
            label: self.check_label()?,
            local_handoffs: within("local_handoffs", self.local_handoffs, 0..=1_000_000)?,
            local_handoff_window: within(
                "local_handoff_window",
                self.local_handoff_window,
                Duration::ZERO..=lease,
            )?,
            barging_window: within("barging_window", self.barging_window, Duration::ZERO..=lease)?,
            request_timeout: within("request_timeout", request_timeout, MS..=lease)?,
            unavailable_timeout: within(
                "unavailable_timeout",
                unavailable_timeout,
                Duration::ZERO..=24 * HOUR,
            )?,
            queue_limit: within("queue_limit", self.queue_limit, 1..=10_000)?
                .min(queue_capacity(transport.largest_value)),
            poll: within("poll", poll, MS..=lease)?,
        })
    }

    fn check_label(&self) -> Result<String, ConfigError> {
        let Some(label) = &self.label else { return Ok(default_label()) };
        if label.len() > LABEL || label.chars().any(char::is_control) {
            return Err(ConfigError::OutOfRange {
                setting: "label",
                given: format!("{label:?} ({} bytes)", label.len()),
                allowed: format!("at most {LABEL} bytes long, without control characters"),
            });
        }
        Ok(label.clone())
    }
}

/// How many may wait in a value of that size, and of no more than is read again.
pub(crate) fn queue_capacity(largest_value: usize) -> usize {
    largest_value.min(register::LARGEST).saturating_sub(1024 - ENTRY) / ENTRY
}

/// The setting, if it is in its range.
fn within<T: PartialOrd + fmt::Debug>(
    setting: &'static str,
    given: T,
    allowed: RangeInclusive<T>,
) -> Result<T, ConfigError> {
    if allowed.contains(&given) {
        return Ok(given);
    }
    let allowed = format!("from {:?} to {:?}", allowed.start(), allowed.end());
    Err(ConfigError::OutOfRange { setting, given: format!("{given:?}"), allowed })
}

/// The program's name and its process number: `web[311]`.
fn default_label() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
    let mut name: String = name.chars().filter(|c| !c.is_control()).collect();
    while name.len() > LABEL - "[4294967295]".len() {
        name.pop();
    }
    format!("{name}[{}]", std::process::id())
}

/// A timer that works in this runtime.
fn timer(runtime: &Handle, clock: &Clock) -> io::Result<Timer> {
    let _in_it = runtime.enter();
    // Tokio tells by a panic that a runtime has no timers, and no other way.
    catch_unwind(AssertUnwindSafe(|| {
        drop(tokio::time::sleep(Duration::ZERO));
        Timer::new(clock)
    }))
    .unwrap_or_else(|_| Err(io::Error::other("the runtime has no timers, or no I/O")))
}

fn own_runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// A thread for a node outside of any runtime. It ends when the node does.
fn run_on_own_thread(
    runtime: tokio::runtime::Runtime,
    driver: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("lockword-node".to_owned());
    thread.spawn(move || runtime.block_on(driver)).map(drop)
}

fn runtime_error(why: io::Error) -> ConfigError {
    ConfigError::Runtime { why: Arc::new(why) }
}

fn random_error(why: getrandom::Error) -> ConfigError {
    ConfigError::Random { why: Arc::new(io::Error::other(why.to_string())) }
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("transport", &self.transport.capabilities().name)
            .field("config", &self.check())
            .finish_non_exhaustive()
    }
}
