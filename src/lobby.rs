//! The lobby, or waiter table: a static table that says whether anyone waits near an address.
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
//! How the hint is armed by a parker and disarmed by an unlocker is told in [`hint`](mod@hint).

mod hint;

use crate::duty::Duty;
use crate::fork;
#[cfg(not(lockword_loom))]
use crate::primitive::ticks;
use crate::primitive::{AtomicU32, Ordering, Place, fence, has_passed, now_us, reach};
use crate::spin::Pace;
use crossbeam_utils::CachePadded;
use hint::{Hint, Refused};

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
struct Hints([Hint; 1 << BITS]);

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
    hints: Hints([const { Hint::new() }; 1 << BITS]),
    buckets: [const { CachePadded::new(Bucket::new()) }; 1 << BITS],
};

#[cfg(lockword_loom)]
crate::primitive::lazy_static! {
    static ref LOBBY: Lobby = Lobby {
        hints: Hints([Hint::new()]),
        buckets: [CachePadded::new(Bucket::new())],
    };
}

/// Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4): the high
/// bits of the product with 2^N / golden ratio are well mixed.
#[inline(always)]
pub(crate) fn hash(addr: usize) -> usize {
    #[cfg(target_pointer_width = "64")]
    const GOLDEN: usize = 0x9E37_79B9_7F4A_7C15;
    #[cfg(target_pointer_width = "32")]
    const GOLDEN: usize = 0x9E37_79B9;
    addr.wrapping_mul(GOLDEN)
}

/// The bucket of an address.
#[inline(always)]
pub(crate) fn index(addr: usize) -> usize {
    if BITS == 0 { 0 } else { hash(addr) >> (usize::BITS - BITS) }
}

/// Whether an unlock of a lock at `addr` may end here: u3 of the proof.
#[inline(always)]
pub(crate) fn is_quiet(addr: usize) -> bool {
    hint(addr).is_quiet()
}

/// The hint of the lock at `addr`.
#[inline(always)]
fn hint(addr: usize) -> &'static Hint {
    &LOBBY.hints.0[index(addr)]
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
        bucket.duty.begin_turns(addr);
    }
    // ORDERING: SeqCst, between the count and two loads: the hint's, whose partner is the fence
    // of `disarm`, and the word's, whose partner is the fence of `anyone_waits`.
    fence(Ordering::SeqCst);
    hint(addr).arm().unwrap_or_else(|Refused| {
        go_permanent();
        Sleep::Nap
    })
}

/// The kernel refuses `heavy()`, for whatever reason, from whatever moment on: every hint says
/// so, and no disarming clears it.
#[cold]
fn go_permanent() {
    for hint in &LOBBY.hints.0 {
        hint.go_permanent();
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
    /// somebody.
    #[inline]
    pub(crate) fn anyone_waits(&self) -> bool {
        // ORDERING: SeqCst, between the release of the word and the load of the count, whose
        // partner is the fence in `enter`; and of the duty's slot, see `duty.rs`.
        fence(Ordering::SeqCst);
        // ORDERING: Relaxed; the fences order it.
        self.waiters.load(Ordering::Relaxed) != 0
    }

    /// What an unlock does that has found nobody waiting in an armed bucket: it disarms it when
    /// that has been so for long, and looks at the clock seldom.
    #[inline(never)]
    pub(crate) fn settle_down(&self, addr: usize) {
        if is_time_to_look() {
            self.disarm(addr);
        }
    }

    /// Makes the hint quiet, if nobody has parked here for [`QUIET_US`].
    #[cold]
    fn disarm(&self, addr: usize) {
        let parked_us = self.parked_us.load(Ordering::Relaxed);
        // The models disarm whenever they can.
        if cfg!(lockword_loom) || has_passed(parked_us, QUIET_US) {
            hint(addr).disarm(|| self.waiters.load(Ordering::Relaxed) != 0);
        }
    }

    /// Whether the thread that has the duty has kept others waiting for too long: it may have
    /// lost its processor. Asked at every unlock, looked into at few.
    pub(crate) fn is_turn_overdue(&self, addr: usize) -> bool {
        let overdue = is_time_to_look() && self.duty.is_turn_over(addr);
        if overdue {
            reach(Place::Overdue);
            // One wake-up a turn is enough, also where the slot is another thread's and stays so.
            self.duty.begin_turns(addr);
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

    /// Whether there is more than one heir in this bucket.
    pub(crate) fn has_heirs_to_compare(&self) -> bool {
        self.heirs.load(Ordering::Relaxed) > 1
    }

    /// Whether there is an heir in this bucket.
    pub(crate) fn has_heirs(&self) -> bool {
        self.heirs.load(Ordering::Relaxed) != 0
    }
}

/// One unlock in so many reads the clock, which takes longer than a short section. A power of two.
#[cfg(not(lockword_loom))]
const LOOK_EVERY: u32 = 64;

/// Whether this unlock is the one in [`LOOK_EVERY`] that reads the clock.
#[cfg(not(lockword_loom))]
fn is_time_to_look() -> bool {
    use core::cell::Cell;
    thread_local!(static RANDOM: Cell<u32> = const { Cell::new(0) });
    // Not at the end of the thread's life, when its variables are gone.
    RANDOM
        .try_with(|random| {
            // Threads that live for a few unlocks only must not all do the same.
            let last = if random.get() == 0 { ticks() as u32 } else { random.get() };
            // At random, so that locks that take turns all have theirs: Knuth, volume 2, section
            // 3.2.1, and there table 1, line 16.
            random.set(last.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
            random.get() >> (u32::BITS - LOOK_EVERY.ilog2()) == 0
        })
        .unwrap_or(false)
}

/// The models look whenever they can.
#[cfg(lockword_loom)]
fn is_time_to_look() -> bool {
    !crate::primitive::model_settings::no_light()
}

/// Gets ready for the first contention: registers with the kernel.
#[cfg(not(lockword_loom))]
pub(crate) fn prepare() {
    use crate::barrier::{self, Heavy};
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

/// The state of a bucket at one moment, for tests.
#[cfg(not(lockword_loom))]
#[derive(Clone, Debug)]
pub struct BucketState {
    /// The number of the bucket.
    pub index: usize,
    /// How many threads wait, or are about to.
    pub waiters: u32,
    /// How many of them were woken, found the lock taken, and wait again.
    pub starving: u32,
    /// The hint, as a text for a message.
    pub hint: String,
    /// Who has the duty, as a text for a message.
    pub duty: String,
}

/// The state of the bucket of `addr`.
#[cfg(not(lockword_loom))]
pub fn state(addr: usize) -> BucketState {
    let bucket = bucket(addr);
    BucketState {
        index: index(addr),
        waiters: bucket.waiters.load(Ordering::Relaxed),
        starving: bucket.heirs.load(Ordering::Relaxed),
        hint: hint(addr).describe(),
        duty: bucket.duty.describe(),
    }
}
