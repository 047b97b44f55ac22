//! Jobs that run at most once in a period, in all nodes together.
//!
//! A lock alone cannot do that: a node that starts late finds it free, and the job would run a second time. So a
//! [`PeriodicJob`] keeps a record of its last start in the engine, in a register of its own beside the lock
//! ([`StartRecord`]). It is written under the lock, before the job begins. A period of [`Duration::MAX`] is that of a job
//! which runs once and never again.
//!
//! It is no scheduler: something else (cron, a timer) calls [`start`](PeriodicJob::start), in each node. The period counts
//! from the last recorded start and knows no calendar. So choose it shorter than the time between two runs, and longer
//! than the clocks of the nodes differ, with the delay of the slowest node. Plain threads run these futures by a runtime's
//! `block_on`.
//!
//! ```
//! use lockword::cluster::periodic::StartError;
//! use lockword::cluster::{Memory, Node};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Memory::new();
//! let period = Duration::from_secs(12 * 60 * 60); // Less than the 24 hours between two runs.
//! for _node in 0..3 {
//!     // Each node runs this, at about the same time.
//!     let node = Node::builder(engine.clone()).build()?;
//!     let job = node.periodic_job("jobs/nightly", period)?;
//!     match job.start().await {
//!         Ok(guard) => {
//!             println!("this node runs it, with token {}", guard.token());
//!             guard.release().await?;
//!         }
//!         Err(StartError::NotDue { last, due_in, .. }) => {
//!             println!("{} has started it; the next start is due in {due_in:?}", last.label);
//!         }
//!         Err(why) => return Err(why.into()),
//!     }
//!     node.shutdown().await;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is guaranteed
//!
//! In each period at most one start is recorded, whatever node dies or is paused when, also if it has lost the lock: the
//! record is written by a compare-and-swap that expects the record which was found not to be due any more. (An engine
//! that loses acknowledged writes may lose the record, and the job runs again.) A job that was started and died
//! counts as started, until [`PeriodicJob::forget`] is called. This is *at most once*; for a job that is repeated until it
//! has succeeded, and whose effects count once, give the storage the fencing token
//! ([`fence`](super::fence) has an example).
//!
//! A period is measured by the wall clocks of the nodes, so it is longer or shorter by as much as they differ. A start whose record lies further
//! in the future than a period is not believed, so a node whose clock is wrong by more than a period starts the job out of
//! turn. Give the same period in all nodes. The engine keeps a record until `lockword sweep` finds that its time is
//! over. The program's `lockword run --at-most-once-per` uses the same records.

use super::admin::on_runtime;
use super::error::{LockContext, LockError};
use super::guard::DistributedGuard;
use super::key::{Key, KeyError};
use super::local::driver::{compare_exchange, load};
use super::lock::DistributedLock;
use super::node::{Node, NodeShared, to_key};
use super::text::shown_within;
use super::transport::{Exchange, TransportError, Version, Wake, Write};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The end of a record's name.
const SUFFIX: &str = "@last-run";

/// How often a write whose outcome is not known is looked at or tried again.
const TRIES: u32 = 5;

const FORMAT: &str = "1.0";

/// In bytes. Longer labels are not of this crate.
const LONGEST_LABEL: usize = 128;

/// The record of the last start of a job, as it is in the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StartRecord {
    /// The format of this record, and what tells it from other values.
    lockword_last_run: String,
    /// When the job was started, in milliseconds since 1970 by the clock of its node.
    pub started_ms: u64,
    /// The period at that start, in milliseconds.
    pub for_ms: u64,
    /// The label of the node. Control characters are left out.
    pub label: String,
    /// The fencing token of the start.
    pub token: u64,
    /// Its time was over, and it was handed to the engine's housekeeping.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    swept: bool,
    /// It does not count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    forgotten: bool,
}

