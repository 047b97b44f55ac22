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
//! it over, with no moment at which the word is free and a third thread could slip in. The read
//! *after* the store is the one that no wake-up is lost for; its proof is in
//! [`lobby`](crate::lobby).
//!
//! After the store that frees it the word is not touched again: from there on the lock is only
//! an address, and the memory may already be somebody else's.
//!
//! # Who looks after a free word with waiters
//!
//! At every moment one of these: an unlocker between its store and its wake-up; a waiter that it
//! has woken, or that has the [duty](crate::duty) anyway; or the next holder, whose unlock comes. loom checks that
//! (`src/models`).

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
