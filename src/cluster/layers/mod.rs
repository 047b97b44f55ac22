//! Transports around transports: to observe one, to change what it does, to test with faults, to use several.
//!
//! - [`Intercept`] passes each operation to an [`Interceptor`] of your own.
//! - [`Counts`] is an interceptor that counts the operations.
//! - [`Faulty`] adds delays, losses, late writes and partitions, from a seed.
//! - [`Sharded`] spreads the keys over several engines.

mod faulty;
mod intercept;
mod sharded;

pub use faulty::{Faults, Faulty, Plan};
pub use intercept::{Counts, Intercept, Interceptor, Operations};
pub use sharded::{ShardError, Sharded};
