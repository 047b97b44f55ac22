//! etcd, version 3.4 or newer (feature `etcd`): linearizable; a change wakes all waiting nodes.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use lockword::cluster::{Node, connect};
//!
//! let etcd = connect("etcds://locks:secret@a:2379,b:2379,c:2379").await?;
//! let node = Node::builder(etcd).build()?;
//! let guard = node.lock("jobs/nightly")?.acquire().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! Every write is one transaction that compares the key's `mod_revision`. A majority of the servers
//! agrees on it before it is answered: no acknowledged write is lost while a majority of the disks
//! survives, whichever server fails, and reads are linearizable ([`Consistency::Linearizable`]). The
//! version of a register is its `mod_revision`. etcd counts revisions over all keys and never goes
//! back: a key that was deleted and created again is newer. The servers' clocks do not matter.
//!
//! etcd's own locks, elections and leases are not used.
//!
//! The guarantee does not survive a restored backup (revisions begin again at those of the backup:
//! raise them by `etcdutl snapshot restore --bump-revision`, or use another prefix),
//! `etcd --unsafe-no-fsync` together with a power failure, and `--force-new-cluster`.
//!
//! *When a server fails*, requests go to the next one of the URL. A write that was in flight is
//! [`Indeterminate`]; one that was certainly refused, or not sent, goes to another server at once.
//! Without a majority nothing is read or written. The election of a new leader takes one to two seconds
//! with etcd's defaults (`--election-timeout`), so a lease of less than ten seconds may not survive it.
//!
//! *Wake-ups* are etcd's watches, and carry the value. A watch ends with an error when its connection
//! breaks, when its server has lost the leader, when the history that it had yet to deliver was
//! compacted, and when nothing has been heard of the server for eight seconds (HTTP/2 pings ask it for
//! a sign of life meanwhile). A watch is not resumed: the node reads the register and watches again.
//!
//! A client has one connection per server that was asked, usually one, however many keys are watched.
//!
//! *A value that is too large*, which a stranger wrote, is an error for its own key and for no other
//! ([`LockError::Unreadable`](crate::cluster::LockError::Unreadable)). The client reads no message of more
//! than 4 MiB, which etcd allows with `--max-request-bytes`.
//!
//! # Requirements
//!
//! - etcd 3.4 or newer (the tests run against 3.4).
//! - If authentication is on: read and write permission for the prefix (`etcdctl role grant-permission
//!   locks --prefix=true readwrite lockword/`, for a role of the user). The token is refreshed when it
//!   has expired, and when users or roles were changed since (`--auth-token jwt`): the server refuses
//!   the old token before it does anything, so the request can be sent again safely.
//! - Compaction: etcd keeps the history until it is compacted. Let it do that by itself
//!   (`--auto-compaction-retention 1h`), and defragment it now and then. A full database
//!   (`--quota-backend-bytes`) refuses every write until an operator frees space and disarms the alarm
//!   (`etcdctl alarm disarm`). It also answers so for writes that it has applied, namely those that
//!   were in flight while it became full. So the register is read after such an answer: the write is
//!   [`Unsupported`] if that shows that it was not applied, and [`Indeterminate`] otherwise.
//! - A fast disk: each write waits for an fsync on a majority (two servers of three). A server whose disk is full, so that it cannot
//!   extend its log (by 64 MB at a time), ends by itself: the write that was in flight has an unknown
//!   outcome, and nothing that was acknowledged is lost. The other servers go on as long as they are a
//!   majority. Free some space, and start the server again.
//!
//! # Rights per prefix
//!
//! A role can have rights on the locks of a prefix of keys, here `jobs/`, and on no others. The commands for a shell are
//! printed by `lockword grants --on etcd://a,b,c --prefix jobs/ --role jobs`, and are those of
//! [`grants`](crate::cluster::engines::grants()):
//!
//! ```
//! use lockword::cluster::engines::grants;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let commands = "\
//! set -e
//! etcdctl role get -- jobs >/dev/null 2>&1 </dev/null || etcdctl role add -- jobs </dev/null
//! etcdctl role grant-permission -- jobs readwrite lockword/ </dev/null
//! etcdctl role grant-permission --prefix=true -- jobs readwrite lockword/jobs/ </dev/null
//! etcdctl user grant-role -- jobs jobs </dev/null
//! ";
//! assert_eq!(grants("etcd://a,b,c", "jobs/", "jobs")?.commands(), commands);
//! # Ok(())
//! # }
//! ```
//!
//! They expect a user `jobs` that exists. What the role had before stays: a second prefix is one more. At the key `lockword/`
//! the connection is checked when it begins; nothing is kept there.
//!
//! *What such a user can do:* acquire, wait for, renew, hand over, release, look at, [list](Transport::list) and break the
//! locks below the prefix, and by hand write and delete their registers: etcd has no right to write without that to
//! delete. That harms these locks only.
//!
//! *What it cannot do:* read, write, watch, list or delete other registers ([`Denied`](TransportError::Denied)), or make
//! other nodes look: what a watch yields is etcd's own record. So it cannot run [`Etcd::housekeeping`] either, which
//! reads all registers.
//!
//! There is no floor: a version is the revision of etcd, which no client can choose, and which goes on when a register is
//! deleted, by whomever. So nobody can use up or repeat the versions of others. *What no role prevents:* each write makes the
//! history longer, and a user can fill the database (`--quota-backend-bytes`), which stops all writes.
//!
//! # The URL
//!
//! `etcd://user:password@host:port/prefix?option=value`; everything but the host is optional, the port
//! is 2379 by default. `etcds://` uses TLS. All servers of the cluster should be named: further ones as
//! the option `host`, which may be repeated, or, for [`connect`](crate::cluster::connect), behind the
//! first one with commas. Special characters of the user's name and the password are percent-encoded.
//! All keys begin with the prefix, which is `lockword/` by default; a slash is added to one that does
//! not end with it. [`EtcdBuilder`] has a setter for each option:
//!
//! | option | meaning | default |
//! |---|---|---|
//! | `host` | a further server, `host` or `host:port` | none |
//! | `password_file` | the file that has the password, which is not in the address then | none |
//! | `plaintext` | `allow`: the password may be sent without TLS to other machines | only to the loopback interface |
//! | `ca` | with TLS: a PEM file of the authorities to trust | those of the system |
//! | `cert`, `key` | with TLS: PEM files of the client's certificate and its key | no client certificate is presented |
//! | `server_name` | with TLS: the name that the servers' certificates must have | the host |
//! | `connect_timeout_ms` | how long connecting to one server may take, in milliseconds | 2000 |
//! | `timeout_ms` | how long a request may take, with all tries of all servers, in milliseconds | 5000 |
//!
//! The files of TLS are read again for each connection, that of the password for each token, and
//! [`EtcdBuilder::credentials_by`] takes a function instead: see
//! [credentials that change](crate::cluster::connect#credentials-that-change). If the password changes, etcd invalidates the
//! user's tokens at once; connections and watches stay. The next request logs in again. To keep its locks, a node must find the new password within what is left
//! of their leases.
//!
//! A password in an address that leads to another machine needs `etcds://` or `plaintext=allow`.
//!
//! # Data on the servers
//!
//! The key is the prefix and the name of the lock. The value is what the lock wrote, and one byte: a
//! line feed, or a space if nobody holds the lock or waits for it.
//!
//! ```text
//! etcdctl get lockword/jobs/nightly            # the register
//! etcdctl get -w json lockword/jobs/nightly    # and its mod_revision
//! etcdctl watch --prefix lockword/             # all changes
//! etcdctl get --prefix --keys-only lockword/   # the names of all locks
//! ```
//!
//! # Names that are no longer used
//!
//! A register stays when its lock is free: etcd deletes nothing by itself. A program that always uses
//! new names of locks should call [`Etcd::housekeeping`] now and then.
//!
//! [`Consistency::Linearizable`]: crate::cluster::Consistency::Linearizable
//! [`Indeterminate`]: TransportError::Indeterminate
//! [`Unsupported`]: TransportError::Unsupported

