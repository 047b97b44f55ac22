//! Engines, each in a file of its own that knows no other.

// An attempt to connect.
#[cfg(any(feature = "postgres", feature = "redis"))]
mod attempt;
// etcd.
#[cfg(feature = "etcd")]
pub mod etcd;
// In this process: the default, and the reference implementation.
mod memory;
// Redis and Valkey.
#[cfg(feature = "redis")]
pub mod redis;
// PostgreSQL.
#[cfg(feature = "postgres")]
pub mod postgres;

pub use memory::Memory;
