//! Why a sealed register cannot be used.

use super::keys::{KeyId, Shown};
use super::mark;
use crate::cluster::{Key, TransportError, Version};
use std::error::Error;
use std::fmt;

/// Why [`Sealed`](super::Sealed) refuses what an engine has: the [`source`](Error::source) of its transport errors.
/// Nothing was written, and nothing is overwritten.
///
/// [`UnknownKey`](Self::UnknownKey), [`Format`](Self::Format), [`NameKey`](Self::NameKey) and
/// [`StoredName`](Self::StoredName) come as [`TransportError::Unsupported`], the others as
/// [`TransportError::Corrupt`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealError {
    /// The register has a value that is not sealed.
    NotSealed {
        /// The name of the register in the engine.
        stored: Key,
    },
    /// The value is sealed in a format that this version does not know.
    Format {
        /// The name of the register in the engine.
        stored: Key,
        /// The number of the format.
        format: u8,
    },
    /// The value is sealed with a key that this node does not have.
    UnknownKey {
        /// The name of the register in the engine.
        stored: Key,
        /// The number of that key, as `Debug` of [`SealKeys`](super::SealKeys) shows it.
        id: [u8; 8],
    },
    /// The value does not fit its seal: it was changed, or it belongs to another register.
    Forged {
        /// The name of the register in the engine.
        stored: Key,
    },
    /// An old value has come again: it was replayed, or the engine was restored or has lost writes.
    Replayed {
        /// The name of the register in the engine.
        stored: Key,
        /// The version that it has in the engine.
        version: Version,
        /// The version for which the value was made (`None`: for no register).
        expected: Option<Version>,
        /// The version that was seen before, if there is one.
        newest: Option<Version>,
    },
    /// Other nodes use this engine with another name key.
    NameKey {
        /// The number of their name key.
        theirs: [u8; 8],
        /// That of this one.
        ours: [u8; 8],
    },
    /// The engine has something else under the name `@lockword-sealed`.
    Mark,
    /// A write was to go to a lock by the name that its register has in the engine. The real name would be lost.
    StoredName {
        /// That name.
        stored: Key,
    },
}

impl SealError {
    /// The name, in the engine, of the register that is refused. `None` if the engine is: [`NameKey`](Self::NameKey)
    /// and [`Mark`](Self::Mark).
    #[must_use]
    pub fn stored(&self) -> Option<&Key> {
        match self {
            Self::NotSealed { stored }
            | Self::Format { stored, .. }
            | Self::UnknownKey { stored, .. }
            | Self::Forged { stored }
            | Self::Replayed { stored, .. }
            | Self::StoredName { stored } => Some(stored),
            Self::NameKey { .. } | Self::Mark => None,
        }
    }

    /// Why a register was refused, if it was.
    pub(super) fn of_register(error: &TransportError) -> Option<&Self> {
        let why = error.source()?.downcast_ref::<Self>()?;
        why.stored().map(|_| why)
    }

    /// What the user can do.
    pub(in crate::cluster) fn advice(&self) -> &'static str {
        match self {
            Self::NotSealed { .. } => {
                "see that all nodes have the keys, and who else writes to the engine"
            }
            Self::Format { .. } => "upgrade this node",
            Self::UnknownKey { .. } | Self::NameKey { .. } => {
                "give all nodes the same file of keys"
            }
            Self::Mark => "use another prefix or database",
            Self::Forged { .. } => {
                "see who else writes to the engine; delete the register when nobody holds the lock"
            }
            Self::Replayed { newest: None, .. } => {
                "see who has copied registers; delete this one when nobody holds the lock"
            }
            Self::Replayed { .. } => {
                "see who else writes to the engine, and whether it was restored; a node that is started now \
                 accepts what is there, and puts it right when it takes the lock, as `lockword run --no-wait KEY \
                 -- true` does if it is free, and `lockword break KEY` if it is not"
            }
            Self::StoredName { .. } => "use the name of the lock",
        }
    }

    pub(super) fn refused(self) -> TransportError {
        match self {
            Self::Format { .. }
            | Self::UnknownKey { .. }
            | Self::NameKey { .. }
            | Self::StoredName { .. } => TransportError::unsupported(self),
            _ => TransportError::corrupt(self),
        }
    }
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSealed { stored } => write!(f, "the register {stored} is not sealed"),
            Self::Format { stored, format } => {
                write!(
                    f,
                    "the register {stored} is sealed in format {format}; this version knows 1"
                )
            }
            Self::UnknownKey { stored, id } => {
                let id = Shown(*id);
                write!(
                    f,
                    "the register {stored} is sealed with the key {id}, which this node does not have"
                )
            }
            Self::Forged { stored } => write!(
                f,
                "the value of the register {stored} was changed, or belongs to another register: it does not \
                 fit its seal"
            ),
            Self::Replayed { stored, version, expected, newest } => {
                write!(
                    f,
                    "an old value has come again in the register {stored}, at version {version}: "
                )?;
                match expected {
                    Some(expected) => write!(f, "it was made to follow {expected}")?,
                    None => write!(f, "it was made for a new register")?,
                }
                match newest {
                    Some(newest) => write!(f, ", and version {newest} was seen before"),
                    None => Ok(()),
                }
            }
            Self::NameKey { theirs, ours } => {
                let [theirs, ours] = [theirs, ours].map(|id: &KeyId| Shown(*id));
                write!(
                    f,
                    "the nodes of this engine hash names with the key {theirs}, and this one with {ours}: it would \
                     lock other registers than they"
                )
            }
            Self::Mark => write!(
                f,
                "the engine has something else than the number of a name key under the key {:?}",
                mark::NAME
            ),
            Self::StoredName { stored } => {
                write!(f, "{stored} is how the engine names a lock, and not the name of one")
            }
        }
    }
}

impl Error for SealError {}
