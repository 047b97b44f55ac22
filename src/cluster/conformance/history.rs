//! What clients asked, what they were told, and in which order that happened.

use super::check::{self, Memory};
use super::law::Violation;
use crate::Mutex;
use crate::cluster::{Consistency, Exchange, Key, TransportError, Version, Versioned};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A record of concurrent operations, for [`check`](History::check). Cheap to clone; a clone is
/// the same record.
///
/// Every value that is written to a key must be written by one operation only: a register that is
/// seen is traced to its write by the value.
///
/// [`Recorded`](super::Recorded) fills it with what goes through a transport.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<Log>>);

#[derive(Debug, Default)]
struct Log {
    /// Counts calls and answers: the order of real time.
    moments: u64,
    operations: Vec<Operation>,
    begins: BTreeMap<Key, Versioned>,
    /// What watches yielded.
    noticed: BTreeMap<Key, Vec<Versioned>>,
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operation {
    /// Which client. Only for people.
    pub client: usize,
    /// On which key.
    pub key: Key,
    /// What was asked.
    pub call: Call,
    /// When it was called: the number of calls and answers before, in the whole history.
    pub called: u64,
    /// When it was answered, and what. `None` if it never was: it may have happened at any time
    /// after the call, may happen yet, or never.
    pub response: Option<(u64, Response)>,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Transport::load`](crate::cluster::Transport::load).
    Load,
    /// [`Transport::compare_exchange`](crate::cluster::Transport::compare_exchange).
    CompareExchange {
        /// The version that the register is to have.
        expected: Option<Version>,
        /// The value to be written. No other operation on this key writes the same.
        value: Arc<[u8]>,
    },
    /// The register is deleted, by whatever means the engine has.
    Delete,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A load showed this.
    Loaded(Option<Versioned>),
    /// A write was applied, and got this version.
    Swapped(Version),
    /// A write was not applied: this was there.
    Mismatch(Option<Versioned>),
    /// The register is gone.
    Deleted,
    /// [`TransportError::Indeterminate`]: it may have happened at any time after the call, may happen
    /// yet, or never.
    Indeterminate,
    /// Any other error, as text: it did not happen and will not.
    Failed(String),
}

impl From<&Result<Option<Versioned>, TransportError>> for Response {
    fn from(response: &Result<Option<Versioned>, TransportError>) -> Self {
        match response {
            Ok(found) => Self::Loaded(found.clone()),
            Err(error) => error.into(),
        }
    }
}

impl From<&Result<Exchange, TransportError>> for Response {
    fn from(response: &Result<Exchange, TransportError>) -> Self {
        match response {
            Ok(Exchange::Swapped(version)) => Self::Swapped(*version),
            Ok(Exchange::Mismatch(found)) => Self::Mismatch(found.clone()),
            Err(error) => error.into(),
        }
    }
}

impl From<&TransportError> for Response {
    fn from(error: &TransportError) -> Self {
        match error {
            TransportError::Indeterminate(_) => Self::Indeterminate,
            other => Self::Failed(other.to_string()),
        }
    }
}

/// An operation that has begun, for [`History::end`].
#[derive(Clone, Copy, Debug)]
pub struct Begun(usize);

impl History {
    /// An empty record.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `key` holds this before the first operation. Without it, there is no register.
    pub fn begins_with(&self, key: &Key, register: Versioned) {
        self.0.lock().begins.insert(key.clone(), register);
    }

    /// A watch of `key` yielded this. It tells nothing of the moment, since watches lag and repeat; but
    /// it tells the version of a write whose own answer was lost.
    pub fn noticed(&self, key: &Key, register: Versioned) {
        self.0.lock().noticed.entry(key.clone()).or_default().push(register);
    }

    /// Records a call. To be called before the call itself.
    #[must_use]
    pub fn begin(&self, client: usize, key: &Key, call: Call) -> Begun {
        let mut log = self.0.lock();
        let called = log.moment();
        log.operations.push(Operation { client, key: key.clone(), call, called, response: None });
        Begun(log.operations.len() - 1)
    }

    /// Records the answer of a call. To be called when it is there; the first one counts.
    pub fn end(&self, begun: Begun, response: impl Into<Response>) {
        let mut log = self.0.lock();
        let moment = log.moment();
        if let Some(operation) = log.operations.get_mut(begun.0) {
            operation.response.get_or_insert((moment, response.into()));
        }
    }

    /// All operations so far, in the order of their calls.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.0.lock().operations.clone()
    }

    /// Checks laws 1 to 4, as far as answers can show: that some order of the operations of each key,
    /// in which every operation has its moment between its call and its answer, explains all
    /// answers, that versions grow, and that nothing happened that was told not to have.
    ///
    /// The check is exact, for clients that expect no version that nobody was told: it finds a
    /// violation if the history has one, and only then.
    ///
    /// # Errors
    ///
    /// The first violation that is found, with the shortest history of it.
    pub fn check(&self) -> Result<(), Violation> {
        self.traces().try_for_each(|trace| check::check(trace, Memory::Keeps))
    }

    /// A history for each key.
    fn traces(&self) -> impl Iterator<Item = Trace> {
        let mut traces: BTreeMap<Key, Trace> = BTreeMap::new();
        let log = self.0.lock();
        for operation in &log.operations {
            let key = &operation.key;
            let trace = traces.entry(key.clone()).or_insert_with(|| Trace {
                key: key.clone(),
                begins_with: log.begins.get(key).cloned(),
                noticed: log.noticed.get(key).cloned().unwrap_or_default(),
                operations: vec![],
            });
            trace.operations.push(operation.clone());
        }
        traces.into_values()
    }

    /// As [`check`](Self::check), of an engine that declares this. What an engine that is
    /// [`Lossy`](Consistency::Lossy) may do is no violation: `Ok(Some(..))` tells that it did it, and
    /// how. That is to lose acknowledged writes, the last ones up to some moment, as often as it
    /// likes. Nothing else is excused: neither a version that does not grow, nor a write that was
    /// lost and is there again, nor one that was denied and happened.
    ///
    /// # Errors
    ///
    /// The first violation that is found, with the shortest history of it.
    pub fn check_as(&self, declared: Consistency) -> Result<Option<Violation>, Violation> {
        if declared == Consistency::Linearizable {
            return self.check().map(|()| None);
        }
        let mut loss = None;
        for trace in self.traces() {
            loss = loss.or(check::check_lossy(trace)?);
        }
        Ok(loss)
    }

    /// Whether somebody asked to write `value` to `key`.
    pub(super) fn wrote(&self, key: &Key, value: &[u8]) -> bool {
        let log = self.0.lock();
        log.operations.iter().any(|operation| {
            operation.key == *key
                && matches!(&operation.call, Call::CompareExchange { value: v, .. } if **v == *value)
        })
    }
}

impl Log {
    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }
}

/// A history, or a part of one, of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trace {
    /// The key.
    pub key: Key,
    /// What the key holds before the first operation.
    pub begins_with: Option<Versioned>,
    /// What watches yielded, at whatever moment.
    pub noticed: Vec<Versioned>,
    /// The operations, in the order of their calls.
    pub operations: Vec<Operation>,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}, which begins with {}:", self.key, Shown(&self.begins_with))?;
        for operation in &self.operations {
            write!(f, "\n  {operation}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = self.response.as_ref().map_or("..".into(), |(moment, _)| moment.to_string());
        write!(f, "[{} to {until}] client {}: ", self.called, self.client)?;
        match &self.call {
            Call::Load => write!(f, "load")?,
            Call::CompareExchange { expected, value } => {
                let expected = expected.map_or("none".into(), |version| version.to_string());
                write!(f, "compare_exchange({expected}, {})", value.escape_ascii())?;
            }
            Call::Delete => write!(f, "delete")?,
        }
        match self.response.as_ref().map(|(_, response)| response) {
            None => write!(f, " -> not answered"),
            Some(Response::Loaded(found)) => write!(f, " -> {}", Shown(found)),
            Some(Response::Swapped(version)) => write!(f, " -> swapped: {version}"),
            Some(Response::Mismatch(found)) => write!(f, " -> mismatch: {}", Shown(found)),
            Some(Response::Deleted) => write!(f, " -> deleted"),
            Some(Response::Indeterminate) => write!(f, " -> indeterminate"),
            Some(Response::Failed(error)) => write!(f, " -> failed: {error}"),
        }
    }
}

struct Shown<'a>(&'a Option<Versioned>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => write!(f, "no register"),
            Some(Versioned { version, value }) => {
                write!(f, "{version} = {}", value[..value.len().min(40)].escape_ascii())
            }
        }
    }
}
