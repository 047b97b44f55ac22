//! The flags: a static table, read by every unlock, that says whether any thread may wait for a lock.
//!
//! A lock is one byte that says only whether it is held, and an unlock must not touch that byte after
//! the store that frees it: the next holder may free the memory. So the question "may anyone wait?"
//! is put to a static table, indexed by a hash of the lock's address. The 256 flags change seldom and
//! stay in the first-level cache. Two locks that share one cost each other the slow path of unlock,
//! never correctness.
//!
//! # Why no wake-up is lost
//!
//! Let U be an unlocker and P a parker of one lock. P must not sleep with nobody left to wake it, because U
//! missed P and P missed U's release.
//!
//! ```text
//! U: u1  word := FREE                      P: p1  set its bit in bucket.waiting (bucket locked)
//!    u2  light()                                  fence(SeqCst)
//!    u3  flag == 0?  return                   p2  flag READY?  if not:
//!    u4  fence(SeqCst)                               flag |= ARMED; heavy(); flag |= READY
//!    u5  lock not in bucket.waiting?  return  p3  word FREE?  take it
//!    u6  wake one (the bucket's lock)         p4  state := ASLEEP (bucket locked since p3); sleep
//! ```
//!
//! *U returned at u3.* It read a flag that P, or whoever armed it for P, had not armed yet. That
//! thread ran `heavy()` after arming; so the barrier that `heavy()` ran on U's processor fell after
//! u3, hence after u1, and u1 is visible to everyone who comes after that `heavy()`: to P itself, or
//! to a P that read READY, which was set (Release) after it and read with Acquire. P sees FREE at p3.
//!
//! *U returned at u5.* Both sides have passed a SeqCst fence between their store and their load, so
//! not both can miss the other's store: U read `waiting` without P, hence P reads u1 at p3.
//!
//! *U came to u6.* The bucket's lock orders it against p3 and p4. If p4 came first, U sees P asleep; else P
//! reads FREE at p3, later. U wakes the first waiter, which need not be P: the first waiter looks at the word,
//! and to its unlock, or to its next sleep, the argument applies again.
//!
//! *Other ways to unlock.* A holder that reads an armed flag before u1 may lock the bucket, and free the word or
//! hand the lock off there: then the bucket's lock orders u1 against p3, as at u6. If there is a designated
//! waker, U returns after u5: that proof is in [`handoff`](super::handoff).
//!
//! What P sees at p3 may be a *later* holder's HELD. Then that holder's release is the one to which
//! the argument applies. The same holds for a thread that parks another one (a Condvar that moves a
//! waiter to the queue of its mutex), except that it never arms: without READY it wakes instead.
//!
//! # Arming and disarming
//!
//! An armed flag costs every unlock under it a fence, so it is disarmed when nobody has parked there
//! for [`QUIET_US`]. A flag goes round like this, by compare-exchange of the whole word:
//!
//! ```text
//! 0, epoch e --arm--> ARMED, e+1 --(heavy)--> ARMED|READY, e+1 --d1--> ARMED, e+2 --d3--> 0, e+2
//! ```
//!
//! A parker between p1 and p4 must not have the flag cleared under it, and its place in the queue is in
//! another word. So a disarmer D clears READY first (d1), then looks at `waiting` (d2), and only if
//! it is 0 clears ARMED (d3); else it sets READY again. p1, p2 and d1, d2 are Dekker's protocol, with
//! a SeqCst fence within either pair: either D sees P at d2, or P sees at p2 that READY is gone. Then
//! P runs `heavy()` itself and then sets READY: either before d3, which then fails, or after it,
//! which makes that fail, and P starts over. The epoch keeps an old compare-exchange from
//! mistaking a later round for its own: every arming and every d1 moves it. It has 29 bits, and
//! disarming is limited to one flag in [`DISARM_EVERY_US`] for the whole process, which also bounds
//! how often `heavy()` disturbs the other processors.
//!
//! # Without the barrier
//!
//! Where the kernel refuses `heavy()`, or the program has chosen fences, every flag is PERMANENT, and
//! each unlock takes the fenced path u4 to u6. The proof needs only the fences then. One thing is left:
//! an unlocker that read 0 at u3 just before PERMANENT was set, and whose u1 is still in its store
//! buffer when P looks at p3. A store buffer drains by itself in far less than a millisecond. So who
//! parks within [`SETTLE_US`] of that moment sleeps until it is over, looks once more, and then sleeps
//! as long as it takes.

