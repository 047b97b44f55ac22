//! etcd, version 3.4 or newer: linearizable, and wakes every waiting node at once.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use lockword::cluster::{Node, connect};
//!
//! let etcd = connect("etcd://locks:secret@a:2379,b:2379,c:2379").await?;
//! let node = Node::builder(etcd).build()?;
//! let guard = node.lock("jobs/nightly")?.acquire().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! Every write is one transaction that compares the key's `mod_revision`. It is agreed upon by the
//! majority of the servers before it is answered: no acknowledged write is lost while a majority of
//! the disks survives, whichever server fails, and reads are linearizable
//! ([`Consistency::Linearizable`]). The version of a register is its `mod_revision`. etcd counts
//! revisions over all keys and never goes back: a key that was deleted and created anew is newer. No
//! clock of a server matters.
//!
//! etcd's own locks, elections and leases are not used.
//!
//! What breaks the promise: a backup that is restored (revisions begin again at the backup's: raise
//! them by `etcdutl snapshot restore --bump-revision`, or use another prefix), `etcd
//! --unsafe-no-fsync` together with a power failure, and `--force-new-cluster`.
//!
//! *When a server fails*, requests go to the next one of the address. A write that was in flight is
//! [`Indeterminate`]; one that was certainly refused, or not sent, is made of another server at once.
//! Without a majority nothing is read or written. The new leader's election takes one to two seconds
//! with etcd's defaults (`--election-timeout`): leases of less than ten seconds do not survive it
//! well.
//!
//! *Wake-ups* come by etcd's watches, and carry the value. A watch ends with an error when its
//! connection breaks, when its server has lost the leader, when the history that it had yet to tell was
//! compacted, and when nothing has been heard of the server for eight seconds (it is asked for a sign
//! of life meanwhile, by HTTP/2 pings). It is not resumed: who waits looks, and watches anew.
//!
//! A client has one connection to each server that it has had to ask, mostly one in all, however many
//! keys are watched.
//!
//! # What it needs
//!
//! - etcd 3.4 or newer (the tests run against 3.4).
//! - Read and write permission for the prefix: `etcdctl role grant-permission locks --prefix=true
//!   readwrite lockword/`, for the role of the user, if authentication is on. The token is renewed when
//!   it has expired, and when users or roles were changed since (`--auth-token jwt`): the server refuses
//!   the old one before it does anything, so the request can be made again without indeterminacy.
//! - Room: etcd keeps the history until it is compacted. Have it do that by itself
//!   (`--auto-compaction-retention 1h`), and defragment it now and then. A full database
//!   (`--quota-backend-bytes`) refuses every write, until somebody makes room and disarms the alarm
//!   (`etcdctl alarm disarm`). It also "refuses" writes after it has applied them, those that were
//!   in flight while it got full: so the register is read then, and the write is [`Unsupported`] where
//!   that shows that it was not applied, and [`Indeterminate`] else.
//! - A fast disk: each write waits for two of them. A server whose disk is full, so that it cannot
//!   write its log (which grows by 64 MB at a time), ends by itself: the write that was in flight is in
//!   indeterminacy, and nothing that was acknowledged is lost. The others go on, as when one is killed, as long
//!   as they are a majority. Make room, and start it again.
//!
//! # Address
//!
//! `etcd://[user:password@]host[:port][,host[:port]..][/prefix][?option=value&..]`; `etcds://` for
//! TLS. The port is 2379 unless it is given. All servers of the cluster should be named. What is not
//! a letter or a digit in the user's name and the password is written as `%` and two hexadecimal
//! digits. The prefix is `lockword/` unless it is given; a slash is put behind it.
//!
//! | option | |
//! |---|---|
//! | `ca` | file with the authorities to trust (PEM), instead of the system's |
//! | `cert`, `key` | files with the client's certificate and its key (PEM) |
//! | `name` | the name in the servers' certificates, if it is not their host |
//! | `timeout_ms` | how long a request may take; 5000 unless it is given |
//!
//! What is in memory, and not in files, goes through [`Etcd::builder`].
//!
//! # By hand
//!
//! The key is the prefix and the name of the lock. The value is what the lock wrote, and a line feed,
//! or a blank if nobody holds the lock or waits for it.
//!
//! ```text
//! etcdctl get lockword/jobs/nightly            # the register
//! etcdctl get -w json lockword/jobs/nightly    # and its mod_revision
//! etcdctl watch --prefix lockword/             # what goes on
//! etcdctl get --prefix --keys-only lockword/   # which locks there are
//! ```
//!
//! # Names that are no longer used
//!
//! A register stays when its lock is free: etcd drops nothing by itself. A program whose names of
//! locks are always new ones calls [`Etcd::housekeeping`] now and then.
//!
//! [`Consistency::Linearizable`]: crate::cluster::Consistency::Linearizable
//! [`Indeterminate`]: TransportError::Indeterminate
//! [`Unsupported`]: TransportError::Unsupported

use crate::cluster::{
    Capabilities, ConnectError, Exchange, Key, NodeId, Transport, TransportError, Version,
    Versioned, Watch, Write, async_trait,
};
use etcd_client::proto::PbTxnOpResponse;
use etcd_client::{Client, Compare, CompareOp, GetOptions, GetResponse, Txn, TxnOp, TxnResponse};
use failure::{Failure, FailureKind};
use members::{Effect, Members};
use std::fmt;
use std::sync::Arc;
use url::Url;

