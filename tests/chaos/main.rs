//! Five processes use locks over etcd with three members, over Redis, and over PostgreSQL, while faults
//! happen at random moments, drawn from a seed.
//!
//! Each process is this binary again. Its tasks and threads acquire locks in every way, hold them, look
//! whether they are valid, release, drop and cancel. All processes append to one history, a line of JSON
//! for each operation, with moments of `CLOCK_MONOTONIC_RAW`. Meanwhile processes and servers are killed
//! and stopped, and relays between them cut, delay and drop. In the end the faults stop, everybody has to
//! get a last lock, and the history is checked: `rules.rs` has the rules, `faults.rs` the faults.
//!
//! A test is skipped if its engine is not installed, as in `tests/engines`.
//!
//! The history is `lockword-chaos-ENGINE-SEED-PID.jsonl` in the temporary folder; a run that fails keeps it.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `LOCKWORD_CHAOS_SECS` | how long the faults go on, in seconds | 10 |
//! | `LOCKWORD_CHAOS_SEED` | the seed of the faults; their moments differ, since the machine is real | random |
//! | `LOCKWORD_CHAOS_FAULTS` | `kill,cut` for these alone, `+slew,-kill` for more and fewer than usual | all but `slew` |
//! | `LOCKWORD_CHAOS_RULES` | the same for the rules | all but `cause` |
//! | `LOCKWORD_CHAOS_LEASE_MS` | the lease of all nodes, in milliseconds | 1500 |
//! | `LOCKWORD_CHAOS_KEEP` | whether the history of a run that succeeds is kept | unset: no |
//! | `LOCKWORD_CHAOS_HISTORY` | for the test `history`: the file to check once more | unset |
#![cfg(all(target_os = "linux", any(feature = "etcd", feature = "postgres", feature = "redis")))]

#[path = "../support/engines/mod.rs"]
mod support;

mod faults;
mod linear;
mod record;
mod rules;
mod run;
mod target;
mod uses;
mod worker;

/// The test that is the child's role.
const CHILD: &str = "child";

/// What a child does. It does nothing in the parent's process.
#[test]
fn child() {
    if let Ok(plan) = std::env::var(worker::PLAN) {
        worker::run(&plan);
    } else if std::env::var_os(faults::clock::ROLE).is_some() {
        faults::clock::keep();
    }
}

/// Checks a history that was kept.
#[test]
fn history() {
    if let Ok(path) = std::env::var("LOCKWORD_CHAOS_HISTORY") {
        run::judge(&path, vec![]);
    }
}

/// One engine at a time: the machine is busy enough.
fn alone(run: fn()) {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    run();
}

#[cfg(feature = "etcd")]
#[test]
fn etcd() {
    alone(run::run::<support::etcd::Cluster>);
}

#[cfg(feature = "postgres")]
#[test]
fn postgres() {
    alone(run::run::<target::Postgres>);
}

#[cfg(feature = "redis")]
#[test]
fn redis() {
    alone(run::run::<support::redis::RedisServer>);
}
