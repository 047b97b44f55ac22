//! Tying a held lock to the processes that work under it.

use super::Dir;
use super::call::Call;
use super::names::FileNames;
use super::store::Locked;
use crate::cluster::{FencingToken, Key, NodeId, TransportError};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::FlockOperation;
use rustix::io::{Errno, FdFlags};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A tie of a held lock to processes: to this one, and to each that inherits it.
///
/// A lease ends when its holder has not renewed it for a while, and so it can end too late (the holder is
/// dead), and too early (the holder is alive, and only its renewals have stopped). On one machine the kernel
/// knows better. A tie is a locked file of the key, whose descriptor the processes of the holder inherit: the
/// kernel unlocks it as soon as the last of them has died or closed it, however that happens, and never
/// before.
///
/// A holder ties the lock by [`Dir::try_tie`] when it has acquired it, and begins the work when that has
/// succeeded. So at most one of those that tie is at work at a time, also when a lease has ended too early.
/// Who waits for the lock looks by [`Dir::tied`]: [`TieStatus::Ended`] with node and token of the present
/// holder says that all its processes have died, that which has tied the lock included, and the lock can be [broken](crate::cluster::Node::break_lock_of)
/// without waiting for the end of the lease.
///
/// The tie counts among those that use it. A lock that somebody acquires without a tie is a lease, as with
/// any engine.
///
/// Dropping it closes the descriptor of this process: the file stays locked while another process has it
/// open. [`release`](Self::release) unlocks it for all of them. [`into_mark`](Self::into_mark) closes it, too,
/// and others still see that this process lives.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use lockword::cluster::engines::dir::TieStatus;
/// use lockword::cluster::{Dir, Node};
/// use std::process::Command;
/// use std::sync::Arc;
///
/// # let path = std::env::temp_dir().join(format!("lockword-doc-tie-{}", std::process::id()));
/// let engine = Arc::new(Dir::builder(&path).connect().await?);
/// let node = Node::builder(engine.clone()).build()?;
/// let guard = node.lock("jobs/nightly")?.acquire().await?;
///
/// // `None`: a process of an earlier holder is still at work.
/// let tie = engine.try_tie(guard.key(), node.id(), guard.token()).await?.expect("nobody else has tied it");
/// let mut command = Command::new("true");
/// tie.inherited_by(&mut command)?;
/// let mut child = command.spawn()?;
/// assert_eq!(engine.tied(guard.key()).await?, TieStatus::Alive);
///
/// child.wait()?;
/// tie.release();
/// guard.release().await?;
/// # std::fs::remove_dir_all(&path)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tie {
    file: OwnedFd,
    mark: TieMark,
}

/// Says that the process which has tied a lock lives, for as long as this is not dropped. It is no tie: it
/// keeps nobody from tying the lock.
///
/// A process that only watches over the others can be stopped, and should not keep the lock then. But while it
/// lives, it is its affair to release the lock, or to lose it by the end of the lease. On systems other than
/// Linux nobody sees the mark.
#[derive(Debug)]
pub struct TieMark {
    /// It has a byte locked that only this node locks, and no other process inherits it.
    #[allow(dead_code, reason = "it is held")]
    file: Option<OwnedFd>,
}

/// What has become of the processes that a lock was tied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TieStatus {
    /// The lock is not tied, or the tie was released.
    Untied,
    /// One of them lives, and has the file open.
    Alive,
    /// None of them has the file open, but the process that has tied the lock lives, and has a [`TieMark`].
    Marked,
    /// All of them have died, or have closed the file, and none has released the tie.
    Ended {
        /// The node that had tied the lock.
        node: NodeId,
        /// The token with which it had.
        token: FencingToken,
    },
}

/// How long a try waits for those who look at the tie, which takes some microseconds.
const LOOKING: Duration = Duration::from_millis(50);

