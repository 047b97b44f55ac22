//! Encryption by the clients: registers whose values and names the engine cannot read.

mod error;
mod keys;
mod mark;
mod names;
mod seen;
#[cfg(test)]
mod tests;
mod value;

pub use error::SealError;
pub use keys::{SealKeys, SealKeysError};
pub use mark::is_sealed;

use crate::Mutex;
use crate::cluster::{
    Capabilities, Consistency, Exchange, Key, NodeId, Notices, Transport, TransportError, Version,
    Versioned, Watch, Write, async_trait,
};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use seen::Seen;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;
use value::{Opened, Sight};

/// A transport around a transport that *seals*: it encrypts and authenticates values (XChaCha20-Poly1305) and replaces
/// names by keyed hashes (HMAC-SHA-256). So whoever runs the engine, or reads its backups, learns neither which locks
/// there are nor who holds them.
///
/// Feature `sealed`. The program has it by `--seal-key-file`.
///
/// ```
/// use lockword::cluster::layers::{SealKeys, Sealed};
/// use lockword::cluster::{Node, connect};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let file = "/etc/lockword/seal.keys"; // Made once by `lockword seal-key FILE`, and copied to all nodes.
/// # let file = std::env::temp_dir().join(format!("lockword-sealed-doc-{}", std::process::id()));
/// # SealKeys::create_file(&file)?;
/// let keys = SealKeys::read(&file)?;
/// let node = Node::builder(Sealed::new(connect("memory:").await?, keys)).build()?;
/// node.lock("customers/acme/import")?.acquire().await?.release().await?;
/// # std::fs::remove_file(&file)?;
/// # Ok(())
/// # }
/// ```
///
/// # What it protects against
///
/// An *attacker* here is somebody who can read and write the engine, and does not have the keys.
///
/// - No attacker can read names of locks, labels (hosts, users, programs), or who broke a lock and why.
/// - A value that an attacker changes, makes, or moves to another register is refused: [`SealError::Forged`],
///   [`SealError::NotSealed`].
/// - A replay (an old value that is written again, or a register that is restored) is refused by each node that remembers a
///   newer one: [`SealError::Replayed`], or as of any
///   [engine that goes back](crate::cluster::transport#an-engine-that-goes-back). See [below](#old-values), also for
///   engines that can lose writes.
/// - **What is refused is not overwritten.** The lock cannot be acquired, and a holder loses it at the end of its lease.
///
/// A wrong key is an error, too: [`SealError::UnknownKey`] and, for the name key, [`SealError::NameKey`].
///
/// # What it does not protect against
///
/// - **An attacker can still give a lock to two nodes**: by deleting a register, which looks then like one that was
///   never used; by showing an old state to a node that remembers nothing; and, if the attacker is the engine, by
///   telling two nodes that both have written. The [fencing token](crate::cluster::fence) is made of the engine's
///   version, which is not under the seal: the storage must check it all the same, but whoever sets versions can give
///   a late holder the larger token.
/// - Where the engine can lose writes (Redis and `dir:`), a replay is refused for 10 seconds, and accepted after that: see
///   [below](#old-values).
/// - An intruder can delay, and keep anybody from a lock.
/// - Whoever has the keys can do everything. There is one file for all nodes, and it has the same rights everywhere.
///
/// # What leaks
///
/// The engine, whoever runs it and whoever reads its backups still see:
///
/// - how many registers there are, when each is written and by which connection (address, user of the engine);
/// - versions, whether a register is in use ([`Write::idle`]), and the length of its value: it grows by some 200
///   bytes with each node that waits, and with the lengths of names and labels;
/// - **who waits for whom, by the random number of the node**: [`Write::wake`] and the channels of PostgreSQL, Redis
///   and `dir:` have the number of the node that is woken. It is another one after each start. The channel also has a
///   hash, that of the stored name;
/// - which names begin with the same segments: `jobs/a` and `jobs/b` are stored in one folder, whose name is a hash.
///   Without the name key nobody can try names. The numbers of the keys, and so how often the sealing key is changed;
/// - about how long a lease is, since a holder writes after each third of it; and that a lock was broken, since that
///   wakes all nodes;
/// - to the users of the machine: the name of the lock in the command line of `lockword run` and of the guardian that
///   it starts; with a directory, which process has which file there locked (`/proc/locks`);
/// - in a directory, with `lockword run`: the number of the node and the fencing token, in the file that ties the
///   lock to the command's processes.
///
/// The program's own output, errors, spans and what it tells an [`Observer`](crate::cluster::Observer) have the real
/// names.
///
/// # How it is done
///
/// A name is cut at its slashes. Each of the first seven segments becomes 128 bits of HMAC-SHA-256 (RFC 2104), by the
/// name key, of the name up to its end; what follows them is hashed as one, as are segments after the seventh. So
/// `jobs/nightly` is stored as `@sealed/` and two hashes of 22 characters with a slash between them. Every [`Key`]
/// has a stored name, of at most 191 bytes. A prefix of whole segments can be granted to a role:
/// [`SealKeys::stored_prefix`].
///
/// A value is sealed by XChaCha20-Poly1305 (RFC 8439, draft-irtf-cfrg-xchacha-03) with a key for this register alone,
/// which is made of the sealing key and the stored name by HKDF (RFC 5869), and a nonce of 192 random bits. It takes
/// up to 265 bytes more than before, so [`largest_value`](Capabilities::largest_value) is less by that. The other
/// [capabilities](Transport::capabilities), and the name, are those of the engine. In front of it are `lw-seal`, the
/// number of the format and that of the key. They and the stored name are authenticated. Sealed are the value, the
/// real name, and the version that the write expected.
///
/// The register `@lockword-sealed` has the number of the name key, in the clear. The first node makes it, and each
/// `Sealed` looks at it once, before its first request: **two nodes with different name keys could both hold a
/// lock.** So all that seal in one prefix, table or database need the same name key, and a user with rights on some
/// keys needs the right to read this one. **After a loss of data start a node with all rights again**: those that run do
/// not make the register anew, and those with rights on a prefix cannot. Nodes that do not seal lock other registers. The program refuses to do that
/// where it finds this register; by the library, ask [`is_sealed`].
///
/// Over several engines ([`Sharded`](super::Sharded)) give each of them a `Sealed` of its own, by clones of the same
/// keys, and put `Sharded` around them. The other way round the register is on one of the engines, and is lost with
/// it, or not looked at again after a change of the list.
///
/// [`list`](Transport::list) cannot turn hashes back, so it loads each register that is stored under the whole
/// segments of the prefix, 16 at a time, each up to three times. It fails if one of them cannot be loaded. One that
/// cannot be opened is in it by its stored name, whatever the rest of the prefix: under that name an inspection says
/// why ([`SealError`]), and nothing can be written ([`SealError::StoredName`]).
/// (To store names so that they can be turned back would take a third more bytes than the names have, and 16 for each
/// segment: then names of more than 100 bytes would have no room in a key of an engine.)
///
/// A first acquisition costs a round trip for that look; after it, sealing takes no request.
///
/// # Old values
///
/// Each write says, under its seal, which version it has expected. The value at version 30 was made to follow 25,
/// say, and 25 is the version right before it. A node that has seen version 27 knows then that 30 has an old value,
/// whatever its version. All clones of one `Sealed` remember the last 10,000 keys, and more, since the process began.
/// What remains:
///
/// - A node that has just started remembers nothing, and accepts any value that was once sealed for this register.
/// - Engines delete registers that are not in use. The next value is one that follows nothing, and cannot be told
///   from an older one of that kind, unless this node has seen that one as the last such value.
/// - An engine that can lose writes ([`Consistency::Lossy`]: Redis and `dir:`) may show, after a loss, what looks
///   like a replay. There that value is refused for [some time](Self::refuse_replays_for), and accepted after that
///   (those who wait for the lock go on waiting). On the others
///   it is refused until somebody writes the register who has not seen the newer one: a node that was started later.
///   Where nobody holds the lock, **`lockword run --no-wait KEY -- true`** does that; `lockword break` does not, since
///   there is nobody to take the lock from. Where the value names a holder, `lockword break KEY` does it. (So it is after
///   a failover of PostgreSQL to an asynchronous replica, which this crate counts among those that lose nothing.)
/// - A value that says that it follows its own version, or a later one, is refused by everybody: somebody has copied
///   registers to another engine, by a tool that gives them new versions. Delete them there when no node runs.
/// - A smaller version than was seen is passed on: the answer may have come late. That the engine
///   [went back](crate::cluster::transport#an-engine-that-goes-back) each node notices by what it remembers itself.
///
/// # Keys
///
/// [`SealKeys::create_file`] or `lockword seal-key FILE` makes a file; give it to all nodes, by the way of other
/// secrets, and keep a copy: without it, no register can be read. (Nothing else is lost. Delete the registers when no
/// node runs.) [The format](SealKeys#the-file) is text. It is read when the program starts.
///
/// ## To change the sealing key
///
/// A new one for what is written from now on. Each step at all nodes, before the next:
///
/// 1. Make a key: `openssl rand -hex 32`. Add it to the file of each node as `open NEW`, and start the node again.
///    Now all nodes can read it.
/// 2. Exchange the words: `seal NEW`, `open OLD`, and start the nodes again. Now they write with the new one.
/// 3. See to it that no register has the old one. Locks that are held are written again within a third of a lease.
///    For the others take and release each that is [listed](Transport::list), or let the engine's housekeeping delete
///    those that are not in use. With the program, after `lockword sweep --dead` (a dead holder writes nothing):
///    `lockword list --json | jq -r 'select(.state == "free").key' | while read -r KEY; do lockword run --no-wait "$KEY" -- true </dev/null; done`.
///    (A record of `--at-most-once-per` is written again at the next start of its command, and one whose time is over
///    by `lockword sweep`.) What still has the old key a list with a file that lacks `open OLD` shows as unreadable.
///    Then remove that line at all nodes, and start them again.
///
/// A register that has it still is refused then, by its number, and not overwritten; put the line back to read it.
/// Where the old key is known to others, go through the steps without a pause: until the third, what they write is
/// accepted.
///
/// ## To change the name key, or to begin and end to seal
///
/// That is another set of registers, so a node before it and one after it could hold a lock at the same time. **Stop
/// all nodes**; delete the register `@lockword-sealed`; wait for the longest lease; start the nodes. Fencing tokens
/// go on growing with the engines of this crate, whose new registers have versions above all others. The records of
/// [periodic jobs](crate::cluster::periodic) are not found any more, so these are due at once, those that run only once,
/// too; and rights that were given by `lockword grants` have to be given again.
pub struct Sealed<T> {
    inner: T,
    shared: Arc<Shared>,
}

