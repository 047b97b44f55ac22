//! Deadlines that pass at any moment.

use super::{Clock, Guarded, Model};
use crate::park;
use crate::primitive::Place;
use crate::primitive::model_sync::Arc;
use crate::primitive::model_thread::{self as thread, JoinHandle};
use std::time::Instant;

/// A thread that tries to lock until its deadline. Returns what it added.
fn timed(guarded: &Arc<Guarded>) -> JoinHandle<u32> {
    let guarded = guarded.clone();
    thread::spawn(move || {
        let locked = guarded.lock.try_lock_until(Instant::now());
        if locked {
            guarded.add();
            // SAFETY: locked above.
            unsafe { guarded.lock.unlock() };
        }
        u32::from(locked)
    })
}

#[test]
fn timeout_races_wake_up() {
    Model::bounded(3).must_reach(&[Place::Parked, Place::TimedOut]).check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let waiter = timed(&guarded);
        let clock = thread::spawn(park::expire);
        guarded.add();
        // SAFETY: locked above.
        unsafe { guarded.lock.unlock() };
        let extra = waiter.join().unwrap();
        clock.join().unwrap();
        assert_eq!(guarded.total(), 1 + extra);
    });
}

/// The timed thread may have the duty when it gives up; the other one waits without a deadline
/// and must not be forgotten.
#[test]
fn duty_passes_on_at_a_timeout() {
    duty_passes_on_at(Model::bounded(2).must_reach(&[Place::TimedOut, Place::PassedOn]));
}

/// The same with a duty that no unlock makes a grant of.
#[test]
fn duty_passes_on_at_a_timeout_in_no_time() {
    let model = Model::bounded(2).clock(Clock::Still);
    duty_passes_on_at(model.must_reach(&[Place::TimedOut, Place::PassedOn]));
}

fn duty_passes_on_at(model: Model) {
    model.check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let patient = guarded.clone();
        let patient = thread::spawn(move || patient.lock_and_add());
        let waiter = timed(&guarded);
        // SAFETY: locked above.
        unsafe { guarded.lock.unlock() };
        park::expire();
        let extra = waiter.join().unwrap();
        patient.join().unwrap();
        assert_eq!(guarded.total(), 1 + extra);
    });
}

/// A woken waiter whose deadline passes while the lock is being granted to it.
#[test]
fn timeout_races_grant() {
    Model::bounded(3).must_reach(&[Place::ResignedGranted]).check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let waiter = timed(&guarded);
        let clock = thread::spawn(park::expire);
        for _ in 0..2 {
            // SAFETY: locked before.
            unsafe { guarded.lock.unlock() };
            guarded.lock.lock();
        }
        // SAFETY: locked before.
        unsafe { guarded.lock.unlock() };
        let extra = waiter.join().unwrap();
        clock.join().unwrap();
        assert_eq!(guarded.total(), extra);
    });
}
