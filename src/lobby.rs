//! The lobby: a static table that says whether anyone waits near an address.
//!
//! # Idea
//!
//! A lock is one byte that says only whether it is held, and an unlock must not touch that byte
//! after the store that frees it: the next holder may free the memory. So the question "does
//! anyone wait?" is put to a static table, indexed by a hash of the lock's address. A bucket
//! has two parts, in two arrays:
//!
//! - the **hint**, which every unlock reads and which changes seldom. Sixteen of them share a
//!   cache line, and the 256 of them stay in the first-level cache;
//! - the [`Bucket`], on cache lines of its own, with the counts that change at every park.
//!
//! Two locks in one bucket cost each other the slow path of unlock, never correctness.
//!
//! # Why no wake-up is lost
//!
//! Let U be an unlocker and P a parker of one lock. What must not happen: P sleeps with nobody
//! left to wake it, because U missed P and P missed U's release.
//!
//! ```text
//! U: u1  word := FREE                      P: p1  waiters += 1
//!    u2  light()                                  fence(SeqCst)
//!    u3  hint == 0?  return                   p2  hint READY?  if not:
//!    u4  fence(SeqCst)                               hint |= ARMED; heavy(); hint |= READY
//!    u5  waiters == 0?  return                p3  word FREE?  take it
//!    u6  wake one                             p4  sleep (p3, p4 under the queue's lock)
//! ```
//!
//! *U returned at u3.* It read a hint that P, or whoever armed the bucket for P, had not armed
//! yet. That thread ran `heavy()` after arming; so the barrier that `heavy()` ran on U's
//! processor fell after u3, hence after u1, and u1 is visible to everyone who comes after that
//! `heavy()`: to P itself, or to a P that read READY, which was set (Release) after it and read
//! with Acquire. P sees FREE at p3.
//!
//! *U returned at u5.* Both sides have passed a SeqCst fence between their store and their load,
//! so not both can miss the other's store: U read `waiters` without P, hence P reads u1 at p3.
//!
//! *U came to u6.* The queue's lock orders it against p3 and p4: P either sees FREE or is in
//! the queue when U looks.
//!
//! What P sees at p3 may be a *later* holder's HELD. Then that holder's release is the one to
//! which the argument applies.
//!
//! # Arming and disarming
//!
//! An armed bucket costs every unlock in it a fence, so it goes quiet again when nobody has
//! parked in it for [`QUIET_US`], which also bounds how often `heavy()` disturbs the other
//! processors. The hint goes round like this, by compare-exchange of the whole word:
//!
//! ```text
//! quiet, epoch e --arm--> ARMED, e+1 --(heavy)--> ARMED|READY, e+1 --d1--> ARMED, e+2 --d3--> quiet, e+2
//! ```
//!
//! A parker between p1 and p4 must not have the hint cleared under it, and its count is in
//! another word. So a disarmer D clears READY first (d1), then looks at `waiters` (d2), and
//! only if it reads 0 clears ARMED (d3). p1, p2 and d1, d2 are Dekker's protocol again, with
//! a SeqCst fence within either pair: either D sees P's count at d2, or P sees at p2 that READY
//! is gone. Then P runs
//! `heavy()` itself and then announces READY: either before d3, which then fails, or after it,
//! which makes the announcement fail, and P starts over. The epoch keeps an old
//! compare-exchange from mistaking a later round for its own: every arming and every d1 moves
//! it. It has 29 bits, and a bucket goes round at most once in [`QUIET_US`].

use crate::barrier::{self, Heavy};
use crate::duty::Duty;
use crate::fork;
use crate::primitive::{AtomicU32, Ordering, Place, fence, now_us, reach};
use crate::spin::Pace;
use crossbeam_utils::CachePadded;

/// Unlocks in this bucket must look at the bucket. Set by parkers, cleared by an unlocker.
const ARMED: u32 = 1;
/// A `heavy()` has been run since ARMED was set: every thread knows of ARMED. Set by parkers
/// after their `heavy()`, cleared by an unlocker that wants to disarm.
const READY: u32 = 2;
/// The kernel has refused `heavy()`: unlocks take the fenced path for ever. Never cleared.
const PERMANENT: u32 = 4;
/// All flags; the rest of the word is the epoch.
const FLAGS: u32 = ARMED | READY | PERMANENT;
/// One step of the epoch.
const EPOCH: u32 = 8;

