//! Building a node: its settings, their ranges, and the start of its driver.

use super::background::Background;
use super::error::ConfigError;
use super::local::clock::{NodeClock, NodeTimer};
use super::local::driver_task::DriverTask;
use super::local::ids;
use super::node::{Node, NodeShared};
use super::observer::Observer;
#[cfg(feature = "metrics")]
use super::observer::metrics::{GroupOf, MetricsObserver};
use super::protocol::{IdSource, register};
use super::transport::{NodeId, Transport};
use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// The settings of a node, checked and complete.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) lease: Duration,
    pub(crate) claim_window: Duration,
    pub(crate) handoff_lease: Duration,
    pub(crate) hold_at_once: bool,
    pub(crate) label: String,
    pub(crate) local_handoffs: u32,
    pub(crate) local_handoff_window: Duration,
    pub(crate) barging_window: Duration,
    pub(crate) keep_turn: Duration,
    pub(crate) keep_place: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) unavailable_timeout: Duration,
    pub(crate) queue_limit: usize,
    pub(crate) poll: Duration,
    /// The least limit on the requests in flight.
    pub(crate) least_in_flight: usize,
}

/// How long a place in the queue is kept by default: a thread takes less to wake up and to call again.
const KEEP_PLACE: Duration = MS;

/// The least limit on the requests in flight. A hundred nodes that have no more are no crowd for an engine.
const LEAST_IN_FLIGHT: usize = 16;

/// The builder of a [`Node`]; made by [`Node::builder`].
///
/// Nodes that share keys may have different settings. [`build`](Self::build) checks the ranges that
/// are given here.
#[must_use = "call build"]
pub struct NodeBuilder {
    transport: Arc<dyn Transport>,
    lease: Duration,
    claim_window: Option<Duration>,
    handoff_lease: Option<Duration>,
    hold_at_once: bool,
    label: Option<String>,
    local_handoffs: u32,
    local_handoff_window: Duration,
    barging_window: Duration,
    keep_turn: Duration,
    keep_place: Option<Duration>,
    request_timeout: Option<Duration>,
    unavailable_timeout: Option<Duration>,
    queue_limit: usize,
    poll: Option<Duration>,
    least_in_flight: usize,
    observers: Vec<Box<dyn Observer>>,
    #[cfg(feature = "metrics")]
    group_of: Option<GroupOf>,
    runtime: Option<Handle>,
    tokio_clock: bool,
    seed: Option<u64>,
}

/// The longest label, in bytes.
pub(crate) const MAX_LABEL: usize = 64;
/// The most that an entry of the queue takes in the register, in bytes: two numbers in hexadecimal, a
/// label whose characters may all need a backslash, a time, and the names of the fields.
const MAX_ENTRY: usize = 2 * MAX_LABEL + 130;
/// The smallest [`largest_value`](super::Capabilities::largest_value) that a node accepts, in bytes: a holder with a
/// published value, a waiter, and the note of a break have room.
pub(crate) const MIN_LARGEST_VALUE: usize = 1344;

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

impl NodeBuilder {
    pub(crate) fn new(transport: impl Transport) -> Self {
        Self {
            transport: Arc::new(transport),
            lease: Duration::from_secs(10),
            claim_window: None,
            handoff_lease: None,
            hold_at_once: true,
            label: None,
            local_handoffs: 512,
            local_handoff_window: Duration::from_millis(50),
            barging_window: Duration::from_micros(50),
            keep_turn: Duration::ZERO,
            keep_place: None,
            request_timeout: None,
            unavailable_timeout: None,
            queue_limit: 100,
            poll: None,
            least_in_flight: LEAST_IN_FLIGHT,
            observers: vec![],
            #[cfg(feature = "metrics")]
            group_of: None,
            runtime: None,
            tokio_clock: false,
            seed: None,
        }
    }

