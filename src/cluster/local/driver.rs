//! The one task of a node: it owns the state machines of all keys, and does what they ask for.
//!
//! It is told nothing but that it should poll a key ([`RunQueue`](crate::cluster::local::run_queue::RunQueue)). Then
//! it reads from the key's state what is wanted, tells the machine, and does what the machine asks:
//! requests, a watch, grants and losses.
//!
//! # Time
//!
//! Safety rests on two rules. A request that comes out of [`Machine::handle`] is sent after the
//! clock was read for that call. The clock is read anew after an answer or a notice has arrived.

use crate::cluster::error::LockError;
use crate::cluster::guard::LossReason;
use crate::cluster::key::Key;
use crate::cluster::local::Local;
use crate::cluster::local::clock::Timer;
use crate::cluster::node::NodeShared;
use crate::cluster::node::Shutdown;
use crate::cluster::observer::Released;
use crate::cluster::protocol::{Action, Event, Failure, Intent, Machine, MachineSettings, Outcome};
use crate::cluster::time::Time;
use crate::{Condvar, Mutex};
use futures_util::future::{AbortHandle, BoxFuture};
use futures_util::stream::{BoxStream, FuturesUnordered, SelectAll, StreamExt};
use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::thread::ThreadId;
use std::time::Duration;

use crate::cluster::local::requests;

/// How many events it handles before it lets other tasks run.
const BUDGET: u32 = 256;

/// See the module. It is a future that ends when the node is closed.
pub(crate) struct Driver {
    core: Arc<NodeShared>,
    timer: Timer,
    entries: HashMap<Key, Entry>,
    /// When which machine is to be told that time has passed.
    due: BTreeSet<(Time, Key)>,
    responses: FuturesUnordered<BoxFuture<'static, (Key, Event)>>,
    notices: SelectAll<BoxStream<'static, (Key, u64, Event)>>,
    last_watch: u64,
    called: Vec<Arc<Local>>,
    /// It ends then, at the latest.
    closing: Option<Time>,
    report: Shutdown,
}

/// What it has of one key.
struct Entry {
    machine: Machine,
    local: Arc<Local>,
    /// The intent that the machine has.
    told: Intent,
    /// The watch's number, and how to end it.
    watch: Option<(u64, AbortHandle)>,
    due: Option<Time>,
}

impl Driver {
    pub(crate) fn new(core: Arc<NodeShared>, timer: Timer) -> Self {
        Self {
            core,
            timer,
            entries: HashMap::new(),
            due: BTreeSet::new(),
            responses: FuturesUnordered::new(),
            notices: SelectAll::new(),
            last_watch: 0,
            called: vec![],
            closing: None,
            report: Shutdown::default(),
        }
    }

