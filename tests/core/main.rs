//! The in-process lock, seen from outside: what a user of the public types can rely on.
#![cfg(not(lockword_loom))]

mod behaviour;
mod condvar;
mod condvar_timed;
mod fair;
mod features;
mod layout;
mod reentrant;
mod soundness;
#[cfg(target_os = "linux")]
mod thread_locals;
mod timed;

#[cfg(target_os = "linux")]
#[path = "../support/asleep.rs"]
mod asleep;
#[path = "../support/within.rs"]
mod within;
