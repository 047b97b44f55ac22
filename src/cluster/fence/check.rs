//! The check of a token that the resource itself keeps.

use super::super::key::Key;
use super::super::token::FencingToken;
use super::Stale;
use std::error::Error;
use std::fmt;

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
