//! Loads and mismatches that show what is not there.

use super::{Every, Exchanged, Loaded};
use lockword::cluster::layers::Interceptor;
use lockword::cluster::{
    Exchange, Key, Memory, Transport, TransportError, Version, Versioned, Write, async_trait,
};
use std::collections::HashMap;
use std::sync::Mutex;
use tokio::task::yield_now;

/// What a replica has: it is one write behind.
#[derive(Default)]
struct Replica(Mutex<HashMap<Key, [Option<Versioned>; 2]>>);

impl Replica {
    fn wrote(&self, key: &Key, version: Version, value: std::sync::Arc<[u8]>) {
        let mut registers = self.0.lock().unwrap();
        let [before, last] = registers.entry(key.clone()).or_default();
        if last.as_ref().is_none_or(|last| last.version < version) {
            *before = last.replace(Versioned { version, value });
        }
    }

    fn shows(&self, key: &Key) -> Option<Versioned> {
        self.0.lock().unwrap().get(key).and_then(|[before, _]| before.clone())
    }

    async fn write(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        let value = new.value.clone();
        let response = engine.compare_exchange(key, expected, new).await?;
        if let Exchange::Swapped(version) = response {
            self.wrote(key, version, value);
        }
        Ok(response)
    }
}

/// Some loads show what a replica has.
pub struct StaleLoad(Replica, Every);

impl StaleLoad {
    pub fn new(every: Every) -> Self {
        Self(Replica::default(), every)
    }
}

#[async_trait]
impl Interceptor<Memory> for StaleLoad {
    async fn load(&self, engine: &Memory, key: &Key) -> Loaded {
        let now = engine.load(key).await;
        if self.1.is_it() { Ok(self.0.shows(key)) } else { now }
    }

    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        self.0.write(engine, key, expected, new).await
    }
}

/// Some mismatches, which are true, show what a replica has.
pub struct StaleMismatch(Replica, Every);

impl StaleMismatch {
    pub fn new(every: Every) -> Self {
        Self(Replica::default(), every)
    }
}

#[async_trait]
impl Interceptor<Memory> for StaleMismatch {
    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        let response = self.0.write(engine, key, expected, new).await?;
        match response {
            Exchange::Mismatch(_) if self.1.is_it() => Ok(Exchange::Mismatch(self.0.shows(key))),
            response => Ok(response),
        }
    }
}

/// Some writes are compared with what a replica has.
pub struct ComparesWithReplica(Replica, Every);

impl ComparesWithReplica {
    pub fn new(every: Every) -> Self {
        Self(Replica::default(), every)
    }
}

#[async_trait]
impl Interceptor<Memory> for ComparesWithReplica {
    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        let shown = self.0.shows(key);
        let is_equal = shown.as_ref().map(|shown| shown.version) == expected;
        if !is_equal && self.1.is_it() {
            return Ok(Exchange::Mismatch(shown));
        }
        self.0.write(engine, key, expected, new).await
    }
}

/// Some writes are refused although the version is right, as by a database that gives up on
/// contention.
pub struct FalseMismatch(pub Every);

#[async_trait]
impl Interceptor<Memory> for FalseMismatch {
    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        if self.0.is_it() {
            return Ok(Exchange::Mismatch(engine.load(key).await?));
        }
        engine.compare_exchange(key, expected, new).await
    }
}

/// Shows a write before it is made, which then may not be made.
pub struct DirtyRead {
    coming: Mutex<HashMap<Key, Versioned>>,
}

impl DirtyRead {
    pub fn new() -> Self {
        Self { coming: Mutex::default() }
    }
}

#[async_trait]
impl Interceptor<Memory> for DirtyRead {
    async fn load(&self, engine: &Memory, key: &Key) -> Loaded {
        let coming = self.coming.lock().unwrap().get(key).cloned();
        match coming {
            Some(coming) => Ok(Some(coming)),
            None => engine.load(key).await,
        }
    }

    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        let version = expected.map_or(1, |version| version.get() + 1);
        let coming = Versioned { version: Version::new(version)?, value: new.value.clone() };
        self.coming.lock().unwrap().insert(key.clone(), coming);
        yield_now().await;
        self.coming.lock().unwrap().remove(key);
        engine.compare_exchange(key, expected, new).await
    }
}

/// What a list gets wrong.
#[derive(Clone, Copy)]
pub enum Lists {
    /// The longest names are cut off.
    LacksLong,
    /// A slash ends the prefix.
    ByFolder,
    /// In no order.
    Unordered,
}

#[async_trait]
impl Interceptor<Memory> for Lists {
    async fn list(&self, engine: &Memory, prefix: &str) -> Result<Vec<Key>, TransportError> {
        let mut keys = engine.list(prefix).await?;
        match self {
            Self::LacksLong => keys.retain(|key| key.as_str().len() < Key::MAX_LEN),
            Self::ByFolder => keys.retain(|key| key.as_str()[prefix.len()..].starts_with('/')),
            Self::Unordered => keys.reverse(),
        }
        Ok(keys)
    }
}
