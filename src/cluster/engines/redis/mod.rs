//! Redis and Valkey (feature `redis`): one small versioned hash per key, written by a script.
//!
//! # Guarantees
//!
//! While one primary runs and keeps its memory, it keeps all [laws](crate::cluster::transport): a
//! server runs one command at a time, and a script is one command. The engine always declares
//! [`Consistency::Lossy`], since a server cannot promise more:
//!
//! - A **failover** (Sentinel, Cluster, a managed service) can lose the last acknowledged writes,
//!   because replicas receive them afterwards. The new primary may not know of a holder, and admit a
//!   second one. `min-replicas-to-write` makes that less likely, and does not rule it out.
//! - A server that is **killed and started again** has what is on its disk: nothing, the snapshot of
//!   some minutes ago, everything but the last second (`appendfsync everysec`), or everything
//!   (`appendonly yes` with `appendfsync always`: then a restart loses nothing).
//!
//! Fencing tokens go on growing across such an event as long as the clocks of the two servers agree,
//! since versions begin with the time; that is not guaranteed. A resource that checks the fencing token
//! refuses the first holder as soon as the second one has used the resource. If an acknowledged grant
//! must never be lost, use etcd, or PostgreSQL with synchronous replicas.
//!
//! # The URL
//!
//! `redis://user:password@host:port/database?option=value`; everything but the host is optional, the
//! port is 6379 by default. `rediss://` uses TLS. A name with several addresses leads to the first of them
//! whose server answers, and is fit. `redis+unix:///path?db=0` is a Unix socket; user and password are the
//! options `user` and `pass` there. [Sentinels](#sentinel) have a URL too. `valkey` may stand for `redis` in
//! each. Special characters of the user's name and the
//! password are percent-encoded. [`RedisBuilder`] has a setter for each option:
//!
//! | option | meaning | default |
//! |---|---|---|
//! | `prefix` | begins all names on the server; 1 to 100 of the characters of a [`Key`] | `lockword` |
//! | `password_file` | the file that has the password, which is not in the address then | none |
//! | `plaintext` | `allow`: the password may be sent without TLS to other machines | only to the loopback interface |
//! | `ca` | with TLS: a PEM file of the authorities to trust | those of the system |
//! | `cert`, `key` | with TLS: PEM files of the client's certificate and its key | no client certificate is presented |
//! | `server_name` | with TLS: the name that the server's certificate must have | the host |
//! | `db` | the number of the database, if it is not in the path | 0 |
//! | `wait_replicas` | how many replicas have to confirm an answer: see [below](#waiting-for-replicas) | none |
//! | `wait_timeout_ms` | how long they may take, in milliseconds, up to 1000 | 500 |
//! | `connect_timeout_ms` | how long connecting may take, in milliseconds | 3000 |
//! | `timeout_ms` | how long an answer may take, in milliseconds | 5000 |
//!
//! The files are read again for each connection, and [`RedisBuilder::credentials_by`] takes a function instead:
//! see [credentials that change](crate::cluster::connect#credentials-that-change). Where a connection is open, a new password
//! (`ACL SETUSER lock resetpass >new`) does not end it; `CLIENT KILL`, `ACL DELUSER` and `ACL LOAD` do, and the next
//! one logs in with what the file has then. A user may have two passwords for a while (`>new` without
//! `resetpass`, and `<old` when the file is replaced): then no login is refused in between.
//! Otherwise a node, to keep its locks, must find the new password within what is left of their leases.
//!
//! A password in an address that leads to another machine needs `rediss://` or `plaintext=allow`.
//!
//! # Requirements
//!
//! - Redis 6.2 or newer, or Valkey (the tests run against Redis 7.0). The server must not be a
//!   replica, except in a Redis Cluster, where a replica leads to its primary.
//! - A `maxmemory-policy` of `noeviction` or `volatile-*`. With `allkeys-*` the server could evict a
//!   lock that is held: [`Redis::connect`] refuses such a server. With `volatile-*` a full server
//!   evicts unused registers before their hour is over; then a request that was delayed for long may
//!   create the register again for a node that no longer wants the lock, and keep the others out for
//!   one lease. A full server (`OOM`) refuses writes and loses nothing. A server that keeps an
//!   append-only file and whose disk is full ends by itself: the last write has an unknown outcome,
//!   and nothing that was acknowledged is lost.
//! - For a user with limited rights, these and no more (for a database other than 0 also `+select`, to
//!   [list](Transport::list) keys `+scan`, for a Redis Cluster `+asking`, for `wait_replicas` `+wait`):
//!
//!   ```text
//!   ACL SETUSER lock on >password resetchannels ~{lockword}* &{lockword}:#*
//!     +info +get +set +hmget +hset +del +expire +persist +time +eval +evalsha
//!     +publish +subscribe +unsubscribe +ping +hello
//!   ```
//!
//! The address has to lead to the primary, also after a failover: by its name, by a proxy, or by sentinels.
//!
//! # Sentinel
//!
//! `redis+sentinel://user:password@host:port,host:port/service?db=0` names sentinels (`rediss+sentinel://`:
//! they and the servers use TLS), of which the port is 26379 by default, and the name by which they know the
//! primary. The database may also follow it: `/service/0`. User and password are those of the servers; the
//! sentinels get those of the options `sentinel_user` and `sentinel_password` (or `sentinel_password_file`), or none.
//! [`Redis::sentinel_builder`] is the same for a [`RedisBuilder`].
//!
//! The sentinels are asked at each connect, one after the other. A server that is no primary is refused, so a
//! sentinel that does not know of a failover yet is followed by the next one. Each next connection is also
//! asked for, so a lock survives a failover that takes less than what is left of its lease, if the new primary
//! has its last write. Otherwise it is lost, as after every failover: the new primary may show an older
//! version ([`LossReason::EngineWentBack`](crate::cluster::LossReason)), or another holder. A primary that is
//! cut off from its sentinels goes on with those clients that it still reaches. Two nodes may then hold a lock
//! until the old primary sees that it is none any more; `min-replicas-to-write 1` at the servers bounds that
//! time.
//!
//! # Waiting for replicas
//!
//! With `wait_replicas=N` ([`RedisBuilder::wait_for_replicas`]) each request is followed by `WAIT N`, and its
//! answer is believed only if N replicas have confirmed in time all that the server had written until then.
//! Otherwise a write is [`Indeterminate`](TransportError::Indeterminate), and a load, or a write that met
//! another version, is [`Unavailable`](TransportError::Unavailable). So no lock is granted, and no grant or
//! release is seen, that N replicas do not have in their memory.
//!
//! This promises: a failover to one of *these* replicas loses nothing that was acknowledged. It does not make
//! Redis strongly consistent, and the engine still declares [`Consistency::Lossy`]:
//!
//! - A failover may choose a replica that has not confirmed. Only if N is the number of all replicas that may
//!   become the primary, there is none.
//! - A primary that is cut off from the majority of a cluster, or from the sentinels, may still have N replicas
//!   on its side, while another primary is chosen on the other.
//! - A replica confirms what it has in memory, not what is on its disk.
//! - A write that is not confirmed is not undone. It can be confirmed later, or be lost.
//!
//! The price: while fewer than N replicas are there, no lock is renewed, and all are lost after a lease. The
//! requests of one [`Redis`] run one after the other, a round trip from the server to its replicas each, and
//! each takes the whole timeout where a replica is missing. The timeout should be less than the
//! [request timeout](crate::cluster::NodeBuilder::request_timeout) of the node.
//!
//! # Redis Cluster
//!
//! All locks of a prefix are in one slot, because of the braces. The server that has the slot is found from
//! any other server, and found again when the slot has moved. Several prefixes use several servers. Each
//! connection begins at the address: let it be a name that has the addresses of several servers, so that it
//! leads to one that is there.
//!
//! While the slot moves (`redis-cli --cluster reshard`), no lock is lost. The server that has the slot says of
//! each register whether it has moved already (`ASK`), and the request follows it. A register may then be at
//! another server than the floor below, which is in the same slot. So it is written without the floor, with a
//! version that exceeds its own last one, and a new register begins above the floor that was read at the other
//! server. What a move costs:
//!
//! - A request takes two to four rounds instead of one, and a connection to the second server more.
//! - A prefix that is used for the first time meanwhile has no floor yet: no register can be made until the slot
//!   has moved.
//! - Of keys with a slash: until `{lockword}floors` has moved, or always where there is none, registers at the
//!   first server are written without their floor.
//! - A register that becomes idle does not expire until it was used once more after the move.
//! - [`Redis::delete`] and [`list`](Transport::list) are [`Unavailable`](TransportError::Unavailable), the
//!   former while the two are apart, the latter until the slot has moved.
//!
//! A server whose part of the cluster is down (`CLUSTERDOWN`, `MASTERDOWN`) refuses requests for now, and so
//! does one that loads its data (`LOADING`): the node repeats them, and the lease decides how long. The first
//! two also end the connection, and the next one begins at the address.
//!
//! # Data on the server
//!
//! There is a hash `{lockword}:KEY` per key, with the fields `version` and `value`. Its changes are
//! announced only if a node is to be woken, and on the channel of that node, `{lockword}:#NODE` with the 16 digits of
//! its number: nobody else hears it, however many wait for the key. A node that waits for a thousand keys has
//! one subscription all the same. What is to wake all nodes, because an operator breaks a lock, goes over
//! `{lockword}:#all`, to which each connection with a watch is subscribed. A message is a hash of the key: a node
//! that does not watch it does nothing. Any user may publish by default, so a node reads the register after each message
//! ([`Notices::Hints`](crate::cluster::Notices::Hints)): a forged one costs that read. Very long
//! ones, or very many, make the server close the connection of the watches (`client-output-buffer-limit
//! pubsub`), which the node replaces; until then it polls. Requests have a connection of their own. An ACL
//! rule for the channels of the prefix keeps other users from sending any.
//!
//! A register that nobody uses expires after an hour. `{lockword}floor` stays: it is the largest version so
//! far, and a register that is created again continues from it, even if the clock has stepped back. (Where prefixes
//! have [floors of their own](#rights-per-prefix), `{lockword}floors` and `{lockword}floor:jobs/` stay as well.) To
//! look, and to listen:
//!
//! ```text
//! redis-cli HGETALL '{lockword}:jobs/nightly'
//! redis-cli --scan --pattern '{lockword}:*'
//! redis-cli PSUBSCRIBE '{lockword}:#*'
//! ```
//!
//! What lockword did not write is left as it is: a name that is no hash with these two fields, a version or a
//! floor that is no number from 1 to 2^52 - 1. Requests that meet it fail at once as
//! [`Corrupt`](TransportError::Corrupt), with the name: delete it, or use another prefix.
//!
//! Deleting a register by hand keeps the order of fencing tokens, and takes the lock from its holder; but not that
//! of a register which was last written while a slot moved: the floor may not know its version.
//!
//! # Rights per prefix
//!
//! With Redis 7.0 or newer, or Valkey, a user can have rights on the locks of a prefix of keys, here `jobs/`, and on
//! no others. The commands are printed by
//! `lockword grants --on redis://cache --prefix jobs/ --role jobs`, and are those of
//! [`grants`](crate::cluster::engines::grants()):
//!
//! ```
//! use lockword::cluster::engines::grants;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let grants = grants("redis://cache", "jobs/", "jobs")?;
//! // A script makes the floor of the prefix, unless it is there. Only then the user gets its rights.
//! assert!(grants.commands().contains("made=$($cli EVAL "));
//! assert!(grants.commands().contains(
//!     "ACL SETUSER jobs on clearselectors resetkeys resetchannels -@all \
//!      '%R~{lockword}floors' '~{lockword}:' '~{lockword}:jobs/*' '~{lockword}floor:jobs/*' '&{lockword}:#*' \
//!      +info +get +set +hmget +hset +expire +persist +time +eval +evalsha \
//!      +publish +subscribe +unsubscribe +ping +hello +asking",
//! ));
//! # Ok(())
//! # }
//! ```
//!
//! A user of that name keeps its password and loses its other rights, also those on another prefix. At `{lockword}:` and on the channel
//! `{lockword}:#` the connection is checked when it begins; nothing is kept there. With another `prefix` in the address the names
//! are others. The rights hold in all databases of the server, and the floor is in database 0: so there are no such
//! rights in another one.
//!
//! *What such a user can do:* acquire, wait for, renew, hand over, release, look at and break the locks below the
//! prefix, and by hand write what it likes into their registers and their floor, and let them expire. That
//! harms these locks only: also if others use or delete what it has written.
//!
//! *What it cannot do:* read, write or delete another register, raise or lower another floor, make others use another
//! floor than its own, [delete](Redis::delete) (`+del`) or [list](Transport::list) (`+scan`; who may scan sees the
//! names of all keys of the server). Each is [`Denied`](TransportError::Denied).
//!
//! *What no rule of Redis prevents:* The channels belong to nodes and not to keys, so such a user may hear the hashes of
//! all keys of which changes are announced, and may make any node of `{lockword}` look at what it waits for, by a forged
//! message. Who may run scripts can keep the whole server busy by one that does not end, and fill its memory; and is
//! confined no better than the server's scripts are: before the releases of October 2025 a script could leave them
//! (CVE-2025-49844, CVE-2025-46818), so use those or later ones. Users outlive the data: after a loss of data
//! (FLUSHALL, a failover, a restart without persistence) such a user has its rights and no floor, and can use up the
//! versions of the shared one by hand. Run the commands again before clients connect. Where
//! that is too much, give it a `prefix` of its own in the address, or a server.
//!
//! Why a floor (the stored number above which a new register begins, so that fencing tokens never decrease): whoever may
//! write registers has to write the floor, and may write the last version into it. Then none of the registers that use it
//! can be written any more. So those of such a prefix have one of their own,
//! `{lockword}floor:jobs/`. Of several prefixes of a key that have a floor the longest counts, for all clients:
//! the hash `{lockword}floors`, which the user may only read, says which there are. So a user with rights on the
//! prefix and one with all rights take the version of a new register from the same floor, whoever of them has written,
//! deleted or let expire the one before: no version repeats or goes down.
//!
//! A floor can be made while clients are at work ([`Redis::create_floor`] does it, too), and begins with the one above
//! it. Without it such a user is refused ([`Denied`](TransportError::Denied), with the name of the floor). Nothing
//! deletes a floor: do not do so by hand, nor take its field out of the hash. None is made while a slot moves.
//!
//! # Connections
//!
//! Each [`Redis`] has one connection for requests, and one for watches. The next request replaces its one
//! when that is lost, or when no data came for two seconds while a response was outstanding. No request is
//! ever sent twice: one that was sent and not answered is
//! [`Indeterminate`](TransportError::Indeterminate). While there is a watch, the server is pinged twice
//! a second, over the connection of the watches. Watches end with an error when it does not answer, or when
//! one of the two connections is lost: the next one may lead to another server. The node then reads the
//! register and watches again. A request takes at most the connect
//! timeout plus the timeout: eight seconds by default. It takes one more round where the server has
//! forgotten the script, and where a cluster has moved the slot; and it is repeated for a second where a slot
//! that moves has put it off (`TRYAGAIN`).