use crate::cluster::process::{OfProcess, watch_of_process};
use crate::cluster::{
    Capabilities, ConnectError, Exchange, Key, NodeId, Notices, Transport, TransportError, Version,
    Versioned, Watch, Write, async_trait,
};
use failure::{EtcdFailure, EtcdFailureKind};
use members::{Members, RequestEffect};
use rpc::{
    Client, Compare, CompareResult, KeyValue, RangeRequest, RangeResponse, RequestOp, TxnRequest,
    TxnResponse,
};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use url::Url;

mod builder;
mod connector;
mod failure;
mod grants;
mod members;
mod rpc;
mod watch;
#[cfg(test)]
mod wire;

pub use builder::EtcdBuilder;

/// How many registers one request of the housekeeping reads. With values of 64 KiB that is less than
/// the client's limit for a message.
const PAGE: i64 = 32;

/// A client of an etcd cluster: see the [module's documentation](self).
///
/// A clone is cheap and uses the same connections. They live on a thread of this crate's own, which ends
/// with the last node and the last transport of the process, or on the
/// [runtime that was given](EtcdBuilder::runtime). In a forked child every request fails
/// ([`TransportError::Unavailable`]), and dropping it does nothing.
#[derive(Clone)]
pub struct Etcd {
    inner: Arc<OfProcess<EtcdInner>>,
}

