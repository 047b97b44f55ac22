//! Fencing: the resource behind a lock refuses requests of a holder that has lost the lock.
//!
//! # Why
//!
//! A lock that is shared by nodes is a lease: when nothing is heard of the holder, another node gets the
//! lock, since the holder may be dead. But the holder may also have been paused: by its machine, by a
//! garbage collector, or by a page fault on a slow disk. When it goes on, it first does what it was about
//! to do, and only then looks at a clock. No check of the lock can prevent that, since the holder may be
//! paused right after the check. Nor can it call back a request that is still in flight.
//!
//! So the resource has to tell a late holder from the present one. Each grant of a lock has a
//! [`FencingToken`], which is larger than those of all earlier grants, with the exceptions of
//! [what is guaranteed](crate::cluster#what-is-guaranteed): an engine that lost writes or was restored, and
//! copies of a node. The holder sends the token with every request. The resource remembers the largest
//! token that it has seen, and refuses smaller ones.
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
//! fn run(gate: Option<Gate>) -> Vec<&'static str> {
//!     let storage = Storage { gate, lines: RefCell::default() };
//!     let key = Key::new("jobs/report").unwrap();
//!     // The first node gets the lock, checks that it is valid, and is about to write. At this point
//!     // its machine is paused for longer than the lease.
//!     let first = FencingToken::from_u64(33);
//!     let about_to_write = || storage.append(&key, first, "33: total 10");
//!     // The lease ends. The second node gets the lock, and writes.
//!     let second = FencingToken::from_u64(34);
//!     assert!(storage.append(&key, second, "34: total 12"));
//!     // The first node goes on where it was.
//!     let accepted = about_to_write();
//!     assert_eq!(accepted, storage.gate.is_none());
//!     storage.lines.into_inner()
//! }
//!
//! // Without the gate, the older total is written last: the file is wrong.
//! assert_eq!(run(None), ["34: total 12", "33: total 10"]);
//! // With the gate, the late write is refused.
//! assert_eq!(run(Some(Gate::new())), ["34: total 12"]);
//! ```
//!
//! # Which check to use
//!
//! - If one process serves the resource to all: a [`Gate`] in that process.
//! - If the resource stores the token itself, and can compare and set in one step (a row of a database,
//!   an object in a store): one of the [recipes](#recipes), or [`check`], or [`compare`] in asynchronous
//!   code.
//! - If the resource can do neither, no lock can protect it from a late holder. The work has to be such
//!   that doing it twice does no harm.
//!
//! # Reads
//!
//! A request of a late holder passes for as long as no newer holder has sent one to this resource. So a
//! holder has to read with its token too, if it decides by that what to write: then no other holder can
//! have written in between.

//! # Recipes
//!
//! Each recipe compares the token and writes in one atomic step of the resource. An equal token passes:
//! a holder may write more than once, and may repeat a write of unknown outcome. The tests run the very
//! text that is shown here against PostgreSQL, Redis, etcd, and the in-memory store of the crate
//! `object_store`, with late writers and with two writers at a time.
//!
//! ## SQL
//!
//! The column is a `fence BIGINT NOT NULL DEFAULT 0`, and the parameter is [`FencingToken::get_i64`].
//!
#![doc = "```sql"]
#![doc = include_str!("fence_recipes/postgres.sql")]
#![doc = "```"]
//!
//! This must be one statement: a `SELECT` before the `UPDATE` lets another holder write in between. Where
//! the operation is a transaction of several statements, this is the first one, on a row that stands for
//! the lock; if it changes no row, roll the transaction back. The database locks that row until the
//! transaction ends. So what the transaction writes is refused or accepted as a whole, and no transaction
//! of another holder comes in between.
//!
//! ## Redis
//!
//! A script runs alone. The token goes into it as text ([`FencingToken::get`] in decimal). All keys that
//! the script writes have to be in one slot of a Redis Cluster.
//!
#![doc = "```lua"]
#![doc = include_str!("fence_recipes/redis.lua")]
#![doc = "```"]
//!
//! A Redis that can lose acknowledged writes can lose the token with them.
//!
//! ## etcd
//!
//! One `Txn` compares and writes, over the crate `etcd-client`:
//!
#![doc = "```rust,ignore"]
#![doc = include_str!("fence_recipes/etcd.rs")]
#![doc = "```"]
//!
//! ## Object stores
//!
//! A conditional put (`If-Match` with the ETag; `If-None-Match: *` for the first one) over the crate
//! `object_store`. The token is in the metadata of the object.
//!
#![doc = "```rust"]
#![doc = include_str!("fence_recipes/object_store.rs")]
#![doc = "```"]
//!
//! A store without conditional puts cannot refuse a late writer.

