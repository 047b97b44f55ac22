//! A directory: bare writes by a lock and a renaming, inotify, and `flock` alone.

use crate::engine::{Engine, Notifier, Pair, Running, SIZES};
use lockword::cluster::async_trait;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub struct Dir;

#[async_trait]
impl Engine for Dir {
    fn name(&self) -> &'static str {
        "dir"
    }

    fn peer(&self) -> Option<&'static str> {
        Some("flock")
    }

    fn start(&self) -> Option<Running> {
        let path = std::env::temp_dir().join(format!("lockword-bench-dir-{}", std::process::id()));
        fs::create_dir(&path).expect("a directory of our own");
        let address = format!("dir:{}", path.display());
        Some(Running { address: format!("{address}/locks"), server: Box::new(RemoveOnDrop(path)) })
    }

    async fn raw(&self, address: &str, count: usize) -> Vec<Box<dyn Pair>> {
        let raw = |_| Box::new(Raw { folder: own_folder(address) }) as Box<dyn Pair>;
        (0..count).map(raw).collect()
    }

    async fn acquirer(&self, address: &str) -> Box<dyn Pair> {
        Box::new(Peer { file: folder(address).join("../peer"), held: None })
    }

    /// Of the blocks of all files.
    async fn stored(&self, server: &Running) -> f64 {
        let files = fs::read_dir(folder(&server.address)).expect("it is there").flatten();
        files.map(|file| file.metadata().map_or(0, |data| data.blocks()) as f64 * 512.0).sum()
    }

    async fn notifier(&self, address: &str) -> Box<dyn Notifier> {
        Box::new(RenameNotifier::new(own_folder(address)))
    }
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn folder(address: &str) -> PathBuf {
    PathBuf::from(address.strip_prefix("dir:").expect("an address of ours"))
}

/// A folder that no other client has.
fn own_folder(address: &str) -> PathBuf {
    static CLIENTS: AtomicU32 = AtomicU32::new(0);
    let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
    let own = folder(address).with_file_name(format!("raw-{}-{number}", std::process::id()));
    fs::create_dir(&own).expect("it is new");
    own
}

fn open_lock(path: &Path) -> File {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    file.expect("a file of ours")
}

/// What was written is read and written again, under a lock.
struct Raw {
    folder: PathBuf,
}

impl Raw {
    fn write(&self, size: usize) {
        let (register, new) = (self.folder.join("register"), self.folder.join("new"));
        let lock = open_lock(&self.folder.join("lock"));
        lock.lock().expect("flock");
        let _ = fs::read(&register);
        File::create(&new).and_then(|mut file| file.write_all(&vec![b'x'; size])).expect("ours");
        fs::rename(new, register).expect("ours");
    }
}

#[async_trait]
impl Pair for Raw {
    async fn acquire(&mut self) {
        self.write(SIZES[0]);
    }

    async fn release(&mut self) {
        self.write(SIZES[1]);
    }
}

struct Peer {
    file: PathBuf,
    held: Option<File>,
}

#[async_trait]
impl Pair for Peer {
    async fn acquire(&mut self) {
        let file = open_lock(&self.file);
        file.lock().expect("flock");
        self.held = Some(file);
    }

    async fn release(&mut self) {
        self.held = None;
    }
}

/// A thread that is told of a renaming.
struct RenameNotifier {
    raw: Raw,
    told: mpsc::Receiver<Instant>,
}

impl RenameNotifier {
    fn new(folder: PathBuf) -> Self {
        // SAFETY: a new descriptor, which the file owns from here on.
        let mut notices = unsafe { File::from_raw_fd(libc::inotify_init1(libc::IN_CLOEXEC)) };
        let path = CString::new(folder.to_str().expect("text")).expect("no zero");
        // SAFETY: the descriptor is open, and the path ends with a zero.
        let watch = unsafe {
            use std::os::fd::AsRawFd;
            libc::inotify_add_watch(notices.as_raw_fd(), path.as_ptr(), libc::IN_MOVED_TO)
        };
        assert!(watch >= 0, "inotify: {}", std::io::Error::last_os_error());
        let (tell, told) = mpsc::channel();
        let register = folder.join("register");
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while notices.read(&mut buffer).is_ok()
                && fs::read(&register).is_ok()
                && tell.send(Instant::now()).is_ok()
            {}
        });
        Self { raw: Raw { folder }, told }
    }
}

#[async_trait]
impl Notifier for RenameNotifier {
    async fn notify(&mut self) -> Duration {
        let start = Instant::now();
        self.raw.write(SIZES[0]);
        self.told.recv().expect("the thread lives") - start
    }
}
