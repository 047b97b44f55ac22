//! Deadlines that pass at any moment.

use super::futex::expire;
use super::{Guarded, Model};
use crate::primitive::Probe;
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
            guarded.unlock();
        }
        u32::from(locked)
    })
}

#[test]
fn timeout_races_wake_up() {
    Model::bounded(3).must_reach(&[Probe::Parked, Probe::TimedOut]).check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let waiter = timed(&guarded);
        let clock = thread::spawn(expire);
        guarded.add();
        guarded.unlock();
        let extra = waiter.join().unwrap();
        clock.join().unwrap();
        assert_eq!(guarded.total(), 1 + extra);
    });
}

/// The timed thread may be the designated waker when it gives up; the other one waits without a deadline
/// and must not be forgotten.
#[test]
fn designated_waker_times_out() {
    designated_waker_times_out_at(Model::bounded(2).must_reach(&[Probe::TimedOut]));
}

/// The same when no turn comes.
#[test]
fn designated_waker_times_out_in_no_time() {
    designated_waker_times_out_at(Model::bounded(2).in_no_time().must_reach(&[Probe::TimedOut]));
}

fn designated_waker_times_out_at(model: Model) {
    model.check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let patient = guarded.clone();
        let patient = thread::spawn(move || patient.lock_and_add());
        let waiter = timed(&guarded);
        guarded.unlock();
        expire();
        let extra = waiter.join().unwrap();
        patient.join().unwrap();
        assert_eq!(guarded.total(), 1 + extra);
    });
}

/// The spinner's deadline has passed before the unlock, which must not rely on a role that has ended.
#[test]
fn designated_waker_gives_up_before_the_unlock() {
    Model::bounded(2).in_no_time().must_reach(&[Probe::Designated]).check(|| {
        let guarded = Guarded::new();
        expire();
        guarded.lock.lock();
        let patient = guarded.clone();
        let patient = thread::spawn(move || patient.lock_and_add());
        let waiter = timed(&guarded);
        guarded.unlock();
        let extra = waiter.join().unwrap();
        patient.join().unwrap();
        assert_eq!(guarded.total(), 1 + extra);
    });
}

/// A waiter whose deadline passes while the lock is handed to it: by a fair unlock, and by a turn.
#[test]
fn timeout_races_handoff() {
    Model::bounded(3).must_reach(&[Probe::HandedOff, Probe::TimedOut]).check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let waiter = timed(&guarded);
        let clock = thread::spawn(expire);
        guarded.unlock_fair();
        guarded.lock.lock();
        guarded.unlock();
        let extra = waiter.join().unwrap();
        clock.join().unwrap();
        assert_eq!(guarded.total(), extra);
    });
}