fn now_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl StartRecord {
    fn new(period: Duration, label: &str, token: u64) -> Self {
        Self {
            lockword_last_run: FORMAT.to_owned(),
            started_ms: now_ms(),
            for_ms: millis(period),
            // As it is read.
            label: shown_within(label, LONGEST_LABEL),
            token,
            swept: false,
            forgotten: false,
        }
    }

    /// The longest name of a lock that leaves room for that of a record, in bytes.
    pub const MAX_KEY_LEN: usize = Key::MAX_LEN - SUFFIX.len();

    /// The key of the record beside the lock of this key, which is `KEY@last-run`.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if the name of the lock is longer than [`MAX_KEY_LEN`](Self::MAX_KEY_LEN).
    pub fn key_of(key: &Key) -> Result<Key, KeyError> {
        Key::new(&format!("{key}{SUFFIX}"))
    }

    /// Whether this is the key of a record.
    #[must_use]
    pub fn is_key(key: &Key) -> bool {
        key.as_str().ends_with(SUFFIX)
    }

    /// The record in a value of an engine, if it is one.
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        let mut record: Self = serde_json::from_slice(value).ok()?;
        // Anybody may have written it.
        record.label = shown_within(&record.label, LONGEST_LABEL);
        record.lockword_last_run.starts_with("1.").then_some(record)
    }

    /// Whether its own time is over, by the clock of this host. That of a start in the future is not.
    #[must_use]
    pub fn is_over(&self) -> bool {
        now_ms() >= self.started_ms.saturating_add(self.for_ms)
    }

    /// Whether it was handed to the engine's housekeeping.
    #[must_use]
    pub fn is_swept(&self) -> bool {
        self.swept
    }

    /// The write that does so.
    #[must_use]
    pub fn swept(&self) -> Write {
        Self { swept: true, ..self.clone() }.write(true)
    }

    /// How long it is until another start is due; `None` if it is.
    ///
    /// A start in the future is one on a host whose clock is ahead, and counts; but not if it is further
    /// ahead than the period, or a clock that was wrong once would keep the job from running for ever.
    fn left(&self, period: Duration, now_ms: u64) -> Option<Duration> {
        let period = millis(period);
        let is_too_far_ahead = self.started_ms > now_ms.saturating_add(period);
        let until = self.started_ms.saturating_add(period);
        (!is_too_far_ahead && until > now_ms).then(|| Duration::from_millis(until - now_ms))
    }

    /// Whether it was written with the same guard.
    fn is_of(&self, other: &Self) -> bool {
        (self.token, &self.label, self.forgotten) == (other.token, &other.label, other.forgotten)
    }

    fn write(&self, idle: bool) -> Write {
        let value = serde_json::to_vec(self).expect("strings and numbers can be written");
        Write { value: value.into(), wake: Wake::Nobody, idle }
    }
}

impl Node {
    /// A job that is started at most once in each period, by all nodes together. This sends nothing to the engine.
    ///
    /// # Errors
    ///
    /// [`LockError::Key`] if the name is not a valid key, or is longer than [`StartRecord::MAX_KEY_LEN`].
    pub fn periodic_job<K>(&self, key: K, period: Duration) -> Result<PeriodicJob, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        let key = to_key(key)?;
        let record_key = StartRecord::key_of(&key)?;
        Ok(PeriodicJob { lock: self.lock(&key)?, record_key, period })
    }
}

/// A job that is started at most once in each period: see [`Node::periodic_job`] and the [module](self).
///
/// It does not keep its node alive.
#[derive(Clone, Debug)]
pub struct PeriodicJob {
    lock: DistributedLock,
    record_key: Key,
    period: Duration,
}

impl PeriodicJob {
    /// The lock under which the job runs.
    #[must_use]
    pub fn lock(&self) -> &DistributedLock {
        &self.lock
    }

    /// Starts the job, if it is due: waits for the lock, and records the start. The job runs for as long as the caller
    /// has the guard; [`DistributedGuard::lost`] says when it has to stop.
    ///
    /// # Errors
    ///
    /// - [`StartError::NotDue`] if the last start was less than a period ago. That is looked at before the lock is waited
    ///   for, and again under the lock.
    /// - [`StartError::Lock`] if the lock is not acquired.
    /// - [`StartError::Record`] if the record cannot be read or written. If its source is
    ///   [`TransportError::Indeterminate`], it may have been written: then this start counts, unless it is
    ///   [forgotten](Self::forget).
    /// - [`StartError::InUse`] if the name of the record is used by something else.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the lock is released, and the start may have been recorded or not.
    pub async fn start(&self) -> Result<DistributedGuard, StartError> {
        self.check().await?;
        let guard = self.lock.acquire().await.map_err(StartError::Lock)?;
        self.record(&guard).await?;
        Ok(guard)
    }

