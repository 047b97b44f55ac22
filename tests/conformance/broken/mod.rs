//! Transports around the engine in memory, each with one bug.

pub mod drops;
pub mod reads;
pub mod versions;
pub mod watches;
pub mod writes;

use lockword::cluster::layers::Intercept;
use lockword::cluster::{Exchange, Key, Memory, Transport, TransportError, Versioned, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub type Loaded = Result<Option<Versioned>, TransportError>;
pub type Exchanged = Result<Exchange, TransportError>;

/// A client of the engine in memory, with a bug.
pub type Broken<B> = Intercept<Memory, Arc<B>>;

/// Is true once in so many times.
pub struct Every(u64, AtomicU64);

impl Every {
    pub fn new(times: u64) -> Self {
        Self(times, AtomicU64::new(0))
    }

    pub fn is_it(&self) -> bool {
        self.1.fetch_add(1, Relaxed) % self.0 == self.0 - 1
    }
}

/// Writes, whatever the register holds.
pub async fn overwrite(engine: &Memory, key: &Key, new: Write) -> Exchanged {
    loop {
        let version = engine.load(key).await?.map(|found| found.version);
        let response = engine.compare_exchange(key, version, new.clone()).await?;
        if let Exchange::Swapped(_) = response {
            return Ok(response);
        }
    }
}
