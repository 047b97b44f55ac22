//! What the benches share: one file a concept.
//!
//! - [`lock`]: the adapter traits over mutexes, and their implementations
//! - [`condvar`]: the same for condition variables
//! - [`roster`]: who takes part, and the round-robin that interleaves them
//! - [`load`]: a closed-loop load generator (throughput, fairness, CPU time)
//! - [`wait`]: threads that hold the lock long and re-lock at once (how long others wait)
//! - [`stats`]: medians, distribution-free confidence intervals, ratios
//! - [`table`]: plain aligned text tables, and the verdict on each target
//! - [`timing`]: the table and the report of benches that measure one time a slice
//! - [`options`]: quick mode, cell filter, choice of locks, number of rounds
//! - [`report`]: the samples as a criterion report
//! - [`system`]: CPU clock of a thread, pinning, the machine in words
#![allow(dead_code, reason = "each bench is a crate of its own and uses only some of this")]

pub mod condvar;
pub mod load;
pub mod lock;
pub mod options;
pub mod report;
pub mod roster;
pub mod stats;
pub mod system;
pub mod table;
pub mod timing;
pub mod wait;
