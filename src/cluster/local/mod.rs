//! One node's side of its keys: its tasks and threads queue here before the node asks the engine.
//!
//! All waiters of a key at this node stand in one [`WaitQueue`], in the order in which they joined. The
//! node has at most one lease of a key at a time ([`LeaseState::Present`]), and at most one waiter uses
//! it. When the user ends, the lease goes to another waiter without a message to the engine, as long as
//! the settings of the node allow that; otherwise the driver releases it ([`state`]).
//!
//! An acquisition runs like this: [`KeyHandle::acquire`] → [`LocalKeyState::barge`], which may take the
//! lease at once; otherwise the waiter joins the wait queue, and the key is put into the run queue → the
//! driver polls the key and tells its state machine what is wanted
//! ([`Event::Intent`]) → the machine takes the lock by a write (`Action::CompareExchange`), which the
//! driver sends to the transport → the response (`Event::Exchanged`) → `Action::Granted` →
//! [`LocalKeyState::granted`] assigns the lease to the first waiter → the waiter's waker →
//! [`AcquireFuture`] is polled again and returns the guard. A waiter that does not poll loses the grant
//! after a claim window, if others wait ([`LocalKeyState::check_user`]).
//!
//! What is called `shared` in this module is the [`NodeShared`]: the settings, the clock, the transport
//! and the run queue of the node, which all of its keys use.
//!
//! The state of a key is under one mutex ([`LocalKey`]). The mutex is held for some tens of instructions
//! and never while code of the user or of a transport is called. The driver is told only that it should
//! poll a key ([`run_queue`]); what it has to do is in the state ([`LocalKeyState::next_event`]).

use crate::cluster::error::LockError;
use crate::cluster::guard::{DistributedGuard, LossReason};
use crate::cluster::key::Key;
use crate::cluster::node::{NodeShared, SleepUntil};
use crate::cluster::observer::ReleaseOutcome;
use crate::cluster::observer::tracing::WaitSpan;
use crate::cluster::process::leak;
#[cfg(test)]
use crate::cluster::process::virtual_child;
use crate::cluster::protocol::{Event, Grant, Intent, Outcome, Time};
use crate::cluster::transport::Version;
use crate::{Mutex, MutexGuard};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub(crate) mod clock;
pub(crate) mod driver;
pub(crate) mod driver_task;
mod held_lease;
pub(crate) mod ids;
mod loss_report;
pub(crate) mod observations;
pub(crate) mod parker;
#[cfg(any(target_os = "linux", target_os = "android", test))]
mod raw_clock;
pub(crate) mod run_queue;
mod send_queue;
mod state;
#[cfg(test)]
mod tests;
mod wait_queue;

pub(crate) use held_lease::{GuardLimit, HeldLease, Use};
pub(crate) use state::{Effects, LocalGrant};
use state::{LeaseState, LocalKeyState, LocalLease};
pub(crate) use wait_queue::WaiterId;
use wait_queue::{WaitQueue, WaiterTerms};

/// One key at one node.
#[derive(Debug)]
pub(crate) struct LocalKey {
    pub(crate) key: Key,
    state: Mutex<LocalKeyState>,
}