    /// The lease: how long a lock stays with this node after its last successful write. From 100 ms to
    /// one hour; 10 s by default. The node renews it after each third of that time.
    ///
    /// When this node dies, other nodes wait for this long before one of them takes the lock. When
    /// this node is cut off from the engine or stopped for longer than this, it loses its locks.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// If the holder is dead, the nodes in the queue may take the lock one after the other: the first one after the
    /// holder's lease, and each further one a claim window later.
    /// From 1 ms to the lease. By default a twentieth of the lease, but at least 50 ms and at most 1 s.
    ///
    /// Each of the first four dead nodes in the queue costs the next one such a window. After those, the
    /// queue is taken to be full of the dead: a node behind `n` of them, or one that finds no place in the
    /// queue, waits for `4 + log2(n / 4)` windows (behind 99, for less than nine). If the engine wakes only
    /// the node whose turn it is, or if it is polled, up to half a window is added for each dead node, at
    /// most a third of the lease. A live node that is not among the first four may be passed over then, and
    /// joins the queue again. Set the window longer than a response and a wake-up of the engine usually
    /// take.
    ///
    /// Within this node it is the time after which a grant that its caller has not taken is passed on, if
    /// others wait: see [`DistributedLock`](super::DistributedLock#cancel-safety).
    pub fn claim_window(mut self, claim_window: Duration) -> Self {
        self.claim_window = Some(claim_window);
        self
    }

    /// The lease that this node has when another node hands the lock to it, until its first renewal. From 1 ms
    /// to the lease. By default a quarter of the lease, but at least the [claim window](Self::claim_window).
    ///
    /// The node renews when a third of that time is over, and has its whole lease from then on. So half of this
    /// has to be longer than the pauses of the engine, the network and the process that must not cost a lock
    /// that was just handed over. If the node is dead, the one after it gets the lock after this time. The first
    /// in the queue sends a read whenever a third of this time has passed.
    pub fn handoff_lease(mut self, handoff_lease: Duration) -> Self {
        self.handoff_lease = Some(handoff_lease);
        self
    }

    /// Whether this node holds a lock that another node hands to it before it has written anything to the
    /// engine: see [direct handoff](super#how-it-works). True by default.
    ///
    /// If false, it writes first, and holds the lock with its whole lease from the beginning. That is for
    /// programs to which one more round trip at a handoff does not matter, and which must not lose a lock
    /// at the beginning of a turn to a pause that is shorter than their lease. On platforms whose clock may stand
    /// still during a suspend a node always writes first.
    pub fn hold_at_once(mut self, hold_at_once: bool) -> Self {
        self.hold_at_once = hold_at_once;
        self
    }

    /// The name of this node for other nodes and for operators: at most 64 bytes, without control
    /// characters. It need not be unique.
    ///
    /// By default it is the name of the host, the program and the process id, as in
    /// `web-3/indexer[311]`. Control characters are left out. If it is too long, the longer of the two
    /// names is cut at its end. On a platform without host names it is `indexer[311]`.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// How often, at most, tasks and threads of this node hand the lock to each other, counted from when
    /// the node got the lease, if another node waits. While none waits there is no bound. Up to 1,000,000;
    /// 512 by default. With 0 they never do, even if no other node waits: each acquisition goes through
    /// the engine.
    ///
    /// A local handoff takes about a microsecond; a turn of another node takes two writes and a
    /// wake-up. With 512 local handoffs for each of those, they cost little. A node learns from a write
    /// whether others wait, and each write gives it 1,024 fencing tokens. So a busy node renews its
    /// lease after half this number of handoffs, at most 512: a small number costs writes even if no
    /// other node waits.
    pub fn local_handoffs(mut self, local_handoffs: u32) -> Self {
        self.local_handoffs = local_handoffs;
        self
    }

