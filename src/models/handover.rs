//! Heirs, grants and fair unlocks, with a thread that barges in.

use super::{Clock, Guarded, Model};
use crate::duty::{Dropped, Kind};
use crate::lobby;
use crate::park::{self, Domain, Key, Parked};
use crate::primitive::Place;
use crate::primitive::model_sync::Arc;
use crate::primitive::model_thread::{self as thread, JoinHandle};
use crate::queue::{self, Call, Waiter};

/// One thread that comes back again and again, one that waits for it.
#[test]
fn waiter_races_barger() {
    let places = &[Place::Parked, Place::HandedToHeir, Place::Granted, Place::ResignedGranted];
    waiter_races_barger_at(Model::bounded(4).must_reach(places));
}

/// The same when the barger may not hand the lock over: the heir is woken, time and again.
#[test]
fn waiter_races_barger_in_no_time() {
    waiter_races_barger_at(Model::bounded(3).clock(Clock::Still).must_reach(&[Place::HeirWoken]));
}

fn waiter_races_barger_at(model: Model) {
    model.check(|| {
        let guarded = Guarded::new();
        // Where no time passes, there must be no second one.
        lobby::bucket(guarded.addr()).duty.note_hand_over(guarded.addr());
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
    heir_races_two_bargers_at(Model::bounded(2).must_reach(&[Place::HandedToHeir]), 2);
}

/// The same when the lock may not be handed over: one heir is woken beside another waiter.
#[test]
fn heir_races_two_bargers_in_no_time() {
    let model = Model::bounded(2).clock(Clock::Still).must_reach(&[Place::HeirWoken]);
    heir_races_two_bargers_at(model, 1);
}

fn heir_races_two_bargers_at(model: Model, rounds: u32) {
    model.check(move || {
        let guarded = Guarded::new();
        lobby::bucket(guarded.addr()).duty.note_hand_over(guarded.addr());
        guarded.lock.lock();
        let others = [(); 2].map(|()| {
            let other = guarded.clone();
            thread::spawn(move || other.lock_and_add())
        });
        for _ in 0..rounds {
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
        assert_eq!(guarded.total(), 2 + rounds);
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

/// A waker that finds an heir, while a barger takes the word: the heir must be left to the
/// barger's unlock. The waker starts when the heir is in the queue.
#[test]
fn heir_is_left_to_the_holder() {
    Model::bounded(3).must_reach(&[Place::HeirLeft]).check(|| {
        let guarded = Guarded::new();
        let barger = guarded.clone();
        let barger = thread::spawn(move || {
            if barger.lock.try_lock() {
                barger.add();
                // SAFETY: locked above.
                unsafe { barger.lock.unlock() };
            }
        });
        let heir = guarded.clone();
        let heir = thread::spawn(move || {
            let waker = wait_as_heir(&heir);
            heir.add();
            // SAFETY: handed over.
            unsafe { heir.lock.unlock() };
            waker.join().unwrap();
        });
        barger.join().unwrap();
        heir.join().unwrap();
        guarded.total();
    });
}

/// Parks as an heir, starts a waker, and returns when it holds the lock.
fn wait_as_heir(guarded: &Arc<Guarded>) -> JoinHandle<()> {
    let (addr, bucket) = (guarded.addr(), lobby::bucket(guarded.addr()));
    let wake = || thread::spawn(move || queue::wake_one(addr, bucket));
    let (call, waker) = park_as_heir(guarded, 0, wake);
    match call {
        Call::Handed => {}
        // By the barger, whose look at the count of heirs may have been too early.
        Call::OnDuty => match bucket.duty.resign(addr, Kind::Woken) {
            Dropped::Granted => {}
            Dropped::Free => guarded.lock.lock(),
        },
        Call::Try | Call::Stranger => guarded.lock.lock(),
    }
    waker
}

/// Two heirs, of which the one that has waited for longer parked last, and then a holder that
/// hands the lock over.
#[test]
fn oldest_heir_comes_first() {
    Model::bounded(2).must_reach(&[Place::HandedToHeir]).check(|| {
        let guarded = Guarded::new();
        guarded.lock.lock();
        let (young, old) = (guarded.clone(), guarded.clone());
        let holder = guarded.clone();
        let young = thread::spawn(move || {
            let (call, old) = park_as_heir(&young, 2, || {
                thread::spawn(move || {
                    let (call, holder) = park_as_heir(&old, 1, || {
                        thread::spawn(move || {
                            let bucket = lobby::bucket(holder.addr());
                            queue::hand_or_release(holder.lock.word(), bucket);
                            // It is the heir's now.
                            if holder.lock.try_lock() {
                                holder.add();
                                // SAFETY: locked above.
                                unsafe { holder.lock.unlock() };
                            }
                        })
                    });
                    assert_eq!(call, Call::Handed);
                    old.add();
                    // SAFETY: handed over.
                    unsafe { old.lock.unlock_fair() };
                    holder.join().unwrap();
                })
            });
            assert_eq!(call, Call::Handed);
            // SAFETY: the lock is held: handed over.
            let before = young.number.with(|n| unsafe { *n });
            assert_eq!(before, 1, "the younger heir was handed the lock first");
            // SAFETY: handed over.
            unsafe { young.lock.unlock() };
            old.join().unwrap();
        });
        young.join().unwrap();
        guarded.total();
    });
}

/// Parks as an heir that has waited since then, and does something when it is in the queue.
/// Returns what it was woken for, and what that something gave.
fn park_as_heir<T>(guarded: &Guarded, since_us: u64, then: impl FnOnce() -> T) -> (Call, T) {
    let waiter = Waiter::since(since_us, guarded.lock.word(), lobby::bucket(guarded.addr()));
    let _ = lobby::enter(guarded.addr());
    let become_heir = || {
        waiter.become_heir();
        true
    };
    let mut done = None;
    let then = || done = Some(then());
    let key = Key::new(Domain::Lock, guarded.addr());
    // SAFETY: the token is a waiter's that outlives the call.
    let parked = unsafe { park::park(key, waiter.token(), become_heir, then, || (), None) };
    let Parked::Woken(message) = parked else { panic!("{parked:?}") };
    (Call::new(message), done.unwrap())
}
