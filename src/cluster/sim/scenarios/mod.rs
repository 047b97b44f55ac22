//! Stories whose outcome is known, with figures.

use super::clock::{MS, Moment};
use super::profile::Profile;
use super::world::World;
use crate::cluster::protocol::Intent;

// Giving up, at every step.
mod cancelled;
// Many who want it at once.
mod contended;
// A queue full of dead nodes.
mod dead;
// Nodes in tight loops.
mod hogs;
// A holder that sleeps, or is cut off.
mod late;

/// The worst clocks that are allowed, in millionths.
const SLOW: i64 = -10_000;
const FAST: i64 = 10_000;

/// A world in which only that happens which the story tells, without nodes to begin with.
fn story(seed: u64) -> World {
    let profile = Profile {
        name: "story",
        nodes: [0, 0],
        calm_at: Moment::MAX / 8,
        timer_late: 0,
        ..Profile::calm()
    };
    let mut world = World::new(profile, seed, true);
    (world.is_lively, world.is_faultless) = (false, false);
    world
}

impl World {
    fn holds(&self, node: usize) -> bool {
        self.nodes[node].seats[0].local.held_lease.is_some()
    }

    /// Whether the node wants nothing, and has given back all.
    fn is_idle(&self, node: usize) -> bool {
        let local = &self.nodes[node].seats[0].local;
        local.intent.is_none() && local.held_lease.is_none() && local.releasing.is_none()
    }

    fn queue_len(&self) -> usize {
        self.stores[0].register().queue.len()
    }

    /// Goes on until it is so; fails if it is not so in time. Returns how long that took.
    fn await_until(&mut self, within: Moment, what: &str, is_so: impl Fn(&Self) -> bool) -> Moment {
        let since = self.now;
        let is_so = self.run(since + within, is_so);
        self.check();
        assert!(is_so, "{what}: not within {} ms{}", within / MS, self.tail());
        self.now - since
    }

    fn go_on_for(&mut self, time: Moment) {
        self.run(self.now + time, |_| false);
        self.check();
    }

    fn check(&self) {
        if let Some(violation) = &self.violation {
            panic!("{violation}{}", self.tail());
        }
    }

    fn tail(&self) -> String {
        let lines = self.history.lines();
        format!("\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    /// The node gets the lock.
    fn get(&mut self, node: usize) {
        self.intent(node, 0, Intent::Wait);
        let within = self.lease() * 10;
        self.await_until(within, "the lock is had", |world| world.holds(node));
    }

    /// The node waits in the queue, as its last.
    fn queue_up(&mut self, node: usize) {
        let len = self.queue_len();
        self.intent(node, 0, Intent::Wait);
        let within = self.lease();
        self.await_until(within, "it joins", |world| world.queue_len() == len + 1);
    }
}
