//! A prefix of keys: that for which an engine has a floor of its own, or a role rights.

use crate::cluster::Key;
use std::fmt;

/// What the names begin with under which `layers::Sealed` stores registers.
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
const SEALED: &str = "@sealed/";

/// The register that it reads before all others: see `layers::sealed::mark`.
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
pub(super) const SEALED_MARK: &str = "@lockword-sealed";

/// The prefixes of a key, the shortest first, but for the empty one.
#[cfg(any(feature = "redis", feature = "postgres"))]
pub(super) fn of_key(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('/').map(|(at, _)| &key[..=at])
}

/// A prefix of keys: what could be a key, and ends with a slash.
///
/// So it has no character that is special in a pattern of Redis or in a literal of SQL.
pub(super) struct Prefix(Key);

impl Prefix {
    /// # Errors
    ///
    /// Why it is none.
    pub(super) fn new(prefix: &str) -> Result<Self, String> {
        let key =
            Key::new(prefix).map_err(|why| format!("{prefix:?} is no prefix of keys: {why}"))?;
        if !prefix.ends_with('/') {
            return Err(format!(
                "{prefix:?} is no prefix of keys: it must end with a slash, since other names than \
                 {prefix}/... begin with it, too"
            ));
        }
        Ok(Self(key))
    }

    /// Whether the keys are stored names of `layers::Sealed`, which needs the right to read its mark.
    #[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
    pub(super) fn is_sealed(&self) -> bool {
        self.0.as_str().starts_with(SEALED)
    }

    /// The shorter prefixes of the same keys, but for the empty one.
    #[cfg(any(feature = "redis", feature = "postgres"))]
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
