//! Faults, from a seed: delays, losses, late writes, disturbed watches, partitions.

use crate::Mutex;
use crate::cluster::{
    Capabilities, Exchange, Key, NodeId, Transport, TransportError, Version, Versioned, Watch,
    Write, async_trait,
};
use fastrand::Rng;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

// Which faults, how often.
mod plan;
// A watch with faults.
mod watching;

pub use plan::Plan;

/// A transport around a transport, with faults: for tests.
///
/// A sound transport with the faults of a [`Plan`] is still sound, unless [`Plan::swallow`] is used.
/// The same seed and the same calls in the same order give the same faults. All waiting is tokio's,
/// so that a paused clock works; a late write needs a tokio runtime to be applied in.
///
/// One `Faulty` stands for one client's way to the engine: to cut off one node of several, give
/// each node one of its own around the same engine. A clone is the same way.
#[derive(Debug)]
pub struct Faulty<T> {
    inner: Arc<T>,
    faults: Faults,
}

/// Controls the faults of one [`Faulty`] while it runs. Cheap to clone; a clone is the same.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    route: watch::Sender<Route>,
}

struct State {
    plan: Plan,
    dice: Rng,
    /// What the next write meets, whatever the plan says.
    next_write: Option<Fate>,
}

/// How the way to the engine is.
#[derive(Clone, Copy, Default)]
struct Route {
    cut: bool,
    paused: bool,
}

/// What happens to one operation.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Well,
    Refused,
    RequestLost,
    AnswerLost,
    Late,
}

/// One throw of the dice: an operation takes the same number of them whatever comes of it.
struct Throw {
    fate: Fate,
    there: Duration,
    back: Duration,
    late_by: Duration,
    timeout: Duration,
}

impl<T> Clone for Faulty<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), faults: self.faults.clone() }
    }
}

impl<T: Transport> Faulty<T> {
    /// Faults of this `plan`, chosen by `seed`.
    pub fn new(inner: T, plan: Plan, seed: u64) -> Self {
        let dice = Rng::with_seed(seed);
        let state = Mutex::new(State { plan, dice, next_write: None });
        let route = watch::Sender::new(Route::default());
        Self { inner: Arc::new(inner), faults: Faults(Arc::new(Shared { state, route })) }
    }

    /// No faults, but every request and every answer takes half of `round_trip`; an item of a watch
    /// takes half of it, too.
    pub fn delayed(inner: T, round_trip: Duration) -> Self {
        let half = round_trip / 2;
        Self::new(inner, Plan { delay: half..=half, ..Plan::default() }, 0)
    }

    /// What controls the faults.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// What is around.
    #[must_use]
    pub fn inner(&self) -> &T {
        &self.inner
    }
}

impl Faults {
    /// The plan from now on. Operations that are in flight keep to the old one.
    pub fn set(&self, plan: Plan) {
        self.0.state.lock().plan = plan;
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.0.state.lock().plan.clone()
    }

    /// Whether nothing gets through, in either direction. Calls fail as the plan says; what was under
    /// way is lost; watches are silent for [`Plan::timeout`] and then end with an error.
    pub fn partition(&self, cut: bool) {
        self.0.route.send_modify(|route| route.cut = cut);
    }

    /// Whether everything stands still: requests are not sent, and answers and items of watches are not
    /// handed off, until this is over.
    pub fn pause(&self, paused: bool) {
        self.0.route.send_modify(|route| route.paused = paused);
    }

    /// The answer to the next write is lost, as by [`Plan::lose_answer`].
    pub fn lose_next_answer(&self) {
        self.0.state.lock().next_write = Some(Fate::AnswerLost);
    }

    /// The next write is late, as by [`Plan::late`].
    pub fn delay_next_write(&self) {
        self.0.state.lock().next_write = Some(Fate::Late);
    }

