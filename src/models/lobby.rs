//! The hint's round, and two locks in one bucket. (In the models every lock is in it.)

use super::{Guarded, Model};
use crate::lobby;
use crate::primitive::Place;
use loom::thread;

/// Arms the bucket, as a waiter that has come and gone would.
fn arm(guarded: &Guarded) {
    let addr = core::ptr::from_ref(&guarded.lock).addr();
    let _ = lobby::enter(addr);
    lobby::bucket(addr).leave();
}

#[test]
fn disarm_races_park() {
    Model::bounded(4).must_reach(&[Place::Disarmed, Place::Rearmed, Place::Parked]).check(|| {
        let guarded = Guarded::new();
        arm(&guarded);
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
fn two_disarm_while_one_parks() {
    Model::bounded(2).must_reach(&[Place::Disarmed, Place::Rearmed, Place::Parked]).check(|| {
        let (guarded, apart) = (Guarded::new(), Guarded::new());
        arm(&guarded);
        let others =
            [guarded.clone(), apart].map(|other| thread::spawn(move || other.lock_and_add()));
        guarded.lock_and_add();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(guarded.total(), 2);
    });
}

#[test]
fn two_arm_at_once() {
    Model::bounded(3).must_reach(&[Place::Parked]).check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let others = [(); 2].map(|()| {
            let other = guarded.clone();
            thread::spawn(move || other.lock_and_add())
        });
        // SAFETY: locked above.
        unsafe { guarded.lock.unlock() };
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(guarded.total(), 2);
    });
}

#[test]
fn two_locks_in_one_bucket() {
    Model::bounded(2).must_reach(&[Place::Parked]).check(|| {
        let (one, two) = (Guarded::new(), Guarded::new());
        let others =
            [one.clone(), two.clone()].map(|other| thread::spawn(move || other.lock_and_add()));
        one.lock_and_add();
        two.lock_and_add();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!((one.total(), two.total()), (2, 2));
    });
}

/// `light()` is a full fence in the other models and could make up for the slow path's. Here it
/// is nothing, as on the hardware, and the bucket is armed from the start.
#[test]
fn slow_path_has_its_own_fence() {
    Model::exhaustive().no_light().must_reach(&[Place::Parked]).check(|| {
        let guarded = Guarded::new();
        arm(&guarded);
        let other = guarded.clone();
        let other = thread::spawn(move || other.lock_and_add());
        guarded.lock_and_add();
        other.join().unwrap();
        assert_eq!(guarded.total(), 2);
    });
}
