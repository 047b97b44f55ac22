//! Where threads sleep: `parking_lot_core` behind the few words that this crate needs (and, in a
//! child of `fork`, a lot of our own behind the same words).
//!
//! A queue is named by a [`Key`]. `parking_lot_core` keeps one table of queues for the whole
//! process, keyed by a `usize` that every user takes from an address of his own. Memory is
//! reused: where a lock was, a `parking_lot::Condvar` may be tomorrow, while an unlock of the
//! old lock is still on its way to the queue. So our keys are never an address that a stranger
//! could own (see [`Key`]); whoever is found under one of our keys is one of our waiters, and
//! his park token means what we put into it.

use crate::fork;

cfg_select! {
    lockword_loom => {
        mod model;
        #[cfg(test)]
        pub(crate) use model::{begin, expire};
        pub(crate) use model::{park, unpark};
    }
    _ => {
        mod lot;
        #[cfg(unix)]
        mod own;
        pub(crate) use lot::{park, unpark};
        #[cfg(unix)]
        pub(crate) use own::forget;
    }
}
pub(crate) use parking_lot_core::FilterOp as Pick;

/// The name of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key(usize);

/// What a key stands for: a lock and a Condvar at one address have two queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Domain {
    /// Threads that wait for a lock.
    Lock = 0,
    /// Threads that wait for a notification.
    Condvar = 1,
}

impl Key {
    /// The queue of the object at `addr`.
    ///
    /// With 64-bit pointers an address has 56 bits to itself; above them, the topmost byte of
    /// ours is one that no address of user space has there: systems leave it 0, fill it with
    /// ones, or put a tag into it (0xB4 in Android's heap). It is 0x80 for locks and 0xC0 for
    /// Condvars.
    #[cfg(target_pointer_width = "64")]
    pub(crate) fn new(domain: Domain, addr: usize) -> Self {
        // Mixed into the bits above 48, of which few are in use.
        let generation = (fork::generation() as usize & 0xFF) << 48;
        let top = 0x80 | ((domain as usize) << 6);
        Key(((addr & ((1 << 56) - 1)) ^ generation) | (top << 56))
    }

    /// The queue of the object at `addr`.
    ///
    /// With fewer bits every value may be an address, but for the first page, which no system
    /// with threads maps. The keys are the even (locks) and odd (Condvars) addresses there.
    /// Several objects share a queue then, which is why a waiter's token names the object.
    #[cfg(not(target_pointer_width = "64"))]
    pub(crate) fn new(domain: Domain, addr: usize) -> Self {
        let mixed =
            (addr ^ (fork::generation() as usize).rotate_right(8)).wrapping_mul(0x9E37_79B9);
        Key((mixed >> (usize::BITS - 10)) * 2 + 2 + domain as usize)
    }
}

/// How a [`park`] ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Parked {
    /// Taken out of the queue by somebody, with this message.
    Woken(usize),
    /// `validate` said no: never in the queue.
    Invalid,
    /// The deadline has passed; this thread took itself out of the queue.
    TimedOut,
}
