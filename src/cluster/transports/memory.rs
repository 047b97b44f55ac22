//! The embedded engine: registers in the memory of this process.

use crate::Mutex;
use crate::cluster::{
    Capabilities, Exchange, Key, NodeId, Transport, TransportError, Version, Versioned, Watch,
    Write, async_trait,
};
use futures_util::stream;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::Instant;

#[cfg(test)]
mod tests;

/// The engine that is in this process: the default, and the reference implementation of the
/// [laws](crate::cluster::transport).
///
/// A clone is the same engine: nodes of one process that are to share locks are built over clones.
/// Nothing outlives the process. A value of more than 64 KiB is refused
/// ([`TransportError::Unsupported`]).
///
/// A register that was written as [`idle`](Write::idle) is dropped an hour later at the earliest, so
/// that names that are no longer used do not pile up. Later idle writes, of any key, do that in
/// passing. No request is under way for so long: none that knew of the register finds it missing.
#[derive(Clone, Default)]
pub struct Memory {
    engine: Arc<Mutex<Engine>>,
}

/// How long an idle register is kept, at least.
const RETENTION: Duration = Duration::from_secs(60 * 60);

#[derive(Default)]
struct Engine {
    slots: HashMap<Key, Slot>,
    /// Keys whose register was idle at that time, the oldest first. A key is here at most once.
    idle: VecDeque<(Instant, Key)>,
}

/// What is kept for a key: a register, or someone who watches it, or both.
#[derive(Default)]
struct Slot {
    register: Option<Versioned>,
    /// When the last write was made, if it was idle.
    idle_since: Option<Instant>,
    queued: bool, // in `Engine::idle`
    /// Wakes those who watch, if any do.
    bell: Option<watch::Sender<()>>,
}

/// The next version of any key in this process.
///
/// It counts from the wall clock at the first call, in microseconds, so that a later process begins
/// higher (up to a million writes a second). The clock is read that once: no step of it is seen.
fn next_version() -> Result<Version, TransportError> {
    static LAST: Mutex<u64> = Mutex::new(0);
    let mut last = LAST.lock();
    if *last == 0 {
        let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_micros();
        // A clock that is centuries off leaves half of the versions.
        *last = u64::try_from(now).unwrap_or(u64::MAX).min(Version::MAX.get() / 2);
    }
    let version = Version::new(*last + 1)?;
    *last = version.get();
    Ok(version)
}

impl Engine {
    /// Drops the slot of `key` if there is nothing in it.
    fn tidy(&mut self, key: &Key) {
        let needed = |slot: &Slot| slot.register.is_some() || slot.bell.is_some() || slot.queued;
        if !self.slots.get(key).is_none_or(needed) {
            self.slots.remove(key);
        }
    }

    /// Drops registers that have been idle for long: a few at a time, more than are added.
    fn sweep(&mut self, now: Instant) {
        for _ in 0..2 {
            let Some((_, key)) = self.idle.pop_front_if(|(at, _)| now - *at >= RETENTION) else {
                return;
            };
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            if slot.idle_since.is_some_and(|since| now - since < RETENTION) {
                self.idle.push_back((now, key));
                continue;
            }
            if slot.idle_since.take().is_some() {
                slot.register = None;
            }
            slot.queued = false;
            self.tidy(&key);
        }
    }
}

impl Memory {
    /// An engine of its own, empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Deletes the register of `key`, and tells whether there was one. For tests and operators.
    pub fn delete(&self, key: &Key) -> bool {
        let mut engine = self.engine.lock();
        let Some(slot) = engine.slots.get_mut(key) else { return false };
        let was_there = slot.register.take().is_some();
        let bell = slot.bell.clone();
        engine.tidy(key);
        drop(engine);
        bell.inspect(|bell| bell.send_replace(()));
        was_there
    }
}

#[async_trait]
impl Transport for Memory {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        Ok(self.engine.lock().slots.get(key).and_then(|slot| slot.register.clone()))
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        if new.value.len() > self.capabilities().largest_value {
            return Err(TransportError::unsupported("a value of more than 64 KiB"));
        }
        let mut engine = self.engine.lock();
        let found = engine.slots.get(key).and_then(|slot| slot.register.as_ref());
        if found.map(|found| found.version) != expected {
            return Ok(Exchange::Mismatch(found.cloned()));
        }
        let version = next_version()?;
        let Engine { slots, idle } = &mut *engine;
        let slot = slots.entry(key.clone()).or_default();
        slot.register = Some(Versioned { version, value: new.value });
        slot.idle_since = new.idle.then(Instant::now);
        let bell = slot.bell.clone();
        if let Some(now) = slot.idle_since {
            if !std::mem::replace(&mut slot.queued, true) {
                idle.push_back((now, key.clone()));
            }
            engine.sweep(now);
        }
        drop(engine);
        // Not under the lock: a waker may drop a watch, which takes it.
        bell.inspect(|bell| bell.send_replace(()));
        Ok(Exchange::Swapped(version))
    }

    async fn watch(&self, key: &Key, _node: NodeId) -> Result<Watch, TransportError> {
        let mut engine = self.engine.lock();
        let bell = &mut engine.slots.entry(key.clone()).or_default().bell;
        let rung = bell.get_or_insert_with(|| watch::Sender::new(())).subscribe();
        let ear = Ear { rung, key: key.clone(), engine: Arc::downgrade(&self.engine) };
        Ok(Box::pin(stream::unfold(ear, |mut ear| async {
            // It fails when the last handle of the engine is gone: nothing will change any more.
            ear.rung.changed().await.ok()?;
            let engine = ear.engine.upgrade()?;
            let register = engine.lock().slots.get(&ear.key)?.register.clone();
            Some((Ok(register), ear))
        })))
    }

    fn capabilities(&self) -> Capabilities {
        // The bell rings at once; the rest is for the task to be scheduled.
        Capabilities { wake_within: Duration::from_millis(100), ..Capabilities::new("memory") }
    }
}

/// One watch. The last one of a key takes the bell with it.
struct Ear {
    rung: watch::Receiver<()>,
    key: Key,
    engine: Weak<Mutex<Engine>>,
}

impl Drop for Ear {
    fn drop(&mut self) {
        let Some(engine) = self.engine.upgrade() else { return };
        let mut engine = engine.lock();
        let Some(slot) = engine.slots.get_mut(&self.key) else { return };
        slot.bell.take_if(|bell| bell.receiver_count() == 1);
        engine.tidy(&self.key);
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("keys", &self.engine.lock().slots.len()).finish()
    }
}
