//! What a `fork` leaves behind, and how the child forgets it.
//!
//! The child has a copy of the lobby and of all queues, but none of the threads in them. A
//! handler that runs in the child empties the lobby and moves the *generation*, which is part of
//! every queue's key, so that nothing is handed to a thread that does not exist. The handlers are
//! registered before the first thread parks; before that there is nothing to forget.
//!
//! Other libraries have such handlers, too, which may unlock a lock of ours in the child before
//! our handler has run (they run in the order of registration). So the slow paths ask
//! [`settle`], which does the handler's work if the process is a child that still has it ahead.
//!
//! `parking_lot_core` keeps the dead threads in its own table, where a new thread of the child
//! may be given the memory of one of them. So a child parks elsewhere, in `park/own.rs`.

#[cfg(all(unix, not(lockword_loom)))]
mod imp {
    use crate::primitive::{AtomicU32, Ordering};

    static GENERATION: AtomicU32 = AtomicU32::new(0);
    /// Not 0 in a process that is in the middle of a `fork`, and so in its child until that has
    /// settled. Advice: two threads may fork at once.
    static FORKING: AtomicU32 = AtomicU32::new(0);
    /// The process whose threads the lobby knows.
    static OWNER: AtomicU32 = AtomicU32::new(0);
    /// Whether the handlers are registered.
    static WATCHING: AtomicU32 = AtomicU32::new(0);

    // ORDERING: all are Relaxed: what a child reads was copied with its memory, and there is one
    // thread in it then.

    /// How many forks lie between the first process that parked and this one.
    pub(crate) fn generation() -> u32 {
        GENERATION.load(Ordering::Relaxed)
    }

    /// Registers the handlers, once. (Twice if two threads come at once, to no effect. A `Once`
    /// would be stuck in a child that is forked meanwhile.)
    pub(crate) fn watch() {
        if WATCHING.load(Ordering::Relaxed) == 0 {
            // SAFETY: the handlers touch atomics and ask for the process's number, which is
            // allowed around a `fork`. If there is no memory for the registration, forks go
            // unnoticed: a lock that had waiters may wake nobody in the child.
            let _ = unsafe { libc::pthread_atfork(Some(prepare), Some(in_parent), Some(in_child)) };
            OWNER.store(process(), Ordering::Relaxed);
            WATCHING.store(1, Ordering::Relaxed);
        }
    }

    /// Whether this may be a child that has not forgotten yet.
    #[inline]
    pub(crate) fn is_unsettled() -> bool {
        FORKING.load(Ordering::Relaxed) != 0
    }

    /// Makes sure that a child has forgotten its parent's threads.
    #[inline]
    pub(crate) fn settle() {
        if FORKING.load(Ordering::Relaxed) != 0 {
            settle_child();
        }
    }

    #[cold]
    fn settle_child() {
        if OWNER.load(Ordering::Relaxed) != process() {
            in_child();
        }
    }

    fn process() -> u32 {
        // SAFETY: takes nothing and cannot fail.
        unsafe { libc::getpid() }.cast_unsigned()
    }

    extern "C" fn prepare() {
        FORKING.store(1, Ordering::Relaxed);
    }

    extern "C" fn in_parent() {
        FORKING.store(0, Ordering::Relaxed);
    }

    extern "C" fn in_child() {
        FORKING.store(0, Ordering::Relaxed);
        // The first to come does it: this handler, or `settle`.
        if OWNER.swap(process(), Ordering::Relaxed) != process() {
            GENERATION.store(generation().wrapping_add(1), Ordering::Relaxed);
            crate::lobby::forget();
            crate::park::forget();
        }
    }
}

/// No fork: one generation, nothing to watch.
#[cfg(not(all(unix, not(lockword_loom))))]
mod imp {
    pub(crate) fn generation() -> u32 {
        0
    }
    pub(crate) fn watch() {}
    pub(crate) fn is_unsettled() -> bool {
        false
    }
    pub(crate) fn settle() {}
}

pub(crate) use imp::{generation, is_unsettled, settle, watch};