/// How long nobody must have parked in a bucket before it is disarmed.
const QUIET_US: u32 = 50_000;

/// log2 of the number of buckets.
#[cfg(not(lockword_loom))]
const BITS: u32 = 8;
/// The models put every lock into one bucket.
#[cfg(lockword_loom)]
const BITS: u32 = 0;

/// The table. Hints and buckets are apart on purpose: see the head of this file.
struct Lobby {
    hints: Hints,
    buckets: [CachePadded<Bucket>; 1 << BITS],
}

/// The array that every unlock reads, on lines that it shares with nothing else.
#[repr(align(128))]
struct Hints([AtomicU32; 1 << BITS]);

/// What the waiters near one address have in common.
pub(crate) struct Bucket {
    /// Threads that are parked or about to park. Raised by themselves; lowered, under the
    /// queue's lock, by whoever takes them out of the queue.
    waiters: AtomicU32,
    /// How many of the waiters are heirs (see `queue.rs`). Changed under the queue's lock, but by
    /// an heir whom a stranger has woken.
    heirs: AtomicU32,
    /// When somebody last parked here ([`now_us`]).
    parked_us: AtomicU32,
    /// Who is awake and looks after the lock.
    pub(crate) duty: Duty,
    /// Whether short sections are best run in bursts here.
    pub(crate) pace: Pace,
}

#[cfg(not(lockword_loom))]
static LOBBY: Lobby = Lobby {
    hints: Hints([const { AtomicU32::new(0) }; 1 << BITS]),
    buckets: [const { CachePadded::new(Bucket::new()) }; 1 << BITS],
};

#[cfg(lockword_loom)]
crate::primitive::lazy_static! {
    static ref LOBBY: Lobby = Lobby {
        hints: Hints([AtomicU32::new(0)]),
        buckets: [CachePadded::new(Bucket::new())],
    };
}

/// The bucket of an address: Fibonacci hashing (Knuth, The Art of Computer Programming,
/// volume 3, section 6.4), the high bits of the product with 2^N / golden ratio.
#[inline(always)]
pub(crate) fn index(addr: usize) -> usize {
    #[cfg(target_pointer_width = "64")]
    const GOLDEN: usize = 0x9E37_79B9_7F4A_7C15;
    #[cfg(target_pointer_width = "32")]
    const GOLDEN: usize = 0x9E37_79B9;
    if BITS == 0 { 0 } else { addr.wrapping_mul(GOLDEN) >> (usize::BITS - BITS) }
}

/// Whether an unlock of a lock at `addr` may end here: u3 of the proof.
#[inline(always)]
pub(crate) fn is_quiet(addr: usize) -> bool {
    // ORDERING: Relaxed; `light()` before it and the parker's `heavy()` order it.
    LOBBY.hints.0[index(addr)].load(Ordering::Relaxed) & FLAGS == 0
}

/// The bucket of the lock at `addr`.
pub(crate) fn bucket(addr: usize) -> &'static Bucket {
    &LOBBY.buckets[index(addr)]
}

/// How long a parker may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Sleep {
    /// Until it is woken.
    Sound,
    /// A few milliseconds at a time: an unlocker's store may still be on its way, and without
    /// `heavy()` nothing fetches it.
    Nap,
}

/// p1 and p2 of the proof: announces a parker on `addr`, and makes every unlock see it. What
/// the parker reads of the word afterwards is final.
pub(crate) fn enter(addr: usize) -> Sleep {
    // Before anything is left behind that a child of `fork` must forget.
    fork::watch();
    let bucket = bucket(addr);
    bucket.parked_us.store(now_us(), Ordering::Relaxed);
    if bucket.waiters.fetch_add(1, Ordering::Relaxed) == 0 {
        bucket.duty.begin_turns();
    }
    // ORDERING: SeqCst, between the count and two loads: the hint's, whose partner is the fence
    // of `disarm`, and the word's, whose partner is the fence of `anyone_waits`.
    fence(Ordering::SeqCst);
    arm(&LOBBY.hints.0[index(addr)])
}