    /// For how long, at most, tasks and threads of this node hand the lock to each other, counted from
    /// when the node got the lease, if another node waits. Up to the lease; 50 ms by default. Local
    /// handoffs end at this bound or at
    /// [`local_handoffs`](Self::local_handoffs), whichever is reached first.
    ///
    /// A waiting node waits up to this much longer, besides the last local use. 50 ms is the time of
    /// several handoffs over a network. A busy node renews its lease after half this time too.
    pub fn local_handoff_window(mut self, local_handoff_window: Duration) -> Self {
        self.local_handoff_window = local_handoff_window;
        self
    }

    /// For how long tasks and threads of this node may barge, that is, take the lock before a thread of
    /// this node that is first in the local queue. Up to the lease; 50 us by default. With zero, the
    /// node serves its callers strictly in the order of their calls.
    ///
    /// To wake a thread takes several microseconds; to take a lock that was just released takes some
    /// tenths of one. So a caller that finds the lock released may take it before a waiting thread. The
    /// window begins when a waiter gets the lock; the first release after its end hands the lock to the
    /// first waiter. So a waiter waits at most for one window and one critical section for each waiter
    /// before it, and for the present one. A critical section that is longer than the window is always
    /// followed by the first waiter, and nobody barges before a task. The thread that is first is awake during the window, or is woken
    /// at each release: a longer window costs more processor time.
    pub fn barging_window(mut self, barging_window: Duration) -> Self {
        self.barging_window = barging_window;
        self
    }

    /// Until how long after it got the lease this node keeps an unused lease for its own next acquisition. Up to
    /// the lease; zero by default, which is not at all.
    ///
    /// The release of a guard then sends no request, and the next acquisition of this node takes the lock
    /// without one: lock cohorting (Dice, Marathe and Shavit, *Lock Cohorting*, PPoPP 2012) between one's own
    /// turns. If another node waits, the turn ends after [`local_handoffs`](Self::local_handoffs) acquisitions
    /// or at the [`local_handoff_window`](Self::local_handoff_window), too; without local handoffs nothing is
    /// kept. When it is over, the next release, or the background task if the lock is unused, hands the lock to
    /// the next node. What it costs:
    ///
    /// - Other nodes wait for up to this much longer for each turn of this node, whether this node wants the
    ///   lock again or not.
    /// - [`release`](super::DistributedGuard::release) returns `Ok` at once. The lock was held until then, and
    ///   other nodes get it later.
    /// - A node that dies within this time was the holder: the others wait for its lease.
    ///
    /// It is for programs that take and release one lock in a loop, and want throughput rather than turns. An
    /// acquisition [without renewal](super::DistributedLock::without_renewal) does not use a kept lease.
    pub fn keep_turn(mut self, keep_turn: Duration) -> Self {
        self.keep_turn = keep_turn;
        self
    }

    /// For how long after a release this node keeps a place in the queue of the key for its own next acquisition.
    /// Up to the lease; a third of the [handoff lease](Self::handoff_lease) at most is used. A millisecond by default,
    /// if the node is on the thread of the process (no [`runtime`](Self::runtime) was given) and the system is a
    /// Unix; otherwise zero, which is not at all.
    ///
    /// If the node was wanted again within this time after each of its last two turns, and others wait, then the write
    /// that hands the lock to the next node puts this one at the end of the queue. So a turn takes one write instead
    /// of two, and joining does not collide with what others write. Unlike [`keep_turn`](Self::keep_turn), the
    /// lock goes to the next node at each release, in order. If this node is not wanted in time, or is handed
    /// the lock before, it leaves the queue by a write, and counts anew. What it costs:
    ///
    /// - A node that dies within this time is handed the lock when its turn comes, and the others wait for its
    ///   [handoff lease](Self::handoff_lease). A process that ends by itself gives the place up before, if the node is
    ///   on its thread: see [the end of the process](super#the-end-of-the-process).
    /// - A wrong guess costs a write, and one more if the lock was handed over meanwhile.
    ///
    /// It is for programs that take and release one lock in a loop, against others that do so too. A place is kept
    /// only while a handle of the lock lives, where the engine wakes those that wait
    /// ([`Wakeups`](super::transport::Wakeups)), and where the queue has room for all of them
    /// ([`queue_limit`](Self::queue_limit)).
    pub fn keep_place(mut self, keep_place: Duration) -> Self {
        self.keep_place = Some(keep_place);
        self
    }

