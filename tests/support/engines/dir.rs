//! A directory, as an engine that a test starts.

use super::engine::{Engine, Usage};
use super::process::Folder;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub struct DirFolder(Folder);

impl Engine for DirFolder {
    // The directory, open.
    const CONNECTIONS: usize = 1;

    async fn start() -> Option<Self> {
        Some(Self(Folder::new("dir")))
    }

    fn address(&self) -> String {
        format!("dir:{}", self.0.file("locks"))
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("locks")
    }

    /// Connections are the files that this process has open there, besides what it watches.
    async fn usage(&self) -> Usage {
        let path = self.0.path().join("locks");
        let inode = fs::metadata(&path).expect("it is there").ino();
        let files: Vec<_> =
            fs::read_dir("/proc/self/fd").expect("Linux has that").flatten().collect();
        let targets = files.iter().filter_map(|file| fs::read_link(file.path()).ok());
        let watches = fs::read_dir("/proc/self/fdinfo").expect("Linux has that").flatten();
        let watched = format!("ino:{inode:x} ");
        let is_watch = |file: &Path| {
            fs::read_to_string(file).is_ok_and(|text| {
                text.lines().any(|l| l.starts_with("inotify") && l.contains(&watched))
            })
        };
        let registers = fs::read_dir(&path).expect("it is there").flatten();
        let is_register = |name: &str| name.ends_with(".register") && !name.starts_with('.');
        Usage {
            connections: targets.filter(|target| target.starts_with(&path)).count(),
            watches: watches.filter(|file| is_watch(&file.path())).count(),
            keys: registers
                .filter(|file| file.file_name().to_str().is_some_and(is_register))
                .count(),
        }
    }
}
