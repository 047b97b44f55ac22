//! The history of concurrent operations: invocations, responses, and their order in real time.

use super::checker;
use super::checker::Durability;
use super::suite::Violation;
use crate::Mutex;
use crate::cluster::layers::Interceptor;
use crate::cluster::{
    Consistency, Exchange, Key, NodeId, Transport, TransportError, Version, Versioned, Watch,
    Write, async_trait,
};
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A history of concurrent operations, which [`check`](History::check) tests for linearizability.
/// Cheap to clone; a clone is the same history.
///
/// No two operations may write the same value to the same key: a register that is seen is matched
/// with its write by the value.
///
/// A [`Recorder`] fills it with what goes through a transport:
///
/// ```
/// use lockword::cluster::conformance::History;
/// use lockword::cluster::layers::Intercept;
/// use lockword::cluster::{Key, Memory, Transport, Wake, Write};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (engine, history) = (Memory::new(), History::new());
/// let clients = [0, 1].map(|n| Intercept::new(engine.clone(), history.recorder(n)));
/// let key = Key::new("jobs/nightly").expect("it is short");
/// for (client, value) in clients.iter().zip([b"a", b"b"]) {
///     let write = Write { value: value.as_slice().into(), wake: Wake::Nobody, idle: false };
///     client.compare_exchange(&key, None, write).await.expect("memory does not fail");
/// }
/// assert_eq!(history.operations().len(), 2);
/// history.check().expect("memory is linearizable");
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<Records>>);

impl History {
    /// An empty history.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what `key` holds before the first operation. Without this, it has no register.
    pub fn initial(&self, key: &Key, register: Versioned) {
        self.0.lock().initial.insert(key.clone(), register);
    }

    /// Records that a watch of `key` has yielded `register`. That says nothing of the moment, since
    /// watches lag and repeat, but it says which version a write has made whose response was lost.
    pub fn noticed(&self, key: &Key, register: Versioned) {
        self.0.lock().noticed.entry(key.clone()).or_default().push(register);
    }

    /// Records an invocation. To be called before the operation begins.
    #[must_use]
    pub fn invoke(&self, client: usize, key: &Key, invocation: Invocation) -> OperationId {
        let (mut records, key) = (self.0.lock(), key.clone());
        let invoked = records.moment();
        records.operations.push(Operation { client, key, invocation, invoked, response: None });
        OperationId(records.operations.len() - 1)
    }

    /// Records the response to an invocation. To be called when the response is there. Of several
    /// responses to one invocation the first one counts.
    pub fn respond(&self, operation: OperationId, response: impl Into<Response>) {
        let mut records = self.0.lock();
        let moment = records.moment();
        if let Some(operation) = records.operations.get_mut(operation.0) {
            operation.response.get_or_insert((moment, response.into()));
        }
    }

    /// An interceptor that records the operations of a transport in this history, as those of
    /// `client`: see [`Intercept`](crate::cluster::layers::Intercept).
    #[must_use]
    pub fn recorder(&self, client: usize) -> Recorder {
        Recorder { client, history: self.clone() }
    }