    /// The same, but it does not wait for the lock: [`StartError::Lock`] with [`LockError::Busy`] if somebody has it.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    ///
    /// # Cancel safety
    ///
    /// As [`start`](Self::start).
    pub async fn try_start(&self) -> Result<DistributedGuard, StartError> {
        self.check().await?;
        let guard = self.lock.try_acquire().await.map_err(StartError::Lock)?;
        self.record(&guard).await?;
        Ok(guard)
    }

    /// The record of the last start, whether another is due or not. `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`StartError::Record`] and [`StartError::InUse`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the request is given up.
    pub async fn last(&self) -> Result<Option<StartRecord>, StartError> {
        self.on_runtime(|of| async move { Ok(of.look().await?.map(|(record, _)| record)) }).await
    }

    /// Looks whether a start is due. A caller that acquires the lock in its own way does this before, and
    /// [`record`](Self::record) under the lock.
    ///
    /// # Errors
    ///
    /// [`StartError::NotDue`], [`StartError::Record`] and [`StartError::InUse`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the request is given up.
    pub async fn check(&self) -> Result<(), StartError> {
        self.on_runtime(|of| async move { of.check().await.map(|_| ()) }).await
    }

    /// Records that the job starts now, under the lock. If the last start was recorded with the same guard, and another
    /// one is not due yet, this does nothing.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    ///
    /// # Panics
    ///
    /// If it is a guard of another key.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the start may have been recorded or not.
    pub async fn record(&self, guard: &DistributedGuard) -> Result<(), StartError> {
        assert_eq!(guard.key(), self.lock.key(), "the guard is of another key");
        let label = &self.shared().config.label;
        let record = StartRecord::new(self.period, label, guard.token().get());
        self.on_runtime(|of| async move { of.write(record).await }).await
    }

    /// This start, from [`last`](Self::last), does not count: the job could not be done, and the next start is due at
    /// once. This does nothing if another start is recorded meanwhile. Do it while the lock is held, or nobody else may
    /// run the job.
    ///
    /// # Errors
    ///
    /// [`StartError::Record`] and [`StartError::InUse`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the start may count or not.
    pub async fn forget(&self, start: &StartRecord) -> Result<(), StartError> {
        let start = start.clone();
        self.on_runtime(|of| async move { of.forget(&start).await }).await
    }

    fn shared(&self) -> &Arc<NodeShared> {
        &self.lock.handle.shared
    }

    /// Runs this on the runtime of the node, since transports need one.
    async fn on_runtime<T, F>(&self, run: impl FnOnce(RecordRegister) -> F) -> Result<T, StartError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StartError>> + Send + 'static,
    {
        let (shared, key, period) = (self.shared().clone(), self.record_key.clone(), self.period);
        let run = |shared, key| {
            let done = run(RecordRegister { shared, key, period });
            async move { Ok(done.await) }
        };
        on_runtime(shared, key, run).await.map_err(StartError::Lock)?
    }
}

/// The register of a record.
struct RecordRegister {
    shared: Arc<NodeShared>,
    key: Key,
    period: Duration,
}

impl RecordRegister {
    fn failed(&self, source: TransportError) -> StartError {
        StartError::Record { at: self.shared.context(&self.key), source }
    }

    /// The record, and its version.
    async fn look(&self) -> Result<Option<(StartRecord, Version)>, StartError> {
        let seen = load(&self.shared, &self.key).await.map_err(|why| self.failed(why))?;
        let Some(seen) = seen else { return Ok(None) };
        match StartRecord::decode(&seen.value) {
            Some(record) => Ok(Some((record, seen.version))),
            None => Err(StartError::InUse { at: self.shared.context(&self.key) }),
        }
    }

    /// The version that a record of a start is to replace.
    async fn check(&self) -> Result<Option<Version>, StartError> {
        let Some((last, version)) = self.look().await? else { return Ok(None) };
        match last.left(self.period, now_ms()).filter(|_| !last.forgotten) {
            None => Ok(Some(version)),
            Some(due_in) => {
                Err(StartError::NotDue { at: self.shared.context(&self.key), last, due_in })
            }
        }
    }

