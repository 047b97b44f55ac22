//! Faults from a seed: delays, losses, late writes, disturbed watches, partitions.

use crate::Mutex;
use crate::cluster::{
    Capabilities, Exchange, Key, NodeId, Transport, TransportError, Version, Versioned, Watch,
    Write, async_trait,
};
use fastrand::Rng;
use futures_util::future::{Either, select};
use futures_util::{StreamExt, stream};
use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// A transport around a transport, with faults: for tests.
///
/// A transport that keeps the [laws](crate::cluster::transport) keeps them with the faults of a
/// [`Plan`], too, unless [`Plan::swallow`] is used. The same seed and the same calls in the same
/// order give the same faults. All waiting is tokio's, so that a paused clock works. A late write is
/// applied in a task of its own and needs a tokio runtime.
///
/// One `Faulty` stands for the connection of one client: to cut off one node of several, give each
/// node a `Faulty` of its own around the same engine. A clone is the same connection.
///
/// ```
/// use lockword::cluster::layers::{Faulty, Plan};
/// use lockword::cluster::*;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let client = Faulty::new(Memory::new(), Plan::default(), 1);
/// let key = Key::new("jobs/nightly").expect("it is short");
/// let write = Write { value: b"1".as_slice().into(), wake: Wake::Nobody, idle: false };
///
/// client.faults().lose_next_response();
/// let lost = client.compare_exchange(&key, None, write).await;
/// assert!(matches!(lost, Err(TransportError::Indeterminate(_))));
/// assert!(client.load(&key).await.unwrap().is_some()); // It was applied.
/// # }
/// ```
#[derive(Debug)]
pub struct Faulty<T> {
    inner: Arc<T>,
    faults: Faults,
    capabilities: Capabilities,
}

impl<T> Clone for Faulty<T> {
    fn clone(&self) -> Self {
        let (faults, capabilities) = (self.faults.clone(), self.capabilities.clone());
        Self { inner: Arc::clone(&self.inner), faults, capabilities }
    }
}

impl<T: Transport> Faulty<T> {
    /// `inner` with the faults of `plan`, drawn from `seed`.
    ///
    /// The [capabilities](Transport::capabilities) are those of `inner`, but
    /// [`wake_within`](Capabilities::wake_within) is longer by twice the longest delay, the longest
    /// lateness and the timeout of `plan`.
    pub fn new(inner: T, plan: Plan, seed: u64) -> Self {
        let mut capabilities = inner.capabilities();
        capabilities.wake_within += *plan.delay.end() * 2 + *plan.lateness.end() + plan.timeout;
        let draws = Mutex::new(Draws { plan, dice: Rng::with_seed(seed), next_write: None });
        let route = watch::Sender::new(Route::default());
        let faults = Faults(Arc::new(FaultState { draws, route }));
        Self { inner: Arc::new(inner), faults, capabilities }
    }

    /// `inner` without faults at a distance: each request, each response and each item of a watch
    /// takes half of `round_trip`.
    pub fn delayed(inner: T, round_trip: Duration) -> Self {
        let half = round_trip / 2;
        Self::new(inner, Plan { delay: half..=half, ..Plan::default() }, 0)
    }

