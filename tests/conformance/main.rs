//! The conformance suite passes transports that keep the laws, and catches those that do not.
//!
//! - `sound.rs`: the engine in memory passes, with and without faults that the laws allow.
//! - `polling.rs`: engines without wake-ups pass, and are caught, and nodes poll them.
//! - `caught.rs`: each broken transport of `broken/` is caught in every run, by the law that it breaks.
//! - `history.rs`: the checks of a history, also of an engine that has declared that it may lose writes.
//! - `layers.rs`: the layers do what they say; `sharded.rs`: the one over several engines; `sealed.rs`: the one
//!   that keeps values and names secret.

mod broken;
mod caught;
mod history;
mod layers;
mod polling;
#[cfg(feature = "sealed")]
mod sealed;
mod sharded;
mod sound;
