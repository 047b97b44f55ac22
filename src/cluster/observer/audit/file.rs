//! A file of an audit trail, and its rotation.

use super::{AuditMark, AuditSink};
use crate::cluster::process::Process;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

/// No line is longer: a key, two labels and two reasons, with their escapes.
const LONGEST_LINE: u64 = 64 << 10;

/// An audit trail in a file, one line of JSON for each event.
///
/// One process writes to it at a time. A new one is readable by its owner only. If the file is moved away (by
/// `logrotate`), the next line begins a new one, and continues its chain.
#[derive(Debug)]
pub struct AuditFile {
    path: PathBuf,
    file: Locked,
    /// Up to the last whole line.
    length: u64,
    rotate_at: Option<u64>,
    keep: usize,
    sync: bool,
    torn: usize,
    mark: AuditMark,
}

impl AuditFile {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    ///
    /// Those of the system. [`io::ErrorKind::ResourceBusy`] if another process writes to it: give each process a file of
    /// its own. [`io::ErrorKind::InvalidInput`] if it is no regular file, and
    /// [`io::ErrorKind::InvalidData`] if its last line is none of an audit trail.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let mut file = open(&path)?;
        let (mark, length, torn) = end_of(&mut file)?;
        let file = Self { path, file, length, rotate_at: None, keep: 0, sync: false, torn, mark };
        Ok(file)
    }

    /// Begins a new file when this one has so many bytes, and keeps `keep` older ones, which get the names
    /// `FILE.1`, `FILE.2` and so on. The oldest is removed then. By default a file grows for ever.
    #[must_use]
    pub fn rotate_at(mut self, bytes: u64, keep: usize) -> Self {
        (self.rotate_at, self.keep) = (Some(bytes), keep);
        self
    }

    /// Has each line written to the disk at once (fdatasync(2)), so that a failure of the machine loses none. A process
    /// that is killed loses none that was written anyway.
    #[must_use]
    pub fn sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }

    /// A new file in place of the full one.
    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: usize| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.keep == 0 {
            std::fs::remove_file(&self.path)?;
        }
        for number in (1..=self.keep).rev() {
            let from = if number == 1 { self.path.clone() } else { numbered(number - 1) };
            match std::fs::rename(from, numbered(number)) {
                Err(why) if why.kind() != io::ErrorKind::NotFound || number == 1 => {
                    return Err(why);
                }
                _ => {}
            }
        }
        self.reopen()
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        self.length = self.file.metadata()?.len();
        Ok(())
    }

    /// Whether the file was moved away.
    #[cfg(unix)]
    fn is_moved(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let of = |it: std::fs::Metadata| (it.dev(), it.ino());
        match std::fs::symlink_metadata(&self.path) {
            Ok(named) => Ok(of(named) != of(self.file.metadata()?)),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(why) => Err(why),
        }
    }

    #[cfg(not(unix))]
    fn is_moved(&self) -> io::Result<bool> {
        Ok(false)
    }
}

impl AuditSink for AuditFile {
    fn resume(&mut self) -> (AuditMark, usize) {
        (self.mark, self.torn)
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.torn > 0 {
            // The line that a killed process has begun stays, as one that is no line. `opened` says so.
            self.file.write_all(b"\n")?;
            self.length += self.torn as u64 + 1;
            self.torn = 0;
        } else if self.is_moved()? {
            self.reopen()?;
        } else if self.length > 0 && self.rotate_at.is_some_and(|at| self.length >= at) {
            self.rotate()?;
        }
        let line = format!("{line}\n");
        let written = self.file.write_all(line.as_bytes());
        let written = written.and_then(|()| if self.sync { self.file.sync_data() } else { Ok(()) });
        match written {
            Ok(()) => self.length += line.len() as u64,
            // Nothing of it stays: it comes again.
            Err(_) => self.file.set_len(self.length)?,
        }
        written
    }
}

/// A file that is locked until it is dropped.
#[derive(Debug)]
struct Locked {
    file: File,
    process: Process,
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing alone would not unlock it, if a child was forked meanwhile that has not closed it yet. The child itself
        // has a copy of this, and would unlock its parent's.
        if self.process.is_current() {
            let _ = self.file.unlock();
        }
    }
}

impl Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.file
    }
}

/// Opens the file for this process alone.
fn open(path: &Path) -> io::Result<Locked> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A pipe without a reader must not block, and nobody gets a line by a link.
        options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    }
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    match file.try_lock() {
        Ok(()) => Ok(Locked { file, process: Process::current() }),
        Err(TryLockError::WouldBlock) => {
            let why = "another process writes to this audit trail: give each process its own file";
            Err(io::Error::new(io::ErrorKind::ResourceBusy, why))
        }
        Err(TryLockError::Error(why)) => Err(why),
    }
}

/// The last whole line, the length up to it, and how many bytes come after it.
fn end_of(file: &mut File) -> io::Result<(AuditMark, u64, usize)> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(2 * LONGEST_LINE);
    file.seek(SeekFrom::Start(from))?;
    let mut end = vec![];
    file.read_to_end(&mut end)?;
    let whole = end.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let torn = end.len() - whole;
    if whole == 0 {
        let is_new = from == 0;
        let mark = is_new.then(AuditMark::default).ok_or_else(foreign)?;
        return Ok((mark, 0, torn));
    }
    let lines = &end[..whole - 1];
    let last = lines.iter().rposition(|byte| *byte == b'\n').map_or(lines, |at| &lines[at + 1..]);
    let sequence = super::verify::sequence_of(last).ok_or_else(foreign)?;
    Ok((AuditMark::of(sequence, last), from + whole as u64, torn))
}

fn foreign() -> io::Error {
    let why = "its last line is none of an audit trail: move the file away";
    io::Error::new(io::ErrorKind::InvalidData, why)
}
