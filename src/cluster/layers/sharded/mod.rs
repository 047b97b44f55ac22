//! Keys over several engines.

mod agreement;
mod error;
mod mark;
mod placement;
mod shard;

pub use error::ShardError;

use crate::cluster::text::shown;
use crate::cluster::{
    Capabilities, Consistency, Exchange, Key, NodeId, Notices, Transport, TransportError, Version,
    Versioned, Wakeups, Watch, Write, async_trait,
};
use error::{of_shard, refused};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use mark::Offsets;
use shard::{Moment, Shard};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// A transport over several engines, the *shards*: each key belongs to one of them.
///
/// For more locks than one engine serves. Which keys belong to a shard depends on its name. So the order of the shards
/// does not matter, and a server may get another address; but a name must stay with the data.
///
/// ```
/// use lockword::cluster::layers::Sharded;
/// use lockword::cluster::{Node, connect};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let [redis_a, redis_b] = ["memory:"; 2];
/// let engine = Sharded::new([("a", connect(redis_a).await?), ("b", connect(redis_b).await?)])?;
/// engine.check().await?; // Whether all nodes have the same list. Each request checks it, too.
/// let node = Node::builder(engine).build()?;
/// node.lock("jobs/nightly")?.acquire().await?.release().await?;
/// # Ok(())
/// # }
/// ```
///
/// # What is guaranteed
///
/// - The [laws](crate::cluster::transport#the-laws) hold for each key, so each lock is as safe as the engine of its
///   shard. Locks of different keys have nothing to do with each other, in one shard or in several.
/// - The [capabilities](Transport::capabilities) are the weakest of all shards: a node knows one promise for all of
///   its keys, and a weaker one is always true. So engines of all kinds can be combined; but one that is
///   [`Lossy`](Consistency::Lossy) makes all of them count as such, one with [`Wakeups::Poll`] has all of them polled,
///   and one with [`Notices::Hints`] costs each handoff a load more. The name is `sharded`.
/// - [`list`](Transport::list) asks all shards, and fails if one does.
/// - The error of a shard has its name.
///
/// # When a shard fails
///
/// Its keys cannot be locked, and their leases end. Those of other shards are locked and renewed as before, and a node
/// can be built over transports that are connected. (Where no node has used the list before, each shard must answer
/// once.) But a program that starts now does not get that far with the engines of this crate: their
/// [`connect`](crate::cluster::connect) fails while their server is down.
///
/// But a node [limits its requests in flight](crate::cluster#how-it-works) for all shards together. A shard that refuses at once,
/// or whose server is gone, costs little of that. One that *hangs* keeps each request in flight for the whole request
/// timeout, and lowers the limit to 16. Where a node wants or holds many keys of the hanging shard, these take most of the
/// places, and the renewals of other shards may come too late: **then other locks are lost as well.** Where that matters,
/// let a request fail early (the option `timeout_ms` of the engines, well below the request timeout), or build a node
/// for each shard, over clones of one `Sharded`, and use for each key that of its [`shard_of`](Self::shard_of): each
/// node has a limit of its own.
///
/// # What each program must do alike
///
/// **Two nodes with different lists could both hold the lock of a key.** So each shard has a *mark*, the register
/// `@lockword-shards` with the names of the list that is in force. The first node that uses the shards writes it; a node
/// with another list is refused ([`ShardError::Differs`], with
/// [`Unsupported`](TransportError::Unsupported)), and so is one that has two of the names exchanged
/// ([`ShardError::Misnamed`]). A request looks at the mark of its shard first, unless that
/// was done in the ten seconds before. Lists that have no shard in common are not noticed: nothing knows of both. Nor is
/// an engine under a wrong name, if it has no mark yet.
///
/// Do not delete the mark, and do not lock keys that begin with `@lockword-shards`. Where a user of the engine has rights on
/// some keys only, it needs read and write permission for these, too.
///
/// # Where a key is
///
/// A key belongs to the shard with the largest weight: rendezvous hashing, or highest random weight (Thaler and Ravishankar,
/// "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking 6(1), 1998). If a shard is
/// added to `n` others, it gets about one key of `n + 1`, and no other key moves. The hash will not change, and other programs
/// can compute it, with integers of 64 bits that wrap:
///
/// ```text
/// fnv1a(bytes):  h = 0xcbf29ce484222325; for each byte b: h = (h xor b) * 0x100000001b3
/// mix(z):        z = (z xor (z >> 30)) * 0xbf58476d1ce4e5b9; z = (z xor (z >> 27)) * 0x94d049bb133111eb;
///                z xor (z >> 31)
/// weight(name, key) = mix(fnv1a(key) xor mix(fnv1a(name))); of equal weights the larger name counts
///
/// fnv1a("a")                   0xaf63dc4c8601ec8c
/// mix(1)                       0x5692161d100b05e5
/// weight("a", "jobs/nightly")  0xbff61d16fbb62333
/// weight("b", "jobs/nightly")  0xb645ae508b7cde8b
/// weight("c", "jobs/nightly")  0x78087f7b5790e37e
/// weight("redis-1", "k0")      0xa9b6f0bdcd3c5b5a
/// weight("redis-2", "k0")      0x7a5f4550064aacf0
/// ```
///
/// # Changing the shards
///
/// *Another address of the same server, or a server with all of its data:* keep the name, and start the nodes with the
/// new address. Nothing moves. The old server must be gone before the first node uses the new one.
///
/// *Adding, removing, replacing:* some keys move to another engine, whose versions may be smaller. Without care a key would
/// have two holders, and its fencing tokens would go back. So:
///
/// 1. Stop all nodes.
/// 2. Call [`old.change_to(&new, longest_lease)`](Self::change_to), in one process.
/// 3. Start the nodes with the new list.
///
/// `change_to` closes the marks of all shards of both lists; it waits until every lease has ended that a node with the
/// old list could have, since such a node is refused within ten seconds; it finds the largest version of all
/// shards of the old list; it writes the new list into the marks, with a number for each shard that is added to the
/// versions of its engine. With it they are all larger than all earlier ones, and so are the
/// [tokens](crate::cluster::FencingToken). So step 1 is a courtesy to the users, but for one case: a node that cannot
/// see time pass. A virtual machine that is paused between the look at the mark and a write, and goes on after the
/// whole change, may hold a lock that has moved, with a token that is not smaller. Stop such machines.
///
/// - Versions in errors and observers are those with the number added. To
///   [raise those of an engine](crate::cluster::transport#an-engine-that-goes-back) that went back above N, raise
///   them above N less the number of the shard in the mark.
/// - All engines of this crate make a new register with a version above those of all deleted ones, and so must others.
///   (Where a prefix has a floor of its own, and the server's clock was set back, only an hour of that is allowed for.)
/// - The registers of keys that have moved stay in the old engine until that deletes them, and are not listed.
///
/// *A shard that is lost for good:* give its name in the old list an empty engine, of the same kind. Its
/// locks are as good as deleted: see to it that nothing can reach the lost engine any more. Versions that begin with the
/// time (Redis, PostgreSQL, `dir:`) are larger again; those of etcd are to be raised above the lost ones first
/// (`etcdutl snapshot restore --bump-revision`), or new gates be used for tokens.
#[derive(Clone)]
pub struct Sharded {
    list: Arc<ShardList>,
}

