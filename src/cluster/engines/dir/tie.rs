//! Tying a held lock to the processes that work under it.

use super::Dir;
use super::call::Call;
use super::names::FileNames;
use crate::cluster::{FencingToken, Key, TransportError};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::FlockOperation;
use rustix::io::{Errno, FdFlags};
use std::io;
use std::os::unix::process::CommandExt;
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
/// Who waits for the lock looks by [`Dir::tied`]: [`TieStatus::Ended`] with the token of the present holder
/// says that all its processes have died, and the lock can be [broken](crate::cluster::Node::break_lock)
/// without waiting for the end of the lease.
///
/// The tie counts among those that use it. A lock that somebody acquires without a tie is a lease, as with
/// any engine.
///
/// Dropping it closes the descriptor of this process: the file stays locked while another process has it
/// open. [`release`](Self::release) unlocks it for all of them.
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
/// let tie = engine.try_tie(guard.key(), guard.token()).await?.expect("nobody else has tied it");
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
}

/// What has become of the processes that a lock was tied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TieStatus {
    /// The lock is not tied, or the tie was released.
    Untied,
    /// One of them lives, and has the file open.
    Alive,
    /// All of them have died, or have closed the file, and none has released the tie.
    Ended {
        /// The token with which the lock was tied.
        token: FencingToken,
    },
}

/// How long a try waits for those who look at the tie, which takes some microseconds.
const LOOKING: Duration = Duration::from_millis(50);

impl Dir {
    /// Ties the lock of `key`, held with `token`, to this process. `None`: it is tied to another process
    /// that is alive.
    ///
    /// It does not look at the register: call it while the lock is held, and check afterwards that it is
    /// still held. It takes at most a twentieth of a second in which others look at the tie, and up to the
    /// [timeout](super::DirBuilder::timeout) and a second if the file system does not respond. If the future
    /// is dropped, the lock is tied to nothing, and others may see that as [`TieStatus::Ended`]: release it
    /// then.
    ///
    /// # Errors
    ///
    /// Those of [`Transport::load`](crate::cluster::Transport::load).
    pub async fn try_tie(
        &self,
        key: &Key,
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
            // Always of the same length: there is never a part of another one.
            let text = format!("{token:020}\n", token = token.get());
            let written = rustix::io::pwrite(file, text.as_bytes(), 0).map_err(failed)?;
            if written != text.len() {
                return Err(failed(Errno::NOSPC));
            }
            Ok(Some(Tie { file: locked.keep() }))
        })
        .await
    }

    /// Looks whether the lock of `key` is tied to a process that is alive.
    ///
    /// It takes some microseconds, and up to the [timeout](super::DirBuilder::timeout) and a second if
    /// the file system does not respond. Dropping the future is safe at any moment.
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
            let mut text = [0; 20];
            let read = rustix::io::pread(locked.file(), &mut text, 0).unwrap_or(0);
            let token = str::from_utf8(&text[..read]).ok().and_then(|text| text.parse().ok());
            Ok(token.map_or(TieStatus::Untied, |token| TieStatus::Ended {
                token: FencingToken::from_u64(token),
            }))
        })
        .await
    }
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
    use crate::cluster::{Dir, FencingToken, Key};
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
        let tie = dir.try_tie(&key, token).await.unwrap().expect("nobody else has it");
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
        drop(tie);
        assert_eq!(dir.tied(&key).await.unwrap(), TieStatus::Alive);
        dir.delete(&key).await.unwrap();
        assert_eq!(dir.tied(&key).await.unwrap(), TieStatus::Alive);
        assert!(dir.try_tie(&key, FencingToken::from_u64(8)).await.unwrap().is_none());
        drop(child);
        let began = Instant::now();
        while dir.tied(&key).await.unwrap() == TieStatus::Alive {
            assert!(began.elapsed() < Duration::from_secs(20), "it is tied to a stranger");
        }
        assert_eq!(dir.tied(&key).await.unwrap(), TieStatus::Ended { token });
        std::fs::remove_dir_all(path).unwrap();
    }
}