    /// All operations so far, in the order of their invocations.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.0.lock().operations.clone()
    }

    /// Checks laws 1 to 4, as far as responses can show: there is an order of the operations of each
    /// key that explains all responses and in which each operation takes effect between its invocation
    /// and its response; versions grow; and nothing happened that a response denies.
    ///
    /// The check is exact for clients that expect no version but those that they have seen: it finds a
    /// violation if, and only if, the history has one.
    ///
    /// # Errors
    ///
    /// The first violation found, with the shortest history that shows it.
    pub fn check(&self) -> Result<(), Violation> {
        self.by_key().try_for_each(|history| checker::check(history, Durability::Keeps))
    }

    /// The history of each key.
    fn by_key(&self) -> impl Iterator<Item = KeyHistory> {
        let mut by_key: BTreeMap<Key, KeyHistory> = BTreeMap::new();
        let records = self.0.lock();
        for operation in &records.operations {
            let key = &operation.key;
            let history = by_key.entry(key.clone()).or_insert_with(|| KeyHistory {
                key: key.clone(),
                initial: records.initial.get(key).cloned(),
                noticed: records.noticed.get(key).cloned().unwrap_or_default(),
                operations: vec![],
            });
            history.operations.push(operation.clone());
        }
        by_key.into_values()
    }

    /// Does the same as [`check`](Self::check), for an engine that declares this consistency.
    ///
    /// An engine that is [`Lossy`](Consistency::Lossy) may lose acknowledged writes, the last ones up
    /// to some moment, as often as it likes. `Ok(Some(..))` says that this has happened, and how.
    /// Nothing else is excused: neither a version that does not grow, nor a write that was lost and is
    /// there again, nor one that a response denies.
    ///
    /// # Errors
    ///
    /// The first violation found, with the shortest history that shows it.
    pub fn check_as(&self, declared: Consistency) -> Result<Option<Violation>, Violation> {
        if declared == Consistency::Linearizable {
            return self.check().map(|()| None);
        }
        let mut loss = None;
        for history in self.by_key() {
            loss = loss.or(checker::check_lossy(history)?);
        }
        Ok(loss)
    }

    /// Whether an operation was to write `value` to `key`.
    pub(super) fn wrote(&self, key: &Key, value: &[u8]) -> bool {
        self.0.lock().operations.iter().any(|operation| {
            operation.key == *key
                && matches!(&operation.invocation, Invocation::CompareExchange { value: v, .. } if **v == *value)
        })
    }
}

#[derive(Debug, Default)]
struct Records {
    /// The number of invocations and responses so far: the order of real time.
    moments: u64,
    operations: Vec<Operation>,
    initial: BTreeMap<Key, Versioned>,
    /// What watches have yielded.
    noticed: BTreeMap<Key, Vec<Versioned>>,
}

impl Records {
    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operation {
    /// The number of the client. The checks do not use it.
    pub client: usize,
    /// The key of the register.
    pub key: Key,
    /// What the client asked for.
    pub invocation: Invocation,
    /// When: how many invocations and responses had been recorded, with this one.
    pub invoked: u64,
    /// When the response came, in the same count, and the response. `None`: there is none. The
    /// operation may then have happened at any time after its invocation, may happen yet, or never.
    pub response: Option<(u64, Response)>,
}

impl Operation {
    /// The version that it expected and the value that it wrote, if it is a write.
    pub(super) fn write(&self) -> Option<(Option<Version>, &[u8])> {
        match &self.invocation {
            Invocation::CompareExchange { expected, value } => Some((*expected, value)),
            Invocation::Load | Invocation::Delete => None,
        }
    }

    /// What the register held, by the response.
    pub(super) fn shown(&self) -> Option<&Option<Versioned>> {
        match &self.response {
            Some((_, Response::Loaded(shown) | Response::Mismatch(shown))) => Some(shown),
            _ => None,
        }
    }

    /// The version that it made, if it is a write that was applied.
    pub(super) fn swapped(&self) -> Option<Version> {
        match self.response {
            Some((_, Response::Swapped(version))) => Some(version),
            _ => None,
        }
    }

    pub(super) fn is_indeterminate(&self) -> bool {
        matches!(self.response, Some((_, Response::Indeterminate)))
    }

    pub(super) fn is_delete(&self) -> bool {
        self.invocation == Invocation::Delete
    }

    pub(super) fn is_mismatch(&self) -> bool {
        matches!(self.response, Some((_, Response::Mismatch(_))))
    }

