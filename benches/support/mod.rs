//! What the benches share beside `lockword::contention`, which has the load generator and the
//! statistics.
//!
//! - [`beside`]: busy processes that run beside a measurement
//! - [`contenders`]: the locks that take part, and the round-robin that interleaves them
//! - [`options`]: quick mode, selection of cells and locks, number of rounds
//! - [`report`]: the samples as a criterion report, and the table of times
//! - [`stopwatch`]: wall-clock time and CPU time of a slice
//! - [`table`]: plain aligned text tables, and the verdict on each target
#![allow(dead_code, reason = "each bench is a crate of its own and uses only some of this")]

pub mod beside;
pub mod contenders;
pub mod options;
pub mod report;
pub mod stopwatch;
pub mod table;