use super::key::Key;
use crate::Mutex;
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use super::transport::Version;

/// Remembers the largest token of each key in memory, and refuses smaller ones.
///
/// It keeps about 100 bytes and the key for each key that ever passed, until [`forget`](Gate::forget).
/// Nothing is stored on a disk: a new gate accepts any token of a key at first. Where that matters, store
/// the token with the data, and use [`check`].
///
/// Any number of threads may use a gate at a time.
///
/// ```
/// use lockword::cluster::{FencingToken, Key, fence::Gate};
///
/// let gate = Gate::new();
/// let key = Key::new("jobs/nightly").unwrap();
/// let (older, newer) = (FencingToken::from_u64(33), FencingToken::from_u64(34));
/// assert!(gate.pass(&key, older).is_ok());
/// assert!(gate.pass(&key, newer).is_ok());
/// assert!(gate.pass(&key, newer).is_ok(), "a holder may pass any number of times");
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

    /// Accepts `token`, and remembers it, unless a larger token of `key` has passed before.
    ///
    /// This only checks: a newer holder may pass before this caller has done its operation. If the
    /// operation runs in this process, use [`pass_and`](Gate::pass_and).
    ///
    /// # Errors
    ///
    /// [`Stale`] if a larger token has passed before.
    pub fn pass(&self, key: &Key, token: FencingToken) -> Result<(), Stale> {
        self.pass_and(key, token, || ())
    }

    /// As [`pass`](Gate::pass), and then calls `operation` before any other token of `key` can pass. So
    /// the operations of a key happen in the order of their tokens.
    ///
    /// Other keys do not wait. An operation that passes a token of the same key of the same gate waits
    /// for itself, for ever.
    ///
    /// # Errors
    ///
    /// [`Stale`] if a larger token has passed before. Then `operation` is not called.
    ///
    /// # Panics
    ///
    /// If `operation` panics, so does this. The token has passed all the same.
    pub fn pass_and<R>(
        &self,
        key: &Key,
        token: FencingToken,
        operation: impl FnOnce() -> R,
    ) -> Result<R, Stale> {
        let slot = self.keys.lock().entry(key.clone()).or_default().clone();
        let mut newest = slot.lock();
        compare(key, token, *newest)?;
        *newest = Some(token);
        Ok(operation())
    }

    /// The largest token of `key` that has passed. Waits while an operation of the key runs.
    #[must_use]
    pub fn newest(&self, key: &Key) -> Option<FencingToken> {
        let slot = self.keys.lock().get(key)?.clone();
        let newest = slot.lock();
        *newest
    }

    /// Forgets `key`, and frees its memory. Returns what [`newest`](Gate::newest) would have returned.
    ///
    /// From now on any token of the key passes again. So call this only when no late holder can exist any
    /// more, or when the data behind the key is gone.
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

/// A token was refused: a newer holder of the lock has used the resource.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stale {
    /// The key whose lock it is.
    pub key: Key,
    /// The token that was refused.
    pub token: FencingToken,
    /// The largest token that the resource has seen.
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

