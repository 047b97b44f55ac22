//! Is that thread asleep? Read from `/proc`, so that a test waits for a waiter to be parked by
//! looking at it and not by sleeping and hoping.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// How long a thread may take to fall asleep before the test fails, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(60);

/// How many looks in a row must find the same sleep. One look could catch a short sleep on the
/// way to the long one, as in the allocator.
const LOOKS: u32 = 20;

/// The kernel's number of a thread, told by the thread just before it goes to wait.
#[derive(Default)]
pub struct Tid(AtomicI32);

impl Tid {
    /// Nobody yet.
    #[allow(dead_code, reason = "not every test binary has an array of them")]
    pub const fn new() -> Self {
        Tid(AtomicI32::new(0))
    }

    /// Writes down the calling thread.
    pub fn set(&self) {
        // SAFETY: gettid takes nothing and cannot fail.
        let tid = unsafe { libc::gettid() };
        self.0.store(tid, Ordering::Release);
    }

    /// Forgets the thread.
    #[allow(dead_code, reason = "not every test binary uses a slot again")]
    pub fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Waits until the thread has told its number, is asleep and stays so. Panics when it does
    /// not fall asleep.
    pub fn wait_until_asleep(&self) {
        assert!(self.asleep_within(LIMIT), "the thread does not go to sleep");
    }

    /// Whether the thread tells its number, is then asleep and stays so, within the given time.
    ///
    /// The looks at one sleep follow each other at once: a parked thread that has to look for
    /// itself every few milliseconds counts as asleep too, however busy the machine is.
    pub fn asleep_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            if let Some(sleep) = self.sleep()
                && (0..LOOKS).all(|_| self.sleep() == Some(sleep))
            {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            thread::yield_now();
        }
    }

    /// What the kernel says of the thread, for the message of a test that fails.
    #[allow(dead_code, reason = "only some test binaries print it")]
    pub fn describe(&self) -> String {
        let tid = self.0.load(Ordering::Acquire);
        let file = |name: &str| {
            let read = std::fs::read_to_string(format!("/proc/self/task/{tid}/{name}"));
            read.unwrap_or_else(|error| error.to_string())
        };
        format!("thread {tid}: syscall {}{}", file("syscall"), file("status"))
    }

    /// How often the thread has gone to sleep, 0 if it is unknown.
    #[allow(dead_code, reason = "not every test binary counts")]
    pub fn sleeps(&self) -> u64 {
        self.look().map_or(0, |(_, sleeps)| sleeps)
    }

    /// Which of its sleeps the thread is in, if it sleeps.
    fn sleep(&self) -> Option<u64> {
        self.look().and_then(|(asleep, sleeps)| asleep.then_some(sleeps))
    }

    /// Whether the thread sleeps, and how often it has gone to sleep so far, if it is known.
    fn look(&self) -> Option<(bool, u64)> {
        let tid = self.0.load(Ordering::Acquire);
        if tid == 0 {
            return None;
        }
        let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).ok()?;
        let field = |name| Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim());
        let sleeps = field("voluntary_ctxt_switches:")?.parse().ok()?;
        Some((field("State:")?.starts_with('S'), sleeps))
    }
}

/// Runs `blocks` in a thread of its own and returns once that thread sleeps in it.
#[allow(dead_code, reason = "some test binaries start their threads themselves")]
pub fn spawn_parked<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    blocks: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    let tid = Arc::new(Tid::default());
    let told = Arc::clone(&tid);
    let thread = scope.spawn(move || {
        told.set();
        blocks()
    });
    tid.wait_until_asleep();
    thread
}
