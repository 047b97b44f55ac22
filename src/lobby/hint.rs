//! [`Hint`]: whether anybody waits in a bucket, as every unlock reads it.
//!
//! # Arming and disarming
//!
//! An armed bucket costs every unlock in it a fence, so it goes quiet again when nobody has
//! parked in it for some time (`QUIET_US` in `lobby.rs`), which also bounds how often `heavy()`
//! disturbs the other processors. The hint goes round like this, by compare-exchange of the whole
//! word:
//!
//! ```text
//! quiet, epoch e --arm--> ARMED, e+1 --(heavy)--> ARMED|READY, e+1 --d1--> ARMED, e+2 --d3--> quiet, e+2
//! ```
//!
//! A parker between p1 and p4 (see `lobby.rs`) must not have the hint cleared under it, and its
//! count is in another word. So a disarmer D clears READY first (d1), then looks at the count of
//! waiters (d2), and only if it reads 0 clears ARMED (d3); else it sets READY again. p1, p2 and
//! d1, d2 are Dekker's protocol, with a SeqCst fence within either pair: either D sees P's count
//! at d2, or P sees at p2 that READY is gone. Then P runs `heavy()` itself and then announces
//! READY: either before d3, which then fails, or after it, which makes the announcement fail, and
//! P starts over. The epoch keeps an old compare-exchange from mistaking a later round for its
//! own: every arming and every d1 moves it. It has 29 bits, and a bucket goes round at most once
//! in that time.

use super::Sleep;
use crate::barrier::{self, Heavy};
use crate::primitive::{AtomicU32, Ordering, Place, fence, reach};

/// Unlocks in this bucket must look at the bucket. Set by parkers, cleared by an unlocker.
const ARMED: u32 = 1;
/// A `heavy()` has been run since ARMED was set: every thread knows of ARMED. Set by parkers
/// after their `heavy()`, cleared by an unlocker that wants to disarm, who sets it again if it
/// cannot.
const READY: u32 = 2;
/// The kernel has refused `heavy()`: unlocks take the fenced path for ever. Never cleared.
const PERMANENT: u32 = 4;
/// All flags; the rest of the word is the epoch.
const FLAGS: u32 = ARMED | READY | PERMANENT;
/// One step of the epoch.
const EPOCH: u32 = 8;

/// The kernel runs no barrier on other threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refused;

/// The flags and the epoch. See the head of this file.
#[repr(transparent)]
pub(super) struct Hint(AtomicU32);

impl Hint {
    #[cfg(not(lockword_loom))]
    pub(super) const fn new() -> Self {
        Hint(AtomicU32::new(0))
    }

    #[cfg(lockword_loom)]
    pub(super) fn new() -> Self {
        Hint(AtomicU32::new(0))
    }

    /// Whether an unlock may end here: u3 of the proof.
    #[inline(always)]
    pub(super) fn is_quiet(&self) -> bool {
        // ORDERING: Relaxed; `light()` before it and the parker's `heavy()` order it.
        self.0.load(Ordering::Relaxed) & FLAGS == 0
    }

    /// p2: ends with the hint ARMED and every unlocker aware of it. The caller has passed a SeqCst
    /// fence since it was counted.
    pub(super) fn arm(&self) -> Result<Sleep, Refused> {
        loop {
            // ORDERING: Acquire pairs with the Release in `swap` by whoever set READY after its
            // `heavy()`. (Every change of the hint is a read-modify-write, so that one that comes
            // between does not break the chain.)
            let seen = self.0.load(Ordering::Acquire);
            if seen & PERMANENT != 0 {
                return Ok(Sleep::Nap);
            }
            if seen & READY != 0 {
                return Ok(Sleep::Sound);
            }
            let Some(armed) = self.raise(seen) else { continue };
            if barrier::heavy() == Heavy::Refused {
                return Err(Refused);
            }
            if self.announce(armed) {
                return Ok(Sleep::Sound);
            }
        }
    }

    /// d1 to d3: goes quiet, unless `anyone_waits` in between.
    pub(super) fn disarm(&self, anyone_waits: impl FnOnce() -> bool) {
        let seen = self.0.load(Ordering::Relaxed);
        if seen & FLAGS != ARMED | READY {
            return;
        }
        let Some(unready) = self.withdraw(seen) else { return };
        // ORDERING: SeqCst, between d1 and d2; the partner is the fence in `lobby::enter`.
        fence(Ordering::SeqCst);
        let to = if anyone_waits() {
            reach(Place::Rearmed);
            unready | READY
        } else {
            reach(Place::Disarmed);
            unready & !ARMED
        };
        // If it fails, a parker has set READY again, and the bucket stays as it is.
        self.swap(unready, to);
    }

    /// For ever: unlocks look at the bucket.
    pub(super) fn go_permanent(&self) {
        // ORDERING: Relaxed: who misses it asks the kernel himself, and learns it then.
        self.0.fetch_or(ARMED | PERMANENT, Ordering::Relaxed);
    }

    /// Sets ARMED, if it is not set. Returns the word with it.
    fn raise(&self, seen: u32) -> Option<u32> {
        let armed = if seen & ARMED != 0 { seen } else { seen.wrapping_add(EPOCH) | ARMED };
        (armed == seen || self.swap(seen, armed)).then_some(armed)
    }

    /// Sets READY after a `heavy()`, if nothing has happened to the word since `armed`.
    fn announce(&self, armed: u32) -> bool {
        self.swap(armed, armed | READY)
    }

    /// d1: clears READY. Returns the word without it.
    fn withdraw(&self, seen: u32) -> Option<u32> {
        let unready = (seen & !READY).wrapping_add(EPOCH);
        self.swap(seen, unready).then_some(unready)
    }

    /// One step of the round; fails if the hint has moved on.
    fn swap(&self, from: u32, to: u32) -> bool {
        // ORDERING: Release pairs with the Acquire in `arm`; only setting READY needs it.
        self.0.compare_exchange(from, to, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// For the message of a test that hangs.
    #[cfg(not(lockword_loom))]
    pub(super) fn describe(&self) -> String {
        let seen = self.0.load(Ordering::Relaxed);
        format!("hint {:#05b} (epoch {})", seen & FLAGS, seen / EPOCH)
    }
}

#[cfg(all(test, lockword_loom))]
#[path = "../models/late_steps.rs"]
mod late_steps;
