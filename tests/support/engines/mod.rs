//! Servers for the tests of the engines, and what is done to them.
#![allow(dead_code, reason = "not every engine needs all of it")]

// A server's process.
pub mod process;

#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "redis")]
pub mod redis;
// What goes wrong between a client and a server.
pub mod relay;

#[cfg(feature = "postgres")]
pub mod postgres;
