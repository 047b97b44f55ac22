//! The word by which a sleeping thread is woken, and on which it sleeps. No notification is lost, and the
//! thread that takes one sees what was done before it.
//!
//! One thread takes notifications; any number of threads notify. The thread polls, perhaps spins, and
//! then sleeps; it announces the sleep in the word first. A notifier that finds the announcement wakes
//! the thread. The thread sleeps on this word and on nothing else, so the tokens of its
//! [`std::thread::park`] stay the caller's own.

use crate::primitive::{AtomicU32, Ordering, is_past};
use crate::raw::park::{wait, wake};
use std::time::Instant;

/// There is no notification, and the thread is awake.
const IDLE: u32 = 0;
/// The thread sleeps or is about to.
const ASLEEP: u32 = 1;
/// There is a notification that was not taken yet.
const NOTIFIED: u32 = 2;

pub(crate) struct Parker {
    /// One of the three. The thread that takes sets `IDLE` whatever it finds, and `ASLEEP` if it
    /// finds `IDLE`. A notifier sets `NOTIFIED` whatever it finds.
    state: AtomicU32,
}

impl Parker {
    pub(crate) fn new() -> Self {
        Self { state: AtomicU32::new(IDLE) }
    }

    /// Notifies the thread, and wakes it if it sleeps.
    pub(crate) fn notify(&self) {
        // ORDERING: Release, so that the thread that takes the notification sees what was done
        // before; the partners are the Acquires of `take` and `park`.
        if self.state.swap(NOTIFIED, Ordering::Release) == ASLEEP {
            wake(&raw const self.state);
        }
    }

    /// Takes the notifications since the last take. Returns whether there was one.
    pub(crate) fn take(&self) -> bool {
        // ORDERING: Acquire, the partner of the Release in `notify`. A swap and not a store: if there
        // are two notifications in succession, either this reads the NOTIFIED of the second, and what
        // its notifier did before is visible, or the second reads IDLE or ASLEEP and notifies anew. A
        // store could become visible after the second notification and erase it.
        self.state.load(Ordering::Relaxed) == NOTIFIED
            && self.state.swap(IDLE, Ordering::Acquire) == NOTIFIED
    }

    /// Waits for a notification and takes it, or returns without one at the deadline.
    pub(crate) fn park(&self, deadline: Option<Instant>) {
        // ORDERING: Acquire, as below, when it finds NOTIFIED.
        let asleep =
            self.state.compare_exchange(IDLE, ASLEEP, Ordering::Acquire, Ordering::Acquire);
        if asleep.is_ok() {
            // A return of `wait` alone says nothing: it may be spurious.
            while self.state.load(Ordering::Acquire) != NOTIFIED && !deadline.is_some_and(is_past) {
                wait(&self.state, ASLEEP, deadline);
            }
        }
        // ORDERING: Acquire, as in `take`. A notification that comes after the deadline and before
        // this is taken by it; one that comes later finds IDLE, and the next call takes it.
        self.state.swap(IDLE, Ordering::Acquire);
    }
}
