#![doc = include_str!("../README.md")]

mod barrier;
#[cfg(doctest)]
mod compile_fail;
mod condvar;
mod duty;
mod fork;
mod lobby;
#[cfg(not(lockword_loom))]
mod mutex;
mod park;
mod primitive;
mod queue;
mod raw;
mod spin;
mod word;

#[cfg(all(test, not(lockword_loom)))]
mod litmus;
#[cfg(all(test, lockword_loom))]
mod models;

#[cfg(not(lockword_loom))]
pub use condvar::*;
#[cfg(not(lockword_loom))]
pub use mutex::*;
pub use raw::RawLock;

/// Gets ready for the first contended lock: registers the process with the kernel for the
/// barrier of the slow path, and the handlers for `fork`.
///
/// Nobody needs to call it. Without it the first thread that ever parks registers, which in a
/// process that has threads already can take some milliseconds. Call it early in `main`, before
/// threads are started, if such a delay matters. It cannot fail: where the kernel refuses, locks
/// work by other means (see the platform table in the crate documentation).
///
/// Call it before a `fork`, too, if other users of `parking_lot_core` (`parking_lot`, say) may have
/// threads parked then: a child whose parent never registered parks in their table, in which those
/// threads remain.
#[cfg(not(lockword_loom))]
pub fn init() {
    fork::watch();
    lobby::prepare();
}

/// The lobby's bucket of an address: for benches that look for neighbours. Not part of the API.
#[cfg(not(lockword_loom))]
#[doc(hidden)]
pub fn __bucket_of(addr: usize) -> usize {
    lobby::index(addr)
}

/// The state of an address's bucket: for the message of a test that hangs. Not part of the API.
#[cfg(not(lockword_loom))]
#[doc(hidden)]
pub fn __describe(addr: usize) -> String {
    lobby::describe(addr)
}
