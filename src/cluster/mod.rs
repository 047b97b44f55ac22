#![doc = include_str!("story.md")]

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod __fuzz;
mod admin;
pub mod blocking;
mod builder;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod engines;
mod error;
pub mod fence;
mod guard;
mod key;
pub mod layers;
mod local;
mod lock;
mod node;
mod observer;
mod protocol;
#[cfg(test)]
mod sim;
mod time;
mod token;
pub mod transport;

pub use admin::{ForcedRelease, KeyState, LockStatus, QueuedNode};
pub use async_trait::async_trait;
pub use builder::NodeBuilder;
pub use engines::{ConnectError, Memory, connect};
pub use error::{ConfigError, LockContext, LockError, ReleaseError};
pub use guard::{AcquiredVia, DistributedGuard, LossReason};
pub use key::{Key, KeyError};
pub use lock::DistributedLock;
pub use node::{Node, Shutdown};
pub use observer::{Observer, ReleaseOutcome, RemoteOperation};
pub use protocol::Unreadable;
pub use token::FencingToken;
pub use transport::{
    Capabilities, Cause, Consistency, Exchange, NodeId, Transport, TransportError, Version,
    Versioned, Wake, Wakeups, Watch, Write,
};