struct Shared {
    keys: SealKeys,
    seen: Mutex<Seen>,
    /// For how long replays are refused on an engine that can lose writes.
    refuses_for: Duration,
    /// The engine is in use with this name key.
    marked: OnceCell<()>,
    capabilities: Capabilities,
}

/// As long as a usual lease: who waits that long has seen the error.
const REFUSES_FOR: Duration = Duration::from_secs(10);

/// How many registers a list loads at a time.
const LOADS: usize = 16;

/// How often a list tries each of its loads.
const LIST_TRIES: usize = 3;

impl<T: Transport> Sealed<T> {
    /// `inner`, with its values and names sealed by `keys`. Sends nothing.
    pub fn new(inner: T, keys: SealKeys) -> Self {
        let mut capabilities = inner.capabilities();
        capabilities.largest_value = capabilities.largest_value.saturating_sub(value::OVERHEAD);
        Self { inner, shared: Arc::new(Shared::new(keys, capabilities, REFUSES_FOR)) }
    }

    /// For how long a value that looks like a replay is refused, if the engine can lose writes
    /// ([`Consistency::Lossy`]); 10 seconds by default. Then it is believed: see [old values](Self#old-values). Other
    /// engines are never believed. What was seen before is forgotten, so call this before anything else.
    #[must_use]
    pub fn refuse_replays_for(mut self, time: Duration) -> Self {
        let Shared { keys, capabilities, .. } = &*self.shared;
        self.shared = Arc::new(Shared::new(keys.clone(), capabilities.clone(), time));
        self
    }

