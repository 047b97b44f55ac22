//! Giving the lock back, and undoing what was given up.

use super::{Action, Attempt, Kind, Machine, Outcome, Wish};
use crate::cluster::register::{Register, Waiter};
use crate::cluster::time::Time;

/// The lock is being given back, and somebody wants to know how that went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub(super) attempt: Attempt,
    /// A release of unknown outcome was sent.
    pub(super) is_in_doubt: bool,
    /// The deadline of what was held: after it nobody waits for the answer any more.
    pub(super) until: Time,
}

impl Machine {
    /// The lock is not held here from this moment on, whatever becomes of the write.
    pub(super) fn begin_release(&mut self) {
        match self.held.take() {
            Some(held) => {
                let (attempt, until) = (held.attempt, held.deadline);
                self.leaving = Some(Leaving { attempt, is_in_doubt: false, until });
                self.begin_attempt();
            }
            // It was lost a moment ago.
            None if self.leaving.is_none() => {
                self.actions.push_back(Action::Released(Outcome::Lost));
            }
            None => {}
        }
    }

    /// What is known of the release, once the register does not name this node's holder any more.
    pub(super) fn check_leaving(&mut self, now: Time) {
        let Some(leaving) = self.leaving else { return };
        let names_us = |register: &Register| register.is_held_by(leaving.attempt);
        let is_there = self.view.register.as_ref().is_ok_and(names_us);
        // The watch may show the release before its answer comes.
        let is_asked = self.under_way.as_ref().is_some_and(|request| request.kind == Kind::Leave);
        if (is_there || is_asked) && now < leaving.until {
            self.wake_by(leaving.until);
        } else if is_there || is_asked || leaving.is_in_doubt {
            self.released(Outcome::InDoubt);
        } else {
            self.released(Outcome::Lost);
        }
    }

    pub(super) fn released(&mut self, outcome: Outcome) {
        if self.leaving.take().is_some() {
            self.actions.push_back(Action::Released(outcome));
        }
    }

    /// Writes the register without this node: the lock is reserved for the first in the queue, or
    /// free. If this node wants it again and others wait, it goes to the end of the queue in the same
    /// write. There is no request under way.
    pub(super) fn leave(&mut self, now: Time) {
        // What is not understood is not written over.
        let Ok(seen) = &self.view.register else { return self.doubt = None };
        let mut register = seen.clone();
        // Others may hold or wait under this node's number, but never with its nonce.
        register.queue.retain(|waiter| !self.is_own(waiter.attempt));
        if register.holder.as_ref().is_some_and(|holder| self.is_own(holder.attempt)) {
            register.holder = None;
            register.advance();
        }
        if register == *seen && self.doubt.is_none() {
            return;
        }
        if let Some(leaving) = self.leaving
            && let Some(until) = self.leave_room(register.queue.len(), now)
            && until < leaving.until
        {
            return self.wake_by(until);
        }
        let has_room = register.queue.len() < self.settings.queue_limit;
        if self.wish == Wish::Wait && !register.queue.is_empty() && has_room {
            register.queue.push(Waiter::new(self.attempt, &self.settings.label));
        }
        self.write(Kind::Leave, register, now);
    }

    /// Whether the register shows anything of this node.
    pub(super) fn has_traces(&self) -> bool {
        let has = |register: &Register| {
            register.holder.as_ref().is_some_and(|holder| self.is_own(holder.attempt))
                || register.queue.iter().any(|waiter| self.is_own(waiter.attempt))
        };
        self.view.register.as_ref().is_ok_and(has)
    }

    pub(super) fn is_own(&self, attempt: Attempt) -> bool {
        attempt.node == self.settings.node
    }
}