struct ShardList {
    /// In the order of their names.
    shards: Vec<Shard>,
    names: Vec<String>,
    capabilities: Capabilities,
    /// The offsets that the first mark had.
    offsets: OnceLock<Offsets>,
}

impl Sharded {
    /// The longest name of a shard, in bytes.
    pub const MAX_NAME: usize = 64;

    /// The shards with these names and engines, in any order. Sends nothing. Engines of different types are given as
    /// `Arc<dyn Transport>`.
    ///
    /// # Errors
    ///
    /// [`ShardError::Empty`], [`ShardError::Duplicate`], [`ShardError::Name`].
    pub fn new<N, T>(shards: impl IntoIterator<Item = (N, T)>) -> Result<Self, ShardError>
    where
        N: Into<String>,
        T: Transport,
    {
        let shards = shards.into_iter().map(|(name, engine)| {
            let name = name.into();
            let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
            if name.is_empty() || name.len() > Self::MAX_NAME || !name.bytes().all(allowed) {
                return Err(ShardError::Name { name: shown(&name) });
            }
            let engine: Arc<dyn Transport> = Arc::new(engine);
            Ok(Shard::new(name, engine))
        });
        let mut shards: Vec<Shard> = shards.collect::<Result<_, _>>()?;
        shards.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = shards.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(ShardError::Duplicate { name: pair[0].name.clone() });
        }
        let all = shards.iter().map(|shard| shard.engine.capabilities());
        let capabilities = all.reduce(weakest).ok_or(ShardError::Empty)?;
        let capabilities = Capabilities { name: "sharded", ..capabilities };
        let names = shards.iter().map(|shard| shard.name.clone()).collect();
        Ok(Self {
            list: Arc::new(ShardList { shards, names, capabilities, offsets: OnceLock::new() }),
        })
    }

    /// The names of the shards, in order.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.list.names
    }

    /// The name of the shard to which `key` belongs.
    #[must_use]
    pub fn shard_of(&self, key: &Key) -> &str {
        &self.list.shard_of(key).name
    }

    /// Checks that this list is in force at all shards, and puts it in force if no list ever was. Call it at the start of
    /// a program: an error is better there than in each request.
    ///
    /// # Errors
    ///
    /// [`ShardError::Differs`], [`ShardError::Misnamed`], [`ShardError::Changing`], [`ShardError::Changed`] and [`ShardError::Foreign`], after
    /// which no key of the shard can be locked. [`ShardError::Engine`] if a shard cannot be reached, among others:
    /// the keys of other shards may be of use all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is safe at any moment. A mark may be written.
    pub async fn check(&self) -> Result<(), ShardError> {
        let look = async |shard: &Shard| {
            let at = Moment::now();
            let offset = self.list.look(shard).await?;
            shard.was_seen(at, offset);
            Ok(())
        };
        for shard in &self.list.shards {
            look(shard).await?;
        }
        Ok(())
    }
}

