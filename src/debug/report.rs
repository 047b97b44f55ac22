//! What is found, as data and as a text.

use super::memory::Guarded;
use super::order::{Class, ClassKey, Edge, MOST_OF_LOCKS, is_lock_api};
use super::threads::{Hold, LockSeen, ThreadName, copy_trace};
use crate::traced::{LockType, Mode, Place};
use std::backtrace::Backtrace;
use std::fmt;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What is found without being asked for: see [`on_report`](super::on_report).
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Report {
    /// A thread is about to wait for a lock that it holds itself. It has one element.
    SelfDeadlock(Deadlock),
    /// Locks are taken in orders that can become a deadlock.
    LockOrder(LockOrder),
    /// So many orders of two locks are known that new ones are not watched from now on, and a wrong one among them is
    /// not found. It is told once, and the program may be right. Those of two classes are watched.
    TooManyOrders,
}

/// Threads that wait for each other, and will for ever.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Deadlock {
    /// The threads, each of which waits for a lock that the next one holds, and the last for one of the first.
    pub threads: Vec<BlockedThread>,
}

/// A thread of a deadlock.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BlockedThread {
    /// The thread.
    pub thread: Thread,
    /// The lock for which it waits.
    pub waits_for: Lock,
    /// How it wants the lock: `exclusive`, `read`, `read_recursive`, `upgradable_read` or `upgrade`.
    pub wants: &'static str,
    /// Where it waits.
    pub waits_at: Site,
    /// It is in the `wait` of a Condvar, notified or not, which does not return without the mutex.
    pub in_condvar: bool,
    /// The next thread of the cycle, for which it waits.
    pub blocked_by: Thread,
    /// How that thread holds the lock: `exclusively`, `for reading` or `for upgradable reading`.
    pub held: &'static str,
    /// Where that thread has acquired it.
    pub held_since: Site,
    /// A reader waits for that hold because of this writer, which waits for it and keeps new readers out.
    pub behind: Option<WaitingWriter>,
    /// All locks that this thread holds.
    pub holds: Vec<HeldLock>,
}

/// A writer that waits for readers to leave, and keeps new ones out.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WaitingWriter {
    /// The thread.
    pub thread: Thread,
    /// How it wants the lock: `exclusive` or `upgrade`.
    pub wants: &'static str,
    /// Where it waits.
    pub waits_at: Site,
}

/// A lock that a thread holds.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HeldLock {
    /// The lock.
    pub lock: Lock,
    /// How it is held: as [`BlockedThread::held`].
    pub held: &'static str,
    /// Where it was acquired.
    pub since: Site,
}

/// Orders in which locks are taken, and that can become a deadlock.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LockOrder {
    /// Each is a lock that was held and one that was acquired under it; the next one begins with a lock of the class that was
    /// acquired. The first is the newest, and the last closes the cycle.
    pub steps: Vec<OrderStep>,
    /// Whether each step goes on from the very lock that the one before has acquired, and not just from one of its class.
    pub same_locks: bool,
}

/// A lock was acquired while another one was held.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct OrderStep {
    /// The thread that did it first.
    pub thread: Thread,
    /// What it held, and where it had acquired it.
    pub held: HeldLock,
    /// What it acquired.
    pub acquired: Lock,
    /// How: as [`BlockedThread::wants`].
    pub wants: &'static str,
    /// Where.
    pub acquired_at: Site,
}

/// A thread in a report.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Thread {
    /// The name that the system has of it, which on Linux is at most 15 bytes of that given in Rust.
    pub name: String,
    /// The system's number of it, where that is known (Linux, Android); else 0.
    pub id: i64,
}

/// A lock in a report.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Lock {
    /// `Mutex`, `sync::RwLock` and so on.
    pub type_name: &'static str,
    /// Its address at that moment.
    pub address: usize,
    /// Its number, which no other lock has.
    pub number: usize,
    /// Its class: the name that the program has given, or the place of its first acquisition.
    pub class: String,
}

