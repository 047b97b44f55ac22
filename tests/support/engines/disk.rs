//! The disk of a server, which can be filled up.

use super::namespace::{Isolated, Namespace};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::chown;
use std::sync::Arc;

/// The file that takes all the space.
const FILLER: &str = "filler";

/// A folder for a server, or a file system of its own. A file system of its own exists only for the
/// processes in its namespace, and ends with them.
pub struct Disk {
    /// The namespace in which the server has to be started.
    pub namespace: Arc<Namespace>,
    folder: String,
}

impl Disk {
    /// A new folder of this name, owned by this user and group. With a size, in megabytes, it is a file
    /// system of its own. `None`, and a line on standard error: the system does not permit it, skip the
    /// test.
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

    /// The path of a file on it.
    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    /// How many bytes this file has. `None`: it is not there.
    pub fn len(&self, name: &str) -> Option<u64> {
        let path = self.file(name);
        self.namespace.run(move || fs::metadata(path).ok().map(|data| data.len()))
    }

    /// Fills it up.
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

    /// Removes what filled it up.
    pub fn make_space(&self) {
        let path = self.file(FILLER);
        self.namespace.run(move || fs::remove_file(path)).expect("it was filled");
    }
}

fn mount(folder: &str, size: u32, (user, group): (u32, u32)) -> Result<Arc<Namespace>, String> {
    let namespace = Namespace::isolated(Isolated::Mounts).map_err(|error| error.to_string())?;
    // The mount must not be visible elsewhere.
    namespace.run_command("mount --make-rprivate /")?;
    let options = format!("size={size}m,mode=700,uid={user},gid={group}");
    namespace.run_command(&format!("mount -t tmpfs -o {options} lockword {folder}"))?;
    Ok(namespace)
}