use super::barrier::{self, Heavy};
use crate::primitive::{AtomicU32, Ordering, fence, has_passed, now_us, probe};
use std::time::{Duration, Instant};

/// log2 of the number of flags, and of buckets of the waiter table.
pub(super) const BITS: u32 = if cfg!(lockword_loom) { 1 } else { 8 };

/// Unlocks under this flag must look at the bucket. Set by parkers, cleared by an unlocker.
const ARMED: u32 = 1;
/// A `heavy()` has been run since ARMED was set: every thread knows of ARMED. Set by parkers after
/// their `heavy()`, cleared by an unlocker that wants to disarm, who sets it again if it cannot.
const READY: u32 = 2;
/// There is no `heavy()`: unlocks take the fenced path for ever. Never cleared.
const PERMANENT: u32 = 4;
/// All bits but those of the epoch.
const BITS_OF_STATE: u32 = ARMED | READY | PERMANENT;
/// One step of the epoch.
const EPOCH: u32 = 8;

/// How long nobody must have parked under a flag before it is disarmed, in microseconds.
const QUIET_US: u32 = 50_000;
/// The least time between two disarmings in the process, in microseconds. Each leads to a `heavy()`.
const DISARM_EVERY_US: u32 = 500;
/// In place of a time: the flags are becoming PERMANENT.
const UNFINISHED: u32 = 2;
/// How long the stores of others may stay unseen without a `heavy()`, in microseconds: assumed, and
/// a thousand times what a store buffer takes.
pub(super) const SETTLE_US: u32 = 10_000;

/// The table, on cache lines that it shares with nothing else.
#[repr(align(128))]
struct Flags([Flag; 1 << BITS]);

/// The state and the epoch of one flag. See the head of this file.
#[repr(transparent)]
pub(super) struct Flag(AtomicU32);

#[cfg(not(lockword_loom))]
static FLAGS: Flags = Flags([const { Flag(AtomicU32::new(0)) }; 1 << BITS]);
/// When all flags had become PERMANENT, an odd number; 0 when that is long ago, or not so.
#[cfg(not(lockword_loom))]
static PERMANENT_US: AtomicU32 = AtomicU32::new(0);
/// When a flag was last disarmed.
#[cfg(not(lockword_loom))]
static DISARMED_US: AtomicU32 = AtomicU32::new(0);

#[cfg(lockword_loom)]
crate::primitive::lazy_static! {
    static ref FLAGS: Flags = Flags(core::array::from_fn(|_| Flag(AtomicU32::new(0))));
    static ref PERMANENT_US: AtomicU32 = AtomicU32::new(0);
    static ref DISARMED_US: AtomicU32 = AtomicU32::new(0);
}

/// How long a parker may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(super) enum Sleep {
    /// Until it is woken.
    Sound,
    /// Not longer than so many microseconds. Then it looks at the word again.
    Nap(u32),
}

impl Sleep {
    /// When to look again at the latest, by a thread that waits until `deadline`.
    pub(super) fn until(self, deadline: Option<Instant>) -> Option<Instant> {
        match self {
            Sleep::Sound => deadline,
            Sleep::Nap(us) => {
                let nap = Instant::now() + Duration::from_micros(u64::from(us));
                Some(deadline.map_or(nap, |deadline| deadline.min(nap)))
            }
        }
    }
}

