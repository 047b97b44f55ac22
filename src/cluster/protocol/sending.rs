//! Requests that a machine may not send: since when, how urgent they are, and when an acquisition gives up.
//!
//! The driver [limits](crate::cluster#how-it-works) the requests of a node. A machine that may not send takes the
//! next step as far as it needs no request, and says that it has one to send.

use super::event::not_sent;
use super::{Failure, Intent, Machine, QueuedSend, Time};
use crate::cluster::transport::TransportError;

impl Machine {
    /// Whether the machine may send requests from now on, as it may in the beginning. `node_error`: if not, how the
    /// last request of the node failed, if it did.
    pub(crate) fn set_may_send(&mut self, may_send: bool, node_error: Option<&TransportError>) {
        self.may_send = may_send;
        self.node_error = node_error.filter(|_| !may_send).cloned();
    }

    /// Since when the machine has a request to send and may not, and which class that is of. `None`: it has none.
    pub(crate) fn queued(&self) -> Option<QueuedSend> {
        let since = self.queued_since?;
        let urgent_at = match self.held {
            Some(_) if self.publication_is_due => Some(since),
            Some(held) => Some(held.deadline - held.lease / 2),
            None => self.gives_back().then_some(since),
        };
        Some(QueuedSend { since, urgent_at, is_next: self.is_next() })
    }

    /// Whether the lock is being released, or is this node's without being wanted.
    fn gives_back(&self) -> bool {
        let has_it = || self.view.register.as_ref().is_ok_and(|register| self.holds(register));
        self.releasing.is_some() || self.intent == Intent::Nothing && has_it()
    }

    /// Whether this node was handed the lock, or a hint says that it may have been.
    fn is_next(&self) -> bool {
        let waits = self.intent != Intent::Nothing || self.is_expected();
        let claim = self.claim.as_ref().filter(|_| waits);
        let Some((claim, register)) = claim.zip(self.view.register.as_ref().ok()) else {
            return false;
        };
        let waits = register.position(claim.id).is_some();
        register.is_handed_to(claim.id) || waits && self.was_woken
    }

    /// Takes the next step. If that is a request that may not be sent, an acquisition fails if this has lasted for
    /// too long.
    pub(super) fn step(&mut self, now: Time) {
        self.queued_since = None;
        self.take_step(now);
        if self.queued_since.is_none() {
            if self.in_flight.is_none() {
                self.first_queued = None;
            }
            return;
        }
        let since = *self.first_queued.get_or_insert(now);
        self.queued_since = Some(since);
        if self.held.is_some() || self.releasing.is_some() || self.intent == Intent::Nothing {
            return;
        }
        let longest = match self.intent {
            Intent::Try => self.settings.lease / 5,
            _ => self.settings.unavailable_timeout,
        };
        // The engine may have failed before.
        let since = self.retry.failing_since.map_or(since, |failing| failing.min(since));
        if now < since + longest {
            return self.wake_by(since + longest);
        }
        let overload = || TransportError::unavailable(not_sent(now.since(since), None));
        let why = self.retry.last_error.clone().or_else(|| self.node_error.clone());
        let why = why.unwrap_or_else(overload);
        (self.queued_since, self.first_queued) = (None, None);
        self.fail(Failure::Transport(why));
        // What it has left in the register is to be removed.
        self.leave(now);
    }

    /// Whether a request may be sent now. If not, the key is to be queued.
    pub(super) fn can_send(&mut self, now: Time) -> bool {
        if !self.may_send {
            self.queued_since = Some(now);
        }
        self.may_send
    }
}
