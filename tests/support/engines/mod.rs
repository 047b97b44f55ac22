//! The engines that their tests start, and the faults that the tests inject.
#![allow(dead_code, reason = "not every engine needs all of it")]

#[cfg(target_os = "linux")]
pub mod dir;
pub mod disk;
pub mod engine;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "etcd")]
pub mod etcd_client;
pub mod namespace;
pub mod network;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod process;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "redis")]
pub mod redis_cluster;
#[cfg(feature = "redis")]
pub mod redis_sentinel;
pub mod relay;
