//! Writes that wait for the connection, and are sent together.
//!
//! A connection carries one request after the other, and a write takes as long as a commit. Without a bound, what
//! is asked beyond that waits in the connection until nobody waits for the answer any more; and is carried out all
//! the same, in the place of what would still be in time. So a few writes only are in flight by themselves. The
//! others wait here, and all that wait are one statement: the more they are, the more one commit does. What
//! nobody waits for any more is never sent, and what has waited too long is refused.

use super::session::{Param, StatementKind};
use super::{PostgresInner, Written, column};
use crate::Mutex;
use crate::cluster::process::OfProcess;
use crate::cluster::{TransportError, Version};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

/// How many writes are in flight by themselves.
pub(super) const SINGLE: usize = 16;

/// How many writes are one statement.
const TOGETHER: usize = 500;

/// What became of a write that has waited. `None`: it was not made, and is to be sent by itself. The row may be
/// locked, or the server has refused the statement because of one of the others.
pub(super) type Answer = Option<Result<Written, TransportError>>;

/// A write that waits.
pub(super) struct Waiting {
    pub(super) key: String,
    pub(super) expected: Option<Version>,
    pub(super) value: Arc<[u8]>,
    pub(super) idle: bool,
    /// The channel, and what it carries.
    pub(super) notice: Option<(String, String)>,
    /// When its request ends.
    pub(super) end: Instant,
    pub(super) since: Instant,
    pub(super) answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
pub(super) struct Backlog(Mutex<BacklogState>);

#[derive(Default)]
struct BacklogState {
    waiting: VecDeque<Waiting>,
    /// There is a task that sends them.
    is_sending: bool,
}

impl Backlog {
    /// Whether nothing waits, and nothing that has waited is in flight.
    pub(super) fn is_idle(&self) -> bool {
        !self.0.lock().is_sending
    }

    /// Adds a write. Returns whether the caller has to begin a task that sends.
    fn add(&self, write: Waiting) -> bool {
        let mut state = self.0.lock();
        state.waiting.push_back(write);
        !std::mem::replace(&mut state.is_sending, true)
    }

