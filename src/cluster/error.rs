//! What can go wrong for the user of a lock.

use super::guard::LossReason;
use super::key::{Key, KeyError};
use super::protocol::register::Unreadable;
use super::transport::TransportError;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Where it went wrong: the key, and the engine's name ([`Capabilities::name`]).
///
/// [`Capabilities::name`]: super::Capabilities::name
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockContext {
    /// The key.
    pub key: Key,
    /// The engine's name.
    pub transport: &'static str,
}

impl fmt::Display for LockContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" over {}", self.key, self.transport)
    }
}

/// Why a lock was not acquired, or why a key could not be looked at.
///
/// Its text says what was tried, on which key, over which engine, and what can be done. Cheap to
/// clone: one failure is told to many waiters.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LockError {
    /// The name is no key.
    Key(KeyError),
    /// Only from `try_acquire`: somebody holds the lock, or waits for it.
    Busy {
        /// Where.
        at: LockContext,
        /// The label of the node that holds it, if it is known and is another one.
        holder: Option<String>,
    },
    /// Only from `acquire_timeout`: the time was over first.
    TimedOut {
        /// Where.
        at: LockContext,
        /// How long it was waited for.
        after: Duration,
    },
    /// The node was shut down or dropped, or its runtime is gone.
    Closed {
        /// Where.
        at: LockContext,
    },
    /// Only from the blocking interface: the thread runs the very runtime that the node needs, and
    /// would wait for itself.
    WouldDeadlock {
        /// Where.
        at: LockContext,
    },
    /// The engine's error: one that does not pass by itself, or one that has lasted for longer than
    /// the node's patience.
    Transport {
        /// Where.
        at: LockContext,
        /// What was tried.
        tried: &'static str,
        /// What went wrong.
        source: TransportError,
    },
    /// The value of the key is not understood. It is left as it is.
    Unreadable {
        /// Where.
        at: LockContext,
        /// Why not.
        source: Unreadable,
    },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(why) => write!(f, "there is no such lock: {why}"),
            Self::Busy { at, holder: Some(holder) } => {
                write!(f, "the lock {at} is held by {holder:?}; try later, or wait by acquire")
            }
            Self::Busy { at, holder: None } => {
                write!(f, "the lock {at} is taken or waited for; try later, or wait by acquire")
            }
            Self::TimedOut { at, after } => {
                write!(f, "the lock {at} was not acquired in {after:?}; wait longer, or ask who ")?;
                write!(f, "holds it by inspect")
            }
            Self::Closed { at } => write!(
                f,
                "the lock {at} cannot be acquired: its node was shut down or dropped, or the \
                 node's runtime is gone; keep the Node for as long as its locks are used"
            ),
            Self::WouldDeadlock { at } => write!(
                f,
                "the lock {at} cannot be waited for by this thread, which runs the node's \
                 current-thread runtime; use the async lock here, or give the node another runtime"
            ),
            Self::Transport { at, tried, source } => {
                write!(f, "{tried} the lock {at} failed: {source}; {}", advice(tried, source))
            }
            Self::Unreadable { at, source } => write!(f, "the lock {at} is not usable: {source}"),
        }
    }
}

/// What [`LockError::Transport`] says of an operator's break.
pub(crate) const BREAKING: &str = "breaking";

/// What can be done about an engine's error.
fn advice(tried: &str, error: &TransportError) -> &'static str {
    match error {
        TransportError::Indeterminate(_) if tried == BREAKING => {
            "the lock may be broken: look at it by inspect before you try again"
        }
        TransportError::Indeterminate(_) => "whatever was written is undone; try again",
        TransportError::Unavailable(_) => "check that the engine runs and can be reached",
        TransportError::Denied(_) => "check the credentials and the permissions",
        TransportError::Unsupported(_) => "check the engine's version and its limits",
        TransportError::Corrupt(_) => "check that nothing else answers at the engine's address",
    }
}

impl Error for LockError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Key(why) => Some(why),
            Self::Transport { source, .. } => Some(source),
            Self::Unreadable { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<KeyError> for LockError {
    fn from(why: KeyError) -> Self {
        Self::Key(why)
    }
}

/// What a release found out: the lock was not held up to it, or it cannot be said.
///
/// In either case it is not held any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseError {
    /// It had been lost before: another node may have held it meanwhile.
    Lost {
        /// Where.
        at: LockContext,
        /// Why.
        why: LossReason,
    },
    /// The engine did not say, before the lease was over, whether the lock was still held.
    Indeterminate {
        /// Where.
        at: LockContext,
    },
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { at, why } => write!(
                f,
                "the lock {at} was lost before it was released: {why}; check what was done under \
                 it by the fencing token"
            ),
            Self::Indeterminate { at } => write!(
                f,
                "the lock {at} is released, but whether it was held until then is not known: the \
                 engine's response did not come in time; check what was done under it by the \
                 fencing token"
            ),
        }
    }
}

impl Error for ReleaseError {}

/// Why a node could not be built: which setting, what was given, what is allowed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// A setting is out of its range.
    OutOfRange {
        /// The method of [`NodeBuilder`](super::NodeBuilder) that sets it.
        setting: &'static str,
        /// What was given.
        given: String,
        /// What is allowed.
        allowed: String,
    },
    /// The transport's [`largest_value`](super::Capabilities::largest_value) leaves no room for a
    /// queue.
    SmallValues {
        /// The engine's name.
        transport: &'static str,
        /// Its largest value, in bytes.
        largest: usize,
    },
    /// The runtime has no timers, or no I/O driver, or its own thread could not be started.
    Runtime {
        /// What failed.
        why: Arc<std::io::Error>,
    },
    /// The system gave no random number for the node.
    Random {
        /// What failed.
        why: Arc<std::io::Error>,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { setting, given, allowed } => {
                write!(f, "{setting} is {given}, but must be {allowed}")
            }
            Self::SmallValues { transport, largest } => write!(
                f,
                "{transport} stores values of up to {largest} bytes, too few for a queue: at least \
                 1024 are needed"
            ),
            Self::Runtime { why } => write!(
                f,
                "the node's background task cannot run: {why}; build the runtime by enable_all"
            ),
            Self::Random { why } => write!(f, "the system gave no random number: {why}"),
        }
    }
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Runtime { why } | Self::Random { why } => Some(&**why),
            _ => None,
        }
    }
}
