//! The prefix of keys for which an engine has a floor of its own.

use crate::cluster::{Key, TransportError};
use std::fmt;

/// The prefixes of a key, the shortest first, but for the empty one.
pub(super) fn of_key(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('/').map(|(at, _)| &key[..=at])
}

/// A prefix of keys: what could be a key, and ends with a slash.
pub(super) struct Prefix(Key);

impl Prefix {
    /// # Errors
    ///
    /// [`TransportError::Unsupported`] if it is none.
    pub(super) fn new(prefix: &str) -> Result<Self, TransportError> {
        let key = Key::new(prefix).map_err(|why| {
            TransportError::unsupported(format!("{prefix:?} is no prefix of keys: {why}"))
        })?;
        if !prefix.ends_with('/') {
            let why = format!("{prefix:?} is no prefix of keys: it must end with a slash");
            return Err(TransportError::unsupported(why));
        }
        Ok(Self(key))
    }

    /// The shorter prefixes of the same keys, but for the empty one.
    pub(super) fn above(&self) -> impl Iterator<Item = &str> {
        let text = self.0.as_str();
        of_key(&text[..text.len() - 1])
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
