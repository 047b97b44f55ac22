//! [`RwWord`]: the state of a reader-writer lock, one word, and its legal transitions.

use super::waiters::Kind;
use crate::primitive::{AtomicU32, Ordering};

/// The role: nobody has it.
const FREE: u32 = 0;
/// The role: an upgradable reader has it. Other readers come and go.
pub(super) const UPGRADABLE: u32 = 1;
/// The role: a writer has it, and waits for the readers to leave. None comes in.
pub(super) const DRAINING: u32 = 2;
/// The role: a writer has it, and there is no reader.
pub(super) const HELD: u32 = 3;
/// The bits of the role.
const ROLE: u32 = 3;
/// Readers may come in by their slots.
const BIASED: u32 = 4;
/// Readers may be in by slots, and none may come in. The writer with the role owes the barrier.
const REVOKING: u32 = 8;
/// Readers may be in by slots, and none may come in. A writer that gave up has run the barrier.
const REVOKED: u32 = 16;
/// One counted reader. Their number is what is left of the word.
pub(super) const READER: u32 = 32;
/// From so many counted readers on no other one may come to the lock. Those that are on their way by then are
/// threads, of which there are fewer than the count has room for.
const MOST_READERS: u32 = 1 << 26;

/// The state of a reader-writer lock.
///
/// | part | values | who changes it |
/// |---|---|---|
/// | role | FREE, UPGRADABLE, DRAINING, HELD | takes it where it is FREE: whoever wants to write, or to read upgradably; then its owner alone |
/// | bias | PLAIN (no bit), BIASED, REVOKING, REVOKED | a counted reader sets BIASED where readers may come in; a writer that takes the role makes BIASED REVOKING, PLAIN when a scan has found no reader, and REVOKED when it gives up |
/// | count | 0 and more | a reader, by compare-and-swap where the role lets it in, and by subtraction |
///
/// HELD implies PLAIN and a count of 0. So nobody else changes a word that is HELD, and its owner may
/// release it by a plain store.
#[repr(transparent)]
pub(super) struct RwWord(AtomicU32);

impl RwWord {
    crate::primitive::const_fn! {
        pub(super) fn new() -> Self {
            RwWord(AtomicU32::new(FREE))
        }
    }

