//! What an engine has to offer: an atomic register for each key, and notification if it can.
//!
//! Any engine with a compare-and-swap will do. If it can notify, waiting nodes sleep; if not
//! ([`Wakeups::Poll`]), they poll.
//!
//! The operations are those of an atomic integer and of a futex, at a distance:
//! [`load`](Transport::load), [`compare_exchange`](Transport::compare_exchange) and
//! [`watch`](Transport::watch). Holder, lease, queue, fencing and handoff are in the value, which the
//! engine stores and does not read. An engine that can also [lists](Transport::list) its keys, for
//! operators.
//!
//! # The laws
//!
//! An implementation of [`Transport`] keeps these six laws. [`conformance`](../conformance/index.html)
//! (feature `conformance`) checks them.
//!
//! 1. **Linearizable.** Each [`compare_exchange`](Transport::compare_exchange) and each
//!    [`load`](Transport::load) of a key takes effect at one moment between its call and its response,
//!    and sees the effects of all operations with an earlier moment.
//!
//!    *Why:* mutual exclusion rests on it. Of two nodes that expect the same version, one at most may
//!    get the lock. An engine that can lose acknowledged writes declares [`Consistency::Lossy`]; apart
//!    from those losses the law holds for it, too.
//!
//! 2. **Versions only grow.** Each successful write of a key makes a [`Version`] that is larger than
//!    all versions that the key has ever had.
//!
//!    This includes versions from before the register was released, expired, or was deleted and created
//!    again, from before a restart of the engine, and from before its clock was set back. Versions are
//!    below 2^52.
//!
//!    *Why:* the version is the main part of the [fencing token](super::FencingToken), by which a
//!    storage refuses a holder that is late. A version that comes again also lets a late write replace
//!    a register that it has never seen. What a node does about an engine that
//!    [goes back](self#an-engine-that-goes-back) is below.
//!
//! 3. **An unknown outcome is reported.** A write that may have been applied, or may yet be, ends with
//!    [`TransportError::Indeterminate`]; every other error says that it was not applied and never will
//!    be.
//!
//!    Timeouts and connections that break after the request was sent are the usual cases. Switch off
//!    automatic retries of writes in your client library: the second request ends with a mismatch,
//!    because the first one was applied.
//!
//!    *Why:* a node resolves an unknown outcome by itself, if it knows of it. If it does not, it may
//!    hold a lock, or stand in a queue, without knowing.
//!
//! 4. **A mismatch is the truth.** [`Exchange::Mismatch`] is returned only if, at some moment of the
//!    call, the version of the register was not the expected one, and it carries the register of such a
//!    moment.
//!
//!    *Why:* a node uses it as a load, and expects that version in its next write at once. A mismatch that
//!    carries an older version (from a cache or a replica) makes the next write fail too. One that
//!    carries the expected version is an error of the engine: the node reports
//!    [`Corrupt`](TransportError::Corrupt) to its callers.
//!
//! 5. **A live watch wakes.** After a change that was to wake its node ([`Write::wake`]), a watch yields
//!    an item within [`Capabilities::wake_within`], or it ends, or it yields an error.
//!
//!    It may yield one item for several changes, repeat an item, and yield one without a change. What
//!    an item carries counts only if the engine declares [`Notices::Answers`]; then it is a register
//!    that the key has had. An engine that declares [`Wakeups::Poll`] has no watches, and the law says
//!    nothing about it.
//!
//!    *Why:* the next waiter sleeps until it is woken. If it misses the release of the lock for longer
//!    than its [handoff lease](super::NodeBuilder::handoff_lease), it loses its turn. It loads the register from
//!    time to time, too.
//!
//! 6. **Dropping is harmless.** Each future and each watch can be dropped at any moment, and later
//!    calls work as before.
//!
//!    No connection may leak, and no later call may get the response of a dropped one. A write whose
//!    future was dropped may or may not be applied.
//!
//!    *Why:* a node drops a request when its time is over, when nobody waits for it any more, and when
//!    the node shuts down.
//!
//! Four more rules have no number:
//!
//! - A call ends by itself. The suite checks this as
//!   [`Law::Responses`](../conformance/enum.Law.html#variant.Responses).
//! - A [list](Transport::list) of keys has those that have a register, where the engine can list them
//!   ([`Law::Listing`](../conformance/enum.Law.html#variant.Listing)).
//! - A call never blocks its thread.
//! - The text of an error has no password and no key material.
//!
//! The last two cannot be checked from outside.
//!
//! # Answers and hints
//!
//! An item of a watch is either an *answer*, the engine's own ordered record of the change, which
//! reaches the client by the same authenticated way as a response (etcd, [`Memory`](super::Memory)); or
//! it is a *hint*, a message that any client of the engine can send (`NOTIFY` in PostgreSQL, `PUBLISH` in
//! Redis). [`Capabilities::notices`] says which.
//!
//! A node believes an answer as it believes a load. A hint makes it look, by a load or by the write that is
//! due, whatever the hint carries: no lock is lost, granted or refused because of a hint, and no write is
//! built on one. A hint that comes while a request is in flight causes one more look after it. A flood of
//! hints costs each node that watches the key one request for each round trip.
//!
//! # An engine that goes back
//!
//! An engine that was restored from a backup, or that has lost writes, may show a smaller version of a
//! key than before. A node remembers the largest version of a key that an answer has shown: for as long
//! as it has a [`DistributedLock`](super::DistributedLock) of the key or anything to do for it, and
//! afterwards, and after an inspection, until it has looked at 10,000 other keys. When an answer shows a
//! smaller one:
//!
//! - The lock is lost, if the node held it ([`LossReason::EngineWentBack`](super::LossReason)), and the
//!   observer is told once ([`Observer::engine_went_back`](super::Observer::engine_went_back)).
//! - If the engine declares [`Consistency::Lossy`], the node goes on, and gets the lock by the first write
//!   whose version exceeds all that it has seen. Versions that begin with the time do at once.
//! - Otherwise callers get [`LockError::EngineWentBack`](super::LockError::EngineWentBack), until the
//!   engine shows a version that exceeds all that the node has seen. **To reset it**, an operator sees to
//!   it that versions go on above the old ones: etcd by `etcdutl snapshot restore --bump-revision
//!   1000000000 --mark-compacted`, PostgreSQL by `UPDATE public.lockword SET version = 1 + N WHERE key =
//!   ''`, where N is the version that the error names. Where that cannot be done, it takes new nodes
//!   (restart the processes) and new [gates](super::fence::Gate) at the resources: fencing tokens go back
//!   then.
//!
//! A node that was started after the engine went back knows nothing of it, nor does one that has looked
//! at 10,000 other keys since. Only the resource, which remembers the largest token, refuses its tokens.
//!
//! # How long a call may last
//!
//! A node drops a request that has no response within its
//! [`request_timeout`](super::NodeBuilder::request_timeout): a fifth of the lease by default, from 50 ms
//! to 5 s. A write then counts as [`Indeterminate`](TransportError::Indeterminate), another request as
//! [`Unavailable`](TransportError::Unavailable). This includes the time to connect, so the timeouts
//! of a client, and what it repeats by itself, should fit into it: then the error names the cause, and
//! not only the time. There is at most one request in flight for each key of a node, besides the watch and the
//! calls of [`inspect`](super::Node::inspect) and [`break_lock`](super::Node::break_lock), and a
//! [limit](super#how-it-works) for all keys together. A late response and a transient error lower that limit: so
//! [`Unavailable`](TransportError::Unavailable) is not for what concerns one key alone.
//!
//! A node repeats a request after a [transient](TransportError::is_transient) error, with a backoff,
//! and reports the error to the callers that wait when that has gone on for its
//! [`unavailable_timeout`](super::NodeBuilder::unavailable_timeout). Errors of the other kinds are
//! reported at once; so is each error by [`try_acquire`](super::DistributedLock::try_acquire).
//!
//! # Which failure is which error
//!
//! | What your client sees | [`load`](Transport::load), [`watch`](Transport::watch) | [`compare_exchange`](Transport::compare_exchange) |
//! |---|---|---|
//! | the version is not the expected one | | `Ok` with [`Exchange::Mismatch`] |
//! | no connection, no address, no free connection in the pool: nothing was sent | `Unavailable` | `Unavailable` |
//! | the server refuses for now, and has not applied the request: it is starting, overloaded, not the leader | `Unavailable` | `Unavailable` |
//! | the transaction has lost against another one and was rolled back | repeat, or `Unavailable` | repeat, or `Unavailable`; never a mismatch, unless the version differs when it is read again |
//! | a timeout, or a lost connection, when the request may have been sent | `Unavailable` | `Indeterminate` |
//! | an error that the client library does not explain | `Unavailable` | `Indeterminate` |
//! | a response that cannot be read, or a version out of range | `Corrupt` | `Indeterminate`, since it may be the response to a write that was applied |
//! | wrong credentials, no permission, a certificate that is not trusted | `Denied` | `Denied` |
//! | the value is larger than [`Capabilities::largest_value`]; the server has the wrong version or configuration, or no space left | `Unsupported` | `Unsupported`, if the write was certainly not applied |
//!
//! The documentation of [`conformance`](../conformance/index.html#a-hook-that-loses-responses) says how to
//! test the rows of lost requests and responses.

