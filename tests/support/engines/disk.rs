//! A server's disk. One of its own can be filled.

use super::namespace::{Namespace, Own};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::chown;
use std::sync::Arc;

/// What takes all the room.
const FILLER: &str = "filler";

/// What is on it is there for those alone who are started at its namespace, and goes with them; unless it
/// is a part of everybody's disk.
pub struct Disk {
    /// Where its server has to be started.
    pub namespace: Arc<Namespace>,
    folder: String,
}

impl Disk {
    /// In a new folder of this name, for this user and group. With a size, in megabytes, it is a disk
    /// of its own. `None`, and a line that says so: the system does not permit it, skip the test.
    pub fn new(folder: String, size: Option<u32>, owner: Option<(u32, u32)>) -> Option<Self> {
        fs::create_dir(&folder).expect("a folder of ours");
        if let Some((user, group)) = owner {
            chown(&folder, Some(user), Some(group)).expect("root may do that");
        }
        let Some(size) = size else { return Some(Self { namespace: Namespace::here(), folder }) };
        match mount(&folder, size, owner.unwrap_or_default()) {
            Ok(namespace) => Some(Self { namespace, folder }),
            Err(why) => {
                eprintln!("skipped: no disk can be mounted: {why}");
                None
            }
        }
    }

    /// A file of it.
    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    /// How many bytes this file has. `None`: it is not there.
    pub fn len(&self, name: &str) -> Option<u64> {
        let path = self.file(name);
        self.namespace.run(move || fs::metadata(path).ok().map(|data| data.len()))
    }

    /// Leaves no room.
    pub fn fill(&self) {
        let path = self.file(FILLER);
        let full = self.namespace.run(move || {
            let mut file = File::create(path)?;
            loop {
                file.write_all(&[0; 4096])?;
            }
        });
        let full: std::io::Result<()> = full;
        assert_eq!(full.expect_err("no disk is endless").kind(), ErrorKind::StorageFull);
    }

    /// Takes away what was filled in.
    pub fn make_room(&self) {
        let path = self.file(FILLER);
        self.namespace.run(move || fs::remove_file(path)).expect("it was filled");
    }
}

fn mount(folder: &str, size: u32, (user, group): (u32, u32)) -> Result<Arc<Namespace>, String> {
    let namespace = Namespace::apart(Own::Mounts).map_err(|error| error.to_string())?;
    // So that it does not show elsewhere.
    namespace.tell("mount --make-rprivate /")?;
    let options = format!("size={size}m,mode=700,uid={user},gid={group}");
    namespace.tell(&format!("mount -t tmpfs -o {options} lockword {folder}"))?;
    Ok(namespace)
}
