//! Writes that are lost, made twice, made late, or have a wrong response.

use super::{Every, Exchanged, Loaded, overwrite};
use lockword::cluster::layers::Interceptor;
use lockword::cluster::{
    Exchange, Key, Memory, Transport, TransportError, Version, Write, async_trait,
};
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::sleep;

/// Compares, and writes later, without comparing again.
pub struct LostUpdate;

#[async_trait]
impl Interceptor<Memory> for LostUpdate {
    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        let found = engine.load(key).await?;
        if found.as_ref().map(|found| found.version) != expected {
            return Ok(Exchange::Mismatch(found));
        }
        yield_now().await;
        overwrite(engine, key, new).await
    }
}

/// Acknowledges some writes that it does not make.
pub struct Forgets(pub Every);

#[async_trait]
impl Interceptor<Memory> for Forgets {
    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        let response = engine.compare_exchange(key, expected, new).await?;
        if let Exchange::Swapped(version) = response
            && self.0.is_it()
        {
            engine.delete(key);
            return Ok(Exchange::Swapped(version));
        }
        Ok(response)
    }
}

/// Drops a register as soon as it is idle.
pub struct NoRetention;

#[async_trait]
impl Interceptor<Memory> for NoRetention {
    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        let idle = new.idle;
        let response = engine.compare_exchange(key, expected, new).await;
        if idle {
            engine.delete(key);
        }
        response
    }
}

/// A client library that sends a request again if the response is lost: every so often.
pub struct SentTwice(pub Every);

#[async_trait]
impl Interceptor<Memory> for SentTwice {
    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        let response = engine.compare_exchange(key, expected, new.clone()).await;
        if self.0.is_it() {
            yield_now().await;
            return engine.compare_exchange(key, expected, new).await;
        }
        response
    }
}

/// The same for a request that takes whatever version there is.
pub struct AppliedTwice(pub Every);

#[async_trait]
impl Interceptor<Memory> for AppliedTwice {
    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        let response = engine.compare_exchange(key, expected, new.clone()).await?;
        if matches!(response, Exchange::Swapped(_)) && self.0.is_it() {
            yield_now().await;
            overwrite(engine, key, new).await?;
        }
        Ok(response)
    }
}

/// Reports a timeout as a failure; the write is applied after that.
pub struct LateAfterFailure(pub Every);

#[async_trait]
impl Interceptor<Memory> for LateAfterFailure {
    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        if !self.0.is_it() {
            return engine.compare_exchange(key, expected, new).await;
        }
        let (engine, key) = (engine.clone(), key.clone());
        tokio::spawn(async move {
            sleep(Duration::from_millis(5)).await;
            engine.compare_exchange(&key, expected, new).await
        });
        Err(TransportError::unavailable("timed out"))
    }
}

/// Reports a lost response as a failure.
pub struct AppliedAndFailed(pub Every);

#[async_trait]
impl Interceptor<Memory> for AppliedAndFailed {
    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        let response = engine.compare_exchange(key, expected, new).await;
        if self.0.is_it() {
            return Err(TransportError::unavailable("connection reset"));
        }
        response
    }
}

/// Keys are the same whatever their case.
pub struct IgnoresCase;

fn lower(key: &Key) -> Key {
    Key::new(&key.as_str().to_ascii_lowercase()).unwrap()
}

#[async_trait]
impl Interceptor<Memory> for IgnoresCase {
    async fn load(&self, engine: &Memory, key: &Key) -> Loaded {
        engine.load(&lower(key)).await
    }

    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        engine.compare_exchange(&lower(key), expected, new).await
    }
}

/// A value ends at its first zero.
pub struct EndsAtZero;

#[async_trait]
impl Interceptor<Memory> for EndsAtZero {
    async fn compare_exchange(
        &self,
        engine: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Exchanged {
        let value = new.value.split(|byte| *byte == 0).next().unwrap().into();
        engine.compare_exchange(key, expected, Write { value, ..new }).await
    }
}
