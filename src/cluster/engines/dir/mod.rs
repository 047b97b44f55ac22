//! A directory of this machine (on Unix): no server at all.
//!
//! It is for the processes of one machine, which share locks by files: programs that are started several
//! times, jobs of `cron`, the workers of one host. The processes may be of several containers that have the
//! directory mounted.
//!
//! # Guarantees
//!
//! It keeps all [laws](crate::cluster::transport) for as long as the machine runs, whatever becomes of the
//! processes: one that is killed in the middle of a write leaves the register as it was or as it was to be.
//! Versions go on growing after a register was deleted.
//!
//! The engine declares [`Consistency::Lossy`], since nothing is forced to the disk. **Across a loss of power
//! or a crash of the system** the last writes can be lost, and a file can be left that is empty or has a part
//! missing: such a register counts as lost. All processes have ended by then, so no lock is held twice
//! because of it; and versions, which begin with the time, go on growing if the clock is right. After an
//! orderly restart everything is as it was, also who held a lock: others get it when its lease is over.
//!
//! **A process that is stopped** (SIGSTOP, a debugger, a frozen container) while it is reading and writing a
//! register, which takes some 20 microseconds, keeps the others from writing that register. Their requests
//! fail after the [timeout](DirBuilder::timeout), with an error that names the process: they are
//! [`Unavailable`](TransportError::Unavailable), and nothing is lost when it goes on or is killed. So does
//! one that is killed while a child which it has just forked still has the file open. Reading a register
//! waits for nobody.
//!
//! **Who may write in the directory** can break each lock and forge each register. By default that is its
//! owner. It must not be in a place that is cleaned of old files: a cleaner that removes a register takes
//! the lock from its holder.
//!
//! # The address
//!
//! `dir:/path?option=value`, with an absolute path. Write `%`, `?`, `#` and blanks in it as `%25`, `%3F`,
//! `%23` and `%20`. The directory is made if it is not there. [`DirBuilder`] has a setter for each option:
//!
//! | option | meaning | default |
//! |---|---|---|
//! | `mode` | the permissions of the directory, in octal; `2770` shares it with its group | 0700 |
//! | `timeout_ms` | how long a request waits for a process that is in the way, in milliseconds | 1000 |
//! | `any_file_system` | `true`: admit every file system | `false` |
//!
//! # Requirements
//!
//! - Unix. On other systems `connect` refuses the address.
//! - A file system of this machine. Admitted are, on Linux, ext2 to ext4, XFS, Btrfs, tmpfs, F2FS, ZFS,
//!   overlayfs, bcachefs, JFS, NILFS, ReiserFS; on macOS and BSD APFS, HFS+, UFS, ZFS, HAMMER, tmpfs. Network
//!   file systems are refused, since a lock there may be one of this machine alone, and so are those that are
//!   not known: [`any_file_system`](DirBuilder::any_file_system) admits them.
//! - The same version of the format in all processes: others are refused as
//!   [`Corrupt`](TransportError::Corrupt).
//!
//! A directory in memory (`/dev/shm`, `/run`) is the fastest, and forgets all locks with a restart.
//!
//! # Data in the directory
//!
//! For each key there are up to four files, whose names begin with that of the key (`jobs%2fnightly`; a name
//! that is too long is cut and has a hash):
//!
//! | file | is |
//! |---|---|
//! | `.register` | a line with the version and the key, and the value: `cat` shows it |
//! | `.lock` | locked by `flock` while the register is written; it is never renamed |
//! | `.new` | the next register, until it is renamed; then the one before it |
//! | `.tie` | locked while one of the processes lives to which a held lock was [tied](Tie) |
//!
//! `.floor.register` has a version that is no smaller than that of any register which was deleted. Registers
//! that have been idle for an hour are deleted now and then, by one in a thousand of the writes that make
//! one idle, and by [`Dir::sweep`]. [`Dir::delete`] deletes one; `rm` does, too, but only the clock keeps
//! the order of fencing tokens then.
//!
//! # Rights
//!
//! There are none per prefix of keys, and `lockword grants` says so: who may write in the directory may do everything
//! with each of its locks. The files have the rights of the directory. So give each group of users a directory of its own,
//! which has its own floor: `mkdir -m 2770 /var/lock/jobs && chgrp jobs /var/lock/jobs`, and
//! `dir:/var/lock/jobs?mode=2770`.
//!
//! # How it runs
//!
//! Every request opens the files anew. It is made at once by the thread that polls it, which takes some 10
//! microseconds, less than to wake another thread. A request that would have to wait for another process goes
//! on on a thread for blocking work; and so do all for a second after one that has taken a millisecond, so
//! that no runtime waits again and again for a busy disk. A task serves all watches of a directory, on the
//! thread of this crate or on the [runtime that was given](DirBuilder::runtime). The kernel tells it of each
//! register that is written in the directory (inotify); it looks at those that are watched twice a second
//! besides, in case that a notice was lost, and a hundred times a second where there are none. A register that is written wakes every node that watches it. Every node is told of all keys of a
//! directory: where many locks are busy, use several directories.
//!
//! When the directory is removed, requests fail with [`Unavailable`](TransportError::Unavailable) until it
//! is there again. Then they go on with what is in it: who held a lock has lost it.

