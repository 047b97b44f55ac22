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

use super::world::Moment;
use super::{first_failure, setting};
use checks::RunCounts;
use profile::Profile;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use users::User;
use world::World;

mod checks;
mod engine;
mod nodes;
mod profile;
mod users;
mod workers;
mod world;

/// The result of a run.
struct RunReport {
    counts: RunCounts,
    hash: u64,
    lines: Vec<String>,
    violation: Option<String>,
}

impl World {
    /// An upper bound of the time that everybody needs after the faults have ended.
    fn time_limit(&self) -> Moment {
        let Profile { max_delay, lease, claim_window, request_timeout, .. } = self.profile;
        let turn = 2 * lease + claim_window + request_timeout;
        let (users, nodes) = (self.users_left() as u64, self.nodes.lock().len() as u64);
        max_delay + 10 * lease + turn * users + claim_window * nodes
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
        let probe = self.add_node();
        for (at, key) in self.keys.iter().enumerate() {
            let lock = self.handle(probe).map(|node| node.lock(key.clone()));
            let lock = lock.expect("the node is new").expect("the key is valid");
            self.nodes.lock()[probe].users += 1;
            let user = User::new(self.clone(), probe, at, lock, false);
            self.spawn(probe, "the probe", user.run_once());
        }
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

/// Runs one seed.
fn run(profile: Profile, seed: u64, keeps_lines: bool) -> RunReport {
    let world = World::new(profile, seed, keeps_lines);
    let panicked = catch_unwind(AssertUnwindSafe(|| world.run_to_rest())).err();
    if let Some(panic) = panicked {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        world.violate(format!("panicked {text}"));
    }
    let (hash, lines) = world.log();
    let (counts, violation) = (world.checks.lock().counts, world.violation());
    world.end();
    RunReport { counts, hash, lines, violation }
}

/// Runs a seed again and describes the violation: the last lines of the log, and the command that
/// repeats the run. `None` if no rule is broken.
fn explain(profile: &Profile, seed: u64) -> Option<String> {
    let report = run(profile.clone(), seed, true);
    let violation = report.violation?;
    let from = report.lines.len().saturating_sub(80);
    Some(format!(
        "\n{}\n\nprofile {name}, seed {seed}: {violation}\nagain: LOCKWORD_PROFILE={name} \
         LOCKWORD_SEED={seed} cargo test --features cluster --lib cluster::sim::real::replay -- \
         --nocapture",
        report.lines[from..].join("\n"),
        name = profile.name,
    ))
}

/// All profiles, or the one of `LOCKWORD_PROFILE`.
fn profiles() -> Vec<Profile> {
    let name = std::env::var("LOCKWORD_PROFILE").ok();
    let mut all = Profile::all();
    all.retain(|profile| name.as_ref().is_none_or(|name| name == profile.name));
    let is_real = name.as_ref().is_none_or(|name| name.starts_with("real_"));
    assert!(!is_real || !all.is_empty(), "there is no profile {name:?}");
    all
}

/// Runs 1,000 seeds, spread over all profiles: no rule is broken.
#[test]
fn many_seeds() {
    let profiles = profiles();
    if profiles.is_empty() {
        return;
    }
    let seeds = setting("LOCKWORD_SEEDS").unwrap_or(1000);
    let totals = crate::Mutex::new(vec![(RunCounts::default(), 0_u64); profiles.len()]);
    let failed = first_failure(seeds, |seed| {
        let which = seed as usize % profiles.len();
        let report = run(profiles[which].clone(), seed, false);
        let (sum, runs) = &mut totals.lock()[which];
        sum.grants += report.counts.grants;
        sum.writes += report.counts.writes;
        sum.losses += report.counts.losses;
        sum.late += report.counts.late;
        *runs += 1;
        report.violation.is_some()
    });
    if let Some(seed) = failed {
        let which = seed as usize % profiles.len();
        panic!("{}", explain(&profiles[which], seed).expect("the same seed fails again"));
    }
    println!("profile            runs   grants   writes a grant   losses   late");
    for (profile, (sum, runs)) in profiles.iter().zip(totals.into_inner()) {
        println!(
            "{:16} {runs:6} {:8} {:16.2} {:8} {:6}",
            profile.name,
            sum.grants,
            sum.writes as f64 / sum.grants.max(1) as f64,
            sum.losses,
            sum.late,
        );
        assert!(sum.grants >= runs, "{} shows nothing: {sum:?}", profile.name);
    }
}

/// Prints the run of `LOCKWORD_PROFILE` and `LOCKWORD_SEED`.
#[test]
fn replay() {
    let Some(seed) = setting("LOCKWORD_SEED") else { return };
    for profile in profiles() {
        let report = run(profile.clone(), seed, true);
        println!("{}\nprofile {}, seed {seed}", report.lines.join("\n"), profile.name);
        assert_eq!(report.violation, None);
    }
}

/// The same seed gives the same log, byte for byte; another seed gives another.
#[test]
fn a_seed_replays() {
    let profiles = Profile::all();
    for seed in 0..20 {
        let profile = &profiles[seed as usize % profiles.len()];
        let [first, again, other] =
            [seed, seed, seed + 20].map(|seed| run(profile.clone(), seed, true));
        assert!(first.lines.len() > 100, "{} does nothing", profile.name);
        assert!(first.lines == again.lines, "{}: seed {seed} does not replay", profile.name);
        assert_eq!(first.hash, again.hash);
        assert_ne!(first.hash, other.hash);
    }
}
