//! What the resource behind a lock does: it refuses a holder whose time is over.
//!
//! # Why
//!
//! A lock that nodes share is a lease: it goes on without a holder that is not heard of, since the
//! holder may be dead. But the holder may also have been asleep: stopped by its machine, by a
//! collector of garbage, by a page that had to come from a slow disk. When it goes on, it does what
//! it was about to do, and only afterwards looks at a clock. No lock can help, since whatever the
//! lock is asked, the holder can fall asleep after the answer. Nor can a message be called back that
//! is still under way.
//!
//! So the resource has to tell a late holder from the present one. With each grant comes a
//! [`FencingToken`], which is larger than all before it. The holder sends it with every request, and
//! the resource remembers the largest that it has seen and refuses those that are smaller.
//!
//! The idea is that of the *sequencers* of Chubby (Burrows, "The Chubby lock service for
//! loosely-coupled distributed systems", OSDI 2006, section 2.4). The failure below, with its
//! numbers, is that of Kleppmann, "How to do distributed locking" (2016).
//!
//! # A failure, step by step
//!
//! ```
//! use lockword::cluster::{FencingToken, Key, fence::Gate};
//! # use std::cell::RefCell;
//!
//! /// A file that two nodes write, with the lock `jobs/report` held.
//! struct Storage {
//!     gate: Option<Gate>,
//!     lines: RefCell<Vec<&'static str>>,
//! }
//!
//! impl Storage {
//!     fn append(&self, key: &Key, token: FencingToken, line: &'static str) -> bool {
//!         let write = || self.lines.borrow_mut().push(line);
//!         match &self.gate {
//!             None => { write(); true }
//!             Some(gate) => gate.pass_and(key, token, write).is_ok(),
//!         }
//!     }
//! }
//!
//! fn story(gate: Option<Gate>) -> Vec<&'static str> {
//!     let storage = Storage { gate, lines: RefCell::default() };
//!     let key = Key::new("jobs/report").unwrap();
//!     // The first node is granted the lock, looks at its clock, finds that all is well, and is
//!     // about to write. Here its machine stops it, for longer than the lease.
//!     let first = FencingToken::from_u64(33);
//!     let about_to_write = || storage.append(&key, first, "33: total 10");
//!     // The lease is over. The second node is granted the lock, and writes.
//!     let second = FencingToken::from_u64(34);
//!     assert!(storage.append(&key, second, "34: total 12"));
//!     // The first goes on where it was.
//!     let accepted = about_to_write();
//!     assert_eq!(accepted, storage.gate.is_none());
//!     storage.lines.into_inner()
//! }
//!
//! // Without the gate the older total stands at the end: the file is wrong.
//! assert_eq!(story(None), ["34: total 12", "33: total 10"]);
//! // With it, the late write is refused.
//! assert_eq!(story(Some(Gate::new())), ["34: total 12"]);
//! ```
//!
//! # Which form
//!
//! - A resource that is one process, which everyone asks: a [`Gate`].
//! - A resource that keeps the token itself, and can compare and set in one step (a row of a
//!   database, an object in a store): [`check`], or [`compare`] where the code is asynchronous.
//! - A resource that can do neither cannot be protected from a late holder by any lock. Let the work
//!   be such that doing it twice does no harm.
//!
//! What no form can do: a request with a token that is *not* too old passes, also when its holder's
//! time is over, as long as no newer holder has come to this resource. So what a holder reads in order
//! to decide what to write has to be read with the token, too: then nobody was there in between.

use super::key::Key;
use super::token::FencingToken;
use crate::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

// A token that the resource keeps.
mod check;

pub use check::{CheckError, Kept, check, compare};

/// The largest token that was seen, for each key: refuses those that are smaller.
///
/// It forgets nothing by itself: about 100 bytes and the key for each key that ever passed, until
/// [`forget`](Gate::forget). It keeps nothing on a disk: a gate that begins anew lets every first
/// token pass. Where that matters, keep the token with the data, and use [`check`].
///
/// Any number of threads may use it at a time.
///
/// ```
/// use lockword::cluster::{FencingToken, Key, fence::Gate};
///
/// let gate = Gate::new();
/// let key = Key::new("jobs/nightly").unwrap();
/// let (older, newer) = (FencingToken::from_u64(33), FencingToken::from_u64(34));
/// assert!(gate.pass(&key, older).is_ok());
/// assert!(gate.pass(&key, newer).is_ok());
/// assert!(gate.pass(&key, newer).is_ok(), "a holder comes as often as it likes");
/// assert_eq!(gate.pass(&key, older).unwrap_err().newest, newer);
/// ```
#[derive(Default)]
pub struct Gate {
    keys: Mutex<HashMap<Key, Arc<Mutex<Option<FencingToken>>>>>,
}

impl Gate {
    /// A gate that has seen no token.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `token` pass, and remembers it, unless a larger one of `key` has passed before.
    ///
    /// What the caller does afterwards may still come after the deeds of a newer holder that passes
    /// in between. If the deed is done by this process, [`pass_and`](Gate::pass_and) keeps the order.
    ///
    /// # Errors
    ///
    /// [`Stale`] if a larger token has passed before.
    pub fn pass(&self, key: &Key, token: FencingToken) -> Result<(), Stale> {
        self.pass_and(key, token, || ())
    }

    /// Like [`pass`](Gate::pass), and does `deed` before any other token of `key` can pass: deeds
    /// happen in the order of their tokens.
    ///
    /// Other keys are not held up. A deed that passes a token of the same key of the same gate waits
    /// for itself, for ever. If the deed panics, the token has passed all the same.
    ///
    /// # Errors
    ///
    /// [`Stale`] if a larger token has passed before. Then `deed` is not done.
    pub fn pass_and<R>(
        &self,
        key: &Key,
        token: FencingToken,
        deed: impl FnOnce() -> R,
    ) -> Result<R, Stale> {
        let slot = self.keys.lock().entry(key.clone()).or_default().clone();
        let mut newest = slot.lock();
        compare(key, token, *newest)?;
        *newest = Some(token);
        Ok(deed())
    }

    /// The largest token of `key` that has passed. Waits for a deed of that key that is being done.
    #[must_use]
    pub fn newest(&self, key: &Key) -> Option<FencingToken> {
        let slot = self.keys.lock().get(key)?.clone();
        let newest = slot.lock();
        *newest
    }

    /// Forgets `key`, and frees its memory. Returns what [`newest`](Gate::newest) would have.
    ///
    /// From now on any token of the key passes again. So do it only when no late holder can come any
    /// more: when the data behind the key has gone, say.
    pub fn forget(&self, key: &Key) -> Option<FencingToken> {
        let slot = self.keys.lock().remove(key)?;
        let newest = slot.lock();
        *newest
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("keys", &self.keys.lock().len()).finish()
    }
}

/// A request came too late: somebody else has been granted the lock since, and has been here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stale {
    /// The key whose lock it is.
    pub key: Key,
    /// The token that was refused.
    pub token: FencingToken,
    /// The largest token that has been seen.
    pub newest: FencingToken,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the token {} for {} is too old: {} has been here; its holder has lost the lock and \
             must stop",
            self.token, self.key, self.newest
        )
    }
}

impl std::error::Error for Stale {}

#[cfg(test)]
mod tests;