    /// How long one request to the engine may take. From 1 ms to the lease. By default a fifth of the
    /// lease, but at least 50 ms and at most 5 s.
    ///
    /// A write that takes longer is of unknown outcome, which the node resolves by further requests.
    pub fn request_timeout(mut self, request_timeout: Duration) -> Self {
        self.request_timeout = Some(request_timeout);
        self
    }

    /// How long the engine may fail, or a request be queued in this node because of
    /// [overload](super#how-it-works), before callers that wait for a lock get
    /// [`LockError::Transport`](super::LockError::Transport). Up to a day; three leases by default. An
    /// error that does not pass by itself is returned at once.
    pub fn unavailable_timeout(mut self, unavailable_timeout: Duration) -> Self {
        self.unavailable_timeout = Some(unavailable_timeout);
        self
    }

    /// The longest queue that this node joins: it waits outside while as many nodes are in the queue of
    /// the key. From 1 to 10,000; 100 by default. It is lowered to what the
    /// [largest value](super::Capabilities::largest_value) of the engine has room for. Nodes
    /// outside the queue join it when there is room, in no particular order. They look for room about as
    /// often, all together, as there is some, and each of them at least once in half its lease; so what a
    /// grant costs does not grow with their number.
    pub fn queue_limit(mut self, queue_limit: usize) -> Self {
        self.queue_limit = queue_limit;
        self
    }

    /// The longest time between two loads of a key for which this node is first in the queue, where no
    /// watch wakes it. From 1 ms to the lease. By default a tenth of the claim window, but at least
    /// 10 ms. A value above half of the claim window counts as half of it.
    ///
    /// This applies to an engine without wake-ups ([`Wakeups::Poll`](super::Wakeups::Poll)), and to
    /// other engines while the watch of the key has failed. The nth node in the queue loads the key an
    /// nth as often, but at least twice in a claim window.
    ///
    /// An engine without wake-ups is asked more often after a change of the key: the interval is a
    /// quarter of the time since the last change, but not less than a tenth of this setting, nor less
    /// than 1 ms. With the default settings the first in the queue makes up to 200 loads a second of a
    /// key that changes more than 50 times a second, and 20 loads a second of a key that has not
    /// changed for 0.2 s.
    pub fn poll(mut self, poll: Duration) -> Self {
        self.poll = Some(poll);
        self
    }

    /// Names a group for each key, by which the [metrics](super::metrics) of this node tell keys apart: a label of
    /// each of them. There are no groups by default. The function is called at each event, so it should be fast. A
    /// node reports 1,000 groups; keys of further ones are in the group `other`.
    #[cfg(feature = "metrics")]
    #[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
    pub fn metrics_group(
        mut self,
        group_of: impl Fn(&super::Key) -> String + Send + Sync + 'static,
    ) -> Self {
        self.group_of = Some(Box::new(group_of));
        self
    }

    /// An observer that is told what happens to the locks of this node, beside those that were given before. None by
    /// default.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// The tokio runtime of the node's background task. It has to have timers and I/O enabled. When it
    /// ends, the node is closed.
    ///
    /// By default the task is on a thread of this crate's own, one for the process, whichever runtime the
    /// callers use. So a caller that blocks its thread does not keep the node from its renewals. Give a
    /// runtime to do without that thread. Its tasks must not block their threads: the lease of every lock
    /// ends while the background task gets no processor.
    ///
    /// The connections are on that thread too. Give them the same runtime
    /// ([`connect_on`](crate::cluster::connect_on)): then a request costs no change of threads.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Has the node use tokio's clock, which a test can pause, and not the system's. The node then runs in
    /// the runtime in which it is built, unless one is given.
    #[doc(hidden)]
    pub fn tokio_clock(mut self) -> Self {
        self.tokio_clock = true;
        self
    }

