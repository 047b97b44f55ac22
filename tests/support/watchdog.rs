//! Progress of the threads of a stress test, and the watchdog that reads it.
//!
//! A thread that waits for a lost wake-up cannot be joined: the watchdog prints what every thread
//! was doing and ends the process.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// The exit status of a process whose watchdog saw a thread without progress.
pub const STALLED: i32 = 101;

/// How long a thread may stand still. A wake-up that is lost never comes; what takes some seconds is a machine
/// one of whose processors stands still.
pub const LIMIT: Duration = Duration::from_secs(60);

const TICK: Duration = Duration::from_millis(20);
/// A thread that made no step for so long is worth a line of the output, even if it goes on.
const SLOW: Duration = Duration::from_secs(2);

/// Prints `why` and ends the process with [`STALLED`]: the other threads may wait for this one.
///
/// Not by `eprintln!`, whose output the test harness keeps until the test has ended.
pub fn fail(why: &str) -> ! {
    say(why);
    std::process::exit(STALLED)
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What one thread is doing: written by it alone, read by the watchdog.
#[derive(Default)]
#[repr(align(128))]
pub struct Slot {
    steps: AtomicU64,
    op: AtomicU32,
    lock: AtomicU32,
    done: AtomicBool,
}

impl Slot {
    /// The thread begins operation number `op` on lock number `lock`.
    pub fn begin(&self, op: usize, lock: usize) {
        self.op.store(op as u32, Ordering::Relaxed);
        self.lock.store(lock as u32, Ordering::Relaxed);
        self.steps.store(self.steps.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The thread has finished: it is no longer watched.
    pub fn finish(&self) {
        self.done.store(true, Ordering::Release);
    }
}

/// The progress of all threads of one test.
pub struct Progress {
    slots: Box<[Slot]>,
    ops: &'static [&'static str],
}

impl Progress {
    /// Slots for `threads` threads, whose operations have the names `ops`.
    pub fn new(threads: usize, ops: &'static [&'static str]) -> Self {
        Progress { slots: (0..threads).map(|_| Slot::default()).collect(), ops }
    }

    /// The slot of one thread.
    pub fn slot(&self, thread: usize) -> &Slot {
        &self.slots[thread]
    }

    fn describe(&self, idle: &[u32]) -> String {
        let mut text = String::new();
        for (i, slot) in self.slots.iter().enumerate() {
            let op = self.ops[slot.op.load(Ordering::Relaxed) as usize];
            let lock = slot.lock.load(Ordering::Relaxed);
            let steps = slot.steps.load(Ordering::Relaxed);
            let since = TICK * idle[i];
            let done = if slot.done.load(Ordering::Relaxed) { " (finished)" } else { "" };
            let _ = writeln!(
                text,
                "thread {i}: {op} on lock {lock}, step {steps}, unchanged for {since:?}{done}"
            );
        }
        text
    }

    /// Watches until every thread has finished. If one makes no step for `limit`, prints all
    /// slots and then `state()`, and ends the process with [`STALLED`]. One that makes none for
    /// [`SLOW`] and then goes on is printed, too.
    ///
    /// Time is counted in ticks of this thread, so that a machine that stood still as a whole
    /// does not look like a stuck thread.
    pub fn watch(&self, limit: Duration, state: impl Fn() -> String) {
        let mut seen = vec![0; self.slots.len()];
        let mut idle = vec![0_u32; self.slots.len()];
        loop {
            thread::sleep(TICK);
            let mut all_done = true;
            for (i, slot) in self.slots.iter().enumerate() {
                let steps = slot.steps.load(Ordering::Relaxed);
                if slot.done.load(Ordering::Acquire) || seen[i] != steps {
                    if TICK * idle[i] >= SLOW {
                        say(&format!("thread {i} made no step for {:?}", TICK * idle[i]));
                    }
                    idle[i] = 0;
                } else {
                    idle[i] += 1;
                }
                seen[i] = steps;
                all_done &= slot.done.load(Ordering::Acquire);
            }
            if all_done {
                return;
            }
            if let Some(stuck) = idle.iter().position(|&ticks| TICK * ticks >= limit) {
                let threads = self.describe(&idle);
                fail(&format!("no progress of thread {stuck} for {limit:?}\n{threads}{}", state()));
            }
        }
    }
}