use crate::cluster::engines::connect::ConnectionRuntime;
use crate::cluster::engines::prefix::Prefix;
use crate::cluster::process::{OfProcess, watch_of_process};
use crate::cluster::{
    Capabilities, ConnectError, Consistency, Exchange, Key, NodeId, Transport, TransportError,
    Version, Versioned, Wakeups, Watch, Write, async_trait,
};
use ::redis::Value;
use commands::LuaScript;
use connection::RedisConnector;
use futures_util::stream;
use grants::FloorCall;
use std::time::Duration;
use subscriptions::Subscriptions;
use url::Url;

mod builder;
mod commands;
mod connection;
mod grants;
mod sentinel;
mod socket;
mod subscriptions;

pub use builder::RedisBuilder;

/// A client of Redis or Valkey: see the [module's documentation](self).
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use lockword::cluster::{Node, engines::redis::Redis};
///
/// let url = "rediss://lock:password@redis.example.org/0?prefix=shop".parse()?;
/// let node = Node::builder(Redis::connect(&url).await?).build()?;
/// # Ok(())
/// # }
/// ```
///
/// Several nodes and several runtimes may share it. It has a connection for requests, and another one once
/// there has been a watch. They live on a thread of this crate's own, which ends with the last node and the
/// last transport of the process, or on the [runtime that was given](RedisBuilder::runtime). In a forked
/// child every request fails ([`TransportError::Unavailable`]), and dropping it does nothing.
pub struct Redis {
    connector: OfProcess<RedisConnector>,
    load: LuaScript,
    compare_exchange: LuaScript,
    delete: LuaScript,
    create_floor: LuaScript,
    list: LuaScript,
}

