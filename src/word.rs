//! [`LockWord`]: the lock itself, one byte, and the only three things that may happen to it.

use crate::primitive::{AtomicU8, Ordering};

/// L(t) = 0: nobody holds the lock.
const FREE: u8 = 0;
/// L(t) = 1: one thread holds the lock.
const HELD: u8 = 1;

/// The lock word: L(t) and nothing else. Who waits is known to the [lobby](crate::lobby).
///
/// | state | set by | what it means |
/// |---|---|---|
/// | `FREE` (0) | [`release`](Self::release), by the holder | anyone may acquire |
/// | `HELD` (1) | [`try_acquire`](Self::try_acquire), by a thread for itself or for a parked waiter whom it hands the lock | whoever was told so holds the lock |
///
/// A hand-over by the holder changes nothing here: the word stays `HELD` and the holder is
/// another.
#[repr(transparent)]
pub(crate) struct LockWord {
    state: AtomicU8,
}

impl LockWord {
    /// A free lock.
    #[cfg(not(lockword_loom))]
    #[inline]
    pub(crate) const fn new() -> Self {
        LockWord { state: AtomicU8::new(FREE) }
    }

    /// A free lock (loom's atomics have no const constructor).
    #[cfg(lockword_loom)]
    pub(crate) fn new() -> Self {
        LockWord { state: AtomicU8::new(FREE) }
    }

    /// 0 -> 1, if it is 0. Returns whether the caller (or the waiter for whom it acts) now
    /// holds the lock.
    #[inline]
    #[must_use]
    pub(crate) fn try_acquire(&self) -> bool {
        // ORDERING: Acquire pairs with the Release store of `release`: the holder sees all
        // that earlier holders did. A failure tells nothing but that the lock was held.
        self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// 1 -> 0, a plain store. Only the holder may call it, and the word may cease to exist
    /// the moment it is done.
    #[inline]
    pub(crate) fn release(&self) {
        // ORDERING: Release pairs with the Acquire of `try_acquire`.
        self.state.store(FREE, Ordering::Release);
    }

    /// Whether somebody held the lock a moment ago: advice, not proof, but for one use. A waiter
    /// that gives up its duty at the deadline looks here after its fence, and wakes another if
    /// the word is free (see `lock_slow` in `raw/lock.rs`).
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        // ORDERING: Relaxed; the fences of the lobby's protocol order it where that matters.
        self.state.load(Ordering::Relaxed) == HELD
    }

    /// The address: the lock's name in the lobby and in the parking lot. Only a name: nobody
    /// makes a pointer of it again.
    #[inline]
    pub(crate) fn addr(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }
}
