//! [`Duty`]: the designated waker. At most one awake waiter per bucket has to look after its lock.
//!
//! # Idea
//!
//! An unlock that finds parked waiters must wake one, unless it knows that another waiter is
//! awake and will look at the word after this unlock: waking a second thread then costs a
//! system call and gains nothing. Go's mutex, nsync and Abseil's have a bit in the lock for
//! this; our lock has no bit to spare, so the bucket has a slot that holds the lock's full
//! address (a tag could be mistaken for another lock's, and that lock's wake-up would be lost).
//!
//! A thread that has the duty for a lock
//! - got it by spinning ([`Kind::Spinner`]: it took the duty itself), or when it was taken out of
//!   the queue ([`Kind::Woken`]: its waker gave it the duty);
//! - ends it when it has acquired the lock (its own unlock looks after the rest), or
//! - drops it before it sleeps or gives up, and then, *after a SeqCst fence*, looks at the word
//!   once more. That is Dekker's protocol with the unlocker, who frees the word, passes the
//!   fence of [`anyone_waits`](crate::lobby::Bucket::anyone_waits), and then reads the slot:
//!   either the unlocker sees the slot empty and wakes somebody, or the other sees the word
//!   free.
//!
//! A duty that cannot be had (another lock of the bucket has the slot) costs one wake-up too
//! many, nothing else.
//!
//! # A woken waiter is not passed over
//!
//! The thread that has just unlocked is running, the one it has woken is not yet, and on a
//! busy processor may not be for milliseconds. So the holder that finds at its unlock that a
//! waiter was woken some time ago and still has no lock *grants* the lock to it:
//! the word stays held, and the slot tells the waiter, wherever it is, that the lock is its
//! own. This is asked once for each wake-up, and only where a section outlasts a wake-up
//! ([`LONG_US`]): for shorter ones the woken thread wins soon enough by itself, and making all
//! others wait for it would cost more than it gives.

use crate::primitive::{AtomicU32, Ordering, WideCell, has_passed, now_us};
use crate::stamp::Stamp;

/// What the duty's owner is. The slot holds the address and this, in two bits below it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A thread that has never been parked for this acquisition.
    Spinner = 1,
    /// A thread from the queue.
    Woken = 2,
}

/// The two bits when the lock has been granted to the owner, who was [`Kind::Woken`]. Set by
/// the holder of the lock, cleared by the owner.
const GRANTED: u64 = 3;

/// A section of this length, in microseconds, is long: handing the lock over costs little
/// beside it. About two wake-ups of a thread on a sleeping processor.
const LONG_US: u32 = 40;

/// How long newcomers may have the duty in a row before an unlock has to let one in from the
/// queue, in microseconds.
const TURN_US: u32 = 500;

/// How long a waiter that was woken may take until it runs, in microseconds, before an unlock
/// wakes another one: it may have been put behind the waker on one processor, while another
/// stands idle.
const SHOW_UP_US: u32 = 60;

/// The least time between two hand-overs to heirs, in microseconds. Each leaves the lock idle for
/// as long as a wake-up takes (5 to 50 us), and they come in rows: whoever waited while a holder
/// had lost its processor is an heir. A section that is this long makes up for it.
const HAND_US: u32 = 150;

/// What became of a duty that its owner wanted to drop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Dropped {
    /// It is dropped.
    Free,
    /// Too late: the lock has been granted to the owner, who holds it now.
    Granted,
}

/// The slot. See the head of this file.
pub(crate) struct Duty {
    /// 0, or the address and the [`Kind`] of whoever has the duty, or GRANTED. (Where this is no
    /// atomic at all, nobody ever has the duty, and every unlock wakes.)
    slot: WideCell,
    /// When a waiter from the queue was last woken, if no unlock has asked yet; else 0.
    woken_us: AtomicU32,
    /// When a waiter from the queue was last let in, or the queue last began.
    turned: Stamp,
    /// When a waiter was last handed the lock in its sleep.
    handed: Stamp,
    /// The low half of the address of a lock whose heir was left to the holder; else 0.
    left_heir: AtomicU32,
}

