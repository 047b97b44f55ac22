//! Runs sequences of operations over several locks and condition variables, on several threads,
//! against a sequential model.
//!
//! A controller (the fuzzer's thread) sends one command at a time to one of a few actor threads
//! and compares what they answer with the [`model`]. An operation that the model says must block
//! is left pending, and other actors go on; once the model frees the lock, exactly one of those
//! who want it must report that it has it.
//!
//! `cargo +nightly fuzz run operations -- -max_total_time=30`
#![no_main]

mod actor;
mod asleep;
mod controller;
mod model;
mod step;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|steps: Vec<step::Step>| controller::run(&steps));
