//! The folder: its files, the locks on them, and what is done under a lock.
//!
//! Everything here blocks, so it is called on threads that are there for it.

use super::blocker::blocker;
use super::builder::DirConfig;
use super::call::{Call, cancelled};
use super::content::{self, Content, Found, LARGEST_FILE};
use super::folder::{FileId, Folder, FolderError};
use super::names::FileNames;
use crate::Mutex;
use crate::cluster::{Exchange, Key, TransportError, Version, Versioned, Write};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, RawMode};
use rustix::io::{Errno, retry_on_intr};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long an idle register is kept, at least.
pub(super) const RETENTION: Duration = Duration::from_secs(60 * 60);

/// For every file: no link is followed, none but a regular file can make the call wait, and no command that
/// is started meanwhile inherits it.
const CAREFUL: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

/// A request takes some 10 microseconds, less than it takes to wake a thread for it: it is made by the thread
/// that polls it. If one has taken so long, those of the next second are not.
const SLOW: Duration = Duration::from_millis(1);
const SLOW_FOR: Duration = Duration::from_secs(1);

/// The registers in a folder.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) config: DirConfig,
    folder: Mutex<Arc<Folder>>,
    /// Until when the file system counts as slow.
    slow_until: Mutex<Instant>,
}

impl Store {
    /// Opens the folder, which is made if it is not there.
    pub(super) fn open(config: DirConfig) -> Result<Self, FolderError> {
        match fs::mkdir(&config.path, Mode::from_raw_mode(config.mode as RawMode)) {
            Ok(()) => {
                // The mask of the process may have taken away what the configuration grants.
                let mode = Mode::from_raw_mode(config.mode as RawMode);
                fs::chmod(&config.path, mode).map_err(FolderError::System)?;
            }
            Err(Errno::EXIST) => {}
            // It may be there all the same, where its parent must not be written.
            Err(why) if FileId::at(&config.path).is_err() => return Err(FolderError::System(why)),
            Err(_) => {}
        }
        let folder = Mutex::new(Arc::new(Folder::open(&config)?));
        Ok(Self { config, folder, slow_until: Mutex::new(Instant::now()) })
    }

    /// Whether the file system was slow a moment ago, so that no thread should wait for it that has others
    /// to serve.
    pub(super) fn is_slow(&self) -> bool {
        Instant::now() < *self.slow_until.lock()
    }

    /// Does this, and remembers whether it took long.
    pub(super) fn timed<A>(&self, what: impl FnOnce() -> A) -> A {
        let began = Instant::now();
        let result = what();
        let ended = Instant::now();
        if ended - began > SLOW {
            *self.slow_until.lock() = ended + SLOW_FOR;
        }
        result
    }

    pub(super) fn path(&self) -> &Path {
        &self.config.path
    }

    fn at(&self, name: &str) -> PathBuf {
        self.config.path.join(name)
    }

    fn folder(&self) -> Arc<Folder> {
        Arc::clone(&self.folder.lock())
    }

    /// Opens the folder again, since the one that is open is not at its path any more.
    fn reopen(&self) -> Result<(), TransportError> {
        let folder = Folder::open(&self.config).map_err(|why| match why {
            FolderError::System(Errno::NOENT) => self.gone(),
            FolderError::System(why) => self.failed("opening", self.path(), why),
            FolderError::Unsuitable(why) => {
                TransportError::unsupported(format!("{}: {why}", self.path().display()))
            }
        })?;
        *self.folder.lock() = Arc::new(folder);
        Ok(())
    }

    /// The error that the folder is not there.
    pub(super) fn gone(&self) -> TransportError {
        TransportError::unavailable(format!(
            "the directory {} is gone, and all locks in it: make it again, for its owner alone",
            self.path().display()
        ))
    }

    /// The error of a call of the system after which nothing is written.
    fn failed(&self, what: &str, path: &Path, why: Errno) -> TransportError {
        let text = format!("{what} {} failed: {why}", path.display());
        match why {
            Errno::ACCESS | Errno::PERM | Errno::ROFS => TransportError::denied(text),
            Errno::LOOP => TransportError::corrupt(format!("{} is a link", path.display())),
            Errno::NOSPC | Errno::DQUOT => {
                TransportError::unavailable(format!("{text}: make space there"))
            }
            _ => TransportError::unavailable(text),
        }
    }