impl LocalKey {
    pub(crate) fn new(key: Key, is_closed: bool) -> Self {
        Self { key, state: Mutex::new(LocalKeyState::new(is_closed)) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, LocalKeyState> {
        // A thread of the parent may have had it at the fork, and then it is held for ever.
        #[cfg(test)]
        assert!(!virtual_child::is_running(), "a child takes a mutex of its parent");
        self.state.lock()
    }

    /// Changes the state, then carries out the effects. Returns whether the lease was handed off at
    /// this node.
    pub(crate) fn change(
        self: &Arc<Self>,
        shared: &NodeShared,
        change: impl FnOnce(&mut LocalKeyState) -> Effects,
    ) -> bool {
        self.change_and(shared, change, |key| shared.run_queue.schedule(key))
    }

    /// Releases a lease that is kept for the next caller.
    fn end_kept_turn(self: &Arc<Self>, shared: &NodeShared) {
        self.change(shared, |state| match state.is_kept() {
            true => state.begin_release(),
            false => Effects::default(),
        });
    }

    /// The same. If the caller waits for what the driver does next (`is_awaited`), and the driver sleeps,
    /// the calling thread takes that step at once: see [`driver_task::drive`].
    pub(crate) fn change_awaited(
        self: &Arc<Self>,
        shared: &NodeShared,
        is_awaited: bool,
        change: impl FnOnce(&mut LocalKeyState) -> Effects,
    ) -> bool {
        self.change_and(shared, change, |key| match is_awaited {
            true => driver_task::drive(shared, key),
            false => shared.run_queue.schedule(key),
        })
    }

    fn change_and(
        self: &Arc<Self>,
        shared: &NodeShared,
        change: impl FnOnce(&mut LocalKeyState) -> Effects,
        schedule_key: impl FnOnce(Arc<Self>),
    ) -> bool {
        let Effects { waker, prewaker, schedule, handed_off } = {
            let mut state = self.state();
            let mut effects = change(&mut state);
            effects.schedule = effects.schedule && state.set_scheduled();
            effects
        };
        // Before the wakers, which may be code of the user.
        if schedule {
            schedule_key(self.clone());
        }
        shared.wake(waker.into_iter().chain(prewaker));
        handed_off
    }

    /// Closes the key: no lease is granted to a waiter any more, all waiters get `error`, and a guard is
    /// lost.
    pub(crate) fn close(self: &Arc<Self>, shared: &NodeShared, error: &LockError) {
        let mut state = self.state();
        let has_guard = state.has_guard();
        state.set_closed();
        let mut wakers = state.wait_queue.close(error);
        let mut lost = None;
        match std::mem::replace(&mut state.lease, LeaseState::Absent) {
            LeaseState::Present(LocalLease { held_lease, limit, .. }) => {
                // Under the mutex: once that is released, the driver may release the lease.
                held_lease.mark_lost(LossReason::Closed, &shared.clock);
                if has_guard {
                    held_lease.mark_unused();
                    lost = Some((held_lease.clone(), limit));
                } else {
                    wakers.extend(held_lease.take_subscribers());
                }
                state.lease = LeaseState::Releasing { held_lease, is_requested: false };
            }
            other => state.lease = other,
        }
        let schedule = state.set_scheduled();
        drop(state);
        // Before any code of the user.
        if schedule {
            shared.run_queue.schedule(self.clone());
        }
        shared.wake(wakers);
        if let Some((held_lease, limit)) = lost {
            self.tell_loss(shared, &held_lease, limit.as_deref());
        }
    }

    /// The driver is gone, and the key is closed: the result of a release stays unknown. Returns the wakers
    /// of the tasks that wait for it.
    #[must_use]
    pub(crate) fn abandon(&self, shared: &NodeShared) -> Vec<Waker> {
        let lease = std::mem::replace(&mut self.state().lease, LeaseState::Absent);
        let LeaseState::Releasing { held_lease, .. } = lease else { return vec![] };
        held_lease.set_outcome(Outcome::Indeterminate);
        self.tell_outcome(shared, &held_lease, ReleaseOutcome::Indeterminate);
        held_lease.take_subscribers()
    }

    /// Tells the observer that a guard with this limit is lost, and then wakes the tasks that wait for
    /// that.
    fn tell_loss(&self, shared: &NodeShared, held_lease: &HeldLease, limit: Option<&GuardLimit>) {
        // Its limit may have passed before the lease was lost.
        let limit_at = limit.map(|limit| limit.at);
        if !shared.is_foreign()
            && let Some(why) = held_lease.lost(limit_at, shared.clock.now())
            && let Some(of) = held_lease.use_within(limit)
        {
            held_lease.tell_loss(limit, &of, shared, &self.key, &why);
        }
    }

    /// The register granted the lease to this node.
    fn granted(self: &Arc<Self>, shared: &NodeShared, grant: &Grant, now: Time) {
        self.change(shared, |state| state.granted(shared, grant, now));
    }

    /// The lease was renewed. Returns how much of it was left, or `None` if it was seen to be over before: then it
    /// has to be released.
    fn renewed(
        self: &Arc<Self>,
        shared: &NodeShared,
        version: Version,
        deadline: Time,
        published: Option<u64>,
    ) -> Option<Duration> {
        // If it is being released, nobody has a guard of it.
        let mut left = Some(Duration::ZERO);
        let mut publishers = vec![];
        self.change(shared, |state| {
            let LeaseState::Present(lease) = &mut state.lease else { return Effects::default() };
            left = lease.held_lease.extend(deadline, &shared.clock);
            if left.is_none() {
                return Effects::default();
            }
            lease.renewed(version, published, shared.clock.now());
            if published.is_some() {
                publishers = lease.held_lease.take_subscribers();
            }
            if lease.user.is_none() {
                state.reassign_lease(shared, shared.clock.now())
            } else {
                Effects::default()
            }
        });
        shared.wake(publishers);
        left
    }

    /// Runs the code in the span of the guard, if there is one.
    fn in_hold_span(&self, shared: &NodeShared, code: impl FnOnce()) {
        if shared.is_foreign() {
            return;
        }
        let present = self.state().user();
        match present {
            Some(present) => present.span.run(shared, code),
            None => code(),
        }
    }

    /// The lease was lost. First its guards are not valid any more, then the observer is told, and then
    /// the tasks are woken that wait for the loss. Returns whether the key has to be reported as lost by
    /// a shutdown.
    fn lost(self: &Arc<Self>, shared: &NodeShared, why: &LossReason) -> bool {
        let mut is_reported = false;
        let (mut lost, mut releasing) = (None, None);
        self.change(shared, |state| {
            is_reported = state.take_held_at_close();
            // Who has not taken the grant waits on, and does not get a guard that is lost.
            state.take_back(|| self.busy(shared));
            let has_guard = state.has_guard();
            // Under the mutex: who finds that the lease is gone finds the reason, too.
            match std::mem::replace(&mut state.lease, LeaseState::Absent) {
                LeaseState::Present(LocalLease { held_lease, limit, .. }) => {
                    held_lease.mark_lost(why.clone(), &shared.clock);
                    lost = has_guard.then_some((held_lease, limit));
                }
                LeaseState::Releasing { held_lease, .. } => {
                    held_lease.mark_lost(why.clone(), &shared.clock);
                    held_lease.set_outcome(Outcome::Lost(None));
                    releasing = Some(held_lease);
                }
                LeaseState::Absent => {}
            }
            Effects::schedule()
        });
        if let Some((held_lease, limit)) = lost {
            self.tell_loss(shared, &held_lease, limit.as_deref());
        }
        if let Some(held_lease) = releasing {
            self.tell_release(shared, &held_lease, ReleaseOutcome::Lost);
        }
        is_reported
    }

    /// The release of the lease has ended, and the observer is told. Returns whether the key has to be
    /// reported by a shutdown.
    fn released(self: &Arc<Self>, shared: &NodeShared, outcome: Outcome) -> bool {
        let how = match &outcome {
            Outcome::Held => ReleaseOutcome::Held,
            Outcome::Lost(_) => ReleaseOutcome::Lost,
            Outcome::Indeterminate => ReleaseOutcome::Indeterminate,
        };
        let mut gone = None;
        let (mut is_reported, mut is_closed) = (false, false);
        self.change(shared, |state| {
            is_reported = state.take_held_at_close();
            is_closed = state.is_closed();
            if let LeaseState::Releasing { is_requested: true, .. } = state.lease
                && let LeaseState::Releasing { held_lease, .. } =
                    std::mem::replace(&mut state.lease, LeaseState::Absent)
            {
                held_lease.set_outcome(outcome);
                gone = Some(held_lease);
            }
            Effects { schedule: !state.wait_queue.is_empty(), ..Effects::default() }
        });
        let Some(held_lease) = gone else { return is_reported };
        let is_used = self.tell_release(shared, &held_lease, how);
        // The guard of a lease that was being released may have been there until the shutdown.
        is_reported || is_closed && is_used
    }

    /// Tells the observer how the release of the last guard has ended, if that is not told by who gave it
    /// back, and wakes the tasks that wait for it. Returns whether it was told.
    fn tell_release(
        &self,
        shared: &NodeShared,
        held_lease: &HeldLease,
        how: ReleaseOutcome,
    ) -> bool {
        let is_used = self.tell_outcome(shared, held_lease, how);
        if !shared.is_foreign() {
            shared.wake(held_lease.take_subscribers());
        }
        is_used
    }

    fn tell_outcome(
        &self,
        shared: &NodeShared,
        held_lease: &HeldLease,
        how: ReleaseOutcome,
    ) -> bool {
        if let Some((last, hold)) = held_lease.last_hold(shared.clock.now()) {
            last.span.run(shared, || {
                if how == ReleaseOutcome::Lost {
                    let why = held_lease.loss_at_release();
                    shared.observe(|observer| observer.lost(&self.key, &why, hold));
                }
                shared.observe(|observer| observer.released(&self.key, how, hold));
            });
            last.span.end(shared);
        }
        !shared.is_foreign() && held_lease.is_used()
    }

    /// The moment has come at which the driver looks at the user of the lease.
    fn check_user(self: &Arc<Self>, shared: &NodeShared, now: Time) {
        let mut over = None;
        self.change(shared, |state| {
            let effects;
            (effects, over) = state.check_user(shared, now, || self.busy(shared));
            effects
        });
        if let Some((held_lease, limit)) = over {
            // The guard goes by the clock: it is lost already.
            self.tell_loss(shared, &held_lease, Some(&limit));
        }
    }

    /// The error of a waiter that only tries, if others of this node are before it.
    fn busy(&self, shared: &NodeShared) -> LockError {
        LockError::Busy { at: shared.context(&self.key), holder: None }
    }

    /// The state machine has given up `intent`: its waiters get `error`. With [`Intent::Try`] and
    /// [`Intent::Outlast`] that is only the waiter that tries.
    fn failed(&self, shared: &NodeShared, error: &LockError, intent: Intent) {
        let mut state = self.state();
        let wakers = if matches!(intent, Intent::Try | Intent::Outlast) {
            if state.is_led_by_try() {
                state.wait_queue.fail_first(error.clone()).into_iter().collect()
            } else {
                vec![]
            }
        } else {
            state.wait_queue.fail_all(error)
        };
        drop(state);
        shared.wake(wakers);
    }

    /// The next event for the state machine: see [`LocalKeyState::next_event`].
    fn next_event(&self, intent: Intent) -> Option<Event> {
        self.state().next_event(intent)
    }
}

/// A handle of a key. While there is one, the node remembers the key.
#[derive(Debug)]
pub(crate) struct KeyHandle {
    pub(crate) shared: Arc<NodeShared>,
    pub(crate) local: Arc<LocalKey>,
}

impl KeyHandle {
    pub(crate) fn new(shared: Arc<NodeShared>, local: Arc<LocalKey>) -> Self {
        if !shared.is_foreign() {
            local.state().handles += 1;
        }
        Self { shared, local }
    }

    /// Acquires the lock. The guard is valid within `limits`.
    pub(crate) fn acquire(&self, mode: WaitMode, limits: HoldLimits) -> AcquireFuture<'_> {
        AcquireFuture {
            handle: self,
            mode,
            limits,
            spins: false,
            began: None,
            waiter_id: None,
            timeout: None,
            span: WaitSpan::default(),
        }
    }
}

impl Clone for KeyHandle {
    fn clone(&self) -> Self {
        Self::new(self.shared.clone(), self.local.clone())
    }
}

impl Drop for KeyHandle {
    fn drop(&mut self) {
        if self.shared.is_foreign() {
            leak(&self.local);
            return leak(&self.shared);
        }
        let mut never_scheduled = false;
        self.local.change(&self.shared, |state| {
            state.handles -= 1;
            never_scheduled = state.is_unused_and_never_scheduled();
            Effects { schedule: state.handles == 0 && !never_scheduled, ..Effects::default() }
        });
        if never_scheduled {
            self.shared.forget_never_scheduled(&self.local);
        }
    }
}

/// How long to wait for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitMode {
    Wait,
    /// Not at all: the result is the lock or [`LockError::Busy`].
    Try,
    /// Until the holder gives a sign of life; then the result is [`LockError::Busy`].
    Outlast,
    /// At most this long; then the result is [`LockError::TimedOut`].
    Within(Duration),
}