/// A place in the source.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Site {
    /// `file:line:column`.
    pub place: String,
    /// The backtrace, if there is one: see [`capture_backtraces`](super::capture_backtraces).
    pub backtrace: Option<String>,
}

pub(super) fn wanted(mode: Mode) -> &'static str {
    match mode {
        Mode::Exclusive => "exclusive",
        Mode::Shared => "read",
        Mode::Recursive => "read_recursive",
        Mode::Upgradable => "upgradable_read",
        Mode::Upgrade => "upgrade",
    }
}

pub(super) fn held(mode: Mode) -> &'static str {
    match mode {
        Mode::Exclusive | Mode::Upgrade => "exclusively",
        Mode::Shared | Mode::Recursive => "for reading",
        Mode::Upgradable => "for upgradable reading",
    }
}

impl Thread {
    pub(super) fn new(name: ThreadName) -> Self {
        Self { name: name.name(), id: name.system }
    }
}

/// Where `lock_api` acquires a [`ReentrantMutex`](crate::ReentrantMutex): the caller's place is not known.
fn is_reentrant(place: Place) -> bool {
    place.0.file().ends_with("remutex.rs") && is_lock_api(place.0.file())
}

impl Lock {
    pub(super) fn new(seen: LockSeen) -> Self {
        let is_reentrant =
            |class: &Class| matches!(class.key, ClassKey::Place(place, _) if is_reentrant(place));
        let type_name = match seen.lock_type {
            LockType::Mutex if seen.class.is_some_and(is_reentrant) => "ReentrantMutex",
            LockType::Mutex => "Mutex",
            LockType::SendMutex => "SendMutex",
            LockType::FairMutex => "FairMutex",
            LockType::SyncMutex => "sync::Mutex",
            LockType::RwLock => "RwLock",
            LockType::SendRwLock => "SendRwLock",
            LockType::RecursiveRwLock => "RecursiveRwLock",
            LockType::SyncRwLock => "sync::RwLock",
        };
        let class = match seen.class.map(|class| class.key) {
            Some(ClassKey::Place(place, _)) => place.0.to_string(),
            Some(ClassKey::Name(name)) => name.to_owned(),
            Some(ClassKey::Lock { number, .. }) => format!("lock {number}"),
            None => String::new(),
        };
        Self { type_name, address: seen.address, number: seen.number, class }
    }
}

impl HeldLock {
    pub(super) fn new(hold: &Hold, trace: Option<&Backtrace>) -> Self {
        let since = Site::new(hold.place, trace);
        Self { lock: Lock::new(hold.lock), held: held(hold.mode), since }
    }
}

impl Site {
    pub(super) fn new(place: Place, trace: Option<&Backtrace>) -> Self {
        Self { place: place.0.to_string(), backtrace: trace.map(ToString::to_string) }
    }
}

impl LockOrder {
    pub(super) fn new(cycle: &[&Edge]) -> Self {
        let step = |edge: &&Edge| OrderStep {
            thread: Thread::new(edge.thread),
            held: HeldLock::new(&edge.held, copy_trace(edge.held.trace).as_deref()),
            acquired: Lock::new(edge.wanted),
            wants: wanted(edge.wanted_mode),
            acquired_at: Site::new(edge.place, copy_trace(edge.trace).as_deref()),
        };
        let next = cycle.iter().cycle().skip(1);
        let same_locks =
            cycle.iter().zip(next).all(|(edge, next)| edge.wanted.number == next.held.lock.number);
        Self { steps: cycle.iter().map(step).collect(), same_locks }
    }
}

impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, id } = self;
        if *id == 0 { write!(f, "{name:?}") } else { write!(f, "{name:?} ({id})") }
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { type_name, address, number, class } = self;
        write!(f, "the {type_name} {number} at {address:#x} [{class}]")
    }
}