impl Dir {
    /// Ties the lock of `key`, held by `node` with `token`, to this process. `None`: it is tied to another process
    /// that is alive.
    ///
    /// It does not look at the register: call it while the lock is held, and check afterwards that it is
    /// still held. It waits for up to 50 ms for others that are just looking at the tie, and up to the
    /// [timeout](super::DirBuilder::timeout) and a second if the file system does not respond. If the future
    /// is dropped, the lock is tied to nothing, and others may see that as [`TieStatus::Ended`]: release the
    /// lock then.
    ///
    /// # Errors
    ///
    /// Those of [`Transport::load`](crate::cluster::Transport::load).
    pub async fn try_tie(
        &self,
        key: &Key,
        node: NodeId,
        token: FencingToken,
    ) -> Result<Option<Tie>, TransportError> {
        let key = key.clone();
        self.run_read(move |store| {
            let how = FlockOperation::NonBlockingLockExclusive;
            let name = FileNames::of(&key).tie();
            let Some(locked) = store.lock(&name, how, &Call::new(LOOKING))? else {
                return Ok(None);
            };
            let file = locked.file();
            let failed = |why: Errno| TransportError::unavailable(format!("a tie of {key}: {why}"));
            let mark = TieMark::new(&locked, &name, node).map_err(failed)?;
            // Always of the same length: there is never a part of another one.
            let text = format!("{node} {token:020}\n", token = token.get());
            let written = rustix::io::pwrite(file, text.as_bytes(), 0).map_err(failed)?;
            if written != text.len() {
                return Err(failed(Errno::NOSPC));
            }
            Ok(Some(Tie { file: locked.keep(), mark }))
        })
        .await
    }

    /// The file of the tie of `key`, which the processes that it is tied to have open: for tools such as
    /// `fuser` and `lsof`. There may be no such file.
    ///
    /// # Errors
    ///
    /// [`TransportError::Unavailable`] in a forked child.
    pub fn tie_path(&self, key: &Key) -> Result<PathBuf, TransportError> {
        Ok(self.engine.here()?.store.path().join(FileNames::of(key).tie()))
    }

    /// Looks whether the lock of `key` is tied to a process that is alive.
    ///
    /// It takes some microseconds, and up to the [timeout](super::DirBuilder::timeout) and a second if
    /// the file system does not respond. For those microseconds nobody else can tie the lock: a process that is
    /// stopped just then keeps others from it until it goes on. Dropping the future is safe at any moment.
    ///
    /// # Errors
    ///
    /// Those of [`Transport::load`](crate::cluster::Transport::load).
    pub async fn tied(&self, key: &Key) -> Result<TieStatus, TransportError> {
        let key = key.clone();
        self.run_read(move |store| {
            let (name, how) = (FileNames::of(&key).tie(), FlockOperation::NonBlockingLockShared);
            if !store.exists(&name) {
                return Ok(TieStatus::Untied);
            }
            let Some(locked) = store.lock(&name, how, &Call::new(Duration::ZERO))? else {
                return Ok(TieStatus::Alive);
            };
            let mut text = [0; 64];
            let read = rustix::io::pread(locked.file(), &mut text, 0).unwrap_or(0);
            Ok(match ended(&text[..read]) {
                None => TieStatus::Untied,
                Some((node, _)) if TieMark::is_there(locked.file(), node) => TieStatus::Marked,
                Some((node, token)) => TieStatus::Ended { node, token },
            })
        })
        .await
    }
}

/// What the file of a tie says that nobody has locked. `None`: it was released.
fn ended(text: &[u8]) -> Option<(NodeId, FencingToken)> {
    let (node, token) = str::from_utf8(text).ok()?.trim_end().split_once(' ')?;
    let (node, token) = (u64::from_str_radix(node, 16).ok()?, token.parse().ok()?);
    Some((NodeId::new(node), FencingToken::from_u64(token)))
}

impl TieMark {
    /// Marks that this process lives, in the file of the tie.
    fn new(locked: &Locked, name: &str, node: NodeId) -> Result<Self, Errno> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            let file = locked.open_again(name)?;
            match byte_lock(&file, libc::F_OFD_SETLK, node) {
                // Or this node has marked it already.
                Ok(_) | Err(Errno::AGAIN | Errno::ACCESS) => Ok(Self { file: Some(file) }),
                Err(why) => Err(why),
            }
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        {
            let _ = (locked, name, node);
            Ok(Self { file: None })
        }
    }

    /// Whether this node has marked it.
    fn is_there(file: &OwnedFd, node: NodeId) -> bool {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        return byte_lock(file, libc::F_OFD_GETLK, node)
            .is_ok_and(|found| found != libc::F_UNLCK as libc::c_short);
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        {
            let _ = (file, node);
            false
        }
    }
}

