//! One client of the engine under test, as the checks use it.

use super::history::History;
use super::law::{Law, Violation};
use super::recorded::Recorded;
use crate::Mutex;
use crate::cluster::{
    Exchange, Key, NodeId, Transport, TransportError, Version, Versioned, Wake, Watch, Write,
};
use fastrand::Rng;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How often a step that must be done is tried in spite of passing errors.
const TRIES: u32 = 200;

/// One client. Its operations are recorded; each has to end within `call_timeout`.
pub(super) struct Client<T> {
    pub(super) transport: Arc<T>,
    pub(super) recorded: Recorded<Arc<T>>,
    pub(super) number: usize,
    pub(super) history: History,
    pub(super) call_timeout: Duration,
    /// Of a name that no other run has.
    pub(super) run: Arc<str>,
    pub(super) written: Mutex<u64>,
}

/// What an operation came to: an error is one that passes.
pub(super) type Outcome<A> = Result<Result<A, TransportError>, Violation>;

impl<T: Transport> Client<T> {
    /// A client of the same engine through the same transport, whose operations go to `history`.
    pub(super) fn recording_in(&self, history: &History) -> Self {
        let recorded = Recorded::new(Arc::clone(&self.transport), self.number, history);
        let (transport, run) = (Arc::clone(&self.transport), Arc::clone(&self.run));
        let (history, written) = (history.clone(), Mutex::new(*self.written.lock()));
        Self { transport, recorded, history, run, written, ..*self }
    }

    /// A write of a value that nobody ever wrote.
    pub(super) fn new_write(&self, wake: Wake, idle: bool) -> Write {
        let mut written = self.written.lock();
        *written += 1;
        let value = format!("{}/{}/{written}", self.run, self.number);
        Write { value: value.into_bytes().into(), wake, idle }
    }

    pub(super) async fn load(&self, key: &Key) -> Outcome<Option<Versioned>> {
        self.ends("load", key, self.recorded.load(key)).await
    }

    pub(super) async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Outcome<Exchange> {
        let call = self.recorded.compare_exchange(key, expected, new);
        self.ends("compare_exchange", key, call).await
    }

    pub(super) async fn watch(&self, key: &Key, node: NodeId) -> Outcome<Watch> {
        self.ends("watch", key, self.recorded.watch(key, node)).await
    }

    async fn ends<A>(
        &self,
        what: &str,
        key: &Key,
        call: impl Future<Output = Result<A, TransportError>>,
    ) -> Outcome<A> {
        match timeout(self.call_timeout, call).await {
            Ok(Ok(response)) => Ok(Ok(response)),
            Ok(Err(error)) if error.is_passing() => Ok(Err(error)),
            Ok(Err(error)) => {
                Err(Violation::new(Law::Responses, format!("{what} of {key} failed: {error}")))
            }
            Err(_) => {
                let call_timeout = self.call_timeout;
                let what = format!("{what} of {key} did not end within {call_timeout:?}");
                Err(Violation::new(Law::Responses, what))
            }
        }
    }

    /// What the register holds, in spite of passing errors.
    pub(super) async fn must_load(&self, key: &Key) -> Result<Option<Versioned>, Violation> {
        for tries in 0..TRIES {
            match self.load(key).await? {
                Ok(found) => return Ok(found),
                Err(_) => self.wait(tries).await,
            }
        }
        Err(self.gave_up("load", key))
    }

    /// Writes, whatever is there, in spite of passing errors.
    pub(super) async fn must_write(
        &self,
        key: &Key,
        wake: Wake,
        idle: bool,
    ) -> Result<Versioned, Violation> {
        let mut found = self.must_load(key).await?;
        for tries in 0..TRIES {
            let new = self.new_write(wake, idle);
            let value = new.value.clone();
            let expected = found.map(|found| found.version);
            match self.compare_exchange(key, expected, new).await? {
                Ok(Exchange::Swapped(version)) => return Ok(Versioned { version, value }),
                Ok(Exchange::Mismatch(now)) => found = now,
                Err(_) => {
                    self.wait(tries).await;
                    found = self.must_load(key).await?;
                }
            }
        }
        Err(self.gave_up("write", key))
    }

    /// A watch, in spite of passing errors.
    pub(super) async fn must_watch(&self, key: &Key, node: NodeId) -> Result<Watch, Violation> {
        for tries in 0..TRIES {
            match self.watch(key, node).await? {
                Ok(watch) => return Ok(watch),
                Err(_) => self.wait(tries).await,
            }
        }
        Err(self.gave_up("watch", key))
    }

    async fn wait(&self, tries: u32) {
        sleep(Duration::from_millis(u64::from(tries.min(20)))).await;
    }

    fn gave_up(&self, what: &str, key: &Key) -> Violation {
        Violation::new(Law::Responses, format!("{what} of {key} failed {TRIES} times in a row"))
    }
}

/// Yields some of the time, so that tasks of one thread take turns.
pub(super) async fn take_turns(dice: &mut Rng) {
    if dice.bool() {
        tokio::task::yield_now().await;
    }
}