use super::key::Key;
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// An engine that keeps a small versioned value for each key.
///
/// The [laws](self#the-laws) of an implementation are in the module's documentation, with a
/// [table](self#which-failure-is-which-error) of the errors. It is written with
/// [`macro@async_trait`], which is re-exported beside it. The trait is object-safe, and a
/// [`Node`](super::Node) also takes an `Arc<dyn Transport>`. To change what a transport does in some
/// operations, wrap it with [`layers::Intercept`](super::layers::Intercept).
///
/// ```
/// use lockword::cluster::*;
///
/// /// An engine that has no wake-ups.
/// struct Quiet(Memory);
///
/// #[async_trait]
/// impl Transport for Quiet {
///     async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
///         self.0.load(key).await
///     }
///     async fn compare_exchange(
///         &self,
///         key: &Key,
///         expected: Option<Version>,
///         new: Write,
///     ) -> Result<Exchange, TransportError> {
///         self.0.compare_exchange(key, expected, new).await
///     }
///     async fn watch(&self, _: &Key, _: NodeId) -> Result<Watch, TransportError> {
///         Err(TransportError::unsupported("there are no wake-ups")) // Never called.
///     }
///     fn capabilities(&self) -> Capabilities {
///         let mut capabilities = Capabilities::new("quiet");
///         capabilities.wakeups = Wakeups::Poll; // A node that waits loads the register.
///         capabilities
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = Node::builder(Quiet(Memory::new())).build()?;
/// node.lock("jobs/nightly")?.acquire().await?.release().await.expect("it was held");
///
/// // With the feature `conformance`, the suite checks all laws that concern an engine like this.
/// # #[cfg(feature = "conformance")]
/// # {
/// let engine = Memory::new();
/// let report = conformance::run(move || std::future::ready(Quiet(engine.clone()))).await;
/// assert!(report.expect("it keeps the laws").checked.contains(&conformance::Law::Dropping));
/// # }
/// # Ok(())
/// # }
/// ```
///
/// Nodes call within the context of a tokio runtime, and several calls run at a time: of different keys, of
/// several nodes for one key, and a watch or an [`inspect`](super::Node::inspect) beside a request. The
/// first poll of a call may be on the thread that acquires or releases a lock. A
/// call must not block its thread: all nodes of the process would wait for it, and their leases would not be
/// renewed. For the same reason a connection should not be a task of a runtime whose threads others may
/// block.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Returns the register of `key`, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// Any [`TransportError`] but [`Indeterminate`](TransportError::Indeterminate), since nothing is
    /// written.
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError>;

    /// Writes `new` if the version of the register is `expected` (`None`: if there is no register), and
    /// returns the version that this has made. Otherwise returns the register.
    ///
    /// A write is applied at most once, and never after an error other than
    /// [`Indeterminate`](TransportError::Indeterminate). If the future is dropped, the write may or may
    /// not be applied.
    ///
    /// # Errors
    ///
    /// [`TransportError::Indeterminate`] if the write may have been applied, or may yet be. Every
    /// other error says that it was not applied and never will be.
    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError>;

    /// Opens a watch: a stream of the changes of `key` from now on that are to wake `node`
    /// ([`Write::wake`]).
    ///
    /// When the future is ready, the watch is in force: it shows a write that begins afterwards. With
    /// [`Notices::Answers`] an item is the register at a moment after the change, or `None` if the engine
    /// cannot deliver it: the node then loads it. With [`Notices::Hints`] it should be `None`: a node
    /// does not look at it. Dropping the stream ends the watch.
    ///
    /// It is never called if the engine declares [`Wakeups::Poll`].
    ///
    /// # Errors
    ///
    /// Any [`TransportError`] but [`Indeterminate`](TransportError::Indeterminate), if there can be no
    /// watch now: the node polls, and tries again later. An error as an item is the last item.
    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError>;

    /// Returns the keys that have a register and begin with `prefix`, in order. The empty prefix is that
    /// of all keys.
    ///
    /// An optional operation, for operators: no lock needs it. A key whose register is there from the call
    /// to the response is in it, and one whose register is never there in between is not. It is not a
    /// snapshot: of registers that come or go meanwhile, it may have a later one and lack an earlier one.
    ///
    /// # Errors
    ///
    /// [`TransportError::Unsupported`] by default: the engine cannot list its keys. Otherwise any
    /// [`TransportError`] but [`Indeterminate`](TransportError::Indeterminate).
    async fn list(&self, prefix: &str) -> Result<Vec<Key>, TransportError> {
        let _ = prefix;
        Err(TransportError::unsupported("this engine cannot list its keys"))
    }

    /// Returns what this engine promises: the same at every call.
    fn capabilities(&self) -> Capabilities;
}

