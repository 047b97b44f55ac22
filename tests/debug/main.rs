//! The instruments: deadlocks and orders of locks that are found, and clean programs of which nothing is said.
//!
//! Each test that locks wrongly, or listens to reports, runs in a process of its own.
#![cfg(not(lockword_loom))]

mod clean;
mod deadlocks;
mod order;
mod process;

#[path = "../support"]
mod support {
    pub mod asleep;
    pub mod child;
    pub mod random;
    pub mod setting;
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub mod single_step;
}

use lockword::debug::{self, Deadlock, LockOrder, Report, check_deadlock};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex as StdMutex};
use std::thread;
use std::time::{Duration, Instant};

/// For what comes soon, or is broken: 60 s, or `LOCKWORD_TEST_LIMIT` in seconds.
fn limit() -> Duration {
    Duration::from_secs(support::setting::env_number("LOCKWORD_TEST_LIMIT", 60))
}

/// Runs `body` in a process of its own.
fn alone(test: &str, body: impl FnOnce()) {
    support::child::alone(test, limit(), body);
}

/// Runs a thread with a name, which nobody joins.
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    drop(thread::Builder::new().name(name.to_owned()).spawn(body).expect("a thread"));
}

/// Waits until this holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + limit();
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        thread::yield_now();
    }
}

/// The deadlocks, once there are so many.
fn found(count: usize) -> Vec<Deadlock> {
    let mut found = vec![];
    until("the deadlock is found", || {
        found = check_deadlock();
        assert!(found.len() <= count, "{found:#?}");
        found.len() == count
    });
    found
}

/// The reports from now on.
fn reports() -> Receiver<Report> {
    let (sender, receiver) = channel();
    debug::on_report(move |report| {
        let _ = sender.send(report.clone());
    });
    receiver
}

/// The next report, which is one of an order.
fn next_order(reports: &Receiver<Report>) -> LockOrder {
    match reports.recv_timeout(limit()) {
        Ok(Report::LockOrder(order)) => order,
        other => panic!("no report of an order: {other:?}"),
    }
}

/// Asserts that there is no report.
fn assert_silent(reports: &Receiver<Report>) {
    let told: Vec<_> = reports.try_iter().map(|report| report.to_string()).collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
}

/// Runs `body` in a process of its own, in which nothing is to be found.
fn silent(test: &str, body: impl FnOnce()) {
    alone(test, || {
        let reports = reports();
        let deadlocks = Arc::new(StdMutex::new(vec![]));
        let told = deadlocks.clone();
        let watcher = debug::watch(Duration::from_millis(1), move |deadlock| {
            told.lock().unwrap().push(deadlock.to_string());
        });
        body();
        drop(watcher);
        assert_silent(&reports);
        let deadlocks = deadlocks.lock().unwrap();
        assert!(deadlocks.is_empty(), "{}", deadlocks.join("\n"));
    });
}