impl Redis {
    /// A builder for a client of this server: `host` or `host:port`, where the port is 6379 by
    /// default, or the absolute path of its Unix socket. An IPv6 address is in brackets.
    pub fn builder(server: impl Into<String>) -> RedisBuilder {
        RedisBuilder::new(server.into())
    }

    /// A builder for a client of the primary that these sentinels know by the name `service`, as it is
    /// [described](self#sentinel): `host` or `host:port` each, where the port is 26379 by default.
    pub fn sentinel_builder(
        sentinels: impl IntoIterator<Item = impl Into<String>>,
        service: impl Into<String>,
    ) -> RedisBuilder {
        let sentinels = sentinels.into_iter().map(Into::into).collect();
        RedisBuilder::by_sentinels(sentinels, service.into())
    }

    /// Connects to the server at this [URL](self#the-url): the same as [`RedisBuilder::from_url`] and
    /// then [`RedisBuilder::connect`].
    ///
    /// It returns within the connect timeout. Dropping the future is safe at any moment.
    ///
    /// # Errors
    ///
    /// Those of the two methods.
    pub async fn connect(url: &Url) -> Result<Self, ConnectError> {
        RedisBuilder::from_url(url)?.connect().await
    }

    async fn open(
        config: builder::RedisConfig,
        runtime: ConnectionRuntime,
    ) -> Result<Self, ConnectError> {
        let redis = Self {
            connector: OfProcess::new(RedisConnector::new(config, runtime)),
            load: LuaScript::load(),
            compare_exchange: LuaScript::compare_exchange(),
            delete: LuaScript::delete(),
            create_floor: LuaScript::create_floor(),
            list: LuaScript::list(),
        };
        redis.connector.connection().await.map_err(|failed| failed.error)?;
        Ok(redis)
    }

