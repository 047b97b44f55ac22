//! The slow path of a lock: spin, then park, and again.

use crate::duty::{Dropped, Kind};
use crate::fork;
use crate::lobby::{self, Bucket, Sleep};
use crate::park::{self, Domain, Key, Parked};
use crate::primitive::{self, Place, reach};
use crate::queue::{self, Call, Waiter};
use crate::spin::{Patience, Spin};
use crate::word::LockWord;
use core::cell::Cell;
use core::mem::take;
use std::time::{Duration, Instant};

/// The longest sleep where the kernel grants no `heavy()`: see [`Sleep::Nap`].
const NAP: Duration = Duration::from_millis(4);

/// Acquires the lock at `word`, or gives up at `deadline`. Returns whether it acquired it.
#[cold]
#[inline(never)]
pub(super) fn lock_slow(word: &LockWord, deadline: Option<Instant>) -> bool {
    fork::settle();
    let bucket = queue::bucket_of(word);
    let waiter = Waiter::new(word, bucket);
    // The duty that this thread has, if any.
    let mut duty = None;
    // Whether this thread has been in the queue: it is passed over once, and is an heir then.
    let mut queued = false;
    // Whether it comes from a sleep that nobody ended: it has nothing to spin for.
    let mut rested = false;
    loop {
        let patience = match (take(&mut rested), queued) {
            (true, _) => Patience::None,
            (false, true) => Patience::Woken,
            (false, false) if bucket.seems_busy() && !bucket.duty.is_open() => Patience::Crowded,
            (false, false) => Patience::Newcomer,
        };
        if spin(word, bucket, &mut duty, patience, deadline) {
            return true;
        }
        if let Some(kind) = duty.take() {
            match bucket.duty.resign(word.addr(), kind) {
                Dropped::Granted => {
                    reach(Place::ResignedGranted);
                    return true;
                }
                Dropped::Free => {}
            }
            if is_past(deadline) {
                // The duty passes on: whoever freed the word meanwhile relied on this thread.
                if bucket.anyone_waits() && !word.is_held() {
                    reach(Place::PassedOn);
                    queue::wake_one(word.addr(), bucket);
                }
                return false;
            }
        } else if is_past(deadline) {
            return false;
        }
        match park(word, &waiter, queued, deadline) {
            // It has lost its place in the queue, too, if that was a nap.
            None => (rested, queued) = (true, true),
            Some(Call::Handed) => return true,
            Some(Call::OnDuty) => {
                bucket.duty.arrive(word.addr());
                (duty, queued) = (Some(Kind::Woken), true);
            }
            Some(Call::Try) => queued = true,
            Some(Call::Stranger) => waiter.leave(),
        }
    }
}

/// Tries until the lock is acquired or patience is at an end. Returns whether it was acquired,
/// in which case the duty has ended.
fn spin(
    word: &LockWord,
    bucket: &Bucket,
    duty: &mut Option<Kind>,
    patience: Patience,
    deadline: Option<Instant>,
) -> bool {
    let addr = word.addr();
    let mut spin = Spin::new(addr, &bucket.pace, patience, deadline);
    loop {
        if !word.is_held() && word.try_acquire() {
            if duty.take().is_some() {
                bucket.duty.end();
            }
            spin.acquired();
            return true;
        }
        match *duty {
            Some(Kind::Woken) if bucket.duty.accept(addr) => {
                reach(Place::Granted);
                *duty = None;
                spin.granted();
                return true;
            }
            None if bucket.seems_busy() && bucket.duty.volunteer(addr) => {
                reach(Place::Duty);
                *duty = Some(Kind::Spinner);
            }
            _ => {}
        }
        if !spin.again() {
            return false;
        }
    }
}

/// Parks until called, or until the deadline (or a nap) is over: `None`. Or not at all if the
/// word is free by now: then the lock is acquired at once, as by a call, so that a waiter does
/// not lose the race for it time and again. The thread is counted out of the lobby when this
/// returns, but for a stranger's call.
fn park(word: &LockWord, waiter: &Waiter, queued: bool, deadline: Option<Instant>) -> Option<Call> {
    waiter.begin();
    let until = match lobby::enter(word.addr()) {
        Sleep::Sound => deadline,
        Sleep::Nap => {
            let nap = Instant::now() + NAP;
            Some(deadline.map_or(nap, |deadline| deadline.min(nap)))
        }
    };
    let acquired = Cell::new(false);
    // p3 of the proof in `lobby.rs`: a compare-exchange that fails has read HELD.
    let validate = || {
        acquired.set(word.try_acquire());
        if queued && !acquired.get() {
            waiter.become_heir();
        }
        !acquired.get()
    };
    let key = Key::new(Domain::Lock, word.addr());
    // SAFETY: the token is that of a waiter that outlives the call, as all tokens of this
    // domain are; the callbacks neither panic nor park.
    match unsafe { park::park(key, waiter.token(), validate, || (), || waiter.leave(), until) } {
        Parked::Woken(message) => {
            reach(Place::Parked);
            Some(Call::new(message))
        }
        Parked::Invalid => {
            debug_assert!(acquired.get());
            waiter.leave();
            Some(Call::Handed)
        }
        Parked::TimedOut => {
            reach(Place::TimedOut);
            None
        }
    }
}

/// Whether there is a deadline and it is over.
fn is_past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(primitive::is_past)
}
