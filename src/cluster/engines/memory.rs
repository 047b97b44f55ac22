//! The in-memory engine: registers in the memory of this process.

use crate::cluster::process::{OfProcess, watch_of_process};
use crate::cluster::{
    Capabilities, Exchange, Key, NodeId, Notices, Transport, TransportError, Version, Versioned,
    Watch, Write, async_trait,
};
use crate::{Mutex, MutexGuard};
use futures_util::stream;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::Instant;

/// The engine within this process, for tests and first steps; also the reference implementation of the
/// [laws](crate::cluster::transport).
///
/// A clone is the same engine: build the nodes of one process that share locks over clones. Nothing
/// outlives the process; in a forked child every request fails ([`TransportError::Unavailable`]). A value of more than 64 KiB is refused ([`TransportError::Unsupported`]).
///
/// A register that was written as [`idle`](Write::idle) is dropped after an hour at the earliest, so
/// that names that are no longer used do not accumulate. Later idle writes, of any key, drop it. No
/// request is in flight for an hour, so no request that knew of the register finds it missing.
///
/// There are no rights: whoever has a clone may do everything.
#[derive(Clone)]
pub struct Memory {
    engine: Arc<OfProcess<Mutex<MemoryEngine>>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { engine: Arc::new(OfProcess::new(Mutex::default())) }
    }
}

/// How long an idle register is kept, at least.
const RETENTION: Duration = Duration::from_secs(60 * 60);

#[derive(Default)]
struct MemoryEngine {
    slots: HashMap<Key, MemorySlot>,
    /// Keys whose register was idle at that time, the oldest first. A key is here at most once.
    idle: VecDeque<(Instant, Key)>,
}

/// What is kept for a key: a register, or the notifier of its watches, or both.
#[derive(Default)]
struct MemorySlot {
    register: Option<Versioned>,
    /// When the last write was made, if it was idle.
    idle_since: Option<Instant>,
    queued: bool, // in `MemoryEngine::idle`
    /// Wakes the watches. `None`: there is no watch.
    notifier: Option<watch::Sender<()>>,
}

/// The next version of any key in this process.
///
/// It counts from the wall clock at the first call, in microseconds, so that a later process begins
/// higher (up to a million writes a second). The clock is read only once, so its steps do not matter. (No
/// mutex, which a forked child might find held.)
fn next_version() -> Result<Version, TransportError> {
    let first = || {
        let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_micros();
        // A clock that is centuries off leaves half of the versions.
        u64::try_from(now).unwrap_or(u64::MAX).clamp(1, Version::MAX.get() / 2)
    };
    #[cfg(target_has_atomic = "64")]
    let next = {
        use std::sync::atomic::{AtomicU64, Ordering};
        static LAST: AtomicU64 = AtomicU64::new(0);
        if LAST.load(Ordering::Relaxed) == 0 {
            // It fails if another thread was first.
            let _ = LAST.compare_exchange(0, first(), Ordering::Relaxed, Ordering::Relaxed);
        }
        // ORDERING: Relaxed: a register and its version are under the mutex of its engine.
        LAST.fetch_add(1, Ordering::Relaxed) + 1
    };
    // There a child that is forked in the middle of this hangs at its next write.
    #[cfg(not(target_has_atomic = "64"))]
    let next = {
        static LAST: Mutex<u64> = Mutex::new(0);
        let mut last = LAST.lock();
        if *last == 0 {
            *last = first();
        }
        *last += 1;
        *last
    };
    Version::new(next)
}

impl MemoryEngine {
    /// Drops the slot of `key` if there is nothing in it.
    fn tidy(&mut self, key: &Key) {
        let needed =
            |slot: &MemorySlot| slot.register.is_some() || slot.notifier.is_some() || slot.queued;
        if !self.slots.get(key).is_none_or(needed) {
            self.slots.remove(key);
        }
    }

    /// Drops registers that have been idle for long: two at a time, more than one write adds.
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
    /// A new and empty engine, which shares nothing with any other.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Deletes the register of `key`, and returns whether there was one. It is for tests and operators.
    pub fn delete(&self, key: &Key) -> bool {
        let Ok(mut engine) = self.engine() else { return false };
        let Some(slot) = engine.slots.get_mut(key) else { return false };
        let was_there = slot.register.take().is_some();
        let notifier = slot.notifier.clone();
        engine.tidy(key);
        drop(engine);
        notifier.inspect(|notifier| notifier.send_replace(()));
        was_there
    }

