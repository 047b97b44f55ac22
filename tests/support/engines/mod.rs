//! Servers for the tests of the engines, and what is done to them.
#![allow(dead_code, reason = "not every engine needs all of it")]

// Made on the spot.
pub mod certificates;
// What goes wrong between a client and a server.
pub mod proxy;
// A server's process.
pub mod process;

#[cfg(feature = "etcd")]
pub mod etcd;