    /// Removes the register of `key`, whatever it holds, and returns whether there was one. It is for
    /// an operator who knows that nobody uses the key.
    ///
    /// The holder of the lock loses it at its next write. The next register of this name gets larger
    /// versions.
    ///
    /// It takes as long as a request. If the future is dropped, the register may or may not be removed;
    /// later calls work as before.
    ///
    /// # Errors
    ///
    /// [`TransportError::Indeterminate`] if the request was sent and no response came, or none that can
    /// be read: the register may or may not be removed. It was not removed after any other error:
    /// [`Unavailable`](TransportError::Unavailable) if the server cannot be reached or refuses for now,
    /// [`Denied`](TransportError::Denied), [`Unsupported`](TransportError::Unsupported), and
    /// [`Corrupt`](TransportError::Corrupt) if the name stands for something that lockword did not
    /// write.
    pub async fn delete(&self, key: &Key) -> Result<bool, TransportError> {
        let names = &self.connector.config().names;
        let (register, floor) = (names.register(key), names.floor());
        let keys = [&*register];
        let call = self.delete.call(&keys, &[]).with_floor(&floor);
        match self.connector.here()?.write(&call).await? {
            Value::Int(found @ (0 | 1)) => Ok(found == 1),
            _ => Err(TransportError::indeterminate("the script's answer makes no sense")),
        }
    }

