//! The contract of the program `lockword`: its output, files and exit status.
//!
//! - `support.rs` starts the program, and has a folder for each test;
//! - `bench.rs` measures and writes files, `baseline.rs` compares reports;
//! - `refused.rs` has bad input, which must leave all files unchanged;
//! - `interrupt.rs` has Ctrl-C; `terminal.rs` has colours, the help and closed pipes.
//!
//! Loads are tiny, and no test depends on the value of a measured figure.
#![cfg(not(lockword_loom))]

mod baseline;
mod bench;
#[cfg(unix)]
mod interrupt;
mod refused;
mod support;
mod terminal;