    fn throw(&self, writes: bool) -> Throw {
        let state = &mut *self.0.state.lock();
        let (plan, dice) = (&state.plan, &mut state.dice);
        let mut rest = dice.f64();
        let mut is = |probability: f64| {
            rest -= probability;
            rest < 0.0
        };
        let fate = if is(plan.refuse) {
            Fate::Refused
        } else if is(plan.lose_request) {
            Fate::RequestLost
        } else if is(plan.lose_answer) {
            Fate::AnswerLost
        } else if is(plan.late) {
            Fate::Late
        } else {
            Fate::Well
        };
        let throw = Throw {
            fate,
            there: between(dice, &plan.delay),
            back: between(dice, &plan.delay),
            late_by: between(dice, &plan.lateness),
            timeout: plan.timeout,
        };
        let ordered = if writes { state.next_write.take() } else { None };
        Throw { fate: ordered.unwrap_or(throw.fate), ..throw }
    }

    fn is_cut(&self) -> bool {
        self.0.route.borrow().cut
    }

    /// Waits while all stands still.
    async fn go(&self) {
        // It cannot fail: the sender is in here.
        let _ = self.0.route.subscribe().wait_for(|route| !route.paused).await;
    }
}

/// Some duration of `range`: one throw, or none if there is no choice. An empty range is its start.
fn between(dice: &mut Rng, range: &RangeInclusive<Duration>) -> Duration {
    let nanos = |duration: &Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let (from, to) = (nanos(range.start()), nanos(range.end()));
    Duration::from_nanos(if from < to { dice.u64(from..=to) } else { from })
}

async fn pass(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

impl<T: Transport> Faulty<T> {
    /// Does `operation` on the inner transport, with faults. `lost` is the error of one who does not
    /// know what became of it.
    async fn through<A, F>(
        &self,
        writes: bool,
        lost: fn(&'static str) -> TransportError,
        operation: impl FnOnce(Arc<T>) -> F,
    ) -> Result<A, TransportError>
    where
        A: Send + 'static,
        F: Future<Output = Result<A, TransportError>> + Send + 'static,
    {
        let Throw { fate, there, back, late_by, timeout } = self.faults.throw(writes);
        self.faults.go().await;
        if matches!(fate, Fate::Refused) {
            return Err(TransportError::unavailable("a fault: the connection is refused"));
        }
        if self.faults.is_cut() && self.faults.plan().partition_is_noticed {
            return Err(TransportError::unavailable("a fault: the network is unreachable"));
        }
        pass(there).await;
        self.faults.go().await;
        if self.faults.is_cut() || matches!(fate, Fate::RequestLost) {
            sleep(timeout).await;
            return Err(lost("a fault: no answer in time"));
        }
        let request = operation(Arc::clone(&self.inner));
        if matches!(fate, Fate::Late) {
            sleep(timeout).await;
            // Only a write leaves a trace.
            if writes {
                tokio::spawn(async move {
                    sleep(late_by).await;
                    request.await
                });
            }
            return Err(lost("a fault: no answer in time"));
        }
        let response = request.await;
        pass(back).await;
        self.faults.go().await;
        if self.faults.is_cut() || matches!(fate, Fate::AnswerLost) {
            sleep(timeout).await;
            return Err(lost("a fault: no answer in time"));
        }
        response
    }
}

#[async_trait]
impl<T: Transport> Transport for Faulty<T> {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        let key = key.clone();
        let operation = |inner: Arc<T>| async move { inner.load(&key).await };
        self.through(false, TransportError::unavailable, operation).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let key = key.clone();
        let operation =
            move |inner: Arc<T>| async move { inner.compare_exchange(&key, expected, new).await };
        self.through(true, TransportError::indeterminate, operation).await
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let key = key.clone();
        let operation = move |inner: Arc<T>| async move { inner.watch(&key, node).await };
        let watch = self.through(false, TransportError::unavailable, operation).await?;
        let dice = self.faults.0.state.lock().dice.fork();
        Ok(watching::disturbed(watch, self.faults.clone(), dice))
    }

    /// The inner transport's, with what the present plan may add to the time of a wake-up.
    fn capabilities(&self) -> Capabilities {
        let inner = self.inner.capabilities();
        let plan = self.faults.plan();
        let added = *plan.delay.end() * 2 + *plan.lateness.end() + plan.timeout;
        Capabilities { wake_within: inner.wake_within + added, ..inner }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Route { cut, paused } = *self.0.route.borrow();
        let mut shown = f.debug_struct("Faults");
        shown.field("plan", &self.plan()).field("partition", &cut).field("paused", &paused);
        shown.finish()
    }
}
