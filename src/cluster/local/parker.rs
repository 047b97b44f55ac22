//! The word by which a sleeping thread is woken: nothing that was rung is lost, and whoever answers
//! sees what was done before.
//!
//! One thread answers; any number ring. The thread looks, spins for a while perhaps, and then sleeps,
//! which it says before it does. Who rings and finds that it sleeps has to unpark it. The sleep itself
//! is the caller's ([`std::thread::park`]), and may end for reasons of its own.

use crate::primitive::{AtomicU32, Ordering};

/// Nothing has happened.
const IDLE: u32 = 0;
/// The thread sleeps, or is about to.
const ASLEEP: u32 = 1;
/// It was rung, and not answered yet.
const NOTIFIED: u32 = 2;

pub(crate) struct Parker {
    /// One of the three. The thread that answers makes `IDLE` out of anything, and `ASLEEP` out of
    /// `IDLE`; whoever rings makes `NOTIFIED` out of anything.
    state: AtomicU32,
}

impl Parker {
    pub(crate) fn new() -> Self {
        Self { state: AtomicU32::new(IDLE) }
    }

    /// Rings. Whether the thread sleeps: then it is to be unparked.
    #[must_use]
    pub(crate) fn notify(&self) -> bool {
        // ORDERING: Release, so that whoever answers sees what was done before; the partners are the
        // Acquires of `take` and `park`.
        self.state.swap(NOTIFIED, Ordering::Release) == ASLEEP
    }

    /// Whether it was rung since the last answer.
    pub(crate) fn take(&self) -> bool {
        // ORDERING: Acquire, the partner of the Release in `notify`. By a swap and not a store: if two
        // ring one after the other, either this reads the second one's NOTIFIED, and what that did before
        // is seen, or the second one reads IDLE or ASLEEP, and rings anew. A store could still be on
        // its way while the caller looks, and cover the second.
        self.state.load(Ordering::Relaxed) == NOTIFIED
            && self.state.swap(IDLE, Ordering::Acquire) == NOTIFIED
    }

    /// Answers, as soon as it is rung; until then it sleeps, by `park`.
    pub(crate) fn park(&self, park: impl Fn()) {
        // ORDERING: Acquire, as below, when it finds NOTIFIED.
        let asleep =
            self.state.compare_exchange(IDLE, ASLEEP, Ordering::Acquire, Ordering::Acquire);
        if asleep.is_ok() {
            // Others may unpark this thread for reasons of their own.
            while self.state.load(Ordering::Acquire) != NOTIFIED {
                park();
            }
        }
        // ORDERING: Acquire, as in `take`.
        self.state.swap(IDLE, Ordering::Acquire);
    }
}