    /// Creates the [floor of `prefix`](self#rights-per-prefix), such as `jobs/`, unless it exists. It may be
    /// called while other clients are at work, and again at any time. Nothing deletes a floor.
    ///
    /// It takes as long as a request. If the future is dropped, the floor may or may not be created.
    ///
    /// # Errors
    ///
    /// [`TransportError`]: [`Unsupported`](TransportError::Unsupported) if `prefix` is none: it ends with a slash, and
    /// has the characters of a [`Key`]; [`Denied`](TransportError::Denied) to a user without rights on all keys;
    /// [`Unavailable`](TransportError::Unavailable) while the slot moves; and the others of
    /// [`delete`](Self::delete), after [`Indeterminate`](TransportError::Indeterminate) of which the floor may
    /// or may not be created.
    pub async fn create_floor(&self, prefix: &str) -> Result<(), TransportError> {
        let prefix = Prefix::new(prefix).map_err(TransportError::unsupported)?;
        let call = FloorCall::new(&self.connector.config().names, &prefix);
        let keys: Vec<&str> = call.keys.iter().map(String::as_str).collect();
        let arguments: Vec<_> = call.arguments.into_iter().map(String::into_bytes).collect();
        match self.connector.here()?.write(&self.create_floor.call(&keys, &arguments)).await? {
            Value::Int(1) => Ok(()),
            _ => Err(TransportError::indeterminate("the script's answer makes no sense")),
        }
    }
}

