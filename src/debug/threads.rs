//! Which thread holds which locks, and for which one it waits.
//!
//! Each thread has a [`ThreadRecord`], which it takes at its first acquisition and gives back when it ends. It changes
//! its own one only, but for a release: the guard may have been acquired by another thread.

use super::memory::{Guarded, Linked, List, leak};
use super::order::Class;
use crate::primitive::{AtomicPtr, AtomicUsize, Ordering};
use crate::raw::fork;
use crate::traced::{LockType, Look, Mode, Place, Traced};
use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::ptr;
use std::sync::Arc;

/// A backtrace of a hold or a wait: null, or from an `Arc`.
pub(super) type Trace = *const Backtrace;

/// A lock, as it was when it was acquired or waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct LockSeen {
    pub(super) number: usize,
    pub(super) address: usize,
    pub(super) lock_type: LockType,
    pub(super) class: Option<&'static Class>,
}

impl LockSeen {
    pub(super) fn new(traced: &Traced, place: Place) -> Self {
        Self {
            number: traced.number(),
            address: traced.address(),
            lock_type: traced.lock_type(),
            class: Class::of(traced, place),
        }
    }
}

/// A thread holds a lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    /// Which of the thread's holds and waits it is.
    pub(super) sequence: u64,
    pub(super) lock: LockSeen,
    pub(super) mode: Mode,
    pub(super) place: Place,
    pub(super) trace: Trace,
}

/// A thread waits for a lock, or for a Condvar and then for its mutex.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(super) sequence: u64,
    pub(super) lock: LockSeen,
    pub(super) mode: Mode,
    pub(super) place: Place,
    /// It waits for as long as it takes.
    pub(super) is_patient: bool,
    pub(super) look: Option<Look>,
    /// It is the writer that keeps readers out, until the wait ends.
    pub(super) drains: bool,
    pub(super) trace: Trace,
}

/// Who a thread is.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThreadName {
    /// No other thread has or had it.
    pub(super) number: usize,
    /// What the system calls it.
    pub(super) system: i64,
    name: [u8; 16],
    is_main: bool,
}

impl ThreadName {
    const NONE: Self = Self { number: 0, system: 0, name: [0; 16], is_main: false };

    /// Of this thread. `std::thread::current` has the whole name, but allocates where the thread is not std's.
    fn own() -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        #[allow(unused_mut, reason = "only some systems tell more")]
        let mut own = Self { number: LAST.fetch_add(1, Ordering::Relaxed) + 1, ..Self::NONE };
        #[cfg(all(any(target_os = "linux", target_os = "android"), not(miri)))]
        // SAFETY: PR_GET_NAME writes 16 bytes at most, the last of which is 0; the others take nothing.
        unsafe {
            libc::prctl(libc::PR_GET_NAME, own.name.as_mut_ptr());
            let thread = libc::syscall(libc::SYS_gettid);
            own.is_main = thread == libc::c_long::from(libc::getpid());
            #[allow(clippy::useless_conversion, reason = "it has 32 bits on some platforms")]
            let thread = i64::from(thread);
            own.system = thread;
        }
        own
    }

    pub(super) fn name(&self) -> String {
        if self.is_main {
            return "main".to_owned();
        }
        let name = self.name.split(|byte| *byte == 0).next().unwrap_or_default();
        if name.is_empty() {
            return format!("thread {}", self.number);
        }
        String::from_utf8_lossy(name).into_owned()
    }
}

/// The holds of a thread: a vector whose memory is that of the system.
#[derive(Debug)]
struct Holds {
    memory: *mut Hold,
    capacity: usize,
    length: usize,
}

// SAFETY: the memory is owned, and what a hold points to may be shared by threads.
unsafe impl Send for Holds {}

impl Holds {
    const EMPTY: Self = Self { memory: ptr::null_mut(), capacity: 0, length: 0 };

    fn as_slice(&self) -> &[Hold] {
        if self.length == 0 {
            return &[];
        }
        // SAFETY: so many were written.
        unsafe { std::slice::from_raw_parts(self.memory, self.length) }
    }