/// The hash of an address: Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3,
/// section 6.4). The high bits of the product with 2^N / golden ratio are well mixed.
#[inline(always)]
pub(super) fn hash(addr: usize) -> usize {
    #[cfg(target_pointer_width = "64")]
    const GOLDEN: usize = 0x9E37_79B9_7F4A_7C15;
    #[cfg(target_pointer_width = "32")]
    const GOLDEN: usize = 0x9E37_79B9;
    addr.wrapping_mul(GOLDEN)
}

/// The number of the flag, and of the bucket, of an address.
#[inline(always)]
pub(super) fn index(addr: usize) -> usize {
    #[cfg(lockword_loom)]
    return crate::primitive::model_settings::bucket_of(addr);
    #[cfg(not(lockword_loom))]
    return hash(addr) >> (usize::BITS - BITS);
}

/// Whether anybody may wait for the lock at `addr`: u3 of the proof.
#[inline(always)]
pub(crate) fn may_have_waiters(addr: usize) -> bool {
    // ORDERING: Relaxed; `light()` before it and the parker's `heavy()` order it.
    FLAGS.0[index(addr)].0.load(Ordering::Relaxed) & BITS_OF_STATE != 0
}

/// Whether the flags are PERMANENT, or are becoming so.
pub(super) fn is_permanent() -> bool {
    FLAGS.0[0].0.load(Ordering::Relaxed) & PERMANENT != 0
}

/// Makes the statics of an execution.
#[cfg(all(test, lockword_loom))]
pub(super) fn begin() {
    let _ = (PERMANENT_US.load(Ordering::Relaxed), DISARMED_US.load(Ordering::Relaxed));
}

/// The flag of bucket `index`.
pub(super) fn flag(index: usize) -> &'static Flag {
    &FLAGS.0[index]
}

/// There is no `heavy()`, or there is to be none: every flag says so, and no disarming clears it.
#[cold]
pub(crate) fn go_permanent() {
    // The time counts from when the last flag says so, and until then nobody sleeps soundly.
    PERMANENT_US.store(UNFINISHED, Ordering::Relaxed);
    for flag in &FLAGS.0 {
        // ORDERING: Release: who sees PERMANENT sees that it is unfinished, or later.
        flag.0.fetch_or(ARMED | PERMANENT, Ordering::Release);
    }
    PERMANENT_US.store(now_us() | 1, Ordering::Relaxed);
}

/// In the child of a `fork`: the thread that was at it may not be there to finish it.
#[cfg(not(lockword_loom))]
#[allow(dead_code, reason = "there is no fork on some platforms")]
pub(super) fn reset() {
    if PERMANENT_US.load(Ordering::Relaxed) == UNFINISHED {
        go_permanent();
    }
}

impl Flag {
    /// p2 without arming: whether every unlocker knows of the armed flag, so that a waiter may sleep until it is
    /// woken. The caller has passed a SeqCst fence since p1.
    pub(super) fn is_ready(&self) -> bool {
        // ORDERING: as in `arm`.
        let seen = self.0.load(Ordering::Acquire);
        seen & READY != 0 || seen & PERMANENT != 0 && nap_us() == 0
    }

    /// p2: ends with the flag ARMED and every unlocker aware of it. The caller has passed a SeqCst
    /// fence since p1. Not under a bucket's lock, since `heavy()` takes its time.
    pub(super) fn arm(&self) -> Sleep {
        loop {
            // ORDERING: Acquire pairs with the Release in `swap` by whoever set READY after its
            // `heavy()`, and with `go_permanent`. (Every change of the flag is a read-modify-write,
            // so that one that comes between does not break the chain.)
            let seen = self.0.load(Ordering::Acquire);
            if seen & PERMANENT != 0 {
                return match nap_us() {
                    0 => Sleep::Sound,
                    left_us => Sleep::Nap(left_us),
                };
            }
            if seen & READY != 0 {
                return Sleep::Sound;
            }
            let Some(armed) = self.set_armed(seen) else { continue };
            if barrier::heavy() == Heavy::Refused {
                go_permanent();
            } else if self.set_ready(armed) {
                return Sleep::Sound;
            }
        }
    }