    /// The control of the faults.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// The wrapped transport. What is called on it meets no faults.
    #[must_use]
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// Does `operation` on the inner transport, with faults. `lost` makes the error of a caller that
    /// cannot know whether the operation was done.
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
        let RequestFaults { fault, there, back, late_by, timeout } = self.faults.draw(writes);
        self.faults.unpaused().await;
        if matches!(fault, Fault::Refused) {
            return Err(TransportError::unavailable("a fault: the connection is refused"));
        }
        if self.faults.is_cut() && self.faults.plan().partition_is_noticed {
            return Err(TransportError::unavailable("a fault: the network is unreachable"));
        }
        pass(there).await;
        self.faults.unpaused().await;
        if self.faults.is_cut() || matches!(fault, Fault::RequestLost) {
            sleep(timeout).await;
            return Err(lost("a fault: no response in time"));
        }
        let request = operation(Arc::clone(&self.inner));
        if matches!(fault, Fault::Late) {
            sleep(timeout).await;
            // Only a write leaves a trace.
            if writes {
                tokio::spawn(async move {
                    sleep(late_by).await;
                    request.await
                });
            }
            return Err(lost("a fault: no response in time"));
        }
        let response = request.await;
        pass(back).await;
        self.faults.unpaused().await;
        if self.faults.is_cut() || matches!(fault, Fault::ResponseLost) {
            sleep(timeout).await;
            return Err(lost("a fault: no response in time"));
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
        let dice = self.faults.0.draws.lock().dice.fork();
        Ok(disturbed(watch, self.faults.clone(), dice))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Key>, TransportError> {
        let prefix = prefix.to_owned();
        let operation = move |inner: Arc<T>| async move { inner.list(&prefix).await };
        self.through(false, TransportError::unavailable, operation).await
    }

    /// Those of the wrapped transport, but `wake_within` is longer by what the plan of
    /// [`Faulty::new`] may add to a wake-up. A later [`Faults::set`] changes nothing here.
    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }
}

/// Which faults a [`Faulty`] makes, how often and for how long. By default there are none.
///
/// Probabilities are from 0 (never) to 1 (always). At most one of `refuse`, `lose_request`,
/// `lose_response` and `late` happens to an operation, so the sum of their probabilities should not be
/// larger than 1. If it is, the later ones of this order happen less often than they say.
///
/// Of a range, each duration is equally likely. An empty range counts as its start.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How long a request takes to the engine, how long a response takes back, and how long an item of
    /// a watch takes. Each is drawn anew.
    pub delay: RangeInclusive<Duration>,
    /// The probability that a request is not sent. The caller knows it, and gets
    /// [`TransportError::Unavailable`] at once.
    pub refuse: f64,
    /// The probability that a request is lost on its way. The caller waits for [`Plan::timeout`] and
    /// gets [`TransportError::Indeterminate`] for a write, [`TransportError::Unavailable`] otherwise.
    pub lose_request: f64,
    /// The probability that the operation is done and its response is lost on its way. The caller
    /// sees the same as with a lost request.
    pub lose_response: f64,
    /// The probability that a request arrives late. After [`Plan::timeout`] the caller gets the same
    /// error as for a lost request. A write is applied when a duration of [`Plan::lateness`] has passed
    /// after that; a load or a watch is never carried out.
    pub late: f64,
    /// How long after its caller's error a late write is applied, and how long an item of a watch is
    /// held back by `reorder` to let its successor come first.
    pub lateness: RangeInclusive<Duration>,
    /// How long a caller waits for a response that does not come, and how long a watch that is cut off
    /// is silent before it ends with an error. One second by default.
    pub timeout: Duration,
    /// The probability that an item of a watch comes twice.
    pub repeat: f64,
    /// The probability that an item of a watch comes after its successor.
    pub reorder: f64,
    /// The probability that a watch ends with an error instead of yielding an item.
    pub end: f64,
    /// The probability that an item of a watch is lost without an error. This breaks law 5.
    pub swallow: f64,
    /// Whether calls during a partition fail at once with [`TransportError::Unavailable`], as if the
    /// network reported it. Otherwise they wait for [`Plan::timeout`] and fail like lost requests.
    pub partition_is_noticed: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO..=Duration::ZERO,
            refuse: 0.0,
            lose_request: 0.0,
            lose_response: 0.0,
            late: 0.0,
            lateness: Duration::ZERO..=Duration::ZERO,
            timeout: Duration::from_secs(1),
            repeat: 0.0,
            reorder: 0.0,
            end: 0.0,
            swallow: 0.0,
            partition_is_noticed: false,
        }
    }
}