/// Compares `token` with the token that the resource has stored (`None`: it has stored none yet).
///
/// This is for code that loads and stores the token itself. Load and store have to be one atomic step of
/// the resource, or another holder can write in between.
///
/// # Errors
///
/// [`Stale`] if `stored` is larger than `token`.
pub fn compare(key: &Key, token: FencingToken, stored: Option<FencingToken>) -> Result<(), Stale> {
    match stored {
        Some(newest) if newest > token => Err(Stale { key: key.clone(), token, newest }),
        _ => Ok(()),
    }
}

/// What the `compare_and_set` of [`check`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It has stored the new token, and has carried out the operation.
    New,
    /// It has changed nothing. This is the token that is stored (`None`: none yet).
    Old(Option<FencingToken>),
}

/// Passes `token` at a resource that stores the token itself, by `compare_and_set(old, new)`.
///
/// In one atomic step, `compare_and_set` carries out the operation, stores `new`, and returns
/// [`Stored::New`]. Or it changes nothing, and returns the token that is stored: [`Stored::Old`]. Either
/// of these conditions will do:
///
/// - *The stored token is `old`* (an atomic, an object with an ETag). The first call has `old: None`;
///   the next one has the token that the call before returned, if that is not larger than `token`.
/// - *The stored token is not larger than `new`*, and `old` is ignored. The [recipe for
///   SQL](self#sql) does it so. If its statement has changed one row, return [`Stored::New`]. If it has
///   changed none, `SELECT fence` and return [`Stored::Old`].
///
/// ```
/// use lockword::cluster::{FencingToken, Key, fence::{self, CheckError, Stored}};
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
///         0 => Ok::<_, Infallible>(Stored::Old(Some(FencingToken::from_u64(
///             database.select_fence()? as u64,
///         )))),
///         _ => Ok(Stored::New),
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
/// - [`CheckError::Stale`] if the resource has stored a larger token. Nothing was changed.
/// - [`CheckError::Resource`] with the error of `compare_and_set`. Only that error can tell whether
///   anything was changed.
/// - [`CheckError::NotStored`] if `compare_and_set` returns the same token twice in a row, or a smaller
///   one than before. Then the resource does not store the token, or not in one step with the
///   comparison. A missing row is such a case.
pub fn check<E>(
    key: &Key,
    token: FencingToken,
    mut compare_and_set: impl FnMut(Option<FencingToken>, FencingToken) -> Result<Stored, E>,
) -> Result<(), CheckError<E>> {
    let mut found = None;
    let mut calls = 0_u32;
    loop {
        match compare_and_set(found, token).map_err(CheckError::Resource)? {
            Stored::New => return Ok(()),
            Stored::Old(stored) => {
                compare(key, token, stored).map_err(CheckError::Stale)?;
                // The stored token only grows. The first call had to guess it; the others know it.
                if stored < found || (stored == found && calls > 0) {
                    return Err(CheckError::NotStored { key: key.clone(), found: stored });
                }
                found = stored;
                calls += 1;
            }
        }
    }
}

/// Why a token did not pass [`check`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckError<E> {
    /// The token is too old.
    Stale(Stale),
    /// The resource failed.
    Resource(E),
    /// The resource does not store the token, or not in one step with the comparison.
    NotStored {
        /// The key whose lock it is.
        key: Key,
        /// The token that the resource returned last.
        found: Option<FencingToken>,
    },
}

impl<E: fmt::Display> fmt::Display for CheckError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale(stale) => stale.fmt(f),
            Self::Resource(error) => write!(f, "the resource failed to check the token: {error}"),
            Self::NotStored { key, found } => {
                write!(f, "the resource does not store the token for {key}: it still has ")?;
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
            Self::NotStored { .. } => None,
        }
    }
}