    /// The next that are sent together: all of them create, or all of them change; no two have one key. `None`:
    /// there are none, and the task ends.
    fn next(&self, patience: Duration) -> Option<Vec<Waiting>> {
        let mut state = self.0.lock();
        let (mut next, mut keys, mut later) = (vec![], HashSet::new(), VecDeque::new());
        let (mut refused, count) = (vec![], state.waiting.len());
        while let Some(write) = state.waiting.pop_front() {
            if write.answer.is_closed() {
                continue;
            }
            if write.since.elapsed() > patience {
                refused.push(write);
                continue;
            }
            let is_like = |first: &Waiting| first.expected.is_some() == write.expected.is_some();
            if next.len() < TOGETHER
                && next.first().is_none_or(is_like)
                && keys.insert(write.key.clone())
            {
                next.push(write);
            } else {
                later.push_back(write);
            }
        }
        state.waiting = later;
        state.is_sending = !next.is_empty();
        drop(state);
        for write in refused {
            let why = format!(
                "PostgreSQL is overloaded: {count} writes wait for it, and this one has for {:?}",
                write.since.elapsed()
            );
            let _ = write.answer.send(Some(Err(TransportError::unavailable(why))));
        }
        (!next.is_empty()).then_some(next)
    }
}

/// Tells those that wait that nothing sends any more, when the task that sends is dropped with its runtime.
struct StopOnDrop {
    inner: Arc<OfProcess<PostgresInner>>,
    is_armed: bool,
}

impl StopOnDrop {
    fn disarm(&mut self) {
        self.is_armed = false;
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        let Some(here) = self.inner.here().ok().filter(|_| self.is_armed) else { return };
        let mut state = here.backlog.0.lock();
        let left = std::mem::take(&mut state.waiting);
        state.is_sending = false;
        drop(state);
        drop(left);
    }
}

/// Adds a write to the backlog of `inner`, and waits for what becomes of it.
pub(super) async fn write_together(
    inner: &Arc<OfProcess<PostgresInner>>,
    here: &PostgresInner,
    write: Waiting,
    answer: oneshot::Receiver<Answer>,
) -> Answer {
    if here.backlog.add(write) {
        // Before the task: a runtime that ends drops it without a poll.
        let mut stop = StopOnDrop { inner: inner.clone(), is_armed: true };
        here.runtime.handle().spawn(async move {
            let inner = stop.inner.clone();
            let Ok(here) = inner.here() else { return };
            while let Some(writes) = here.backlog.next(here.config.limits.notice) {
                send(here, writes).await;
            }
            // From here on it may be another task that sends.
            stop.disarm();
        });
    }
    let ended = || Some(Err(TransportError::indeterminate("the runtime has ended")));
    answer.await.unwrap_or_else(|_| ended())
}

/// Sends these writes as one statement.
async fn send(here: &PostgresInner, writes: Vec<Waiting>) {
    let creates = writes[0].expected.is_none();
    let mut notifies = writes.iter().any(|write| write.notice.is_some()) && here.notify.may_try();
    let keys: Vec<&str> = writes.iter().map(|write| &*write.key).collect();
    let number = |version: Version| i64::try_from(version.get()).expect("below 2^52");
    let expected: Vec<_> = writes.iter().filter_map(|write| write.expected.map(number)).collect();
    let values: Vec<&[u8]> = writes.iter().map(|write| &*write.value).collect();
    let idle: Vec<bool> = writes.iter().map(|write| write.idle).collect();
    let notices = || writes.iter().map(|write| write.notice.as_ref());
    let channels: Vec<_> = notices().map(|notice| Some(&*notice?.0)).collect();
    let hints: Vec<_> = notices().map(|notice| Some(&*notice?.1)).collect();
    // The first one has waited longest.
    let end = writes[0].end;
    let asked = loop {
        let mut params: Vec<Param<'_>> = vec![&keys, &values, &idle];
        let which = match (creates, notifies) {
            (true, false) => StatementKind::CreateAll,
            (true, true) => StatementKind::CreateAllAndNotify,
            (false, false) => StatementKind::UpdateAll,
            (false, true) => StatementKind::UpdateAllAndNotify,
        };
        if notifies {
            params.extend([&channels as Param<'_>, &hints]);
        }
        if !creates {
            params.push(&expected);
        }
        match here.ask(&here.requests, which, &params, true, end).await {
            // Many that notify had the turn before it: no write fails for its notice.
            Err(failure)
                if notifies
                    && failure.refused == Some(SqlState::LOCK_NOT_AVAILABLE)
                    && !here.is_late(end) =>
            {
                notifies = false;
            }
            asked => break asked,
        }
    };
    let rows = match asked {
        Ok(rows) => rows,
        Err(failure) => {
            // What is locked is no row that only one of them needs: those are skipped, but for one that another
            // transaction creates. Each by itself would wait as long, and everything behind it.
            let is_for_all =
                failure.refused.is_none_or(|code| code == SqlState::LOCK_NOT_AVAILABLE && !creates);
            let error = is_for_all.then_some(failure.error);
            for write in writes {
                let _ = write.answer.send(error.clone().map(Err));
            }
            return;
        }
    };
    let mut answers: HashMap<String, Answer> = HashMap::new();
    for row in rows {
        if let Ok(key) = column::<String>(&row, 3) {
            answers.insert(key, Some(Written::read(Some(row))));
        }
    }
    for write in writes {
        let unreadable = TransportError::indeterminate("the response to a write lacks its row");
        let mut answer = answers.remove(&write.key).unwrap_or(Some(Err(unreadable)));
        match &answer {
            // It was locked by somebody, or is changed meanwhile.
            Some(Ok(Written::Nothing(seen))) if Some(seen.version) == write.expected => {
                answer = None;
            }
            Some(Ok(Written::Overtaken)) => {
                answer = write.expected.map(|_| Ok(Written::NoRow));
            }
            Some(Ok(Written::Version(_))) if notifies && write.notice.is_some() => {
                here.notify.works();
            }
            _ => {}
        }
        let _ = write.answer.send(answer);
    }
}
