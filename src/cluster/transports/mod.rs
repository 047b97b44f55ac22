//! Engines, each in a file of its own that knows no other.

// In this process: the default, and the reference implementation.
mod memory;
// PostgreSQL.
#[cfg(feature = "postgres")]
pub mod postgres;

pub use memory::Memory;
