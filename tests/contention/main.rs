//! The contract of `lockword::contention`: every setting of a load has its documented effect,
//! within bounds that hold on a busy machine too.
#![cfg(not(lockword_loom))]

mod comparison;
mod errors;
mod load;
mod report;
mod stalls;
