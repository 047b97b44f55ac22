//! One lock, shared by many nodes.

#![allow(dead_code, reason = "under construction")]

// What the fuzz targets need of the inside.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod __fuzz;
// What the resource behind a lock does about a late holder.
pub mod fence;
// The name of a lock.
mod key;
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
// What an engine has to offer.
pub mod transport;

pub use async_trait::async_trait;
pub use key::{Key, KeyError};
pub use register::Unreadable;
pub use token::FencingToken;
pub use transport::{
    Capabilities, Cause, Consistency, Exchange, NodeId, Transport, TransportError, Version,
    Versioned, Wake, Wakeups, Watch, Write,
};
