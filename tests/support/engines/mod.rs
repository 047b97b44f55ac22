//! The servers that the tests of the engines start, and the faults that the tests inject.
#![allow(dead_code, reason = "not every engine needs all of it")]

pub mod disk;
pub mod engine;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod namespace;
pub mod network;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod process;
#[cfg(feature = "redis")]
pub mod redis;
pub mod relay;
