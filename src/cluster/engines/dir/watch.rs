//! The watches: a task that is told by the kernel what was renamed in the folder, and looks.
//!
//! The kernel's notice (inotify) has the name of a file; the task reads the register, and that is what a
//! watch yields. When the kernel has lost notices, the task looks at all registers that are watched. It
//! does so every half second in any case, and every 10 ms where there are no notices: on other systems than
//! Linux, and when the user has no inotify instance left.
//!
//! There is a task for each folder while something is watched in it, and for up to a second longer. It is on
//! the runtime of the requests, which is usually that of the node, so that a handoff does not wait for one
//! more thread to wake up.

use super::folder::FileId;
use super::names::FileNames;
use super::store::Store;
use crate::Mutex;
use crate::cluster::background::run_blocking_on;
use crate::cluster::process::watch_of_process;
use crate::cluster::{Key, TransportError, Version, Versioned, Watch};
use futures_util::stream;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

/// How often the task looks at all registers that are watched, whatever it is told.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it does where it is told nothing.
const LOOK_OFTEN: Duration = Duration::from_millis(10);

type Item = Result<Option<Versioned>, TransportError>;

/// The watches of one folder.
pub(super) struct Watches {
    store: Arc<Store>,
    /// Where the task is.
    runtime: Handle,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// By the name of the file.
    watched: HashMap<String, Watched>,
    is_running: bool,
}

/// A register that is watched.
struct Watched {
    key: Key,
    /// What was seen last.
    seen: Seen,
    sender: watch::Sender<Item>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// It was not looked at yet.
    Nothing,
    Register(Option<Version>),
}

impl Watches {
    pub(super) fn new(store: Arc<Store>, runtime: Handle) -> Arc<Self> {
        Arc::new(Self { store, runtime, table: Mutex::default() })
    }

    /// A watch of `key`, in force when this returns. It blocks.
    pub(super) fn watch(self: &Arc<Self>, key: &Key) -> Result<Watch, TransportError> {
        self.watch_by(key, Notices::of)
    }

    /// A watch by these notices, if nothing is watched yet.
    fn watch_by(
        self: &Arc<Self>,
        key: &Key,
        notices: impl FnOnce(&Store) -> Option<Notices>,
    ) -> Result<Watch, TransportError> {
        let name = FileNames::of(key).register();
        let mut starts = None;
        let receiver = {
            let mut table = self.table.lock();
            if !table.is_running {
                // Whoever starts the task has put the notices in force.
                let notices = notices(&self.store);
                let folder = FileId::at(self.store.path()).map_err(|_| self.store.gone())?;
                starts = Some((folder, notices));
                table.is_running = true;
            }
            let watched = table.watched.entry(name.clone()).or_insert_with(|| Watched {
                key: key.clone(),
                seen: Seen::Nothing,
                sender: watch::Sender::new(Ok(None)),
            });
            watched.sender.subscribe()
        };
        if let Some((folder, notices)) = starts {
            // Not under the lock: a runtime that ends drops the task here, which ends the watches.
            self.runtime.spawn(WatchTask(Some(Arc::clone(self))).run(folder, notices));
        }
        // What is there now is no change.
        let version = self.store.load(key)?.map(|found| found.version);
        if let Some(watched) = self.table.lock().watched.get_mut(&name)
            && watched.seen == Seen::Nothing
        {
            watched.seen = Seen::Register(version);
        }
        Ok(watch_of_process(Box::pin(stream::unfold(Some(receiver), |receiver| async {
            let mut receiver = receiver?;
            receiver.changed().await.ok()?;
            let item = receiver.borrow_and_update().clone();
            // An error is the last item.
            let receiver = item.is_ok().then_some(receiver);
            Some((item, receiver))
        }))))
    }

    /// The task.
    async fn run(self: &Arc<Self>, folder: FileId, mut notices: Option<Notices>) {
        let every = if notices.is_some() { LOOK_EVERY } else { LOOK_OFTEN };
        let mut last_watched = Instant::now();
        let mut next = Instant::now() + every;
        loop {
            let changed = match &mut notices {
                Some(notices) => timeout_at(next, notices.wait()).await.unwrap_or_default(),
                None => {
                    sleep_until(next).await;
                    Changed::default()
                }
            };
            let now = Instant::now();
            let is_time = now >= next;
            if is_time {
                next = now + every;
                if !self.tidy(&mut last_watched, now) {
                    return;
                }
            }
            if changed.folder || is_time && FileId::at(self.store.path()) != Ok(folder) {
                return self.end(&self.store.gone());
            }
            let all = is_time || changed.all;
            let keys = self.keys(|name| all || changed.names.iter().any(|one| one == name));
            if all || self.store.is_slow() {
                // Nobody waits for what is seen now, or it would keep the runtime from other work.
                let watches = Arc::clone(self);
                run_blocking_on(&self.runtime, move || watches.look_at(keys)).await;
            } else {
                self.store.timed(|| self.look_at(keys));
            }
        }
    }

