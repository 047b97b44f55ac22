//! Watches that miss something, or make something up.

use super::Every;
use futures_util::{FutureExt, StreamExt, future, stream};
use lockword::cluster::layers::Interceptor;
use lockword::cluster::{
    Key, Memory, NodeId, Transport, TransportError, Versioned, Watch, async_trait,
};

type Opened = Result<Watch, TransportError>;

/// Misses a change every so often.
pub struct Misses(pub u64);

#[async_trait]
impl Interceptor<Memory> for Misses {
    async fn watch(&self, engine: &Memory, key: &Key, node: NodeId) -> Opened {
        let missed = Every::new(self.0);
        let inner = engine.watch(key, node).await?;
        Ok(inner.filter(move |_| future::ready(!missed.is_it())).boxed())
    }
}

/// The watch is in force only once it is polled.
pub struct StartsLate;

#[async_trait]
impl Interceptor<Memory> for StartsLate {
    async fn watch(&self, engine: &Memory, key: &Key, node: NodeId) -> Opened {
        let (engine, key) = (engine.clone(), key.clone());
        let open = async move { engine.watch(&key, node).await.unwrap() };
        Ok(open.flatten_stream().boxed())
    }
}

/// Notices nothing after its first item.
pub struct Once;

#[async_trait]
impl Interceptor<Memory> for Once {
    async fn watch(&self, engine: &Memory, key: &Key, node: NodeId) -> Opened {
        let inner = engine.watch(key, node).await?;
        Ok(inner.take(1).chain(stream::pending()).boxed())
    }
}

/// Of changes that come before anyone looks, the first one is shown and the others are forgotten.
pub struct FirstOfSeveral;

#[async_trait]
impl Interceptor<Memory> for FirstOfSeveral {
    async fn watch(&self, engine: &Memory, key: &Key, node: NodeId) -> Opened {
        let mut inner = engine.watch(key, node).await?;
        let (sender, receiver) = tokio::sync::mpsc::channel::<Versioned>(1);
        tokio::spawn(async move {
            while let Some(Ok(Some(item))) = inner.next().await {
                // Full: forgotten.
                let _ = sender.try_send(item);
            }
        });
        let next = |mut receiver: tokio::sync::mpsc::Receiver<Versioned>| async move {
            let item = receiver.recv().await?;
            Some((Ok(Some(item)), receiver))
        };
        Ok(stream::unfold(receiver, next).boxed())
    }
}

/// Wakes only the watch that was opened last.
pub struct OnlyTheLast(tokio::sync::watch::Sender<u64>);

impl OnlyTheLast {
    pub fn new() -> Self {
        Self(tokio::sync::watch::Sender::new(0))
    }
}

#[async_trait]
impl Interceptor<Memory> for OnlyTheLast {
    async fn watch(&self, engine: &Memory, key: &Key, node: NodeId) -> Opened {
        self.0.send_modify(|opened| *opened += 1);
        let (own, opened) = (*self.0.borrow(), self.0.subscribe());
        let inner = engine.watch(key, node).await?;
        Ok(inner.filter(move |_| future::ready(*opened.borrow() == own)).boxed())
    }
}

/// Shows a value that was never written.
pub struct MadeUp;

#[async_trait]
impl Interceptor<Memory> for MadeUp {
    async fn watch(&self, engine: &Memory, key: &Key, node: NodeId) -> Opened {
        let inner = engine.watch(key, node).await?;
        let change = |found: Versioned| Versioned { value: b"{}".as_slice().into(), ..found };
        Ok(inner.map(move |item| item.map(|found| found.map(change))).boxed())
    }
}

/// Shows every change one late.
pub struct OneBehind;

#[async_trait]
impl Interceptor<Memory> for OneBehind {
    async fn watch(&self, engine: &Memory, key: &Key, node: NodeId) -> Opened {
        let before = engine.load(key).await?;
        let inner = engine.watch(key, node).await?;
        let next = |(mut inner, before): (Watch, Option<Versioned>)| async move {
            let now = inner.next().await?.ok()?;
            // There is nothing to show yet the first time: it shows what was there, or the change.
            let shown = before.or_else(|| now.clone());
            Some((Ok(shown), (inner, now)))
        };
        Ok(stream::unfold((inner, before), next).boxed())
    }
}