/// A fencing token: a number that grows with every grant of a key, by which the resource behind the
/// lock tells a late holder from the present one. The exceptions are those of
/// [what is guaranteed](crate::cluster#what-is-guaranteed): an engine that lost writes or was restored, and
/// copies of a node.
///
/// A holder sends its token with each write to the resource. The resource keeps the largest token that
/// it has accepted and refuses every smaller one ([`fence`](crate::cluster::fence)).
///
/// The number is the version of the write that granted or renewed the lease, shifted left by ten
/// bits, plus the number of tokens already made from that version. So it fits an `i64` and is never 0.
/// An engine may derive versions from its clock; [law 2](crate::cluster::transport#the-laws) makes it
/// keep them growing when the clock steps back. Only tokens of the same key can be compared.
///
/// The text of a token is the number in decimal. Write it into JSON as a string: many readers of JSON
/// take a number for a float and lose its last digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The number of tokens that can be made of one version.
    pub(crate) const PER_VERSION: u32 = 1 << 10;

    /// The token of this version of which this many were made before. `None` if the tokens of the
    /// version are used up.
    pub(crate) fn of(version: Version, local_handoffs: u32) -> Option<Self> {
        (local_handoffs < Self::PER_VERSION)
            .then(|| Self(version.get() * u64::from(Self::PER_VERSION) + u64::from(local_handoffs)))
    }

    /// The token with this number, as a resource reads it back from its own storage.
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The number of the token. For a granted token it is below 2^62.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of the token as an `i64`, for databases without unsigned integers. For a granted
    /// token it is positive.
    #[must_use]
    pub const fn get_i64(self) -> i64 {
        self.0 as i64
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> u64 {
        token.0
    }
}

#[cfg(test)]
mod tests {
    use super::{CheckError, Gate, Stored, check};
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
    fn a_key_that_was_forgotten_accepts_any_token_again() {
        let gate = Gate::new();
        assert_eq!(gate.forget(&key("a")), None);
        gate.pass(&key("a"), token(5)).unwrap();
        assert_eq!(gate.forget(&key("a")), Some(token(5)));
        assert_eq!(gate.newest(&key("a")), None);
        gate.pass(&key("a"), token(1)).unwrap();
    }

    #[test]
    fn operations_of_many_threads_run_in_the_order_of_their_tokens() {
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
    fn a_resource_may_compare_with_the_stored_token() {
        let mut kept = None;
        let mut calls = 0;
        let mut pass = |number| {
            check(&key("a"), token(number), |old, new| {
                calls += 1;
                if old != kept {
                    return Ok::<_, Infallible>(Stored::Old(kept));
                }
                kept = Some(new);
                Ok(Stored::New)
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
    fn a_resource_that_stores_no_token_is_an_error() {
        for found in [None, Some(token(3))] {
            let error = check(&key("a"), token(5), |_, _| Ok::<_, Infallible>(Stored::Old(found)));
            assert_eq!(error, Err(CheckError::NotStored { key: key("a"), found }));
        }
        let mut shrinks = [4, 3].into_iter().map(token);
        let error =
            check(&key("a"), token(5), |_, _| Ok::<_, Infallible>(Stored::Old(shrinks.next())));
        assert!(matches!(error, Err(CheckError::NotStored { .. })), "{error:?}");
        let error = check(&key("a"), token(5), |_, _| Err("the disk is full"));
        assert_eq!(error, Err(CheckError::Resource("the disk is full")));
    }
}

#[cfg(test)]
mod token_tests {
    use super::{FencingToken, Version};

    #[test]
    fn tokens_grow_within_a_version_and_between_versions() {
        let of = |version, local_handoffs| {
            FencingToken::of(Version::new(version).unwrap(), local_handoffs)
        };
        assert!(of(7, 0) < of(7, 1) && of(7, 1) < of(7, 1023) && of(7, 1023) < of(8, 0));
        assert_eq!(of(7, 1024), None);
        assert!(FencingToken::of(Version::MAX, 1023).unwrap().get_i64() > 0);
    }
}