    /// Derives the node's number and all of its random choices from this. For tests: two nodes of one
    /// engine must not have the same seed.
    #[doc(hidden)]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Builds the node, and starts its background task. No request is sent to the engine.
    ///
    /// # Errors
    ///
    /// - [`ConfigError::OutOfRange`] if a setting is out of its range.
    /// - [`ConfigError::SmallValues`] if the engine's values are too small for a queue.
    /// - [`ConfigError::Runtime`] if the background task cannot run in the given runtime.
    /// - [`ConfigError::Thread`] if the thread of its own cannot be started.
    /// - [`ConfigError::Random`] if the system gives no random numbers.
    pub fn build(self) -> Result<Node, ConfigError> {
        let mut config = self.check()?;
        let (node, ids) = match self.seed {
            Some(seed) => (seed, IdSource::seeded(seed)),
            None => {
                // Later draws do without the system's random numbers if they have to.
                getrandom::u64().map_err(random_error)?;
                (ids::draw(), IdSource::new(ids::draw))
            }
        };
        let (node, random) = (NodeId::new(node), fastrand::Rng::with_seed(node));
        let here = || self.tokio_clock.then(Handle::try_current).and_then(Result::ok);
        let (runtime, background) = match self.runtime.or_else(here) {
            Some(runtime) => (runtime, None),
            None => {
                let thread =
                    Background::get().map_err(|why| ConfigError::Thread { why: Arc::new(why) })?;
                (thread.runtime().clone(), Some(thread))
            }
        };
        if background.is_some() && cfg!(unix) {
            // The end of the process gives it up.
            config.keep_place = self.keep_place.unwrap_or(KEEP_PLACE);
        }
        let clock = if self.tokio_clock { NodeClock::tokio(&runtime) } else { NodeClock::System };
        let timer = timer(&runtime, &clock).map_err(runtime_error)?;
        let shared = Arc::new(NodeShared::new(
            config,
            self.transport.clone(),
            self.transport.capabilities(),
            node,
            clock,
            runtime.clone(),
            background,
            self.observers,
            #[cfg(feature = "metrics")]
            MetricsObserver::new(self.transport.capabilities().name, self.group_of),
            random,
            ids,
        ));
        let (label, engine) = (&shared.config.label, shared.capabilities.name);
        shared.observe(|observer| observer.node_built(shared.node, label, engine));
        drop(runtime.spawn(DriverTask::new(shared.clone(), timer)));
        #[cfg(unix)]
        if shared.background.is_some() {
            super::exit::wait_for(&shared);
        }
        Ok(Node::new(shared))
    }

    /// For the simulator: so few keys and requests that a bound for real programs would bound nothing.
    #[cfg(test)]
    pub(crate) fn least_in_flight(mut self, least: usize) -> Self {
        self.least_in_flight = least;
        self
    }

    /// For the simulator: the node on this clock, and the task of its driver, which nothing runs yet. The
    /// seed has to be set. `has_thread` says that the driver counts as one on the thread of the process.
    #[cfg(test)]
    pub(crate) fn build_virtual(
        self,
        clock: NodeClock,
        ids: IdSource,
        has_thread: bool,
    ) -> Result<(Node, DriverTask), ConfigError> {
        let (config, seed) = (self.check()?, self.seed.expect("a simulated node has a seed"));
        let timer = NodeTimer::new(&clock).map_err(runtime_error)?;
        // Nothing runs on it.
        let thread = Background::get().map_err(runtime_error)?;
        let shared = Arc::new(NodeShared::new(
            config,
            self.transport.clone(),
            self.transport.capabilities(),
            NodeId::new(seed),
            clock,
            thread.runtime().clone(),
            has_thread.then_some(thread),
            self.observers,
            #[cfg(feature = "metrics")]
            MetricsObserver::new(self.transport.capabilities().name, self.group_of),
            fastrand::Rng::with_seed(seed),
            ids,
        ));
        let task = DriverTask::new(shared.clone(), timer);
        Ok((Node::new(shared), task))
    }

