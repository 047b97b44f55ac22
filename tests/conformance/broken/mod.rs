//! Transports around the engine in memory, each with one bug.

pub mod drops;
pub mod reads;
pub mod versions;
pub mod watches;
pub mod writes;

use lockword::cluster::{
    Capabilities, Exchange, Key, Memory, NodeId, Transport, TransportError, Version, Versioned,
    Watch, Write, async_trait,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub type Loaded = Result<Option<Versioned>, TransportError>;
pub type Exchanged = Result<Exchange, TransportError>;

/// What is done instead of what should be.
#[async_trait]
pub trait Bug: Send + Sync + 'static {
    async fn load(&self, engine: &Memory, key: &Key) -> Loaded {
        engine.load(key).await
    }

    async fn write(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        engine.compare_exchange(key, expected, new).await
    }

    async fn watch(
        &self,
        engine: &Memory,
        key: &Key,
        node: NodeId,
    ) -> Result<Watch, TransportError> {
        engine.watch(key, node).await
    }
}

/// A client of the engine in memory, with a bug.
pub struct Broken<B> {
    engine: Memory,
    bug: Arc<B>,
}

impl<B> Broken<B> {
    pub fn new(engine: &Memory, bug: Arc<B>) -> Self {
        Self { engine: engine.clone(), bug }
    }
}

#[async_trait]
impl<B: Bug> Transport for Broken<B> {
    async fn load(&self, key: &Key) -> Loaded {
        self.bug.load(&self.engine, key).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        self.bug.write(&self.engine, key, expected, new).await
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        self.bug.watch(&self.engine, key, node).await
    }

    fn capabilities(&self) -> Capabilities {
        self.engine.capabilities()
    }
}

/// Says yes once in so many times.
pub struct Every(u64, AtomicU64);

impl Every {
    pub fn new(times: u64) -> Self {
        Self(times, AtomicU64::new(0))
    }

    pub fn is_it(&self) -> bool {
        self.1.fetch_add(1, Relaxed) % self.0 == self.0 - 1
    }
}

/// Writes whatever is there.
pub async fn overwrite(engine: &Memory, key: &Key, new: Write) -> Exchanged {
    loop {
        let version = engine.load(key).await?.map(|found| found.version);
        let response = engine.compare_exchange(key, version, new.clone()).await?;
        if let Exchange::Swapped(_) = response {
            return Ok(response);
        }
    }
}
