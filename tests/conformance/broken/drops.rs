//! Clients that do not survive that a future is dropped.

use super::{Exchanged, Loaded};
use lockword::cluster::layers::Interceptor;
use lockword::cluster::{
    Exchange, Key, Memory, NodeId, Transport, TransportError, Version, Versioned, Watch, Write,
    async_trait,
};
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::sync::Semaphore;
use tokio::task::yield_now;

/// A pool of one connection, which is given back only if the call comes to its end.
pub struct LeaksConnection(pub Semaphore);

impl LeaksConnection {
    pub fn new(connections: usize) -> Self {
        Self(Semaphore::new(connections))
    }

    async fn take(&self) {
        self.0.acquire().await.unwrap().forget();
        yield_now().await;
    }
}

#[async_trait]
impl Interceptor<Memory> for LeaksConnection {
    async fn load(&self, engine: &Memory, key: &Key) -> Loaded {
        self.take().await;
        let response = engine.load(key).await;
        self.0.add_permits(1);
        response
    }

    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        self.take().await;
        let response = engine.compare_exchange(key, expected, new).await;
        self.0.add_permits(1);
        response
    }
}

/// A watch that was polled and dropped takes a connection with it.
pub struct WatchLeaks(pub Semaphore);

#[async_trait]
impl Interceptor<Memory> for WatchLeaks {
    async fn watch(
        &self,
        engine: &Memory,
        key: &Key,
        node: NodeId,
    ) -> Result<Watch, TransportError> {
        self.0.acquire().await.unwrap().forget();
        yield_now().await;
        let watch = engine.watch(key, node).await;
        self.0.add_permits(1);
        watch
    }
}

/// Matches responses with calls by their order only, so that the response to a dropped call goes to
/// the next one.
#[derive(Default)]
pub struct MixesResponses {
    turn: tokio::sync::Mutex<()>,
    loaded: Mutex<VecDeque<Option<Versioned>>>,
    exchanged: Mutex<VecDeque<Exchange>>,
}

#[async_trait]
impl Interceptor<Memory> for MixesResponses {
    async fn load(&self, engine: &Memory, key: &Key) -> Loaded {
        let _turn = self.turn.lock().await;
        let response = engine.load(key).await?;
        self.loaded.lock().unwrap().push_back(response);
        yield_now().await;
        Ok(self.loaded.lock().unwrap().pop_front().unwrap())
    }

    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        let _turn = self.turn.lock().await;
        let response = engine.compare_exchange(key, expected, new).await?;
        self.exchanged.lock().unwrap().push_back(response);
        yield_now().await;
        Ok(self.exchanged.lock().unwrap().pop_front().unwrap())
    }
}
