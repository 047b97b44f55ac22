//! Who comes next: the designated waker, and the turn of the first waiter. All policy is here, but for how
//! long a thread spins ([`spin`](super::spin)).
//!
//! # The designated waker
//!
//! An unlock that finds waiters must wake one, unless it knows that another waiter is awake and will
//! look at the word after this unlock: waking a second thread costs a system call and gains nothing.
//! nsync, Abseil and Go's mutex have a bit in the lock for this. Ours has none to spare, so the bucket
//! names, by its full address, one lock whose waiters are looked after. A thread has the role
//! - by [`try_claim`](Handoff::try_claim), when it spins for a lock that others wait for, or
//! - because its waker designated it ([`Locked::wake`]).
//!
//! The role ends when the thread has the lock; its own unlock then wakes or hands off. A thread that goes to sleep
//! or gives up ends the role *before* a SeqCst fence, after which it tries the word once more. That is
//! Dekker's protocol with the unlocker, who frees the word, passes a SeqCst fence, and then reads the
//! role: either the unlocker sees that it has ended and wakes somebody, or the other sees the word free.
//! A role that cannot be had, since another lock of the bucket has it, costs a look into the bucket.
//!
//! # Turns
//!
//! A thread that runs may take the lock before one that was woken does ("barging"), which is what makes
//! short sections fast. So that nobody is passed over for long, the first waiter of a queue has a
//! *turn*: a moment after which an unlock deals with it even if another waiter is awake.
//!
//! | the first waiter | its turn comes | what the unlock does then |
//! |---|---|---|
//! | sleeps, and was never woken | [`TURN_US`] after it became the first | wakes it |
//! | was woken, found the lock held, and sleeps again: it is *starving* | [`TURN_US`] after it became the first | hands the lock to it |
//! | was woken and is awake | with the first unlock after the wake-up, if that comes [`LATE_US`] after it | hands the lock to it |
//!
//! Handing the lock to a thread that sleeps leaves it idle for as long as a wake-up takes, 5 to 50 us, so
//! that this must not be done at each unlock. Handing it to one that is awake costs nothing if that runs;
//! if it waits for a processor, the lock stands still, which is worth it only where sections are long: so
//! only the first unlock after a wake-up does it. Waiters keep their place until they hold the lock, so
//! that the order of the queue is that of waiting, and the longest wait is the number of waiters
//! ahead times a turn or a section, whichever is longer.
//!
//! The bucket publishes the turn of one lock, as advice, and an unlock that relies on a designated waker asks
//! for the time once after a wake-up, and else one time in 64, at random. If the turn of another lock
//! overwrites it, one unlock in 64 looks into the bucket; and a wake-up that finds a waiter whose turn has
//! come takes the lock on its behalf, if it is free.

use super::waiters::{DESIGNATED, HANDOFF, Locked, RETRY, Waiter};
use crate::primitive::{AtomicU32, AtomicUsize, Ordering, has_come, is_one_in_64, now_us, probe};

/// How long the threads that run may keep the first waiter asleep, or pass it over, in microseconds.
pub(super) const TURN_US: u32 = 500;
/// A section that lasts so long after a wake-up is a long one, in microseconds: two wake-ups of a thread on
/// a sleeping processor.
const LATE_US: u32 = 40;

/// Why a holder looks into the bucket before it unlocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// Nobody has the role: somebody has to be woken.
    Undesignated,
    /// This is the first unlock since a waiter was woken, and it is late.
    LateAfterWake,
    /// The first waiter's turn has come.
    Turn,
}

/// Who comes next in a bucket. See the head of this file.
pub(super) struct Handoff {
    /// The address of a lock that has a designated waker; else 0.
    designated: AtomicUsize,
    /// The address of the lock whose turn was published last; else 0.
    turn_of: AtomicUsize,
    /// When that turn comes.
    turn_us: AtomicU32,
    /// Not 0 if a waiter of that lock was woken, and no unlock has asked since.
    just_woken: AtomicU32,
}

impl Handoff {
    crate::primitive::const_fn! {
        pub(super) fn new() -> Self {
            Handoff {
                designated: AtomicUsize::new(0),
                turn_of: AtomicUsize::new(0),
                turn_us: AtomicU32::new(0),
                just_woken: AtomicU32::new(0),
            }
        }
    }