impl WaitMode {
    /// What a waiter that only tries wants of the engine. `None` for other waiters.
    fn tries(self) -> Option<Intent> {
        match self {
            Self::Try => Some(Intent::Try),
            Self::Outlast => Some(Intent::Outlast),
            Self::Wait | Self::Within(_) => None,
        }
    }
}

/// What ends the validity of a guard, besides the loss of the lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HoldLimits {
    /// The guard is valid for this long at most.
    pub(crate) at_most: Option<Duration>,
    /// The guard is valid for one lease, which is not renewed.
    pub(crate) without_renewal: bool,
}

/// Waits for the lock. If it is dropped, whether it was polled or not, nothing of it stays.
#[derive(Debug)]
#[must_use]
pub(crate) struct AcquireFuture<'a> {
    handle: &'a KeyHandle,
    mode: WaitMode,
    limits: HoldLimits,
    spins: bool,
    /// `Some` from the first poll until it is ready.
    began: Option<Time>,
    /// `Some` while it waits.
    waiter_id: Option<WaiterId>,
    timeout: Option<SleepUntil>,
    span: WaitSpan,
}

impl Future for AcquireFuture<'_> {
    type Output = Result<DistributedGuard, LockError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.handle.shared.is_foreign() {
            return Poll::Ready(Err(self.handle.shared.closed(&self.handle.local.key)));
        }
        let mut span = std::mem::take(&mut self.span);
        if self.began.is_none() {
            let KeyHandle { shared, local } = self.handle;
            shared.call(|| span.begin(&local.key, shared.capabilities.name));
        }
        let shared = &self.handle.shared;
        let result = span.run(shared, |span| self.poll_in_span(cx, span));
        if result.is_pending() {
            self.span = span;
        } else {
            span.end(shared);
        }
        result
    }
}

