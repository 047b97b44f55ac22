//! What wakes a plain thread that waits for a key of the cluster: two that ring, one that sleeps.
//!
//! The parker is the real one. What the thread waits for is a number under no lock, written before each
//! ring by an ordinary store: so it is the parker alone that makes it seen.

// The cluster wing is no part of the models, but this file is.
#[path = "../cluster/local/parker.rs"]
mod real;

use super::Model;
use crate::primitive::model_sync::Arc;
use crate::primitive::{AtomicU32, Ordering, model_thread as thread};
use real::Parker;

struct Door {
    parker: Parker,
    /// How often each of the two has come.
    came: [AtomicU32; 2],
}

impl Door {
    fn new() -> Arc<Self> {
        Arc::new(Door { parker: Parker::new(), came: [AtomicU32::new(0), AtomicU32::new(0)] })
    }

    fn come(&self, who: usize, sleeper: &thread::Thread) {
        self.came[who].fetch_add(1, Ordering::Relaxed);
        if self.parker.notify() {
            sleeper.unpark();
        }
    }

    fn seen(&self, who: usize) -> u32 {
        self.came[who].load(Ordering::Relaxed)
    }
}

/// Waits until both have come, looking `looks` times before each sleep.
fn wait_for_both(looks: usize) {
    let door = Door::new();
    let sleeper = thread::current();
    let others = [0, 1].map(|who| {
        let (door, sleeper) = (door.clone(), sleeper.clone());
        thread::spawn(move || door.come(who, &sleeper))
    });
    while door.seen(0) == 0 || door.seen(1) == 0 {
        if !(0..looks).any(|_| door.parker.take()) {
            door.parker.park(thread::park);
        }
    }
    for other in others {
        other.join().unwrap();
    }
}

/// No ring is lost, and what was done before it is seen: or the thread would sleep for ever.
#[test]
fn who_sleeps_is_woken_by_the_last_of_two() {
    Model::exhaustive().check(|| wait_for_both(0));
}

/// The same of a thread that looks before it sleeps, as one does that spins.
#[test]
fn who_looks_first_misses_nothing() {
    Model::exhaustive().check(|| wait_for_both(1));
}

/// An answer shows what was done before the ring that it answers.
#[test]
fn a_take_sees_what_was_done_before() {
    Model::exhaustive().check(|| {
        let door = Door::new();
        let sleeper = thread::current();
        let other = door.clone();
        let other = thread::spawn(move || {
            other.come(0, &sleeper);
        });
        if door.parker.take() {
            assert_eq!(door.seen(0), 1);
        }
        other.join().unwrap();
    });
}
