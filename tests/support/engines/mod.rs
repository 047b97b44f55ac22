//! Servers for the tests of the engines, and what is done to them.
#![allow(dead_code, reason = "not every engine needs all of it")]

// A disk that can be filled.
pub mod disk;
// What every engine's servers have.
pub mod engine;
// A network that can be cut.
pub mod cable;
// A relay that is silent for a while.
pub mod moody;
// Where processes are started.
pub mod namespace;
// A server's process.
pub mod process;
// What goes wrong between a client and a server.
pub mod wire;

#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