/// How often a server has to hang up right after the TLS handshake before this is taken for a refusal
/// of the client's certificate. A server that restarts hangs up too.
const HUNG_UP: u32 = 3;

struct EtcdInner {
    members: Members,
    prefix: String,
}

impl Etcd {
    /// A builder for a client of these servers: `host` or `host:port` each, where the port is 2379 by
    /// default. An IPv6 address is in brackets.
    pub fn builder<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> EtcdBuilder {
        EtcdBuilder::new(servers.into_iter().map(Into::into).collect())
    }

    /// Connects to the etcd at this [URL](self#the-url): the same as [`EtcdBuilder::from_url`] and then
    /// [`EtcdBuilder::connect`].
    ///
    /// It returns within the timeout, or with TLS within three times of it. Dropping the future is safe
    /// at any moment, and leaves nothing behind.
    ///
    /// # Errors
    ///
    /// Those of the two methods.
    pub async fn connect(url: &Url) -> Result<Self, ConnectError> {
        EtcdBuilder::from_url(url)?.connect().await
    }

    async fn open(members: Members, prefix: String, tls: bool) -> Result<Self, ConnectError> {
        let etcd = Self { inner: Arc::new(OfProcess::new(EtcdInner { members, prefix })) };
        // No revision is negative: the comparison fails, and nothing is written. But the majority has
        // to agree on the transaction, and the permission for the write is checked.
        // It is no register: no key is empty.
        let key = &*etcd.inner.prefix;
        let look = RangeRequest { keys_only: true, ..RangeRequest::of(key) };
        let nothing = TxnRequest {
            compare: vec![Compare::revision(key, CompareResult::Less, 0)],
            success: vec![RequestOp::put(key, "")],
            failure: vec![RequestOp::range(look)],
        };
        let ask = |client: Client| client.txn(nothing.clone());
        let mut tries = 0;
        loop {
            tries += 1;
            let members = &etcd.inner.members;
            match members.ask_each(members.end(), RequestEffect::Reads, ask).await {
                Ok(_) => return Ok(etcd),
                Err((_, failure)) if tls && failure.is_hung_up() && tries < HUNG_UP => {}
                Err((server, failure)) => return Err(failure.with_hint(tls).of_connect(server)),
            }
        }
    }

