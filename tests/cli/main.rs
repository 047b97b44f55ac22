//! The program `lockword`, as its users start it.
//!
//! - `support.rs` starts it, with a folder of its own, and a terminal where one is needed;
//! - `bench.rs` measures and writes files, `baseline.rs` compares;
//! - `refused.rs` is what must not be accepted, and what must survive it;
//! - `interrupt.rs` is Ctrl-C, `terminal.rs` is colours, help and readers that go away.
//!
//! Loads are tiny: no figure is looked at, only whether there is one.
#![cfg(not(lockword_loom))]

mod baseline;
mod bench;
#[cfg(unix)]
mod interrupt;
mod refused;
mod support;
mod terminal;
