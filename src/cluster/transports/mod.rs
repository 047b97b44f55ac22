//! Engines, each in a file of its own that knows no other.

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