    /// Lists the idle registers, waits for `retention`, and deletes those that were not written
    /// meanwhile. Returns how many it has deleted. A register is idle if nobody holds the lock or waits
    /// for it.
    ///
    /// `retention` has to be longer than a request of any node can be in flight; an hour is good. A
    /// lock that is used again later gets a larger version than it had before. It may run on several
    /// nodes at once. Dropping the future is safe at any moment: what was deleted remains deleted, and
    /// the register whose deletion is in flight may or may not be deleted.
    ///
    /// # Errors
    ///
    /// [`TransportError`]. What was deleted before it remains deleted. After
    /// [`Indeterminate`](TransportError::Indeterminate) one more register may or may not be deleted.
    pub async fn housekeeping(&self, retention: Duration) -> Result<usize, TransportError> {
        let mut idle = self.idle(self.members()?).await.map_err(EtcdFailure::of_read)?;
        tokio::time::sleep(retention).await;
        let mut deleted = 0;
        while let Some((key, revision)) = idle.pop() {
            // A register that was written meanwhile has another revision, whether it is idle or not.
            let delete = TxnRequest {
                compare: vec![Compare::revision(&*key, CompareResult::Equal, revision)],
                success: vec![RequestOp::delete(key)],
                failure: vec![],
            };
            let ask = |client: Client| client.txn(delete.clone());
            let done = self.members()?.ask(RequestEffect::Writes, ask).await;
            deleted += usize::from(done.map_err(EtcdFailure::of_write)?.succeeded);
        }
        Ok(deleted)
    }

    /// The keys of the idle registers, with their revisions.
    async fn idle(&self, members: &Members) -> Result<Vec<(Vec<u8>, i64)>, EtcdFailure> {
        let mut idle = vec![];
        let mut begin = self.inner.prefix.clone().into_bytes();
        let end = end_of_prefix(&begin);
        let mut limit = PAGE;
        loop {
            let page = RangeRequest {
                range_end: end.clone(),
                limit: limit.max(1),
                keys_only: limit == 0,
                ..RangeRequest::of(&*begin)
            };
            let ask = |client: Client| client.range(page.clone());
            let read = match members.ask(RequestEffect::Reads, ask).await {
                // It has a stranger's value. A register that alone is too large is read without its
                // value, and so is not idle.
                Err(failure) if failure.kind == EtcdFailureKind::TooLarge && limit > 0 => {
                    limit /= 2;
                    continue;
                }
                read => read?,
            };
            limit = PAGE;
            let Some(last) = read.kvs.last() else { return Ok(idle) };
            begin.clone_from(&last.key);
            begin.push(0); // the next possible key
            let found = read.kvs.into_iter().filter(is_idle);
            idle.extend(found.map(|kv| (kv.key, kv.mod_revision)));
            if !read.more {
                return Ok(idle);
            }
        }
    }

    fn members(&self) -> Result<&Members, TransportError> {
        Ok(&self.inner.here()?.members)
    }

    fn key(&self, key: &Key) -> String {
        format!("{}{key}", self.inner.prefix)
    }
}