    /// Handles everything that is there. Pending: the budget is used up.
    fn work(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // One for each source: none keeps the others out.
        let [mut calls, mut responses, mut notices, mut timers] = [BUDGET; 4];
        loop {
            let before = [calls, responses, notices, timers];
            self.closing = self.core.run_queue.open(&mut self.called).or(self.closing);
            while calls > 0
                && let Some(local) = self.called.pop()
            {
                calls -= 1;
                self.poll_key(local);
            }
            while responses > 0
                && let Poll::Ready(Some((key, event))) = self.responses.poll_next_unpin(cx)
            {
                responses -= 1;
                self.tell(&key, event);
            }
            while notices > 0
                && let Poll::Ready(Some((key, watch, event))) = self.notices.poll_next_unpin(cx)
            {
                notices -= 1;
                if self.entries.get(&key).is_some_and(|entry| entry.is_watched_by(watch)) {
                    self.tell(&key, event);
                }
            }
            let now = self.core.clock.now();
            self.core.run_queue.fire_timers(now);
            while timers > 0 && self.due.first().is_some_and(|(at, _)| *at <= now) {
                timers -= 1;
                let Some((_, key)) = self.due.pop_first() else { break };
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.due = None;
                }
                self.tell(&key, Event::Timer);
            }
            // After the timers: who is woken at a deadline is to know the cause.
            self.core.run_queue.fire_timers(now);
            let left = [calls, responses, notices, timers];
            if left.contains(&0) {
                return Poll::Pending;
            }
            if left == before {
                return Poll::Ready(());
            }
        }
    }

    /// A key has called.
    fn poll_key(&mut self, local: Arc<Local>) {
        if !self.entries.contains_key(&local.key) {
            if local.state().is_at_rest() {
                self.core.forget(&local);
                return;
            }
            let machine = Machine::new(self.settings());
            let (told, watch, due) = (Intent::Nothing, None, None);
            let key = local.key.clone();
            self.entries.insert(key, Entry { machine, local: local.clone(), told, watch, due });
        }
        self.settle(&local.key);
    }

    fn settings(&self) -> MachineSettings {
        let config = &self.core.config;
        MachineSettings {
            node: self.core.node,
            label: config.label.clone(),
            lease: config.lease,
            claim_window: config.claim_window,
            poll: config.poll,
            queue_limit: config.queue_limit,
            unavailable_timeout: config.unavailable_timeout,
            wakeups: self.core.capabilities.wakeups,
            seed: self.core.random.lock().u64(..),
        }
    }

    /// An event for a machine, and what follows from it.
    fn tell(&mut self, key: &Key, event: Event) {
        self.handle(key, event);
        self.settle(key);
    }

    /// Tells the machine what is wanted, until it knows. Forgets it if that is nothing.
    fn settle(&mut self, key: &Key) {
        loop {
            let Some(entry) = self.entries.get_mut(key) else { return };
            let Some(event) = entry.local.state().next_event(entry.told) else { break };
            if let Event::Intent(intent) = event {
                entry.told = intent;
            }
            self.handle(key, event);
        }
        let Some(entry) = self.entries.get(key) else { return };
        let is_idle = entry.machine.is_idle() && entry.told == Intent::Nothing;
        if is_idle && (self.core.forget(&entry.local) || self.closing.is_some()) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        if let Some(at) = entry.due {
            self.due.remove(&(at, key.clone()));
        }
        if let Some((_, abort)) = entry.watch {
            abort.abort();
        }
    }

    /// One event for a machine.
    fn handle(&mut self, key: &Key, event: Event) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        // Before anything is sent, and after anything was received.
        let now = self.core.clock.now();
        if matches!(event, Event::WatchEnded | Event::Watching(Err(_))) {
            entry.watch = None;
        }
        entry.machine.handle(event, now);
        while let Some(entry) = self.entries.get_mut(key)
            && let Some(action) = entry.machine.next_action()
        {
            self.act(key, action, now);
        }
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.local.state().set_others_wait(entry.machine.others_wait());
        let at = entry.machine.wake_at();
        if at != entry.due {
            if let Some(before) = entry.due.take() {
                self.due.remove(&(before, key.clone()));
            }
            if let Some(at) = at {
                self.due.insert((at, key.clone()));
            }
            entry.due = at;
        }
    }

    fn act(&mut self, key: &Key, action: Action, now: Time) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let core = &self.core;
        match action {
            Action::Load { request } => {
                let (core, key) = (core.clone(), key.clone());
                self.responses.push(Box::pin(async move {
                    let result = requests::load(&core, &key).await;
                    (key, Event::Loaded { request, result })
                }));
            }
            Action::CompareExchange { request, expected, write } => {
                let (core, key) = (core.clone(), key.clone());
                self.responses.push(Box::pin(async move {
                    let result = requests::compare_exchange(&core, &key, expected, write).await;
                    (key, Event::Exchanged { request, result })
                }));
            }
            Action::Watch => {
                self.last_watch += 1;
                let (watch, of) = (self.last_watch, key.clone());
                let (events, abort) = requests::watch(core, key);
                entry.watch = Some((watch, abort));
                self.notices.push(events.map(move |event| (of.clone(), watch, event)).boxed());
            }
            Action::Unwatch => {
                if let Some((_, abort)) = entry.watch.take() {
                    abort.abort();
                }
            }
            Action::Granted(grant) => {
                entry.told = Intent::Nothing;
                entry.local.granted(core, grant, now);
            }
            Action::Renewed { version, deadline } => {
                if entry.local.renewed(core, version, deadline) {
                    core.observe(|observer| observer.renewed(key));
                } else {
                    // Somebody has looked at the clock in between, and was told that it is over.
                    Self::lose(core, entry, LossReason::Expired { last: None });
                    self.handle(key, Event::Release);
                }
            }
            Action::Lost(loss) => Self::lose(core, entry, loss.into()),
            Action::Released(outcome) => {
                if Self::release(core, entry, outcome) && entry.local.state().is_closed() {
                    self.report.released.push(key.clone());
                }
            }
            Action::Failed(failure) => {
                let intent = std::mem::replace(&mut entry.told, Intent::Nothing);
                let error = explain(core, key, failure);
                entry.local.failed(&error, intent);
            }
        }
    }

    fn lose(core: &Arc<NodeShared>, entry: &Entry, why: LossReason) {
        let key = &entry.local.key;
        match entry.local.lost(core, why.clone()) {
            None => {}
            Some(true) => core.observe(|observer| observer.lost(key, &why)),
            Some(false) => core.observe(|observer| observer.released(key, Released::Lost)),
        }
    }

    /// Whether it was held until it was given back.
    fn release(core: &Arc<NodeShared>, entry: &Entry, outcome: Outcome) -> bool {
        let was_ours = entry.local.released(core, outcome);
        if was_ours {
            let how = match outcome {
                Outcome::Held => Released::Held,
                Outcome::Lost => Released::Lost,
                Outcome::Indeterminate => Released::Indeterminate,
            };
            core.observe(|observer| observer.released(&entry.local.key, how));
        }
        was_ours && outcome == Outcome::Held
    }

    /// Whether a closed node has nothing left to do.
    fn is_done(&self) -> bool {
        let Some(by) = self.closing else { return false };
        self.entries.values().all(|entry| entry.machine.is_idle()) || self.core.clock.now() >= by
    }
}

