//! The engines, against servers that the tests start.
#![cfg(unix)]

#[cfg(feature = "redis")]
mod redis;
