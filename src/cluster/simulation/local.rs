//! What the threads of a node do with a lock: they want it, wait or do not, use the resource behind
//! it, hand it to each other, and give it back.

use super::clock::{MS, Moment};
use super::node::{Step, Tenure};
use super::world::World;
use crate::cluster::protocol::{Event, Wish};
use crate::cluster::token::FencingToken;

impl World {
    /// A thread takes its step, unless what it was meant for is over.
    pub(super) fn act(&mut self, node: usize, key: usize, step: Step) {
        let tenure = self.nodes[node].seats[key].local.tenure;
        let holds = |serial: u64| tenure.is_some_and(|tenure| tenure.serial == serial);
        match step {
            Step::Want if self.is_lively && !self.is_calm() => self.want(node, key),
            Step::Cancel(serial) => {
                let local = &self.nodes[node].seats[key].local;
                if local.wish.is_some() && local.serial == serial {
                    self.wish(node, key, Wish::Nothing);
                }
            }
            Step::Use(serial) if holds(serial) => {
                // A guard asks the clock, nothing else.
                if self.is_valid(node, key) {
                    self.send_access(node, key);
                }
                let after = self.random.u64(..self.lease() / 2);
                self.step_later(node, key, after, Step::Use(serial));
            }
            Step::HandOver(serial) if holds(serial) => {
                self.hand_over(node, key);
                let after = self.random.u64(..self.lease() / 4);
                self.step_later(node, key, after, Step::HandOver(serial));
            }
            Step::Refresh(serial) if holds(serial) => self.handle(node, key, Event::Refresh),
            Step::Finish(serial) if holds(serial) => self.finish(node, key),
            _ => {}
        }
    }

    /// Whether a guard on this node says that it is valid.
    pub(super) fn is_valid(&self, node: usize, key: usize) -> bool {
        let tenure = &self.nodes[node].seats[key].local.tenure;
        tenure.is_some_and(|tenure| self.clock(node) < tenure.deadline)
    }

    fn want(&mut self, node: usize, key: usize) {
        let has_wish = self.nodes[node].seats[key].local.wish.is_some();
        if !has_wish {
            self.maybe_begin_anew(node, key);
            let tries = self.chance(self.profile.tries);
            self.wish(node, key, if tries { Wish::Try } else { Wish::Wait });
            if self.chance(self.profile.cancels) {
                let serial = self.nodes[node].seats[key].local.serial;
                let most = [MS, 20 * MS, 500 * MS, 2 * self.lease()][self.random.usize(..4)];
                let after = self.random.u64(..most);
                self.step_later(node, key, after, Step::Cancel(serial));
            }
        }
        let after = self.between(self.profile.rest);
        self.step_later(node, key, after, Step::Want);
    }

    /// A driver may drop a machine that is idle, and make a new one when it is needed.
    fn maybe_begin_anew(&mut self, node: usize, key: usize) {
        let seat = &self.nodes[node].seats[key];
        if seat.machine.is_idle() && seat.local.releasing.is_none() && self.chance(300) {
            self.unwatch(node, key);
            let id = self.nodes[node].id;
            self.nodes[node].seats[key].machine = self.new_machine(id, node);
            self.nodes[node].seats[key].timer = None;
            self.nodes[node].seats[key].failed_at = None;
            self.tell(format_args!("{node}/{key} drops its idle machine"));
        }
    }

    fn hand_over(&mut self, node: usize, key: usize) {
        let skip = if self.chance(100) { self.random.u32(..1024) } else { 0 };
        let Some(tenure) = &mut self.nodes[node].seats[key].local.tenure else { return };
        // A guard is not handed over when it is not valid.
        let next = tenure.next + skip;
        let Some(token) = FencingToken::of(tenure.base, next) else {
            return self.handle(node, key, Event::Refresh);
        };
        tenure.next = next + 1;
        tenure.token = token;
        if self.is_valid(node, key) {
            self.check_token(node, key, token);
        }
    }

    fn finish(&mut self, node: usize, key: usize) {
        if self.nodes[node].seats[key].local.wish.is_none() && self.is_lively && self.chance(300) {
            let again = !self.is_calm();
            if again {
                self.wish(node, key, Wish::Wait);
            }
        }
        self.release(node, key);
    }

    /// The guard is gone.
    pub(super) fn release(&mut self, node: usize, key: usize) {
        let local = &mut self.nodes[node].seats[key].local;
        // The wish may have found that the lease is over.
        let Some(tenure) = local.tenure.take() else { return };
        local.releasing = Some(tenure);
        self.handle(node, key, Event::Release);
    }

    /// What an interruption means for the threads. Whether there is anything to interrupt.
    pub(super) fn interrupt(&mut self, node: usize, key: usize, event: &Event) -> bool {
        let now = self.now;
        let local = &mut self.nodes[node].seats[key].local;
        match event {
            Event::Wish(wish) => {
                local.serial += 1;
                local.wish = (*wish != Wish::Nothing).then_some((*wish, now));
            }
            Event::Release => {
                let Some(tenure) = local.tenure.take() else { return false };
                local.releasing = Some(tenure);
            }
            _ => {}
        }
        true
    }

    /// What the threads do with a lock that has just come.
    pub(super) fn begin_tenure(&mut self, node: usize, key: usize, tenure: Tenure) {
        let serial = tenure.serial;
        self.nodes[node].seats[key].local.tenure = Some(tenure);
        if !self.is_lively {
            return;
        }
        let lease = self.lease();
        let hold = if !self.is_calm() && self.chance(self.profile.long_holds) {
            self.random.u64(..2 * lease)
        } else {
            self.between(self.profile.hold)
        };
        self.step_later(node, key, hold, Step::Finish(serial));
        let first = self.random.u64(..hold + 1);
        self.step_later(node, key, first, Step::Use(serial));
        let second: Moment = self.random.u64(..hold + 1);
        self.step_later(node, key, second, Step::HandOver(serial));
        if self.chance(self.profile.refreshes) {
            self.step_later(node, key, second / 2, Step::Refresh(serial));
        }
    }
}
