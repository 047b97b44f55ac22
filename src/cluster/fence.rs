//! What the resource behind a lock does: it refuses a holder whose time is over.
//!
//! # Why
//!
//! A lock that nodes share is a lease: it goes on without a holder that is not heard of, since the
//! holder may be dead. But the holder may also have been asleep: stopped by its machine, by a
//! collector of garbage, by a page that had to come from a slow disk. When it goes on, it does what
//! it was about to do, and only afterwards looks at a clock. No lock can help, since whatever the
//! lock is asked, the holder can fall asleep after the answer. Nor can a message be called back that
//! is still in flight.
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
use std::error::Error;
use std::fmt;
use std::sync::Arc;

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

// The check of a token that the resource itself keeps.
/// Whether `token` may pass where `kept` is the largest token so far (`None`: there was none).
///
/// The comparison alone, for code that fetches and stores the token by itself. Fetching and storing
/// must be one step, or another holder comes in between.
///
/// # Errors
///
/// [`Stale`] if `kept` is larger.
pub fn compare(key: &Key, token: FencingToken, kept: Option<FencingToken>) -> Result<(), Stale> {
    match kept {
        Some(newest) if newest > token => Err(Stale { key: key.clone(), token, newest }),
        _ => Ok(()),
    }
}

/// What a resource did when it was to replace the token that it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It keeps the new token now, and has done what was to be done with it.
    New,
    /// It did nothing: it keeps this token (`None`: none yet).
    Old(Option<FencingToken>),
}

/// Lets `token` pass at a resource that keeps the token itself: by `compare_and_set(old, new)`.
///
/// `compare_and_set` does the deed and stores `new`, in one step, and answers [`Kept::New`]; or it
/// does nothing and answers what is kept, [`Kept::Old`]. Either condition serves:
///
/// - *the token that is kept is `old`* (an atomic, an object with an ETag). It is first called with
///   `old: None`, and once more with whatever was found, as long as that is not larger than `token`.
/// - *the token that is kept is not larger than `new`*; then `old` is ignored. That is how a database
///   does it, in one statement:
///
/// ```sql
/// UPDATE accounts SET balance = $2, fence = $1 WHERE id = $3 AND fence <= $1
/// ```
///
/// One row was changed: [`Kept::New`]. None was: `SELECT fence`, which is [`Kept::Old`]. The column
/// is a `BIGINT NOT NULL DEFAULT 0`, and its number [`FencingToken::get_i64`].
///
/// ```
/// use lockword::cluster::{FencingToken, Key, fence::{self, CheckError, Kept}};
/// # use std::{cell::Cell, convert::Infallible};
/// # struct Database { fence: Cell<i64>, balance: Cell<i64> }
/// # impl Database {
/// #     fn update(&self, fence: i64, balance: i64) -> Result<u64, Infallible> {
/// #         if self.fence.get() > fence { return Ok(0) }
/// #         self.fence.set(fence);
/// #         self.balance.set(balance);
/// #         Ok(1)
/// #     }
/// #     fn select_fence(&self) -> Result<i64, Infallible> { Ok(self.fence.get()) }
/// # }
/// # let database = Database { fence: Cell::new(0), balance: Cell::new(0) };
///
/// let key = Key::new("accounts/7").unwrap();
/// let set_balance = |token, balance| {
///     fence::check(&key, token, |_old, new| match database.update(new.get_i64(), balance)? {
///         0 => Ok::<_, Infallible>(Kept::Old(Some(FencingToken::from_u64(
///             database.select_fence()? as u64,
///         )))),
///         _ => Ok(Kept::New),
///     })
/// };
/// set_balance(FencingToken::from_u64(34), 12).unwrap();
/// let late = set_balance(FencingToken::from_u64(33), 10).unwrap_err();
/// assert!(matches!(late, CheckError::Stale(stale) if stale.newest.get() == 34));
/// assert_eq!(database.balance.get(), 12);
/// ```
///
/// # Errors
///
/// - [`CheckError::Stale`] if the resource keeps a larger token. Nothing was done.
/// - [`CheckError::Resource`] if `compare_and_set` failed: with its error. Whether anything was done
///   is for it to say.
/// - [`CheckError::NotKept`] if it answers twice in a row that it keeps the same token, or a smaller
///   one than before: no token is stored there, or not in one step. (A row that is missing looks
///   like that.)
pub fn check<E>(
    key: &Key,
    token: FencingToken,
    mut compare_and_set: impl FnMut(Option<FencingToken>, FencingToken) -> Result<Kept, E>,
) -> Result<(), CheckError<E>> {
    let mut found = None;
    let mut calls = 0_u32;
    loop {
        match compare_and_set(found, token).map_err(CheckError::Resource)? {
            Kept::New => return Ok(()),
            Kept::Old(kept) => {
                compare(key, token, kept).map_err(CheckError::Stale)?;
                // What is kept only grows. The first call guessed, the others knew.
                if kept < found || (kept == found && calls > 0) {
                    return Err(CheckError::NotKept { key: key.clone(), found: kept });
                }
                found = kept;
                calls += 1;
            }
        }
    }
}

