//! What an engine has to offer: an atomic register with notification.
//!
//! The operations are those of an atomic integer and of a futex, at a distance: [`load`],
//! [`compare_exchange`], [`watch`]. Holder, lease, queue, fencing and handoff are none of an
//! engine's business: they are in the value, which the engine stores and does not read.
//!
//! # The laws
//!
//! Whoever implements [`Transport`] keeps these, and [`conformance`](super::conformance) (feature
//! `conformance`) checks them:
//!
//! 1. **Linearizable.** For each key, [`compare_exchange`] is linearizable where
//!    [`Capabilities::consistency`] says so: it takes effect at one moment between the call and the
//!    answer, and [`load`] shows the latest effect.
//! 2. **Versions only grow.** Each successful write of a key gets a [`Version`] larger than all
//!    before it: also after the register was released, has expired, was deleted and created anew,
//!    also after the engine was started again, also when the engine's clock steps back. A version is
//!    below 2^52. An engine that can lose acknowledged writes declares [`Consistency::Lossy`].
//! 3. **Doubt is told.** If it cannot be known whether a write was applied (a timeout or a lost
//!    connection after the request was sent), the answer is [`TransportError::Indeterminate`]:
//!    neither success nor failure. A client library's silent sending-again is switched off.
//! 4. **A mismatch is the truth.** [`Exchange::Mismatch`] is answered only if the version did differ
//!    from the expected one at some moment of the call, and carries the register of such a moment,
//!    not an older snapshot.
//! 5. **A live watch wakes.** After a change that was to wake its node ([`Write::wake`]), a watch
//!    yields within [`Capabilities::wake_within`], or it ends, or yields an error. It may coalesce
//!    changes, repeat them, and wake for nothing.
//! 6. **Dropping is harmless.** Any of the futures, and a watch, may be dropped at any moment. No
//!    connection leaks, no later call is harmed. A write whose future was dropped may or may not be
//!    applied.
//!
//! And these, which no suite can check from outside: a call ends by itself, sooner or later, with an
//! error if need be; no password or key material is in the text of an error.
//!
//! [`load`]: Transport::load
//! [`compare_exchange`]: Transport::compare_exchange
//! [`watch`]: Transport::watch

use super::key::Key;
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// An engine that keeps a small versioned value per key.
///
/// Object-safe: a [`Node`](super::Node) takes any `Arc<dyn Transport>`. The laws are in the
/// [module's documentation](self). An implementation is written with [`macro@async_trait`], which is
/// re-exported beside it.
///
/// ```
/// use lockword::cluster::*;
///
/// /// An engine that is another one, and wakes nobody.
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
///         Err(TransportError::unsupported("nobody is woken here"))
///     }
///     fn capabilities(&self) -> Capabilities {
///         let mut capabilities = Capabilities::new("quiet");
///         capabilities.wakeups = Wakeups::Poll; // Whoever waits looks from time to time.
///         capabilities
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = Node::builder(Quiet(Memory::new())).build()?;
/// node.lock("jobs/nightly")?.acquire().await?.release().await.expect("it was held");
///
/// // With the feature `conformance`, the suite checks the laws that can be checked without a watch.
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
/// Calls come from tasks of a tokio runtime, several at a time, for the same key too. None may block
/// its thread: all locks of the node would wait, and their leases would not be renewed.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// The register of `key`: `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`TransportError`]; never [`Indeterminate`](TransportError::Indeterminate), since nothing is
    /// written.
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError>;

    /// Writes `new` if the register's version is `expected` (`None`: if there is no register), and
    /// tells the version that the write got; otherwise tells what the register holds.
    ///
    /// # Errors
    ///
    /// [`TransportError::Indeterminate`] if the write may have been applied, or may yet be. Every
    /// other error says that it was not applied and will not be.
    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError>;

    /// The changes of `key` from now on, as far as they concern `node` ([`Write::wake`]).
    ///
    /// When the future is ready, the watch is in force: a write that begins afterwards is noticed.
    /// An item is `Some` register of some moment after the change where the engine can deliver it,
    /// and `None` where it cannot ("look yourself"). It is a hint, never the truth.
    ///
    /// # Errors
    ///
    /// [`TransportError`] if there can be no watch now. An error as an item is the last item.
    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError>;

    /// What this engine promises. The same at every call.
    fn capabilities(&self) -> Capabilities;
}

/// What [`Transport::watch`] yields: a stream of the crate `futures_util`, boxed.
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

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }
}

