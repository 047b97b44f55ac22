//! Redis and Valkey (feature `redis`): a small versioned hash per key, written by a script.
//!
//! # What it promises
//!
//! While one primary runs and keeps its memory, all [laws](crate::cluster::transport): a server does
//! one thing at a time, and a script is one thing. It is declared [`Consistency::Lossy`], always,
//! since a server cannot promise more:
//!
//! - a **failover** (Sentinel, Cluster, a managed service) can lose the last acknowledged writes, as
//!   replicas are told afterwards. The new primary may not know of a holder, and admit a second one.
//!   `min-replicas-to-write` narrows that, it does not end it;
//! - a server that is **killed and started again** has what is on its disk: nothing, the snapshot of
//!   some minutes ago, the last second missing (`appendfsync everysec`), or all of it
//!   (`appendonly yes` with `appendfsync always`: then a restart loses nothing).
//!
//! The tokens go on growing across such an event as long as the clocks of the two servers agree, since
//! versions begin with the time; that is not promised. A resource that checks the fencing token refuses
//! the first holder as soon as the second one has used it. If an acknowledged grant must never be lost,
//! use etcd, or PostgreSQL with synchronous replicas.
//!
//! # Address
//!
//! `redis://user:password@host:port/database?prefix=...`, all but the host optional. Special
//! characters of the password are percent-encoded. For TLS `rediss://`, with these options:
//!
//! | option | meaning | unless it is there |
//! |---|---|---|
//! | `prefix` | begins all names on the server; an alphabet as of a [`Key`] | `lockword` |
//! | `ca` | a PEM file with the authorities to trust | those of the system |
//! | `cert`, `key` | PEM files with a certificate to show, and its key | none is shown |
//!
//! The files are read once. A certificate has to be for the host as it is in the address.
//!
//! # What it needs on the server
//!
//! - Redis 6.2 or newer, or Valkey (the tests run against Redis 7.0); not a replica, except in a Redis Cluster, where the primary is
//!   found from there.
//! - A `maxmemory-policy` of `noeviction`, or of `volatile-*`: with `allkeys-*` a lock that is held could
//!   be evicted, and [`Redis::connect`] refuses that. With `volatile-*` a full server evicts registers
//!   that nobody uses before their hour is over. A request that was long delayed may then create the
//!   register anew for somebody who does not want it any more, and keep the others out for a lease.
//!   A full server (`OOM`) refuses writes and loses nothing. One whose disk is full ends by itself if it
//!   keeps an append-only file: the last write is indeterminate, and nothing that it answered is lost.
//! - For a user with limited rights, these and no more (`+select` too for a database that is not 0):
//!
//!   ```text
//!   ACL SETUSER lock on >password resetchannels ~{lockword}* &{lockword}:*
//!     +info +get +set +hget +hmget +hset +del +expire +persist +time +eval +evalsha
//!     +publish +subscribe +unsubscribe +ping +hello
//!   ```
//!
//! The address has to lead to the primary, also after a failover: by its name, or by a proxy.
//! Sentinels are not asked.
//!
//! In a Redis Cluster all locks of a prefix are in one slot, because of the braces: the server that
//! has it is found from any other, and found again when the slot has moved. More prefixes use more
//! servers.
//!
//! # What is there
//!
//! A hash `{lockword}:KEY` per key, with `version` and `value`; its changes are told on the channel of
//! the same name (`{lockword}:#3:KEY` in database 3), and only if somebody is to be woken. A register that nobody uses goes after an hour.
//! `{lockword}floor` stays: the largest version so far, from which a register that comes back goes on,
//! even if the clock has stepped back. To look, and to listen:
//!
//! ```text
//! redis-cli HGETALL '{lockword}:jobs/nightly'
//! redis-cli --scan --pattern '{lockword}:*'
//! redis-cli SUBSCRIBE '{lockword}:jobs/nightly'
//! ```
//!
//! To delete a register by hand is safe as regards tokens, and takes the lock from whoever holds it.
//!
//! # Connections
//!
//! One for each [`Redis`], for requests and watches. It is made anew at the next call when it is lost,
//! or when nothing was heard for two seconds of something that was asked. Nothing is ever sent twice: what
//! was sent and not answered is [`Indeterminate`](TransportError::Indeterminate). While somebody
//! watches, the server is asked twice a second whether it is there; watches end with an error when it
//! is not, or the connection is lost, and the node makes new ones and looks. A call takes eight seconds
//! at most: three to connect, five for the answer; more where the server has forgotten the script, or
//! a cluster has moved the slot, which takes one more round each.

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
// Whether the server answers.
mod silence;
// Who watches what.
mod subscriptions;
// Plain and encrypted sockets.
mod tls;

/// A client of Redis or Valkey: see the [module's documentation](self).
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use lockword::cluster::{Node, transports::redis::Redis};
///
/// let address = "rediss://lock:password@redis.example.org/0?prefix=shop".parse()?;
/// let node = Node::builder(Redis::connect(&address).await?).build()?;
/// # Ok(())
/// # }
/// ```
///
/// It may be shared by nodes, and by runtimes. A connection lives in the runtime in which it was made;
/// if that has gone, or does not run any more, it is replaced.
pub struct Redis {
    link: link::Link,
    compare_exchange: script::Loaded,
    delete: script::Loaded,
}

impl Redis {
    /// Connects to the server at this [address](self#address), and looks whether it is fit.
    ///
    /// It takes three seconds at most. It has to be called within a tokio runtime with its network
    /// and timers enabled, and so have all others.
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
        let (register, floor) = (names.register(key), names.floor());
        let response = self.link.run(&self.delete.call([&register, &floor], &[])).await?;
        Ok(response == Value::Int(1))
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
        script::register(&self.link.read(&self.reading(key)).await?)
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
        let (register, floor) = (names.register(key), names.floor());
        let arguments = script::arguments(expected, &new, names.channel(key));
        let call = self.compare_exchange.call([&register, &floor], &arguments);
        let response = self.link.run(&call).await?;
        script::exchange(&response)
            .ok_or_else(|| TransportError::indeterminate("the script's answer makes no sense"))
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let connection = self.link.connection().await.map_err(errors::not_sent)?;
        let channel = self.link.settings().names.channel(key);
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
            // A message takes no longer than an answer. A watch of a server that is silent has ended
            // by then.
            wake_within: Duration::from_secs(3),
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
