//! Cycles of threads that wait for each other.
//!
//! A thread that waits for a lock waits for all those that keep it from it. A cycle in that relation is a deadlock, if
//! all of it exists at one moment. The records are read one by one, so a single reading can show a cycle that never
//! was. So all are read more than once: each wait and each hold has a number that is never used again, and what is in two
//! readings has existed all the time from the end of the first to the beginning of the second.
//!
//! A thread that has the lock by now may still be known as waiting. That makes no false cycle, since a hold that is
//! known is one: who waits for a lock of which a hold excludes it has not got it.
//!
//! A wait for a Condvar is one for its mutex, notified or not: it does not end without the mutex.
//!
//! A reader may also wait for a writer that itself waits for readers. That is asked of the lock, in both readings: if
//! a writer keeps readers out, and all readers that are in have holds that are known, then the one that waits is not
//! among them. The writer must be known, and patient: its own wait says so. (A `try_write` that looks whether there are
//! readers keeps them out too, for some instructions, and one with a timeout gives up.)

use super::hooks::excludes;
use super::report::{BlockedThread, Deadlock, HeldLock, Lock, Site, Thread, WaitingWriter};
use super::threads::{self, Hold, ThreadRecord, ThreadSeen, Waiting};
use crate::traced::Mode;
use std::backtrace::Backtrace;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

type Traced<T> = (T, Option<Arc<Backtrace>>);

/// One reading.
#[derive(Debug)]
struct Reading {
    threads: Vec<ThreadSeen>,
}

/// Who keeps a thread from a lock.
#[derive(Clone, Copy, Debug)]
struct Blocker {
    /// The index of the thread.
    thread: usize,
    /// The index of its hold.
    hold: usize,
    /// The index of the writer that waits for that hold to end, if the thread waits because of it.
    behind: Option<usize>,
}

impl Reading {
    fn now() -> Self {
        Self { threads: threads::all() }
    }

    /// Keeps what is in `other` too.
    fn and_in(mut self, other: &Self) -> Self {
        let mut waits = HashMap::new();
        let mut holds = HashSet::new();
        for thread in &other.threads {
            if let Some((wait, _)) = &thread.wait {
                waits.insert(
                    (thread.name.number, wait.sequence),
                    (thread.looked.is_some(), wait.drains),
                );
            }
            for (hold, _) in &thread.holds {
                holds.insert((thread.name.number, hold.sequence));
            }
        }
        for thread in &mut self.threads {
            let number = thread.name.number;
            thread.holds.retain(|(hold, _)| holds.contains(&(number, hold.sequence)));
            let Some((wait, _)) = &mut thread.wait else { continue };
            match waits.get(&(number, wait.sequence)) {
                None => thread.wait = None,
                Some((is_looked, drains)) => {
                    wait.drains &= drains;
                    thread.looked = thread.looked.filter(|_| *is_looked);
                }
            }
        }
        self
    }

    /// Whom this thread waits for.
    fn blockers(&self, thread: &ThreadSeen) -> Vec<Blocker> {
        let Some((wait, _)) = &thread.wait else { return vec![] };
        if !wait.is_patient {
            return vec![];
        }
        let holders = self.holders(wait.lock.number, |mode| excludes(mode, wait.mode));
        if !holders.is_empty() {
            return holders;
        }
        // Behind a writer that waits for readers.
        let Some(readers) = thread.looked else { return vec![] };
        let writer = self.threads.iter().position(|other| {
            let of_lock = other.wait.as_ref().filter(|(it, _)| it.lock.number == wait.lock.number);
            of_lock.is_some_and(|(other, _)| other.drains && other.is_patient)
        });
        if writer.is_none() {
            return vec![];
        }
        let mut known = self.holders(wait.lock.number, |mode| mode == Mode::Shared);
        known.iter_mut().for_each(|known| known.behind = writer);
        if known.len() == readers { known } else { vec![] }
    }

    fn holders(&self, lock: usize, of_mode: impl Fn(Mode) -> bool) -> Vec<Blocker> {
        let mut found = vec![];
        for (thread, seen) in self.threads.iter().enumerate() {
            for (at, (hold, _)) in seen.holds.iter().enumerate() {
                if hold.lock.number == lock && of_mode(hold.mode) {
                    found.push(Blocker { thread, hold: at, behind: None });
                }
            }
        }
        found
    }