    fn as_mut(&mut self) -> &mut [Hold] {
        if self.length == 0 {
            return &mut [];
        }
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.memory, self.length) }
    }

    /// Without memory the hold is not kept.
    fn push(&mut self, hold: Hold) {
        if self.length == self.capacity {
            let capacity = (2 * self.capacity).max(16);
            let Ok(layout) = Layout::array::<Hold>(capacity) else { return };
            // SAFETY: the size is not 0.
            let memory = unsafe { System.alloc(layout) }.cast::<Hold>();
            if memory.is_null() {
                return;
            }
            if let Ok(old) = Layout::array::<Hold>(self.capacity)
                && self.capacity != 0
            {
                // SAFETY: both are of one type, and the old one was allocated with that layout.
                unsafe {
                    ptr::copy_nonoverlapping(self.memory, memory, self.length);
                    System.dealloc(self.memory.cast(), old);
                }
            }
            (self.memory, self.capacity) = (memory, capacity);
        }
        // SAFETY: there is room.
        unsafe { self.memory.add(self.length).write(hold) };
        self.length += 1;
    }

    fn remove(&mut self, at: usize) -> Hold {
        let hold = self.as_slice()[at];
        self.as_mut().copy_within(at + 1.., at);
        self.length -= 1;
        hold
    }
}

#[derive(Debug)]
struct State {
    name: ThreadName,
    sequence: u64,
    holds: Holds,
    wait: Option<Waiting>,
}

// SAFETY: what a wait points to is looked at while the wait lasts only, and may be looked at by any thread.
unsafe impl Send for State {}

/// What one thread holds and waits for.
#[derive(Debug)]
pub(super) struct ThreadRecord {
    next: AtomicPtr<ThreadRecord>,
    owner: AtomicUsize,
    /// So many forks there were when it was taken.
    forks: AtomicUsize,
    /// How many holds there are: for the thread itself.
    count: AtomicUsize,
    state: Guarded<State>,
}

const FREE: usize = 0;
const OWNED: usize = 1;
/// The thread has ended, and somebody has a guard of it.
const ENDED: usize = 2;

static RECORDS: List<ThreadRecord> = List::new();

impl Linked for ThreadRecord {
    fn link(&self) -> &AtomicPtr<Self> {
        &self.next
    }
}

/// What this thread knows of itself.
struct Mine {
    record: Cell<Option<&'static ThreadRecord>>,
    forks: Cell<usize>,
    /// It is in code of the instruments, or in what that calls.
    is_inside: Cell<bool>,
    has_ended: Cell<bool>,
}

/// Gives the record back when the thread ends.
struct Ends;

thread_local! {
    // Const and without a destructor: there for as long as the thread lives, where the system has such.
    static MINE: Mine = const {
        Mine {
            record: Cell::new(None),
            forks: Cell::new(0),
            is_inside: Cell::new(false),
            has_ended: Cell::new(false),
        }
    };
    static ENDS: Ends = const { Ends };
}

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = MINE.try_with(|mine| {
            mine.has_ended.set(true);
            // Not that of the thread which forked, in the child.
            if let Some(record) = mine.record.take()
                && mine.forks.get() == fork::forks()
            {
                record.end();
            }
        });
    }
}

/// Is inside until it is dropped.
struct Inside<'a>(&'a Mine);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.is_inside.set(false);
    }
}

