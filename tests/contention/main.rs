//! The load generator, from outside: each test shows that a knob does what it says, with bounds
//! that a busy machine cannot break.
#![cfg(not(lockword_loom))]

mod errors;
mod knobs;
mod report;
mod runs;
mod stalls;