/// p2: ends with the hint ARMED and every unlocker aware of it.
fn arm(hint: &AtomicU32) -> Sleep {
    loop {
        // ORDERING: Acquire pairs with the Release in `swap` by whoever set READY after its
        // `heavy()`. (Every change of the hint is a read-modify-write, so that one that comes
        // between does not break the chain.)
        let seen = hint.load(Ordering::Acquire);
        if seen & PERMANENT != 0 {
            return Sleep::Nap;
        }
        if seen & READY != 0 {
            return Sleep::Sound;
        }
        let Some(armed) = raise(hint, seen) else { continue };
        if barrier::heavy() == Heavy::Refused {
            go_permanent();
        } else if announce(hint, armed) {
            return Sleep::Sound;
        }
    }
}

/// Sets ARMED, if it is not set. Returns the word with it.
fn raise(hint: &AtomicU32, seen: u32) -> Option<u32> {
    let armed = if seen & ARMED != 0 { seen } else { seen.wrapping_add(EPOCH) | ARMED };
    (armed == seen || swap(hint, seen, armed)).then_some(armed)
}

/// Sets READY after a `heavy()`, if nothing has happened to the word since `armed`.
fn announce(hint: &AtomicU32, armed: u32) -> bool {
    swap(hint, armed, armed | READY)
}

/// d1: clears READY. Returns the word without it.
fn withdraw(hint: &AtomicU32, seen: u32) -> Option<u32> {
    let unready = (seen & !READY).wrapping_add(EPOCH);
    swap(hint, seen, unready).then_some(unready)
}

/// One step of the hint's round; fails if the hint has moved on.
fn swap(hint: &AtomicU32, from: u32, to: u32) -> bool {
    // ORDERING: Release pairs with the Acquire in `arm`; only setting READY needs it.
    hint.compare_exchange(from, to, Ordering::Release, Ordering::Relaxed).is_ok()
}

/// The kernel refuses `heavy()`, for whatever reason, from whatever moment on: every hint says
/// so, and no disarming clears it.
#[cold]
fn go_permanent() {
    for hint in &LOBBY.hints.0 {
        // ORDERING: Relaxed: who misses it asks the kernel himself, and learns it then.
        hint.fetch_or(ARMED | PERMANENT, Ordering::Relaxed);
    }
}

impl Bucket {
    #[cfg(not(lockword_loom))]
    const fn new() -> Self {
        Bucket {
            waiters: AtomicU32::new(0),
            heirs: AtomicU32::new(0),
            parked_us: AtomicU32::new(0),
            duty: Duty::new(),
            pace: Pace::new(),
        }
    }

    #[cfg(lockword_loom)]
    fn new() -> Self {
        Bucket {
            waiters: AtomicU32::new(0),
            heirs: AtomicU32::new(0),
            parked_us: AtomicU32::new(0),
            duty: Duty::new(),
            pace: Pace::new(),
        }
    }

    /// u4 and u5 of the proof: whether an unlock that has freed the word must go on to wake
    /// somebody. Disarms the bucket when nobody has waited for long.
    pub(crate) fn anyone_waits(&self, addr: usize) -> bool {
        // ORDERING: SeqCst, between the release of the word and the load of the count, whose
        // partner is the fence in `enter`; and of the duty's slot, see `duty.rs`.
        fence(Ordering::SeqCst);
        // ORDERING: Relaxed; the fences order it.
        if self.waiters.load(Ordering::Relaxed) != 0 {
            return true;
        }
        if is_time_to_look() {
            self.disarm(&LOBBY.hints.0[index(addr)]);
        }
        false
    }

    /// d1 to d3 of the proof, if nobody has parked here for [`QUIET_US`].
    #[cold]
    fn disarm(&self, hint: &AtomicU32) {
        let quiet_us = now_us().wrapping_sub(self.parked_us.load(Ordering::Relaxed));
        let seen = hint.load(Ordering::Relaxed);
        if seen & FLAGS != ARMED | READY || (quiet_us < QUIET_US && !cfg!(lockword_loom)) {
            return;
        }
        let Some(unready) = withdraw(hint, seen) else { return };
        // ORDERING: SeqCst, between d1 and d2; the partner is the fence in `enter`.
        fence(Ordering::SeqCst);
        let to = if self.waiters.load(Ordering::Relaxed) == 0 {
            reach(Place::Disarmed);
            unready & !ARMED
        } else {
            reach(Place::Rearmed);
            unready | READY
        };
        // If it fails, a parker has set READY again, and the bucket stays as it is.
        swap(hint, unready, to);
    }