/// What [`Transport::watch`] returns: a boxed stream of the crate `futures_util`.
pub type Watch = BoxStream<'static, Result<Option<Versioned>, TransportError>>;

#[async_trait]
impl<T: Transport + ?Sized> Transport for Arc<T> {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        (**self).load(key).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        (**self).compare_exchange(key, expected, new).await
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        (**self).watch(key, node).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Key>, TransportError> {
        (**self).list(prefix).await
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }
}

/// The version of a register. Each write of the same key makes a larger one, for ever.
///
/// It is from 1 to 2^52 - 1, so that a [token](super::FencingToken), which has ten bits more, is still
/// positive as an `i64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// The largest version.
    pub const MAX: Version = Version((1 << 52) - 1);

    /// Makes a version of a number.
    ///
    /// # Errors
    ///
    /// [`TransportError::Corrupt`] if it is 0 or larger than [`Version::MAX`].
    pub fn new(number: u64) -> Result<Self, TransportError> {
        if number == 0 || number > Self::MAX.0 {
            return Err(TransportError::corrupt(format!(
                "{number} is no version: from 1 to {}",
                Self::MAX.0
            )));
        }
        Ok(Self(number))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a register holds, and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The version that its last write got.
    pub version: Version,
    /// The bytes that its last write wrote. They are shared, so that a clone is cheap.
    pub value: Arc<[u8]>,
}

