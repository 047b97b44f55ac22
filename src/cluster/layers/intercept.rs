//! Wraps a transport, and changes only the operations that matter.

use crate::Mutex;
use crate::cluster::{
    Capabilities, Exchange, Key, NodeId, Transport, TransportError, Version, Versioned, Watch,
    Write, async_trait,
};
use std::sync::Arc;

/// A transport around a transport, whose operations an [`Interceptor`] sees and may change.
///
/// An interceptor that fails each third write before it reaches the engine, and counts all of them:
///
/// ```
/// use lockword::cluster::layers::{Intercept, Interceptor};
/// use lockword::cluster::*;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
///
/// #[derive(Default)]
/// struct EveryThirdFails {
///     writes: AtomicU64,
/// }
///
/// #[async_trait]
/// impl<T: Transport> Interceptor<T> for EveryThirdFails {
///     async fn compare_exchange(
///         &self,
///         inner: &T,
///         key: &Key,
///         expected: Option<Version>,
///         new: Write,
///     ) -> Result<Exchange, TransportError> {
///         if self.writes.fetch_add(1, Relaxed) % 3 == 2 {
///             return Err(TransportError::unavailable("the third write"));
///         }
///         inner.compare_exchange(key, expected, new).await
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), TransportError> {
/// let faults = Arc::new(EveryThirdFails::default());
/// let engine = Intercept::new(Memory::new(), faults.clone());
/// let key = Key::new("jobs/nightly").expect("it is short");
/// let write = || Write { value: b"1".as_slice().into(), wake: Wake::Nobody, idle: false };
///
/// assert!(matches!(engine.compare_exchange(&key, None, write()).await?, Exchange::Swapped(_)));
/// assert!(matches!(engine.compare_exchange(&key, None, write()).await?, Exchange::Mismatch(_)));
/// assert!(engine.compare_exchange(&key, None, write()).await.is_err());
/// assert!(engine.load(&key).await?.is_some()); // Loads pass.
/// assert_eq!(faults.writes.load(Relaxed), 3);
/// # Ok(())
/// # }
/// ```
///
/// Wrappers can be nested: an `Intercept` is a transport. A clone has clones of both parts, so that
/// an interceptor that several clients share is put into an [`Arc`].
#[derive(Clone, Debug)]
pub struct Intercept<T, I> {
    inner: T,
    interceptor: I,
}

impl<T, I> Intercept<T, I> {
    /// Passes each operation to `interceptor`, which may pass it on to `inner`.
    pub fn new(inner: T, interceptor: I) -> Self {
        Self { inner, interceptor }
    }

    /// The wrapped transport.
    #[must_use]
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// The interceptor.
    #[must_use]
    pub fn interceptor(&self) -> &I {
        &self.interceptor
    }
}

/// What an [`Intercept`] does in each operation of the transport `T` that it wraps.
///
/// Each method is called instead of the method of [`Transport`] that has the same name, and has the
/// wrapped transport as its `inner`. What a method does by default is to pass the operation on. One
/// that is written by hand may act before and after that, change what goes in or comes out, or not
/// pass the operation on at all. The [laws](crate::cluster::transport) are those of the whole: a
/// wrapper that breaks one, as some tests want it to, makes a transport that breaks it.
#[async_trait]
pub trait Interceptor<T: Transport>: Send + Sync + 'static {
    /// Instead of [`Transport::load`].
    ///
    /// # Errors
    ///
    /// What the caller of [`Transport::load`] is to get.
    async fn load(&self, inner: &T, key: &Key) -> Result<Option<Versioned>, TransportError> {
        inner.load(key).await
    }

    /// Instead of [`Transport::compare_exchange`].
    ///
    /// # Errors
    ///
    /// What the caller of [`Transport::compare_exchange`] is to get.
    async fn compare_exchange(
        &self,
        inner: &T,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        inner.compare_exchange(key, expected, new).await
    }

    /// Instead of [`Transport::watch`].
    ///
    /// # Errors
    ///
    /// What the caller of [`Transport::watch`] is to get.
    async fn watch(&self, inner: &T, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        inner.watch(key, node).await
    }

    /// Instead of [`Transport::list`].
    ///
    /// # Errors
    ///
    /// What the caller of [`Transport::list`] is to get.
    async fn list(&self, inner: &T, prefix: &str) -> Result<Vec<Key>, TransportError> {
        inner.list(prefix).await
    }

    /// Instead of [`Transport::capabilities`].
    fn capabilities(&self, inner: &T) -> Capabilities {
        inner.capabilities()
    }
}

#[async_trait]
impl<T: Transport, I: Interceptor<T>> Transport for Intercept<T, I> {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.interceptor.load(&self.inner, key).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        self.interceptor.compare_exchange(&self.inner, key, expected, new).await
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        self.interceptor.watch(&self.inner, key, node).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Key>, TransportError> {
        self.interceptor.list(&self.inner, prefix).await
    }

    fn capabilities(&self) -> Capabilities {
        self.interceptor.capabilities(&self.inner)
    }
}

#[async_trait]
impl<T: Transport, I: Interceptor<T>> Interceptor<T> for Arc<I> {
    async fn load(&self, inner: &T, key: &Key) -> Result<Option<Versioned>, TransportError> {
        (**self).load(inner, key).await
    }

    async fn compare_exchange(
        &self,
        inner: &T,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        (**self).compare_exchange(inner, key, expected, new).await
    }

    async fn watch(&self, inner: &T, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        (**self).watch(inner, key, node).await
    }

    async fn list(&self, inner: &T, prefix: &str) -> Result<Vec<Key>, TransportError> {
        (**self).list(inner, prefix).await
    }

    fn capabilities(&self, inner: &T) -> Capabilities {
        (**self).capabilities(inner)
    }
}

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