    /// When it was known that the operation has happened, if its response says so.
    pub(super) fn happened(&self) -> Option<u64> {
        match self.response {
            None | Some((_, Response::Indeterminate | Response::Failed(_))) => None,
            Some((moment, _)) => Some(moment),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = self.response.as_ref().map_or("..".into(), |(moment, _)| moment.to_string());
        write!(f, "[{} to {until}] client {}: ", self.invoked, self.client)?;
        match &self.invocation {
            Invocation::Load => write!(f, "load")?,
            Invocation::CompareExchange { expected, value } => {
                let expected = expected.map_or("none".into(), |version| version.to_string());
                write!(f, "compare_exchange({expected}, {})", value.escape_ascii())?;
            }
            Invocation::Delete => write!(f, "delete")?,
        }
        match self.response.as_ref().map(|(_, response)| response) {
            None => write!(f, " -> no response"),
            Some(Response::Loaded(found)) => write!(f, " -> {}", DisplayRegister(found)),
            Some(Response::Swapped(version)) => write!(f, " -> swapped: {version}"),
            Some(Response::Mismatch(found)) => {
                write!(f, " -> mismatch: {}", DisplayRegister(found))
            }
            Some(Response::Deleted) => write!(f, " -> deleted"),
            Some(Response::Indeterminate) => write!(f, " -> indeterminate"),
            Some(Response::Failed(error)) => write!(f, " -> failed: {error}"),
        }
    }
}

/// What an operation asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// [`Transport::load`](crate::cluster::Transport::load).
    Load,
    /// [`Transport::compare_exchange`](crate::cluster::Transport::compare_exchange).
    CompareExchange {
        /// The version that the register must have; `None`: there must be no register.
        expected: Option<Version>,
        /// The value to write. No other operation on this key writes the same.
        value: Arc<[u8]>,
    },
    /// The register is deleted, by the means of the engine: no transport does it.
    Delete,
}

/// What an operation returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A load returned this.
    Loaded(Option<Versioned>),
    /// A write was applied and made this version.
    Swapped(Version),
    /// A write was not applied. The register held this.
    Mismatch(Option<Versioned>),
    /// The register was deleted.
    Deleted,
    /// [`TransportError::Indeterminate`]: the write may have been applied at any time after its
    /// invocation, may yet be, or never.
    Indeterminate,
    /// Any other error, as text: the operation has not happened and will not.
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

/// An operation that was invoked, for [`History::respond`].
#[derive(Clone, Copy, Debug)]
pub struct OperationId(usize);

/// The history of one key, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyHistory {
    /// The key.
    pub key: Key,
    /// What the key holds before the first operation.
    pub initial: Option<Versioned>,
    /// What watches have yielded, at moments that do not matter.
    pub noticed: Vec<Versioned>,
    /// The operations, in the order of their invocations.
    pub operations: Vec<Operation>,
}

impl fmt::Display for KeyHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}, which begins with {}:", self.key, DisplayRegister(&self.initial))?;
        for operation in &self.operations {
            write!(f, "\n  {operation}")?;
        }
        Ok(())
    }
}

struct DisplayRegister<'a>(&'a Option<Versioned>);

impl fmt::Display for DisplayRegister<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => write!(f, "no register"),
            Some(Versioned { version, value }) => {
                write!(f, "{version} = {}", value[..value.len().min(40)].escape_ascii())
            }
        }
    }
}

/// An [`Interceptor`] that records loads and compare-exchanges in a [`History`], and the registers that
/// watches yield. [`History::recorder`] makes it. An operation whose future is dropped stays without a
/// response.
#[derive(Clone, Debug)]
pub struct Recorder {
    client: usize,
    history: History,
}

#[async_trait]
impl<T: Transport> Interceptor<T> for Recorder {
    async fn load(&self, inner: &T, key: &Key) -> Result<Option<Versioned>, TransportError> {
        let operation = self.history.invoke(self.client, key, Invocation::Load);
        let response = inner.load(key).await;
        self.history.respond(operation, &response);
        response
    }

    async fn compare_exchange(
        &self,
        inner: &T,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let invocation = Invocation::CompareExchange { expected, value: new.value.clone() };
        let operation = self.history.invoke(self.client, key, invocation);
        let response = inner.compare_exchange(key, expected, new).await;
        self.history.respond(operation, &response);
        response
    }

    async fn watch(&self, inner: &T, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let watch = inner.watch(key, node).await?;
        let (history, key) = (self.history.clone(), key.clone());
        let note = move |item: &Result<Option<Versioned>, TransportError>| {
            if let Ok(Some(register)) = item {
                history.noticed(&key, register.clone());
            }
        };
        Ok(watch.inspect(note).boxed())
    }
}
