//! Heirs, grants and fair unlocks, with a thread that barges in.

use super::{Guarded, Model};
use crate::primitive::Place;
use crate::primitive::model_thread as thread;

/// One thread that comes back again and again, one that waits for it.
#[test]
fn waiter_races_barger() {
    Model::bounded(4)
        .must_reach(&[Place::Parked, Place::HandedToHeir, Place::Granted, Place::ResignedGranted])
        .check(|| {
            let guarded = Guarded::new();
            guarded.lock.lock();
            let waiter = guarded.clone();
            let waiter = thread::spawn(move || waiter.lock_and_add());
            for _ in 0..3 {
                guarded.add();
                // SAFETY: locked before.
                unsafe { guarded.lock.unlock() };
                guarded.lock.lock();
            }
            // SAFETY: locked before.
            unsafe { guarded.lock.unlock() };
            waiter.join().unwrap();
            assert_eq!(guarded.total(), 4);
        });
}

/// An heir in the queue while a third thread takes the lock from under the hand-over.
#[test]
fn heir_races_two_bargers() {
    Model::bounded(2).must_reach(&[Place::Parked, Place::HandedToHeir]).check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let others = [(); 2].map(|()| {
            let other = guarded.clone();
            thread::spawn(move || other.lock_and_add())
        });
        for _ in 0..2 {
            guarded.add();
            // SAFETY: locked before.
            unsafe { guarded.lock.unlock() };
            guarded.lock.lock();
        }
        // SAFETY: locked before.
        unsafe { guarded.lock.unlock() };
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(guarded.total(), 4);
    });
}

/// The holder is a thread of its own, and not the first: loom's search (which looks for races
/// between accesses that it has seen) does not come to all interleavings of the main thread's
/// first steps after a spawn.
#[test]
fn fair_unlock_races_park() {
    Model::bounded(4).must_reach(&[Place::Parked, Place::HandedFairly]).check(|| {
        let guarded = Guarded::new();
        let others = [(); 2].map(|()| {
            let other = guarded.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    other.lock.lock();
                    other.add();
                    // SAFETY: locked above.
                    unsafe { other.lock.unlock_fair() };
                }
            })
        });
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(guarded.total(), 4);
    });
}

#[test]
fn bump_lets_waiters_in() {
    Model::bounded(3).must_reach(&[Place::Parked, Place::HandedFairly]).check(|| {
        let guarded = Guarded::new();
        let others = [(); 2].map(|()| {
            let other = guarded.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    other.lock.lock();
                    other.add();
                    // SAFETY: locked above, and again afterwards.
                    unsafe { other.lock.bump() };
                    // SAFETY: locked still.
                    unsafe { other.lock.unlock() };
                }
            })
        });
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(guarded.total(), 4);
    });
}
