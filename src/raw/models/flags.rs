//! The round of a flag: arming, disarming, refusal.

use super::futex::expire;
use super::harness::set_apart;
use super::{Guarded, Model};
use crate::primitive::model_sync::Arc;
use crate::primitive::model_thread as thread;
use crate::primitive::{Ordering, Probe, fence};
use crate::raw::waiters::{self, Waiter};
use crate::raw::{barrier, flags};
use crate::word::LockWord;

/// p1 and p2 of a parker, `then`, and its leaving.
fn armed_for(word: &LockWord, then: impl FnOnce()) {
    let waiter = Waiter::new(word);
    let bucket = waiters::bucket_of(word.addr());
    bucket.lock().enqueue(&waiter);
    fence(Ordering::SeqCst);
    let flag = flags::flag(flags::index(word.addr()));
    if !flag.is_ready() {
        let _ = flag.arm();
    }
    then();
    bucket.lock().dequeue(&waiter);
}

/// Arms the flag, as a waiter that has come and gone would.
fn arm(guarded: &Guarded) {
    armed_for(guarded.lock.word(), || ());
}

#[test]
fn disarm_races_park() {
    Model::bounded(3).must_reach(&[Probe::Disarmed, Probe::Rearmed, Probe::Parked]).check(|| {
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
    Model::bounded(2).must_reach(&[Probe::Disarmed, Probe::Parked]).check(|| {
        let (guarded, neighbour) = (Guarded::new(), Guarded::new());
        arm(&guarded);
        let others = [guarded.clone(), neighbour].map(|other| {
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

/// What the place in the queue and `arm` promise: the flag stays armed, whoever disarms or arms meanwhile.
#[test]
fn armed_while_in_the_queue() {
    Model::bounded(3).must_reach(&[Probe::Disarmed, Probe::Rearmed]).check(|| {
        let guarded = Guarded::new();
        let stay = |guarded: &Guarded| {
            let still_armed = || assert!(flags::may_have_waiters(guarded.addr()), "disarmed");
            armed_for(guarded.lock.word(), still_armed);
        };
        stay(&guarded);
        let others = [1, 2].map(|times| {
            let other = guarded.clone();
            thread::spawn(move || {
                for _ in 0..times {
                    let bucket = waiters::bucket_of(other.addr());
                    let flag = flags::flag(flags::index(other.addr()));
                    flag.maybe_disarm(0, || bucket.has_waiters());
                }
            })
        });
        stay(&guarded);
        for other in others {
            other.join().unwrap();
        }
    });
}

#[test]
fn two_arm_at_once() {
    Model::bounded(2).must_reach(&[Probe::Parked]).check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let others = [(); 2].map(|()| {
            let other = guarded.clone();
            thread::spawn(move || other.lock_and_add())
        });
        guarded.unlock();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(guarded.total(), 2);
    });
}

/// `light()` is a full fence in the other models and could make up for the slow path's. Here it
/// is nothing, as on the hardware, and the flag is armed from the start.
#[test]
fn slow_path_has_its_own_fence() {
    Model::exhaustive().no_light().must_reach(&[Probe::Parked]).check(|| {
        let guarded = Guarded::new();
        arm(&guarded);
        let other = guarded.clone();
        let other = thread::spawn(move || other.lock_and_add());
        guarded.lock_and_add();
        other.join().unwrap();
        assert_eq!(guarded.total(), 2);
    });
}

/// The flag was armed by a thread that has gone and does not look at the word: a parker that
/// reads READY relies on that thread's barrier alone.
#[test]
fn armed_by_one_who_left() {
    Model::bounded(3).must_reach(&[Probe::Parked]).check(|| {
        let (guarded, neighbour) = (Guarded::new(), Guarded::new());
        guarded.lock.lock();
        let waiter = guarded.clone();
        let waiter = thread::spawn(move || waiter.lock_and_add());
        let passer_by = thread::spawn(move || arm(&neighbour));
        guarded.unlock();
        waiter.join().unwrap();
        passer_by.join().unwrap();
        assert_eq!(guarded.total(), 1);
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
            !flags::may_have_waiters(unlocker.addr())
        });
        let parkers = [(); 2].map(|()| {
            let parker = word.clone();
            thread::spawn(move || {
                let mut sleeps = false;
                armed_for(&parker, || sleeps = parker.is_held());
                sleeps
            })
        });
        let missed = unlocker.join().unwrap();
        for parker in parkers {
            let sleeps = parker.join().unwrap();
            assert!(!(missed && sleeps), "neither saw the other");
        }
    });
}

/// The kernel refuses the barrier between the arming and the sleep; and another lock's flag was quiet.
#[test]
fn refused_while_one_parks() {
    Model::bounded(3).refuses().must_reach(&[Probe::Parked]).check(|| {
        let (guarded, apart) = (Guarded::new(), Guarded::new());
        set_apart(apart.addr());
        guarded.lock.lock();
        let others = [guarded.clone(), apart.clone()]
            .map(|other| thread::spawn(move || other.lock_and_add()));
        guarded.unlock();
        apart.lock_and_add();
        // Naps end.
        expire();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!((guarded.total(), apart.total()), (1, 2));
    });
}

/// An unlock's store is still on its way when a parker, whose barrier was refused, looks at the word: it naps,
/// and looks once more.
#[test]
fn refused_while_an_unlock_is_on_its_way() {
    Model::exhaustive().refuses().no_light().must_reach(&[Probe::Parked]).check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let other = guarded.clone();
        let other = thread::spawn(move || other.lock_and_add());
        guarded.unlock();
        // Naps end, and all stores are seen.
        expire();
        other.join().unwrap();
        assert_eq!(guarded.total(), 1);
    });
}