    /// The register of `key`.
    pub(super) fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        let path = self.at(&FileNames::of(key).register());
        let Some(found) = self.look(&path)? else {
            return match FileId::at(self.path()) {
                Ok(_) => Ok(None),
                Err(_) => Err(self.gone()),
            };
        };
        Ok(self.register_of(found, &path, key.as_str())?.map(|content| content.versioned))
    }

    /// What is in the file of a register, without its lock. `None`: there is no file.
    ///
    /// The file of the present register is the one to be written over by the next write but one, also while
    /// it is read here. So what is read counts if the file is that of a register afterwards, and if the same
    /// is in it then. As no version comes twice, it was in the file in between, too.
    fn look(&self, path: &Path) -> Result<Option<Found>, TransportError> {
        const TRIES: u32 = 1000;
        for _ in 0..TRIES {
            let file =
                match retry_on_intr(|| fs::open(path, OFlags::RDONLY | CAREFUL, Mode::empty())) {
                    Ok(file) => file,
                    Err(Errno::NOENT) => return Ok(None),
                    Err(why) => return Err(self.failed("opening", path, why)),
                };
            let (bytes, id) = self.read(&file, path)?;
            if FileId::at(path) == Ok(id) && self.read(&file, path)?.0 == bytes {
                return Ok(Some(content::read(&bytes)));
            }
        }
        Err(TransportError::unavailable(format!("{} changes all the time", path.display())))
    }

    /// The register that was found in its file. `None`: it is lost.
    fn register_of(
        &self,
        found: Found,
        path: &Path,
        key: &str,
    ) -> Result<Option<Content>, TransportError> {
        let why = match found {
            Found::Register(content) if content.key == key => return Ok(Some(content)),
            Found::Lost => return Ok(None),
            Found::Register(_) => "it is that of another key with the same hash",
            Found::Foreign(why) => why,
        };
        Err(TransportError::corrupt(format!("{} is no register: {why}", path.display())))
    }

    /// The bytes of the file, and not many more than a register can have; and which file it is.
    fn read(&self, file: &OwnedFd, path: &Path) -> Result<(Vec<u8>, FileId), TransportError> {
        let stat = fs::fstat(file).map_err(|why| self.failed("reading", path, why))?;
        if FileType::from_raw_mode(stat.st_mode as RawMode) != FileType::RegularFile {
            return Err(TransportError::corrupt(format!("{} is no file", path.display())));
        }
        let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX).min(LARGEST_FILE);
        let mut bytes = vec![0; size + 1];
        let mut read = 0;
        while read < bytes.len() {
            match retry_on_intr(|| rustix::io::pread(file, &mut bytes[read..], read as u64)) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(why) => return Err(self.failed("reading", path, why)),
            }
        }
        bytes.truncate(read);
        Ok((bytes, FileId::of(&stat)))
    }

    /// Writes the register of `key` if it has the version `expected`.
    pub(super) fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: &Write,
        call: &Call,
    ) -> Result<Exchange, TransportError> {
        let names = FileNames::of(key);
        let section = self.enter(&names, call)?;
        let found = section.register(&names, key.as_str())?.map(|content| content.versioned);
        let version = found.as_ref().map(|found| found.version);
        if version != expected {
            return Ok(Exchange::Mismatch(found));
        }
        let last = match version {
            Some(version) => Some(version),
            // It may have been deleted, with a larger version than is known from anywhere else.
            None => section.floor()?,
        };
        let version = next_version(last, SystemTime::now())?;
        let content = Content::write(version, new.idle, key.as_str(), &new.value);
        section.write(&names, &content, expected.is_some())?;
        Ok(Exchange::Swapped(version))
    }

    /// Deletes the register of `key`, if there is one.
    pub(super) fn delete(&self, key: &Key, call: &Call) -> Result<bool, TransportError> {
        let names = FileNames::of(key);
        let section = self.enter(&names, call)?;
        let Some(found) = section.register(&names, key.as_str())? else {
            // What was lost is removed, too.
            section.unlink(&names.register())?;
            section.tidy(&names);
            return Ok(false);
        };
        section.delete(&names, found.versioned.version)?;
        Ok(true)
    }

    /// The keys that have a register and begin with `prefix`, in order.
    pub(super) fn list(&self, prefix: &str) -> Result<Vec<Key>, TransportError> {
        let mut keys = vec![];
        self.each_file(|names, is_register| {
            if !is_register {
                return Ok(());
            }
            // Most keys are in the name, and the file need not be read to leave them out.
            let named = names.key();
            if named.as_ref().is_some_and(|key| !key.as_str().starts_with(prefix)) {
                return Ok(());
            }
            match self.look(&self.at(&names.register())) {
                Ok(Some(Found::Register(content))) => {
                    let key = Key::new(&content.key).ok().filter(|key| FileNames::of(key) == names);
                    keys.extend(key.filter(|key| key.as_str().starts_with(prefix)));
                }
                Ok(_) => {}
                // Such as a link. Who asks for it alone is told why.
                Err(TransportError::Corrupt(_)) => keys.extend(named),
                Err(why) => return Err(why),
            }
            Ok(())
        })?;
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    /// Deletes registers that have been idle for the retention, and files that are left of deleted ones.
    /// Returns the number of registers.
    pub(super) fn sweep(&self) -> Result<usize, TransportError> {
        let mut old = BTreeSet::new();
        self.each_file(|names, _| {
            if self.is_old(&names) {
                old.insert(names);
            }
            Ok(())
        })?;
        let mut swept = 0;
        for names in old {
            // Who is inside uses it, and nobody waits for this.
            let call = Call::new(Duration::ZERO);
            let Ok(section) = self.enter(&names, &call) else { continue };
            if !self.is_old(&names) {
                continue;
            }
            let path = self.at(&names.register());
            let opened = section.open(&names.register());
            match opened.and_then(|file| self.read(&file, &path).map_err(|_| Errno::IO)) {
                Err(Errno::NOENT) => section.tidy(&names),
                Err(_) => {}
                Ok((bytes, _)) => {
                    if let Found::Register(Content { versioned, idle: true, .. }) =
                        content::read(&bytes)
                    {
                        section.delete(&names, versioned.version)?;
                        swept += 1;
                    }
                }
            }
        }
        Ok(swept)
    }

    /// Whether the register is older than the retention; if there is none, what is left of it.
    fn is_old(&self, names: &FileNames) -> bool {
        let modified =
            |name: String| std::fs::symlink_metadata(self.at(&name)).ok()?.modified().ok();
        let modified = modified(names.register())
            .or_else(|| modified(names.lock()))
            .or_else(|| modified(names.tie()));
        modified.is_some_and(|modified| modified.elapsed().is_ok_and(|age| age >= RETENTION))
    }

    /// Calls `visit` for each file of a key, with whether it is the register.
    fn each_file(
        &self,
        mut visit: impl FnMut(FileNames, bool) -> Result<(), TransportError>,
    ) -> Result<(), TransportError> {
        let unread = |why: std::io::Error| match why.kind() {
            std::io::ErrorKind::NotFound => self.gone(),
            _ => {
                let why = Errno::from_io_error(&why).unwrap_or(Errno::IO);
                self.failed("reading", self.path(), why)
            }
        };
        for entry in std::fs::read_dir(self.path()).map_err(unread)? {
            let name = entry.map_err(unread)?.file_name();
            if let Some((names, is_register)) = name.to_str().and_then(FileNames::of_file) {
                visit(names, is_register)?;
            }
        }
        Ok(())
    }

    /// Whether there is a file of this name.
    pub(super) fn exists(&self, name: &str) -> bool {
        FileId::at(&self.at(name)).is_ok()
    }

    /// Enters the section of a key: nobody else is in it until the result is dropped.
    fn enter(&self, names: &FileNames, call: &Call) -> Result<Section<'_>, TransportError> {
        let name = names.lock();
        let Some(locked) = self.lock(&name, FlockOperation::NonBlockingLockExclusive, call)? else {
            let path = self.at(&name);
            let blocker = FileId::at(&path).map_or_else(|why| why.to_string(), blocker);
            return Err(TransportError::unavailable(format!(
                "{} has been locked for {:?} by {blocker}",
                path.display(),
                self.config.timeout,
            )));
        };
        let section = Section { store: self, locked };
        if call.go_inside() { Ok(section) } else { Err(cancelled()) }
    }

    /// Locks the file of this name, which is made if it is not there. `None`: it was locked by others until
    /// the time of the call was over.
    pub(super) fn lock(
        &self,
        name: &str,
        how: FlockOperation,
        call: &Call,
    ) -> Result<Option<Locked>, TransportError> {
        let path = self.at(name);
        let flags = OFlags::RDWR | OFlags::CREATE | CAREFUL;
        loop {
            let folder = self.folder();
            let opened =
                retry_on_intr(|| fs::openat(&folder.file, name, flags, self.config.file_mode()));
            let file = match opened {
                Ok(file) => file,
                // Nothing can be made in a folder that was removed.
                Err(Errno::NOENT) => {
                    self.reopen()?;
                    if !call.pause()? {
                        return Err(self.gone());
                    }
                    continue;
                }
                Err(why) => return Err(self.failed("opening", &path, why)),
            };
            self.config.grant(&file);
            while let Err(why) = retry_on_intr(|| fs::flock(&file, how)) {
                if why != Errno::WOULDBLOCK {
                    return Err(self.failed("locking", &path, why));
                }
                if !call.pause()? {
                    return Ok(None);
                }
            }
            let locked = Locked::new(folder, file);
            let stat =
                fs::fstat(locked.file()).map_err(|why| self.failed("locking", &path, why))?;
            if FileType::from_raw_mode(stat.st_mode as RawMode) != FileType::RegularFile {
                return Err(TransportError::corrupt(format!("{} is no file", path.display())));
            }
            // Somebody may have removed the file, or the folder, while this waited: others lock what is
            // there now.
            if FileId::at(&path) == Ok(FileId::of(&stat)) {
                return Ok(Some(locked));
            }
            drop(locked);
            self.reopen()?;
            if !call.pause()? {
                return Ok(None);
            }
        }
    }
}

