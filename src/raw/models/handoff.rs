//! Turns, fair unlocks and designated wakers, with a thread that barges in.

use super::{Guarded, Model};
use crate::primitive::model_thread as thread;
use crate::primitive::{Ordering, Probe, fence};
use crate::raw::flags;
use crate::raw::waiters::{self, ASLEEP, DESIGNATED, HANDOFF, Kind, Waiter};

/// One thread that comes back again and again, one that waits for it: handed the lock asleep and awake.
#[test]
fn waiter_races_barger() {
    waiter_races_barger_at(Model::bounded(3).must_reach(&[Probe::Parked, Probe::HandedOff]));
}

/// The same when no turn comes: the waiter is woken, time and again.
#[test]
fn waiter_races_barger_in_no_time() {
    let model = Model::bounded(3).in_no_time();
    waiter_races_barger_at(model.must_reach(&[Probe::StarvingWoken]));
}

fn waiter_races_barger_at(model: Model) {
    model.check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let waiter = guarded.clone();
        let waiter = thread::spawn(move || waiter.lock_and_add());
        for _ in 0..2 {
            guarded.add();
            guarded.unlock();
            guarded.lock.lock();
        }
        guarded.unlock();
        waiter.join().unwrap();
        assert_eq!(guarded.total(), 3);
    });
}

/// Two waiters, of which the second comes while the first is awake or starving.
#[test]
fn two_waiters_race_a_barger() {
    two_waiters_race_a_barger_at(Model::bounded(1).must_reach(&[Probe::HandedOff]));
}

/// The same when no turn comes.
#[test]
fn two_waiters_race_a_barger_in_no_time() {
    two_waiters_race_a_barger_at(Model::bounded(1).in_no_time().must_reach(&[Probe::Parked]));
}

fn two_waiters_race_a_barger_at(model: Model) {
    model.check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let others = [(); 2].map(|()| {
            let other = guarded.clone();
            thread::spawn(move || other.lock_and_add())
        });
        guarded.add();
        guarded.unlock();
        guarded.lock_and_add();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(guarded.total(), 4);
    });
}

/// The holder is a thread of its own, and not the first: loom's search (which looks for races between
/// accesses that it has seen) does not come to all interleavings of the main thread's first steps
/// after a spawn.
#[test]
fn fair_unlocks_race_parks() {
    fair_unlocks_race_parks_at(Model::bounded(3).must_reach(&[Probe::Parked, Probe::HandedOff]));
}

/// The same when no turn comes: each handoff is a fair unlock's.
#[test]
fn fair_unlocks_race_parks_in_no_time() {
    let model = Model::bounded(3).in_no_time();
    fair_unlocks_race_parks_at(model.must_reach(&[Probe::Parked, Probe::HandedOff]));
}

fn fair_unlocks_race_parks_at(model: Model) {
    model.check(|| {
        let guarded = Guarded::new();
        let others = [(); 2].map(|()| {
            let other = guarded.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    other.lock.lock();
                    other.add();
                    other.unlock_fair();
                }
            })
        });
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(guarded.total(), 4);
    });
}

/// A fair unlock, while one waiter was woken by an unlock before it, and a thread barges in.
#[test]
fn fair_unlock_races_a_wake_up() {
    let model = Model::bounded(2).in_no_time();
    model.must_reach(&[Probe::Parked, Probe::HandedOff]).check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let waiter = guarded.clone();
        let waiter = thread::spawn(move || waiter.lock_and_add());
        let barger = guarded.clone();
        let barger = thread::spawn(move || {
            if barger.lock.try_lock() {
                barger.add();
                barger.unlock_fair();
                return 1;
            }
            0
        });
        guarded.unlock();
        waiter.join().unwrap();
        let extra = barger.join().unwrap();
        assert_eq!(guarded.total(), 1 + extra);
    });
}

/// Whoever is in the queue when a fair unlock begins, asleep or awake, holds the lock before the unlocker does
/// again.
#[test]
fn fair_unlock_lets_the_queue_go_first() {
    let model = Model::bounded(3).in_no_time().no_light();
    model.must_reach(&[Probe::Parked, Probe::HandedOff]).check(|| {
        let guarded = Guarded::new();
        let _ = flags::flag(flags::index(guarded.addr())).arm();
        guarded.lock.lock();
        let waiter = guarded.clone();
        let waiter = thread::spawn(move || waiter.lock_and_add());
        guarded.unlock();
        if guarded.lock.try_lock() {
            let bucket = waiters::bucket_of(guarded.addr());
            let waits = bucket.lock().first(guarded.addr(), Kind::Exclusive).is_some();
            guarded.unlock_fair();
            guarded.lock.lock();
            // SAFETY: the lock is held; loom checks it.
            let number = guarded.number.with(|n| unsafe { *n });
            assert!(number == 1 || !waits, "the waiter was passed over");
            guarded.unlock();
        }
        waiter.join().unwrap();
        assert_eq!(guarded.total(), 1);
    });
}

/// An unlock frees the word for a designated waker, which is about to give up and has the lock after all,
/// and then looks after a starving waiter: that must not be handed what another thread holds.
#[test]
fn starving_waiter_beside_a_holder() {
    Model::exhaustive().no_light().must_reach(&[Probe::HandedOff]).check(|| {
        let guarded = Guarded::new();
        let bucket = waiters::bucket_of(guarded.addr());
        let _ = flags::flag(flags::index(guarded.addr())).arm();
        guarded.lock.lock();
        let starving = Waiter::new(guarded.lock.word());
        starving.woken.set(true);
        starving.state.store(ASLEEP, Ordering::Relaxed);
        bucket.lock().enqueue(&starving);
        assert!(bucket.handoff.try_claim(guarded.addr()));
        let waker = guarded.clone();
        let waker = thread::spawn(move || {
            waiters::bucket_of(waker.addr()).handoff.end();
            fence(Ordering::SeqCst);
            if waker.lock.try_lock() {
                waker.add();
                waker.unlock();
            }
        });
        guarded.unlock();
        waker.join().unwrap();
        match starving.message().expect("the waiter was forgotten") {
            HANDOFF => {
                assert!(guarded.lock.is_locked(), "handed what another thread held");
                guarded.unlock();
            }
            message => {
                bucket.lock().dequeue(&starving);
                if message == DESIGNATED {
                    bucket.handoff.end();
                }
            }
        }
        assert!(guarded.total() <= 1);
    });
}

#[test]
fn bump_lets_waiters_in() {
    Model::bounded(2).must_reach(&[Probe::Parked, Probe::HandedOff]).check(|| {
        let guarded = Guarded::new();
        let others = [(); 2].map(|()| {
            let other = guarded.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    other.lock.lock();
                    other.add();
                    // SAFETY: locked above, and again afterwards.
                    unsafe { other.lock.bump() };
                    other.unlock();
                }
            })
        });
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(guarded.total(), 4);
    });
}
