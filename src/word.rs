//! [`LockWord`]: the lock itself, one byte, and its legal transitions.

use crate::primitive::{AtomicU8, Ordering};

/// L(t) = 0: nobody holds the lock.
const FREE: u8 = 0;
/// L(t) = 1: one thread holds the lock.
const HELD: u8 = 1;

/// The lock word: L(t) and nothing else. The [waiter table](crate::raw) knows which threads wait.
///
/// | state | set by | what it means |
/// |---|---|---|
/// | `FREE` (0) | [`release`](Self::release), by the holder | anyone may acquire |
/// | `HELD` (1) | [`try_acquire`](Self::try_acquire), by a thread for itself or for a parked waiter to which it passes the lock | one thread holds the lock |
///
/// A handoff by the holder changes nothing here: the word stays `HELD`, and another thread is the
/// holder.
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

    /// 0 -> 1, if it is 0. Returns whether the caller (or the waiter for which it acts) now
    /// holds the lock.
    #[inline]
    #[must_use]
    pub(crate) fn try_acquire(&self) -> bool {
        // ORDERING: Acquire pairs with the Release store of `release`: the holder sees all
        // that earlier holders did. A failure says only that the lock was held.
        self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// 1 -> 0, a plain store. Only the holder may call it. The word may cease to exist as soon as
    /// the store is visible.
    #[inline]
    pub(crate) fn release(&self) {
        // ORDERING: Release pairs with the Acquire of `try_acquire`.
        self.state.store(FREE, Ordering::Release);
    }

    /// Whether a thread held the lock a moment ago. The answer is advice, with one exception: a
    /// notifier that moves a waiter to the queue of the mutex reads the word after a SeqCst fence (p3 of
    /// the proof in `raw/flags.rs`; see `try_move` in `raw/condvar.rs`).
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        // ORDERING: Relaxed; the fences of the waiter table's protocol order it where that matters.
        self.state.load(Ordering::Relaxed) == HELD
    }

    /// The address, which names the lock in the waiter table. It is never
    /// made a pointer again.
    #[inline]
    pub(crate) fn addr(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }
}
