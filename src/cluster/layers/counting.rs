//! Counts the operations that a transport is asked for.

use super::intercept::Interceptor;
use crate::Mutex;
use crate::cluster::{
    Exchange, Key, NodeId, Transport, TransportError, Version, Versioned, Watch, Write, async_trait,
};
use std::sync::Arc;

/// An [`Interceptor`] that counts operations and changes nothing: for tests and benches.
///
/// Cheap to clone. A clone has the same numbers, so that one stays outside to be read, and so that
/// several clients can count into one sum:
///
/// ```
/// use lockword::cluster::layers::{Counts, Intercept};
/// use lockword::cluster::{Memory, Node};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let counts = Counts::default();
/// let node = Node::builder(Intercept::new(Memory::new(), counts.clone())).build()?;
/// node.lock("jobs/nightly")?.acquire().await?.release().await?;
/// assert_eq!(counts.now().compare_exchanges, 2); // One to acquire, one to release.
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Mutex<Operations>>);

impl Counts {
    /// The numbers now.
    #[must_use]
    pub fn now(&self) -> Operations {
        *self.0.lock()
    }

    /// The numbers now, after which all of them are zero.
    pub fn take(&self) -> Operations {
        std::mem::take(&mut self.0.lock())
    }
}

/// How many operations of each kind. An operation is counted when it is called, a swap when the
/// response is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operations {
    /// Calls of [`Transport::load`].
    pub loads: u64,
    /// Calls of [`Transport::compare_exchange`].
    pub compare_exchanges: u64,
    /// How many of the `compare_exchanges` have returned [`Exchange::Swapped`].
    pub swaps: u64,
    /// Calls of [`Transport::watch`].
    pub watches: u64,
}

impl Operations {
    /// The number of requests: loads, compare-exchanges and watches.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.loads + self.compare_exchanges + self.watches
    }
}

#[async_trait]
impl<T: Transport> Interceptor<T> for Counts {
    async fn load(&self, inner: &T, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.0.lock().loads += 1;
        inner.load(key).await
    }

    async fn compare_exchange(
        &self,
        inner: &T,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        self.0.lock().compare_exchanges += 1;
        let response = inner.compare_exchange(key, expected, new).await;
        if let Ok(Exchange::Swapped(_)) = response {
            self.0.lock().swaps += 1;
        }
        response
    }

    async fn watch(&self, inner: &T, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        self.0.lock().watches += 1;
        inner.watch(key, node).await
    }
}
