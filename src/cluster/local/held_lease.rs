//! One stay of a lease at this node: from the grant by the register until it is given back or lost.
//!
//! Guards look at it to tell whether they are valid. Nothing but the clock is needed for that.

use crate::Mutex;
use crate::cluster::guard::LossReason;
use crate::cluster::local::clock::Clock;
use crate::cluster::protocol::Outcome;
use crate::cluster::time::Time;
use std::task::Waker;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(crate) struct HeldLease {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    deadline: Time,
    /// Set once, and never again.
    lost: Option<LossReason>,
    /// Somebody has fetched what was granted.
    is_used: bool,
    /// What became of its release.
    outcome: Option<Outcome>,
    /// Who wants to know of changes, each by a number.
    listeners: Vec<(u64, Waker)>,
    last_listener: u64,
}

impl HeldLease {
    pub(crate) fn new(deadline: Time) -> Self {
        let inner = Inner {
            deadline,
            lost: None,
            is_used: false,
            outcome: None,
            listeners: vec![],
            last_listener: 0,
        };
        Self { inner: Mutex::new(inner) }
    }

    /// How long it lasts without a renewal; nothing if it is over.
    pub(crate) fn remaining(&self, clock: &Clock) -> Duration {
        let inner = self.inner.lock();
        // The clock is read after the deadline: a guard is never valid by an old reading.
        if inner.lost.is_some() { Duration::ZERO } else { inner.deadline.since(clock.now()) }
    }

    /// Why it was lost, if it was. From the deadline on it is, whether that was noticed or not.
    pub(crate) fn lost(&self, clock: &Clock) -> Option<LossReason> {
        let inner = self.inner.lock();
        let expired = || LossReason::Expired { last: None };
        inner.lost.clone().or_else(|| (clock.now() >= inner.deadline).then(expired))
    }

    /// Why it was lost, if that was told.
    pub(crate) fn known_loss(&self) -> Option<LossReason> {
        self.inner.lock().lost.clone()
    }

    pub(crate) fn deadline(&self) -> Time {
        self.inner.lock().deadline
    }

    /// Somebody has it now.
    pub(crate) fn mark_used(&self) {
        self.inner.lock().is_used = true;
    }

    /// Whether anybody ever had it.
    pub(crate) fn is_used(&self) -> bool {
        self.inner.lock().is_used
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.inner.lock().outcome
    }

    /// It goes on until `deadline`. Whether it does: what was seen to be over stays over.
    #[must_use]
    pub(crate) fn extend(&self, deadline: Time, clock: &Clock) -> bool {
        let mut inner = self.inner.lock();
        if inner.lost.is_some() || clock.now() >= inner.deadline {
            return false;
        }
        inner.deadline = inner.deadline.max(deadline);
        true
    }

    /// It is lost. Wakes whoever listens.
    pub(crate) fn lose(&self, why: LossReason) {
        self.change(|inner| {
            inner.lost.get_or_insert(why);
        });
    }

    /// It is lost. Who listens is to be woken, outside of all mutexes.
    #[must_use]
    pub(crate) fn mark_lost(&self, why: LossReason) -> Vec<Waker> {
        let mut inner = self.inner.lock();
        inner.lost.get_or_insert(why);
        std::mem::take(&mut inner.listeners).into_iter().map(|(_, waker)| waker).collect()
    }

    /// It was given back. Wakes whoever listens.
    pub(crate) fn conclude(&self, outcome: Outcome) {
        self.change(|inner| {
            inner.outcome.get_or_insert(outcome);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner.lock();
        change(&mut inner);
        let listeners = std::mem::take(&mut inner.listeners);
        drop(inner);
        for (_, waker) in listeners {
            waker.wake();
        }
    }

    /// Wakes this waker at the next change. `known` is what the last call returned.
    pub(crate) fn listen(&self, known: Option<u64>, waker: &Waker) -> u64 {
        // A waker may run code that is not ours when it is dropped: not under the mutex.
        let mut _old = None;
        let mut inner = self.inner.lock();
        let listener = inner.listeners.iter_mut().find(|(id, _)| Some(*id) == known);
        if let Some((id, before)) = listener {
            if !before.will_wake(waker) {
                _old = Some(std::mem::replace(before, waker.clone()));
            }
            return *id;
        }
        inner.last_listener += 1;
        let id = inner.last_listener;
        inner.listeners.push((id, waker.clone()));
        id
    }

    pub(crate) fn forget(&self, listener: Option<u64>) {
        let mut inner = self.inner.lock();
        let at = inner.listeners.iter().position(|(id, _)| Some(*id) == listener);
        let gone = at.map(|at| inner.listeners.swap_remove(at));
        drop(inner);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, HeldLease, LossReason};
    use std::time::Duration;
    use tokio::runtime::Handle;

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_to_be_over_stays_over() {
        let clock = Clock::tokio(&Handle::current());
        let second = Duration::from_secs(1);
        let held_lease = HeldLease::new(clock.now() + second);
        tokio::time::advance(second / 2).await;
        assert!(held_lease.extend(clock.now() + second, &clock));
        tokio::time::advance(second - Duration::from_millis(1)).await;
        assert_eq!(held_lease.remaining(&clock), Duration::from_millis(1));
        assert_eq!(held_lease.lost(&clock), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(held_lease.remaining(&clock), Duration::ZERO);
        assert_eq!(held_lease.lost(&clock), Some(LossReason::Expired { last: None }));
        // A renewal whose answer was read in time, and is applied too late.
        assert!(!held_lease.extend(clock.now() + second, &clock));
        assert_eq!(held_lease.remaining(&clock), Duration::ZERO);
        // What is told first counts.
        held_lease.lose(LossReason::TakenOver);
        held_lease.lose(LossReason::Closed);
        assert_eq!(held_lease.known_loss(), Some(LossReason::TakenOver));
        assert!(!held_lease.extend(clock.now() + second, &clock));
    }
}
