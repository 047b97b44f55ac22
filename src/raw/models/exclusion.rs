//! Mutual exclusion, and no lost wake-up.

use super::{Guarded, Model};
use crate::primitive::Probe;
use crate::primitive::model_thread as thread;

#[test]
fn two_threads_two_rounds() {
    Model::bounded(4).must_reach(&[Probe::Parked]).check(|| {
        let guarded = Guarded::new();
        let other = guarded.clone();
        let other = thread::spawn(move || {
            other.lock_and_add();
            other.lock_and_add();
        });
        guarded.lock_and_add();
        guarded.lock_and_add();
        other.join().unwrap();
        assert_eq!(guarded.total(), 4);
    });
}

#[test]
fn three_threads() {
    three_threads_at(Model::bounded(2).must_reach(&[Probe::Parked, Probe::HandedOff]));
}

/// An unlock frees the word and relies on the designated waker, however long that takes.
#[test]
fn three_threads_in_no_time() {
    three_threads_at(Model::bounded(2).in_no_time().must_reach(&[Probe::Designated]));
}

fn three_threads_at(model: Model) {
    model.check(|| {
        let guarded = Guarded::new();
        let others = [(); 2].map(|()| {
            let other = guarded.clone();
            thread::spawn(move || other.lock_and_add())
        });
        guarded.lock_and_add();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(guarded.total(), 3);
    });
}

#[test]
fn park_races_unlock() {
    Model::exhaustive().must_reach(&[Probe::Parked]).check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let other = guarded.clone();
        let other = thread::spawn(move || other.lock_and_add());
        guarded.add();
        guarded.unlock();
        other.join().unwrap();
        assert_eq!(guarded.total(), 2);
    });
}

#[test]
fn try_lock_fails_or_excludes() {
    Model::exhaustive().check(|| {
        let guarded = Guarded::new();
        let other = guarded.clone();
        let other = thread::spawn(move || {
            let locked = other.lock.try_lock();
            if locked {
                other.add();
                other.unlock();
            }
            u32::from(locked)
        });
        guarded.lock_and_add();
        let extra = other.join().unwrap();
        assert_eq!(guarded.total(), 1 + extra);
    });
}

/// Sleepers that return for no reason keep their place, and nothing is lost by it.
#[test]
fn a_sleeper_is_disturbed() {
    Model::bounded(3).must_reach(&[Probe::Parked]).check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let other = guarded.clone();
        let other = thread::spawn(move || other.lock_and_add());
        let disturber = thread::spawn(super::futex::disturb);
        guarded.add();
        guarded.unlock();
        other.join().unwrap();
        disturber.join().unwrap();
        assert_eq!(guarded.total(), 2);
    });
}