/// What the slot holds for the lock at `addr`.
fn entry(addr: usize, bits: u64) -> u64 {
    // The two topmost bits are lost: a tag or a sign, which tells no two locks apart.
    (addr as u64) << 2 | bits
}

/// The low half of an address, or 1 where that is 0, which stands for none: a hint.
fn low_half(addr: usize) -> u32 {
    (addr as u32).max(1)
}

impl Duty {
    #[cfg(not(lockword_loom))]
    pub(crate) const fn new() -> Self {
        Duty {
            slot: WideCell::new(0),
            woken_us: AtomicU32::new(0),
            turned: Stamp::new(),
            handed: Stamp::new(),
            left_heir: AtomicU32::new(0),
        }
    }

    #[cfg(lockword_loom)]
    pub(crate) fn new() -> Self {
        Duty {
            slot: WideCell::new(0),
            woken_us: AtomicU32::new(0),
            turned: Stamp::new(),
            handed: Stamp::new(),
            left_heir: AtomicU32::new(0),
        }
    }

    /// A newcomer who spins for the lock at `addr` offers to take the duty. Refused while
    /// another has one, and when it is time to let somebody in from the queue.
    #[must_use]
    pub(crate) fn volunteer(&self, addr: usize) -> bool {
        self.slot.load(Ordering::Relaxed) == 0
            && !self.is_turn_over(addr)
            && self.take(addr, Kind::Spinner)
    }

    /// Whether newcomers have had the duty for long enough.
    pub(crate) fn is_turn_over(&self, addr: usize) -> bool {
        self.turned.is_older(addr, TURN_US)
    }

    /// A waker gives the duty to the waiter whom it is about to take out of the queue. Under
    /// the queue's lock. Returns false if another has it.
    #[must_use]
    pub(crate) fn appoint(&self, addr: usize) -> bool {
        let taken = self.take(addr, Kind::Woken);
        if taken {
            // It has until then to show up; see `arrive`.
            self.turned.set_back(addr, TURN_US - SHOW_UP_US);
            // Odd, since 0 stands for "asked already"; a microsecond does not matter.
            self.woken_us.store(now_us() | 1, Ordering::Relaxed);
        }
        taken
    }

    /// The waiter that was given the duty runs.
    pub(crate) fn arrive(&self, addr: usize) {
        self.begin_turns(addr);
    }