mod blocker;
mod builder;
mod call;
mod content;
mod filesystem;
mod folder;
mod names;
mod store;
mod tie;
mod watch;

use crate::cluster::background::run_blocking_on;
use crate::cluster::engines::connect::ConnectionRuntime;
use crate::cluster::process::OfProcess;
use crate::cluster::{
    Capabilities, Cause, ConnectError, Consistency, Exchange, Key, NodeId, Notices, Transport,
    TransportError, Version, Versioned, Watch, Write, async_trait,
};
use call::Call;
use content::LARGEST_VALUE;
use folder::FolderError;
use rustix::io::Errno;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::time::timeout;
use url::Url;
use watch::{LOOK_EVERY, Watches};

pub use builder::DirBuilder;
pub use tie::{Tie, TieMark, TieStatus};

/// The engine in a directory: see the [module's documentation](self).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use lockword::cluster::{Dir, Node};
///
/// # let path = std::env::temp_dir().join(format!("lockword-doc-dir-{}", std::process::id()));
/// let node = Node::builder(Dir::builder(&path).connect().await?).build()?;
/// let guard = node.lock("jobs/nightly")?.acquire().await?;
/// // Every process that uses this directory waits for it meanwhile.
/// guard.release().await?;
/// # std::fs::remove_dir_all(&path)?;
/// # Ok(())
/// # }
/// ```
///
/// Several nodes and several runtimes may share it (by an [`Arc`]). In a forked child every request fails
/// ([`TransportError::Unavailable`]), and dropping it does nothing.
pub struct Dir {
    engine: OfProcess<DirEngine>,
}

struct DirEngine {
    store: Arc<Store>,
    watches: Arc<Watches>,
    /// It has the threads on which requests are made that may wait.
    runtime: ConnectionRuntime,
}

/// How much longer than its timeout a request may take before the file system counts as one that does not
/// respond. A thread may have to be started, and a busy machine may run it late.
const SLACK: Duration = Duration::from_secs(1);

/// One in this many writes of an idle register sweeps the directory.
const SWEEP_ONE_IN: u32 = 1000;

impl Dir {
    /// A builder for the engine in the directory at this absolute path.
    pub fn builder(path: impl Into<PathBuf>) -> DirBuilder {
        DirBuilder::new(path.into())
    }

    /// Opens the directory at this [address](self#the-address): the same as [`DirBuilder::from_url`] and
    /// then [`DirBuilder::connect`].
    ///
    /// Dropping the future is safe at any moment.
    ///
    /// # Errors
    ///
    /// Those of the two methods.
    pub async fn connect(url: &Url) -> Result<Self, ConnectError> {
        DirBuilder::from_url(url)?.connect().await
    }

    async fn open(
        config: builder::DirConfig,
        runtime: ConnectionRuntime,
    ) -> Result<Self, ConnectError> {
        let server = config.path.display().to_string();
        let unreachable =
            |cause: Cause| ConnectError::Unreachable { server: server.clone(), cause };
        let opened = timeout(
            config.timeout + SLACK,
            run_blocking_on(runtime.handle(), move || Store::open(config)),
        );
        let store = match opened.await {
            Ok(Some(Ok(store))) => Arc::new(store),
            Ok(Some(Err(FolderError::Unsuitable(why)))) => {
                return Err(ConnectError::Unsuitable { server, why });
            }
            Ok(Some(Err(FolderError::System(why)))) => {
                return Err(match why {
                    Errno::ACCESS | Errno::PERM | Errno::ROFS => {
                        ConnectError::Denied { server, cause: why.into() }
                    }
                    _ => unreachable(why.into()),
                });
            }
            Ok(None) => return Err(unreachable(NO_THREAD.into())),
            Err(_) => return Err(unreachable(SILENT.into())),
        };
        let watches = Watches::new(Arc::clone(&store), runtime.handle().clone());
        Ok(Self { engine: OfProcess::new(DirEngine { store, watches, runtime }) })
    }