impl AcquireFuture<'_> {
    fn poll_in_span(
        &mut self,
        cx: &mut Context<'_>,
        span: &WaitSpan,
    ) -> Poll<Result<DistributedGuard, LockError>> {
        let result = match self.waiter_id {
            None => self.begin(cx),
            Some(waiter_id) => self.poll_queue(waiter_id, cx),
        };
        if self.handle.shared.is_foreign() {
            // The user's code, which this has called, has forked, and this is the child.
            return Poll::Ready(Err(self.handle.shared.closed(&self.handle.local.key)));
        }
        let result = match result {
            Poll::Pending => self.poll_timeout(cx),
            ready => ready,
        };
        if let Poll::Ready(result) = &result {
            self.waiter_id = None;
            self.timeout = None;
            if let Ok(guard) = result {
                let (key, via) = (guard.key(), guard.acquired_via());
                let shared = &self.handle.shared;
                shared.call(|| span.to_hold(guard.span(), key, guard.token(), via));
            }
            self.tell_observer(result);
            self.began = None;
        }
        result
    }

    /// For a thread, which spins for a moment while it is first in the queue.
    pub(crate) fn spinning(mut self) -> Self {
        self.spins = true;
        self
    }

    /// Whether it is first in the queue, so that only the present user is before it.
    pub(crate) fn is_next(&self) -> bool {
        self.waiter_id.is_some() && self.handle.local.state().wait_queue.first() == self.waiter_id
    }

    /// When the timeout passes, if there is one; not before the first poll.
    pub(crate) fn deadline(&self) -> Option<Time> {
        match (self.mode, self.began) {
            (WaitMode::Within(after), Some(began)) => Some(began + after),
            _ => None,
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<DistributedGuard, LockError>> {
        let KeyHandle { shared, local } = self.handle;
        shared.observe(|observer| observer.acquire_started(&local.key));
        if shared.is_foreign() {
            return Poll::Pending;
        }
        let began = shared.clock.now();
        self.began = Some(began);
        let limits = self.limits;
        let gives_up_at = match self.mode {
            WaitMode::Within(timeout) => Some(began + timeout),
            _ => None,
        };
        let (spins, without_renewal) = (self.spins, limits.without_renewal);
        let terms = WaiterTerms { spins, gives_up_at, without_renewal };
        let mut result = Poll::Pending;
        let mut waiter_id = None;
        let mut is_for_engine = false;
        let change = |state: &mut LocalKeyState| {
            if state.is_closed() {
                result = Poll::Ready(Err(shared.closed(&local.key)));
                return Effects::default();
            }
            let is_present = matches!(state.lease, LeaseState::Present(_));
            let is_free = state.wait_queue.is_empty() && (state.is_kept() || !is_present);
            let tries = self.mode.tries();
            if tries.is_some() && !is_free {
                result = Poll::Ready(Err(local.busy(shared)));
                return Effects::default();
            }
            let (grant, mut effects) = state.barge(shared, terms, began);
            if let Some(mut grant) = grant {
                effects.schedule |= state.begin_guard(shared, &mut grant, limits);
                result = Poll::Ready(Ok(grant));
                return effects;
            }
            let joined = state.wait_queue.join(cx.waker(), terms);
            waiter_id = Some(joined);
            if let Some(intent) = tries {
                state.trying = Some((joined, intent));
            } else if state.is_led_by_try() && state.intent() == Intent::Outlast {
                // Who outlasts a dead holder does not keep one that waits out of the engine's queue.
                effects.waker = state.wait_queue.fail_first(local.busy(shared));
            }
            effects.prewaker = state.prewake(joined);
            is_for_engine = !matches!(state.lease, LeaseState::Present(_));
            if is_for_engine {
                effects.schedule = true;
                state.driving = waiter_id;
            }
            effects
        };
        local.change_and(shared, change, |key| driver_task::drive(shared, key));
        self.waiter_id = waiter_id;
        match waiter_id.filter(|_| is_for_engine && !shared.is_foreign()) {
            // It may have answered already.
            Some(waiter_id) => self.poll_queue(waiter_id, cx),
            None => self.to_guard(result),
        }
    }

    fn poll_queue(
        &mut self,
        waiter_id: WaiterId,
        cx: &mut Context<'_>,
    ) -> Poll<Result<DistributedGuard, LockError>> {
        let KeyHandle { shared, local } = self.handle;
        let mut old = None;
        let mut refused = None;
        let mut result = Poll::Pending;
        local.change(shared, |state| {
            let mut effects;
            if state.wait_queue.is_absent(waiter_id) && state.is_led_by_try() {
                // This one waits again, before the one that only tries.
                refused = state.wait_queue.fail_first(local.busy(shared));
            }
            state.driving.take_if(|driving| *driving == waiter_id);
            (result, effects) = state.poll_waiter(shared, waiter_id, cx.waker(), &mut old);
            if let Poll::Ready(result) = &mut result {
                state.trying.take_if(|(trying, _)| *trying == waiter_id);
                if let Ok(grant) = result {
                    effects.schedule |= state.begin_guard(shared, grant, self.limits);
                }
            }
            effects
        });
        shared.wake(refused);
        self.to_guard(result)
    }

    fn to_guard(
        &self,
        result: Poll<Result<LocalGrant, LockError>>,
    ) -> Poll<Result<DistributedGuard, LockError>> {
        let KeyHandle { shared, local } = self.handle;
        result.map_ok(|grant| DistributedGuard::new(shared.clone(), local.clone(), grant))
    }

    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Result<DistributedGuard, LockError>> {
        let (WaitMode::Within(after), Some(began)) = (self.mode, self.began) else {
            return Poll::Pending;
        };
        let shared = &self.handle.shared;
        let timeout = self.timeout.get_or_insert_with(|| shared.sleep_until(began + after));
        if Pin::new(timeout).poll(cx).is_pending() {
            return Poll::Pending;
        }
        // This passes on a grant that came since the poll of the queue.
        self.leave();
        let KeyHandle { shared, local } = self.handle;
        let now = shared.clock.now();
        if now < began + after {
            // The timer fired early: the driver is gone.
            return Poll::Ready(Err(shared.closed(&local.key)));
        }
        let (is_unseen, last) = {
            let state = local.state();
            (state.is_scheduled(), state.engine().trouble(now, after / 2))
        };
        // What the caller wants of the engine was never looked at.
        let has_run = shared.driver_thread.last_run().is_some_and(|at| at >= began);
        let is_idle = is_unseen && !has_run && !after.is_zero();
        let last = if is_idle { Some(shared.not_run()) } else { last };
        Poll::Ready(Err(LockError::TimedOut { at: shared.context(&local.key), after, last }))
    }

    fn leave(&mut self) {
        if !self.handle.shared.is_foreign()
            && let Some(waiter_id) = self.waiter_id.take()
        {
            let KeyHandle { shared, local } = self.handle;
            let mut old = None;
            let now = shared.clock.now();
            local.change(shared, |state| state.leave(shared, waiter_id, now, &mut old));
        }
    }

    fn tell_observer(&self, result: &Result<DistributedGuard, LockError>) {
        let KeyHandle { shared, local } = self.handle;
        if !shared.is_observed() {
            return;
        }
        let waited = self.began.map_or(Duration::ZERO, |began| shared.clock.now().since(began));
        shared.observe(|observer| match result {
            Ok(guard) => observer.acquired(&local.key, waited, guard.acquired_via(), guard.token()),
            Err(error) => observer.acquire_failed(&local.key, waited, error),
        });
    }
}

impl Drop for AcquireFuture<'_> {
    fn drop(&mut self) {
        self.leave();
        let KeyHandle { shared, local } = self.handle;
        if let Some(began) = self.began
            && shared.is_observed()
            && !shared.is_foreign()
        {
            let waited = shared.clock.now().since(began);
            self.span.run(shared, |_| {
                shared.observe(|observer| observer.acquire_cancelled(&local.key, waited));
            });
        }
        self.span.end(shared);
    }
}
