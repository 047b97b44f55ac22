//! The real thing: `parking_lot_core`; in a child of `fork`, the lot of our own.

#[cfg(unix)]
use super::own;
use super::{Key, Parked, Pick};
#[cfg(unix)]
use crate::fork;
use parking_lot_core as lot;
use std::time::Instant;

/// Sleeps in the queue of `key` until somebody takes this thread out of it, or until `deadline`.
///
/// - `validate` runs under the queue's lock before this thread enters it;
/// - `before_sleep` runs without the lock, when the thread is in the queue;
/// - `on_timeout` runs under the queue's lock when the thread takes itself out.
///
/// None of them may panic; only `before_sleep` may call into this file.
///
/// # Safety
/// The callbacks keep to that, and `token` must mean what the wakers of this key take it for,
/// until this call returns.
pub(crate) unsafe fn park(
    key: Key,
    token: usize,
    validate: impl FnOnce() -> bool,
    before_sleep: impl FnOnce(),
    on_timeout: impl FnOnce(),
    deadline: Option<Instant>,
) -> Parked {
    #[cfg(unix)]
    if fork::generation() != 0 {
        // SAFETY: the caller's promise.
        return unsafe { own::park(key, token, validate, before_sleep, on_timeout, deadline) };
    }
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
    #[cfg(unix)]
    if fork::generation() != 0 {
        // SAFETY: the caller's promise.
        return unsafe { own::unpark(key, pick, message) };
    }
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
