//! [`RawLock`]: try, spin, park; release, and wake if anybody waits.
//!
//! # The paths
//!
//! | path | steps |
//! |---|---|
//! | lock, free | one compare-exchange |
//! | lock, held | spin for some microseconds ([`spin`](crate::spin)), then park ([`park`]), and again |
//! | unlock, quiet | load the hint; store 0; load the hint again |
//! | unlock, armed | hand over to whom it is due; else store 0, fence, and wake one unless somebody is awake |
//!
//! The hint is read *before* the store, too: while the caller holds the lock it can still hand
//! it over, with no moment at which the word is free and a third thread could slip in. That is
//! what makes the bound on waiting a promise and not a probability. The read *after* the store
//! is the one that no wake-up is lost for; its proof is in [`lobby`](crate::lobby).
//!
//! After the store that frees it the word is not touched again: from there on the lock is only
//! an address, and the memory may already be somebody else's.
//!
//! # Who looks after a free word with waiters
//!
//! At every moment one of these: an unlocker between its store and its wake-up; a waiter that it
//! has woken, or that has the [duty](crate::duty) anyway; or the next holder, whose unlock comes. loom checks that
//! (`src/models`).

use crate::barrier;
use crate::duty::{Dropped, Kind};
use crate::fork;
use crate::lobby::{self, Bucket, Sleep};
use crate::park::{self, Domain, Key, Parked};
use crate::primitive::{self, Place, reach};
use crate::queue::{self, Call, Heirs, Waiter};
use crate::spin::{Patience, Spin};
use crate::word::LockWord;
use core::cell::Cell;
use core::mem::take;
use std::time::{Duration, Instant};

/// The longest sleep where the kernel grants no `heavy()`: see [`Sleep::Nap`].
const NAP: Duration = Duration::from_millis(4);

/// The lock without data: one byte, acquired by one compare-and-swap and released by one plain
/// store.
///
/// Most programs want [`Mutex`](crate::Mutex), which guards data with it. The methods of this
/// type are those of `lock_api`'s traits; they are inherent too, so that a lock of one's own can
/// be built on them.
///
/// Any thread may unlock. The lock is not reentrant: a thread that locks twice waits for ever.
#[repr(transparent)]
pub struct RawLock {
    word: LockWord,
}

impl RawLock {
    /// A free lock.
    #[cfg(not(lockword_loom))]
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        RawLock { word: LockWord::new() }
    }

    /// A free lock, in the model.
    #[cfg(lockword_loom)]
    pub(crate) fn new() -> Self {
        RawLock { word: LockWord::new() }
    }

    /// The word, for models of parts of the protocol.
    #[cfg(all(test, lockword_loom))]
    pub(crate) fn word(&self) -> &LockWord {
        &self.word
    }

    /// Acquires the lock, waiting as long as it takes.
    #[inline]
    pub fn lock(&self) {
        if !self.word.try_acquire() {
            lock_slow(&self.word, None);
        }
    }

    /// Acquires the lock if it is free. Returns whether it did; never waits.
    #[inline]
    #[must_use]
    pub fn try_lock(&self) -> bool {
        self.word.try_acquire()
    }

    /// Acquires the lock unless `deadline` passes first. Returns whether it did. With a deadline
    /// in the past it tries and does not wait.
    #[inline]
    #[must_use]
    pub fn try_lock_until(&self, deadline: Instant) -> bool {
        self.word.try_acquire() || lock_slow(&self.word, Some(deadline))
    }

    /// Acquires the lock unless `timeout` passes first. Returns whether it did. A timeout of
    /// zero tries and does not wait; one that reaches beyond what [`Instant`] can name is none.
    #[inline]
    #[must_use]
    pub fn try_lock_for(&self, timeout: Duration) -> bool {
        self.word.try_acquire() || lock_slow(&self.word, Instant::now().checked_add(timeout))
    }

    /// Whether somebody held the lock a moment ago.
    #[inline]
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.word.is_held()
    }

    /// Releases the lock. A waiter that was passed over before is handed it; else it is free,
    /// and a waiter is woken if there are any.
    ///
    /// # Safety
    /// The lock is held, and nobody else releases it for this acquisition.
    #[inline]
    pub unsafe fn unlock(&self) {
        let addr = self.word.addr();
        if lobby::is_quiet(addr) {
            self.word.release();
            barrier::light();
            if lobby::is_quiet(addr) {
                return;
            }
            unlock_slow(&raw const self.word, addr, Word::Released);
        } else {
            unlock_slow(&raw const self.word, addr, Word::Held);
        }
    }

    /// Releases the lock fairly: whoever is parked for it, the longest waiting first, holds it
    /// when this returns. (One that was woken already, and has not got the lock yet, comes before
    /// them.) Only if nobody is, it is free.
    ///
    /// Threads that still spin count as not waiting yet.
    ///
    /// # Safety
    /// As for [`unlock`](Self::unlock).
    #[inline]
    pub unsafe fn unlock_fair(&self) {
        if lobby::is_quiet(self.word.addr()) {
            // SAFETY: the caller's promise.
            unsafe { self.unlock() }
        } else {
            unlock_fair_slow(&self.word);
        }
    }

    /// Lets the waiters have the lock for a while: `unlock_fair` and `lock`, or nothing if
    /// nobody has waited near this lock lately.
    ///
    /// # Safety
    /// As for [`unlock`](Self::unlock); the lock is held again when this returns.
    #[inline]
    pub unsafe fn bump(&self) {
        if !lobby::is_quiet(self.word.addr()) {
            unlock_fair_slow(&self.word);
            self.lock();
        }
    }
}

