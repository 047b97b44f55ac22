//! Many nodes in one thread, in true time that a queue of events makes: the simulator.
//!
//! Every node is the real state machine, with a driver and threads that are modelled: they want the
//! lock, hold it, hand it off among each other, use the resource behind it with their tokens, give
//! it back, give up. The engine is a model too: one atomic register for each key. Between them, and
//! to them, happens what can happen: messages are late, lost, doubled; processes sleep, die and
//! begin anew; clocks run wrong, and stand still with their virtual machine; an operator breaks the
//! lock. Then all is calm, and everybody must get what they wait for.
//!
//! All comes from one number, the seed: the same seed is the same history, to the letter.
//!
//! | to do what | how |
//! |---|---|
//! | run more seeds | `LOCKWORD_SEEDS=20000 cargo test --features cluster,conformance --lib cluster::sim` |
//! | see one again | `LOCKWORD_PROFILE=storm LOCKWORD_SEED=17`, with `replay -- --nocapture` at the end |
//!
//! What is checked is in [`checks`]; what a run goes through, in [`profile`].

mod checks;
mod network;
mod node;
mod profile;
mod runs;
mod scenarios;
mod world;
