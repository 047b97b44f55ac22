//! Redis and Valkey: a small versioned hash per key, written by a script.

use crate::cluster::{
    Capabilities, ConnectError, Consistency, Exchange, Key, NodeId, Transport, TransportError,
    Version, Versioned, Wakeups, Watch, Write, async_trait,
};
use ::redis::{Cmd, Value, cmd};
use futures_util::stream;
use std::time::Duration;
use url::Url;

// What an address says.
mod address;
// Whether a server is fit.
mod check;
// What errors mean.
mod errors;
// The connection.
mod link;
// The scripts.
mod script;
// Who watches what.
mod subscriptions;
// Plain and encrypted sockets.
mod tls;

/// Redis and Valkey (feature `redis`).
///
/// DOCS
pub struct Redis {
    link: link::Link,
    compare_exchange: script::Loaded,
    delete: script::Loaded,
}

impl Redis {
    /// Connects to the server at this address, and looks whether it is fit: see
    /// [the addresses](Self#address).
    ///
    /// It takes three seconds at most. It has to be called within a tokio runtime, and so have all
    /// others.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; [`Unsuitable`](ConnectError::Unsuitable) for a server that is too old, that
    /// is a replica, or that may evict what is held.
    pub async fn connect(url: &Url) -> Result<Self, ConnectError> {
        let redis = Self {
            link: link::Link::new(address::Settings::read(url)?),
            compare_exchange: script::Loaded::compare_exchange(),
            delete: script::Loaded::delete(),
        };
        redis.link.connection().await.map_err(|failed| failed.error)?;
        Ok(redis)
    }

    /// Removes the register of `key`, whatever it holds, and tells whether there was one. For an
    /// operator who knows that nobody uses the key.
    ///
    /// Whoever holds the lock loses it at its next write. The next register of this name gets larger
    /// versions.
    ///
    /// # Errors
    ///
    /// As [`compare_exchange`](Transport::compare_exchange).
    pub async fn delete(&self, key: &Key) -> Result<bool, TransportError> {
        let names = &self.link.settings().names;
        let (call, spelt_out) = self.delete.call([&names.register(key), &names.floor()], &[]);
        let answer = self.link.call(&call, Some(&spelt_out), true).await?;
        Ok(answer == Value::Int(1))
    }

    /// The command that reads the register.
    fn reading(&self, key: &Key) -> Cmd {
        let mut read = cmd("HMGET");
        read.arg(self.link.settings().names.register(key)).arg("version").arg("value");
        read
    }
}

#[async_trait]
impl Transport for Redis {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        script::register(&self.link.call(&self.reading(key), None, false).await?)
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        if new.value.len() > self.capabilities().largest_value {
            return Err(TransportError::unsupported("a value of more than 64 KiB"));
        }
        let names = &self.link.settings().names;
        let arguments = script::arguments(expected, &new);
        let arguments = arguments.each_ref().map(Vec::as_slice);
        let (call, spelt_out) =
            self.compare_exchange.call([&names.register(key), &names.floor()], &arguments);
        let answer = self.link.call(&call, Some(&spelt_out), true).await?;
        script::exchange(&answer)
            .ok_or_else(|| TransportError::indeterminate("the script's answer makes no sense"))
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let connection = self.link.connection().await.map_err(errors::not_sent)?;
        let channel = self.link.settings().names.register(key);
        let ear = subscriptions::Subscriptions::listen(connection, &channel, node).await?;
        Ok(Box::pin(stream::unfold(Some(ear), |ear| async {
            let mut ear = ear?;
            let item = ear.next().await;
            // An error is the last item.
            let ear = item.is_ok().then_some(ear);
            Some((item, ear))
        })))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            consistency: Consistency::Lossy,
            wakeups: Wakeups::PushToOne,
            // A message takes no longer than an answer. A server that is silent is noticed after two
            // seconds, by then the watch has ended.
            wake_within: Duration::from_secs(2),
            ..Capabilities::new("redis")
        }
    }
}

/// No user and no password.
impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let settings = self.link.settings();
        let mut shown = f.debug_struct("Redis");
        shown.field("server", &settings.server()).field("prefix", &settings.names.prefix);
        shown.finish_non_exhaustive()
    }
}
