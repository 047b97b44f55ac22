//! Two nodes, one key, and everything that a network, a scheduler, a user and a stranger can do to
//! them, in any order: no panic, and at most one who holds.
//!
//! `cargo +nightly fuzz run protocol -- -max_total_time=30`
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lockword::cluster::__fuzz::{Duel, Fate};
use std::time::Duration;

/// Something that happens to one of the two, or to both.
#[derive(Arbitrary, Debug)]
enum Step {
    /// Time passes, in milliseconds; who is woken by its timer.
    Pass(u16, bool, bool),
    Intent(bool, u8),
    Release(bool),
    Refresh(bool),
    /// Its request is answered, its answer lost, or the request refused, or late.
    Response(bool),
    LoseAnswer(bool),
    Refuse(bool),
    Delay(bool),
    Deny(bool),
    /// A late write arrives.
    Arrive(u8),
    Notice(bool, Option<u8>),
    Watching(bool, bool),
    WatchEnded(bool),
    /// A stranger writes to the key.
    Tamper(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Run {
    seed: u64,
    via: u8,
    steps: Vec<Step>,
}

fuzz_target!(|run: Run| {
    let mut duel = Duel::new(run.seed, run.via);
    for step in run.steps {
        match step {
            Step::Pass(ms, one, other) => {
                duel.pass(Duration::from_millis(ms.into()), [one, other]);
            }
            Step::Intent(who, intent) => duel.intent(who.into(), intent),
            Step::Release(who) => duel.release(who.into()),
            Step::Refresh(who) => duel.refresh(who.into()),
            Step::Response(who) => duel.settle(who.into(), Fate::Answered),
            Step::LoseAnswer(who) => duel.settle(who.into(), Fate::AnswerLost),
            Step::Refuse(who) => duel.settle(who.into(), Fate::Refused),
            Step::Delay(who) => duel.settle(who.into(), Fate::Late),
            Step::Deny(who) => duel.settle(who.into(), Fate::Denied),
            Step::Arrive(which) => duel.arrive(which),
            Step::Notice(who, ago) => duel.notice(who.into(), ago),
            Step::Watching(who, works) => duel.watching(who.into(), works),
            Step::WatchEnded(who) => duel.watch_ended(who.into()),
            Step::Tamper(value) => duel.tamper(&value),
        }
    }
});
