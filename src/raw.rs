//! [`RawLock`] tries, spins, then parks; its unlock releases the word and wakes a waiter if there is
//! one. This page tells how waiting works as a whole; each part has the details and the proofs in its
//! own file.
//!
//! # The word
//!
//! The word has two states, and three things can happen to it:
//!
//! | state | event | next | by |
//! |---|---|---|---|
//! | 0, free | compare-and-swap (Acquire) | 1 | a thread for itself, or a waker for a parked waiter |
//! | 1, held | plain store (Release) | 0 | the holder |
//! | 1, held | handoff | 1 | the holder: the word stays as it is, another thread is the holder |
//!
//! # The paths
//!
//! | path | steps |
//! |---|---|
//! | lock, free | one compare-and-swap |
//! | lock, held | spin for some microseconds ([`spin`](crate::spin)), then park ([`park`](crate::park)), and again |
//! | unlock, bucket quiet | load the hint; store 0; load the hint again |
//! | unlock, bucket armed | hand the lock off if a waiter is due; else store 0, fence, and wake one waiter unless there is a designated waker |
//!
//! The *hint* says whether anyone may wait. It is in the waiter table ([`lobby`]): 256
//! buckets, found by a hash of the lock's address. A hint changes seldom: a thread that parks arms it,
//! and an unlock disarms it when nobody has parked there for 50 ms.
//!
//! The unlock reads the hint *before* the store, since while it holds the lock it can still hand it
//! off, with no moment at which the word is free and a third thread could take it. It reads the hint
//! again *after* the store, so that no wake-up is lost: the proof is in [`lobby`]. It needs a full
//! barrier between the store and the load on both sides, and the asymmetric barrier ([`barrier`]) lets
//! the parking thread pay for both.
//!
//! After the store that frees it the word is not touched again: from there on the lock is only an
//! address, and its memory may have been freed. A waiter is found by that address alone.
//!
//! # Waiting
//!
//! A thread that finds the word held spins for up to 10 us (3 us if another waiter is awake already;
//! not at all on one processor), then parks, and tries again when it is woken.
//!
//! An awake waiter that will try the lock after the next unlock is the *designated waker*. This role is
//! called the *duty* in the code ([`duty`](crate::duty)): each bucket has a slot for one lock and the
//! thread that has the duty for it. An unlock wakes at most one waiter, and none while the duty for its
//! lock is taken. A running thread may take the lock before a woken one does, which makes short
//! sections fast. These rules bound for how long a waiter is passed over:
//!
//! - A woken waiter that finds the lock held for 15 us (60 us where that has lately been long
//!   enough) parks again as a *starving waiter* ([`queue`](crate::queue)). An unlock that would wake
//!   somebody then takes the lock for the starving waiter that has waited longest, and hands it off.
//!   Nobody can use the lock until that thread has woken, so this is done at most once in 150 us for
//!   a lock (more often where two contended locks share a bucket, and on targets without 64-bit
//!   atomics). In between, others are woken.
//! - If the first unlock after a wake-up comes more than 40 us after it, and the woken waiter still has
//!   no lock, that unlock hands the lock to it, awake as it is.
//! - Spinning threads may keep the role of the designated waker among themselves for 500 us while
//!   others are parked. Then one is let in from the queue.
//! - One unlock in 64 checks whether a woken waiter has not run for 60 us. If so, it wakes one more:
//!   the scheduler may have put the first behind its waker while another processor is idle.
//!
//! Where threads come back to a lock sooner than its cache line can travel to another core, taking
//! turns is slower than letting one thread run alone for a moment: see the section on bursts in
//! [`spin`](crate::spin).
//!
//! # Who looks after a free word with waiters
//!
//! At every moment one of these: an unlocker between its store and its wake-up; a waiter that it has
//! woken, or the designated waker; or the next holder, whose unlock is yet to come. loom checks
//! that (`src/models`).
//!
//! # Sources
//!
//! - The asymmetric fence: [P1202], membarrier(2), FlushProcessWriteBuffers (see [`barrier`]).
//! - The hash: Fibonacci hashing, Knuth, *The Art of Computer Programming*, volume 3, section 6.4.
//! - Waiters outside the lock: [Locking in WebKit], and `parking_lot`, which brought it to Rust.
//! - One awake waiter for a lock: [nsync], Abseil, and Go's `sync.Mutex`, which also hands the lock to
//!   a starving waiter.
//!
//! [P1202]: https://www.open-std.org/jtc1/sc22/wg21/docs/papers/2023/p1202r5.pdf
//! [Locking in WebKit]: https://webkit.org/blog/6161/locking-in-webkit/
//! [nsync]: https://github.com/google/nsync

mod lock;
mod unlock;

use crate::barrier;
use crate::lobby;
use crate::word::LockWord;
use lock::lock_slow;
use std::time::{Duration, Instant};
use unlock::{Word, unlock_fair_slow, unlock_slow};

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
