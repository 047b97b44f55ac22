//! The cluster wing as a whole: nodes, locks and guards over the embedded engine, on a clock that
//! the tests wind.

// What a user writes; the answers of a quiet lock.
mod basic;
// Futures that are dropped at every point at which they wait.
mod cancel;
// Settings that are not allowed.
mod config;
// How a node ends: shutdown, drop, a runtime that goes.
mod ends;
// Tasks and threads of one node.
mod local;
// Locks that are lost, or taken away.
mod loss;
// What an observer is told.
mod observer;
mod r1;
mod support;
// Plain threads.
mod threads;
// Many workers and many nodes; faults.
mod workers;
