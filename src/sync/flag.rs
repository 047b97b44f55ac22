//! [`Flag`]: whether a panic has gone through a section.
//!
//! All accesses are Relaxed: the flag is changed by holders of the lock only (but for
//! [`Flag::clear`], which promises nothing about sections under way), and the lock orders them.

use crate::primitive::{AtomicBool, Ordering};
use std::sync::{LockResult, PoisonError};
use std::thread;

/// The poison flag of a mutex.
pub(super) struct Flag(AtomicBool);

/// What a section remembers of its beginning: one that begins during a panic (in a destructor)
/// does not poison.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    panicking: bool,
}

impl Flag {
    pub(super) const fn new() -> Self {
        Flag(AtomicBool::new(false))
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// A section begins.
    #[inline]
    pub(super) fn enter() -> Entry {
        Entry { panicking: thread::panicking() }
    }

    /// A section ends.
    #[inline]
    pub(super) fn leave(&self, entry: Entry) {
        if !entry.panicking && thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// `value`, as an error if the flag is set.
    #[inline]
    pub(super) fn wrap<T>(&self, value: T) -> LockResult<T> {
        if self.is_set() { Err(PoisonError::new(value)) } else { Ok(value) }
    }
}