    /// Cycles, so that each thread that is in any is in one of these. Each is a shortest one for one of its threads.
    fn cycles(&self) -> Vec<Deadlock> {
        let blockers: Vec<_> = self.threads.iter().map(|thread| self.blockers(thread)).collect();
        let (mut found, mut told) = (vec![], HashSet::new());
        for start in 0..self.threads.len() {
            if told.contains(&start) {
                continue;
            }
            if let Some(cycle) = shortest(start, &blockers) {
                told.extend(cycle.iter().map(|(thread, _)| *thread));
                found.push(self.deadlock(&cycle));
            }
        }
        found
    }

    /// `cycle`: threads, each with what keeps it from the lock for which it waits, which the next one has.
    fn deadlock(&self, cycle: &[(usize, Blocker)]) -> Deadlock {
        let blocked = cycle.iter().filter_map(|(at, blocker)| {
            let (thread, by) = (&self.threads[*at], &self.threads[blocker.thread]);
            let wait = thread.wait.as_ref()?;
            let hold = &by.holds[blocker.hold];
            let mut blocked = blocked(thread.name, wait, by.name, hold, &thread.holds);
            blocked.behind = blocker.behind.and_then(|writer| {
                let writer = &self.threads[writer];
                let (wait, trace) = writer.wait.as_ref()?;
                let waits_at = Site::new(wait.place, trace.as_deref());
                let wants = super::report::wanted(wait.mode);
                Some(WaitingWriter { thread: Thread::new(writer.name), wants, waits_at })
            });
            Some(blocked)
        });
        Deadlock { threads: blocked.collect() }
    }
}

/// A shortest cycle through `start`.
fn shortest(start: usize, blockers: &[Vec<Blocker>]) -> Option<Vec<(usize, Blocker)>> {
    // Each thread that was reached, with who waits for it, and for which hold.
    let mut reached: HashMap<usize, (usize, Blocker)> = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(thread) = queue.pop_front() {
        for by in &blockers[thread] {
            if by.thread == start {
                let mut cycle = vec![(thread, *by)];
                while let Some((waits, by)) = reached.get(&cycle[cycle.len() - 1].0) {
                    cycle.push((*waits, *by));
                }
                cycle.reverse();
                return Some(cycle);
            }
            if let Entry::Vacant(entry) = reached.entry(by.thread) {
                entry.insert((thread, *by));
                queue.push_back(by.thread);
            }
        }
    }
    None
}

fn blocked(
    name: threads::ThreadName,
    (wait, trace): &Traced<Waiting>,
    by: threads::ThreadName,
    (hold, hold_trace): &Traced<Hold>,
    holds: &[Traced<Hold>],
) -> BlockedThread {
    BlockedThread {
        thread: Thread::new(name),
        waits_for: Lock::new(wait.lock),
        wants: super::report::wanted(wait.mode),
        waits_at: Site::new(wait.place, trace.as_deref()),
        in_condvar: wait.look.is_some_and(|look| look.of_condvar),
        blocked_by: Thread::new(by),
        behind: None,
        held: super::report::held(hold.mode),
        held_since: Site::new(hold.place, hold_trace.as_deref()),
        holds: holds.iter().map(|(hold, trace)| HeldLock::new(hold, trace.as_deref())).collect(),
    }
}

/// The thread itself keeps it from the lock that it is about to wait for.
pub(super) fn of_one(record: &ThreadRecord, wait: &Waiting, own: &Hold) -> Deadlock {
    let name = record.name();
    let trace = |of| threads::copy_trace(of);
    let holds: Vec<_> = (0..).map_while(|at| record.hold(at)).map(|hold| (hold, None)).collect();
    let (wait, own) = ((*wait, trace(wait.trace)), (*own, trace(own.trace)));
    Deadlock { threads: vec![blocked(name, &wait, name, &own, &holds)] }
}

/// The deadlocks of this moment.
pub(super) fn check() -> Vec<Deadlock> {
    let first = Reading::now();
    if first.cycles().is_empty() {
        return vec![];
    }
    // What is asked of a lock is asked between two readings of the readers that it counts.
    let (middle, last) = (Reading::now(), Reading::now());
    middle.and_in(&first).and_in(&last).cycles()
}
