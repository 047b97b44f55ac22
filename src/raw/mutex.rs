//! [`RawLock`], with its fast paths inline, and the slow paths [`lock_slow`] and [`unlock_slow`].

use super::barrier;
use super::flags::{self, Sleep};
use super::fork;
use super::handoff::Cause;
use super::spin::{Budget, spin};
use super::waiters::{self, ASLEEP, AWAKE, Bucket, DESIGNATED, HANDOFF, Kind, RETRY, Waiter};
use crate::primitive::{self, Ordering, fence, is_one_in_64, now_us, probe};
use crate::traced::{LockType, Mode, Place, Traced};
use crate::word::LockWord;
use std::time::{Duration, Instant};

/// The lock without data: one byte, acquired by one compare-and-swap and released by one plain
/// store.
///
/// Most programs want [`Mutex`](crate::Mutex), which guards data with it. The methods of this
/// type are those of `lock_api`'s traits; they are inherent too, so that a lock of one's own can
/// be built on them.
///
/// Any thread may unlock. The lock is not reentrant: a thread that locks twice waits for ever.
#[cfg_attr(any(not(feature = "trace"), lockword_loom), repr(transparent))]
#[cfg_attr(all(feature = "trace", not(lockword_loom)), repr(C))]
pub struct RawLock {
    word: LockWord,
    traced: Traced,
}

