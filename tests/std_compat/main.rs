//! One source of tests, compiled twice: over `std::sync` and over `lockword::sync`. What passes
//! over both is what a program can rely on when it replaces the one by the other.
//!
//! The tests know only `super::sync`. Where the two may differ (in who is woken first, say) they
//! ask for what std promises.
#![cfg(not(lockword_loom))]
// Loading the same files twice is the point.
#![allow(clippy::duplicate_mod)]

mod over_lockword;
mod over_std;

#[path = "../support/within.rs"]
mod within;