#[async_trait]
impl Transport for Etcd {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        let (key, members) = (self.key(key), self.members()?);
        let end = members.end();
        let read = match read(members, end, &key, 0).await {
            Err(failure) if failure.kind == EtcdFailureKind::TooLarge => {
                read_large(members, end, &key).await
            }
            read => read,
        };
        read.map_err(EtcdFailure::of_read)
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
        let key = self.key(key);
        // A key that is not there has revision 0.
        let revision = expected.map_or(0, |version| version.get().cast_signed());
        let swap = TxnRequest {
            compare: vec![Compare::revision(&*key, CompareResult::Equal, revision)],
            success: vec![RequestOp::put(&*key, stored_value(&new))],
            failure: vec![RequestOp::range(RangeRequest::of(&*key))],
        };
        let ask = |client: Client| client.txn(swap.clone());
        let members = self.members()?;
        let end = members.end();
        let done = match members.ask_until(end, RequestEffect::Writes, ask).await {
            Ok(done) => done,
            Err(failure) if failure.kind == EtcdFailureKind::Full => {
                let look = |client: Client| client.range(RangeRequest::of(&*key));
                let seen = members.ask_until(end, RequestEffect::Reads, look).await;
                let now = |seen: RangeResponse| seen.kvs.first().map_or(0, |kv| kv.mod_revision);
                return Err(failure.of_full(seen.is_ok_and(|seen| now(seen) == revision)));
            }
            Err(failure) if failure.kind == EtcdFailureKind::TooLarge => {
                let found = read_large(members, end, &key).await;
                return found.map(Exchange::Mismatch).map_err(EtcdFailure::of_read);
            }
            Err(failure) => return Err(failure.of_write()),
        };
        exchange(&done)
    }

    async fn watch(&self, key: &Key, _node: NodeId) -> Result<Watch, TransportError> {
        watch::watch(self.members()?, &self.key(key)).await.map(watch_of_process)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Key>, TransportError> {
        let members = self.members()?;
        let own = self.inner.prefix.len();
        let mut begin = format!("{}{prefix}", self.inner.prefix).into_bytes();
        let end = end_of_prefix(&begin);
        let mut keys = vec![];
        loop {
            let page = RangeRequest {
                range_end: end.clone(),
                limit: PAGE,
                keys_only: true,
                ..RangeRequest::of(&*begin)
            };
            let ask = |client: Client| client.range(page.clone());
            let read = members.ask(RequestEffect::Reads, ask).await;
            let read = read.map_err(EtcdFailure::of_read)?;
            let Some(last) = read.kvs.last() else { return Ok(keys) };
            begin.clone_from(&last.key);
            begin.push(0); // the next possible key
            // What has another name was written by something else.
            let names = read.kvs.iter().filter_map(|kv| str::from_utf8(kv.key.get(own..)?).ok());
            keys.extend(names.filter_map(|name| Key::new(name).ok()));
            if !read.more {
                return Ok(keys);
            }
        }
    }

    fn capabilities(&self) -> Capabilities {
        let wake_within = builder::WAKE_WITHIN;
        Capabilities { notices: Notices::Answers, wake_within, ..Capabilities::new("etcd") }
    }
}

/// The register `key` at a revision; 0 stands for the latest one.
async fn read(
    members: &Members,
    end: Instant,
    key: &str,
    revision: i64,
) -> Result<Option<Versioned>, EtcdFailure> {
    let at = RangeRequest { revision, ..RangeRequest::of(key) };
    let ask = |client: Client| client.range(at.clone());
    let read = members.ask_until(end, RequestEffect::Reads, ask).await?;
    read.kvs.first().map(read_register).transpose()
}

/// The same for a register that was too large for an answer. If it still is, some bytes stand for the
/// value: one more than a node reads, which is enough to refuse it.
async fn read_large(
    members: &Members,
    end: Instant,
    key: &str,
) -> Result<Option<Versioned>, EtcdFailure> {
    let look = RangeRequest { keys_only: true, ..RangeRequest::of(key) };
    let ask = |client: Client| client.range(look.clone());
    let found = members.ask_until(end, RequestEffect::Reads, ask).await?;
    let Some(kv) = found.kvs.first() else { return Ok(None) };
    // Another value may be there by now. So the one of that moment is read, or shown to be too large.
    let then = found.header.map_or(0, |header| header.revision);
    match read(members, end, key, then).await {
        Err(failure) if failure.kind == EtcdFailureKind::TooLarge => {
            let value = vec![b'?'; (1 << 20) + 1].into();
            Ok(Some(Versioned { version: version(kv.mod_revision)?, value }))
        }
        read => read,
    }
}

/// What the transaction of a write has done. A response that makes no sense may be that of a write
/// that was applied.
fn exchange(done: &TxnResponse) -> Result<Exchange, TransportError> {
    let unreadable = |why: EtcdFailure| TransportError::indeterminate(why.said);
    if !done.succeeded {
        return found(done).map(Exchange::Mismatch).map_err(unreadable);
    }
    // The revision of the transaction is that of every key in it.
    let revision = done.header.as_ref().map_or(0, |header| header.revision);
    version(revision).map(Exchange::Swapped).map_err(unreadable)
}

