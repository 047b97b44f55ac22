//! Is that thread asleep? Read from `/proc`, so that a test waits for a waiter to be parked by
//! looking at it and not by sleeping and hoping.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// How long a thread may take to fall asleep before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many looks in a row must find the same sleep. One look could catch a short sleep on the
/// way to the long one, as in the allocator.
const LOOKS: u32 = 20;

/// A thread of this process, as Linux numbers them.
pub struct Task {
    status: PathBuf,
}

impl Task {
    /// The calling thread.
    pub fn current() -> Task {
        let link = std::fs::read_link("/proc/thread-self").expect("Linux has /proc/thread-self");
        Task { status: PathBuf::from("/proc").join(link).join("status") }
    }

    /// Whether the thread sleeps, and how often it has gone to sleep so far.
    fn look(&self) -> (bool, u64) {
        let status = std::fs::read_to_string(&self.status).expect("the thread still runs");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.expect("status has the field")[name.len()..].trim()
        };
        let switches = field("voluntary_ctxt_switches:").parse().expect("a number");
        (field("State:").starts_with('S'), switches)
    }

    /// Returns once the thread is asleep and stays so; fails when it does not fall asleep.
    pub fn wait_until_parked(&self) {
        let started = Instant::now();
        let mut sleep = None;
        let mut looks = 0;
        while looks < LOOKS {
            assert!(started.elapsed() < PATIENCE, "the thread never went to sleep");
            let (asleep, switches) = self.look();
            if asleep && sleep == Some(switches) {
                looks += 1;
            } else {
                sleep = asleep.then_some(switches);
                looks = 0;
            }
            std::thread::yield_now();
        }
    }
}

/// Runs `blocks` in a thread of its own and returns once that thread sleeps in it.
pub fn spawn_parked<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    blocks: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    let (send, receive) = mpsc::channel();
    let thread = scope.spawn(move || {
        send.send(Task::current()).expect("the test waits for this");
        blocks()
    });
    let task = receive.recv().expect("the thread starts");
    task.wait_until_parked();
    thread
}