    /// Makes the caller the designated waker of the lock at `addr`, unless there is one in this bucket.
    #[must_use]
    pub(super) fn try_claim(&self, addr: usize) -> bool {
        // ORDERING: Relaxed: *ending* the role is what must be ordered, see `end`.
        self.is_unclaimed()
            && self
                .designated
                .compare_exchange(0, addr, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Ends the role of the caller, who has it. One that does not hold the lock must pass a SeqCst fence
    /// and then try the word.
    pub(super) fn end(&self) {
        // ORDERING: Relaxed: the caller's fence follows, or its own unlock.
        self.designated.store(0, Ordering::Relaxed);
    }

    /// Whether the lock at `addr` has a designated waker. After a SeqCst fence that follows the release
    /// of the word, a yes means that this thread will see it free.
    #[inline]
    pub(super) fn is_designated(&self, addr: usize) -> bool {
        // ORDERING: Relaxed; see the fence.
        self.designated.load(Ordering::Relaxed) == addr
    }

    /// Whether nobody has the role in this bucket: advice.
    pub(super) fn is_unclaimed(&self) -> bool {
        self.designated.load(Ordering::Relaxed) == 0
    }

    /// Asked by the holder of the lock at `addr`, for which others seem to wait, before it unlocks: why it
    /// has to look into the bucket first, if it has to. Advice, which reads the clock once after a wake-up,
    /// and else one time in 64.
    #[inline]
    pub(super) fn cause_to_look(&self, addr: usize) -> Option<Cause> {
        if !self.is_designated(addr) {
            return Some(Cause::Undesignated);
        }
        // ORDERING: Relaxed, here and below: advice. The time of another lock's turn costs a look.
        if self.turn_of.load(Ordering::Relaxed) != addr {
            // It may have overwritten the turn of this one.
            is_one_in_64().then_some(Cause::Turn)
        } else if self.just_woken.load(Ordering::Relaxed) != 0 {
            self.is_late_after_wake().then_some(Cause::LateAfterWake)
        } else {
            (is_one_in_64() && is_turn(self.turn_us.load(Ordering::Relaxed))).then_some(Cause::Turn)
        }
    }

    #[inline(never)]
    fn is_late_after_wake(&self) -> bool {
        self.just_woken.store(0, Ordering::Relaxed);
        let late_us = self.turn_us.load(Ordering::Relaxed);
        // If not, the section is short: the thread that was woken wins soon enough by itself.
        self.turn_us.store(late_us.wrapping_add(TURN_US), Ordering::Relaxed);
        is_turn(late_us)
    }

    /// The turn of the lock at `addr` was checked: the next check is due [`TURN_US`] from now.
    pub(super) fn put_off(&self, addr: usize) {
        self.publish_turn(addr, now_us().wrapping_add(TURN_US));
    }

    fn publish_turn(&self, addr: usize, turn_us: u32) {
        self.just_woken.store(0, Ordering::Relaxed);
        self.turn_us.store(turn_us, Ordering::Relaxed);
        self.turn_of.store(addr, Ordering::Relaxed);
    }

    /// Nobody waits for the lock at `addr` any more.
    fn end_turns(&self, addr: usize) {
        if self.turn_of.load(Ordering::Relaxed) == addr {
            self.turn_of.store(0, Ordering::Relaxed);
        }
    }

    /// In the child of a `fork`: whoever had the role does not exist.
    #[cfg(not(lockword_loom))]
    #[allow(dead_code, reason = "there is no fork on some platforms")]
    pub(super) fn reset(&self) {
        self.end();
        self.turn_of.store(0, Ordering::Relaxed);
    }

    /// For the message of a test that hangs.
    #[cfg(not(lockword_loom))]
    pub(super) fn describe(&self) -> String {
        let (designated, turn) = (&self.designated, &self.turn_of);
        format!("designated {designated:?}, turn of {turn:?}")
    }
}

/// Whether the turn at `turn_us` has come.
fn is_turn(turn_us: u32) -> bool {
    has_come(turn_us, 2 * TURN_US)
}

impl Locked<'_> {
    /// Puts a waiter of a lock at the end of its queue.
    pub(super) fn enqueue(&mut self, waiter: &Waiter) {
        self.push(waiter);
        if self.is_first(waiter) {
            self.begin_turn(waiter);
        }
    }

    /// Takes a waiter of a lock out of its queue.
    pub(super) fn dequeue(&mut self, waiter: &Waiter) {
        let was_first = self.is_first(waiter);
        match self.remove(waiter) {
            Some(next) => self.begin_turn(next),
            None if was_first => self.bucket.handoff.end_turns(waiter.word.addr()),
            None => {}
        }
    }

    /// The waiter has become the first of its queue.
    fn begin_turn(&self, first: &Waiter) {
        first.turn_us.set(now_us().wrapping_add(TURN_US));
        self.bucket.handoff.publish_turn(first.word.addr(), first.turn_us.get());
    }

    /// A waiter goes to sleep. If it was woken before, it is starving from now on.
    pub(super) fn sleep_again(&self, waiter: &Waiter) {
        if waiter.woken.get() && self.is_first(waiter) {
            self.bucket.handoff.publish_turn(waiter.word.addr(), waiter.turn_us.get());
        }
    }

    /// Whether the holder hands the lock to its first waiter.
    pub(super) fn is_due(&self, first: &Waiter, cause: Cause) -> bool {
        if first.is_asleep() {
            first.woken.get() && is_turn(first.turn_us.get())
        } else {
            cause == Cause::LateAfterWake
        }
    }

    /// The word has been freed: wakes the first waiter of the lock, unless it is awake. It stays in its
    /// queue. Returns the address to wake, which is for after the bucket's lock.
    #[must_use]
    pub(super) fn wake(&mut self, first: &Waiter) -> Option<*const AtomicU32> {
        let (addr, handoff) = (first.word.addr(), &self.bucket.handoff);
        if !first.is_asleep() {
            return None;
        }
        probe!(StarvingWoken, first.woken.get());
        first.woken.set(true);
        handoff.publish_turn(addr, now_us().wrapping_add(LATE_US));
        handoff.just_woken.store(1, Ordering::Relaxed);
        let message = if handoff.try_claim(addr) { DESIGNATED } else { RETRY };
        // SAFETY: in the queue, and no final message.
        unsafe { Waiter::send(first, message).1 }
    }

    /// Gives the lock, whose word is held on its behalf, to the first waiter, awake or asleep. Returns
    /// as [`wake`](Self::wake). The waiter may be gone when this returns.
    ///
    /// # Safety
    /// `first` is the first waiter of the lock in this bucket.
    #[must_use]
    pub(super) unsafe fn hand_off(&mut self, first: *const Waiter) -> Option<*const AtomicU32> {
        probe!(HandedOff);
        // SAFETY: in the queue, so alive.
        self.dequeue(unsafe { &*first });
        // SAFETY: alive until this message.
        let (before, address) = unsafe { Waiter::send(first, HANDOFF) };
        if before == DESIGNATED {
            // It does not learn any more that it has the role.
            self.bucket.handoff.end();
        }
        address
    }
}
