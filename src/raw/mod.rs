//! How a lock waits: [`RawLock`](mutex::RawLock) tries, spins, then parks, and its unlock releases the word and
//! wakes a waiter if there is one. This page tells how waiting works as a whole; each part has the
//! details and the proofs in its own file.
//!
//! # The word
//!
//! The word has two states, and three things can happen to it:
//!
//! | state | event | next | by |
//! |---|---|---|---|
//! | 0, free | compare-and-swap (Acquire) | 1 | a thread for itself, or an unlocker for the first waiter |
//! | 1, held | plain store (Release) | 0 | the holder |
//! | 1, held | handoff | 1 | the holder: the word stays as it is, another thread is the holder |
//!
//! # The paths
//!
//! | path | steps |
//! |---|---|
//! | lock, free | one compare-and-swap |
//! | lock, held | spin for some microseconds ([`spin`]), enter the queue ([`waiters`]), try again, sleep ([`park`]); when woken, spin, and so on |
//! | unlock, flag 0 | load the flag; store 0; load the flag again; if it is set now, go on as in the last row |
//! | unlock, flag armed, nobody in the queue | store 0; fence; look for waiters again; now and then disarm |
//! | unlock, flag armed, no designated waker ([`handoff`]) or a turn has come | lock the bucket; hand the lock to the first waiter, or store 0 and wake it |
//! | unlock, otherwise | store 0; fence; if there is a waiter and no designated waker, lock the bucket and wake the first waiter |
//!
//! The *flag* says whether anyone may wait ([`flags`]): 256 of them, found by a hash of the lock's
//! address. A flag changes seldom: a thread that parks arms it, and an unlock disarms it when nobody has
//! parked there for 50 ms.
//!
//! The unlock reads the flag *before* the store, since while it holds the lock it can still hand it off,
//! with no moment at which the word is free and a third thread could take it. It reads the flag again
//! *after* the store, so that no wake-up is lost: the proof is in [`flags`]. It needs a full barrier
//! between the store and the load on both sides, and the asymmetric barrier ([`barrier`]) lets the
//! parking thread pay for both.
//!
//! After the store that frees it the word is not touched again, unless a waiter in its queue proves that
//! it is alive: from there on the lock is only an address, and its memory may have been freed.
//!
//! # Who takes care of a free word with waiters
//!
//! At every moment at least one of these exists: an unlocker between its store and its look into the bucket; a
//! waiter in the queue that is awake or has a message; a designated waker that spins; or a later holder, which
//! will unlock. The loom models check that (`src/raw/models/`, under `--cfg lockword_loom`).
//!
//! # Sources
//!
//! - The asymmetric fence: [P1202], membarrier(2), FlushProcessWriteBuffers (see [`barrier`]).
//! - Waiters outside the lock: [Locking in WebKit], and `parking_lot`, which brought it to Rust.
//! - One awake waiter for a lock: [nsync], Abseil, and Go's `sync.Mutex`, which also hands the lock to
//!   a starving waiter.
//! - A futex mutex of three states: Drepper, *Futexes Are Tricky*, for the lock of a bucket.
//!
//! [P1202]: https://www.open-std.org/jtc1/sc22/wg21/docs/papers/2023/p1202r5.pdf
//! [Locking in WebKit]: https://webkit.org/blog/6161/locking-in-webkit/
//! [nsync]: https://github.com/google/nsync

mod barrier;
pub(crate) mod condvar;
mod flags;
pub(crate) mod fork;
mod handoff;
pub(crate) mod mutex;
pub(crate) mod park;
mod readers;
mod rw_word;
pub(crate) mod rwlock;
mod spin;
mod waiters;

#[cfg(all(test, not(lockword_loom)))]
#[path = "models/litmus.rs"]
mod litmus;
#[cfg(lockword_loom)]
mod models;

/// The state of the bucket of an address, for tests and benches. Not part of the API.
#[cfg(not(lockword_loom))]
pub use waiters::{BucketState, state as bucket_state};

/// What [`lockword::init`](crate::init) does.
#[cfg(not(lockword_loom))]
pub(crate) fn init() {
    fork::watch();
    if barrier::prepare() == barrier::Heavy::Refused {
        flags::go_permanent();
    }
}

/// What [`lockword::init_with_fences`](crate::init_with_fences) does.
#[cfg(not(lockword_loom))]
pub(crate) fn init_with_fences() {
    fork::watch();
    // Where `light()` is a fence there is nothing to choose.
    if !barrier::IS_SYMMETRIC {
        flags::go_permanent();
    }
}

/// Runs when the program, or the library that this crate is in, is loaded: before there are threads, in
/// most programs. The kernel registers a process for the barrier at once if it has one thread, and takes 10
/// to 20 ms if it has more, for which the first contention would have to wait.
#[cfg(all(
    not(any(lockword_loom, miri)),
    any(target_os = "linux", target_os = "android", target_os = "freebsd", target_os = "netbsd"),
))]
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = {
    extern "C" fn at_load() {
        init();
    }
    at_load
};