    async fn write(&self, record: StartRecord) -> Result<(), StartError> {
        let mut unknown = TransportError::unavailable("others wrote first");
        for _ in 0..TRIES {
            // Also after a write of unknown outcome: it may have been applied.
            let expected = match self.check().await {
                Err(StartError::NotDue { last, .. }) if last.is_of(&record) => return Ok(()),
                checked => checked?,
            };
            let write = record.write(false);
            match compare_exchange(&self.shared, &self.key, expected, write, None).await {
                Ok(Exchange::Swapped(_)) => return Ok(()),
                Ok(Exchange::Mismatch(_)) => {}
                Err(error @ TransportError::Indeterminate(_)) => unknown = error,
                Err(error) => return Err(self.failed(error)),
            }
        }
        Err(self.failed(unknown))
    }

    async fn forget(&self, start: &StartRecord) -> Result<(), StartError> {
        let mut unknown = TransportError::unavailable("others wrote first");
        for _ in 0..TRIES {
            let seen = self.look().await?.filter(|(seen, _)| seen == start && !seen.forgotten);
            let Some((seen, version)) = seen else { return Ok(()) };
            let write = StartRecord { forgotten: true, ..seen }.write(true);
            match compare_exchange(&self.shared, &self.key, Some(version), write, None).await {
                Ok(Exchange::Swapped(_)) => return Ok(()),
                Ok(Exchange::Mismatch(_)) => {}
                Err(error @ TransportError::Indeterminate(_)) => unknown = error,
                Err(error) => return Err(self.failed(error)),
            }
        }
        Err(self.failed(unknown))
    }
}

/// Why a job was not started.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The last start was less than a period ago.
    NotDue {
        /// The key of the record, and the engine.
        at: LockContext,
        /// The last start.
        last: StartRecord,
        /// How long it is until the next start is due.
        due_in: Duration,
    },
    /// The lock was not acquired, or the node is closed.
    Lock(LockError),
    /// The record could not be read or written.
    Record {
        /// The key of the record, and the engine.
        at: LockContext,
        /// The error of the engine.
        source: TransportError,
    },
    /// The key of the record has a value that is no record of a start. It is left as it is.
    InUse {
        /// The key of the record, and the engine.
        at: LockContext,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDue { at, last, due_in } => write!(
                f,
                "not started: {} has started it, and another start is due in {due_in:?} (the record is {at})",
                last.label
            ),
            Self::Lock(why) => why.fmt(f),
            Self::Record { at, source } => {
                write!(f, "the record of the last start, {at}, cannot be ")?;
                write!(f, "read or written: {source}; try again")
            }
            Self::InUse { at } => write!(
                f,
                "{at} is no record of a start, but in use as something else: give the job another name"
            ),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Lock(why) => Some(why),
            Self::Record { source, .. } => Some(source),
            Self::NotDue { .. } | Self::InUse { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::StartRecord;
    use std::time::Duration;

    #[test]
    fn a_start_counts_for_the_period_and_not_if_it_is_too_far_ahead() {
        let hour = Duration::from_secs(3600);
        let record = StartRecord { started_ms: 10_000_000, ..StartRecord::new(hour, "a", 1) };
        let left = |now| record.left(hour, now);
        assert_eq!(left(10_000_000), Some(hour));
        assert_eq!(left(13_599_999), Some(Duration::from_millis(1)));
        assert_eq!(left(13_600_000), None);
        // The clock of this host is behind by half an hour, and by more than one.
        assert_eq!(left(8_200_000), Some(hour * 3 / 2));
        assert_eq!(left(6_399_999), None);
        // A job that runs once is never due again.
        let once = record.left(Duration::MAX, u64::MAX / 2);
        assert!(once.is_some_and(|left| left > 1_000_000 * hour));
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = StartRecord::new(Duration::from_secs(5), "a \"b\"", u64::MAX);
        assert_eq!(StartRecord::decode(&record.write(false).value), Some(record));
        assert_eq!(StartRecord::decode(br#"{"lockword":"3.0","heartbeat":1,"queue":[]}"#), None);
    }
}
