//! The slow paths of an unlock: hand the lock off, or free it and wake a waiter.

use crate::fork;
use crate::lobby::{self, Bucket};
use crate::queue::{self, Heirs};
use crate::word::LockWord;

/// What the caller of [`unlock_slow`] has done to the word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// Nothing: the caller still holds the lock.
    Held,
    /// Freed it: the pointer may dangle.
    Released,
}

/// Unlocks where somebody may wait.
///
/// `word` may be read only if it is [`Word::Held`].
///
/// Whatever else there is to do stands apart, and is called last, which saves this path a stack
/// frame: the bucket of a lock that is contended now and then stays armed while nobody waits, and
/// where little is done between two acquisitions most unlocks find a waiter awake already.
#[cold]
#[inline(never)]
pub(super) fn unlock_slow(word: *const LockWord, addr: usize, state: Word) {
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
    after_release(addr, bucket);
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
    after_release(addr, lobby::bucket(addr));
}

/// The lock at `addr` was freed, and may not exist any more: wakes a waiter if there are any,
/// unless one is awake.
#[inline(always)]
fn after_release(addr: usize, bucket: &Bucket) {
    if !bucket.anyone_waits() {
        bucket.settle_down(addr);
    } else if bucket.duty.is_taken(addr) {
        oversee(addr, bucket);
    } else {
        queue::wake_one(addr, bucket);
    }
}

/// Wakes a waiter of the lock at `addr` if the one that is awake does not get on.
#[inline(never)]
fn oversee(addr: usize, bucket: &Bucket) {
    if bucket.is_turn_overdue(addr) {
        queue::wake_one(addr, bucket);
    }
}

/// Hands the lock over to whoever waits, or frees it.
#[cold]
#[inline(never)]
pub(super) fn unlock_fair_slow(word: &LockWord) {
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
