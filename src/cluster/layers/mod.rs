//! Transports around transports: to observe one, to change what it does, to test with faults, to use several.
//!
//! - [`Intercept`] passes each operation to an [`Interceptor`] of your own.
//! - [`Counts`] is an interceptor that counts the operations.
//! - [`Faulty`] adds delays, losses, late writes and partitions, from a seed.
//! - [`Sharded`] spreads the keys over several engines.
#![cfg_attr(
    feature = "sealed",
    doc = "- [`Sealed`] keeps values and names from whoever runs the engine (feature `sealed`)."
)]

mod faulty;
mod intercept;
#[cfg(feature = "sealed")]
mod sealed;
mod sharded;

pub use faulty::{Faults, Faulty, Plan};
pub use intercept::{Counts, Intercept, Interceptor, Operations};
#[cfg(feature = "sealed")]
pub use sealed::{SealError, SealKeys, SealKeysError, Sealed, is_sealed};
pub use sharded::{ShardError, Sharded};