    /// The wrapped transport.
    #[must_use]
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &SealKeys {
        &self.shared.keys
    }

    async fn marked(&self) -> Result<&Shared, TransportError> {
        let check = || mark::check(&self.inner, &self.shared.keys);
        self.shared.marked.get_or_try_init(check).await?;
        Ok(&self.shared)
    }

    /// The name of the register for a list: its own, or the stored one if it cannot be opened.
    async fn listed(&self, stored: &Key) -> Result<Option<Key>, TransportError> {
        // A list of many would hardly ever succeed if each of its loads had to at once.
        for _ in 1..LIST_TRIES {
            match self.load_listed(stored).await {
                Err(error) if error.is_transient() => {}
                result => return result,
            }
        }
        self.load_listed(stored).await
    }

    async fn load_listed(&self, stored: &Key) -> Result<Option<Key>, TransportError> {
        let before = self.shared.newest(stored);
        let found = match self.inner.load(stored).await {
            // Something else than a register, under its name.
            Err(TransportError::Corrupt(_)) => return Ok(Some(stored.clone())),
            found => found?,
        };
        let Some(found) = found else { return Ok(None) };
        // It is not remembered for a list: there may be many, and the others would be forgotten.
        let opened = match before {
            Some(_) => self.shared.answer(stored, &found, before),
            None => self.shared.unsealed(stored, &found),
        };
        match opened {
            Ok(opened) => Ok(Some(opened.key)),
            Err(error) if SealError::of_register(&error).is_some() => Ok(Some(stored.clone())),
            Err(error) => Err(error),
        }
    }
}

impl Shared {
    fn new(keys: SealKeys, capabilities: Capabilities, refuses_for: Duration) -> Self {
        let (seen, marked) = (Mutex::default(), OnceCell::new());
        Self { keys, seen, refuses_for, marked, capabilities }
    }