/// The version of a write after a register of the version `last`, or after the floor.
///
/// It is the time, in microseconds, if that is larger. So versions go on growing where the folder was lost
/// with the floor in it, and the clock is right.
fn next_version(last: Option<Version>, now: SystemTime) -> Result<Version, TransportError> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    // A clock that is centuries off leaves half of the versions.
    let now = u64::try_from(now).unwrap_or(u64::MAX).clamp(1, Version::MAX.get() / 2);
    Version::new(last.map_or(now, |last| now.max(last.get() + 1)))
}

/// A locked file, and the folder in which it is. Dropping it unlocks the file.
#[derive(Debug)]
pub(super) struct Locked {
    folder: Arc<Folder>,
    file: Option<OwnedFd>,
}

impl Locked {
    fn new(folder: Arc<Folder>, file: OwnedFd) -> Self {
        Self { folder, file: Some(file) }
    }

    pub(super) fn file(&self) -> &OwnedFd {
        self.file.as_ref().expect("only `keep` takes it")
    }

    /// The same file, opened once more, for a lock of bytes of it: what is locked by it is not locked by [`file`](Self::file).
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn open_again(&self, name: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDWR | CAREFUL;
        let again = retry_on_intr(|| fs::openat(&self.folder.file, name, flags, Mode::empty()))?;
        let (one, other) = (fs::fstat(self.file())?, fs::fstat(&again)?);
        let is_same = (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino);
        if is_same { Ok(again) } else { Err(Errno::STALE) }
    }