/// Why a token did not pass [`check`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckError<E> {
    /// It is too old.
    Stale(Stale),
    /// The resource failed.
    Resource(E),
    /// The resource does not keep the token, or not in one step with comparing it.
    NotKept {
        /// The key whose lock it is.
        key: Key,
        /// What the resource says it keeps.
        found: Option<FencingToken>,
    },
}

impl<E: fmt::Display> fmt::Display for CheckError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale(stale) => stale.fmt(f),
            Self::Resource(error) => write!(f, "the resource failed to check the token: {error}"),
            Self::NotKept { key, found } => {
                write!(f, "the resource does not keep the token for {key}: it still has ")?;
                match found {
                    Some(found) => write!(f, "{found}"),
                    None => write!(f, "none; is its row missing?"),
                }
            }
        }
    }
}

impl<E: Error + 'static> Error for CheckError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Stale(stale) => Some(stale),
            Self::Resource(error) => Some(error),
            Self::NotKept { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CheckError, Gate, Kept, check};
    use crate::cluster::{FencingToken, Key};
    use std::convert::Infallible;
    use std::thread;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn token(number: u64) -> FencingToken {
        FencingToken::from_u64(number)
    }

    #[test]
    fn a_smaller_token_is_refused_and_told_why() {
        let gate = Gate::new();
        gate.pass(&key("a"), token(5)).unwrap();
        gate.pass(&key("a"), token(5)).unwrap();
        gate.pass(&key("a"), token(6)).unwrap();
        let stale = gate.pass(&key("a"), token(5)).unwrap_err();
        assert_eq!((stale.key.as_str(), stale.token.get(), stale.newest.get()), ("a", 5, 6));
        assert!(stale.to_string().contains("token 5 for a is too old: 6 has been here"), "{stale}");
        assert_eq!(gate.newest(&key("a")), Some(token(6)), "a refused token is not remembered");
        gate.pass(&key("b"), token(1)).unwrap();
    }

    #[test]
    fn what_is_forgotten_passes_again() {
        let gate = Gate::new();
        assert_eq!(gate.forget(&key("a")), None);
        gate.pass(&key("a"), token(5)).unwrap();
        assert_eq!(gate.forget(&key("a")), Some(token(5)));
        assert_eq!(gate.newest(&key("a")), None);
        gate.pass(&key("a"), token(1)).unwrap();
    }

    #[test]
    fn deeds_of_many_threads_are_done_in_the_order_of_their_tokens() {
        let (gate, key, done) = (Gate::new(), key("a"), crate::Mutex::new(vec![]));
        thread::scope(|scope| {
            for first in 0..4 {
                let (gate, key, done) = (&gate, &key, &done);
                scope.spawn(move || {
                    for number in (first..400).step_by(4) {
                        let token = token(number);
                        let _ = gate.pass_and(key, token, || done.lock().push(token));
                    }
                });
            }
        });
        let done = done.into_inner();
        assert!(!done.is_empty() && done.is_sorted(), "{done:?}");
        assert_eq!(done.last(), Some(&token(399)), "the largest always passes");
    }

    #[test]
    fn a_resource_that_compares_with_what_it_kept() {
        let mut kept = None;
        let mut calls = 0;
        let mut pass = |number| {
            check(&key("a"), token(number), |old, new| {
                calls += 1;
                if old != kept {
                    return Ok::<_, Infallible>(Kept::Old(kept));
                }
                kept = Some(new);
                Ok(Kept::New)
            })
        };
        pass(5).unwrap();
        pass(7).unwrap();
        pass(7).unwrap();
        assert!(
            matches!(pass(6).unwrap_err(), CheckError::Stale(stale) if stale.newest == token(7))
        );
        assert_eq!((kept, calls), (Some(token(7)), 6));
    }

    #[test]
    fn a_resource_that_keeps_nothing_is_found_out() {
        for found in [None, Some(token(3))] {
            let error = check(&key("a"), token(5), |_, _| Ok::<_, Infallible>(Kept::Old(found)));
            assert_eq!(error, Err(CheckError::NotKept { key: key("a"), found }));
        }
        let mut shrinks = [4, 3].into_iter().map(token);
        let error =
            check(&key("a"), token(5), |_, _| Ok::<_, Infallible>(Kept::Old(shrinks.next())));
        assert!(matches!(error, Err(CheckError::NotKept { .. })), "{error:?}");
        let error = check(&key("a"), token(5), |_, _| Err("the disk is full"));
        assert_eq!(error, Err(CheckError::Resource("the disk is full")));
    }
}