    fn check(&self) -> Result<Config, ConfigError> {
        let lease = within("lease", self.lease, 100 * MS..=HOUR)?;
        let claim_window =
            self.claim_window.unwrap_or((lease / 20).clamp(50 * MS, Duration::from_secs(1)));
        let request_timeout =
            self.request_timeout.unwrap_or((lease / 5).clamp(50 * MS, Duration::from_secs(5)));
        let unavailable_timeout = self.unavailable_timeout.unwrap_or(lease * 3);
        let claim_window = within("claim_window", claim_window, MS..=lease)?;
        let handoff_lease = self.handoff_lease.unwrap_or((lease / 4).max(claim_window));
        let handoff_lease = within("handoff_lease", handoff_lease, MS..=lease)?;
        let keep_place = self.keep_place.unwrap_or(Duration::ZERO);
        let poll = self.poll.unwrap_or((claim_window / 10).max(10 * MS));
        let transport = self.transport.capabilities();
        if transport.largest_value < MIN_LARGEST_VALUE {
            let (transport, largest) = (transport.name, transport.largest_value);
            return Err(ConfigError::SmallValues { transport, largest });
        }
        Ok(Config {
            lease,
            claim_window,
            handoff_lease,
            hold_at_once: self.hold_at_once,
            label: self.check_label()?,
            local_handoffs: within("local_handoffs", self.local_handoffs, 0..=1_000_000)?,
            local_handoff_window: within(
                "local_handoff_window",
                self.local_handoff_window,
                Duration::ZERO..=lease,
            )?,
            barging_window: within("barging_window", self.barging_window, Duration::ZERO..=lease)?,
            keep_turn: within("keep_turn", self.keep_turn, Duration::ZERO..=lease)?,
            keep_place: within("keep_place", keep_place, Duration::ZERO..=lease)?,
            request_timeout: within("request_timeout", request_timeout, MS..=lease)?,
            unavailable_timeout: within(
                "unavailable_timeout",
                unavailable_timeout,
                Duration::ZERO..=24 * HOUR,
            )?,
            queue_limit: within("queue_limit", self.queue_limit, 1..=10_000)?
                .min(queue_capacity(transport.largest_value)),
            poll: within("poll", poll, MS..=lease)?,
            least_in_flight: self.least_in_flight,
        })
    }

    fn check_label(&self) -> Result<String, ConfigError> {
        let Some(label) = &self.label else { return Ok(default_label()) };
        if label.len() > MAX_LABEL || label.chars().any(char::is_control) {
            return Err(ConfigError::OutOfRange {
                setting: "label",
                given: format!("{label:?} ({} bytes)", label.len()),
                allowed: format!("at most {MAX_LABEL} bytes long, without control characters"),
            });
        }
        Ok(label.clone())
    }
}

/// How many waiting nodes a value of this size has room for. Larger values than
/// [`register::LARGEST`] are never written, since they would not be read again.
pub(crate) fn queue_capacity(largest_value: usize) -> usize {
    largest_value.min(register::LARGEST).saturating_sub(MIN_LARGEST_VALUE - MAX_ENTRY) / MAX_ENTRY
}

/// Checks that a setting is in its range.
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

/// The label of a node that is given none: see [`NodeBuilder::label`].
fn default_label() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    let program = std::path::Path::new(&program).file_name().unwrap_or_default();
    label_of(&host_name(), &program.to_string_lossy(), std::process::id())
}