    /// The file, which stays locked for as long as it is open.
    pub(super) fn keep(mut self) -> OwnedFd {
        self.file.take().expect("it is taken once")
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing alone would not unlock it, if a child was forked meanwhile that has not closed it yet.
        if let Some(file) = &self.file {
            let _ = fs::flock(file, FlockOperation::Unlock);
        }
    }
}

/// The section of a key: nobody else writes its register, or that of the floor.
#[derive(Debug)]
struct Section<'a> {
    store: &'a Store,
    locked: Locked,
}

impl Section<'_> {
    fn dir(&self) -> BorrowedFd<'_> {
        self.locked.folder.file.as_fd()
    }

    fn failed(&self, what: &str, name: &str, why: Errno) -> TransportError {
        self.store.failed(what, &self.store.at(name), why)
    }

    fn open(&self, name: &str) -> Result<OwnedFd, Errno> {
        retry_on_intr(|| fs::openat(self.dir(), name, OFlags::RDONLY | CAREFUL, Mode::empty()))
    }

    fn register(&self, names: &FileNames, key: &str) -> Result<Option<Content>, TransportError> {
        let name = names.register();
        let path = self.store.at(&name);
        match self.open(&name) {
            Ok(file) => {
                let (bytes, _) = self.store.read(&file, &path)?;
                self.store.register_of(content::read(&bytes), &path, key)
            }
            Err(Errno::NOENT) => Ok(None),
            Err(why) => Err(self.failed("opening", &name, why)),
        }
    }

    /// No smaller than the version of any register that was deleted, if that was of the key of this section.
    /// The section is not that of the floor: another process may raise it meanwhile.
    fn floor(&self) -> Result<Option<Version>, TransportError> {
        let path = self.store.at(&FileNames::of_floor().register());
        let Some(found) = self.store.look(&path)? else { return Ok(None) };
        let content = self.store.register_of(found, &path, FLOOR)?;
        Ok(content.map(|content| content.versioned.version))
    }

    /// Raises the floor to `version`, if it is lower.
    fn raise_floor(&self, version: Version) -> Result<(), TransportError> {
        let names = FileNames::of_floor();
        let call = Call::new(self.store.config.timeout);
        let section = self.store.enter(&names, &call)?;
        let floor = section.floor()?;
        if floor.is_none_or(|floor| floor < version) {
            let content = Content::write(version, false, FLOOR, b"");
            section.write(&names, &content, floor.is_some())?;
        }
        Ok(())
    }

    /// Deletes the register, whose version is this. The floor comes first: the next register of this name
    /// must have a larger version, whatever happens after this line.
    fn delete(&self, names: &FileNames, version: Version) -> Result<(), TransportError> {
        self.raise_floor(version)?;
        self.unlink(&names.register())?;
        self.tidy(names);
        Ok(())
    }

    /// Removes what is left when there is no register. Who waits for the lock of this section locks the
    /// next one instead. What cannot be removed does no harm.
    fn tidy(&self, names: &FileNames) {
        let _ = self.unlink(&names.next());
        // A lock on it means that processes are tied to it.
        let (tie, now) = (names.tie(), Call::new(Duration::ZERO));
        let how = FlockOperation::NonBlockingLockExclusive;
        if self.store.exists(&tie)
            && let Ok(Some(_locked)) = self.store.lock(&tie, how, &now)
        {
            let _ = self.unlink(&tie);
        }
        let _ = self.unlink(&names.lock());
    }

    fn unlink(&self, name: &str) -> Result<(), TransportError> {
        match fs::unlinkat(self.dir(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::IO) => Err(indeterminate("removing", &self.store.at(name))),
            Err(why) => Err(self.failed("removing", name, why)),
        }
    }

    /// Puts a register in the place of the one that is there, if `replaces` says that there is one.
    ///
    /// The two files change their names, so that the next write finds a file to write over. To make a file
    /// for each write and to free the one before costs ten times as much on some file systems (ext4: 95
    /// microseconds instead of 7), and waits for the disk.
    fn write(
        &self,
        names: &FileNames,
        content: &[u8],
        replaces: bool,
    ) -> Result<(), TransportError> {
        let (new, register) = (names.next(), names.register());
        if let Err(why) = self.write_new(&new, content) {
            let _ = fs::unlinkat(self.dir(), &*new, AtFlags::empty());
            return Err(self.failed("writing", &new, why));
        }
        let renamed = match replaces.then(|| exchange(self.dir(), &new, &register)) {
            Some(Ok(())) => Ok(()),
            Some(Err(Errno::IO)) => Err(Errno::IO),
            // The file system may have no exchange.
            _ => fs::renameat(self.dir(), &*new, self.dir(), &*register),
        };
        match renamed {
            Ok(()) => Ok(()),
            // It may be on its way to the disk.
            Err(Errno::IO) => Err(indeterminate("renaming", &self.store.at(&new))),
            Err(why) => {
                let _ = fs::unlinkat(self.dir(), &*new, AtFlags::empty());
                Err(self.failed("renaming", &new, why))
            }
        }
    }

    fn write_new(&self, new: &str, content: &[u8]) -> Result<(), Errno> {
        let (file, size) = self.open_new(new)?;
        let mut written = 0;
        while written < content.len() {
            let (rest, at) = (&content[written..], written as u64);
            written += retry_on_intr(|| rustix::io::pwrite(&file, rest, at))?;
        }
        if size > content.len() as u64 {
            fs::ftruncate(&file, content.len() as u64)?;
        }
        Ok(())
    }

    /// The file for the next register, and its size: the register before this one, or what a process has
    /// left that was killed here, or a new one.
    fn open_new(&self, new: &str) -> Result<(OwnedFd, u64), Errno> {
        let found =
            retry_on_intr(|| fs::openat(self.dir(), new, OFlags::WRONLY | CAREFUL, Mode::empty()));
        match found {
            Ok(file) => {
                let stat = fs::fstat(&file)?;
                let is_file =
                    FileType::from_raw_mode(stat.st_mode as RawMode) == FileType::RegularFile;
                // With another name it is not ours alone: somebody may have put it here.
                if is_file && stat.st_nlink == 1 {
                    return Ok((file, u64::try_from(stat.st_size).unwrap_or(u64::MAX)));
                }
                fs::unlinkat(self.dir(), new, AtFlags::empty())?;
            }
            Err(Errno::NOENT) => {}
            // Such as a link.
            Err(_) => fs::unlinkat(self.dir(), new, AtFlags::empty())?,
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | CAREFUL;
        let mode = self.store.config.file_mode();
        let file = retry_on_intr(|| fs::openat(self.dir(), new, flags, mode))?;
        self.store.config.grant(&file);
        Ok((file, 0))
    }
}

