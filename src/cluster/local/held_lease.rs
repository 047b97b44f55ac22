//! A lease that this node holds, from the grant in the register until it is released or lost.
//!
//! All guards that the node makes of the lease share it. A guard needs only this and the clock to
//! tell whether it is valid.

use super::loss_report::LossReport;
use crate::Mutex;
use crate::cluster::fence::FencingToken;
use crate::cluster::guard::LossReason;
use crate::cluster::key::Key;
use crate::cluster::local::clock::NodeClock;
use crate::cluster::node::NodeShared;
use crate::cluster::observer::Hold;
use crate::cluster::observer::tracing::HoldSpan;
use crate::cluster::protocol::{Outcome, Time};
use std::task::Waker;
use std::time::Duration;

/// A lease that this node holds.
#[derive(Debug)]
pub(crate) struct HeldLease {
    state: Mutex<HeldLeaseState>,
    /// Of the loss of its last guard, if that has no limit of its own.
    report: LossReport,
}

/// One use of a lease: of the guard that has this token.
#[derive(Clone, Debug)]
pub(crate) struct Use {
    pub(crate) token: FencingToken,
    pub(crate) began: Time,
    /// What happens to the guard happens in it.
    pub(crate) span: HoldSpan,
}

impl Use {
    pub(crate) fn new(token: FencingToken, began: Time) -> Self {
        Self { token, began, span: HoldSpan::default() }
    }

    pub(crate) fn until(&self, end: Time) -> Hold {
        Hold { token: self.token, held_for: end.since(self.began) }
    }
}

/// A limit of one guard: it is valid until this moment at the latest.
#[derive(Debug)]
pub(crate) struct GuardLimit {
    pub(crate) at: Time,
    of: Use,
    report: LossReport,
}

impl GuardLimit {
    pub(crate) fn new(at: Time, of: Use) -> Self {
        Self { at, of, report: LossReport::default() }
    }
}

#[derive(Debug)]
struct HeldLeaseState {
    deadline: Time,
    /// Why it was lost, and when. Once set it does not change.
    lost: Option<(LossReason, Time)>,
    /// There was a guard of it whose end the driver tells to the observer.
    is_used: bool,
    /// Of the last guard, and when that was given back.
    last_use: Option<(Use, Option<Time>)>,
    /// The end of that guard was told by who gave it back.
    is_told: bool,
    /// The result of its release. Once set it does not change.
    outcome: Option<Outcome>,
    /// The wakers to call at the next change, each with a number.
    subscribers: Vec<(u64, Waker)>,
    last_subscriber: u64,
}

impl HeldLease {
    pub(crate) fn new(deadline: Time) -> Self {
        let state = HeldLeaseState {
            deadline,
            lost: None,
            is_used: false,
            last_use: None,
            is_told: false,
            outcome: None,
            subscribers: vec![],
            last_subscriber: 0,
        };
        Self { state: Mutex::new(state), report: LossReport::default() }
    }

    /// How long a guard that is valid until `limit` at most is valid without a renewal; zero if the
    /// lease is over or lost.
    pub(crate) fn remaining(&self, limit: Option<Time>, clock: &NodeClock) -> Duration {
        let state = self.state.lock();
        let end = limit.map_or(state.deadline, |limit| limit.min(state.deadline));
        // The clock is read after the deadline, so that an old reading never makes a guard valid.
        if state.lost.is_some() { Duration::ZERO } else { end.since(clock.now()) }
    }

    /// The same. `None` if the state is locked at this moment.
    #[cfg(test)]
    pub(crate) fn try_remaining(&self, limit: Option<Time>, clock: &NodeClock) -> Option<Duration> {
        let state = self.state.try_lock()?;
        let end = limit.map_or(state.deadline, |limit| limit.min(state.deadline));
        let left = end.since(clock.now());
        Some(if state.lost.is_some() { Duration::ZERO } else { left })
    }

    /// Why a guard that is valid until `limit` at most is lost, if it is. From the deadline on it is
    /// lost, even if the driver has not noticed that yet; the engine's last error is not known here.
    pub(crate) fn lost(&self, limit: Option<Time>, now: Time) -> Option<LossReason> {
        let state = self.state.lock();
        let lost_at = state.lost.as_ref().map_or(state.deadline, |(_, at)| *at);
        // `now` may have been read before the loss was recorded.
        let is_over = |limit| now >= limit || state.lost.is_some();
        if limit.is_some_and(|limit| limit <= lost_at && is_over(limit)) {
            return Some(LossReason::HoldLimit);
        }
        match &state.lost {
            Some((why, _)) => Some(why.clone()),
            None => (now >= state.deadline).then_some(LossReason::Expired { last: None }),
        }
    }

