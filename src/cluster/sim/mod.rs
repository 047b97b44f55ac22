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
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::{MS, Moment, RunCounts, World};

mod checks;
mod network;
mod node;
mod profile;
mod real;
mod scenarios;
mod world;

/// The result of a run.
#[derive(Debug)]
struct RunReport {
    counts: RunCounts,
    hash: u64,
    lines: Vec<String>,
    violation: Option<String>,
}

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
        let turn = profile.hold_time[1] + profile.claim_window + profile.request_timeout;
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

/// Runs one seed.
fn run(profile: Profile, seed: u64, keeps_lines: bool) -> RunReport {
    let mut world = World::new(profile, seed, keeps_lines);
    let panicked = catch_unwind(AssertUnwindSafe(|| world.run_to_rest())).err();
    if let Some(panic) = panicked {
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        world.violation.get_or_insert(format!("panicked {text}"));
    }
    if world.is_faultless && world.violation.is_none() && world.counts.inversions > 0 {
        world.violation =
            Some("grants are not in the order of joining, in a run without faults".to_owned());
    }
    RunReport {
        counts: world.counts,
        hash: world.event_log.hash(),
        lines: world.event_log.lines().to_vec(),
        violation: world.violation,
    }
}

/// Runs a seed again and describes the violation: the last lines of the log, and the command that
/// repeats the run. `None` if no rule is broken.
fn explain(profile: &Profile, seed: u64) -> Option<String> {
    let report = run(profile.clone(), seed, true);
    let violation = report.violation?;
    let from = report.lines.len().saturating_sub(60);
    Some(format!(
        "\n{}\n\nprofile {}, seed {seed}: {violation}\nagain: LOCKWORD_PROFILE={} LOCKWORD_SEED={seed} \
         cargo test --features cluster,conformance --lib cluster::sim::replay -- \
         --nocapture",
        report.lines[from..].join("\n"),
        profile.name,
        profile.name,
    ))
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// All profiles, or the one of `LOCKWORD_PROFILE`.
fn profiles() -> Vec<Profile> {
    let name = std::env::var("LOCKWORD_PROFILE").ok();
    let mut all = Profile::all();
    all.retain(|profile| name.as_ref().is_none_or(|name| name == profile.name));
    let is_real = name.as_ref().is_some_and(|name| name.starts_with("real_"));
    assert!(is_real || !all.is_empty(), "there is no profile {name:?}");
    all
}

/// Runs the seeds below `seeds` on all processors. Returns the smallest one that fails.
fn first_failure(seeds: u64, fails: impl Fn(u64) -> bool + Sync) -> Option<u64> {
    let next = crate::Mutex::new(0_u64..);
    // All seeds before the smallest one have been started and run to their end.
    let failed = crate::Mutex::new(None::<u64>);
    let work = || {
        loop {
            let seed = next.lock().next().expect("the range is endless");
            if seed >= seeds || failed.lock().is_some() {
                break;
            }
            if fails(seed) {
                let mut failed = failed.lock();
                *failed = Some(failed.map_or(seed, |other| other.min(seed)));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    failed.into_inner()
}

/// Runs 2,000 seeds, spread over all profiles: no rule is broken.
#[test]
fn many_seeds() {
    let profiles = profiles();
    if profiles.is_empty() {
        return;
    }
    let seeds = setting("LOCKWORD_SEEDS").unwrap_or(2000);
    let totals = crate::Mutex::new(vec![(RunCounts::default(), 0_u64); profiles.len()]);
    let failed = first_failure(seeds, |seed| {
        let which = seed as usize % profiles.len();
        let report = run(profiles[which].clone(), seed, false);
        let (sum, runs) = &mut totals.lock()[which];
        sum.grants += report.counts.grants;
        sum.writes += report.counts.writes;
        sum.losses += report.counts.losses;
        sum.refusals += report.counts.refusals;
        sum.inversions += report.counts.inversions;
        *runs += 1;
        report.violation.is_some()
    });
    if let Some(seed) = failed {
        let which = seed as usize % profiles.len();
        panic!("{}", explain(&profiles[which], seed).expect("the same seed fails again"));
    }
    println!("profile        runs   grants   writes a grant   losses   refused   passed over");
    for (profile, (sum, runs)) in profiles.iter().zip(totals.into_inner()) {
        println!(
            "{:12} {runs:6} {:8} {:16.2} {:8} {:9} {:13}",
            profile.name,
            sum.grants,
            sum.writes as f64 / sum.grants.max(1) as f64,
            sum.losses,
            sum.refusals,
            sum.inversions
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
    for profile in Profile::all() {
        let [first, again, other] = [7, 7, 8].map(|seed| run(profile.clone(), seed, true));
        assert!(first.lines.len() > 100, "{} does nothing", profile.name);
        assert_eq!(first.hash, again.hash, "{} does not replay", profile.name);
        assert_eq!(first.lines, again.lines);
        assert_ne!(first.hash, other.hash);
    }
}