/// What [`Transport::compare_exchange`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// It has written. The register has this version now.
    Swapped(Version),
    /// It has not written: the register held this (`None`: there was none).
    Mismatch(Option<Versioned>),
}

/// What is to be written: the value, and what the engine needs to know and does not read in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The bytes. An engine does not read them.
    pub value: Arc<[u8]>,
    /// Which nodes' watches must yield. An engine may wake more nodes than that.
    pub wake: Wake,
    /// No node holds the lock and none waits: the engine may delete the register after a retention
    /// that it documents. The retention must be longer than any request may be in flight, since a late
    /// write that expects no register would find none. One hour is recommended.
    pub idle: bool,
}

/// Which nodes a [`Write`] wakes: their watches must yield.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// None: no node waits.
    Nobody,
    /// The watch of this node.
    Node(NodeId),
    /// The watches of all nodes.
    Everybody,
}

/// The number of a [`Node`](super::Node), drawn at random when it is built: 64 bits, shown as 16
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// The node with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// What an engine promises, and what a [`Node`](super::Node) does about it.
///
/// A node reads it once, when it is built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The name of the engine for messages: `"etcd"`. The errors of locks show it.
    pub name: &'static str,
    /// What may happen to an acknowledged write.
    ///
    /// No protocol can repair the loss. A node goes on when such an engine has gone back to an older
    /// state, where it [refuses](self#an-engine-that-goes-back) one that promises more. A program may
    /// refuse such an engine, and `History::check_as` of the conformance suite permits the loss.
    pub consistency: Consistency,
    /// How a node that waits learns of a change.
    ///
    /// With [`Poll`](Wakeups::Poll) a node never opens a watch. With the others it opens one for each
    /// key that it waits for, and polls while it has none because of an error.
    pub wakeups: Wakeups,
    /// Whether what a watch yields is as true as a response.
    ///
    /// With [`Hints`](Notices::Hints) a node loads the register after each item, which costs a round
    /// trip at each handoff.
    pub notices: Notices,
    /// The longest time from a change to the item of a live watch: see
    /// [law 5](self#the-laws). Usually an item comes at once; the limit is for a connection that breaks
    /// without a sign, and says how soon the client finds that out.
    ///
    /// A node does nothing about it: it loads the register from time to time, whatever the watch yields. The
    /// conformance suite waits for this time and a second more. Where it is longer than the handoff lease, a
    /// node can miss its turn because of such a connection.
    pub wake_within: Duration,
    /// The largest value that the engine stores, in bytes: at least 1,344. The engine refuses a larger
    /// one as [`Unsupported`](TransportError::Unsupported).
    ///
    /// A node cannot be built over less than 1,344 bytes
    /// ([`ConfigError::SmallValues`](super::ConfigError::SmallValues)), which is room for a holder with
    /// a published value and one that waits. It lowers its [`queue_limit`](super::NodeBuilder::queue_limit) to what has room:
    /// 258 bytes for each node that waits, so 64 KiB are enough for 249. Values of more than 1 MiB are
    /// never written.
    pub largest_value: usize,
}