    /// The reason that was recorded for its loss. The clock is not looked at.
    pub(crate) fn recorded_loss(&self) -> Option<LossReason> {
        self.state.lock().lost.as_ref().map(|(why, _)| why.clone())
    }

    pub(crate) fn deadline(&self) -> Time {
        self.state.lock().deadline
    }

    /// There is a guard of it.
    pub(crate) fn mark_used(&self, by: Use) {
        let mut state = self.state.lock();
        (state.is_used, state.is_told) = (true, false);
        state.last_use = Some((by, None));
    }

    /// The guard that has this token is given back. `is_told`: who does that tells the observer.
    pub(crate) fn end_use(&self, token: FencingToken, now: Time, is_told: bool) {
        let mut state = self.state.lock();
        if let Some((_, ended)) = state.last_use.as_mut().filter(|(last, _)| last.token == token) {
            ended.get_or_insert(now);
            state.is_told |= is_told;
        }
    }

    /// The hold of its last guard, if the driver has to tell of it; up to `now`, if the guard was not given back before.
    pub(crate) fn last_hold(&self, now: Time) -> Option<(Use, Hold)> {
        let state = self.state.lock();
        let (last, ended) = state.last_use.clone().filter(|_| state.is_used && !state.is_told)?;
        drop(state);
        let hold = last.until(ended.unwrap_or(now));
        Some((last, hold))
    }

    /// The present use.
    pub(crate) fn present_use(&self) -> Option<Use> {
        self.state.lock().last_use.clone().map(|(last, _)| last)
    }

    /// The use by its guard that has this limit.
    pub(crate) fn use_within(&self, limit: Option<&GuardLimit>) -> Option<Use> {
        limit.map(|limit| limit.of.clone()).or_else(|| self.present_use())
    }

    /// Its guard is lost. Who gives that back tells the observer of it.
    pub(crate) fn mark_unused(&self) {
        self.state.lock().is_used = false;
    }

    /// Whether there was a guard of it whose end the driver has to tell to the observer.
    pub(crate) fn is_used(&self) -> bool {
        self.state.lock().is_used
    }

    /// The report of the loss of its guard that has this limit.
    pub(crate) fn report<'a>(&'a self, limit: Option<&'a GuardLimit>) -> &'a LossReport {
        limit.map_or(&self.report, |limit| &limit.report)
    }

    /// Tells the observer that its guard with this limit is lost, unless that was done or is being done.
    /// Then wakes the subscribers.
    pub(crate) fn tell_loss(
        &self,
        limit: Option<&GuardLimit>,
        of: &Use,
        shared: &NodeShared,
        key: &Key,
        why: &LossReason,
    ) {
        let report = self.report(limit);
        if !report.begin() {
            return;
        }
        let hold = of.until(shared.clock.now());
        of.span.run(shared, || shared.observe(|observer| observer.lost(key, why, hold)));
        // In a child that the observer has forked, a mutex may be held for ever.
        if !shared.is_foreign() {
            report.end();
            shared.wake(self.take_subscribers());
        }
    }

