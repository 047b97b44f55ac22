//! The errors of nodes, locks and guards.

use super::guard::LossReason;
use super::key::{Key, KeyError};
#[cfg(feature = "sealed")]
use super::layers::SealError;
use super::protocol::register::Unreadable;
use super::transport::{TransportError, Version};
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The context of an error: the key, and the name of the engine ([`Capabilities::name`]).
///
/// [`Capabilities::name`]: super::Capabilities::name
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockContext {
    /// The key.
    pub key: Key,
    /// The name of the engine.
    pub transport: &'static str,
}

impl fmt::Display for LockContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" over {}", self.key, self.transport)
    }
}

/// Why a lock was not acquired, or why a key could not be inspected or broken.
///
/// The text says what was tried, on which key, over which engine, and what the user can do. A clone is
/// cheap: one failure goes to all waiters.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LockError {
    /// The name is not a valid key.
    Key(KeyError),
    /// Only from `try_acquire` and `try_acquire_or_outlast`: someone holds the lock or waits for it.
    Busy {
        /// The key and the engine.
        at: LockContext,
        /// The label of the node that holds the lock, without control characters and cut after 64 bytes.
        /// `None` if that is this node, or if it is not known.
        holder: Option<String>,
    },
    /// Only from `acquire_timeout`: the timeout passed first.
    TimedOut {
        /// The key and the engine.
        at: LockContext,
        /// The timeout.
        after: Duration,
        /// What is wrong: the last error of the engine, that it has not responded, or that the request was
        /// queued in the node, for at least half of the timeout, or that the node's background task has not run
        /// since the call began. `None`: others held the lock.
        last: Option<TransportError>,
    },
    /// The node was shut down or dropped, its runtime is gone, or this is a forked child of the process
    /// that built the node.
    Closed {
        /// The key and the engine.
        at: LockContext,
    },
    /// Only from [`blocking`](super::blocking): the thread runs the node's background task, or code that a
    /// node has called, such as an [`Observer`](super::Observer), and would wait for itself.
    WouldDeadlock {
        /// The key and the engine.
        at: LockContext,
    },
    /// The engine failed. From `acquire`, `acquire_timeout` and `try_acquire_or_outlast`: with an error
    /// that is not [transient](TransportError::is_transient), or for longer than the node's
    /// [unavailable timeout](super::NodeBuilder::unavailable_timeout); or that long there were more requests than it
    /// responds to in time ([overload](super#how-it-works)). From `try_acquire`, `inspect` and
    /// `break_lock`: once, with any error.
    Transport {
        /// The key and the engine.
        at: LockContext,
        /// What was tried, as a word of the text: `acquiring`, `inspecting` or `breaking`.
        tried: &'static str,
        /// The error of the engine.
        source: TransportError,
    },
    /// The engine has a value for the key that is not a lock of this crate. It is left as it is.
    Unreadable {
        /// The key and the engine.
        at: LockContext,
        /// What is wrong with the value.
        source: Unreadable,
    },
    /// The engine shows an older version of the key than before, and does not declare that it may:
    /// see [an engine that goes back](super::transport#an-engine-that-goes-back), which says how to
    /// reset it.
    EngineWentBack {
        /// The key and the engine.
        at: LockContext,
        /// The version that the engine shows.
        shown: Version,
        /// The largest version that it has shown before.
        newest: Version,
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
            Self::TimedOut { at, after, last: Some(last) } => {
                write!(f, "the lock {at} was not acquired in {after:?}: {last}; ")?;
                f.write_str(advice("acquiring", last))
            }
            Self::TimedOut { at, after, last: None } => {
                write!(f, "the lock {at} was not acquired in {after:?}; wait longer, or ask who ")?;
                write!(f, "holds it by inspect")
            }
            Self::Closed { at } => write!(
                f,
                "the lock {at} cannot be acquired: its node was shut down or dropped, the node's \
                 runtime is gone, or this process was forked since; keep the Node for as long as \
                 its locks are used, and build another one in a forked child"
            ),
            Self::WouldDeadlock { at } => write!(
                f,
                "the lock {at} cannot be waited for by this thread, which runs the node's background \
                 task or code that this has called (an observer, a transport, a waker); use the async \
                 lock here, wait on another thread, or give the node another runtime"
            ),
            Self::Transport { at, tried, source } => {
                write!(f, "{tried} the lock {at} failed: {source}; {}", advice(tried, source))
            }
            Self::Unreadable { at, source } => write!(f, "the lock {at} is not usable: {source}"),
            Self::EngineWentBack { at, shown, newest } => write!(
                f,
                "the lock {at} is not usable: the engine shows version {shown} of it, after version \
                 {newest}, so it was restored from a backup, or has lost writes, or is another one; \
                 raise its versions above {newest} (the documentation of `transport` says how)"
            ),
        }
    }
}

/// What was tried, in [`LockError::Transport`] from [`Node::inspect`](super::Node::inspect).
pub(crate) const INSPECTING: &str = "inspecting";

/// What was tried, in [`LockError::Transport`] from [`Node::break_lock`](super::Node::break_lock).
pub(crate) const BREAKING: &str = "breaking";

/// Why a request got nowhere: the node's background task does not run.
#[derive(Debug)]
pub(crate) struct TaskNotRun {
    /// Since it has run last; `None` if it never has.
    pub(crate) silent_for: Option<Duration>,
    /// The node was given its runtime.
    pub(crate) is_given: bool,
}