impl Capabilities {
    /// Those of an engine that is linearizable, wakes every watch within a second by hints, and stores
    /// values of 64 KiB. Change the fields that differ.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            consistency: Consistency::Linearizable,
            wakeups: Wakeups::PushToAll,
            notices: Notices::Hints,
            wake_within: Duration::from_secs(1),
            largest_value: 64 * 1024,
        }
    }
}

/// What may happen to an acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// It is never lost.
    Linearizable,
    /// It can be lost when the engine restarts or fails over to another server. Two nodes may then
    /// hold the lock at the same time, and fencing tokens may repeat or go back across that event.
    Lossy,
}

/// How a node that waits learns of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wakeups {
    /// The watch of the node that is to be woken yields.
    PushToOne,
    /// Every watch of the key yields.
    PushToAll,
    /// There are no watches. A node that waits loads the register again and again.
    ///
    /// The first in the queue does so at least once in a [`poll`](super::NodeBuilder::poll) interval,
    /// which is 50 ms with the default settings, and up to ten times as often while the register
    /// changes. So it makes 20 loads a second of a key that does not change, and up to 200 of a busy
    /// key. The nth in the queue makes an nth of that, but not less than 4. Where a round trip takes
    /// 2 ms, nodes that pass the lock on as soon as they have it make more than 50 grants a second
    /// (`tests/conformance/polling.rs` checks that).
    Poll,
}

