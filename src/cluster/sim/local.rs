//! What the threads of a node do with a lock: they want it, wait or do not, use the resource behind
//! it, hand it to each other, and give it back.

use super::clock::{MS, Moment};
use super::node::{HeldLease, Step};
use super::world::World;
use crate::cluster::protocol::{Event, Intent};
use crate::cluster::token::FencingToken;

impl World {
    /// A thread takes its step, unless what it was meant for is over.
    pub(super) fn act(&mut self, node: usize, key: usize, step: Step) {
        let held_lease = self.nodes[node].seats[key].local.held_lease;
        let holds = |serial: u64| held_lease.is_some_and(|held_lease| held_lease.serial == serial);
        match step {
            Step::Want if self.is_lively && !self.is_calm() => self.want(node, key),
            Step::Cancel(serial) => {
                let local = &self.nodes[node].seats[key].local;
                if local.intent.is_some() && local.serial == serial {
                    self.intent(node, key, Intent::Nothing);
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
                self.hand_off(node, key);
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
        let held_lease = &self.nodes[node].seats[key].local.held_lease;
        held_lease.is_some_and(|held_lease| self.clock(node) < held_lease.deadline)
    }

    fn want(&mut self, node: usize, key: usize) {
        let has_wish = self.nodes[node].seats[key].local.intent.is_some();
        if !has_wish {
            self.maybe_begin_anew(node, key);
            let tries = self.chance(self.profile.tries);
            self.intent(node, key, if tries { Intent::Try } else { Intent::Wait });
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

    fn hand_off(&mut self, node: usize, key: usize) {
        let skip = if self.chance(100) { self.random.u32(..1024) } else { 0 };
        let Some(held_lease) = &mut self.nodes[node].seats[key].local.held_lease else { return };
        // A guard is not handed off when it is not valid.
        let next = held_lease.next + skip;
        let Some(token) = FencingToken::of(held_lease.base, next) else {
            return self.handle(node, key, Event::Refresh);
        };
        held_lease.next = next + 1;
        held_lease.token = token;
        if self.is_valid(node, key) {
            self.check_token(node, key, token);
        }
    }

    fn finish(&mut self, node: usize, key: usize) {
        if self.nodes[node].seats[key].local.intent.is_none() && self.is_lively && self.chance(300)
        {
            let again = !self.is_calm();
            if again {
                self.intent(node, key, Intent::Wait);
            }
        }
        self.release(node, key);
    }

    /// The guard is gone.
    pub(super) fn release(&mut self, node: usize, key: usize) {
        let local = &mut self.nodes[node].seats[key].local;
        // The intent may have found that the lease is over.
        let Some(held_lease) = local.held_lease.take() else { return };
        local.releasing = Some(held_lease);
        self.handle(node, key, Event::Release);
    }

    /// What an interruption means for the threads. Whether there is anything to interrupt.
    pub(super) fn interrupt(&mut self, node: usize, key: usize, event: &Event) -> bool {
        let now = self.now;
        let local = &mut self.nodes[node].seats[key].local;
        match event {
            Event::Intent(intent) => {
                local.serial += 1;
                local.intent = (*intent != Intent::Nothing).then_some((*intent, now));
            }
            Event::Release => {
                let Some(held_lease) = local.held_lease.take() else { return false };
                local.releasing = Some(held_lease);
            }
            _ => {}
        }
        true
    }

    /// What the threads do with a lock that has just come.
    pub(super) fn begin_tenure(&mut self, node: usize, key: usize, held_lease: HeldLease) {
        let serial = held_lease.serial;
        self.nodes[node].seats[key].local.held_lease = Some(held_lease);
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