// What an address says, and what it cannot say.
mod address;
// What an error means.
mod failure;
// Registers that nobody uses.
mod housekeeping;
// Which server is asked.
mod members;
// The register in the key.
mod value;
// Wake-ups.
mod watching;

pub use address::Builder;

/// A client of an etcd cluster: see the [module's documentation](self).
///
/// Cheap to clone: a clone uses the same connections. It belongs to the runtime in which it was
/// connected, but finds its way in another one, by new connections, when that has ended.
#[derive(Clone)]
pub struct Etcd {
    inner: Arc<Inner>,
}

/// How often a server has to hang up right after the TLS handshake, which a restarting one does too,
/// before that is taken for its opinion of the client's certificate.
const HUNG_UP: u32 = 3;

struct Inner {
    members: Members,
    prefix: String,
}

impl Etcd {
    /// Connects to the etcd at this address. One of its servers has to answer, and a majority has to
    /// be well: credentials and permissions are checked by a write that changes nothing.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; never `UnknownScheme` or `MissingFeature`.
    pub async fn connect(url: &Url) -> Result<Self, ConnectError> {
        Builder::from_url(url)?.connect().await
    }

    /// Connects to these servers, host and port each; 2379 where there is none.
    pub fn builder<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Builder {
        Builder::new(servers.into_iter().map(Into::into).collect())
    }

    async fn new(members: Members, prefix: String, tls: bool) -> Result<Self, ConnectError> {
        let etcd = Self { inner: Arc::new(Inner { members, prefix }) };
        // No revision is negative: this compares, finds it different, and does nothing. But it has to
        // be agreed upon, and permissions are checked for what it would do.
        let key = format!("{}lockword", etcd.inner.prefix);
        let nothing = Txn::new()
            .when([Compare::mod_revision(&*key, CompareOp::Less, 0)])
            .and_then([TxnOp::put(&*key, "", None)])
            .or_else([TxnOp::get(&*key, None)]);
        let ask = |client| txn(client, nothing.clone());
        let mut tries = 0;
        loop {
            tries += 1;
            let members = &etcd.inner.members;
            match members.ask_each(members.end(), Effect::None, ask).await {
                Ok(_) => return Ok(etcd),
                Err((_, failure)) if tls && failure.is_hung_up() && tries < HUNG_UP => {}
                Err((server, failure)) => return Err(failure.with_hint(tls).of_connect(server)),
            }
        }
    }

    fn key(&self, key: &Key) -> String {
        format!("{}{key}", self.inner.prefix)
    }
}

#[async_trait]
impl Transport for Etcd {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        let key = self.key(key);
        let ask = |client| get(client, key.clone(), None);
        let read = self.inner.members.ask(Effect::None, ask).await;
        let read = read.map_err(Failure::of_read)?;
        let register = read.0.kvs.first().map(value::read).transpose();
        register.map_err(Failure::of_read)
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
        let swap = Txn::new()
            .when([Compare::mod_revision(&*key, CompareOp::Equal, revision)])
            .and_then([TxnOp::put(&*key, value::stored(&new), None)])
            .or_else([TxnOp::get(&*key, None)]);
        let ask = |client| txn(client, swap.clone());
        let members = &self.inner.members;
        let end = members.end();
        let done = match members.ask_until(end, Effect::Writes, ask).await {
            Ok(done) => done,
            Err(failure) if failure.kind == FailureKind::Full => {
                let look = |client| get(client, key.clone(), None);
                let seen = members.ask_until(end, Effect::None, look).await;
                let now = |seen: GetResponse| seen.0.kvs.first().map_or(0, |kv| kv.mod_revision);
                return Err(failure.of_full(seen.is_ok_and(|seen| now(seen) == revision)));
            }
            Err(failure) => return Err(failure.of_write()),
        };
        if !done.0.succeeded {
            return Ok(Exchange::Mismatch(found(&done).map_err(Failure::of_read)?));
        }
        // The revision of the transaction is that of every key in it.
        let revision = done.header().map_or(0, |header| header.revision());
        let version = value::version(revision);
        // It was written: whatever is wrong with the answer, that must not be denied.
        Ok(Exchange::Swapped(version.map_err(|why| TransportError::indeterminate(why.said))?))
    }

    async fn watch(&self, key: &Key, _node: NodeId) -> Result<Watch, TransportError> {
        watching::watch(&self.inner.members, &self.key(key)).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { wake_within: address::WAKE_WITHIN, ..Capabilities::new("etcd") }
    }
}

async fn get(
    mut client: Client,
    key: impl Into<Vec<u8>>,
    options: Option<GetOptions>,
) -> Result<GetResponse, etcd_client::Error> {
    client.get(key, options).await
}

async fn txn(mut client: Client, txn: Txn) -> Result<TxnResponse, etcd_client::Error> {
    client.txn(txn).await
}

/// What the transaction has found instead of the expected version.
fn found(done: &TxnResponse) -> Result<Option<Versioned>, Failure> {
    match done.0.responses.first().and_then(|response| response.response.as_ref()) {
        Some(PbTxnOpResponse::ResponseRange(read)) => read.kvs.first().map(value::read).transpose(),
        _ => Err(Failure::new(FailureKind::Corrupt, "etcd's answer lacks what was asked for")),
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<&str> = self.inner.members.names().collect();
        let mut shown = f.debug_struct("Etcd");
        shown.field("servers", &servers).field("prefix", &self.inner.prefix).finish()
    }
}