/// The version of a register: larger with each write of the same key, for ever.
///
/// From 1 to 2^52 - 1, so that ten bits can be added and the sum is still positive as an `i64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// The largest version.
    pub const MAX: Version = Version((1 << 52) - 1);

    /// The version of this number.
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
    /// The bytes that its last write wrote. Shared: cheap to clone.
    pub value: Arc<[u8]>,
}

/// What [`Transport::compare_exchange`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// It wrote. The register has this version now.
    Swapped(Version),
    /// It did not: this is what the register held (`None`: there was none).
    Mismatch(Option<Versioned>),
}

/// What is to be written: the value, and what the engine needs to know and cannot read out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The bytes. An engine does not look into them.
    pub value: Arc<[u8]>,
    /// Whose watch is to wake. An engine may wake more than that.
    pub wake: Wake,
    /// Nobody holds and nobody waits: the engine may drop the register after a retention that it
    /// states. It must be longer than any request may be in flight (an hour is good), since a
    /// late write that expects no register would find none.
    pub idle: bool,
}

/// Whose watch a [`Write`] is to wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// No one's: nobody waits.
    Nobody,
    /// This node's.
    Node(NodeId),
    /// Every node's.
    Everybody,
}

/// A node: one process's membership, for as long as it runs. Random, 64 bits, shown as 16
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// The node of this number.
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

/// What an engine promises, as data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The engine's name, for messages: `"etcd"`.
    pub name: &'static str,
    /// What may happen to an acknowledged write.
    pub consistency: Consistency,
    /// How a waiting node learns of a change.
    pub wakeups: Wakeups,
    /// A watch yields within this time after the change, or has ended. That it takes so long is the
    /// exception, of a connection that breaks without a word: most changes are told at once.
    pub wake_within: Duration,
    /// The largest value it stores, in bytes.
    pub largest_value: usize,
}

impl Capabilities {
    /// Linearizable, pushes to all within a second, 64 KiB: change what differs.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            consistency: Consistency::Linearizable,
            wakeups: Wakeups::PushToAll,
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
    /// It can be lost when the engine fails over to another server, or restarts. Two nodes may then
    /// hold at a time, and the order of fencing tokens is not guaranteed across that event.
    Lossy,
}

/// How a waiting node learns of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wakeups {
    /// The watch of the node that is to be woken yields.
    PushToOne,
    /// Every watch of the key yields.
    PushToAll,
    /// No watch ever yields: whoever waits looks from time to time.
    Poll,
}

// What can go wrong at an engine, as far as the protocol has to tell it apart.
/// What went wrong at an engine.
///
/// The kinds are what the protocol acts upon; what the engine itself said is the
/// [`source`](Error::source). Cheap to clone: one failure is told to many waiters.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TransportError {
    /// A write was sent, and it is not known whether it was applied, or will be.
    Indeterminate(Cause),
    /// The engine cannot be reached, or does not answer, or refuses for now. Nothing was written.
    Unavailable(Cause),
    /// The engine refuses this client: credentials, permissions, a certificate.
    Denied(Cause),
    /// The engine cannot do this: its version, its configuration, a value too large.
    Unsupported(Cause),
    /// The engine answered what it never should: a version out of range, an answer that makes no
    /// sense.
    Corrupt(Cause),
}

impl TransportError {
    /// [`TransportError::Indeterminate`] because of this.
    pub fn indeterminate(cause: impl Into<Cause>) -> Self {
        Self::Indeterminate(cause.into())
    }

    /// [`TransportError::Unavailable`] because of this.
    pub fn unavailable(cause: impl Into<Cause>) -> Self {
        Self::Unavailable(cause.into())
    }

    /// [`TransportError::Denied`] because of this.
    pub fn denied(cause: impl Into<Cause>) -> Self {
        Self::Denied(cause.into())
    }

    /// [`TransportError::Unsupported`] because of this.
    pub fn unsupported(cause: impl Into<Cause>) -> Self {
        Self::Unsupported(cause.into())
    }

    /// [`TransportError::Corrupt`] because of this.
    pub fn corrupt(cause: impl Into<Cause>) -> Self {
        Self::Corrupt(cause.into())
    }

    /// Whether the same call may succeed later without anybody's doing anything.
    #[must_use]
    pub fn is_passing(&self) -> bool {
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
            Self::Unavailable(_) => "the engine cannot be reached",
            Self::Denied(_) => "the engine refuses this client",
            Self::Unsupported(_) => "the engine cannot do this",
            Self::Corrupt(_) => "the engine's answer makes no sense",
        };
        write!(f, "{what}: {}", self.cause())
    }
}

impl Error for TransportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause().0)
    }
}

/// Why a [`TransportError`] happened: any error, or a sentence.
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