/// What the transaction found instead of the expected version.
fn found(done: &TxnResponse) -> Result<Option<Versioned>, EtcdFailure> {
    match done.responses.first().and_then(|response| response.range.as_ref()) {
        Some(read) => read.kvs.first().map(read_register).transpose(),
        None => Err(EtcdFailure::new(
            EtcdFailureKind::Corrupt,
            "etcd's answer lacks what was asked for",
        )),
    }
}

/// The first key behind all keys with this prefix, which ends with a character of ASCII.
fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

// A register is stored as its value, then one byte that says whether it is idle. JSON permits both bytes
// at its end.
const IN_USE: u8 = b'\n';
const IDLE: u8 = b' ';

/// The bytes that are stored for a write.
fn stored_value(write: &Write) -> Vec<u8> {
    let mut stored = Vec::with_capacity(write.value.len() + 1);
    stored.extend_from_slice(&write.value);
    stored.push(if write.idle { IDLE } else { IN_USE });
    stored
}

/// Whether the stored register is idle. One that was written by hand is not.
fn is_idle(stored: &KeyValue) -> bool {
    stored.value.last() == Some(&IDLE)
}

/// The register that is stored.
fn read_register(stored: &KeyValue) -> Result<Versioned, EtcdFailure> {
    let value = match &*stored.value {
        [value @ .., IN_USE | IDLE] => value,
        by_hand => by_hand,
    };
    Ok(Versioned { version: version(stored.mod_revision)?, value: value.into() })
}

/// The version that stands for this revision.
fn version(revision: i64) -> Result<Version, EtcdFailure> {
    let version = u64::try_from(revision).ok().and_then(|revision| Version::new(revision).ok());
    version.ok_or_else(|| {
        EtcdFailure::new(EtcdFailureKind::Corrupt, format!("{revision} is no revision"))
    })
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<&str> = self.inner.members.names().collect();
        let mut shown = f.debug_struct("Etcd");
        shown.field("servers", &servers).field("prefix", &self.inner.prefix).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::rpc::{KeyValue, RangeResponse, ResponseHeader, ResponseOp, TxnResponse};
    use super::{exchange, is_idle, read_register, stored_value};
    use crate::cluster::{Exchange, TransportError, Wake, Write};

    #[test]
    fn a_response_to_a_write_that_makes_no_sense_is_indeterminate() {
        let header = |revision| Some(ResponseHeader { revision });
        let found = |mod_revision| {
            let kv = KeyValue { value: b"{}\n".into(), mod_revision, ..Default::default() };
            let read = RangeResponse { kvs: vec![kv], ..Default::default() };
            vec![ResponseOp { range: Some(read) }]
        };
        let response =
            |succeeded, header, responses| exchange(&TxnResponse { succeeded, header, responses });
        let swapped = response(true, header(7), vec![]);
        assert!(matches!(swapped, Ok(Exchange::Swapped(version)) if version.get() == 7));
        let mismatch = response(false, header(7), found(7));
        assert!(matches!(mismatch, Ok(Exchange::Mismatch(Some(_)))), "{mismatch:?}");
        for bad in [
            response(true, None, vec![]),
            response(true, header(1 << 52), vec![]),
            response(false, header(7), vec![]),
            response(false, header(7), found(0)),
        ] {
            assert!(matches!(bad, Err(TransportError::Indeterminate(_))), "{bad:?}");
        }
    }

    #[test]
    fn every_value_is_read_as_it_was_written() {
        for value in [&b""[..], b" ", b"\n", b"{}", b"{} \n"] {
            for idle in [false, true] {
                let write = Write { value: value.into(), wake: Wake::Nobody, idle };
                let kv =
                    KeyValue { value: stored_value(&write), mod_revision: 7, ..Default::default() };
                assert_eq!(&*read_register(&kv).unwrap().value, value);
                assert_eq!(is_idle(&kv), idle);
            }
        }
        let by_hand = KeyValue { value: b"{}".into(), mod_revision: 7, ..Default::default() };
        assert_eq!(&*read_register(&by_hand).unwrap().value, b"{}");
        assert!(!is_idle(&by_hand));
        assert!(read_register(&KeyValue::default()).is_err(), "revision 0");
    }
}