/// Exchanges the names of two files.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn exchange(folder: BorrowedFd<'_>, one: &str, other: &str) -> Result<(), Errno> {
    fs::renameat_with(folder, one, folder, other, fs::RenameFlags::EXCHANGE)
}

/// The system has none.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn exchange(_: BorrowedFd<'_>, _: &str, _: &str) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// What stands for a key in the floor's file. No key is called so.
const FLOOR: &str = "(floor)";

fn indeterminate(what: &str, path: &Path) -> TransportError {
    TransportError::indeterminate(format!("{what} {} failed: {}", path.display(), Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::super::builder::DirBuilder;
    use super::super::content::Content;
    use super::{Call, FLOOR, FileNames, FolderError, Store, next_version};
    use crate::cluster::{Exchange, Key, TransportError, Version, Wake, Write};
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::{Duration, Instant, UNIX_EPOCH};

    /// A store in a folder of its own, which is removed in the end.
    struct Place(Arc<Store>);

    impl Place {
        fn new(timeout: Duration) -> Self {
            let name = format!("lockword-store-{:016x}", fastrand::u64(..));
            let builder = DirBuilder::new(std::env::temp_dir().join(name)).timeout(timeout);
            Self(Arc::new(Store::open(builder.config().unwrap()).unwrap()))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.0.path());
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    fn call() -> Call {
        Call::new(LONG)
    }

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn write(value: &str) -> Write {
        Write { value: value.as_bytes().into(), wake: Wake::Nobody, idle: false }
    }

    /// A write that has to succeed.
    fn put(store: &Store, key: &Key, expected: Option<Version>, value: &str) -> Version {
        match store.compare_exchange(key, expected, &write(value), &call()).unwrap() {
            Exchange::Swapped(version) => version,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until it is so.
    fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < LONG, "in vain: {what}");
            thread::yield_now();
        }
    }

    #[test]
    fn a_version_is_larger_than_the_last_one_and_than_the_time() {
        let version = |number| Version::new(number).unwrap();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let next = |last, now| next_version(last, now).unwrap().get();
        assert_eq!(next(None, at(7)), 7_000_000);
        assert_eq!(next(Some(version(5)), at(7)), 7_000_000);
        // The clock stands still, or was set back, even to before 1970.
        assert_eq!(next(Some(version(7_000_000)), at(7)), 7_000_001);
        assert_eq!(next(Some(version(8_000_000)), at(7)), 8_000_001);
        assert_eq!(next(None, UNIX_EPOCH - Duration::from_secs(1)), 1);
        // A clock that is far ahead leaves versions, and there is one after the last but one.
        assert_eq!(next(None, at(1 << 40)), Version::MAX.get() / 2);
        assert_eq!(next(Some(version((1 << 52) - 2)), at(7)), Version::MAX.get());
        assert!(next_version(Some(Version::MAX), at(7)).is_err());
    }

    /// Only the floor knows of a version that is larger than the time: the clock was ahead. It knows of it
    /// before the register is gone, whatever happens in between.
    #[test]
    fn the_floor_is_raised_before_a_register_goes_and_never_lowered() {
        let place = Place::new(LONG);
        let store = &*place.0;
        let floor = || store.enter(&FileNames::of_floor(), &call()).unwrap().floor().unwrap();
        let delete = |key: &Key, version: u64| {
            let content = Content::write(Version::new(version).unwrap(), false, key.as_str(), b"x");
            fs::write(store.at(&FileNames::of(key).register()), content).unwrap();
            assert!(store.delete(key, &call()).unwrap());
        };
        let make = |key: &Key| put(store, key, None, "x").get();
        let (one, two) = (key("one"), key("two"));
        let ahead = Version::MAX.get() / 8 * 7;
        assert_eq!(floor(), None);
        delete(&one, ahead);
        assert_eq!(floor().map(Version::get), Some(ahead));
        delete(&two, ahead - 5);
        assert_eq!(floor().map(Version::get), Some(ahead));
        assert_eq!(make(&one), ahead + 1);
        assert_eq!(make(&two), ahead + 1);
        delete(&two, ahead + 1);
        assert_eq!(make(&two), ahead + 2);
        // If the floor cannot be raised, nothing is deleted.
        fs::remove_file(store.at(".floor.lock")).unwrap();
        fs::create_dir(store.at(".floor.lock")).unwrap();
        store.delete(&two, &call()).unwrap_err();
        assert!(store.load(&two).unwrap().is_some());
    }

    /// Files of registers with growing versions, made before, since to hash them takes longer than to write
    /// them. Of two files that take turns each gets short and long ones in turns.
    fn contents(key: &str) -> Vec<Vec<u8>> {
        let content = |number| {
            let value = if number % 4 < 2 { &b""[..] } else { &[b'x'; 1000] };
            Content::write(Version::new(number).unwrap(), false, key, value)
        };
        (1..10_000).map(content).collect()
    }

    /// A reader without the lock opens the file of a register, which is written over while it reads. What it
    /// returns was a register during the call: no version comes before a later one, and none is missing.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_reader_sees_neither_a_part_of_a_write_nor_one_that_is_yet_to_come() {
        let place = Place::new(LONG);
        let (store, key) = (&*place.0, key("k"));
        let names = FileNames::of(&key);
        let (register, new) = (names.register(), names.next());
        let section = store.enter(&names, &call()).unwrap();
        let contents = contents(key.as_str());
        section.write(&names, &contents[0], false).unwrap();
        section.write_new(&new, &contents[1]).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            // More than there are processors, so that some are interrupted in the middle.
            let readers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut seen = 0;
                        while !stop.load(Ordering::Relaxed) {
                            let found = store.load(&key).unwrap().expect("it is always there");
                            let version = found.version.get();
                            assert!(version >= seen, "{version} after {seen}");
                            seen = version;
                        }
                    })
                })
                .collect();
            for content in &contents[2..] {
                super::exchange(section.dir(), &new, &register).unwrap();
                section.write_new(&new, content).unwrap();
                // At times the writer is slow between its two steps: the next register is there, and does not
                // count yet. At others it writes the file twice while the reader has it open.
                let (written, slow) = (Instant::now(), fastrand::bool());
                while slow && written.elapsed() < Duration::from_micros(20) {
                    std::hint::spin_loop();
                }
            }
            stop.store(true, Ordering::Relaxed);
            readers.into_iter().for_each(|reader| reader.join().expect("a reader fails"));
        });
    }

    /// Who makes a register reads the floor while others raise it for other keys. (These have values, which a
    /// floor has not, so that a part of a write would be seen.)
    #[test]
    fn the_floor_is_read_whole_while_it_is_raised() {
        let place = Place::new(LONG);
        let store = &*place.0;
        let of_floor = FileNames::of_floor();
        let contents = contents(FLOOR);
        let raise = |content: &[u8]| {
            let section = store.enter(&of_floor, &call()).unwrap();
            let is_there = store.exists(&of_floor.register());
            section.write(&of_floor, content, is_there).unwrap();
        };
        raise(&contents[0]);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let section = store.enter(&FileNames::of(&key("k")), &call()).unwrap();
                let mut seen = 0;
                while !stop.load(Ordering::Relaxed) {
                    let floor = section.floor().unwrap().expect("it is always there").get();
                    assert!(floor >= seen, "{floor} after {seen}");
                    seen = floor;
                }
            });
            contents.iter().for_each(|content| raise(content));
            stop.store(true, Ordering::Relaxed);
            reader.join().expect("the reader fails");
        });
    }

    /// Somebody removes the lock for which a call waits, and another process has locked the one that is there
    /// now: the first lock counts no more.
    #[test]
    fn a_lock_that_was_removed_meanwhile_is_none() {
        let place = Place::new(Duration::from_millis(300));
        let (store, key) = (&*place.0, key("k"));
        let first = put(store, &key, None, "first");
        let path = store.at(&FileNames::of(&key).lock());
        let lock = || {
            let file = File::options().create(true).append(true).open(&path).unwrap();
            file.lock().unwrap();
            file
        };
        let removed = lock();
        let waits = Call::new(LONG);
        thread::scope(|scope| {
            let waiting =
                scope.spawn(|| store.compare_exchange(&key, Some(first), &write("late"), &waits));
            // It has opened the file: it has it open, or has found it locked, when this succeeds.
            until("it waits", || waits.tries() > 0);
            fs::remove_file(&path).unwrap();
            let now = lock();
            drop(removed);
            let tries = waits.tries();
            until("it waits for the other one", || waits.tries() > tries + 10);
            assert!(!waiting.is_finished(), "it does not wait");
            assert_eq!(store.load(&key).unwrap().unwrap().version, first);
            drop(now);
            assert!(matches!(waiting.join().unwrap(), Ok(Exchange::Swapped(_))));
        });
    }

    /// Nobody but the owner can put a file there, and no link that is there leads anywhere.
    #[test]
    fn a_folder_is_for_its_owner_and_no_link_is_followed() {
        let place = Place::new(LONG);
        let (store, key) = (&*place.0, key("k"));
        let first = put(store, &key, None, "first");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(store.path()), 0o700);
        let names = FileNames::of(&key);
        for name in [names.register(), names.lock()] {
            assert_eq!(mode(&store.at(&name)), 0o600, "{name}");
        }
        // Of another file with a register of this key in it.
        let victim = store.at("victim");
        fs::rename(store.at(&names.register()), &victim).unwrap();
        let before = fs::read(&victim).unwrap();
        for name in [names.register(), names.lock()] {
            let path = store.at(&name);
            let _ = fs::remove_file(&path);
            symlink(&victim, &path).unwrap();
            let written = store.compare_exchange(&key, Some(first), &write("theirs"), &call());
            assert!(matches!(written, Err(TransportError::Corrupt(_))), "{name}: {written:?}");
            fs::remove_file(path).unwrap();
        }
        symlink(&victim, store.at(&names.register())).unwrap();
        let found = store.load(&key);
        assert!(matches!(found, Err(TransportError::Corrupt(_))), "{found:?}");
        fs::remove_file(store.at(&names.register())).unwrap();
        // What is left of a process that was killed is written over, but not through a link.
        let new = store.at(&names.next());
        for link in [symlink::<&Path, &Path>, fs::hard_link] {
            link(&victim, &new).unwrap();
            put(store, &key, None, "ours");
            fs::remove_file(store.at(&names.register())).unwrap();
        }
        assert_eq!(fs::read(&victim).unwrap(), before);
        // Nor is the folder itself one.
        let link = store.path().with_extension("link");
        symlink(store.path(), &link).unwrap();
        let opened = Store::open(DirBuilder::new(link.clone()).config().unwrap());
        fs::remove_file(link).unwrap();
        assert!(matches!(opened, Err(FolderError::Unsuitable(_))), "{opened:?}");
    }

    #[test]
    fn two_calls_are_never_in_the_section_of_a_key() {
        let place = Place::new(LONG);
        let (store, names) = (&*place.0, FileNames::of(&key("k")));
        let section = store.enter(&names, &call()).unwrap();
        let busy = store.enter(&names, &Call::new(Duration::ZERO)).unwrap_err().to_string();
        let process = format!("process {} (", std::process::id());
        assert!(
            busy.contains("k.lock") && (busy.contains(&process) || cfg!(not(target_os = "linux"))),
            "{busy}"
        );
        store.enter(&FileNames::of(&key("l")), &Call::new(Duration::ZERO)).unwrap();
        drop(section);
        store.enter(&names, &Call::new(Duration::ZERO)).unwrap();
    }

    #[test]
    fn a_call_whose_caller_has_gone_does_nothing() {
        let place = Place::new(LONG);
        let (store, key) = (&*place.0, key("k"));
        let first = put(store, &key, None, "first");
        // Before it has the lock; and when it has it.
        let gone = call();
        assert!(gone.cancel());
        let late = store.compare_exchange(&key, Some(first), &write("late"), &gone);
        assert!(matches!(late, Err(TransportError::Unavailable(_))), "{late:?}");
        assert_eq!(store.load(&key).unwrap().unwrap().version, first);
        let inside = call();
        let written = store.compare_exchange(&key, Some(first), &write("second"), &inside);
        assert!(matches!(written, Ok(Exchange::Swapped(_))), "{written:?}");
        assert!(!inside.cancel(), "it was written");
        // While it waits it stops at once.
        let lock = File::open(store.at(&FileNames::of(&key).lock())).unwrap();
        lock.lock().unwrap();
        let gone = call();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| store.delete(&key, &gone));
            until("it waits", || gone.tries() > 0);
            assert!(gone.cancel());
            waiting.join().unwrap().unwrap_err();
        });
    }
}
