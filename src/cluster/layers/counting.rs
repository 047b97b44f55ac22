//! Counts what a transport is asked.

use crate::Mutex;
use crate::cluster::{
    Capabilities, Exchange, Key, NodeId, Transport, TransportError, Version, Versioned, Watch,
    Write, async_trait,
};
use std::sync::Arc;

/// A transport around a transport that counts the operations. For tests and benches.
#[derive(Clone, Debug)]
pub struct Counting<T> {
    inner: T,
    counts: Counts,
}

impl<T> Counting<T> {
    /// Counts the operations of `inner`, from zero. A clone counts into the same numbers.
    pub fn new(inner: T) -> Self {
        Self::into(inner, Counts::default())
    }

    /// Counts the operations of `inner` into `counts`: several clients, one sum.
    pub fn into(inner: T, counts: Counts) -> Self {
        Self { inner, counts }
    }

    /// The numbers.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

/// The numbers of a [`Counting`], to be read at any time. Cheap to clone; a clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Mutex<Operations>>);

/// How many operations. Each is counted when it begins, a swap when it is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operations {
    /// [`Transport::load`].
    pub loads: u64,
    /// [`Transport::compare_exchange`].
    pub compare_exchanges: u64,
    /// Those of the `compare_exchanges` that were answered by [`Exchange::Swapped`].
    pub swaps: u64,
    /// [`Transport::watch`].
    pub watches: u64,
}

impl Operations {
    /// How many requests: loads, compare-exchanges and watches.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.loads + self.compare_exchanges + self.watches
    }
}

impl Counts {
    /// The numbers now.
    #[must_use]
    pub fn now(&self) -> Operations {
        *self.0.lock()
    }

    /// The numbers now; from here on it counts from zero.
    pub fn take(&self) -> Operations {
        std::mem::take(&mut self.0.lock())
    }
}

#[async_trait]
impl<T: Transport> Transport for Counting<T> {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.counts.0.lock().loads += 1;
        self.inner.load(key).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        self.counts.0.lock().compare_exchanges += 1;
        let response = self.inner.compare_exchange(key, expected, new).await;
        if let Ok(Exchange::Swapped(_)) = response {
            self.counts.0.lock().swaps += 1;
        }
        response
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        self.counts.0.lock().watches += 1;
        self.inner.watch(key, node).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}
