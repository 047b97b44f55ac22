#![doc = include_str!("../README.md")]

#[cfg(not(lockword_loom))]
#[doc = include_str!("migration.md")]
pub mod migration {}

// The asymmetric fence: light on the unlock path, heavy when parking.
mod barrier;
// The lock shared by nodes.
#[cfg(all(feature = "cluster", not(lockword_loom)))]
pub mod cluster;
// What must not compile.
#[cfg(doctest)]
mod compile_fail;
// The Condvar.
mod condvar;
// Measures locks under a load of one's own.
#[cfg(all(feature = "contention", not(lockword_loom)))]
pub mod contention;
// One awake waiter looks after a lock; grants.
mod duty;
// What a `fork` leaves behind.
mod fork;
// The static table that says whether anyone waits near an address.
mod lobby;
// `Mutex` and its kin, through `lock_api`.
#[cfg(not(lockword_loom))]
mod mutex;
// Where threads sleep.
mod park;
// Atomics, fences, clocks: the real ones, or loom's.
mod primitive;
// The waiters of a lock: who is woken, who is handed the lock.
mod queue;
// `RawLock`: try, spin, park; release and wake.
mod raw;
// How long to stay optimistic.
mod spin;
// When something was last done for a lock.
mod stamp;
// The twin of `std::sync`.
#[cfg(not(lockword_loom))]
pub mod sync;
// The lock word.
mod word;

// Store buffering on the hardware, with the barrier and without.
#[cfg(all(test, not(lockword_loom)))]
mod litmus;
// The loom models.
#[cfg(all(test, lockword_loom))]
mod models;

#[cfg(not(lockword_loom))]
pub use condvar::*;
#[cfg(not(lockword_loom))]
pub use mutex::*;
pub use raw::RawLock;

/// The crate that the guards come from: its traits are for code that is generic over locks.
#[cfg(not(lockword_loom))]
#[doc(no_inline)]
pub use lock_api;

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

/// The state of the bucket of an address, for tests and benches. Not part of the API.
#[cfg(not(lockword_loom))]
#[doc(hidden)]
pub use lobby::{BucketState as __BucketState, state as __bucket};