impl fmt::Debug for Sharded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards = self.list.shards.iter();
        f.debug_map()
            .entries(shards.map(|shard| (&shard.name, shard.engine.capabilities().name)))
            .finish()
    }
}

/// What both promise.
fn weakest(a: Capabilities, b: Capabilities) -> Capabilities {
    let is = |found: bool, weaker, other| if found { weaker } else { other };
    let both_have = |wakeups| a.wakeups == wakeups && b.wakeups == wakeups;
    let has = |wakeups| a.wakeups == wakeups || b.wakeups == wakeups;
    Capabilities {
        name: a.name,
        consistency: is(
            a.consistency == Consistency::Lossy || b.consistency == Consistency::Lossy,
            Consistency::Lossy,
            Consistency::Linearizable,
        ),
        wakeups: if has(Wakeups::Poll) {
            Wakeups::Poll
        } else if both_have(Wakeups::PushToAll) {
            Wakeups::PushToAll
        } else {
            // Where all watches yield, that of the node that is to be woken does.
            Wakeups::PushToOne
        },
        notices: if a.notices == Notices::Answers { b.notices } else { a.notices },
        wake_within: a.wake_within.max(b.wake_within),
        largest_value: a.largest_value.min(b.largest_value),
    }
}

impl ShardList {
    fn number_of(&self, key: &Key) -> usize {
        let seeds = self.shards.iter().map(|shard| shard.seed);
        placement::place(key.as_str(), seeds).expect("a list has a shard")
    }

    fn shard_of(&self, key: &Key) -> &Shard {
        &self.shards[self.number_of(key)]
    }

    /// What is added to the versions of the shard. Fails if another list is in force there.
    async fn offset(&self, shard: &Shard) -> Result<u64, TransportError> {
        if let Some(offset) = shard.offset() {
            return Ok(offset);
        }
        let _one = shard.looking.lock().await;
        if let Some(offset) = shard.offset() {
            return Ok(offset);
        }
        let at = Moment::now();
        let offset = self.look(shard).await.map_err(refused)?;
        shard.was_seen(at, offset);
        Ok(offset)
    }
}

/// A register of a shard as the node sees it.
fn raised(found: Versioned, offset: u64) -> Result<Versioned, TransportError> {
    Ok(Versioned { version: Version::new(found.version.get() + offset)?, ..found })
}

#[async_trait]
impl Transport for Sharded {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        let shard = self.list.shard_of(key);
        let offset = self.list.offset(shard).await?;
        let named = |error| of_shard(&shard.name, error);
        let found = shard.engine.load(key).await.map_err(named)?;
        found.map(|found| raised(found, offset)).transpose().map_err(named)
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let shard = self.list.shard_of(key);
        let named = |error| of_shard(&shard.name, error);
        if new.value.len() > self.list.capabilities.largest_value {
            let largest = self.list.capabilities.largest_value;
            let why = format!("a value of more than {largest} bytes, the most of all shards");
            return Err(TransportError::unsupported(why));
        }
        let offset = self.list.offset(shard).await?;
        let expected = match expected.map(|version| version.get().checked_sub(offset)) {
            None => None,
            Some(version @ Some(1..)) => version.and_then(|version| Version::new(version).ok()),
            // No register has it: it was one of an earlier list.
            Some(_) => return Ok(Exchange::Mismatch(self.load(key).await?)),
        };
        match shard.engine.compare_exchange(key, expected, new).await.map_err(named)? {
            Exchange::Swapped(version) => match Version::new(version.get() + offset) {
                Ok(version) => Ok(Exchange::Swapped(version)),
                Err(why) => Err(named(TransportError::indeterminate(why))),
            },
            Exchange::Mismatch(found) => {
                let found = found.map(|found| raised(found, offset)).transpose();
                Ok(Exchange::Mismatch(found.map_err(named)?))
            }
        }
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let shard = self.list.shard_of(key);
        let offset = self.list.offset(shard).await?;
        let name = shard.name.clone();
        let watch = shard.engine.watch(key, node).await;
        let watch = watch.map_err(|error| of_shard(&name, error))?;
        let item = move |item: Result<Option<Versioned>, TransportError>| {
            let raised =
                item.and_then(|found| found.map(|found| raised(found, offset)).transpose());
            raised.map_err(|error| of_shard(&name, error))
        };
        Ok(Box::pin(watch.map(item)))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Key>, TransportError> {
        let of = async |number: usize, shard: &Shard| {
            self.list.offset(shard).await?;
            let listed = shard.engine.list(prefix).await;
            let mut keys = listed.map_err(|error| of_shard(&shard.name, error))?;
            // Neither the marks, nor keys that have moved.
            keys.retain(|key| !mark::is_reserved(key) && self.list.number_of(key) == number);
            Ok::<_, TransportError>(keys)
        };
        let shards = self.list.shards.iter().enumerate();
        let lists = try_join_all(shards.map(|(number, shard)| of(number, shard))).await?;
        let mut keys = lists.concat();
        keys.sort_unstable();
        Ok(keys)
    }

    fn capabilities(&self) -> Capabilities {
        self.list.capabilities.clone()
    }
}
