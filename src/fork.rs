//! What a `fork` leaves behind, and how the child forgets it.
//!
//! The child has a copy of the lobby and of all queues, but none of the threads in them. A
//! handler that runs in the child before `fork` returns there empties the lobby and moves the
//! *generation*, which is part of every queue's key, so that nothing is handed to a thread that
//! does not exist. The handler is registered with the first park; before it there is nothing to
//! forget.

#[cfg(all(unix, not(lockword_loom)))]
use crate::primitive::{AtomicU32, Ordering};

#[cfg(all(unix, not(lockword_loom)))]
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// How many forks lie between the first process that parked and this one.
#[cfg(all(unix, not(lockword_loom)))]
pub(crate) fn generation() -> u32 {
    // ORDERING: Relaxed: it changes only while the process has one thread.
    GENERATION.load(Ordering::Relaxed)
}

/// How many forks: none.
#[cfg(not(all(unix, not(lockword_loom))))]
pub(crate) fn generation() -> u32 {
    0
}

/// Registers the handler, once.
#[cfg(all(unix, not(lockword_loom)))]
pub(crate) fn watch() {
    use std::sync::Once;
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        // SAFETY: the handler only stores to atomics, which is allowed in a child of `fork`.
        // If there is no memory for the registration, forks go unnoticed: the price is a
        // lock with waiters at that moment that wakes nobody in the child, not unsoundness.
        let _ = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

/// No fork, nothing to watch.
#[cfg(all(not(unix), not(lockword_loom)))]
pub(crate) fn watch() {}

#[cfg(all(unix, not(lockword_loom)))]
extern "C" fn in_child() {
    GENERATION.store(generation().wrapping_add(1), Ordering::Relaxed);
    crate::lobby::forget();
}
