//! Wrappers around a transport: to observe it, to change what it does, to test with faults.
//!
//! - [`Intercept`] passes each operation to an [`Interceptor`] of your own.
//! - [`Counts`] is an interceptor that counts the operations.
//! - [`Faulty`] adds delays, losses, late writes and partitions, from a seed.

mod faulty;
mod intercept;

pub use faulty::{Faults, Faulty, Plan};
pub use intercept::{Counts, Intercept, Interceptor, Operations};
