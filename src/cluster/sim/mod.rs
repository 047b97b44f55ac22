//! The simulator: many nodes in one thread, in virtual time.
//!
//! Every node runs the real state machine ([`Machine`](crate::cluster::protocol::Machine)). Its
//! driver and its threads are models: the threads acquire the lock, hand it to each other, use the
//! resource behind it with their tokens, release it, and cancel. The engine is a model too: one
//! atomic register for each key. A queue of events, ordered by true time, drives everything, and
//! faults are among the events. Messages are late, lost or duplicated. Processes sleep, die and are
//! replaced. Clocks run at a wrong rate, and stop with their virtual machine. An operator releases
//! the lock by force. Then the faults end, and every node must get the lock that it waits for.
//!
//! A run is determined by one number, the seed: the same seed gives the same event log, byte for
//! byte.
//!
//! | purpose | command |
//! |---|---|
//! | run more seeds | `LOCKWORD_SEEDS=20000 cargo test --features cluster,conformance --lib cluster::sim` |
//! | print one run | `LOCKWORD_PROFILE=storm LOCKWORD_SEED=17`, with `replay -- --nocapture` at the end |
//!
//! The rules are in [`checks`], the kinds of runs and their faults in [`profile`].

mod checks;
mod network;
mod node;
mod profile;
mod runs;
mod scenarios;
mod world;
