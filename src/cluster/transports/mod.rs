//! Engines, each in a file of its own that knows no other.

// In this process: the default, and the reference implementation.
mod memory;
// Redis and Valkey.
#[cfg(feature = "redis")]
pub mod redis;

pub use memory::Memory;
