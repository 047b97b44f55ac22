//! The engines, against servers of the tests' own. What is not installed is skipped, with a line that
//! says so; with `LOCKWORD_ENGINES=required` in the environment it is a failure. What the system does
//! not permit is always skipped: namespaces and mounts, to one who is not root.
#![cfg(unix)]

#[path = "../support/engines/mod.rs"]
mod support;

#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
mod suite;