impl fmt::Display for TaskNotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.is_given {
            true => "nothing runs the runtime that the node was given",
            false => "the thread on which nodes run is blocked, or gets no processor",
        })?;
        match self.silent_for {
            Some(time) => {
                write!(f, ": the node's background task has not run for the last {time:?}")
            }
            None => write!(f, ": the node's background task has never run"),
        }
    }
}

impl Error for TaskNotRun {}

/// What the user can do about an error of the engine.
fn advice(tried: &str, error: &TransportError) -> &'static str {
    #[cfg(feature = "sealed")]
    if let Some(why) = error.source().and_then(|cause| cause.downcast_ref::<SealError>()) {
        return why.advice();
    }
    match error {
        _ if error.source().is_some_and(|cause| cause.is::<TaskNotRun>()) => {
            "see that a thread drives it, and that nothing blocks that thread"
        }
        TransportError::Indeterminate(_) if tried == BREAKING => {
            "the lock may be broken: look at it by inspect before you try again"
        }
        TransportError::Indeterminate(_) => {
            "the node undoes the write if it took effect; try again"
        }
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
            Self::Transport { source, .. } | Self::TimedOut { last: Some(source), .. } => {
                Some(source)
            }
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

/// The lock was not held up to its release, or that is not known.
///
/// In either case the guard does not hold it any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The lock was lost before the release: another node may have held it meanwhile.
    Lost {
        /// The key and the engine.
        at: LockContext,
        /// Why it was lost.
        why: LossReason,
    },
    /// It is not known whether the lock was held up to its release. The lease ended without an answer of the
    /// engine, or the write that releases the lock had an unknown outcome, or the call was a
    /// [`blocking`](super::blocking) one on a thread that would wait for itself, and did not wait. Other nodes
    /// get the lock after the end of the lease at the latest.
    Indeterminate {
        /// The key and the engine.
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

/// Why a value was not [published](super::DistributedGuard::publish).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The value is longer than 256 bytes, counted with the backslashes that JSON needs, or it has control characters
    /// or marks of the direction of writing. Nothing has changed.
    InvalidValue {
        /// The key and the engine.
        at: LockContext,
        /// How long it is, in bytes.
        len: usize,
    },
    /// The lock was acquired [without renewal](super::DistributedLock::without_renewal), and it is a renewal that
    /// carries the value. Nothing has changed.
    NotRenewed {
        /// The key and the engine.
        at: LockContext,
    },
    /// Only from [`blocking`](super::blocking): the thread would wait for itself, as with
    /// [`LockError::WouldDeadlock`]. Nothing has changed.
    WouldDeadlock {
        /// The key and the engine.
        at: LockContext,
    },
    /// The lock was lost before the engine has confirmed the value.
    Lost {
        /// The key and the engine.
        at: LockContext,
        /// Why it was lost.
        why: LossReason,
    },
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidValue { at, len } => write!(
                f,
                "the value ({len} bytes) is not published with the lock {at}: it may have {} bytes and no control \
                 characters; publish where it is to be found instead",
                super::guard::MAX_PUBLISHED
            ),
            Self::NotRenewed { at } => write!(
                f,
                "nothing is published with the lock {at}, which was acquired without renewal; acquire it with renewal"
            ),
            Self::WouldDeadlock { at } => write!(
                f,
                "nothing is published with the lock {at} by this thread, which would wait for itself; use the async \
                 guard here, or another thread"
            ),
            Self::Lost { at, why } => {
                write!(f, "the lock {at} was lost before the value was published: {why}")
            }
        }
    }
}

impl Error for PublishError {}

/// Why a node could not be built.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// A setting is out of its range.
    OutOfRange {
        /// The name of the setting, and of its method of [`NodeBuilder`](super::NodeBuilder).
        setting: &'static str,
        /// The value that was given.
        given: String,
        /// The values that are allowed.
        allowed: String,
    },
    /// The transport's [`largest_value`](super::Capabilities::largest_value) leaves no room for a
    /// queue.
    SmallValues {
        /// The name of the engine.
        transport: &'static str,
        /// The largest value that the engine can store, in bytes.
        largest: usize,
    },
    /// The runtime that was given has no timers or no I/O enabled.
    Runtime {
        /// The error of the system.
        why: Arc<std::io::Error>,
    },
    /// The thread on which nodes run could not be started.
    Thread {
        /// The error of the system.
        why: Arc<std::io::Error>,
    },
    /// The system gave no random number for the node.
    Random {
        /// The error of the system.
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
                "{transport} stores values of up to {largest} bytes, too few for a queue: set its \
                 limit to at least 1344 bytes, or use another engine"
            ),
            Self::Runtime { why } => write!(
                f,
                "the node's background task cannot run: {why}; build the runtime by enable_all"
            ),
            Self::Thread { why } => write!(
                f,
                "the thread on which nodes run cannot be started: {why}; raise the limits of threads \
                 and open files, or give the node a runtime"
            ),
            Self::Random { why } => write!(
                f,
                "the system gave no random number: {why}; let the process read the system's random \
                 source (a sandbox may forbid it), then try again"
            ),
        }
    }
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Runtime { why } | Self::Thread { why } | Self::Random { why } => Some(&**why),
            _ => None,
        }
    }
}
