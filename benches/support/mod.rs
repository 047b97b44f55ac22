//! What the benches share beside `lockword::contention`, which has the locks, the load generator
//! and the statistics: one file a concept.
//!
//! - [`condvar`]: adapters over condition variables
//! - [`roster`]: who takes part, and the round-robin that interleaves them
//! - [`table`]: plain aligned text tables, and the verdict on each target
//! - [`timing`]: the table and the report of benches that measure one time a slice
//! - [`options`]: quick mode, cell filter, choice of locks, number of rounds
//! - [`report`]: the samples as a criterion report
#![allow(dead_code, reason = "each bench is a crate of its own and uses only some of this")]

pub mod condvar;
pub mod options;
pub mod report;
pub mod roster;
pub mod table;
pub mod timing;