impl RawLock {
    /// A free lock.
    #[cfg(not(lockword_loom))]
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        RawLock::of(LockType::Mutex)
    }

    crate::primitive::const_fn! {
        /// A free lock, of which a lock of this type is made.
        pub(crate) fn of(lock_type: LockType) -> Self {
            RawLock { word: LockWord::new(), traced: Traced::new(lock_type) }
        }
    }

    /// A free lock, in the model.
    #[cfg(lockword_loom)]
    pub(crate) fn new() -> Self {
        RawLock::of(LockType::Mutex)
    }

    /// The word.
    pub(super) fn word(&self) -> &LockWord {
        &self.word
    }

    /// What the lock tells of itself.
    #[allow(dead_code, reason = "only the instruments ask, and the Condvar")]
    pub(crate) fn traced(&self) -> &Traced {
        &self.traced
    }

    /// Acquires the lock, waiting as long as it takes.
    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    pub fn lock(&self) {
        self.lock_at(Place::caller());
    }

    /// The same, for who called at that place.
    #[inline]
    pub(super) fn lock_at(&self, place: Place) {
        let attempt = self.traced.attempt_at(Mode::Exclusive, true, place);
        if !self.word.try_acquire() {
            attempt.ongoing().waits(None);
            lock_slow(&self.word, None);
        }
        attempt.ended(true);
    }

    /// Acquires the lock if it is free. Returns whether it did; never waits.
    #[inline]
    #[must_use]
    #[cfg_attr(feature = "trace", track_caller)]
    pub fn try_lock(&self) -> bool {
        let attempt = self.traced.attempt(Mode::Exclusive, false);
        let acquired = self.word.try_acquire();
        attempt.ended(acquired);
        acquired
    }

    /// Acquires the lock unless `deadline` passes first. Returns whether it did. With a deadline
    /// in the past it tries and does not wait.
    #[inline]
    #[must_use]
    #[cfg_attr(feature = "trace", track_caller)]
    pub fn try_lock_until(&self, deadline: Instant) -> bool {
        self.lock_until(Place::caller(), || Some(deadline))
    }

    /// Acquires the lock if it is free, or waits until a deadline that is asked for then.
    #[inline]
    fn lock_until(&self, place: Place, deadline: impl FnOnce() -> Option<Instant>) -> bool {
        let attempt = self.traced.attempt_at(Mode::Exclusive, false, place);
        let acquired = self.word.try_acquire() || {
            let deadline = deadline();
            attempt.ongoing().waits(deadline);
            lock_slow(&self.word, deadline)
        };
        attempt.ended(acquired);
        acquired
    }

    /// Acquires the lock unless `timeout` passes first. Returns whether it did. A timeout of
    /// zero tries and does not wait; one that reaches beyond what [`Instant`] can name is none.
    #[inline]
    #[must_use]
    #[cfg_attr(feature = "trace", track_caller)]
    pub fn try_lock_for(&self, timeout: Duration) -> bool {
        self.lock_until(Place::caller(), || Instant::now().checked_add(timeout))
    }

    /// Whether somebody held the lock a moment ago.
    #[inline]
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.word.is_held()
    }

    /// Releases the lock. A waiter whose turn has come is handed it; else it is free, and a waiter is
    /// woken if there are any and none is awake.
    ///
    /// # Safety
    /// The lock is held, and nobody else releases it for this acquisition.
    #[inline]
    pub unsafe fn unlock(&self) {
        self.traced.releases(Mode::Exclusive);
        let addr = self.word.addr();
        if flags::may_have_waiters(addr) {
            return unlock_slow(&raw const self.word, addr, Word::Held);
        }
        self.word.release();
        barrier::light();
        if flags::may_have_waiters(addr) {
            unlock_slow(&raw const self.word, addr, Word::Released);
        }
    }

    /// Releases the lock fairly: the first waiter of the queue holds it when this returns, asleep or awake. If
    /// there is no waiter, the lock is free.
    ///
    /// A thread that spins before it enters the queue, or that is on its way to its first sleep, may not count
    /// as a waiter yet.
    ///
    /// # Safety
    /// As for [`unlock`](Self::unlock).
    #[inline]
    pub unsafe fn unlock_fair(&self) {
        if flags::may_have_waiters(self.word.addr()) {
            self.traced.releases(Mode::Exclusive);
            unlock_fair_slow(&self.word);
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.unlock() }
        }
    }

    /// Lets the waiters have the lock for a while: `unlock_fair` and `lock`, or nothing if
    /// nobody has waited near this lock lately.
    ///
    /// # Safety
    /// As for [`unlock`](Self::unlock); the lock is held again when this returns.
    #[inline]
    #[cfg_attr(feature = "trace", track_caller)]
    pub unsafe fn bump(&self) {
        if flags::may_have_waiters(self.word.addr()) {
            self.traced.releases(Mode::Exclusive);
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

/// Acquires the lock at `word`, or gives up at `deadline`. Returns whether it acquired it.
#[cold]
#[inline(never)]
fn lock_slow(word: &LockWord, deadline: Option<Instant>) -> bool {
    fork::settle();
    let bucket = waiters::bucket_of(word.addr());
    let mut designated = false;
    let acquired = spin(&bucket.spin, word.addr(), Budget::Newcomer, deadline, || {
        if !word.is_held() && word.try_acquire() {
            return true;
        }
        if !designated && bucket.may_have_waiters(word.addr()) {
            designated = bucket.handoff.try_claim(word.addr());
        }
        false
    });
    if acquired || deadline.is_some_and(primitive::is_past) {
        if designated {
            probe!(Designated);
            bucket.handoff.end();
            if !acquired {
                // ORDERING: SeqCst, between the end of the role and the last look at the word; the
                // partner is the fence of the unlocker, who may have relied on this thread.
                fence(Ordering::SeqCst);
                return word.try_acquire();
            }
        }
        return acquired;
    }
    fork::watch();
    let waiter = Waiter::new(word);
    bucket.lock().enqueue(&waiter);
    wait_in_queue(word, &waiter, designated, deadline)
}

/// Waits in the queue of the lock at `word`, in which `waiter` is, until it holds the lock, or gives up at
/// `deadline`. Returns whether it holds the lock; the waiter has left the queue. `designated` says
/// whether the caller is the designated waker.
fn wait_in_queue(
    word: &LockWord,
    waiter: &Waiter,
    mut designated: bool,
    deadline: Option<Instant>,
) -> bool {
    let bucket = waiters::bucket_of(word.addr());
    let flag = flags::flag(flags::index(word.addr()));
    let mut armed = None;
    loop {
        let mut locked = bucket.lock();
        let message = waiter.message();
        if message == Some(DESIGNATED) || core::mem::take(&mut designated) {
            bucket.handoff.end();
        }
        if message != Some(HANDOFF) {
            // A message to look at the word is taken: no other one comes before this bucket is free.
            waiter.state.store(AWAKE, Ordering::Relaxed);
        }
        if message == Some(HANDOFF) {
            return true;
        }
        // ORDERING: SeqCst, between the place in the queue, or the end of the role, and the looks at the
        // flag and at the word. The partners are the fences of the unlocker and of `maybe_disarm`.
        fence(Ordering::SeqCst);
        let sleep = match armed.take() {
            _ if flag.is_ready() => Sleep::Sound,
            Some(sleep) => sleep,
            None => {
                drop(locked);
                armed = Some(flag.arm());
                continue;
            }
        };
        // p3 of the proof in `flags`: a compare-exchange that fails has read HELD.
        let acquired = word.try_acquire();
        if acquired || deadline.is_some_and(primitive::is_past) {
            probe!(TimedOut, !acquired);
            locked.dequeue(waiter);
            return acquired;
        }
        waiter.state.store(ASLEEP, Ordering::Relaxed);
        locked.sleep_again(waiter);
        drop(locked);
        bucket.parked_us.store(now_us(), Ordering::Relaxed);

        if let Some(message) = waiter.sleep(sleep.until(deadline)) {
            probe!(Parked);
            if message == HANDOFF || spin_in_queue(word, waiter, &mut designated, deadline) {
                return true;
            }
        }
    }
}

/// Goes on as a waiter of the lock at `word` that another thread has put into its queue, and woken there.
/// Returns when it holds the lock.
pub(super) fn go_on_in_queue(word: &LockWord, waiter: &Waiter) {
    let mut designated = false;
    let _ = spin_in_queue(word, waiter, &mut designated, None)
        || wait_in_queue(word, waiter, designated, None);
}

/// Tries to get the lock at `word` for a waiter that was woken. Returns whether it holds the lock; then it
/// has left the queue. Else `designated` says whether it is the designated waker.
fn spin_in_queue(
    word: &LockWord,
    waiter: &Waiter,
    designated: &mut bool,
    deadline: Option<Instant>,
) -> bool {
    let bucket = waiters::bucket_of(word.addr());
    // ORDERING: Relaxed: these messages tell nothing but to look at the word. A message that is not there
    // any more has made room for HANDOFF.
    let take = |message| {
        waiter.state.compare_exchange(message, AWAKE, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    };
    *designated = take(DESIGNATED);
    take(RETRY);
    let mut handed = false;
    let acquired = spin(&bucket.spin, word.addr(), Budget::Woken, deadline, || {
        handed = waiter.message() == Some(HANDOFF);
        handed || !word.is_held() && word.try_acquire()
    });
    if acquired {
        if *designated {
            bucket.handoff.end();
        }
        if !handed {
            bucket.lock().dequeue(waiter);
        }
    }
    acquired
}

/// What the caller of [`unlock_slow`] has done to the word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    /// Nothing: the caller still holds the lock.
    Held,
    /// Freed it: the pointer may dangle.
    Released,
}

/// Unlocks where somebody may wait. `word` may be read only if it is [`Word::Held`].
///
/// Whatever else there is to do stands apart, and is called last, which saves this path a stack frame: a
/// lock that is contended now and then, or has a neighbour in its bucket, has an armed flag while nobody
/// waits, and where little is done between two acquisitions most unlocks find a waiter awake.
#[cold]
#[inline(never)]
fn unlock_slow(word: *const LockWord, addr: usize, state: Word) {
    fork::settle();
    let bucket = waiters::bucket_of(addr);
    if state == Word::Held {
        // SAFETY: the caller holds the lock, so the lock exists.
        let word = unsafe { &*word };
        if bucket.may_have_waiters(addr)
            && let Some(cause) = bucket.handoff.cause_to_look(addr)
        {
            return unlock_in_bucket(word, bucket, cause);
        }
        word.release();
    }
    // ORDERING: SeqCst, u4 of the proof in `flags`: between the release of the word and the looks at who
    // waits and who is designated. The partner is the fence of `wait_in_queue`.
    fence(Ordering::SeqCst);
    if bucket.may_have_waiters(addr) {
        if !bucket.handoff.is_designated(addr) {
            wake_first(addr, bucket);
        }
    } else if !bucket.has_waiters() && is_one_in_64() {
        disarm(addr, bucket);
    }
}

/// The holder of `word` looks into the bucket: hands the lock to the first waiter, or frees it and wakes
/// that waiter.
#[inline(never)]
fn unlock_in_bucket(word: &LockWord, bucket: &Bucket, cause: Cause) {
    let addr = word.addr();
    let mut locked = bucket.lock();
    let woken = match locked.first(addr, Kind::Exclusive) {
        // SAFETY: the first waiter.
        Some(first) if locked.is_due(first, cause) => unsafe { locked.hand_off(first) },
        first => {
            // Freed under the bucket's lock: who is not in the queue, or not asleep, looks at it later.
            // Until that lock is free, the first waiter proves that the word is alive.
            word.release();
            if cause == Cause::Turn {
                bucket.handoff.put_off(addr);
            }
            first.and_then(|first| locked.wake(first))
        }
    };
    locked.unlock_and_wake(woken);
}

/// The lock at `addr` was freed, and may not exist any more: wakes its first waiter, unless that is awake.
#[inline(never)]
fn wake_first(addr: usize, bucket: &Bucket) {
    let mut locked = bucket.lock();
    let Some(first) = locked.first(addr, Kind::Exclusive) else { return };
    // SAFETY: the waiter is in the queue, so its lock is alive.
    let word = unsafe { &*first.word };
    // ORDERING: Acquire inside: others may have held and released since our store. If it fails, the
    // unlock of whoever holds the lock now comes after this wake-up, or finds the waiter.
    let woken = if locked.is_due(first, Cause::Undesignated) && word.try_acquire() {
        // SAFETY: the first waiter.
        unsafe { locked.hand_off(first) }
    } else {
        locked.wake(first)
    };
    locked.unlock_and_wake(woken);
}

/// Nobody waits in the bucket: its flag need not be armed much longer.
#[inline(never)]
pub(super) fn disarm(addr: usize, bucket: &Bucket) {
    let parked_us = bucket.parked_us.load(Ordering::Relaxed);
    flags::flag(flags::index(addr)).maybe_disarm(parked_us, || bucket.has_waiters());
}

/// Hands the lock to its first waiter, or frees it.
#[cold]
#[inline(never)]
fn unlock_fair_slow(word: &LockWord) {
    fork::settle();
    let bucket = waiters::bucket_of(word.addr());
    let mut locked = bucket.lock();
    let first = locked.first(word.addr(), Kind::Exclusive);
    match first {
        Some(first) => {
            // SAFETY: the first waiter.
            let woken = unsafe { locked.hand_off(first) };
            locked.unlock_and_wake(woken);
        }
        None => {
            drop(locked);
            // Nobody waits. This way the flag can be disarmed.
            unlock_slow(&raw const *word, word.addr(), Word::Held);
        }
    }
}