/// Runs this as the code of an instrument, so that the locks that it uses tell nothing. `None`: it is such code already.
#[inline]
pub(super) fn inside<R>(code: impl FnOnce(Option<&'static ThreadRecord>) -> R) -> Option<R> {
    MINE.try_with(|mine| {
        if mine.is_inside.replace(true) {
            return None;
        }
        let _inside = Inside(mine);
        let record = match mine.record.get() {
            Some(record) if mine.forks.get() == fork::forks() => Some(record),
            before => take(mine, before),
        };
        Some(code(record))
    })
    .ok()
    .flatten()
}

/// Takes a record for this thread. `before`: what it had before the fork of which this process is the child.
#[cold]
fn take(mine: &Mine, before: Option<&'static ThreadRecord>) -> Option<&'static ThreadRecord> {
    if mine.has_ended.get() || ENDS.try_with(|_| ()).is_err() {
        return None;
    }
    let forks = fork::forks();
    let free = RECORDS.iter().find(|record| record.try_take(forks));
    let record = match free {
        Some(record) => record,
        None => {
            let holds = Holds::EMPTY;
            let record = leak(ThreadRecord {
                next: AtomicPtr::new(ptr::null_mut()),
                owner: AtomicUsize::new(OWNED),
                forks: AtomicUsize::new(forks),
                count: AtomicUsize::new(0),
                state: Guarded::new(State {
                    name: ThreadName::NONE,
                    sequence: 0,
                    holds,
                    wait: None,
                }),
            })?;
            RECORDS.push(record);
            record
        }
    };
    let name = ThreadName::own();
    record.state.with(|state| {
        state.name = name;
        state.wait = None;
        if let Some(before) = before {
            // SAFETY: of the threads that could change it, this is the only one in this process.
            let before = unsafe { &*before.state.as_ptr() };
            before.holds.as_slice().iter().for_each(|hold| {
                state.sequence += 1;
                let sequence = state.sequence;
                state.holds.push(Hold { sequence, trace: ptr::null(), ..*hold });
            });
        }
        record.count.store(state.holds.length, Ordering::Relaxed);
    });
    mine.record.set(Some(record));
    mine.forks.set(forks);
    Some(record)
}

impl ThreadRecord {
    /// Makes it this thread's, if it is nobody's, in this process or in one before the fork.
    fn try_take(&self, forks: usize) -> bool {
        // ORDERING: Acquire pairs with the Release of `end`.
        let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
        if self.forks.load(relaxed) == forks {
            return self.owner.load(relaxed) == FREE
                && self.owner.compare_exchange(FREE, OWNED, acquire, relaxed).is_ok();
        }
        let before = self.forks.load(relaxed);
        // One that has an owner may be that of the thread that forked, which has not locked since. While one is taken
        // over it is of no process.
        if self.owner.load(relaxed) != FREE
            || [forks, usize::MAX].contains(&before)
            || self.forks.compare_exchange(before, usize::MAX, acquire, relaxed).is_err()
        {
            return false;
        }
        // It may have been left in the middle of a change, and what it has is not freed.
        self.state.with(|state| (state.holds, state.wait) = (Holds::EMPTY, None));
        self.owner.store(OWNED, relaxed);
        // ORDERING: Release pairs with the Acquire in `is_alive`.
        self.forks.store(forks, Ordering::Release);
        true
    }

    /// The thread ends.
    fn end(&self) {
        self.state.with(|state| {
            state.wait = None;
            let owner = if state.holds.length == 0 { FREE } else { ENDED };
            self.owner.store(owner, Ordering::Release);
        });
    }

    /// One of its holds was removed by another thread.
    fn end_if_empty(&self) {
        self.state.with(|state| {
            if state.holds.length == 0 && self.owner.load(Ordering::Relaxed) == ENDED {
                self.owner.store(FREE, Ordering::Release);
            }
        });
    }

    fn is_alive(&self) -> bool {
        self.owner.load(Ordering::Acquire) != FREE
            && self.forks.load(Ordering::Acquire) == fork::forks()
    }

    /// Whether the thread, which asks, holds nothing.
    #[inline]
    pub(super) fn holds_nothing(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// The hold of that number in the order of acquisition.
    pub(super) fn hold(&self, at: usize) -> Option<Hold> {
        self.state.with(|state| state.holds.as_slice().get(at).copied())
    }

    /// The trace of that hold, for one more owner.
    pub(super) fn keep_trace(&self, sequence: u64) -> Trace {
        self.state.with(|state| {
            let hold = state.holds.as_slice().iter().find(|hold| hold.sequence == sequence);
            hold.and_then(|hold| copy_trace(hold.trace)).map_or(ptr::null(), Arc::into_raw)
        })
    }

    pub(super) fn name(&self) -> ThreadName {
        self.state.with(|state| state.name)
    }

    /// The thread holds the lock from now on.
    #[inline]
    pub(super) fn add(&self, lock: LockSeen, mode: Mode, place: Place, trace: Trace) {
        self.state.with(|state| {
            state.sequence += 1;
            let sequence = state.sequence;
            state.holds.push(Hold { sequence, lock, mode, place, trace });
            self.count.store(state.holds.length, Ordering::Relaxed);
        });
    }

    /// The thread waits from now on, or as before. Returns for what it waited before.
    pub(super) fn begin_wait(&self, mut wait: Waiting) -> Option<Waiting> {
        self.state.with(|state| {
            state.sequence += 1;
            wait.sequence = state.sequence;
            state.wait.replace(wait)
        })
    }

    /// The thread, which waits for the lock of that number, is the writer that keeps readers out.
    pub(super) fn drains(&self, number: usize) {
        self.state.with(|state| {
            if let Some(wait) = &mut state.wait
                && wait.lock.number == number
            {
                wait.drains = true;
            }
        });
    }

    /// It does not wait any more, but for what it waited for before. Returns the wait that has ended.
    pub(super) fn end_wait(&self, before: Option<Waiting>) -> Option<Waiting> {
        self.state.with(|state| std::mem::replace(&mut state.wait, before))
    }

    /// The last hold of this kind is removed, or changes its mode to `to`.
    #[inline]
    fn remove(&self, number: usize, mode: Mode, to: Option<Mode>) -> Option<Option<Trace>> {
        self.state.with(|state| {
            let holds = state.holds.as_slice();
            let is_it = |hold: &Hold| hold.lock.number == number && hold.mode == mode;
            let at = holds.iter().rposition(is_it)?;
            Some(match to {
                None => {
                    let removed = state.holds.remove(at);
                    self.count.store(state.holds.length, Ordering::Relaxed);
                    Some(removed.trace)
                }
                Some(to) => {
                    state.sequence += 1;
                    let hold = &mut state.holds.as_mut()[at];
                    (hold.mode, hold.sequence) = (to, state.sequence);
                    None
                }
            })
        })
    }
}

/// A hold of the lock ends, or changes its mode to `to`: of this thread, or if it has none, of another one.
#[inline]
pub(super) fn end_hold(own: Option<&ThreadRecord>, number: usize, mode: Mode, to: Option<Mode>) {
    let ended = match own.and_then(|own| own.remove(number, mode, to)) {
        // Of readers it is not known which one it is.
        None if mode != Mode::Shared => end_hold_elsewhere(number, mode, to),
        ended => ended,
    };
    if let Some(Some(trace)) = ended {
        drop_trace(trace);
    }
}

#[cold]
fn end_hold_elsewhere(number: usize, mode: Mode, to: Option<Mode>) -> Option<Option<Trace>> {
    RECORDS.iter().filter(|record| record.is_alive()).find_map(|record| {
        let ended = record.remove(number, mode, to)?;
        record.end_if_empty();
        Some(ended)
    })
}

/// The backtrace of this moment, if one is asked for.
pub(super) fn trace() -> Trace {
    if super::BACKTRACES.load(Ordering::Relaxed) { capture() } else { ptr::null() }
}

#[cold]
fn capture() -> Trace {
    let trace = Backtrace::capture();
    let is_there = trace.status() == std::backtrace::BacktraceStatus::Captured;
    if is_there { Arc::into_raw(Arc::new(trace)) } else { ptr::null() }
}

#[inline]
pub(super) fn drop_trace(trace: Trace) {
    if !trace.is_null() {
        // SAFETY: each hold and wait owns its own.
        drop(unsafe { Arc::from_raw(trace) });
    }
}

/// A copy of a trace, whose hold or wait lasts.
pub(super) fn copy_trace(trace: Trace) -> Option<Arc<Backtrace>> {
    if trace.is_null() {
        return None;
    }
    // SAFETY: from an `Arc` that the hold or wait owns.
    unsafe {
        Arc::increment_strong_count(trace);
        Some(Arc::from_raw(trace))
    }
}

/// What one thread held and waited for at one moment.
#[derive(Debug)]
pub(super) struct ThreadSeen {
    pub(super) name: ThreadName,
    pub(super) holds: Vec<(Hold, Option<Arc<Backtrace>>)>,
    pub(super) wait: Option<(Waiting, Option<Arc<Backtrace>>)>,
    /// What `look` of the wait has returned.
    pub(super) looked: Option<usize>,
}

/// What all threads hold and wait for: each at one moment, one after the other.
pub(super) fn all() -> Vec<ThreadSeen> {
    RECORDS.iter().filter(|record| record.is_alive()).filter_map(seen).collect()
}

fn seen(record: &'static ThreadRecord) -> Option<ThreadSeen> {
    let mut holds = Vec::with_capacity(16);
    loop {
        // Nothing is allocated while the record is locked.
        let seen = record.state.with(|state| {
            let all = state.holds.as_slice();
            if all.len() > holds.capacity() {
                return Err(all.len());
            }
            holds.extend(all.iter().map(|hold| (*hold, copy_trace(hold.trace))));
            let wait = state.wait.map(|wait| (wait, copy_trace(wait.trace)));
            // SAFETY: the wait lasts, since its thread needs the record to end it.
            let look = |look: Look| unsafe { (look.look)(look.of) };
            let looked = state.wait.and_then(|wait| wait.look).and_then(look);
            Ok((state.name, wait, looked))
        });
        match seen {
            Err(more) => holds.reserve(more),
            Ok((name, wait, looked)) => {
                let is_idle = holds.is_empty() && wait.is_none();
                return (!is_idle).then_some(ThreadSeen { name, holds, wait, looked });
            }
        }
    }
}
