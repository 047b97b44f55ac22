//! Nodes that find no place in the queue.
//!
//! The queue in the register has a [limit](super::MachineSettings::queue_limit), since each write carries it
//! whole. A node that finds it full waits *outside*. Nobody wakes it, and if all that wait outside looked for
//! a free place at every change, or each so often, a grant would cost as many requests as nodes wait.
//!
//! So the register says how long a node outside waits on average between two looks: the *pace*. Nodes adapt
//! it when they join. One that has found the queue full before raises it: nodes look more often than places
//! become free. Another lowers it by the part of the queue that is empty. So the looks of all nodes together come
//! about as often as places, however many nodes there are. (Senders that do not know each other control
//! congestion by such rules.) The price: a node that comes after a crowd has gone may find the last pace, and
//! waits for it once.
//!
//! As the pace is in the register, all nodes outside draw from the same range, whether they came a moment or
//! an hour ago, and none backs off by itself: it would lose every place to those who came later. For the same
//! reason a node does not keep its place when it releases the lock while there is a pace: it waits outside
//! with the others.

use super::Machine;
use crate::cluster::protocol::Time;
use crate::cluster::protocol::register::Register;
use std::time::Duration;

/// The shortest pace, in round trips. A shorter one is none.
const SHORTEST: u32 = 8;

/// What a node that is not in the queue does next.
pub(super) enum Step {
    Join,
    Load,
    WaitUntil(Time),
}

impl Machine {
    /// The next step of a node that waits for the lock and is not in the queue.
    pub(super) fn step_outside(&mut self, register: &Register, now: Time) -> Step {
        let is_full = register.queue.len() >= self.settings.queue_limit;
        if is_full || !register.pace.is_zero() || self.look_at.is_some() {
            let look_at = match self.look_at {
                Some(at) => at,
                None => self.draw_look(register, now),
            };
            if now < look_at {
                return Step::WaitUntil(look_at);
            }
            if !self.sees_all() && self.view.heard_at < look_at {
                return Step::Load;
            }
            if is_full {
                self.refused_at = Some(register.pace);
                return Step::WaitUntil(self.draw_look(register, now));
            }
        }
        if now < self.join_at { Step::WaitUntil(self.join_at) } else { Step::Join }
    }

    /// This node is in the queue, or begins a new acquisition.
    pub(super) fn has_place(&mut self) {
        (self.look_at, self.refused_at) = (None, None);
    }

    /// Draws the moment of the next look.
    fn draw_look(&mut self, register: &Register, now: Time) -> Time {
        let pace = register.pace.clamp(self.shortest_pace(), self.longest_pace());
        let at = now + (2 * pace).mul_f64(self.random.f64());
        self.look_at = Some(at);
        at
    }

    /// Adapts the pace in a register that this node joins, before it is in the queue.
    pub(super) fn adapt_pace(&self, register: &mut Register) {
        if let Some(pace) = self.refused_at {
            self.raise_pace(register, pace);
        } else {
            let taken = (register.queue.len() + 1) as f64 / self.settings.queue_limit as f64;
            let lower = register.pace.mul_f64(taken.min(1.0));
            register.pace = if lower < self.shortest_pace() { Duration::ZERO } else { lower };
        }
    }

    /// Raises the pace to twice what it was when this node was refused, unless it is longer by now.
    pub(super) fn raise_pace(&self, register: &mut Register, refused_at: Duration) {
        let longer = register.pace.max(2 * refused_at);
        register.pace = longer.clamp(self.shortest_pace(), self.longest_pace());
    }

    /// A node looks at least once in half its lease, since nobody else tells it that all in the queue are dead.
    fn longest_pace(&self) -> Duration {
        self.settings.lease / 4
    }

    fn shortest_pace(&self) -> Duration {
        (self.round_trip * SHORTEST).min(self.longest_pace())
    }
}