/// Locks the byte of a node in a file, or asks who has; returns the kind of the lock that was found.
///
/// Such a lock belongs to the open file, as that of `flock` does, and the two do not see each other.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn byte_lock(file: &OwnedFd, command: libc::c_int, node: NodeId) -> Result<libc::c_short, Errno> {
    #[cfg(not(all(target_env = "gnu", target_pointer_width = "32")))]
    use libc::flock as Lock;
    // What the kernel takes for these commands has 64 bits everywhere.
    #[cfg(all(target_env = "gnu", target_pointer_width = "32"))]
    use libc::flock64 as Lock;
    use rustix::fd::AsRawFd as _;
    // SAFETY: the structure is one of numbers.
    let mut lock: Lock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as _;
    lock.l_whence = libc::SEEK_SET as _;
    // Far beyond the end, where nothing is ever written.
    lock.l_start = (node.get() & (u64::MAX >> 2)) as _;
    lock.l_len = 1;
    // SAFETY: the descriptor is open, and the structure is ours and valid.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
    let failed = || Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO);
    if done == 0 { Ok(lock.l_type) } else { Err(failed()) }
}

impl Tie {
    /// Has the command inherit the tie: the lock is tied to it, too, and to all processes that it starts and
    /// that do not close the descriptor.
    ///
    /// Commands that are started otherwise do not inherit it, whatever this process does at the same time.
    /// The [`Command`] itself has a copy of the descriptor until it is dropped.
    ///
    /// # Errors
    ///
    /// The error of the system, if the process has no descriptor left.
    pub fn inherited_by(&self, command: &mut Command) -> io::Result<()> {
        let copy = self.file.try_clone()?;
        let keep = move || Ok(rustix::io::fcntl_setfd(&copy, FdFlags::empty())?);
        // SAFETY: one system call and no allocation, which is permitted between fork and exec.
        unsafe { command.pre_exec(keep) };
        Ok(())
    }

    /// Closes the descriptor of this process, and says for as long as the result is not dropped that this
    /// process lives ([`TieStatus::Marked`]).
    #[must_use]
    pub fn into_mark(self) -> TieMark {
        self.mark
    }

    /// Ends the tie for all processes, also for those that still have the file open.
    pub fn release(self) {
        // Nothing is left to be found as that of processes that have died.
        let _ = rustix::fs::ftruncate(&self.file, 0);
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

impl AsFd for Tie {
    /// The descriptor, which is closed when a program is executed
    /// ([`inherited_by`](Tie::inherited_by) changes that for one command).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::TieStatus;
    use crate::cluster::{Dir, FencingToken, Key, NodeId};
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    struct KilledOnDrop(Child);

    impl Drop for KilledOnDrop {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// It lives for as long as a command that inherits it, also when its register is deleted meanwhile; one
    /// that is started otherwise does not count.
    #[tokio::test]
    async fn a_tie_lives_as_long_as_the_command_that_inherits_it() {
        let path = std::env::temp_dir().join(format!("lockword-tie-{:016x}", fastrand::u64(..)));
        let dir = Dir::builder(&path).connect().await.unwrap();
        let (key, token) = (Key::new("k").unwrap(), FencingToken::from_u64(7));
        let node = NodeId::new(5);
        let tie = dir.try_tie(&key, node, token).await.unwrap().expect("nobody else has it");
        let sleep = || {
            let mut command = Command::new("sleep");
            command.arg("1000").stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let _stranger = KilledOnDrop(sleep().spawn().unwrap());
        let child = {
            let mut command = sleep();
            tie.inherited_by(&mut command).unwrap();
            KilledOnDrop(command.spawn().unwrap())
        };
        let mark = tie.into_mark();
        assert_eq!(dir.tied(&key).await.unwrap(), TieStatus::Alive);
        dir.delete(&key).await.unwrap();
        assert_eq!(dir.tied(&key).await.unwrap(), TieStatus::Alive);
        assert!(dir.try_tie(&key, node, FencingToken::from_u64(8)).await.unwrap().is_none());
        drop(child);
        let began = Instant::now();
        while dir.tied(&key).await.unwrap() == TieStatus::Alive {
            assert!(began.elapsed() < Duration::from_secs(20), "it is tied to a stranger");
        }
        // Other commands have not inherited the mark either.
        assert_eq!(dir.tied(&key).await.unwrap(), TieStatus::Marked);
        drop(mark);
        assert_eq!(dir.tied(&key).await.unwrap(), TieStatus::Ended { node, token });

        // Another node ties it while the mark of an earlier one is there.
        let tie = dir.try_tie(&key, node, token).await.unwrap().expect("it is free");
        let mark = tie.into_mark();
        let (next, later) = (NodeId::new(6), FencingToken::from_u64(9));
        drop(dir.try_tie(&key, next, later).await.unwrap().expect("a mark is no tie"));
        let status = dir.tied(&key).await.unwrap();
        assert_eq!(status, TieStatus::Ended { node: next, token: later });
        drop(mark);
        std::fs::remove_dir_all(path).unwrap();
    }
}