    fn newest(&self, stored: &Key) -> Option<Version> {
        self.seen.lock().newest(stored)
    }

    /// Opens what a response has shown. `before` is the newest version at the time of the call.
    fn answer(
        &self,
        stored: &Key,
        found: &Versioned,
        before: Option<Version>,
    ) -> Result<Opened, TransportError> {
        self.open(stored, found, before, self.believed_after())
    }

    fn open(
        &self,
        stored: &Key,
        found: &Versioned,
        before: Option<Version>,
        believed_after: Option<Duration>,
    ) -> Result<Opened, TransportError> {
        let opened = self.unsealed(stored, found)?;
        let noted = self.seen.lock().note(stored, opened.sight, before, believed_after);
        noted.map_err(|replay| match believed_after {
            None => opened.sight.replayed(stored, Some(replay.newest)).refused(),
            // It may be over soon: who waits goes on.
            Some(_) => {
                TransportError::unavailable(opened.sight.replayed(stored, Some(replay.newest)))
            }
        })?;
        Ok(opened)
    }

    /// Opens what may be old.
    fn unsealed(&self, stored: &Key, found: &Versioned) -> Result<Opened, TransportError> {
        let opened = value::open(&self.keys, stored, found).map_err(SealError::refused)?;
        let Sight { version, expected, .. } = opened.sight;
        if expected.is_some_and(|expected| expected >= version) {
            return Err(opened.sight.replayed(stored, None).refused());
        }
        Ok(opened)
    }

    /// After what time a replay is believed. `None`: never.
    fn believed_after(&self) -> Option<Duration> {
        let is_lossy = self.capabilities.consistency == Consistency::Lossy;
        is_lossy.then_some(self.refuses_for)
    }
}

impl<T: Clone> Clone for Sealed<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<T: fmt::Debug> fmt::Debug for Sealed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Sealed");
        shown.field("inner", &self.inner).field("keys", &self.shared.keys).finish_non_exhaustive()
    }
}

#[async_trait]
impl<T: Transport> Transport for Sealed<T> {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        let shared = self.marked().await?;
        let stored = shared.keys.stored_name(key);
        let before = shared.newest(&stored);
        let found = self.inner.load(&stored).await?;
        let opened = found.map(|found| shared.answer(&stored, &found, before)).transpose()?;
        Ok(opened.map(|opened| opened.found))
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        if names::is_stored(key) {
            return Err(SealError::StoredName { stored: key.clone() }.refused());
        }
        let shared = self.marked().await?;
        let largest = shared.capabilities.largest_value;
        if new.value.len() > largest {
            let why = format!(
                "a value of more than {largest} bytes, which with its seal the engine does not take"
            );
            return Err(TransportError::unsupported(why));
        }
        let stored = shared.keys.stored_name(key);
        let before = shared.newest(&stored);
        let (value, nonce) = value::seal(&shared.keys, &stored, key, expected, &new.value)?;
        let new = Write { value: value.into(), ..new };
        Ok(match self.inner.compare_exchange(&stored, expected, new).await? {
            Exchange::Swapped(version) => {
                shared.seen.lock().wrote(&stored, Sight { version, expected, nonce }, before);
                Exchange::Swapped(version)
            }
            Exchange::Mismatch(found) => {
                let opened =
                    found.map(|found| shared.answer(&stored, &found, before)).transpose()?;
                Exchange::Mismatch(opened.map(|opened| opened.found))
            }
        })
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let stored = self.marked().await?.keys.stored_name(key);
        let watch = self.inner.watch(&stored, node).await?;
        let shared = Arc::clone(&self.shared);
        Ok(Box::pin(watch.map(move |item| {
            let found = item?;
            Ok(match shared.capabilities.notices {
                // One that cannot be opened has the node load the register: that says why, and may be told to a
                // caller.
                Notices::Answers => found
                    .and_then(|found| shared.open(&stored, &found, None, None).ok())
                    .map(|opened| opened.found),
                Notices::Hints => None,
            })
        })))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Key>, TransportError> {
        let folder = self.marked().await?.keys.folder(prefix);
        let stored = self.inner.list(&folder).await?;
        let mut keys = Vec::with_capacity(stored.len());
        for some in stored.chunks(LOADS) {
            let listed = try_join_all(some.iter().map(|stored| self.listed(stored))).await?;
            // One that is not there any more is not listed.
            keys.extend(listed.into_iter().flatten());
        }
        // Whoever cannot open a register cannot tell whether it has the prefix.
        keys.retain(|key| key.as_str().starts_with(prefix) || names::is_stored(key));
        keys.sort_unstable();
        Ok(keys)
    }

    fn capabilities(&self) -> Capabilities {
        self.shared.capabilities.clone()
    }
}