impl Site {
    fn write_backtrace(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.backtrace.as_ref().map_or(Ok(()), |backtrace| writeln!(f, "{backtrace}"))
    }
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.threads[..] {
            [_] => writeln!(f, "deadlock: a thread waits for itself")?,
            threads => writeln!(f, "deadlock: {} threads wait for each other", threads.len())?,
        }
        for blocked in &self.threads {
            let BlockedThread {
                thread,
                waits_for,
                wants,
                waits_at,
                blocked_by,
                held,
                held_since,
                ..
            } = blocked;
            let condvar = if blocked.in_condvar { ", in the wait of a Condvar," } else { "" };
            writeln!(f, "  thread {thread} waits at {}{condvar}", waits_at.place)?;
            writeln!(f, "    for {waits_for} ({wants}),")?;
            writeln!(f, "    which thread {blocked_by} holds {held} since {}", held_since.place)?;
            if let Some(WaitingWriter { thread, wants, waits_at }) = &blocked.behind {
                writeln!(
                    f,
                    "    behind thread {thread}, which waits ({wants}) at {}",
                    waits_at.place
                )?;
            }
            waits_at.write_backtrace(f)?;
            held_since.write_backtrace(f)?;
            if let Some(writer) = &blocked.behind {
                writer.waits_at.write_backtrace(f)?;
            }
            for HeldLock { lock, held, since } in &blocked.holds {
                writeln!(f, "    it holds {lock} {held} since {}", since.place)?;
            }
        }
        if self.threads.iter().any(|blocked| blocked.behind.is_some()) {
            f.write_str(
                "  A reader waits behind a writer. `read_recursive` does not wait for a writer that waits.\n",
            )?;
        }
        f.write_str(match self.threads.len() {
            1 => "  Release the lock before, or pass the guard on. A `ReentrantMutex` may be locked again.",
            _ => "  Acquire these locks in the same order everywhere, or release one before the next.",
        })
    }
}

impl fmt::Display for LockOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "lock order inversion: these orders can deadlock if threads take them at the same time\n",
        )?;
        for OrderStep { thread, held, acquired, wants, acquired_at } in &self.steps {
            writeln!(f, "  thread {thread} held {} since {},", held.lock, held.since.place)?;
            writeln!(f, "    and acquired {acquired} ({wants}) at {}", acquired_at.place)?;
            held.since.write_backtrace(f)?;
            acquired_at.write_backtrace(f)?;
        }
        if !self.same_locks {
            f.write_str(
                "  The steps are linked by class only, not by the same lock: this may be a false report.\n",
            )?;
        }
        f.write_str(
            "  Acquire these locks in the same order everywhere. If they cannot run at the same time, call \
             `debug::allow_order`; if the locks are unrelated, give them different classes with `debug::set_class`.",
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SelfDeadlock(found) => found.fmt(f),
            Self::LockOrder(found) => found.fmt(f),
            Self::TooManyOrders => write!(
                f,
                "lock order: {MOST_OF_LOCKS} orders of two locks are known, and no more are watched; those of \
                 two classes are. Give locks that are of many kinds their classes by `debug::set_class`."
            ),
        }
    }
}

type Callback = Arc<dyn Fn(&Report) + Send + Sync>;

static CALLBACK: Guarded<Option<Callback>> = Guarded::new(None);

pub(super) fn set_callback(new: Callback) {
    drop(CALLBACK.with(|callback| callback.replace(new)));
}

/// Whether the environment asks that a report end the process.
fn aborts() -> bool {
    std::env::var_os("LOCKWORD_DEBUG_REPORTS").is_some_and(|value| value == "abort")
}

/// Tells the program. By a thread that is inside.
#[cold]
pub(super) fn tell(report: &Report) {
    let callback = CALLBACK.with(|callback| callback.clone());
    let is_wrong = !matches!(report, Report::TooManyOrders);
    // A panic must not come out of a lock or a wait.
    let _ = catch_unwind(AssertUnwindSafe(|| match callback {
        Some(callback) => callback(report),
        // Straight to the standard error: what a test harness has captured is lost by the abort.
        None if is_wrong && aborts() => {
            let _ = writeln!(std::io::stderr(), "lockword: {report}");
            std::process::abort();
        }
        None => eprintln!("lockword: {report}"),
    }));
}
