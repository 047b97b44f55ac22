//! The number that a late writer is refused by.

use super::transport::Version;
use std::fmt;

/// A number that is larger with every grant of a key, for ever: what the resource behind the lock
/// tells a late holder by.
///
/// It is the version of the holder's own write, shifted left by ten bits that count the handoffs
/// within the node. So it fits an `i64`, is never 0, and says nothing of time. Compare tokens of one
/// key only.
///
/// Its text is the number in decimal. Write it into JSON as a string: many readers of JSON take a
/// number for a float, and lose its last digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// How many tokens one version makes.
    pub(crate) const PER_VERSION: u32 = 1 << 10;

    /// The token of the `local_handoffs`th handoff after the write of this version. `None` if the
    /// version's tokens are used up.
    pub(crate) fn of(version: Version, local_handoffs: u32) -> Option<Self> {
        (local_handoffs < Self::PER_VERSION)
            .then(|| Self(version.get() * u64::from(Self::PER_VERSION) + u64::from(local_handoffs)))
    }

    /// The token of this number: what a resource reads back from where it keeps it.
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The number; below 2^62 if it was granted.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number for a database column without unsigned integers. Not negative if it was granted.
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
    use super::{FencingToken, Version};

    #[test]
    fn tokens_of_one_version_lie_between_those_of_its_neighbours() {
        let of = |version, local_handoffs| {
            FencingToken::of(Version::new(version).unwrap(), local_handoffs)
        };
        assert!(of(7, 0) < of(7, 1) && of(7, 1) < of(7, 1023) && of(7, 1023) < of(8, 0));
        assert_eq!(of(7, 1024), None);
        assert!(FencingToken::of(Version::MAX, 1023).unwrap().get_i64() > 0);
    }
}
