//! The engines, and how to connect to one by its address. No engine knows another.

pub(crate) mod connect;
#[cfg(feature = "etcd")]
pub mod etcd;
mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;

pub use connect::{ConnectError, connect};
pub use memory::Memory;
