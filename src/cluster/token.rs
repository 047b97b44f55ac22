//! The fencing token: the number by which a resource refuses a late writer.

use super::transport::Version;
use std::fmt;

/// A fencing token: a number that grows with every grant of a key, by which the resource behind the
/// lock tells a late holder from the present one.
///
/// A holder sends its token with each write to the resource. The resource keeps the largest token that
/// it has accepted and refuses every smaller one ([`fence`](crate::cluster::fence)).
///
/// The number is the version of the write that granted or renewed the lease, shifted left by ten
/// bits, plus the number of handoffs within the node since that write. So it fits an `i64`, is never
/// 0, and does not depend on a clock. Only tokens of the same key can be compared.
///
/// The text of a token is the number in decimal. Write it into JSON as a string: many readers of JSON
/// take a number for a float and lose its last digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The number of tokens that can be made of one version.
    pub(crate) const PER_VERSION: u32 = 1 << 10;

    /// The token after this number of local handoffs since the write of this version. `None` if the
    /// tokens of the version are used up.
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