    /// Drops what nobody watches any more. `false`: nothing is left for a while, and the task ends.
    fn tidy(&self, last_watched: &mut Instant, now: Instant) -> bool {
        let mut table = self.table.lock();
        table.watched.retain(|_, watched| watched.sender.receiver_count() > 0);
        if !table.watched.is_empty() {
            *last_watched = now;
        }
        // Who waits again and again needs a watch again and again.
        table.is_running = now - *last_watched < LOOK_EVERY;
        table.is_running
    }

    /// Ends all watches with an error, as the task ends.
    fn end(&self, why: &TransportError) {
        let mut table = self.table.lock();
        table.is_running = false;
        let ended: Vec<_> = table.watched.drain().collect();
        drop(table);
        for (_, watched) in ended {
            let _ = watched.sender.send_replace(Err(why.clone()));
        }
    }

    /// The keys that are watched and whose register's file has such a name, with that name.
    fn keys(&self, concerns: impl Fn(&str) -> bool) -> Vec<(String, Key)> {
        let table = self.table.lock();
        let watched = table.watched.iter();
        watched
            .filter(|(name, watched)| concerns(name) && watched.sender.receiver_count() > 0)
            .map(|(name, watched)| (name.clone(), watched.key.clone()))
            .collect()
    }

    /// Looks at these registers, and tells what has changed.
    fn look_at(&self, keys: Vec<(String, Key)>) {
        for (name, key) in keys {
            let item = self.store.load(&key);
            let mut table = self.table.lock();
            let Some(watched) = table.watched.get_mut(&name) else { continue };
            let sender = watched.sender.clone();
            match &item {
                Ok(found) => {
                    let seen = Seen::Register(found.as_ref().map(|found| found.version));
                    if std::mem::replace(&mut watched.seen, seen) == seen {
                        continue;
                    }
                }
                Err(_) => drop(table.watched.remove(&name)),
            }
            drop(table);
            // Not under the lock: it runs the wakers of those that watch.
            let _ = sender.send_replace(item);
        }
    }
}

/// The watches end with the task, also if its runtime ends.
struct WatchTask(Option<Arc<Watches>>);

impl WatchTask {
    async fn run(mut self, folder: FileId, notices: Option<Notices>) {
        let Some(watches) = &self.0 else { return };
        watches.run(folder, notices).await;
        // It has ended by itself, and there may be another one by now.
        self.0 = None;
    }
}

impl Drop for WatchTask {
    fn drop(&mut self) {
        if let Some(watches) = &self.0 {
            watches.end(&TransportError::unavailable("the runtime of the requests has ended"));
        }
    }
}

/// What the kernel has told.
#[derive(Default)]
struct Changed {
    /// Files that were renamed to these names, or removed.
    names: Vec<String>,
    /// Notices were lost.
    all: bool,
    /// The folder was moved or removed.
    folder: bool,
}

/// The kernel's notices of what changes in the folder.
#[cfg(any(target_os = "linux", target_os = "android"))]
struct Notices {
    inotify: tokio::io::unix::AsyncFd<rustix::fd::OwnedFd>,
    buffer: Box<[std::mem::MaybeUninit<u8>; 16 * 1024]>,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Notices {
    /// Called within the runtime of the task. `None`: the user has no more of them.
    fn of(store: &Store) -> Option<Self> {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        let what = WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        add_watch(&inotify, store.path(), what).ok()?;
        // SAFETY: what is registered owns the descriptor, never changes it, and closes it when it goes.
        let inotify = unsafe { tokio::io::unix::AsyncFd::register(inotify) }.ok()?;
        Some(Self { inotify, buffer: Box::new([std::mem::MaybeUninit::uninit(); 16 * 1024]) })
    }

    /// Waits until there is something. Dropping the future loses nothing: it reads when it is there.
    async fn wait(&mut self) -> Changed {
        use rustix::fs::inotify::{ReadFlags, Reader};
        use rustix::io::Errno;
        let mut changed = Changed::default();
        // An error: the driver of the I/O has ended, and the task with it.
        let Ok(mut ready) = self.inotify.readable().await else { return changed };
        let mut reader = Reader::new(self.inotify.get_ref(), &mut self.buffer[..]);
        // As much as the buffer holds: the rest comes next time, and the looks are not put off for ever.
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(_) => {
                    // All is read.
                    ready.clear_ready();
                    break;
                }
            };
            let events = event.events();
            let of_folder = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED;
            changed.all |= events.contains(ReadFlags::QUEUE_OVERFLOW);
            changed.folder |= events.intersects(of_folder | ReadFlags::UNMOUNT);
            if let Some(name) = event.file_name().and_then(|name| name.to_str().ok())
                && !changed.names.iter().any(|one| one == name)
            {
                changed.names.push(name.to_owned());
            }
            if reader.is_buffer_empty() {
                break;
            }
        }
        changed
    }
}

