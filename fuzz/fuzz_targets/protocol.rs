//! Two nodes and one key, with any order of events from the network, the scheduler, the users and a
//! foreign writer: nothing panics, and at most one node holds the lock.
//!
//! `cargo +nightly fuzz run protocol -- -max_total_time=30`
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lockword::cluster::__fuzz::{RequestFate, TwoNodes};
use std::time::Duration;

/// An event of one node or of both.
#[derive(Arbitrary, Debug)]
enum Step {
    /// Time passes, in milliseconds; and whether each node is woken by its timer.
    Pass(u16, bool, bool),
    Intent(bool, u8),
    Release(bool),
    Refresh(bool),
    /// The request in flight succeeds, its response is lost, or it is refused, late or denied.
    Succeed(bool),
    LoseResponse(bool),
    Refuse(bool),
    Delay(bool),
    Deny(bool),
    /// A late write arrives.
    Arrive(u8),
    Notice(bool, Option<u8>),
    Watching(bool, bool),
    WatchEnded(bool),
    /// A foreign program writes to the key.
    Tamper(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Run {
    seed: u64,
    variant: u8,
    steps: Vec<Step>,
}

fuzz_target!(|run: Run| {
    let mut nodes = TwoNodes::new(run.seed, run.variant);
    for step in run.steps {
        match step {
            Step::Pass(ms, one, other) => {
                nodes.pass(Duration::from_millis(ms.into()), [one, other]);
            }
            Step::Intent(node, intent) => nodes.intent(node.into(), intent),
            Step::Release(node) => nodes.release(node.into()),
            Step::Refresh(node) => nodes.refresh(node.into()),
            Step::Succeed(node) => nodes.end_request(node.into(), RequestFate::Succeeds),
            Step::LoseResponse(node) => nodes.end_request(node.into(), RequestFate::ResponseLost),
            Step::Refuse(node) => nodes.end_request(node.into(), RequestFate::Refused),
            Step::Delay(node) => nodes.end_request(node.into(), RequestFate::Late),
            Step::Deny(node) => nodes.end_request(node.into(), RequestFate::Denied),
            Step::Arrive(which) => nodes.arrive(which),
            Step::Notice(node, ago) => nodes.notice(node.into(), ago),
            Step::Watching(node, works) => nodes.watching(node.into(), works),
            Step::WatchEnded(node) => nodes.watch_ended(node.into()),
            Step::Tamper(value) => nodes.tamper(&value),
        }
    }
});