impl Entry {
    fn is_watched_by(&self, watch: u64) -> bool {
        self.watch.as_ref().is_some_and(|(known, _)| *known == watch)
    }
}

/// A failure, for the user.
fn explain(core: &NodeShared, key: &Key, failure: Failure) -> LockError {
    let at = core.context(key);
    match failure {
        Failure::Busy { holder } => LockError::Busy { at, holder },
        Failure::Transport(source) => LockError::Transport { at, tried: "acquiring", source },
        Failure::Unreadable(source) => LockError::Unreadable { at, source },
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let core = self.core.clone();
        let _driven = core.driving.begin();
        loop {
            let is_pending = self.work(cx).is_pending();
            if self.is_done() {
                return Poll::Ready(());
            }
            if is_pending {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Poll::Ready(alarm) = self.core.run_queue.sleep(self.closing, cx) else { continue };
            let due = self.due.first().map(|(at, _)| *at);
            let Some(at) = [alarm, due, self.closing].into_iter().flatten().min() else {
                return Poll::Pending;
            };
            match self.timer.poll(at, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                // A timer that the system cannot set: no lock could be trusted to end.
                Poll::Ready(Err(_)) => return Poll::Ready(()),
            }
        }
    }
}

impl Drop for Driver {
    /// The end: the node was closed, or the runtime shuts down, or something here panicked.
    fn drop(&mut self) {
        let left = self.entries.values().filter(|entry| !entry.machine.is_idle());
        self.report.indeterminate = left.map(|entry| entry.local.key.clone()).collect();
        self.report.indeterminate.sort();
        let report = std::mem::take(&mut self.report);
        self.core.shut_down(report);
    }
}

// Which thread runs the driver: it must not wait for what only the driver can do.
/// How long to wait for the driver to be run for the first time, to know where.
const FIRST: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Driving {
    threads: Mutex<Threads>,
    known: Condvar,
}

#[derive(Debug, Default)]
struct Threads {
    /// Runs it at this moment.
    now: Option<ThreadId>,
    /// Has run it last.
    last: Option<ThreadId>,
}

/// The driver runs on this thread until this is dropped.
pub(crate) struct Driven<'a>(&'a Driving);

impl Driving {
    pub(crate) fn begin(&self) -> Driven<'_> {
        let here = Some(thread::current().id());
        let mut threads = self.threads.lock();
        threads.now = here;
        if threads.last.is_none() {
            self.known.notify_all();
        }
        threads.last = here;
        drop(threads);
        Driven(self)
    }

    /// Whether the driver is running on this thread at this moment: it has called something that
    /// calls back.
    pub(crate) fn is_here(&self) -> bool {
        self.threads.lock().now == Some(thread::current().id())
    }

    /// Whether this thread is the one that runs the driver, where only one ever does. If nobody has
    /// run it for a second, it is taken for this one that should.
    pub(crate) fn is_by_this_thread(&self) -> bool {
        let mut threads = self.threads.lock();
        if threads.last.is_none() {
            self.known.wait_while_for(&mut threads, |threads| threads.last.is_none(), FIRST);
        }
        threads.last.is_none_or(|last| last == thread::current().id())
    }
}

impl Drop for Driven<'_> {
    fn drop(&mut self) {
        self.0.threads.lock().now = None;
    }
}
