//! What is wrong with a list of shards, or with one of them.

use crate::cluster::text::shown;
use crate::cluster::transport::TransportError;
use std::error::Error;
use std::fmt;

/// Why a list of shards cannot be used, or a shard failed.
///
/// The requests of [`Sharded`](super::Sharded) return it as the [cause](Error::source) of
/// [`TransportError::Unsupported`], except [`Engine`](Self::Engine), whose kind is that of the engine's error.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ShardError {
    /// The list has no shard.
    Empty,
    /// Two shards have the same name.
    Duplicate {
        /// The name.
        name: String,
    },
    /// A name is empty, has more than 64 bytes, or has another character than ASCII letters, digits, and `- _ .`.
    Name {
        /// The name, without control characters and cut after 64 bytes.
        name: String,
    },
    /// The shard is in use with another list. **With both, a key could have two holders.**
    Differs {
        /// The shard.
        shard: String,
        /// The names of this list.
        own: Vec<String>,
        /// The names of the list that is in force at the shard.
        found: Vec<String>,
    },
    /// The engine is in use as another shard: two addresses were exchanged, it seems. **With both names, a key could
    /// have two holders.**
    Misnamed {
        /// The shard in this list.
        shard: String,
        /// The name under which the engine is in use.
        found: String,
    },
    /// The list is being changed: see [`Sharded::change_to`](super::Sharded::change_to).
    Changing {
        /// The shard.
        shard: String,
        /// The names of the list that comes next.
        next: Vec<String>,
    },
    /// The list was changed, and changed back, since this [`Sharded`](super::Sharded) first used it.
    Changed {
        /// The shard.
        shard: String,
    },
    /// What the shard has under the reserved key is no list of shards of this format.
    Foreign {
        /// The shard.
        shard: String,
    },
    /// Versions above those that there were would exceed [`Version::MAX`](crate::cluster::Version::MAX).
    VersionsEnd,
    /// A shard failed.
    Engine {
        /// The shard.
        shard: String,
        /// Its error.
        source: TransportError,
    },
}

impl fmt::Display for ShardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the list of shards is empty: name at least one"),
            Self::Duplicate { name } => {
                write!(f, "two shards have the name {name:?}: each needs a name of its own")
            }
            Self::Name { name } => write!(
                f,
                "{name:?} is no name of a shard: use 1 to 64 ASCII letters, digits, - _ ."
            ),
            Self::Differs { shard, own, found } => write!(
                f,
                "the shard {shard:?} is in use with the list {}, and this one is {}: give all nodes \
                 the same list, or change it by change_to",
                Names(found),
                Names(own)
            ),
            Self::Misnamed { shard, found } => write!(
                f,
                "the engine of the shard {shard:?} is in use as the shard {:?}: give each address the \
                 name that it has in all other nodes",
                shown(found)
            ),
            Self::Changing { shard, next } => write!(
                f,
                "the list of the shard {shard:?} is being changed to {}: start the nodes with that \
                 list when change_to has ended; if it has failed, call it again",
                Names(next)
            ),
            Self::Changed { shard } => write!(
                f,
                "the list of the shard {shard:?} was changed and changed back: start this node again"
            ),
            Self::Foreign { shard } => write!(
                f,
                "the shard {shard:?} has something else than a list of shards under the key {:?}: use \
                 another prefix or database, or a newer lockword",
                super::mark::NAME
            ),
            Self::VersionsEnd => write!(
                f,
                "no version is left above those that the shards have had: use new engines, and new \
                 gates at the resources"
            ),
            Self::Engine { shard, source } => write!(f, "the shard {shard:?}: {source}"),
        }
    }
}

impl Error for ShardError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Engine { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The names of a list, which may be what another has written.
struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|name| shown(name))).finish()
    }
}

/// The error of a request that was not sent to the shard because of `why`.
pub(super) fn refused(why: ShardError) -> TransportError {
    match why {
        // Nothing of the request was written, whatever became of the mark.
        ShardError::Engine { shard, source: TransportError::Indeterminate(cause) } => {
            of_shard(&shard, TransportError::Unavailable(cause))
        }
        ShardError::Engine { shard, source } => of_shard(&shard, source),
        why => TransportError::unsupported(why),
    }
}

/// The error of a shard, of the same kind, with the name of the shard.
pub(super) fn of_shard(shard: &str, error: TransportError) -> TransportError {
    let kind = match &error {
        TransportError::Indeterminate(_) => TransportError::Indeterminate,
        TransportError::Unavailable(_) => TransportError::Unavailable,
        TransportError::Denied(_) => TransportError::Denied,
        TransportError::Unsupported(_) => TransportError::Unsupported,
        TransportError::Corrupt(_) => TransportError::Corrupt,
    };
    kind(OfShard { shard: shard.to_owned(), error }.into())
}

/// What a shard said, with its name.
#[derive(Debug)]
struct OfShard {
    shard: String,
    error: TransportError,
}

impl fmt::Display for OfShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the shard {:?}: ", self.shard)?;
        // Not the kind, which the error around this one names.
        self.error.source().map_or(Ok(()), |cause| write!(f, "{cause}"))
    }
}

impl Error for OfShard {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}