/// Controls the faults of one [`Faulty`] while it runs. Cheap to clone; a clone controls the same.
#[derive(Clone)]
pub struct Faults(Arc<FaultState>);

struct FaultState {
    draws: Mutex<Draws>,
    route: watch::Sender<Route>,
}

/// What the faults are drawn from.
struct Draws {
    plan: Plan,
    dice: Rng,
    /// What the next write meets, whatever the plan says.
    next_write: Option<Fault>,
}

/// What the way to the engine is like.
#[derive(Clone, Copy, Default)]
struct Route {
    cut: bool,
    paused: bool,
}

/// What happens to one operation.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Nothing,
    Refused,
    RequestLost,
    ResponseLost,
    Late,
}

/// What was drawn for one operation: the same number of draws whatever comes out.
struct RequestFaults {
    fault: Fault,
    there: Duration,
    back: Duration,
    late_by: Duration,
    timeout: Duration,
}

impl Faults {
    /// Replaces the plan. Operations that are in flight follow the old one, and the
    /// [capabilities](Transport::capabilities) stay as they were.
    pub fn set(&self, plan: Plan) {
        self.0.draws.lock().plan = plan;
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.0.draws.lock().plan.clone()
    }

    /// Begins (`true`) or ends (`false`) a partition: nothing gets through, in either direction. Calls
    /// fail as [`Plan::partition_is_noticed`] says, what is in flight is lost, and watches are silent
    /// for [`Plan::timeout`] and then end with an error.
    pub fn partition(&self, cut: bool) {
        self.0.route.send_modify(|route| route.cut = cut);
    }

    /// Begins (`true`) or ends (`false`) a pause: requests are held back, and so are responses and
    /// items of watches, until the pause ends. Nothing is lost.
    pub fn pause(&self, paused: bool) {
        self.0.route.send_modify(|route| route.paused = paused);
    }

    /// Loses the next write on its way to the engine, as [`Plan::lose_request`] does.
    ///
    /// This and the two methods below hold for one write, whatever the plan says. The last call before
    /// the write counts.
    pub fn lose_next_request(&self) {
        self.0.draws.lock().next_write = Some(Fault::RequestLost);
    }

    /// Loses the response to the next write, as [`Plan::lose_response`] does.
    pub fn lose_next_response(&self) {
        self.0.draws.lock().next_write = Some(Fault::ResponseLost);
    }

    /// Makes the next write late, as [`Plan::late`] does.
    pub fn delay_next_write(&self) {
        self.0.draws.lock().next_write = Some(Fault::Late);
    }

    fn draw(&self, writes: bool) -> RequestFaults {
        let draws = &mut *self.0.draws.lock();
        let (plan, dice) = (&draws.plan, &mut draws.dice);
        let mut rest = dice.f64();
        let mut is = |probability: f64| {
            rest -= probability;
            rest < 0.0
        };
        let fault = if is(plan.refuse) {
            Fault::Refused
        } else if is(plan.lose_request) {
            Fault::RequestLost
        } else if is(plan.lose_response) {
            Fault::ResponseLost
        } else if is(plan.late) {
            Fault::Late
        } else {
            Fault::Nothing
        };
        let drawn = RequestFaults {
            fault,
            there: between(dice, &plan.delay),
            back: between(dice, &plan.delay),
            late_by: between(dice, &plan.lateness),
            timeout: plan.timeout,
        };
        let ordered = if writes { draws.next_write.take() } else { None };
        RequestFaults { fault: ordered.unwrap_or(drawn.fault), ..drawn }
    }

    fn is_cut(&self) -> bool {
        self.0.route.borrow().cut
    }

