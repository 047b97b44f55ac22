//! Mutual exclusion, and no lost wake-up.

use super::{Clock, Guarded, Model};
use crate::primitive::Place;
use crate::primitive::model_thread as thread;

#[test]
fn two_threads_two_rounds() {
    Model::bounded(5).must_reach(&[Place::Parked]).check(|| {
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
    three_threads_at(Model::bounded(3).must_reach(&[Place::Parked, Place::Duty]));
}

/// An unlock frees the word and relies on the woken thread, however long that takes.
#[test]
fn three_threads_in_no_time() {
    three_threads_at(Model::bounded(2).clock(Clock::Still).must_reach(&[Place::Duty]));
}

/// Nobody volunteers, and each unlock wakes, whoever has the duty.
#[test]
fn three_threads_when_turns_are_over() {
    three_threads_at(Model::bounded(2).clock(Clock::Over).must_reach(&[Place::Overdue]));
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
    Model::exhaustive().must_reach(&[Place::Parked]).check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let other = guarded.clone();
        let other = thread::spawn(move || other.lock_and_add());
        guarded.add();
        // SAFETY: locked above.
        unsafe { guarded.lock.unlock() };
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
                // SAFETY: locked above.
                unsafe { other.lock.unlock() };
            }
            u32::from(locked)
        });
        guarded.lock_and_add();
        let extra = other.join().unwrap();
        assert_eq!(guarded.total(), 1 + extra);
    });
}