#[async_trait]
impl Transport for Redis {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        let register = self.connector.config().names.register(key);
        let keys = [&*register];
        commands::register(&self.connector.here()?.read(&self.load.call(&keys, &[])).await?)
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
        let names = &self.connector.config().names;
        let (register, floor) = (names.register(key), names.floor());
        let arguments = commands::arguments(expected, &new, names, key);
        let keys = [&*register];
        let call = self.compare_exchange.call(&keys, &arguments).with_floor(&floor);
        commands::exchange(&self.connector.here()?.write(&call).await?)
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let connection = self.connector.here()?.watching().await?;
        let names = &self.connector.config().names;
        let watch = Subscriptions::watch(connection, names, key, node).await?;
        Ok(watch_of_process(Box::pin(stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            let item = watch.next().await;
            // An error is the last item.
            let watch = item.is_ok().then_some(watch);
            Some((item.map(|()| None), watch))
        }))))
    }

    /// It needs the permission `+scan`, which no lock needs. The server looks at all keys of its database.
    async fn list(&self, prefix: &str) -> Result<Vec<Key>, TransportError> {
        let connector = self.connector.here()?;
        let names = &connector.config().names;
        let mut keys = std::collections::BTreeSet::new();
        let unused = names.unused();
        let slot = [&*unused];
        // All pages are of one server. This finds it, whatever is there.
        match connector.read(&self.load.call(&slot, &[])).await {
            Ok(_) | Err(TransportError::Corrupt(_)) => {}
            Err(error) => return Err(error),
        }
        let connection = connector.connection().await?;
        let mut cursor = b"0".to_vec();
        loop {
            let arguments = [cursor, names.pattern(prefix).into_bytes()];
            let page = self.list.call(&slot, &arguments);
            let response = connector.read_at(&connection, &page).await?;
            let (next, page) = commands::page(&response)
                .ok_or_else(|| TransportError::corrupt("it is no answer of SCAN"))?;
            // What has another name was written by something else.
            keys.extend(page.iter().filter_map(|name| Key::new(names.key(name)?).ok()));
            if next == b"0" {
                return Ok(keys.into_iter().collect());
            }
            cursor = next;
        }
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

/// Without user and password.
impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let config = self.connector.config();
        let mut shown = f.debug_struct("Redis");
        shown.field("server", &config.server()).field("prefix", &config.names.prefix);
        shown.finish_non_exhaustive()
    }
}
