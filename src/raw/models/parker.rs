//! The parker of a plain thread that waits for a cluster key: two threads notify, one sleeps.
//!
//! The parker is the real one (`cluster/local/parker.rs`). The sleeper waits for two counters that are
//! changed with relaxed ordering before each notification, so only the parker makes the changes
//! visible.

// The models compile without the cluster wing, but with this file of it.
#[path = "../../cluster/local/parker.rs"]
mod real;

use super::Model;
use super::futex::expire;
use crate::primitive::model_sync::Arc;
use crate::primitive::{AtomicU32, Ordering, model_thread as thread};
use real::Parker;
use std::time::Instant;

struct Shared {
    parker: Parker,
    /// How often each of the two threads has notified.
    notified: [AtomicU32; 2],
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Shared { parker: Parker::new(), notified: [AtomicU32::new(0), AtomicU32::new(0)] })
    }

    fn notify(&self, index: usize) {
        self.notified[index].fetch_add(1, Ordering::Relaxed);
        self.parker.notify();
    }

    fn seen(&self, index: usize) -> u32 {
        self.notified[index].load(Ordering::Relaxed)
    }
}

/// Waits until both threads have notified. Polls the parker up to `polls` times before each sleep.
fn wait_for_both(polls: usize) {
    let shared = Shared::new();
    let others = [0, 1].map(|index| {
        let shared = shared.clone();
        thread::spawn(move || shared.notify(index))
    });
    while shared.seen(0) == 0 || shared.seen(1) == 0 {
        if !(0..polls).any(|_| shared.parker.take()) {
            shared.parker.park(None);
        }
    }
    for other in others {
        other.join().unwrap();
    }
}

/// No notification is lost, and the changes before it are visible. Otherwise the thread would sleep
/// for ever.
#[test]
fn a_sleeper_is_woken_by_the_last_of_two_notifications() {
    Model::bounded(5).check(|| wait_for_both(0));
}

/// The same for a thread that polls before it sleeps, as a spinning thread does.
#[test]
fn a_thread_that_polls_first_loses_no_notification() {
    Model::bounded(4).check(|| wait_for_both(1));
}

/// A sleep that ends at its deadline loses no notification: the next one takes it.
#[test]
fn a_notification_that_races_a_deadline_is_taken() {
    Model::bounded(5).check(|| {
        let shared = Shared::new();
        let other = shared.clone();
        let other = thread::spawn(move || other.notify(0));
        let clock = thread::spawn(expire);
        shared.parker.park(Some(Instant::now()));
        while shared.seen(0) == 0 {
            shared.parker.park(None);
        }
        other.join().unwrap();
        clock.join().unwrap();
    });
}

/// A successful take makes the changes before its notification visible.
#[test]
fn a_take_sees_the_changes_before_the_notification() {
    Model::exhaustive().check(|| {
        let shared = Shared::new();
        let other = shared.clone();
        let other = thread::spawn(move || other.notify(0));
        if shared.parker.take() {
            assert_eq!(shared.seen(0), 1);
        }
        other.join().unwrap();
    });
}
