//! The folder itself: whether it may be used, and which one it is.

use super::builder::DirConfig;
use super::filesystem;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, FileType, Mode, OFlags, RawMode, Stat};
use rustix::io::Errno;
use std::path::Path;

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl FileId {
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, reason = "not so on every system")]
    pub(super) fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev as u64, inode: stat.st_ino as u64 }
    }

    /// The folder or file at this path. No link is followed.
    pub(super) fn at(path: &Path) -> Result<Self, Errno> {
        fs::lstat(path).map(|stat| Self::of(&stat))
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn device_major(self) -> u32 {
        fs::major(self.device)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn device_minor(self) -> u32 {
        fs::minor(self.device)
    }
}

/// The folder, open.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) file: OwnedFd,
}

/// Why there is no folder that can be used.
#[derive(Debug)]
pub(super) enum FolderError {
    /// It cannot be opened.
    System(Errno),
    /// It must not be used, for this reason.
    Unsuitable(String),
}

impl Folder {
    /// Opens the folder of this configuration, and checks that only those can write in it who may.
    pub(super) fn open(config: &DirConfig) -> Result<Self, FolderError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match fs::open(&config.path, flags, Mode::empty()) {
            Ok(file) => file,
            Err(why @ (Errno::LOOP | Errno::NOTDIR)) => {
                let is_link = fs::lstat(&config.path).is_ok_and(|stat| {
                    FileType::from_raw_mode(stat.st_mode as RawMode) == FileType::Symlink
                });
                return Err(match is_link {
                    true => FolderError::Unsuitable(
                        "it is a symbolic link, which somebody could replace: write the path of \
                         the directory itself"
                            .to_owned(),
                    ),
                    false => FolderError::System(why),
                });
            }
            Err(why) => return Err(FolderError::System(why)),
        };
        let stat = fs::fstat(&file).map_err(FolderError::System)?;
        config.check_rights(stat.st_mode as u32, stat.st_uid).map_err(FolderError::Unsuitable)?;
        if !config.any_file_system
            && let Err(kind) = filesystem::admitted(file.as_fd())
        {
            return Err(FolderError::Unsuitable(format!(
                "its file system is {kind}, and not known as one of this machine alone, whose locks \
                 hold: choose a directory on a local disk or in memory, such as in /run, or set \
                 any_file_system if you know that no other machine uses it"
            )));
        }
        Ok(Self { file })
    }
}
