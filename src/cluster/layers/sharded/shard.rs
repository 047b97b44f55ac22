//! One shard: its engine, what is under its reserved keys, and when its mark was seen last.

use super::error::ShardError;
use super::mark::{Mark, key};
use crate::Mutex;
use crate::cluster::local::clock::NodeClock;
use crate::cluster::protocol::Time;
use crate::cluster::{Exchange, Transport, TransportError, Version, Wake, Write};
use futures_util::{StreamExt, stream};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// For how long a list is taken to be in force after its mark was seen.
pub(super) const RECHECK: Duration = Duration::from_secs(10);

/// How many registers are loaded at a time to find the largest version.
const LOADS: usize = 32;

pub(super) struct Shard {
    pub(super) name: String,
    /// The part of the weights that hangs on the name.
    pub(super) seed: u64,
    pub(super) engine: Arc<dyn Transport>,
    /// Held by the request that looks at the mark. Others wait for it.
    pub(super) looking: tokio::sync::Mutex<()>,
    seen: Mutex<Option<Seen>>,
}

/// That the list was in force, and what is added to the versions.
#[derive(Clone, Copy)]
struct Seen {
    at: Moment,
    offset: u64,
}

/// The moment before a request. The one clock counts suspend, a test can advance the other.
#[derive(Clone, Copy)]
pub(super) struct Moment(Time, Instant);

impl Moment {
    pub(super) fn now() -> Self {
        Self(NodeClock::System.now(), Instant::now())
    }

    fn elapsed(self) -> Duration {
        NodeClock::System.now().since(self.0).max(self.1.elapsed())
    }
}

/// A mark, and the version of its register.
pub(super) type SeenMark = Option<(Version, Mark)>;

impl Shard {
    pub(super) fn new(name: String, engine: Arc<dyn Transport>) -> Self {
        let seed = super::placement::seed(&name);
        Self { name, seed, engine, looking: tokio::sync::Mutex::default(), seen: Mutex::default() }
    }

    /// What is added to the versions, if the mark was seen in force a short time ago.
    pub(super) fn offset(&self) -> Option<u64> {
        let seen = (*self.seen.lock())?;
        (seen.at.elapsed() < RECHECK).then_some(seen.offset)
    }

    /// The mark was seen in force by a request that began at `at`.
    pub(super) fn was_seen(&self, at: Moment, offset: u64) {
        *self.seen.lock() = Some(Seen { at, offset });
    }

    fn failed(&self, source: TransportError) -> ShardError {
        ShardError::Engine { shard: self.name.clone(), source }
    }

    /// Loads the mark.
    pub(super) async fn mark(&self) -> Result<SeenMark, ShardError> {
        let found = self.engine.load(&key("")).await.map_err(|error| self.failed(error))?;
        let Some(found) = found else { return Ok(None) };
        let shard = || self.name.clone();
        let decoded = Mark::decode(&found.value);
        let (name, mark) = decoded.ok_or_else(|| ShardError::Foreign { shard: shard() })?;
        // One that was taken out of its list may have another name in the next one.
        if name != self.name && mark.has(&name) {
            return Err(ShardError::Misnamed { shard: shard(), found: name });
        }
        Ok(Some((found.version, mark)))
    }

    /// Replaces the mark, if it has still this version. `None`: another was faster.
    pub(super) async fn set_mark(
        &self,
        expected: Option<Version>,
        mark: &Mark,
    ) -> Result<Option<Version>, ShardError> {
        let write =
            Write { value: mark.encode(&self.name).into(), wake: Wake::Nobody, idle: false };
        match self.engine.compare_exchange(&key(""), expected, write).await {
            Ok(Exchange::Swapped(version)) => Ok(Some(version)),
            Ok(Exchange::Mismatch(_)) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The version of a register that is made now.
    pub(super) async fn fresh_version(&self) -> Result<Version, ShardError> {
        loop {
            let key = key(&format!(".{:016x}", fastrand::u64(..)));
            let write = Write { value: b"{}".as_slice().into(), wake: Wake::Nobody, idle: true };
            match self.engine.compare_exchange(&key, None, write).await {
                Ok(Exchange::Swapped(version)) => return Ok(version),
                // Another has drawn the same number.
                Ok(Exchange::Mismatch(_)) => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// The largest version of the registers that there are.
    pub(super) async fn largest_version(&self) -> Result<u64, ShardError> {
        let keys = self.engine.list("").await.map_err(|error| self.failed(error))?;
        let load = |key| async move { self.engine.load(&key).await };
        let mut loads = stream::iter(keys).map(load).buffer_unordered(LOADS);
        let mut largest = 0;
        while let Some(found) = loads.next().await {
            let found = found.map_err(|error| self.failed(error))?;
            largest = largest.max(found.map_or(0, |found| found.version.get()));
        }
        Ok(largest)
    }
}
