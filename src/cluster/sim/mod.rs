//! The simulator: many nodes in one thread, in virtual time.
//!
//! This one is for the protocol; [`real`] runs the driver, the local queue and the guards too.
//!
//! Every node runs the real state machine ([`Machine`](crate::cluster::protocol::Machine)). Its
//! driver and its threads are models: the threads acquire the lock, hand it to each other, use the
//! resource behind it with their tokens, release it, and cancel. The engine is a model too: one
//! atomic register for each key. A queue of events, ordered by true time, drives everything, and
//! faults are among the events. Messages are late, lost or duplicated. Processes sleep, die and are
//! replaced. Clocks run at a wrong rate, and stop with their virtual machine. An operator releases
//! the lock by force. Then the faults end, and every node must get the lock that it waits for.
//!
//! A run is determined by one number, the seed: the same seed gives the same event log, byte for
//! byte.
//!
//! | purpose | command |
//! |---|---|
//! | run more seeds | `LOCKWORD_SEEDS=20000 cargo test --features cluster,conformance --lib cluster::sim` |
//! | print one run | `LOCKWORD_PROFILE=storm LOCKWORD_SEED=17`, with `replay -- --nocapture` at the end |
//!
//! The rules are in [`checks`], the kinds of runs and their faults in [`profile`].

use crate::cluster::protocol::Intent;
use node::ProcessState;
use profile::Profile;
use seeds::{RunReport, Simulator, panic_of};
use world::{MS, Moment, RunCounts, World};

mod checks;
mod network;
mod node;
mod profile;
mod real;
mod scenarios;
mod seeds;
mod world;

impl World {
    /// Whether no node has an intent or a lease, and all machines are idle.
    fn is_at_rest(&self) -> bool {
        let rests = |node: &node::SimNode| {
            node.state != ProcessState::Running
                || node.drivers.iter().all(|driver| {
                    driver.local.intent.is_none()
                        && driver.local.held_lease.is_none()
                        && driver.local.releasing.is_none()
                        && driver.machine.is_idle()
                })
        };
        self.nodes.iter().all(rests)
    }

    /// An upper bound of the time that waiters need after the faults have ended.
    fn time_limit(&self) -> Moment {
        let profile = &self.profile;
        let turn = profile.hold_time[1] + profile.handoff_lease + profile.request_timeout;
        profile.max_delay + 4 * profile.lease + 2 * turn * self.nodes.len() as u64 + 5000 * MS
    }

    /// Runs to the end of the faults and beyond: every waiter must get the lock, and all machines come
    /// to rest. Then a new node must get the lock, past dead nodes, and the registers must become idle.
    fn run_to_rest(&mut self) {
        let calm_at = self.profile.calm_at;
        self.run(calm_at, |_| false);
        self.run(self.now + self.time_limit(), |world| world.is_calm() && world.is_at_rest());
        if self.violation.is_some() {
            return;
        }
        if !self.is_at_rest() {
            let unfinished = self.unfinished();
            return self.violate(format!("not at rest after the faults: {unfinished}"));
        }
        let probe = self.add_node();
        for key in 0..self.profile.keys {
            let grants = self.counts.grants;
            self.set_intent(probe, key, Intent::Wait);
            let until = self.now + self.time_limit();
            if !self.run(until, |world| world.counts.grants > grants) {
                return self.violate(format!("a new node does not get key {key}"));
            }
        }
        // No event may be left in the end.
        self.run(Moment::MAX / 4, |_| false);
        if self.violation.is_some() {
            return;
        }
        if !self.is_at_rest() {
            let unfinished = self.unfinished();
            return self.violate(format!("not at rest at the end: {unfinished}"));
        }
        for key in 0..self.profile.keys {
            let register = self.stores[key].register();
            if !register.is_idle() {
                return self.violate(format!("the register is not idle at the end: {register:?}"));
            }
        }
    }

    /// The machines and threads that are not at rest, as text.
    fn unfinished(&self) -> String {
        let mut unfinished = String::new();
        for (number, node) in
            self.nodes.iter().enumerate().filter(|(_, n)| n.state == ProcessState::Running)
        {
            for (key, driver) in node.drivers.iter().enumerate() {
                let local = &driver.local;
                if !driver.machine.is_idle() || local.intent.is_some() || local.held_lease.is_some()
                {
                    unfinished +=
                        &format!("{number}/{key} wants {:?}: {:?}; ", local.intent, driver.machine);
                }
            }
        }
        unfinished
    }
}

/// The simulator of this module.
struct PureProtocol;

impl Simulator for PureProtocol {
    type Profile = Profile;
    const MODULE: &str = "cluster::sim";

    fn has(name: &str) -> bool {
        !name.starts_with("real_")
    }

    fn profiles() -> Vec<Profile> {
        Profile::all()
    }

    fn name(profile: &Profile) -> &'static str {
        profile.name
    }

    fn run(profile: Profile, seed: u64, keeps_lines: bool) -> RunReport {
        let mut world = World::new(profile, seed, keeps_lines);
        if let Some(panic) = panic_of(|| world.run_to_rest()) {
            world.violation.get_or_insert(panic);
        }
        let RunCounts { grants, writes, losses, refusals, inversions, .. } = world.counts;
        if world.is_faultless && world.violation.is_none() && inversions > 0 {
            world.violation =
                Some("grants are not in the order of joining, in a run without faults".to_owned());
        }
        RunReport {
            grants,
            writes,
            others: vec![("lost", losses), ("refused", refusals), ("passed over", inversions)],
            hash: world.event_log.hash(),
            lines: world.event_log.lines().to_vec(),
            violation: world.violation,
        }
    }
}

#[test]
fn many_seeds() {
    seeds::check_many::<PureProtocol>(2000);
}

#[test]
fn replay() {
    seeds::replay::<PureProtocol>();
}

#[test]
fn a_seed_replays() {
    seeds::check_replays::<PureProtocol>(0..Profile::all().len() as u64);
}
