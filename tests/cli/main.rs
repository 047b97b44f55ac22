//! The contract of the program `lockword`: its output, files and exit status.
//!
//! - `support.rs` starts the program, and has a folder for each test; `locks.rs` has what the tests of locks
//!   share;
//! - `bench.rs` measures and writes files, `baseline.rs` compares reports;
//! - `refused.rs` has bad input, which must leave all files unchanged; `grants.rs` the commands that give rights;
//! - `run.rs` has `lockword run` with its exit statuses, `loss.rs` what becomes of the command when the lock
//!   is lost or `run` is killed, `job_control.rs` the same in a terminal, `operators.rs` the commands that
//!   show and break locks, `audit.rs` their trail, `engines.rs` all of them over servers, `schedules.rs` random kills and stops;
//! - `interrupt.rs` has Ctrl-C; `terminal.rs` has colours, the help and closed pipes.
//!
//! Loads are tiny, and no test depends on the value of a measured figure.
#![cfg(not(lockword_loom))]

#[cfg(target_os = "linux")]
#[path = "../support/child.rs"]
#[allow(dead_code, reason = "only the role is needed here")]
mod child;
#[cfg(target_os = "linux")]
#[path = "../support/random.rs"]
mod random;
#[cfg(all(target_os = "linux", any(feature = "etcd", feature = "postgres", feature = "redis")))]
#[path = "../support/engines/mod.rs"]
mod servers;

#[cfg(target_os = "linux")]
mod audit;
mod baseline;
mod bench;
#[cfg(all(target_os = "linux", any(feature = "etcd", feature = "postgres", feature = "redis")))]
mod engines;
mod grants;
#[cfg(unix)]
mod interrupt;
#[cfg(target_os = "linux")]
mod job_control;
#[cfg(target_os = "linux")]
mod loads;
mod locks;
#[cfg(target_os = "linux")]
mod loss;
#[cfg(target_os = "linux")]
mod operators;
mod refused;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod schedules;
#[cfg(target_os = "linux")]
mod sealed;
mod support;
mod terminal;
