//! Getting the lock: at once, by the queue, or past those who do not answer.

use super::{Action, Failure, Grant, Held, Kind, Machine, Way, Wish, allowance};
use crate::cluster::register::{Holder, Register, Waiter};
use crate::cluster::time::Time;
use crate::cluster::transport::Version;

impl Machine {
    /// The next step towards the lock. There is no request under way.
    pub(super) fn acquire(&mut self, now: Time) {
        let register = match &self.view.register {
            Ok(register) => self.without_traces(register),
            Err(_) if !self.view.is_fresh || self.must_look => return self.load(now),
            Err(why) => return self.fail(Failure::Unreadable(why.clone())),
        };
        let position = register.position(self.attempt);
        let rank = position.unwrap_or(register.queue.len());
        if rank > 0 && register.beat != self.view.beat() {
            // The holder is an attempt of this node that nobody stands for any more: those who wait
            // need not wait for its lease.
            return self.join(register, now);
        }
        if let Some(way) = self.way_in(&register, rank, now) {
            return self.take(register, rank, way, now);
        }
        if !self.view.is_fresh {
            if self.wish == Wish::Wait
                && rank > 0
                && let Some(until) = self.leaves_alone(now)
            {
                return self.wake_by(until.min(self.due(&register, rank)));
            }
            // What was seen long ago may have changed.
            return self.load(now);
        }
        if self.wish == Wish::Try {
            let holder = register.holder.map(|holder| holder.label);
            return self.fail(Failure::Busy { holder });
        }
        self.wake_by(self.due(&register, rank));
        if self.await_watch(now) {
            return;
        }
        if position.is_none() && register.queue.len() < self.settings.queue_limit {
            let at = self.join_from(&register);
            if now >= at {
                return self.join(register, now);
            }
            self.wake_by(at);
        }
        self.look_from_time_to_time(rank, now);
    }

    /// The register without what earlier attempts of this node left in it, which nobody stands for
    /// any more.
    fn without_traces(&self, register: &Register) -> Register {
        let mut register = register.clone();
        let stale = |attempt| self.is_own(attempt) && attempt != self.attempt;
        register.queue.retain(|waiter| !stale(waiter.attempt));
        if register.holder.as_ref().is_some_and(|holder| stale(holder.attempt)) {
            register.holder = None;
            register.advance();
        }
        register
    }

    /// How the lock could be had by a write now.
    fn way_in(&self, register: &Register, rank: usize, now: Time) -> Option<Way> {
        let due = now >= self.due(register, rank);
        match &register.holder {
            // A write that was in doubt has arrived. Only one of known outcome tells the version
            // and the deadline.
            Some(holder) if holder.attempt == self.attempt => Some(self.way_tried),
            Some(_) => due.then_some(Way::Takeover),
            None if register.queue.is_empty() => Some(Way::Free),
            None => (rank == 0 || due).then_some(Way::HandOff),
        }
    }

    /// Writes itself in as the holder; the first `passed_over` of the queue are out.
    fn take(&mut self, mut register: Register, passed_over: usize, way: Way, now: Time) {
        let is_held = register.is_held_by(self.attempt);
        if !is_held {
            register.queue.drain(..passed_over);
        }
        register.queue.retain(|waiter| waiter.attempt != self.attempt);
        register.holder =
            Some(Holder::new(self.attempt, &self.settings.label, self.settings.lease));
        register.advance();
        self.way_tried = way;
        // The next in line watches the new holder's beat from now on.
        self.write(Kind::Take, register, now);
    }

    /// Writes itself to the end of the queue. The beat is not the joiner's to move.
    fn join(&mut self, mut register: Register, now: Time) {
        self.met_others();
        let has_room = register.queue.len() < self.settings.queue_limit;
        if register.position(self.attempt).is_none() && has_room {
            register.queue.push(Waiter::new(self.attempt, &self.settings.label));
        }
        self.write(Kind::Join, register, now);
    }

    /// The write that takes the lock got this version. It was sent not before `sent`.
    pub(super) fn taken(&mut self, version: Version, sent: Time, now: Time) {
        let deadline = self.deadline(sent);
        if self.wish == Wish::Nothing || now >= deadline {
            // Not wanted any more: it is undone. Or too late to be of use: it is confirmed anew.
            return;
        }
        self.wish = Wish::Nothing;
        self.begin_turn(now);
        let renew_at = sent + self.settings.lease / 3;
        self.held = Some(Held { attempt: self.attempt, deadline, renew_at });
        let way = self.way_tried;
        self.actions.push_back(Action::Granted(Grant { version, deadline, way }));
    }

    /// Until when a write that was sent not before `sent` lets this node hold.
    pub(super) fn deadline(&self, sent: Time) -> Time {
        sent + (self.settings.lease - allowance(self.settings.lease))
    }
}
