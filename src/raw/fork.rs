//! What a `fork` leaves behind, and how the child forgets it.
//!
//! The child has a copy of the waiter table, but none of the threads in it. A handler that runs in the child
//! resets the table, bucket locks too, and moves the *generation*, so that nothing is handed to a thread
//! that does not exist. The handlers are registered when the program is loaded, or before the first thread
//! waits; before that there is nothing to forget.
//!
//! Other libraries have such handlers, too, which may unlock a lock of ours in the child, or start
//! threads that do, before our handler has run (they run in the order of registration). So the slow
//! paths ask [`settle`], which does the handler's work if the process is a child that still has it
//! ahead. It tells a child by its number. One that is the first process of a namespace, as its parent
//! is of another, has the same number: there the handler alone does it.

#[cfg(all(
    unix,
    not(any(
        target_os = "emscripten",
        target_os = "nuttx",
        target_os = "l4re",
        target_os = "qurt",
        miri,
        lockword_loom
    )),
))]
mod imp {
    use crate::primitive::{AtomicU32, AtomicUsize, Ordering};
    use core::cell::Cell;
    use std::thread;

    /// The generation, and above it how many threads of this process are in the middle of a
    /// `fork`. A child inherits that number, which is not 0, and clears it when it settles.
    static STATE: AtomicU32 = AtomicU32::new(0);
    /// The bits of the generation. 0 in a process that has no forks behind it; never 0 again.
    const GENERATION: u32 = 0xFF;
    /// One `fork`, in the number of them. No system has as many threads as there are bits left.
    const FORK: u32 = GENERATION + 1;
    /// As the number of forks: a thread of a child is at forgetting.
    const SETTLING: u32 = !GENERATION;

    /// How many forks there are between the first process of the program and this one. The bits of
    /// the generation are too few for those who keep a number for long.
    static FORKS: AtomicUsize = AtomicUsize::new(0);

    /// The process that forks. Written before the fork is counted.
    static PARENT: AtomicU32 = AtomicU32::new(0);

    thread_local! {
        /// The generation in which this thread last forked: also in the child, whose only
        /// thread is a copy of it.
        static FORKED: Cell<u32> = const { Cell::new(0) };
    }

    /// How many forks there are between the first process that waited and this one, up to a limit after
    /// which it starts again with 1.
    pub(in super::super) fn generation() -> u32 {
        STATE.load(Ordering::Relaxed) & GENERATION
    }

    /// How many forks there are between the first process of the program and this one, of those that
    /// the handlers have seen: see [`watch`]. Two processes that share a history never have the same
    /// number, except siblings.
    #[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "only the cluster asks"))]
    #[inline]
    pub(crate) fn forks() -> usize {
        settle();
        FORKS.load(Ordering::Relaxed)
    }

    /// Registers the handlers, once. (Twice if two threads come at once, to no effect. A `Once`
    /// would be stuck in a child that is forked meanwhile.)
    ///
    /// A `fork` that another thread has begun already runs none of them: the child does not
    /// notice that it is one. Only a registration before there are threads is safe from that.
    pub(crate) fn watch() {
        static WATCHING: AtomicU32 = AtomicU32::new(0);
        // ORDERING: Acquire pairs with the Release below: who parks has the handlers before that.
        if WATCHING.load(Ordering::Acquire) == 0 {
            // SAFETY: the handlers touch memory that needs no preparation, ask for the process's
            // number and yield, which is allowed around a `fork`. If there is no memory for the
            // registration, forks go unnoticed: a lock that had waiters may wake nobody in the
            // child.
            let _ = unsafe { libc::pthread_atfork(Some(prepare), Some(in_parent), Some(in_child)) };
            WATCHING.store(1, Ordering::Release);
        }
    }

    /// Makes sure that a child has forgotten its parent's threads. Called in parents, too.
    #[inline]
    pub(crate) fn settle() {
        // ORDERING: Acquire pairs with the Release in `prepare`, for PARENT, and with that in
        // `forget`: a thread that finds its process settled finds the table empty.
        let state = STATE.load(Ordering::Acquire);
        if state >= FORK {
            settle_child(state);
        }
    }

