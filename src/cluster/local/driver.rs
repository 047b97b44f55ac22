//! The driver of a node. It owns the state machines of all keys, and does what they ask for.
//!
//! The driver is told only which keys it should poll
//! ([`RunQueue`](super::run_queue::RunQueue)). It reads from the state of a key
//! what is wanted, tells the machine of the key, and carries out the actions of the machine: requests,
//! a watch, grants and losses. A task of its own runs it, or a caller for a single step
//! ([`driver_task`](super::driver_task)).
//!
//! # Forks
//!
//! An action may call code of the user, and that may fork. The child goes no further: each step of this module
//! that would take a mutex, poll the transport, or take the next action asks first whether this is a
//! child ([`NodeShared::is_foreign`]).
//!
//! # Time
//!
//! Safety needs two rules. A request that comes out of [`Machine::handle`] is sent after the clock was
//! read for that call. The clock is read anew after a response or a notice has arrived.

use crate::cluster::error::LockError;
#[cfg(test)]
use crate::cluster::fence::FencingToken;
#[cfg(test)]
use crate::cluster::guard::DistributedGuard;
use crate::cluster::guard::LossReason;
use crate::cluster::key::Key;
use crate::cluster::local::LocalKey;
use crate::cluster::local::driver_task::DriverRun;
use crate::cluster::local::run_queue::Told;
use crate::cluster::local::send_queue::{SendQueue, Subscribing};
use crate::cluster::node::{NodeShared, Shutdown};
use crate::cluster::observer::RemoteOperation;
use crate::cluster::process::{OfProcess, leak};
#[cfg(test)]
use crate::cluster::protocol::register::ClaimId;
use crate::cluster::protocol::{
    Action, Event, Failure, Intent, Machine, MachineSettings, Outcome, Time, WentBack,
};
use crate::cluster::text::shown;
use crate::cluster::transport::{
    Consistency, Exchange, NodeId, Notices, TransportError, Version, Versioned, Watch, Write,
};
use futures_util::future::{AbortHandle, Abortable, BoxFuture, Either, FutureExt, select};
use futures_util::stream::{BoxStream, FuturesUnordered, SelectAll, Stream, StreamExt, iter};
use std::any::Any;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::{Future, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// How many events of each source the driver handles before it lets other tasks run: all nodes of the process
/// share a thread.
const BUDGET: u32 = 32;

/// The most responses that a caller handles in a step of its own: there are two where the version that
/// the node expects is old.
const STEP_BUDGET: u32 = 8;

/// The driver of a node.
pub(crate) struct Driver {
    shared: Arc<NodeShared>,
    keys: HashMap<Key, DrivenKey>,
    /// The moments at which machines get [`Event::Timer`].
    due: BTreeSet<(Time, Key)>,
    responses: FuturesUnordered<BoxFuture<'static, Response>>,
    send_queue: SendQueue,
    notices: SelectAll<BoxStream<'static, (Key, u64, Event)>>,
    last_watch: u64,
    /// The keys that were taken out of the run queue and not polled yet.
    scheduled: VecDeque<Arc<LocalKey>>,
    told: Told,
    /// The keys for which the end of the process waits, while it does.
    owed: Option<Vec<Key>>,
    report: Shutdown,
}

/// A request has ended.
struct Response {
    key: Key,
    event: Event,
    /// When it was sent.
    sent: Time,
    error: Option<TransportError>,
}

/// What the driver has of one key.
struct DrivenKey {
    machine: Machine,
    local: Arc<LocalKey>,
    /// The intent that the machine was told last.
    intent: Intent,
    /// The number of the watch, and the handle that ends it.
    watch: Option<(u64, AbortHandle)>,
    /// When the machine gets [`Event::Timer`].
    due: Option<Time>,
}

impl Driver {
    pub(crate) fn new(shared: Arc<NodeShared>) -> Self {
        let (timeout, least) = (shared.config.request_timeout, shared.config.least_in_flight);
        Self {
            shared,
            keys: HashMap::new(),
            due: BTreeSet::new(),
            responses: FuturesUnordered::new(),
            send_queue: SendQueue::new(timeout, least),
            notices: SelectAll::new(),
            last_watch: 0,
            scheduled: VecDeque::new(),
            told: Told::default(),
            owed: None,
            report: Shutdown::default(),
        }
    }

    /// For the simulator: gives `copy`, the driver of a node with the same number, what this one has of a
    /// key that is held by a guard with this token, as if the process were a copy whose connections are
    /// gone. `None` if there is no such guard, or a request is in flight.
    #[cfg(test)]
    pub(crate) fn copy_held(
        &self,
        copy: &mut Driver,
        key: &Key,
        token: FencingToken,
    ) -> Option<DistributedGuard> {
        let driven = self.keys.get(key).filter(|driven| driven.machine.is_only_holding())?;
        // Without a handle the key would be forgotten.
        let handle = copy.shared.handle(key.clone());
        let local = handle.local.clone();
        let grant = driven.local.state().copy_lease(&mut local.state(), token)?;
        copy.begin_as(driven, local.clone());
        Some(DistributedGuard::new(copy.shared.clone(), local, grant))
    }

    /// For the simulator: the claim by which this node waits in the queue of a key, if it does and no
    /// request is in flight.
    #[cfg(test)]
    pub(crate) fn waits_by(&self, key: &Key) -> Option<ClaimId> {
        self.keys.get(key)?.machine.claim_in_queue()
    }

    /// For the simulator: the same as [`Driver::copy_held`] of a key for which the node waits. A waiter of
    /// the copy has joined its local queue already.
    #[cfg(test)]
    pub(crate) fn copy_waiting(&self, copy: &mut Driver, key: &Key) {
        let local = copy.shared.find(key).expect("a waiter has a handle of the key");
        copy.begin_as(&self.keys[key], local);
    }

    #[cfg(test)]
    fn begin_as(&mut self, driven: &DrivenKey, local: Arc<LocalKey>) {
        let key = local.key.clone();
        let (machine, intent) = (driven.machine.clone(), driven.intent);
        let due = machine.wake_at();
        self.due.extend(due.map(|at| (at, key.clone())));
        self.keys.insert(key.clone(), DrivenKey { machine, local, intent, watch: None, due });
        self.handle(&key, Event::WatchEnded);
    }

    /// Handles all events that are there. Pending if the budget is used up.
    pub(super) fn work(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Each source has its own budget, so that none keeps the others out.
        let [mut polls, mut responses, mut notices, mut timers, mut sends] = [BUDGET; 5];
        loop {
            let before = [polls, responses, notices, timers, sends];
            let told = self.shared.run_queue.drain(&mut self.scheduled);
            if self.told != told {
                self.hear(told);
            }
            while polls > 0
                && let Some(local) = self.scheduled.pop_front()
            {
                polls -= 1;
                self.poll_key(local);
            }
            while responses > 0
                && !self.shared.is_foreign()
                && let Poll::Ready(Some(response)) = self.responses.poll_next_unpin(cx)
            {
                responses -= 1;
                self.responded(response);
            }
            while notices > 0
                && !self.shared.is_foreign()
                && let Poll::Ready(Some((key, watch, event))) = self.notices.poll_next_unpin(cx)
            {
                notices -= 1;
                if self.keys.get(&key).is_some_and(|driven| driven.is_watched_by(watch)) {
                    self.dispatch(&key, event);
                }
            }
            if self.shared.is_foreign() {
                return Poll::Pending;
            }
            let now = self.shared.clock.now();
            while timers > 0 && self.due.first().is_some_and(|(at, _)| *at <= now) {
                timers -= 1;
                let Some((_, key)) = self.due.pop_first() else { break };
                if let Some(driven) = self.keys.get_mut(&key) {
                    driven.due = None;
                    driven.local.check_user(&self.shared, now);
                }
                self.dispatch(&key, Event::Timer);
            }
            // After the machines: who is woken at the deadline of a guard then finds that the cause is
            // known and the observer told.
            if timers > 0 && !self.shared.is_foreign() {
                self.shared.wake(self.shared.run_queue.take_due(now));
            }
            // After what ends requests, and makes others urgent.
            while sends > 0
                && !self.shared.is_foreign()
                && let Some(key) = self.send_queue.take(now)
            {
                sends -= 1;
                self.handle_and_send(&key, Event::Timer, true);
                self.update_intent(&key);
            }
            let left = [polls, responses, notices, timers, sends];
            if left.contains(&0) || self.shared.is_foreign() {
                return Poll::Pending;
            }
            if left == before {
                return Poll::Ready(());
            }
        }
    }

    /// Polls one key, and handles the responses that are there at once. Returns whether the task has to
    /// go on. `cx` is that of the task, so that it does when a response comes later.
    pub(super) fn step(&mut self, local: Arc<LocalKey>, cx: &mut Context<'_>) -> bool {
        let (last_watch, mut budget) = (self.last_watch, STEP_BUDGET);
        self.poll_key(local);
        while budget > 0
            && !self.shared.is_foreign()
            && let Poll::Ready(Some(response)) = self.responses.poll_next_unpin(cx)
        {
            budget -= 1;
            self.responded(response);
        }
        if self.shared.is_foreign() {
            return false;
        }
        let is_due = self.next_due().is_some_and(|at| self.shared.run_queue.may_sleep_past(at));
        let sends = self.send_queue.is_due(self.shared.clock.now());
        budget == 0 || is_due || sends || self.owed.is_some() || self.last_watch != last_watch
    }

    /// When the next machine gets [`Event::Timer`].
    fn next_due(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Before the task sleeps: registers its waker with the run queue, and returns until when it may
    /// sleep. Pending if there is something new.
    pub(super) fn sleep(&self, cx: &Context<'_>) -> Poll<Option<Time>> {
        self.shared.run_queue.sleep(self.next_due(), self.told, cx)
    }

    /// Polls a key of the run queue.
    fn poll_key(&mut self, local: Arc<LocalKey>) {
        if self.shared.is_foreign() {
            return;
        }
        if !self.keys.contains_key(&local.key) {
            if local.state().is_at_rest() {
                self.shared.forget(&local);
                return;
            }
            let mut machine = Machine::new(self.settings());
            let now = self.shared.clock.now();
            let seen = self.shared.observations.lock();
            machine.remember(seen.newest(&local.key), seen.holder(&local.key, now));
            drop(seen);
            let (intent, watch, due) = (Intent::Nothing, None, None);
            let key = local.key.clone();
            self.keys.insert(key, DrivenKey { machine, local: local.clone(), intent, watch, due });
        }
        self.update_intent(&local.key);
    }

    fn settings(&self) -> MachineSettings {
        let config = &self.shared.config;
        MachineSettings {
            node: self.shared.node,
            label: config.label.clone(),
            lease: config.lease,
            claim_window: config.claim_window,
            handoff_lease: config.handoff_lease,
            holds_at_once: config.hold_at_once && !self.shared.clock.may_stand_still(),
            keep_place: config.keep_place,
            poll: config.poll,
            queue_limit: config.queue_limit,
            unavailable_timeout: config.unavailable_timeout,
            wakeups: self.shared.capabilities.wakeups,
            seed: self.shared.random.lock().u64(..),
            ids: self.shared.ids.clone(),
            clock_error: self.shared.clock.error(),
            is_lossy: self.shared.capabilities.consistency == Consistency::Lossy,
            wall_clock: self.shared.clock.wall_clock(),
        }
    }

    /// Tells a machine of the response to its request.
    fn responded(&mut self, response: Response) {
        let Response { key, event, sent, error } = response;
        self.send_queue.ended(sent, self.shared.clock.now(), error);
        self.dispatch(&key, event);
    }

    /// Tells a machine of an event, and then of what is wanted of it.
    fn dispatch(&mut self, key: &Key, event: Event) {
        self.handle(key, event);
        self.update_intent(key);
    }

    /// The node is closed, or the process ends: what is unused is given back, at once. Only the end of the process
    /// ends again.
    fn hear(&mut self, told: Told) {
        let before = std::mem::replace(&mut self.told, told);
        if told.closing.is_some() {
            self.send_queue.remove_limit();
        }
        if !told.is_flushing {
            self.owed = None;
        }
        let begins = told.closing.is_some() && before.closing.is_none()
            || told.is_flushing && !before.is_flushing;
        if !begins {
            return;
        }
        let mut keys: Vec<_> = self.keys.keys().cloned().collect();
        // The order of a map is not that of the next run.
        keys.sort();
        for key in &keys {
            let Some(driven) = self.keys.get_mut(key) else { continue };
            driven.local.end_kept_turn(&self.shared);
            if driven.machine.hurry() {
                self.dispatch(key, Event::Timer);
            }
        }
        if told.is_flushing {
            self.owed = Some(keys);
        }
    }

    /// Says when what was given back before the end of the process is written.
    pub(super) fn flush(&mut self) {
        let Some(owed) = &mut self.owed else { return };
        let owes = |key: &Key| {
            let driven = self.keys.get(key);
            driven.is_some_and(|driven| driven.machine.owes() || driven.local.state().owes())
        };
        owed.retain(owes);
        if owed.is_empty() && self.scheduled.is_empty() {
            self.shared.run_queue.end_flush();
        }
    }

    /// Tells the machine what is wanted of it. Drops the machine if it is idle and nothing is wanted.
    fn update_intent(&mut self, key: &Key) {
        loop {
            if self.shared.is_foreign() {
                return;
            }
            let Some(driven) = self.keys.get_mut(key) else { return };
            let Some(event) = driven.local.next_event(driven.intent) else { break };
            if let Event::Intent(intent) = event {
                driven.intent = intent;
            }
            self.handle(key, event);
        }
        self.set_due(key);
        let Some(driven) = self.keys.get(key) else { return };
        let is_idle = driven.machine.is_idle() && driven.intent == Intent::Nothing;
        if is_idle && (self.shared.forget(&driven.local) || self.told.closing.is_some()) {
            self.remove(key);
        }
    }

    /// Sets the moment at which the key has to be looked at.
    fn set_due(&mut self, key: &Key) {
        let Some(driven) = self.keys.get_mut(key) else { return };
        let check_at = driven.local.state().check_at();
        let at = [driven.machine.wake_at(), check_at].into_iter().flatten().min();
        if at != driven.due {
            if let Some(before) = driven.due.take() {
                self.due.remove(&(before, key.clone()));
            }
            if let Some(at) = at {
                self.due.insert((at, key.clone()));
            }
            driven.due = at;
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(driven) = self.keys.remove(key) else { return };
        self.send_queue.set(key, None);
        driven.local.state().forget_engine();
        if let Some(newest) = driven.machine.newest() {
            self.shared.observed_version(key, newest);
        }
        if let Some(holder) = driven.machine.observation() {
            self.shared.observed_holder(key, holder);
        }
        if let Some(at) = driven.due {
            self.due.remove(&(at, key.clone()));
        }
        if let Some((_, abort)) = driven.watch {
            abort.abort();
        }
    }

    /// Tells a machine of an event, and carries out its actions. If it has a request to send and there is no room
    /// for one, or others are queued, its key is queued too.
    fn handle(&mut self, key: &Key, event: Event) {
        self.handle_and_send(key, event, self.send_queue.is_open());
    }

    /// Tells a machine of an event, and carries out its actions. It sends a request only if it `may_send`; else its key
    /// is queued.
    fn handle_and_send(&mut self, key: &Key, event: Event, may_send: bool) {
        if self.shared.is_foreign() {
            return;
        }
        let Some(driven) = self.keys.get_mut(key) else { return };
        // After the event was received, and before anything is sent.
        let now = self.shared.clock.now();
        if matches!(event, Event::WatchEnded | Event::Watching(Err(_))) {
            driven.watch = None;
        }
        driven.machine.set_may_send(may_send, self.send_queue.last_error());
        driven.machine.handle(event, now);
        while let Some(driven) = self.keys.get_mut(key)
            && let Some(action) = driven.machine.next_action()
        {
            self.act(key, action, now);
            if self.shared.is_foreign() {
                return;
            }
        }
        let Some(driven) = self.keys.get_mut(key) else { return };
        self.send_queue.set(key, driven.machine.queued());
        let (others_wait, engine) = (driven.machine.others_wait(), driven.machine.engine());
        driven.local.state().observed(&self.shared.config, others_wait, engine);
    }

    fn act(&mut self, key: &Key, action: Action, now: Time) {
        let Some(driven) = self.keys.get_mut(key) else { return };
        let shared = &self.shared;
        match action {
            Action::Load { request } => {
                let (shared, key) = (shared.clone(), key.clone());
                self.send_queue.sent();
                self.responses.push(Box::pin(async move {
                    let result = load(&shared, &key).await;
                    let error = result.as_ref().err().cloned();
                    let event = Event::Loaded { request, result };
                    Response { key, event, sent: now, error }
                }));
            }
            Action::CompareExchange { request, expected, write } => {
                let (shared, key) = (shared.clone(), key.clone());
                let limit = driven.machine.response_limit();
                self.send_queue.sent();
                self.responses.push(Box::pin(async move {
                    let result = compare_exchange(&shared, &key, expected, write, limit).await;
                    let error = result.as_ref().err().cloned();
                    let event = Event::Exchanged { request, result };
                    Response { key, event, sent: now, error }
                }));
            }
            Action::Watch => {
                self.last_watch += 1;
                let (number, of) = (self.last_watch, key.clone());
                let (events, abort) = watch(shared, key, self.send_queue.subscribing());
                driven.watch = Some((number, abort));
                self.notices.push(events.map(move |event| (of.clone(), number, event)).boxed());
            }
            Action::Unwatch => {
                if let Some((_, abort)) = driven.watch.take() {
                    abort.abort();
                }
            }
            Action::Granted(grant) => {
                driven.intent = Intent::Nothing;
                driven.local.granted(shared, &grant, now);
            }
            Action::Renewed { version, deadline, published } => {
                if let Some(left) = driven.local.renewed(shared, version, deadline, published) {
                    driven.local.in_hold_span(shared, || {
                        shared.observe(|observer| observer.renewed(key, left));
                    });
                } else {
                    // A guard was seen to be invalid before the renewal was applied.
                    let late = "the response to the renewal came after the end of the lease";
                    let why = LossReason::Expired { last: Some(late.to_owned()) };
                    if driven.local.lost(shared, &why) {
                        self.report.lost.push(key.clone());
                    }
                    self.handle(key, Event::Release);
                }
            }
            Action::Lost(loss) => {
                if driven.local.lost(shared, &loss.into()) {
                    self.report.lost.push(key.clone());
                }
            }
            Action::WentBack(why) => shared.engine_went_back(key, why),
            Action::Released(outcome) => {
                let Shutdown { released, lost, indeterminate } = &mut self.report;
                let list = match &outcome {
                    Outcome::Held => released,
                    Outcome::Lost(_) => lost,
                    Outcome::Indeterminate => indeterminate,
                };
                if driven.local.released(shared, outcome) {
                    list.push(key.clone());
                }
            }
            Action::Failed(failure) => {
                let intent = std::mem::replace(&mut driven.intent, Intent::Nothing);
                let error = explain(shared, key, failure);
                driven.local.failed(shared, &error, intent);
            }
        }
    }

    /// Whether a closed node has nothing left to do.
    pub(super) fn is_done(&self) -> bool {
        let Some(by) = self.told.closing else { return false };
        self.keys.values().all(|driven| driven.machine.is_idle()) || self.shared.clock.now() >= by
    }
}

impl DrivenKey {
    fn is_watched_by(&self, watch: u64) -> bool {
        self.watch.as_ref().is_some_and(|(known, _)| *known == watch)
    }
}

/// The error that the user gets for a failure.
fn explain(shared: &NodeShared, key: &Key, failure: Failure) -> LockError {
    let at = shared.context(key);
    match failure {
        Failure::Busy { holder } => {
            LockError::Busy { at, holder: holder.map(|label| shown(&label)) }
        }
        Failure::Transport(source) => LockError::Transport { at, tried: "acquiring", source },
        Failure::Unreadable(source) => LockError::Unreadable { at, source },
        Failure::WentBack(WentBack { shown, newest }) => {
            LockError::EngineWentBack { at, shown, newest }
        }
    }
}

impl Drop for Driver {
    /// The driver ends: the node was closed, the runtime shuts down, or the driver panicked.
    fn drop(&mut self) {
        // What this calls must not wait for the report.
        let _running = DriverRun::begin();
        let mut report = std::mem::take(&mut self.report);
        for driven in self.keys.values() {
            driven.local.state().forget_engine();
            let was_held = driven.local.state().take_held_at_close();
            if was_held || !driven.machine.is_idle() {
                report.indeterminate.push(driven.local.key.clone());
            }
        }
        report.settle();
        self.shared.shut_down(report);
        if self.shared.is_foreign() {
            leak(&self.shared);
        }
    }
}

/// [`Transport::load`](crate::cluster::Transport::load), as by [`request`].
pub(crate) async fn load(
    shared: &Arc<NodeShared>,
    key: &Key,
) -> Result<Option<Versioned>, TransportError> {
    let load = async { shared.transport.load(key).await };
    let (operation, fail) = (RemoteOperation::Load, TransportError::unavailable);
    request(shared, key, operation, fail, None, load).await
}

/// [`Transport::compare_exchange`](crate::cluster::Transport::compare_exchange), as by [`request`].
pub(crate) async fn compare_exchange(
    shared: &Arc<NodeShared>,
    key: &Key,
    expected: Option<Version>,
    new: Write,
    limit: Option<Duration>,
) -> Result<Exchange, TransportError> {
    let write = async { shared.transport.compare_exchange(key, expected, new).await };
    let (operation, fail) = (RemoteOperation::CompareExchange, TransportError::indeterminate);
    request(shared, key, operation, fail, limit, write).await
}

/// A request to the engine. It ends within the request timeout, and within `limit`, and does not panic; `fail`
/// makes the error of either case. The observer is told of it.
async fn request<T>(
    shared: &Arc<NodeShared>,
    key: &Key,
    operation: RemoteOperation,
    fail: fn(String) -> TransportError,
    limit: Option<Duration>,
    future: impl Future<Output = Result<T, TransportError>>,
) -> Result<T, TransportError> {
    let began = shared.clock.now();
    let limit = limit.unwrap_or(Duration::MAX).min(shared.config.request_timeout);
    let future = CatchDropPanic::new(AssertUnwindSafe(future).catch_unwind());
    let result = match select(future, shared.sleep_until(began + limit)).await {
        Either::Left((Ok(result), _)) => result,
        Either::Left((Err(panic), _)) => {
            Err(fail(format!("the transport panicked: {}", message(&*panic))))
        }
        Either::Right(_) if shared.clock.now() < began + limit => {
            Err(fail("the node was closed before there was a response".to_owned()))
        }
        Either::Right(_) => Err(fail(format!("no response within {limit:?}"))),
    };
    let took = shared.clock.now().since(began);
    shared.note_response(took, result.as_ref().err());
    shared
        .observe(|observer| observer.request_finished(key, operation, took, result.as_ref().err()));
    result
}

/// A future or stream of a transport, whose destructor may panic. Such a panic would end the driver.
/// A forked child neither polls nor drops it.
struct CatchDropPanic<T>(Option<OfProcess<Pin<Box<T>>>>);

impl<T> CatchDropPanic<T> {
    fn new(inner: T) -> Self {
        Self(Some(OfProcess::new(Box::pin(inner))))
    }

    /// `None` in a forked child.
    fn here(&mut self) -> Option<Pin<&mut T>> {
        let inner = self.0.as_mut().filter(|inner| inner.is_here())?;
        Some(inner.get_mut().as_mut())
    }
}

impl<T> Drop for CatchDropPanic<T> {
    fn drop(&mut self) {
        let inner = self.0.take();
        // The panic hook has reported it.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(inner)));
    }
}

impl<T: Future> Future for CatchDropPanic<T> {
    type Output = T::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T::Output> {
        self.here().map_or(Poll::Pending, |inner| inner.poll(cx))
    }
}

impl<T: Stream> Stream for CatchDropPanic<T> {
    type Item = T::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T::Item>> {
        self.here().map_or(Poll::Ready(None), |inner| inner.poll_next(cx))
    }
}

/// The message of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

/// Subscribes to a key: see [`events_of`]. The handle ends it.
fn watch(
    shared: &Arc<NodeShared>,
    key: &Key,
    subscribing: Subscribing,
) -> (BoxStream<'static, Event>, AbortHandle) {
    let events = events_of(shared, key, shared.node, subscribing);
    let (abort, registration) = AbortHandle::new_pair();
    (Abortable::new(events, registration).boxed(), abort)
}

/// Subscribes to a key, for this node. The stream yields [`Event::Watching`]; if that is `Ok`, then
/// [`Event::Noticed`] any number of times, and [`Event::WatchEnded`]. It keeps `subscribing` until it has subscribed.
pub(crate) fn events_of(
    shared: &Arc<NodeShared>,
    key: &Key,
    node: NodeId,
    subscribing: impl Send + 'static,
) -> BoxStream<'static, Event> {
    let (shared, key) = (shared.clone(), key.clone());
    let kind = shared.capabilities.notices;
    let subscribe = async move {
        let watch = async { shared.transport.watch(&key, node).await };
        let _subscribing = subscribing;
        let (operation, fail) = (RemoteOperation::Watch, TransportError::unavailable);
        request(&shared, &key, operation, fail, None, watch).await
    };
    let events = subscribe.into_stream().flat_map(move |result| match result {
        Ok(watch) => {
            let begin = iter([Event::Watching(Ok(()))]);
            begin.chain(notices(watch, kind)).boxed()
        }
        Err(error) => iter([Event::Watching(Err(error))]).boxed(),
    });
    events.boxed()
}

fn notices(watch: Watch, kind: Notices) -> impl Stream<Item = Event> {
    let items = CatchDropPanic::new(AssertUnwindSafe(watch).catch_unwind());
    let good = items.scan((), move |(), item| {
        ready(match item {
            Ok(Ok(item)) => Some(Event::of_item(kind, item)),
            // An error is the last item, and a watch that panicked is not polled again.
            Ok(Err(_)) | Err(_) => None,
        })
    });
    good.chain(iter([Event::WatchEnded]))
}