    /// Waits for the end of a pause.
    async fn unpaused(&self) {
        // It cannot fail: the sender is in here.
        let _ = self.0.route.subscribe().wait_for(|route| !route.paused).await;
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

/// A duration of `range`, by one draw, or by none if there is no choice. An empty range is its start.
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

type WatchItem = Result<Option<Versioned>, TransportError>;

/// A watch whose items meet faults.
struct DisturbedWatch {
    inner: Watch,
    faults: Faults,
    dice: Rng,
    /// What is to be yielded next.
    ready: VecDeque<WatchItem>,
    ended: bool,
}

/// What was drawn for one item of a watch.
struct ItemFaults {
    delay: Duration,
    held: Option<Duration>,
    repeated: bool,
    swallowed: bool,
    ends: bool,
}

/// `inner`, disturbed as the plan of `faults` says, with draws of its own.
fn disturbed(inner: Watch, faults: Faults, dice: Rng) -> Watch {
    let inner = inner.fuse().boxed();
    let watch = DisturbedWatch { inner, faults, dice, ready: VecDeque::new(), ended: false };
    Box::pin(stream::unfold(watch, |mut watch| async {
        let item = watch.next().await?;
        Some((item, watch))
    }))
}

impl DisturbedWatch {
    async fn next(&mut self) -> Option<WatchItem> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            if self.ended {
                return None;
            }
            let Some(item) = self.uncut(None).await else {
                return Some(Err(self.cut_off().await));
            };
            let Some(item) = item else {
                self.ended = true;
                continue;
            };
            self.take(item).await;
        }
    }

    /// The next item of the inner watch, within `limit` if there is one. The outer `None`: the way to
    /// the engine is cut.
    async fn uncut(&mut self, limit: Option<Duration>) -> Option<Option<WatchItem>> {
        let mut route = self.faults.0.route.subscribe();
        let cut = pin!(route.wait_for(|route| route.cut));
        let next = async {
            match limit {
                Some(limit) => timeout(limit, self.inner.next()).await.unwrap_or_default(),
                None => self.inner.next().await,
            }
        };
        // The cut counts first: an item that comes at the same time is lost.
        match select(cut, pin!(next)).await {
            Either::Left(_) => None,
            Either::Right((item, _)) => Some(item),
        }
    }

    /// The error of a watch that is cut off, after its time of silence.
    async fn cut_off(&mut self) -> TransportError {
        self.ended = true;
        self.ready.clear();
        sleep(self.faults.plan().timeout).await;
        TransportError::unavailable("a fault: the watch is cut off")
    }

    /// Does to `item` what was drawn.
    async fn take(&mut self, item: WatchItem) {
        let ItemFaults { delay, held, repeated, swallowed, ends } = self.draw();
        pass(delay).await;
        self.faults.unpaused().await;
        if self.faults.is_cut() {
            let error = self.cut_off().await;
            self.ready.push_back(Err(error));
        } else if item.is_err() {
            self.ended = true;
            self.ready.push_back(item);
        } else if ends {
            self.ended = true;
            self.ready.push_back(Err(TransportError::unavailable("a fault: the watch ends")));
        } else if !swallowed {
            let mut last = None;
            if let Some(limit) = held {
                match self.uncut(Some(limit)).await {
                    Some(Some(Ok(successor))) => self.ready.push_back(Ok(successor)),
                    Some(Some(Err(error))) => last = Some(Err(error)),
                    // No successor in time, or the end.
                    Some(None) => {}
                    None => {
                        let error = self.cut_off().await;
                        return self.ready.push_back(Err(error));
                    }
                }
            }
            if repeated {
                self.ready.push_back(item.clone());
            }
            self.ready.push_back(item);
            self.ended |= last.is_some();
            self.ready.extend(last);
        }
    }

    fn draw(&mut self) -> ItemFaults {
        let (plan, dice) = (self.faults.plan(), &mut self.dice);
        let delay = between(dice, &plan.delay);
        let hold = between(dice, &plan.lateness);
        let [reorder, repeat, swallow, end] = [(); 4].map(|()| dice.f64());
        ItemFaults {
            delay,
            held: (reorder < plan.reorder).then_some(hold),
            repeated: repeat < plan.repeat,
            swallowed: swallow < plan.swallow,
            ends: end < plan.end,
        }
    }
}