    /// `state` was read before PARENT: if it is still the same when `forget` begins, no thread
    /// has settled this process since, nor forked it.
    #[cold]
    fn settle_child(state: u32) {
        // A filter may refuse the number. Then the handler does it.
        let (parent, process) = (PARENT.load(Ordering::Relaxed), process());
        if parent != process && parent.cast_signed() > 0 && process.cast_signed() > 0 {
            forget(state);
        }
    }

    /// Forgets all threads of the generation in `state`, if that has not been done.
    fn forget(mut state: u32) {
        let generation = state & GENERATION;
        while state >= FORK && state & GENERATION == generation {
            if state >= SETTLING {
                // Another thread of this child does it.
                thread::yield_now();
                // ORDERING: Acquire, as in `settle`.
                state = STATE.load(Ordering::Acquire);
                continue;
            }
            let settling = SETTLING | generation;
            // ORDERING: Acquire on failure, as in `settle`. On success there is nothing to see.
            match STATE.compare_exchange(state, settling, Ordering::Relaxed, Ordering::Acquire) {
                Ok(_) => {
                    super::super::flags::reset();
                    super::super::waiters::reset();
                    super::super::readers::reset();
                    #[cfg(feature = "profile")]
                    crate::profile::forget();
                    FORKS.fetch_add(1, Ordering::Relaxed);
                    // ORDERING: Release pairs with the Acquires here and in `settle`.
                    STATE.store(generation % GENERATION + 1, Ordering::Release);
                    return;
                }
                Err(now) => state = now,
            }
        }
    }

    fn process() -> u32 {
        // SAFETY: takes nothing and touches no memory.
        unsafe { libc::getpid() }.cast_unsigned()
    }

    extern "C" fn prepare() {
        // A handler of another library may fork in a child that has not settled.
        settle();
        let _ = FORKED.try_with(|forked| forked.set(generation()));
        super::super::readers::before_fork();
        PARENT.store(process(), Ordering::Relaxed);
        // Not while another thread of this process, a child, is at forgetting.
        let more = |state| (state < SETTLING).then(|| state + FORK);
        // ORDERING: Release pairs with the Acquire in `settle`: PARENT.
        while STATE.fetch_update(Ordering::Release, Ordering::Relaxed, more).is_err() {
            thread::yield_now();
        }
    }

    extern "C" fn in_parent() {
        // Two threads may fork at once: each counts itself out. (Handlers that are registered
        // in the middle of a fork do not run in it, so nobody counts out who was not counted in.)
        let less = |state| (FORK..SETTLING).contains(&state).then(|| state - FORK);
        // ORDERING: Relaxed: it tells nothing, and what those before it released stays so, since
        // this is a read-modify-write.
        let _ = STATE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        super::super::readers::after_fork();
    }

    /// Unless [`settle`] was quicker. By the generation, since a thread that an earlier handler
    /// has started may be in the middle of a fork of its own.
    extern "C" fn in_child() {
        // ORDERING: Acquire, as in `settle`.
        let state = STATE.load(Ordering::Acquire);
        let now = state & GENERATION;
        // (Some systems take such variables away at the end of a thread's life.)
        if FORKED.try_with(Cell::get).unwrap_or(now) == now {
            forget(state);
        }
        super::super::readers::after_fork();
    }
}

/// There is no `fork`, or none that `libc` can watch.
#[cfg(any(
    not(unix),
    target_os = "emscripten",
    target_os = "nuttx",
    target_os = "l4re",
    target_os = "qurt",
    miri,
    lockword_loom,
))]
mod imp {
    pub(crate) fn watch() {}
    pub(crate) fn settle() {}
    #[allow(dead_code, reason = "only the table of `park` asks")]
    pub(in super::super) fn generation() -> u32 {
        0
    }
    #[allow(dead_code, reason = "only the cluster asks")]
    pub(crate) fn forks() -> usize {
        0
    }
}

#[allow(unused_imports, reason = "only the table of `park` asks")]
pub(super) use imp::generation;
#[allow(unused_imports, reason = "only the cluster asks for the number of forks")]
pub(crate) use imp::{forks, settle, watch};
