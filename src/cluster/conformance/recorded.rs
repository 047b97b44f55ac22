//! A transport whose operations are recorded.

use super::history::{Call, History};
use crate::cluster::{
    Capabilities, Exchange, Key, NodeId, Transport, TransportError, Version, Versioned, Watch,
    Write, async_trait,
};
use futures_util::StreamExt;

/// A transport around a transport that records loads and compare-exchanges in a [`History`]. An
/// operation whose future is dropped stays without an answer. Of a watch it records what it yields.
#[derive(Clone, Debug)]
pub struct Recorded<T> {
    inner: T,
    client: usize,
    history: History,
}

impl<T> Recorded<T> {
    /// Records what goes through `inner`, as of this `client`, in `history`.
    pub fn new(inner: T, client: usize, history: &History) -> Self {
        Self { inner, client, history: history.clone() }
    }
}

#[async_trait]
impl<T: Transport> Transport for Recorded<T> {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        let begun = self.history.begin(self.client, key, Call::Load);
        let response = self.inner.load(key).await;
        self.history.end(begun, &response);
        response
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let call = Call::CompareExchange { expected, value: new.value.clone() };
        let begun = self.history.begin(self.client, key, call);
        let response = self.inner.compare_exchange(key, expected, new).await;
        self.history.end(begun, &response);
        response
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let (history, key) = (self.history.clone(), key.clone());
        let watch = self.inner.watch(&key, node).await?;
        let note = move |item: &Result<Option<Versioned>, TransportError>| {
            if let Ok(Some(register)) = item {
                history.noticed(&key, register.clone());
            }
        };
        Ok(watch.inspect(note).boxed())
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}