    /// Removes the register of `key`, whatever it holds, and returns whether there was one. It is for an
    /// operator who knows that nobody uses the key.
    ///
    /// The holder of the lock loses it at its next write. The next register of this name gets larger
    /// versions. If the future is dropped, the register may or may not be removed.
    ///
    /// # Errors
    ///
    /// Those of [`Transport::compare_exchange`].
    pub async fn delete(&self, key: &Key) -> Result<bool, TransportError> {
        let key = key.clone();
        self.run(move |store, call| store.delete(&key, call)).await
    }

    /// Deletes registers that have been idle for an hour, and returns how many. Nobody holds such a lock or
    /// waits for it.
    ///
    /// It takes a few microseconds for each file in the directory. If the future is dropped, it goes on.
    ///
    /// # Errors
    ///
    /// Those of [`Transport::load`]. Some registers may be deleted.
    pub async fn sweep(&self) -> Result<usize, TransportError> {
        let engine = self.engine.here()?;
        let store = Arc::clone(&engine.store);
        let swept = run_blocking_on(engine.runtime.handle(), move || store.sweep()).await;
        swept.unwrap_or_else(|| Err(TransportError::unavailable(NO_THREAD)))
    }

    /// Makes a request at once and on this thread, or as [`run`](Self::run) does if it would wait for another
    /// process, or if the file system has been slow.
    async fn run_at_once<A: Send + 'static>(
        &self,
        request: impl Fn(&Store, &Call) -> Result<A, TransportError> + Send + 'static,
    ) -> Result<A, TransportError> {
        let engine = self.engine.here()?;
        let store = &engine.store;
        if !store.is_slow() {
            let call = Call::that_never_waits();
            let response = store.timed(|| request(store, &call));
            if !call.would_have_waited() {
                return response;
            }
        }
        self.run(request).await
    }

    /// Makes a request that may write, on a thread that is there for it.
    async fn run<A: Send + 'static>(
        &self,
        request: impl FnOnce(&Store, &Call) -> Result<A, TransportError> + Send + 'static,
    ) -> Result<A, TransportError> {
        let engine = self.engine.here()?;
        let limit = engine.store.config.timeout;
        let call = CancelOnDrop(Arc::new(Call::new(limit)));
        let (store, own) = (Arc::clone(&engine.store), Arc::clone(&call.0));
        let run = run_blocking_on(engine.runtime.handle(), move || request(&store, &own));
        let why = match timeout(limit + SLACK, run).await {
            Ok(Some(response)) => return response,
            Ok(None) => NO_THREAD,
            Err(_) => SILENT,
        };
        // If it has not begun by now, it never will.
        Err(if call.0.cancel() {
            TransportError::unavailable(why)
        } else {
            TransportError::indeterminate(why)
        })
    }

    /// The same for a request that writes no register.
    async fn run_read<A: Send + 'static>(
        &self,
        request: impl FnOnce(&Store) -> Result<A, TransportError> + Send + 'static,
    ) -> Result<A, TransportError> {
        // The call stays out of the section, so that nothing can be indeterminate.
        self.run(move |store, _| request(store)).await
    }
}

const NO_THREAD: &str = "the runtime on which requests are made has ended";
const SILENT: &str = "the file system does not respond";

/// Tells a request that nobody waits for it any more.
struct CancelOnDrop(Arc<Call>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[async_trait]
impl Transport for Dir {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        let key = key.clone();
        self.run_at_once(move |store, _| store.load(&key)).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        if new.value.len() > LARGEST_VALUE {
            return Err(TransportError::unsupported("a value of more than 64 KiB"));
        }
        let (key, sweeps) = (key.clone(), new.idle && fastrand::u32(..SWEEP_ONE_IN) == 0);
        let request =
            move |store: &Store, call: &Call| store.compare_exchange(&key, expected, &new, call);
        let response = self.run_at_once(request).await;
        if sweeps {
            let DirEngine { store, runtime, .. } = self.engine.here()?;
            let store = Arc::clone(store);
            // Nobody waits for it. What it cannot do the next one does.
            runtime.handle().spawn_blocking(move || drop(store.sweep()));
        }
        response
    }

    async fn watch(&self, key: &Key, _node: NodeId) -> Result<Watch, TransportError> {
        let watches = Arc::clone(&self.engine.here()?.watches);
        let key = key.clone();
        self.run_read(move |_| watches.watch(&key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Key>, TransportError> {
        let prefix = prefix.to_owned();
        self.run_read(move |store| store.list(&prefix)).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            consistency: Consistency::Lossy,
            // What a watch yields was read as by `load`.
            notices: Notices::Answers,
            wake_within: 2 * LOOK_EVERY,
            largest_value: LARGEST_VALUE,
            ..Capabilities::new("dir")
        }
    }
}

impl std::fmt::Debug for Dir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dir").field("path", &self.engine.store.path()).finish_non_exhaustive()
    }
}
