//! Transports around a transport.

// How many operations, of which kind.
mod counting;
// Delays, losses, late writes, partitions, from a seed.
mod faulty;

pub use counting::{Counting, Counts, Operations};
pub use faulty::{Faults, Faulty, Plan};
