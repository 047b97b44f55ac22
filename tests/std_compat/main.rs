//! One source of tests, compiled twice: over `std::sync` and over `lockword::sync`. What passes
//! over both is what a program can rely on when it replaces the one by the other.
//!
//! The tests name only `super::sync`. Where the two may differ, for instance in which waiter is
//! woken first, the tests ask only for what std promises.
#![cfg(not(lockword_loom))]
#![allow(clippy::duplicate_mod, reason = "the suite is compiled twice on purpose")]

#[path = "suite"]
mod over_std {
    use std::sync;

    mod condvar;
    mod mutex;
    mod poison;
    mod programs;
    mod rwlock;
    mod types;
}

#[path = "suite"]
mod over_lockword {
    use lockword::sync;

    mod condvar;
    mod mutex;
    mod poison;
    mod programs;
    mod rwlock;
    mod types;
}

#[path = "../support/within.rs"]
mod within;
