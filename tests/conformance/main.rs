//! The conformance suite passes sound transports, and catches broken ones.
//!
//! - `sound.rs`: the engine in memory, with and without faults that a sound transport may have;
//! - `caught.rs`: each broken transport is caught, by the law that it breaks, in every run;
//! - `broken/`: the broken transports;
//! - `declared.rs`: what an engine has declared that it may lose;
//! - `polling.rs`: engines that wake nobody;
//! - `faulty.rs`, `counting.rs`: the layers do what they say.

mod broken;
mod caught;
mod counting;
mod declared;
mod faulty;
mod polling;
mod sound;