/// There are none.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
enum Notices {}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Notices {
    fn of(_: &Store) -> Option<Self> {
        None
    }

    async fn wait(&mut self) -> Changed {
        match *self {}
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::super::builder::DirBuilder;
    use super::super::call::Call;
    use super::{Notices, Store, Watches};
    use crate::cluster::{Exchange, Key, Version, Wake, Write};
    use futures_util::StreamExt;
    use std::sync::Arc;
    use std::time::{Duration, Instant};
    use tokio::runtime::Handle;

    struct Place(Arc<Store>);

    impl Place {
        fn new() -> Self {
            let name = format!("lockword-watch-{:016x}", fastrand::u64(..));
            let builder = DirBuilder::new(std::env::temp_dir().join(name));
            Self(Arc::new(Store::open(builder.config().unwrap()).unwrap()))
        }

        fn write(&self, key: &Key, expected: Option<Version>) -> Version {
            let new = Write { value: b"x".as_slice().into(), wake: Wake::Nobody, idle: false };
            let call = Call::new(Duration::from_secs(60));
            match self.0.compare_exchange(key, expected, &new, &call).unwrap() {
                Exchange::Swapped(version) => version,
                other => panic!("{other:?}"),
            }
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(self.0.path());
        }
    }

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn without_notices_it_looks_often_and_the_task_ends_when_nothing_is_watched() {
        let place = Place::new();
        let watches = Watches::new(Arc::clone(&place.0), Handle::current());
        let mut watch = watches.watch_by(&key("k"), |_| None).unwrap();
        let mut last = None;
        for _ in 0..3 {
            last = Some(place.write(&key("k"), last));
            let item = tokio::time::timeout(LIMIT, watch.next()).await.unwrap();
            let seen = item.unwrap().unwrap().map(|seen| seen.version);
            assert_eq!(seen, last);
        }
        drop(watch);
        let began = Instant::now();
        while watches.table.lock().is_running {
            assert!(began.elapsed() < LIMIT, "the task goes on");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(watches.table.lock().watched.is_empty());
    }

    /// The twin of a lost notice: none is ever told of, and the slow look is left.
    #[tokio::test]
    async fn a_lost_notice_is_made_up_for_by_a_look() {
        let place = Place::new();
        let watches = Watches::new(Arc::clone(&place.0), Handle::current());
        // Notices of another directory: they are there, and tell nothing.
        let other = Place::new();
        let silent = |_: &Store| Notices::of(&other.0);
        let mut watch = watches.watch_by(&key("k"), silent).unwrap();
        let version = place.write(&key("k"), None);
        let item = tokio::time::timeout(LIMIT, watch.next()).await.unwrap();
        assert_eq!(item.unwrap().unwrap().map(|seen| seen.version), Some(version));
    }

    #[tokio::test]
    async fn a_queue_that_overflows_says_to_look_at_everything() {
        let place = Place::new();
        let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        let mut notices = Notices::of(&place.0).expect("there is one left");
        // Two names in turns: the kernel takes the same one twice in a row for one.
        let (a, b) = (place.0.path().join("a"), place.0.path().join("b"));
        std::fs::write(&a, "").unwrap();
        for _ in 0..limit / 2 + 1 {
            std::fs::rename(&a, &b).unwrap();
            std::fs::rename(&b, &a).unwrap();
        }
        let began = Instant::now();
        while !notices.wait().await.all {
            assert!(began.elapsed() < LIMIT, "the overflow is not told of");
        }
    }
}
