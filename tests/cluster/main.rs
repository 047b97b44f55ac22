//! The cluster wing as a whole: nodes, locks and guards over the embedded engine, on a clock that
//! the tests wind.

// What a user writes; the answers of a quiet lock.
mod basic;
// Futures that are dropped at every point at which they wait.
mod cancel;
// Settings that are not allowed.
mod config;
// Grants not fetched, tokens that run out, texts, operators.
mod corners;
// How a node ends: shutdown, drop, a runtime that goes.
mod ends;
// A busy node.
mod load;
// Tasks and threads of one node.
mod local;
// Locks that are lost, or taken away.
mod loss;
// Engines that answer what they never should.
mod nonsense;
// What an observer is told.
mod observer;
mod support;
// Plain threads.
mod threads;
// Many workers and many nodes; faults.
mod workers;
