//! The in-process lock, seen from outside: what a user of the public types can rely on.
#![cfg(not(lockword_loom))]

mod behaviour;
mod condvar;
mod condvar_timed;
mod fair;
mod features;
mod layout;
mod reentrant;
mod rwlock;
#[cfg(target_os = "linux")]
mod slots;
mod soundness;
#[cfg(target_os = "linux")]
mod thread_locals;
mod timed;

#[cfg(target_os = "linux")]
#[path = "../support/asleep.rs"]
mod asleep;
#[cfg(target_os = "linux")]
#[path = "../support/slots.rs"]
mod slots_of;
#[path = "../support/within.rs"]
mod within;