    /// Whether the thread that has the duty has kept others waiting for too long: it may have
    /// lost its processor. Asked at every unlock, looked into at few.
    pub(crate) fn is_turn_overdue(&self) -> bool {
        let overdue = is_time_to_look() && self.duty.is_turn_over();
        if overdue {
            // One wake-up a turn is enough, also where the slot is another's and stays so.
            self.duty.begin_turns();
        }
        overdue
    }

    /// Takes one thread out of the count: under the queue's lock, or by the thread itself when
    /// it is not in the queue (never was, or a stranger took it out).
    pub(crate) fn leave(&self) {
        // ORDERING: Relaxed: a count that is read too high costs a look into the queue.
        self.waiters.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether nobody waits here, and nothing says otherwise.
    #[cfg(all(test, lockword_loom))]
    pub(crate) fn is_idle(&self) -> bool {
        !self.seems_busy() && !self.has_heirs() && self.duty.is_open()
    }

    /// Whether anybody seems to wait: advice.
    pub(crate) fn seems_busy(&self) -> bool {
        self.waiters.load(Ordering::Relaxed) != 0
    }

    /// Counts an heir in. Under the queue's lock.
    pub(crate) fn add_heir(&self) {
        // ORDERING: Relaxed: changed and, where it matters, read under the queue's lock.
        self.heirs.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an heir out. Under the queue's lock, or by an heir whom a stranger has woken.
    pub(crate) fn remove_heir(&self) {
        // ORDERING: as in `add_heir`.
        self.heirs.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether there is an heir in this bucket.
    pub(crate) fn has_heirs(&self) -> bool {
        self.heirs.load(Ordering::Relaxed) != 0
    }
}

/// Whether this unlock is one of the few that read the clock for the sake of disarming.
#[cfg(not(lockword_loom))]
fn is_time_to_look() -> bool {
    use core::cell::Cell;
    thread_local!(static UNLOCKS: Cell<u8> = const { Cell::new(0) });
    // Not at the end of the thread's life, when its variables are gone.
    UNLOCKS
        .try_with(|n| {
            n.set(n.get().wrapping_add(1) & 0x3F);
            // Not all threads begin at the same distance: some live for a few unlocks only.
            n.get() == (core::ptr::from_ref(n).addr() >> 6) as u8 & 0x3F
        })
        .unwrap_or(false)
}

/// The models disarm whenever they can.
#[cfg(lockword_loom)]
fn is_time_to_look() -> bool {
    !crate::primitive::model_settings::no_light()
}

/// Gets ready for the first contention: registers with the kernel.
#[cfg(not(lockword_loom))]
pub(crate) fn prepare() {
    if barrier::prepare() == Heavy::Refused {
        go_permanent();
    }
}

/// In the child of a `fork`, before any of its threads run: nobody waits here.
#[cfg(all(unix, not(lockword_loom)))]
pub(crate) fn forget() {
    for bucket in &LOBBY.buckets {
        // ORDERING: Relaxed: there is one thread. The hints stay; an armed one costs a fence
        // until it is disarmed.
        bucket.waiters.store(0, Ordering::Relaxed);
        bucket.heirs.store(0, Ordering::Relaxed);
        bucket.duty.forget();
    }
}

/// The state of the bucket of `addr`, for the message of a test that hangs.
#[cfg(not(lockword_loom))]
pub(crate) fn describe(addr: usize) -> String {
    let bucket = bucket(addr);
    let hint = LOBBY.hints.0[index(addr)].load(Ordering::Relaxed);
    format!(
        "bucket {}: hint {:#05b} (epoch {}), {} waiters, {} heirs, {}",
        index(addr),
        hint & FLAGS,
        hint / EPOCH,
        bucket.waiters.load(Ordering::Relaxed),
        bucket.heirs.load(Ordering::Relaxed),
        bucket.duty.describe(),
    )
}

#[cfg(all(test, lockword_loom))]
#[path = "models/late_steps.rs"]
mod late_steps;
