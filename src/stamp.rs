//! [`Stamp`]: when something was last done for a lock.
//!
//! The locks of a bucket share its stamps. One that another lock has set says nothing about this
//! one, and counts as old: so a lock's waiters never wait for longer because a neighbour is busy.
//! (Two contended locks of one bucket may be handed off, and wake, more often than one alone.)

use crate::primitive::{Ordering, WideCell, has_passed, now_us};

/// A time, and the lock that it belongs to.
pub(crate) struct Stamp {
    /// The low halves of the lock's address and of the time ([`now_us`]). All accesses are
    /// Relaxed: a stamp guards nothing.
    seen: WideCell,
}

impl Stamp {
    #[cfg(not(lockword_loom))]
    pub(crate) const fn new() -> Self {
        Stamp { seen: WideCell::new(0) }
    }

    #[cfg(lockword_loom)]
    pub(crate) fn new() -> Self {
        Stamp { seen: WideCell::new(0) }
    }

    /// It was done for the lock at `addr`, now.
    pub(crate) fn set(&self, addr: usize) {
        self.set_back(addr, 0);
    }

    /// It counts as done for the lock at `addr`, `ago_us` before now.
    pub(crate) fn set_back(&self, addr: usize, ago_us: u32) {
        let then_us = now_us().wrapping_sub(ago_us);
        self.seen.store(u64::from(addr as u32) << 32 | u64::from(then_us), Ordering::Relaxed);
    }

    /// Whether it was done at least `limit_us` ago for the lock at `addr`, or never, or for another
    /// lock since. (Without 64-bit atomics nothing is remembered: always.)
    pub(crate) fn is_older(&self, addr: usize, limit_us: u32) -> bool {
        let seen = self.seen.load(Ordering::Relaxed);
        (seen >> 32) as u32 != addr as u32 || has_passed(seen as u32, limit_us)
    }
}
