//! What happens to whole nodes, and to the lock by an operator's hand.

use super::clock::Moment;
use super::node::Life;
use super::store::Author;
use super::world::{Item, World};
use crate::cluster::protocol::force_release;

impl World {
    /// For how long a fault lasts: mostly less than a lease, up to three.
    fn fault_length(&mut self) -> Moment {
        let most = if self.chance(500) { self.lease() / 2 } else { 3 * self.lease() };
        self.random.u64(1..most)
    }

    pub(super) fn happen_at_once(&mut self, item: Item) {
        self.fault(item);
    }

    pub(super) fn fault(&mut self, fault: Item) {
        if self.is_calm() && !matches!(fault, Item::Thaw(_) | Item::Mend(_)) {
            return;
        }
        match fault {
            Item::Freeze { node, again } => {
                let length = self.fault_length();
                self.freeze(node);
                self.later(length, Item::Thaw(node));
                if again {
                    self.schedule_fault(self.profile.freeze, Item::Freeze { node, again });
                }
            }
            Item::Pause { node } => {
                let length = self.fault_length();
                self.freeze(node);
                let now = self.now;
                self.nodes[node].clock.stop(now);
                for seat in &mut self.nodes[node].seats {
                    if let Some(held_lease) = &mut seat.local.held_lease {
                        held_lease.is_excused = true;
                    }
                }
                self.later(length, Item::Thaw(node));
                self.schedule_fault(self.profile.pause, Item::Pause { node });
            }
            Item::Thaw(node) => self.thaw(node),
            Item::Kill(node) => {
                if self.kill(node) {
                    self.add_node();
                }
            }
            Item::Part(node) => {
                let length = self.fault_length();
                self.part(node);
                self.later(length, Item::Mend(node));
                self.schedule_fault(self.profile.part, Item::Part(node));
            }
            Item::Mend(node) => self.mend(node),
            Item::Break(key) => {
                self.break_lock(key);
                self.schedule_fault(self.profile.break_lock, Item::Break(key));
            }
            _ => unreachable!("not a fault"),
        }
    }

    pub(super) fn freeze(&mut self, node: usize) {
        if self.nodes[node].life == Life::Runs {
            self.nodes[node].life = Life::Sleeps;
            self.tell(format_args!("{node} falls asleep"));
        }
    }

    pub(super) fn thaw(&mut self, node: usize) {
        if self.nodes[node].life != Life::Sleeps {
            return;
        }
        let now = self.now;
        self.nodes[node].life = Life::Runs;
        self.nodes[node].clock.go_on(now);
        self.tell(format_args!("{node} goes on"));
        // Its threads first: the guard must know without the machine's help.
        for key in 0..self.profile.keys {
            if self.is_valid(node, key) {
                self.send_access(node, key);
            }
        }
        let mut inbox = std::mem::take(&mut self.nodes[node].inbox);
        match self.random.u8(..3) {
            0 => inbox.sort_by_key(|input| input.is_timer()),
            1 => inbox.sort_by_key(|input| !input.is_timer()),
            _ => {}
        }
        for input in inbox {
            match self.nodes[node].life {
                Life::Runs => self.take_in(node, input),
                Life::Sleeps => self.nodes[node].inbox.push(input),
                Life::Dead => {}
            }
        }
    }

    pub(super) fn kill(&mut self, node: usize) -> bool {
        if self.nodes[node].life == Life::Dead {
            return false;
        }
        self.nodes[node].life = Life::Dead;
        self.tell(format_args!("{node} is killed"));
        for key in 0..self.profile.keys {
            self.unwatch(node, key);
            self.nodes[node].seats[key].local = Default::default();
        }
        true
    }

    pub(super) fn part(&mut self, node: usize) {
        self.nodes[node].is_parted = true;
        self.tell(format_args!("{node} is cut off"));
    }

    pub(super) fn mend(&mut self, node: usize) {
        if !self.nodes[node].is_parted {
            return;
        }
        self.nodes[node].is_parted = false;
        self.tell(format_args!("{node} is connected again"));
        // What its watches missed is lost, and so are they.
        for key in 0..self.profile.keys {
            if let Some((watch, _)) = self.nodes[node].seats[key].watch {
                self.end_watch(key, watch);
            }
        }
    }

    fn break_lock(&mut self, key: usize) {
        let register = self.stores[key].register();
        let holder = register.holder.as_ref().map(|holder| holder.claim);
        let (Some(holder), Some(write)) = (holder, force_release(&register)) else { return };
        let version = self.stores[key].version();
        self.tell(format_args!("the operator breaks the lock of key {key}"));
        self.exchange(key, version, &write, Author::Operator);
        for node in &mut self.nodes {
            if let Some(held_lease) = &mut node.seats[key].local.held_lease
                && held_lease.claim == holder
            {
                held_lease.is_excused = true;
            }
        }
    }

    /// From now on nothing goes wrong any more.
    pub(super) fn calm_down(&mut self) {
        self.tell(format_args!("all is calm"));
        self.profile = self.profile.without_faults();
        for node in 0..self.nodes.len() {
            self.mend(node);
            self.thaw(node);
        }
    }
}