/// `host/program[pid]`, at most [`MAX_LABEL`] bytes long and without control characters. Without a
/// host it is `program[pid]`.
fn label_of(host: &str, program: &str, pid: u32) -> String {
    let printable = |name: &str| name.chars().filter(|c| !c.is_control()).collect::<String>();
    let (mut host, mut program) = (printable(host), printable(program));
    let pid = format!("[{pid}]");
    while host.len() + "/".len() + program.len() + pid.len() > MAX_LABEL {
        if host.len() > program.len() {
            host.pop()
        } else {
            program.pop()
        };
    }
    let slash = if host.is_empty() { "" } else { "/" };
    format!("{host}{slash}{program}{pid}")
}

/// The name of this host; empty if the system does not tell one.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name of this host; empty if the system does not tell one.
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
pub(crate) fn host_name() -> String {
    let mut name = [0_u8; 256];
    // The last byte stays 0, so that a name that fills the buffer is terminated too.
    // The type of the length differs between systems.
    // SAFETY: the pointer and the length are those of a buffer that is ours to write.
    let result = unsafe { libc::gethostname(name.as_mut_ptr().cast(), (name.len() - 1) as _) };
    let name = std::ffi::CStr::from_bytes_until_nul(&name).ok().filter(|_| result == 0);
    name.unwrap_or_default().to_string_lossy().into_owned()
}

/// The name of this host; empty if the system does not tell one.
#[cfg(not(unix))]
pub(crate) fn host_name() -> String {
    // Windows sets it for every process.
    std::env::var_os("COMPUTERNAME").unwrap_or_default().to_string_lossy().into_owned()
}

/// A timer that works in this runtime. The error is that of a runtime without timers or I/O.
fn timer(runtime: &Handle, clock: &NodeClock) -> io::Result<NodeTimer> {
    let _in_it = runtime.enter();
    // Tokio reports a runtime without timers only by a panic.
    catch_unwind(AssertUnwindSafe(|| {
        drop(tokio::time::sleep(Duration::ZERO));
        NodeTimer::new(clock)
    }))
    .unwrap_or_else(|_| Err(io::Error::other("the runtime has no timers, or no I/O")))
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

#[cfg(test)]
mod tests {
    use super::{MAX_LABEL, default_label, host_name, label_of};

    #[test]
    fn the_default_label_is_host_program_and_process_id() {
        assert_eq!(label_of("web-3", "indexer", 311), "web-3/indexer[311]");
        assert_eq!(label_of("", "indexer", 311), "indexer[311]");
        let label = default_label();
        assert!(label.ends_with(&format!("[{}]", std::process::id())), "{label}");
        let (host, program) = label.rsplit_once('/').expect("a host name");
        assert!(!host.is_empty() && host_name().starts_with(host), "{label}");
        assert!(program.starts_with("lockword"), "{label}");
    }

    #[test]
    fn the_default_label_has_no_control_characters() {
        assert_eq!(label_of("we\x1bb\n", "in\u{85}dexer\0", 1), "web/indexer[1]");
    }

    #[test]
    fn a_long_default_label_is_cut_in_the_longer_name_and_keeps_the_process_id() {
        let (short, long) = ("x".repeat(9), "y".repeat(300));
        for (host, program) in [(&short, &long), (&long, &short), (&long, &long)] {
            for pid in [1, u32::MAX] {
                let label = label_of(host, program, pid);
                assert_eq!(label.len(), MAX_LABEL, "{label}");
                assert!(label.ends_with(&format!("[{pid}]")), "{label}");
                assert!(host != &short || label.starts_with("xxxxxxxxx/y"), "{label}");
                assert!(program != &short || label.contains("/xxxxxxxxx["), "{label}");
            }
        }
        // Characters are cut whole.
        let label = label_of("h", &"ä".repeat(40), 7);
        assert!(label.len() > MAX_LABEL - 2 && label.starts_with("h/ä"), "{label}");
    }
}
