//! Where threads sleep: `parking_lot_core` behind the few words that this crate needs.
//!
//! A queue is named by a [`Key`]. `parking_lot_core` keeps one table of queues for the whole
//! process, keyed by a `usize` that every user takes from an address of his own. Memory is
//! reused: where a lock was, a `parking_lot::Condvar` may be tomorrow, while an unlock of the
//! old lock is still on its way to the queue. So our keys are never an address that a stranger
//! could own (see [`Key`]); whoever is found under one of our keys is one of our waiters, and
//! his [`ParkToken`] means what we put into it.

use crate::fork;
use parking_lot_core as lot;
use std::time::Instant;

pub(crate) use lot::FilterOp as Pick;

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
    /// With 64-bit pointers the two topmost bits tell our keys from every address of user space
    /// (x86-64 and AArch64 give it at most 57 and 56 bits), and the generation lies in the bits
    /// below. Two of our objects may get one key only by a wrap of the generation.
    #[cfg(target_pointer_width = "64")]
    pub(crate) fn new(domain: Domain, addr: usize) -> Self {
        let generation = fork::generation() as usize & 0x1FFF;
        Key((addr ^ (generation << 48)) | (1 << 63) | ((domain as usize) << 62))
    }

    /// The queue of the object at `addr`.
    ///
    /// With fewer bits every value may be an address, but for the first page, which no system
    /// maps. The keys are the odd (locks) and even (Condvars) addresses there. Several objects
    /// share a queue then, which is why a waiter's token names the object.
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

/// Sleeps in the queue of `key` until somebody takes this thread out of it, or until `deadline`.
///
/// - `validate` runs under the queue's lock before this thread enters it;
/// - `before_sleep` runs without the lock, when the thread is in the queue;
/// - `on_timeout` runs under the queue's lock when the thread takes itself out.
///
/// None of them may panic; only `before_sleep` may call into this file.
///
/// # Safety
/// The callbacks keep to that, and `token` must mean what the wakers of this key take it for, until this call returns.
pub(crate) unsafe fn park(
    key: Key,
    token: usize,
    validate: impl FnOnce() -> bool,
    before_sleep: impl FnOnce(),
    on_timeout: impl FnOnce(),
    deadline: Option<Instant>,
) -> Parked {
    fork::watch();
    // SAFETY: the key is ours alone (see `Key`); the callbacks neither panic nor call back, by
    // the contract of this function.
    let result = unsafe {
        lot::park(
            key.0,
            validate,
            before_sleep,
            |_, _| on_timeout(),
            lot::ParkToken(token),
            deadline,
        )
    };
    match result {
        lot::ParkResult::Unparked(lot::UnparkToken(message)) => Parked::Woken(message),
        lot::ParkResult::Invalid => Parked::Invalid,
        lot::ParkResult::TimedOut => Parked::TimedOut,
    }
}

/// Goes through the queue of `key` from its head: `pick` says of each token whether that thread
/// leaves the queue (and is woken), stays, or ends the walk. `message` is then asked, still
/// under the queue's lock, what the woken threads are told; it gets their number. Returns the
/// number.
///
/// # Safety
/// Neither callback may panic or call into this file.
pub(crate) unsafe fn unpark(
    key: Key,
    mut pick: impl FnMut(usize) -> Pick,
    message: impl FnOnce(usize) -> usize,
) -> usize {
    // SAFETY: the key is ours alone; the callbacks neither panic nor call back.
    let result = unsafe {
        lot::unpark_filter(
            key.0,
            |lot::ParkToken(token)| pick(token),
            |result| lot::UnparkToken(message(result.unparked_threads)),
        )
    };
    result.unparked_threads
}
