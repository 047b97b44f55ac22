//! The simulator of the real code: many nodes in one thread, in virtual time.
//!
//! The other simulator ([`super`]) runs the state machine of the protocol around models of the driver
//! and of the users. This one runs the real node, driver, local queue, guards and public futures. What is
//! around them is virtual:
//!
//! | real | virtual |
//! |---|---|
//! | [`Node`](crate::cluster::Node), its builder, its driver and run queue | the workers and threads that poll ([`workers`]) |
//! | the local queue of tasks and threads, with barging and local handoffs | the users: what they do, and when ([`users`]) |
//! | locks, guards, the futures of the public interface | the clock of each node and the timers on it ([`nodes`]) |
//! | the state machine and the registers | the engine and its network ([`engine`]) |
//!
//! # How it works
//!
//! A [`World`] has true time and the events to come. An event is a closure; the next one in true time
//! is called, and that is all that ever happens. A worker that polls a task, a message that arrives, a
//! timer that goes off, the begin and the end of a fault: each is one event. Nothing waits in reality,
//! there is one thread, and no clock, no random number and no order of a hash map comes from outside,
//! so the seed determines the run: a replay gives the same log, byte for byte.
//!
//! - A waker puts its task into a slot or a queue of the workers. The workers of a node do as those of
//!   tokio do, with a slot that others cannot take from.
//! - A node reads its clock through [`NodeClock::Virtual`]. The clock has a rate of its own. A process
//!   that is suspended does not run, while its clock goes on.
//! - A request leaves the node when its future is first polled, and is an event from there on.
//!
//! When the faults end ([`Profile::calm_at`](profile::Profile)), the users finish what they have begun:
//! everybody must get the lock. A new node then gets each lock, past nodes that died. Then nothing may
//! be left: no event, no waiter, no key that a node remembers, and no register that is not idle. What
//! is checked on the way is in [`checks`], and the faults are in [`profile`].
//!
//! # What it does not show
//!
//! A poll takes no time, so two threads never run between the same two awaits: races within a poll are
//! for other tools. The threads of the blocking interface wait in the real queue, by the same future
//! that [`blocking`](crate::cluster::blocking) polls; that they sleep by a futex is not simulated.
//!
//! # Running it
//!
//! | purpose | command |
//! |---|---|
//! | run more seeds | `LOCKWORD_SEEDS=100000 cargo test --release --features cluster --lib cluster::sim::real` |
//! | print one run | `LOCKWORD_PROFILE=real_storm LOCKWORD_SEED=17 cargo test --features cluster --lib cluster::sim::real::replay -- --nocapture` |
//!
//! [`NodeClock::Virtual`]: crate::cluster::local::clock::NodeClock::Virtual

use super::seeds::{self, RunReport, Simulator, panic_of};
use super::world::Moment;
use checks::RunCounts;
use profile::Profile;
use std::sync::Arc;
use users::User;
use world::World;

mod checks;
mod copies;
mod engine;
mod forks;
mod nodes;
mod operators;
mod profile;
mod returns;
mod users;
mod workers;
mod world;

impl World {
    /// An upper bound of the time that everybody needs after the faults have ended.
    fn time_limit(&self) -> Moment {
        let Profile { max_delay, lease, handoff_lease, request_timeout, .. } = self.profile;
        let turn = 2 * lease + handoff_lease + request_timeout;
        let (users, nodes) = (self.users_left() as u64, self.nodes.lock().len() as u64);
        max_delay + 10 * lease + turn * users + handoff_lease * nodes
    }

    /// Runs to the end of the faults and beyond.
    fn run_to_rest(self: &Arc<Self>) {
        for _ in 0..self.between(self.profile.nodes) {
            self.add_node_with_users();
        }
        self.begin_faults();
        self.run(self.profile.calm_at, |_| false);
        self.run_until_served();
        self.drop_leaked();
        // The engine serves first what it was sent while it was overloaded.
        let free_at = self.engine.lock().free_at;
        self.run(free_at, |_| false);
        let probe = self.add_node();
        let handle = self.handle(probe).expect("the node is new");
        for at in 0..self.keys.len() {
            self.nodes.lock()[probe].users += 1;
            let user = User::new(self.clone(), probe, at, &handle, false);
            self.spawn(probe, "the probe", user.run_once());
        }
        drop(handle);
        self.run_until_served();
        self.run_until_over();
        if self.violation().is_none() {
            self.check_rest();
        }
        for node in self.open_nodes() {
            self.close(node);
        }
        self.run_until_served();
        self.run_until_over();
    }

    fn run_until_served(self: &Arc<Self>) {
        let until = self.now() + self.time_limit();
        if !self.run(until, |world| world.users_left() == 0) {
            self.violate(format!("{} users wait for ever", self.users_left()));
        }
    }

    /// What is left to happen is over soon, and nothing new comes of it.
    fn run_until_over(self: &Arc<Self>) {
        let until = self.now() + self.time_limit();
        self.run(until, World::is_over);
        if !self.is_over() {
            self.violate("something still happens, and nobody wants anything".to_owned());
        }
    }
}

/// The simulator of this module.
struct RealCode;

impl Simulator for RealCode {
    type Profile = Profile;
    const MODULE: &str = "cluster::sim::real";

    fn has(name: &str) -> bool {
        name.starts_with("real_")
    }

    fn profiles() -> Vec<Profile> {
        Profile::all()
    }

    fn name(profile: &Profile) -> &'static str {
        profile.name
    }

    fn run(profile: Profile, seed: u64, keeps_lines: bool) -> RunReport {
        let world = World::new(profile, seed, keeps_lines);
        if let Some(panic) = panic_of(|| world.run_to_rest()) {
            world.violate(panic);
        }
        let (hash, lines) = world.log();
        let RunCounts { grants, writes, losses, late } = world.checks.lock().counts;
        let violation = world.violation();
        world.end();
        let others = vec![("lost", losses), ("late", late)];
        RunReport { grants, writes, others, hash, lines, violation }
    }
}

#[test]
fn many_seeds() {
    seeds::check_many::<RealCode>(1000);
}

#[test]
fn replay() {
    seeds::replay::<RealCode>();
}

#[test]
fn a_seed_replays() {
    seeds::check_replays::<RealCode>(0..Profile::all().len() as u64);
}