    /// The result of its release, if that has ended.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.state.lock().outcome.clone()
    }

    /// Why it was lost before its release, if that has shown it.
    pub(crate) fn loss_at_release(&self) -> LossReason {
        let state = self.state.lock();
        match (&state.lost, &state.outcome) {
            (Some((why, _)), _) => why.clone(),
            (None, Some(Outcome::Lost(Some(why)))) => why.clone().into(),
            (None, _) => LossReason::TakenOver,
        }
    }

    /// Extends it to `deadline`. Returns how much was left of it. Returns `None`, and changes nothing, if it is
    /// lost or over: a guard may have been seen to be invalid, and must stay so.
    #[must_use]
    pub(crate) fn extend(&self, deadline: Time, clock: &NodeClock) -> Option<Duration> {
        let mut state = self.state.lock();
        let left = state.deadline.since(clock.now());
        if state.lost.is_some() || left.is_zero() {
            return None;
        }
        state.deadline = state.deadline.max(deadline);
        Some(left)
    }

    /// Records its loss. The first reason stays.
    pub(crate) fn mark_lost(&self, why: LossReason, clock: &NodeClock) {
        let mut state = self.state.lock();
        // Read under the mutex: nobody has seen the lease at a later moment and not lost.
        let lost_at = clock.now().min(state.deadline);
        state.lost.get_or_insert((why, lost_at));
    }

    /// Records the result of its release.
    pub(crate) fn set_outcome(&self, outcome: Outcome) {
        self.state.lock().outcome.get_or_insert(outcome);
    }

    /// The subscribers, to be woken after a change was recorded, the observer was told of it, and all
    /// mutexes are released.
    #[must_use]
    pub(crate) fn take_subscribers(&self) -> Vec<Waker> {
        let subscribers = std::mem::take(&mut self.state.lock().subscribers);
        subscribers.into_iter().map(|(_, waker)| waker).collect()
    }

    /// Has this waker called at the next change. Returns the number of the subscription; `last` is
    /// what the last call of the same subscriber returned.
    pub(crate) fn subscribe(&self, last: Option<u64>, waker: &Waker) -> u64 {
        // The drop of a waker may run code of the user, so it has to come after the mutex.
        let mut _old = None;
        let mut state = self.state.lock();
        let known = state.subscribers.iter_mut().find(|(id, _)| Some(*id) == last);
        if let Some((id, before)) = known {
            if !before.will_wake(waker) {
                _old = Some(std::mem::replace(before, waker.clone()));
            }
            return *id;
        }
        state.last_subscriber += 1;
        let id = state.last_subscriber;
        state.subscribers.push((id, waker.clone()));
        id
    }

    pub(crate) fn unsubscribe(&self, subscriber: Option<u64>) {
        let mut state = self.state.lock();
        let at = state.subscribers.iter().position(|(id, _)| Some(*id) == subscriber);
        let gone = at.map(|at| state.subscribers.swap_remove(at));
        drop(state);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::{HeldLease, LossReason, NodeClock};
    use std::time::Duration;
    use tokio::runtime::Handle;

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_seen_to_be_over_stays_over() {
        let clock = NodeClock::tokio(&Handle::current());
        let second = Duration::from_secs(1);
        let held_lease = HeldLease::new(clock.now() + second);
        tokio::time::advance(second / 2).await;
        assert_eq!(held_lease.extend(clock.now() + second, &clock), Some(second / 2));
        tokio::time::advance(second - Duration::from_millis(1)).await;
        assert_eq!(held_lease.remaining(None, &clock), Duration::from_millis(1));
        assert_eq!(held_lease.lost(None, clock.now()), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(held_lease.remaining(None, &clock), Duration::ZERO);
        assert_eq!(held_lease.lost(None, clock.now()), Some(LossReason::Expired { last: None }));
        // A renewal whose response arrived in time, but is applied too late.
        assert_eq!(held_lease.extend(clock.now() + second, &clock), None);
        assert_eq!(held_lease.remaining(None, &clock), Duration::ZERO);
        // The first reason that is recorded stays.
        held_lease.mark_lost(LossReason::TakenOver, &clock);
        held_lease.mark_lost(LossReason::Closed, &clock);
        assert_eq!(held_lease.recorded_loss(), Some(LossReason::TakenOver));
        assert_eq!(held_lease.extend(clock.now() + second, &clock), None);
    }

    /// The reason is what came first, whenever it is asked for.
    #[tokio::test(start_paused = true)]
    async fn a_limit_is_the_reason_only_if_it_passed_before_the_loss() {
        let clock = NodeClock::tokio(&Handle::current());
        let second = Duration::from_secs(1);
        let began = clock.now();
        let held_lease = HeldLease::new(began + 10 * second);
        tokio::time::advance(5 * second).await;
        let (early, late) = (Some(began + 4 * second), Some(began + 6 * second));
        assert_eq!(held_lease.lost(early, clock.now()), Some(LossReason::HoldLimit));
        assert_eq!(held_lease.remaining(early, &clock), Duration::ZERO);
        assert_eq!(held_lease.lost(late, clock.now()), None);
        assert_eq!(held_lease.remaining(late, &clock), second);
        held_lease.mark_lost(LossReason::TakenOver, &clock);
        tokio::time::advance(20 * second).await;
        assert_eq!(held_lease.lost(early, clock.now()), Some(LossReason::HoldLimit));
        assert_eq!(held_lease.lost(late, clock.now()), Some(LossReason::TakenOver));
        assert_eq!(held_lease.remaining(late, &clock), Duration::ZERO);
        // The limit of a lease that is not renewed is its deadline.
        let held_lease = HeldLease::new(clock.now() + second);
        let end = Some(held_lease.deadline());
        tokio::time::advance(2 * second).await;
        held_lease.mark_lost(LossReason::Expired { last: None }, &clock);
        assert_eq!(held_lease.lost(end, clock.now()), Some(LossReason::HoldLimit));
        let later = end.map(|end| end + second / 2);
        assert_eq!(held_lease.lost(later, clock.now()), Some(LossReason::Expired { last: None }));
    }
}