#[cfg(not(lockword_loom))]
impl Default for RawLock {
    fn default() -> Self {
        RawLock::new()
    }
}

impl core::fmt::Debug for RawLock {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RawLock").field("locked", &self.is_locked()).finish()
    }
}

/// What the caller of [`unlock_slow`] has done to the word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    /// Nothing: the caller still holds the lock.
    Held,
    /// Freed it: the pointer may dangle.
    Released,
}

/// Acquires the lock at `word`, or gives up at `deadline`. Returns whether it acquired it.
#[cold]
#[inline(never)]
fn lock_slow(word: &LockWord, deadline: Option<Instant>) -> bool {
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
                if bucket.anyone_waits(word.addr()) && !word.is_held() {
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

/// Unlocks where somebody may wait.
///
/// `word` may be read only if it is [`Word::Held`].
///
/// The bucket of a lock that is contended now and then stays armed, and mostly nobody waits: so
/// what is done for waiters stands apart, and is called last, which saves this path a stack frame.
#[cold]
#[inline(never)]
fn unlock_slow(word: *const LockWord, addr: usize, state: Word) {
    let bucket = lobby::bucket(addr);
    if state == Word::Held {
        // SAFETY: the caller holds the lock, so the lock exists.
        let word = unsafe { &*word };
        if fork::is_unsettled() || bucket.duty.is_heir_left(addr) || bucket.duty.may_grant(addr) {
            return unlock_to_waiter(word);
        }
        word.release();
    } else if fork::is_unsettled() {
        return finish_unlock(addr);
    }
    // From here on the lock may not exist any more.
    if bucket.anyone_waits(addr) && bucket.may_wake(addr) {
        wake(addr, bucket);
    }
}

/// Hands the lock over to a waiter to whom it is due, or frees it and wakes one.
#[inline(never)]
fn unlock_to_waiter(word: &LockWord) {
    fork::settle();
    let (addr, bucket) = (word.addr(), queue::bucket_of(word));
    if queue::hand_to_left_heir(word, bucket) != Heirs::None || bucket.duty.grant(addr) {
        return;
    }
    word.release();
    finish_unlock(addr);
}

/// What comes after the word of the lock at `addr` has been freed.
#[inline(never)]
fn finish_unlock(addr: usize) {
    fork::settle();
    let bucket = lobby::bucket(addr);
    if bucket.anyone_waits(addr) && bucket.may_wake(addr) {
        wake(addr, bucket);
    }
}

/// The lock at `addr` was freed, and somebody waits in its bucket: wakes one, unless another is
/// awake.
#[inline(never)]
fn wake(addr: usize, bucket: &Bucket) {
    if !bucket.duty.is_taken(addr) || bucket.is_turn_overdue(addr) {
        queue::wake_one(addr, bucket);
    }
}

/// Hands the lock over to whoever waits, or frees it.
#[cold]
#[inline(never)]
fn unlock_fair_slow(word: &LockWord) {
    fork::settle();
    let bucket = queue::bucket_of(word);
    if bucket.duty.grant_now(word.addr()) {
        return;
    }
    if bucket.seems_busy() {
        queue::hand_or_release(word, bucket);
    } else {
        // Nobody is parked. This way the bucket can go quiet again.
        unlock_slow(&raw const *word, word.addr(), Word::Held);
    }
}

/// Whether there is a deadline and it is over.
fn is_past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(primitive::is_past)
}
