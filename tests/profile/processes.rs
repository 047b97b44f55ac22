//! Threads that live and that end, and processes that fork.

use crate::support::asleep::spawn_parked;
use crate::support::forked::Forked;
use crate::{LIMIT, at, started};
use lockword::Mutex;
use lockword::profile::{self, Kind};
use std::cell::Cell;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

/// Of this file.
const FILE: &str = "tests/profile/processes.rs";

static LOCK: Mutex<()> = Mutex::new(());

/// Waits once for [`LOCK`], at [`WAITS`].
fn wait() {
    thread::scope(|scope| {
        let held = LOCK.lock();
        let waiter = spawn_parked(scope, acquire);
        drop(held);
        waiter.join().unwrap();
    });
}

fn acquire() {
    drop(LOCK.lock());
}

/// The line in which `acquire` does.
const WAITS: u32 = line!() - 4;

#[test]
fn threads_that_live_are_in_the_report() {
    let _turn = started();
    thread::scope(|scope| {
        let held = LOCK.lock();
        let (done, is_done) = channel();
        let (end, ends) = channel::<()>();
        let waiter = spawn_parked(scope, move || {
            acquire();
            done.send(()).unwrap();
            let _ = ends.recv();
        });
        drop(held);
        is_done.recv().unwrap();
        assert_eq!(at(FILE, WAITS, Kind::Mutex).contended, 1);
        assert!(profile::report().is_running);
        drop(end);
        waiter.join().unwrap();
    });
}

#[test]
fn the_destructors_of_a_thread_are_counted() {
    struct Last(Cell<bool>);
    impl Drop for Last {
        fn drop(&mut self) {
            acquire();
        }
    }
    thread_local!(static LAST: Last = const { Last(Cell::new(false)) });
    let _turn = started();
    thread::scope(|scope| {
        let held = LOCK.lock();
        let waiter = spawn_parked(scope, || LAST.with(|last| last.0.set(true)));
        drop(held);
        waiter.join().unwrap();
    });
    assert_eq!(at(FILE, WAITS, Kind::Mutex).contended, 1);
}

#[test]
fn a_forked_child_begins_with_an_empty_profile() {
    let _turn = started();
    wait();
    let before = profile::report();
    assert_eq!(at(FILE, WAITS, Kind::Mutex).contended, 1);
    let held = LOCK.lock();
    let forked = Instant::now();
    let child = Forked::start(|_| {
        let report = profile::report();
        let age = forked.elapsed();
        if !report.places.is_empty() || !report.is_running {
            return Err("the child has its parent's profile\n");
        }
        if report.started < before.started || u128::from(report.elapsed_ns) > age.as_nanos() {
            return Err("the child's run has not begun with it\n");
        }
        drop(held);
        wait();
        let found = at(FILE, WAITS, Kind::Mutex);
        if (found.contended, found.waits.count) != (1, 1) {
            return Err("the child does not count\n");
        }
        profile::stop();
        profile::start();
        if !profile::report().places.is_empty() {
            return Err("the child does not start again\n");
        }
        Ok(())
    });
    child.expect_success(LIMIT);
    assert_eq!(at(FILE, WAITS, Kind::Mutex).contended, 1);
}