    /// The address, which names the lock in the waiter table.
    #[inline]
    pub(super) fn addr(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// The word at this moment. Advice, but for what the callers say of their fences.
    #[inline]
    pub(super) fn load(&self) -> State {
        State(self.0.load(Ordering::Relaxed))
    }

    /// Whether readers may come in by their slots.
    #[inline(always)]
    pub(super) fn is_biased(&self) -> bool {
        // ORDERING: Acquire pairs with the Release of `set_bias`. Whatever has changed a BIASED word since
        // then was a read-modify-write, so that a later value is as good.
        self.0.load(Ordering::Acquire) & BIASED != 0
    }

    /// Whoever comes to read calls this first. Later a thread may be in a queue, and cannot panic.
    ///
    /// # Panics
    /// If there are 2^26 counted readers. They were forgotten, most of them.
    #[inline]
    pub(super) fn check_count(&self) {
        if self.load().readers() >= MOST_READERS {
            too_many_readers();
        }
    }

    /// Counts a reader in, if nobody else is near the lock.
    #[inline]
    #[must_use]
    pub(super) fn try_read_alone(&self) -> bool {
        // ORDERING: Acquire, as in `try_read`.
        self.swap(State(FREE), READER, Ordering::Acquire).is_ok()
    }

    /// Counts a reader in, if the role lets it. A `recursive` one holds the lock already, or may: it must
    /// not wait for a writer that waits for it.
    #[inline]
    #[must_use]
    pub(super) fn try_read(&self, recursive: bool) -> bool {
        let mut seen = self.load();
        loop {
            if seen.role() == HELD || seen.role() == DRAINING && !recursive {
                return false;
            }
            // ORDERING: Acquire pairs with the Release of whoever had the role last.
            match self.swap(seen, seen.0 + READER, Ordering::Acquire) {
                Ok(()) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// Counts a reader out. Returns whether a writer waits for that. The lock may not exist any more then.
    #[inline]
    #[must_use]
    pub(super) fn end_read(&self) -> bool {
        // ORDERING: Release pairs with the Acquire of the writer that finds the count 0.
        let before = State(self.0.fetch_sub(READER, Ordering::Release));
        before.role() == DRAINING && before.readers() == 1
    }

    /// Takes the role and holds the lock, if nobody else is near it.
    #[inline]
    #[must_use]
    pub(super) fn try_hold(&self) -> bool {
        // ORDERING: Acquire pairs with the Release of whoever held the lock before, or read.
        self.swap(State(FREE), HELD, Ordering::Acquire).is_ok()
    }

    /// Takes the role, for a writer or an upgradable reader, if it is free. A writer may have to
    /// drain the readers afterwards.
    #[must_use]
    pub(super) fn try_claim(&self, kind: Kind) -> bool {
        let mut seen = self.load();
        while seen.role() == FREE {
            let to = if kind == Kind::Upgradable { seen.0 | UPGRADABLE } else { seen.drained() };
            // ORDERING: Acquire, as in `try_hold`.
            match self.swap(seen, to, Ordering::Acquire) {
                Ok(()) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// DRAINING -> HELD, if there is no counted reader. The caller has the role, and has scanned the slots
    /// where readers may have been in some.
    #[must_use]
    pub(super) fn try_finish_draining(&self) -> bool {
        let seen = self.load();
        // ORDERING: Acquire, as in `try_hold`.
        let may_hold = seen.role() == DRAINING && seen.readers() == 0;
        may_hold && self.swap(seen, HELD, Ordering::Acquire).is_ok()
    }

    /// UPGRADABLE -> HELD, if there is no other reader; else DRAINING. By the upgradable reader.
    pub(super) fn upgrade(&self) {
        let mut seen = self.load();
        // ORDERING: Acquire, as in `try_hold`.
        while let Err(now) = self.swap(seen, State(seen.0 & !ROLE).drained(), Ordering::Acquire) {
            seen = now;
        }
    }

    /// UPGRADABLE -> HELD, if there is no other reader. By the upgradable reader.
    #[must_use]
    pub(super) fn try_upgrade(&self) -> bool {
        // ORDERING: Acquire, as in `try_hold`.
        self.swap(State(UPGRADABLE), HELD, Ordering::Acquire).is_ok()
    }

    /// DRAINING -> the role that the caller had before: it gives up. REVOKING becomes REVOKED: the caller has run
    /// the barrier.
    pub(super) fn stop_draining(&self, before: u32) {
        let bias = self.load().0 & REVOKING;
        // ORDERING: Release, so that the next one with the role sees the slots that this one could see.
        self.0.fetch_add((bias + before).wrapping_sub(DRAINING), Ordering::Release);
    }

    /// DRAINING -> the role that the drainer had before, which does not exist in this process; there is one thread.
    #[cfg(not(lockword_loom))]
    #[allow(dead_code, reason = "there is no fork on some platforms")]
    pub(super) fn forget_drainer(&self, before: u32) {
        if self.load().role() == DRAINING {
            self.0.fetch_sub(DRAINING - before, Ordering::Relaxed);
        }
    }

    /// HELD -> any other state, a plain store. By the writer. If that is FREE the word may cease to exist as
    /// soon as the store is visible.
    #[inline]
    pub(super) fn end_write(&self, to: u32) {
        // ORDERING: Release pairs with the Acquire of whoever comes next.
        self.0.store(to, Ordering::Release);
    }

    /// UPGRADABLE -> FREE. By the upgradable reader.
    pub(super) fn end_upgradable(&self) {
        // ORDERING: Release: it was a reader.
        self.0.fetch_sub(UPGRADABLE, Ordering::Release);
    }

    /// The upgradable reader becomes a counted one.
    pub(super) fn downgrade_upgradable(&self) {
        // The count is not checked, since a panic would leave the role to nobody: this is one thread more at most.
        // ORDERING: Release, for the next one with the role.
        self.0.fetch_add(READER - UPGRADABLE, Ordering::Release);
    }

    /// Sets BIASED, if readers may come in. By a counted reader, for whom the count stands.
    pub(super) fn set_bias(&self) {
        let mut seen = self.load();
        while seen.lets_readers_in() {
            let to = seen.0 & !REVOKED | BIASED;
            // ORDERING: Release pairs with the Acquire of `is_biased`: who reads by its slot sees the number of the
            // lock. (What this reader sees of the writers before it sees anyway: the word is changed by
            // read-modify-writes only since the last one released it.)
            match self.swap(seen, to, Ordering::Release) {
                Ok(()) => return,
                Err(now) => seen = now,
            }
        }
    }

    #[inline]
    fn swap(&self, from: State, to: u32, success: Ordering) -> Result<(), State> {
        let swapped = self.0.compare_exchange(from.0, to, success, Ordering::Relaxed);
        swapped.map(drop).map_err(State)
    }
}

/// What a [`RwWord`] was at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State(u32);

impl State {
    /// Who has the role.
    pub(super) fn role(self) -> u32 {
        self.0 & ROLE
    }

    /// How many readers are counted.
    pub(super) fn readers(self) -> u32 {
        self.0 / READER
    }

    /// Whether a reader may come in that does not hold the lock already.
    pub(super) fn lets_readers_in(self) -> bool {
        self.role() < DRAINING
    }

    /// Whether readers may be in by their slots.
    pub(super) fn may_have_slots(self) -> bool {
        self.0 & (BIASED | REVOKING | REVOKED) != 0
    }

    /// Whether the writer with the role runs the barrier before it scans.
    pub(super) fn owes_barrier(self) -> bool {
        self.0 & REVOKING != 0
    }

    /// Whether readers may come in by their slots.
    pub(super) fn is_biased(self) -> bool {
        self.0 & BIASED != 0
    }

    /// The word after a writer has taken the role, which was free here.
    fn drained(self) -> u32 {
        match self.0 {
            FREE => HELD,
            seen if self.is_biased() => seen & !BIASED | REVOKING | DRAINING,
            seen => seen | DRAINING,
        }
    }
}

/// What a writer leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum After {
    /// A free lock.
    Free = 0,
    /// Itself as the upgradable reader.
    Upgradable = UPGRADABLE,
    /// Itself as a reader.
    Reader = READER,
}

#[cold]
fn too_many_readers() -> ! {
    panic!("RwLock: too many readers")
}

#[cfg(all(test, not(lockword_loom)))]
mod tests {
    use super::*;

    /// Who comes panics in time. Who is in a queue by then, and must not panic, is let in.
    #[test]
    fn too_many() {
        let word = RwWord(AtomicU32::new((MOST_READERS - 1) * READER));
        word.check_count();
        assert!(word.try_read(false) && word.try_read(false));
        assert!(std::panic::catch_unwind(|| word.check_count()).is_err());
        assert_eq!(word.load().readers(), MOST_READERS + 1);
    }
}