    fn take(&self, addr: usize, kind: Kind) -> bool {
        // ORDERING: Relaxed: giving the duty *up* is what must be ordered, see `resign`.
        self.slot
            .compare_exchange(0, entry(addr, kind as u64), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// The owner holds the lock now, by its own doing.
    pub(crate) fn end(&self) {
        // Nobody need ask after this wake-up any more.
        self.woken_us.store(0, Ordering::Relaxed);
        // ORDERING: Relaxed: the next look at the slot that matters is this thread's own, at
        // its unlock.
        self.slot.store(0, Ordering::Relaxed);
    }

    /// The owner, who does not hold the lock, drops the duty. If it is `Free`, the caller must
    /// pass a SeqCst fence and then look at the word.
    pub(crate) fn resign(&self, addr: usize, kind: Kind) -> Dropped {
        // ORDERING: Relaxed on success: the caller's fence follows. Acquire on failure pairs
        // with the Release of `grant`: the owner sees what the holder did.
        let from = entry(addr, kind as u64);
        match self.slot.compare_exchange(from, 0, Ordering::Relaxed, Ordering::Acquire) {
            Ok(_) => Dropped::Free,
            Err(now) if now == entry(addr, GRANTED) => {
                self.end();
                Dropped::Granted
            }
            Err(now) => {
                debug_assert!(false, "the duty was taken away: {now:#x}");
                Dropped::Free
            }
        }
    }

    /// Whether the lock has been granted to the owner, who is the caller; if so, it holds the
    /// lock, and the duty has ended.
    #[must_use]
    pub(crate) fn accept(&self, addr: usize) -> bool {
        // ORDERING: Acquire pairs with the Release of `grant`.
        let granted = self.slot.load(Ordering::Acquire) == entry(addr, GRANTED);
        if granted {
            self.end();
        }
        granted
    }

    /// Whether somebody has the duty for the lock at `addr`. After a SeqCst fence that follows
    /// the release of the word, a yes means that he will see it free.
    #[inline]
    pub(crate) fn is_taken(&self, addr: usize) -> bool {
        // ORDERING: Relaxed; see the fence.
        self.slot.load(Ordering::Relaxed) & !3 == entry(addr, 0)
    }

    /// Whether the slot is empty: advice.
    pub(crate) fn is_open(&self) -> bool {
        self.slot.load(Ordering::Relaxed) == 0
    }

    /// The holder of the lock at `addr`, about to unlock: if a waiter of this lock was woken
    /// long ago and has not got the lock, it gets it now. Returns whether it did; the word is
    /// not the caller's any more then.
    #[must_use]
    pub(crate) fn grant(&self, addr: usize) -> bool {
        self.is_woken(addr) && self.has_overslept() && self.grant_now(addr)
    }

    /// Whether [`grant`](Self::grant) is worth a call: it has not been asked since the last
    /// wake-up.
    #[inline]
    pub(crate) fn may_grant(&self, addr: usize) -> bool {
        self.woken_us.load(Ordering::Relaxed) != 0 && self.is_woken(addr)
    }

    /// Whether a waiter of the lock at `addr` was woken and has the duty: advice.
    #[inline]
    fn is_woken(&self, addr: usize) -> bool {
        self.slot.load(Ordering::Relaxed) == entry(addr, Kind::Woken as u64)
    }

    /// Like [`grant`](Self::grant), for a waiter that was woken at any time.
    #[must_use]
    pub(crate) fn grant_now(&self, addr: usize) -> bool {
        let (from, to) = (entry(addr, Kind::Woken as u64), entry(addr, GRANTED));
        // ORDERING: Release pairs with the Acquire in `accept` and `resign`.
        self.slot.compare_exchange(from, to, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Asked once for each wake-up: whether it was long ago.
    fn has_overslept(&self) -> bool {
        let woken_us = self.woken_us.load(Ordering::Relaxed);
        if woken_us == 0 {
            return false;
        }
        self.woken_us.store(0, Ordering::Relaxed);
        // One less, since it was made odd: it must not lie in the future.
        has_passed(woken_us.wrapping_sub(1), LONG_US)
    }

    /// A waiter of the lock at `addr` is being let in from the queue, or the first one comes.
    pub(crate) fn begin_turns(&self, addr: usize) {
        self.turned.set(addr);
    }

    /// Whether the lock at `addr` may be handed over to a waiter that sleeps: the lock stands still
    /// until that has woken.
    pub(crate) fn may_hand(&self, addr: usize) -> bool {
        self.handed.is_older(addr, HAND_US)
    }

    /// A waker has found an heir of the lock at `addr`, but somebody holds it again: it is the
    /// heir's turn at the next unlock. (A hint: one that comes too late, or is overwritten for
    /// another lock, leaves the heir to the next wake-up.)
    pub(crate) fn leave_heir(&self, addr: usize) {
        self.left_heir.store(low_half(addr), Ordering::Relaxed);
    }

    /// Whether an heir of the lock at `addr` was left to its holder.
    #[inline]
    pub(crate) fn is_heir_left(&self, addr: usize) -> bool {
        self.left_heir.load(Ordering::Relaxed) == low_half(addr)
    }

    /// As [`is_heir_left`](Self::is_heir_left), and it is looked after now.
    #[must_use]
    pub(crate) fn take_left_heir(&self, addr: usize) -> bool {
        let left = self.is_heir_left(addr);
        if left {
            self.left_heir.store(0, Ordering::Relaxed);
        }
        left
    }

    /// The lock at `addr` is being handed over to a waiter that sleeps.
    pub(crate) fn note_hand_over(&self, addr: usize) {
        self.handed.set(addr);
        self.begin_turns(addr);
    }

    /// In the child of a `fork`: the owner does not exist.
    #[cfg(all(unix, not(lockword_loom)))]
    pub(crate) fn forget(&self) {
        self.end();
    }

    /// For the message of a test that hangs.
    #[cfg(not(lockword_loom))]
    pub(crate) fn describe(&self) -> String {
        let slot = self.slot.load(Ordering::Relaxed);
        format!("duty {:#x} kind {}", slot >> 2, slot & 3)
    }
}
