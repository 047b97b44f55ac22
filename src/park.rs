//! Where threads sleep: `parking_lot_core` behind the few words that this crate needs (and, in a
//! child of `fork`, a lot of our own behind the same words).
//!
//! A queue is named by a [`Key`]. `parking_lot_core` keeps one table of queues for the whole
//! process, keyed by a `usize` that every user takes from an address of its own. Memory is
//! reused: where a lock was, a `parking_lot::Condvar` may be tomorrow, while an unlock of the
//! old lock is still on its way to the queue. So our keys are never an address that a stranger
//! could own: they are the addresses of a table that belongs to this copy of the crate ([`KEYS`]),
//! chosen by a hash of the object's address. A thread found under one of our keys is one of our
//! waiters, and its park token means what we put into it. Objects can share a queue; the token
//! tells whom a waiter waits for.

use crate::lobby;

#[cfg(not(lockword_loom))]
mod lot;
#[cfg(lockword_loom)]
mod model;
#[cfg(all(unix, not(lockword_loom)))]
mod own;

#[cfg(not(lockword_loom))]
pub(crate) use lot::{park, unpark};
#[cfg(all(test, lockword_loom))]
pub(crate) use model::{begin, expire};
#[cfg(lockword_loom)]
pub(crate) use model::{park, unpark};
#[cfg(all(unix, not(lockword_loom)))]
pub(crate) use own::forget;
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

/// log2 of the number of queues of each [`Domain`].
#[cfg(not(lockword_loom))]
const BITS: u32 = 13;
/// In the models all locks share a queue.
#[cfg(lockword_loom)]
const BITS: u32 = 0;

/// Never read or written: only its addresses are used, and nobody else can have them. It is
/// `mut` so that it is laid out as zeroed memory, which the program's file does not contain.
static mut KEYS: [u8; 2 << BITS] = [0; 2 << BITS];

impl Key {
    /// The queue of the object at `addr`.
    pub(crate) fn new(domain: Domain, addr: usize) -> Self {
        let queue = if BITS == 0 { 0 } else { lobby::hash(addr) >> (usize::BITS - BITS) };
        Key((&raw const KEYS).addr() + 2 * queue + domain as usize)
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