    /// Puts the register of `key` back to what it was, as the restoration of a backup does. Watches
    /// yield. For tests: it breaks law 2.
    #[doc(hidden)]
    pub fn restore(&self, key: &Key, old: Versioned) {
        let mut engine = self.engine.lock();
        let slot = engine.slots.entry(key.clone()).or_default();
        slot.register = Some(old);
        let notifier = slot.notifier.clone();
        drop(engine);
        notifier.inspect(|notifier| notifier.send_replace(()));
    }
}

impl Memory {
    fn engine(&self) -> Result<MutexGuard<'_, MemoryEngine>, TransportError> {
        Ok(self.engine.here()?.lock())
    }
}

#[async_trait]
impl Transport for Memory {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        Ok(self.engine()?.slots.get(key).and_then(|slot| slot.register.clone()))
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
        let mut engine = self.engine()?;
        let found = engine.slots.get(key).and_then(|slot| slot.register.as_ref());
        if found.map(|found| found.version) != expected {
            return Ok(Exchange::Mismatch(found.cloned()));
        }
        let version = next_version()?;
        let MemoryEngine { slots, idle } = &mut *engine;
        let slot = slots.entry(key.clone()).or_default();
        slot.register = Some(Versioned { version, value: new.value });
        slot.idle_since = new.idle.then(Instant::now);
        let notifier = slot.notifier.clone();
        if let Some(now) = slot.idle_since {
            if !std::mem::replace(&mut slot.queued, true) {
                idle.push_back((now, key.clone()));
            }
            engine.sweep(now);
        }
        drop(engine);
        // Not under the lock: a waker may drop a watch, which takes the lock.
        notifier.inspect(|notifier| notifier.send_replace(()));
        Ok(Exchange::Swapped(version))
    }

    async fn watch(&self, key: &Key, _node: NodeId) -> Result<Watch, TransportError> {
        let mut engine = self.engine()?;
        let notifier = &mut engine.slots.entry(key.clone()).or_default().notifier;
        let notified = notifier.get_or_insert_with(|| watch::Sender::new(())).subscribe();
        let watch =
            MemoryWatch { notified, key: key.clone(), engine: Arc::downgrade(&self.engine) };
        Ok(watch_of_process(Box::pin(stream::unfold(watch, |mut watch| async {
            // It fails when the last handle of the engine is gone: nothing will change any more.
            watch.notified.changed().await.ok()?;
            let engine = watch.engine.upgrade()?;
            let register = engine.lock().slots.get(&watch.key)?.register.clone();
            Some((Ok(register), watch))
        }))))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Key>, TransportError> {
        let engine = self.engine()?;
        let slots = engine.slots.iter();
        let listed = |(key, slot): &(&Key, &MemorySlot)| {
            slot.register.is_some() && key.as_str().starts_with(prefix)
        };
        let mut keys: Vec<Key> = slots.filter(listed).map(|(key, _)| key.clone()).collect();
        drop(engine);
        keys.sort_unstable();
        Ok(keys)
    }

    fn capabilities(&self) -> Capabilities {
        // The notifier wakes at once; the rest is for the task to be scheduled.
        let wake_within = Duration::from_millis(100);
        Capabilities { notices: Notices::Answers, wake_within, ..Capabilities::new("memory") }
    }
}