    /// Goes back to 0, d1 to d3, unless `anyone_waits` in between. `parked_us` is when somebody last
    /// parked here.
    #[cold]
    pub(super) fn maybe_disarm(&self, parked_us: u32, anyone_waits: impl FnOnce() -> bool) {
        let seen = self.0.load(Ordering::Relaxed);
        if seen & BITS_OF_STATE != ARMED | READY || !has_passed(parked_us, QUIET_US) {
            return;
        }
        let last_us = DISARMED_US.load(Ordering::Relaxed);
        let is_mine = || {
            let (relaxed, now_us) = (Ordering::Relaxed, now_us());
            DISARMED_US.compare_exchange(last_us, now_us, relaxed, relaxed).is_ok()
        };
        if !has_passed(last_us, DISARM_EVERY_US) || !is_mine() {
            return;
        }
        let Some(unready) = self.clear_ready(seen) else { return };
        // ORDERING: SeqCst, between d1 and d2; the partner is the fence of p1.
        fence(Ordering::SeqCst);
        let to = if anyone_waits() {
            probe!(Rearmed);
            unready | READY
        } else {
            probe!(Disarmed);
            unready & !ARMED
        };
        // If it fails, a parker has set READY again, and the flag stays as it is.
        self.swap(unready, to);
    }

    /// Sets ARMED, if it is not set. Returns the word with it.
    fn set_armed(&self, seen: u32) -> Option<u32> {
        let armed = if seen & ARMED != 0 { seen } else { seen.wrapping_add(EPOCH) | ARMED };
        (armed == seen || self.swap(seen, armed)).then_some(armed)
    }

    /// Sets READY after a `heavy()`, if nothing has happened to the word since `armed`.
    fn set_ready(&self, armed: u32) -> bool {
        self.swap(armed, armed | READY)
    }

    /// d1: clears READY. Returns the word without it.
    fn clear_ready(&self, seen: u32) -> Option<u32> {
        let unready = (seen & !READY).wrapping_add(EPOCH);
        self.swap(seen, unready).then_some(unready)
    }

    /// One step of the round; fails if the flag has moved on.
    fn swap(&self, from: u32, to: u32) -> bool {
        // ORDERING: Release pairs with the Acquire in `arm`; only setting READY needs it.
        self.0.compare_exchange(from, to, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// For the message of a test that hangs.
    #[cfg(not(lockword_loom))]
    pub(super) fn describe(&self) -> String {
        let seen = self.0.load(Ordering::Relaxed);
        format!("flag {:#05b} (epoch {})", seen & BITS_OF_STATE, seen / EPOCH)
    }
}

/// How long a parker may sleep before it looks again, in microseconds: SETTLE_US while the flags became
/// PERMANENT less than that ago, else 0, which is no limit.
fn nap_us() -> u32 {
    #[cfg(lockword_loom)]
    return if crate::primitive::model_time::is_settled() { 0 } else { SETTLE_US };
    #[cfg(not(lockword_loom))]
    nap_us_by_clock()
}

#[cfg(not(lockword_loom))]
fn nap_us_by_clock() -> u32 {
    let since_us = PERMANENT_US.load(Ordering::Relaxed);
    if since_us == 0 || since_us != UNFINISHED && has_passed(since_us.wrapping_sub(1), SETTLE_US) {
        // The 0 stays, so that the clock, which goes round, is not read again. (`- 1` undoes the `| 1`, which
        // may lie ahead of the clock.)
        PERMANENT_US.store(0, Ordering::Relaxed);
        return 0;
    }
    SETTLE_US
}

#[cfg(all(test, lockword_loom))]
#[path = "models/late_steps.rs"]
mod late_steps;
