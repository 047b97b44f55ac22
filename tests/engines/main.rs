//! The engines, against servers that the tests start. The tests of a server that is not installed are
//! skipped, with a line on standard error; with `LOCKWORD_ENGINES=required` in the environment that is a
//! failure. Tests that need namespaces or mounts are skipped where the system does not permit them, as
//! for a user other than root.
#![cfg(unix)]

#[path = "../support/engines/mod.rs"]
mod support;

#[cfg(target_os = "linux")]
#[path = "../support/child.rs"]
mod child;
#[cfg(target_os = "linux")]
mod dir;
#[cfg(feature = "etcd")]
mod etcd;
mod fencing;
#[cfg(target_os = "linux")]
#[path = "../support/forked.rs"]
mod forked;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(target_os = "linux")]
#[path = "../support/seccomp.rs"]
#[allow(dead_code, reason = "the tests of the core refuse more")]
mod seccomp;
#[cfg(any(feature = "redis", all(feature = "postgres", target_os = "linux")))]
mod sharded;
mod suite;