/// One watch. When the last watch of a key is dropped, the notifier goes.
struct MemoryWatch {
    notified: watch::Receiver<()>,
    key: Key,
    engine: Weak<OfProcess<Mutex<MemoryEngine>>>,
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        let Some(engine) = self.engine.upgrade() else { return };
        let mut engine = engine.lock();
        let Some(slot) = engine.slots.get_mut(&self.key) else { return };
        slot.notifier.take_if(|notifier| notifier.receiver_count() == 1);
        engine.tidy(&self.key);
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory")
            .field("keys", &self.engine().map_or(0, |engine| engine.slots.len()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{Memory, RETENTION};
    use crate::cluster::{
        Exchange, Key, NodeId, Transport, TransportError, Version, Versioned, Wake, Watch, Write,
    };
    use futures_util::{FutureExt, StreamExt};
    use std::time::Duration;
    use tokio::time::advance;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn write(value: &str, idle: bool) -> Write {
        Write { value: value.as_bytes().into(), wake: Wake::Everybody, idle }
    }

    async fn swap(engine: &Memory, name: &str, expected: Option<Version>, new: Write) -> Version {
        match engine.compare_exchange(&key(name), expected, new).await.unwrap() {
            Exchange::Swapped(version) => version,
            Exchange::Mismatch(found) => panic!("{name}: expected {expected:?}, found {found:?}"),
        }
    }

    async fn watch(engine: &Memory, name: &str) -> Watch {
        engine.watch(&key(name), NodeId::new(1)).await.unwrap()
    }

    fn item(watch: &mut Watch) -> Option<Option<Versioned>> {
        watch.next().now_or_never().map(|item| item.expect("the engine is there").unwrap())
    }

    #[tokio::test]
    async fn versions_start_at_the_wall_clock_and_outlive_deletion() {
        let engine = Memory::new();
        let first = swap(&engine, "a", None, write("1", false)).await;
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros();
        let off = now.abs_diff(u128::from(first.get()));
        assert!(off < 600_000_000, "{first} is not within ten minutes of {now}");
        assert!(engine.delete(&key("a")));
        assert!(!engine.delete(&key("a")));
        assert_eq!(engine.load(&key("a")).await.unwrap(), None);
        let second = swap(&engine, "a", None, write("2", false)).await;
        assert!(second > first);
        // One counter for the process: engines do not repeat each other's versions.
        assert!(swap(&Memory::new(), "a", None, write("1", false)).await > second);
    }

    #[tokio::test]
    async fn a_large_value_is_refused() {
        let engine = Memory::new();
        let largest = engine.capabilities().largest_value;
        swap(&engine, "a", None, write(&"x".repeat(largest), false)).await;
        let larger = write(&"x".repeat(largest + 1), false);
        let response = engine.compare_exchange(&key("b"), None, larger).await;
        assert!(matches!(response, Err(TransportError::Unsupported(_))));
    }

    #[tokio::test]
    async fn a_watch_wakes_once_for_many_changes_and_delivers_the_latest() {
        let engine = Memory::new();
        let mut watch = watch(&engine, "a").await;
        assert_eq!(item(&mut watch), None);
        let first = swap(&engine, "a", None, write("1", false)).await;
        let second = swap(&engine, "a", Some(first), write("2", false)).await;
        let shown = item(&mut watch).unwrap().unwrap();
        assert_eq!((shown.version, &*shown.value), (second, b"2".as_slice()));
        assert_eq!(item(&mut watch), None);
        swap(&engine, "b", None, write("1", false)).await;
        assert_eq!(item(&mut watch), None, "the change of another key");
        engine.delete(&key("a"));
        assert_eq!(item(&mut watch), Some(None));
        drop(engine);
        assert!(watch.next().await.is_none(), "nothing will change any more");
    }

    #[tokio::test]
    async fn dropped_watches_leave_nothing_behind() {
        let engine = Memory::new();
        let (a, b) = (watch(&engine, "a").await, watch(&engine, "a").await);
        assert_eq!(engine.engine.lock().slots.len(), 1);
        drop(a);
        swap(&engine, "a", None, write("1", false)).await;
        drop(b);
        assert!(engine.engine.lock().slots[&key("a")].notifier.is_none());
        engine.delete(&key("a"));
        assert!(engine.engine.lock().slots.is_empty());
        drop(watch(&engine, "a").await);
        assert!(engine.engine.lock().slots.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_registers_are_dropped_after_the_retention_and_not_before() {
        let engine = Memory::new();
        for name in 0..100 {
            swap(&engine, &format!("idle/{name}"), None, write("", true)).await;
        }
        let used = swap(&engine, "used", None, write("", true)).await;
        swap(&engine, "used", Some(used), write("", false)).await;
        let again = swap(&engine, "again", None, write("", true)).await;
        let watched = watch(&engine, "idle/0").await;

        advance(RETENTION - Duration::from_secs(1)).await;
        swap(&engine, "again", Some(again), write("", true)).await;
        assert_eq!(engine.engine.lock().slots.len(), 102);

        advance(Duration::from_secs(2)).await;
        let mut last = None;
        for _ in 0..60 {
            last = Some(swap(&engine, "last", last, write("", true)).await);
        }
        assert_eq!(engine.load(&key("idle/0")).await.unwrap(), None);
        drop(watched);
        let mut kept: Vec<_> = engine.engine.lock().slots.keys().map(Key::to_string).collect();
        kept.sort();
        assert_eq!(kept, ["again", "last", "used"]);
        assert_eq!(engine.engine.lock().idle.len(), 2, "a key is queued at most once");
    }
}
