//! The hint's round, and two locks in one bucket. (In the models every lock is in it.)

use super::{Guarded, Model};
use crate::barrier;
use crate::lobby;
use crate::primitive::Place;
use crate::primitive::model_sync::Arc;
use crate::primitive::model_thread as thread;
use crate::word::LockWord;

/// Arms the bucket, as a waiter that has come and gone would.
fn arm(guarded: &Guarded) {
    let _ = lobby::enter(guarded.addr());
    lobby::bucket(guarded.addr()).leave();
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
    Model::bounded(2).must_reach(&[Place::Disarmed, Place::Parked]).check(|| {
        let (guarded, apart) = (Guarded::new(), Guarded::new());
        arm(&guarded);
        let others = [guarded.clone(), apart].map(|other| {
            thread::spawn(move || {
                other.lock_and_add();
                other.lock_and_add();
            })
        });
        guarded.lock_and_add();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(guarded.total(), 3);
    });
}

fn enter_and_leave(guarded: &Guarded) {
    let addr = guarded.addr();
    let _ = lobby::enter(addr);
    assert!(!lobby::is_quiet(addr), "a parker's bucket was disarmed");
    lobby::bucket(addr).leave();
}

/// What `enter` promises until `leave`: the bucket is armed, whoever disarms or arms meanwhile.
#[test]
fn armed_from_enter_to_leave() {
    Model::bounded(4).must_reach(&[Place::Disarmed, Place::Rearmed]).check(|| {
        let guarded = Guarded::new();
        enter_and_leave(&guarded);
        let others = [1, 2].map(|times| {
            let other = guarded.clone();
            thread::spawn(move || {
                for _ in 0..times {
                    let bucket = lobby::bucket(other.addr());
                    if !bucket.anyone_waits() {
                        bucket.settle_down(other.addr());
                    }
                }
            })
        });
        enter_and_leave(&guarded);
        for other in others {
            other.join().unwrap();
        }
    });
}

#[test]
fn two_arm_at_once() {
    Model::bounded(2).must_reach(&[Place::Parked]).check(|| {
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

/// The bucket was armed by a thread that has gone and does not look at the word: a parker that
/// reads READY relies on that thread's barrier alone.
#[test]
fn armed_by_one_who_left() {
    Model::bounded(3).must_reach(&[Place::Parked]).check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let waiter = guarded.clone();
        let waiter = thread::spawn(move || waiter.lock_and_add());
        let passer_by = guarded.clone();
        let passer_by = thread::spawn(move || arm(&passer_by));
        // SAFETY: locked above.
        unsafe { guarded.lock.unlock() };
        waiter.join().unwrap();
        passer_by.join().unwrap();
        assert_eq!(guarded.total(), 1);
    });
}

/// Another lock of the bucket has an heir in its queue, and a thread with the duty: neither
/// looks after this one.
#[test]
fn heir_and_duty_of_another_lock() {
    Model::exhaustive().must_reach(&[Place::Parked]).check(|| {
        let (guarded, apart) = (Guarded::new(), Guarded::new());
        let bucket = lobby::bucket(apart.addr());
        bucket.add_heir();
        assert!(bucket.duty.appoint(apart.addr()));
        guarded.lock.lock();
        let other = guarded.clone();
        let other = thread::spawn(move || other.lock_and_add());
        guarded.add();
        // SAFETY: locked above.
        unsafe { guarded.lock.unlock() };
        other.join().unwrap();
        assert!(bucket.duty.is_taken(apart.addr()), "the duty was taken away");
        bucket.duty.end();
        bucket.remove_heir();
        assert_eq!(guarded.total(), 2);
    });
}

/// The same, while waiters of the lock itself are in the queue, who are no heirs.
#[test]
fn heir_of_another_lock_beside_waiters() {
    Model::bounded(3).must_reach(&[Place::Parked]).check(|| {
        let (guarded, apart) = (Guarded::new(), Guarded::new());
        let bucket = lobby::bucket(apart.addr());
        bucket.add_heir();
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
        bucket.remove_heir();
        assert_eq!(guarded.total(), 4);
    });
}

/// u1 to u3 against p1 to p3 by two parkers, the second of whom may rely on the first one's
/// `heavy()`: if the unlocker returned at u3, both see the word free.
#[test]
fn unlocker_races_two_parkers() {
    Model::bounded(3).check(|| {
        let word = Arc::new(LockWord::new());
        assert!(word.try_acquire());
        let unlocker = word.clone();
        let unlocker = thread::spawn(move || {
            unlocker.release();
            barrier::light();
            lobby::is_quiet(unlocker.addr())
        });
        let parkers = [(); 2].map(|()| {
            let parker = word.clone();
            thread::spawn(move || {
                let _ = lobby::enter(parker.addr());
                parker.is_held()
            })
        });
        let missed = unlocker.join().unwrap();
        for parker in parkers {
            let sleeps = parker.join().unwrap();
            assert!(!(missed && sleeps), "neither saw the other");
            lobby::bucket(word.addr()).leave();
        }
    });
}