/// Whether the items of a watch are as true as responses: see
/// [answers and hints](self#answers-and-hints).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notices {
    /// They are the engine's own record: an item that carries a register shows one that the key has
    /// had, and nobody but the engine can make the watch yield it.
    Answers,
    /// Other clients can make the watch yield, and what it yields.
    Hints,
}

/// What went wrong at an engine.
///
/// The kinds are those that the protocol tells apart; a [table](self#which-failure-is-which-error)
/// says which failure is which. What the engine itself has said is the [`source`](Error::source). An
/// error is cheap to clone, since one failure is reported to all that wait.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TransportError {
    /// A write was sent, and it is not known whether it was applied or will be.
    Indeterminate(Cause),
    /// The engine cannot be reached, does not respond, or refuses for now. Nothing was written.
    Unavailable(Cause),
    /// The engine refuses this client, because of credentials, permissions or a certificate. Nothing
    /// was written.
    Denied(Cause),
    /// The engine cannot do this, because of its version, its configuration, or the size of the value.
    /// Nothing was written.
    Unsupported(Cause),
    /// The engine has responded with what it never should: a version out of range, or a response that
    /// makes no sense. Nothing was written.
    Corrupt(Cause),
}

impl TransportError {
    /// [`TransportError::Indeterminate`] with this cause.
    pub fn indeterminate(cause: impl Into<Cause>) -> Self {
        Self::Indeterminate(cause.into())
    }

    /// [`TransportError::Unavailable`] with this cause.
    pub fn unavailable(cause: impl Into<Cause>) -> Self {
        Self::Unavailable(cause.into())
    }

    /// [`TransportError::Denied`] with this cause.
    pub fn denied(cause: impl Into<Cause>) -> Self {
        Self::Denied(cause.into())
    }

    /// [`TransportError::Unsupported`] with this cause.
    pub fn unsupported(cause: impl Into<Cause>) -> Self {
        Self::Unsupported(cause.into())
    }

    /// [`TransportError::Corrupt`] with this cause.
    pub fn corrupt(cause: impl Into<Cause>) -> Self {
        Self::Corrupt(cause.into())
    }

    /// Whether the same call may succeed later without any repair:
    /// [`Indeterminate`](Self::Indeterminate) and [`Unavailable`](Self::Unavailable).
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Indeterminate(_) | Self::Unavailable(_))
    }

    fn cause(&self) -> &Cause {
        match self {
            Self::Indeterminate(cause)
            | Self::Unavailable(cause)
            | Self::Denied(cause)
            | Self::Unsupported(cause)
            | Self::Corrupt(cause) => cause,
        }
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Indeterminate(_) => "it is not known whether the write was applied",
            Self::Unavailable(_) => "the request was not carried out",
            Self::Denied(_) => "the engine refuses this client",
            Self::Unsupported(_) => "the engine cannot do this",
            Self::Corrupt(_) => "the engine's response makes no sense",
        };
        write!(f, "{what}: {}", self.cause())
    }
}

impl Error for TransportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause().0)
    }
}

/// Why a [`TransportError`] happened: an error of any type, or a sentence.
#[derive(Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Cause {
    fn from(error: E) -> Self {
        Self(error.into().into())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::{Transport, Version};

    #[test]
    fn the_trait_is_object_safe_and_versions_are_checked() {
        fn takes(_: Option<std::sync::Arc<dyn Transport>>) {}
        takes(None);
        assert!(Version::new(0).is_err());
        assert!(Version::new(1 << 52).is_err());
        assert_eq!(Version::new((1 << 52) - 1).unwrap(), Version::MAX);
    }
}
