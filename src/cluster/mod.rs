#![doc = include_str!("story.md")]

// The same for plain threads.
pub mod blocking;
// The node's clock.
mod clock;
// How a node is built.
mod config;
// Checks a transport against the laws.
#[cfg(feature = "conformance")]
pub mod conformance;
// What the handles of a node and its driver share.
mod core;
// The one task of a node.
mod driver;
// Which thread runs it.
mod driving;
// What can go wrong for the user of a lock.
mod error;
// What the fuzz targets need of the inside.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod __fuzz;
// What the resource behind a lock does about a late holder.
pub mod fence;
// The lock is held.
mod guard;
// An engine by its address.
mod connect;
// The name of a lock.
mod key;
// Transports around a transport: faults, counts.
pub mod layers;
// Where the tasks and threads of a node meet.
mod local;
// A key of a node, to be locked.
mod lock;
// How the driver is called.
mod mailbox;
// A process's membership.
mod node;
// What happens, for those who count.
mod observer;
// The pure state machine of one node and one key.
mod protocol;
// What the value of a key holds.
mod register;
// Many nodes in virtual time, with all that can go wrong.
#[cfg(test)]
mod simulation;
// Moments on one node's clock.
mod time;
// The number that a late writer is refused by.
mod token;
// Spans and events for `tracing`.
mod trace;
// What an engine has to offer.
pub mod transport;
// The engines.
pub mod transports;

pub use async_trait::async_trait;
pub use config::NodeBuilder;
pub use connect::{ConnectError, connect};
pub use error::{ConfigError, LockError, Place, ReleaseError};
pub use guard::{DistributedGuard, LossReason, Way};
pub use key::{Key, KeyError};
pub use lock::DistributedLock;
pub use node::{Broken, KeyState, Node, Possession, Queued, Shutdown};
pub use observer::{Observer, Released, Remote};
pub use register::Unreadable;
pub use token::FencingToken;
pub use transport::{
    Capabilities, Cause, Consistency, Exchange, NodeId, Transport, TransportError, Version,
    Versioned, Wake, Wakeups, Watch, Write,
};
pub use transports::Memory;
