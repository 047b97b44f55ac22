//! A node: its clock, its machines, and what its threads do with the lock.

use super::world::{MS, Moment, SimClock};
use super::world::{Scheduled, World};
use crate::cluster::protocol::register::ClaimId;
use crate::cluster::protocol::{Action, Event, Grant, Intent, Machine};
use crate::cluster::time::Time;
use crate::cluster::token::FencingToken;
use crate::cluster::transport::{NodeId, TransportError, Version, Versioned, Write};
use std::time::Duration;

/// What becomes of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessState {
    Running,
    /// It handles nothing. With its virtual machine, its clock stands still too.
    Asleep,
    /// It was killed. Whoever comes after it is another node.
    Dead,
}

/// A process.
#[derive(Debug)]
pub(super) struct SimNode {
    pub(super) id: NodeId,
    pub(super) clock: SimClock,
    pub(super) life: ProcessState,
    /// How far away the engine is, one way, if not as far as for all.
    pub(super) latency: Option<Moment>,
    /// Cut off from the engine.
    pub(super) is_partitioned: bool,
    /// What came while it slept.
    pub(super) inbox: Vec<Input>,
    /// One for each key.
    pub(super) drivers: Vec<KeyDriver>,
}

/// What a node has to do with one key.
#[derive(Debug)]
pub(super) struct KeyDriver {
    pub(super) machine: Machine,
    /// What the machine was told so far, counted.
    pub(super) handled: u64,
    /// Requests whose answer the driver still waits for.
    pub(super) awaited: Vec<u64>,
    /// When the last one was decided on, in true time.
    pub(super) requested_at: Moment,
    /// When the last request failed, if it did, in true time.
    pub(super) failed_at: Option<Moment>,
    /// The watch that was asked for last, and whether that was answered.
    pub(super) watch: Option<(u64, bool)>,
    /// Until when the timer sleeps, on the node's clock, and the number of that sleep.
    pub(super) timer: Option<(Time, u64)>,
    /// The time of the last timer, and how often it came at that time.
    pub(super) timer_repeats: (Time, u32),
    pub(super) local: LocalThreads,
}

/// What the node's threads want of one key and do with it, and what they were told.
#[derive(Debug, Default)]
pub(super) struct LocalThreads {
    /// The intent that the machine was told last, while it is not granted, failed or cancelled.
    pub(super) intent: Option<(Intent, Moment)>,
    /// Counts wishes and held leases, so that a late step meets the one that it was meant for.
    pub(super) serial: u64,
    pub(super) held_lease: Option<SimLease>,
    /// What was released, until that is answered: and whether the answer may be anything.
    pub(super) releasing: Option<SimLease>,
    pub(super) grants: u64,
}

/// The lock is held here, as far as the node knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct SimLease {
    pub(super) serial: u64,
    pub(super) claim: ClaimId,
    pub(super) granted: Version,
    pub(super) deadline: Time,
    /// What the next token is made of.
    pub(super) base: Version,
    pub(super) next: u32,
    /// The token of the one who holds the lock on this node now.
    pub(super) token: FencingToken,
    /// The clock stood still, or an operator broke the lock: no exclusion was promised.
    pub(super) is_excused: bool,
}

impl SimLease {
    pub(super) fn new(serial: u64, claim: ClaimId, grant: &Grant) -> Self {
        Self {
            serial,
            claim,
            granted: grant.version,
            deadline: grant.deadline,
            base: grant.version,
            next: 1,
            token: FencingToken::of(grant.version, 0).expect("the first token of a version"),
            is_excused: false,
        }
    }
}

/// A request on its way.
#[derive(Clone, Debug)]
pub(super) struct EngineRequest {
    pub(super) node: usize,
    pub(super) key: usize,
    /// The number that the machine gave it, and one that no other request has.
    pub(super) request: u64,
    pub(super) number: u64,
    pub(super) what: RequestBody,
}

#[derive(Clone, Debug)]
pub(super) enum RequestBody {
    Load,
    Exchange(Option<Version>, Write),
}

/// What a thread does.
#[derive(Clone, Copy, Debug)]
pub(super) enum ThreadStep {
    Want,
    Cancel(u64),
    Use(u64),
    HandOff(u64),
    Refresh(u64),
    Finish(u64),
}

/// What comes to a node.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Timer {
        key: usize,
        number: u64,
    },
    /// A request that is decided on leaves.
    Send(EngineRequest),
    Response {
        key: usize,
        number: u64,
        event: Event,
    },
    /// No answer came in time.
    TimedOut {
        key: usize,
        number: u64,
        request: u64,
        is_load: bool,
    },
    Watching {
        key: usize,
        watch: u64,
        result: Result<(), TransportError>,
    },
    Noticed {
        key: usize,
        watch: u64,
        seen: Option<Versioned>,
    },
    WatchEnded {
        key: usize,
        watch: u64,
    },
    Thread {
        key: usize,
        step: ThreadStep,
    },
}

impl Input {
    /// Timers may be looked at before or after everything else.
    pub(super) fn is_timer(&self) -> bool {
        matches!(self, Self::Timer { .. } | Self::TimedOut { .. } | Self::Thread { .. })
    }
}

// What the real driver does around a machine: it tells it what comes, does what it asks for, gives
// up what is not answered in time, and keeps one timer.
impl World {
    /// Something comes to a node that runs.
    pub(super) fn deliver(&mut self, node: usize, input: Input) {
        let is_partitioned = self.nodes[node].is_partitioned;
        match input {
            Input::Timer { key, number } => self.timer(node, key, number),
            Input::Send(request) => {
                if !self.is_awaited(node, request.key, request.number) {
                    // It was given up before it left.
                } else if self.chance(self.profile.freeze_at_send) && !self.is_calm() {
                    self.fault(Scheduled::Freeze { node, again: false });
                    self.nodes[node].inbox.push(Input::Send(request));
                } else {
                    self.send(request);
                }
            }
            Input::Response { key, number, event } => {
                if !is_partitioned && self.end_request(node, key, number) {
                    self.handle(node, key, event);
                }
            }
            Input::TimedOut { key, number, request, is_load } => {
                if self.end_request(node, key, number) {
                    self.handle(
                        node,
                        key,
                        if is_load {
                            let result = Err(TransportError::unavailable("no answer"));
                            Event::Loaded { request, result }
                        } else {
                            let result = Err(TransportError::indeterminate("no answer"));
                            Event::Exchanged { request, result }
                        },
                    );
                }
            }
            Input::Watching { key, watch, result } => {
                let lost = is_partitioned && result.is_ok();
                if !lost && self.nodes[node].drivers[key].watch == Some((watch, false)) {
                    self.nodes[node].drivers[key].watch = result.is_ok().then_some((watch, true));
                    if result.is_err() {
                        self.watchers[key].retain(|watcher| watcher.watch != watch);
                    }
                    self.handle(node, key, Event::Watching(result));
                }
            }
            Input::Noticed { key, watch, seen } => match self.nodes[node].drivers[key].watch {
                Some((present, true)) if present == watch && !is_partitioned => {
                    self.handle(node, key, Event::Noticed(seen));
                }
                // It waits behind the answer to the subscription.
                Some((present, false)) if present == watch && !is_partitioned => {
                    self.schedule_after(
                        MS,
                        Scheduled::AtNode(node, Input::Noticed { key, watch, seen }),
                    );
                }
                _ => {}
            },
            Input::WatchEnded { key, watch } => match self.nodes[node].drivers[key].watch {
                Some((present, true)) if present == watch => {
                    self.nodes[node].drivers[key].watch = None;
                    self.handle(node, key, Event::WatchEnded);
                }
                Some((present, false)) if present == watch => {
                    self.schedule_after(
                        MS,
                        Scheduled::AtNode(node, Input::WatchEnded { key, watch }),
                    );
                }
                _ => {}
            },
            Input::Thread { key, step } => self.act(node, key, step),
        }
    }

    fn is_awaited(&self, node: usize, key: usize, number: u64) -> bool {
        self.nodes[node].drivers[key].awaited.contains(&number)
    }

    /// The answer is here, or given up: whether it was still waited for.
    fn end_request(&mut self, node: usize, key: usize, number: u64) -> bool {
        let awaited = &mut self.nodes[node].drivers[key].awaited;
        let before = awaited.len();
        awaited.retain(|request| *request != number);
        awaited.len() < before
    }

    fn timer(&mut self, node: usize, key: usize, number: u64) {
        let now = self.clock(node);
        let driver = &mut self.nodes[node].drivers[key];
        match driver.timer {
            Some((at, present)) if present == number && now >= at => {
                driver.timer = None;
                driver.timer_repeats = if driver.timer_repeats.0 == now {
                    (now, driver.timer_repeats.1 + 1)
                } else {
                    (now, 1)
                };
                if driver.timer_repeats.1 > 3 {
                    return self.violate(format!("{node} is woken at one time again and again"));
                }
                self.handle(node, key, Event::Timer);
            }
            // Its clock stood still.
            Some((at, present)) if present == number => {
                let at = self.nodes[node].clock.when(at);
                self.schedule(at, Scheduled::AtNode(node, Input::Timer { key, number }));
            }
            _ => {}
        }
    }

    /// Tells the machine, and does what it asks for.
    pub(super) fn handle(&mut self, node: usize, key: usize, event: Event) {
        self.pass_to_machine(node, key, event);
        let handled = self.nodes[node].drivers[key].handled;
        if let Some((of, after, _)) = &self.interruption
            && (*of, *after) == (node, handled)
        {
            let (_, _, events) = self.interruption.take().expect("it was looked at");
            for event in events {
                if self.interrupt(node, key, &event) {
                    self.pass_to_machine(node, key, event);
                }
            }
        }
    }

    fn pass_to_machine(&mut self, node: usize, key: usize, event: Event) {
        let now = self.clock(node);
        if self.event_log.keeps_lines() {
            let text = shorten(&event);
            self.record(format_args!("{node}/{key} at {}: {text}", now.since_origin().as_nanos()));
        } else {
            self.record(format_args!(""));
        }
        let driver = &mut self.nodes[node].drivers[key];
        driver.failed_at = match &event {
            Event::Loaded { result: Err(_), .. } | Event::Exchanged { result: Err(_), .. } => {
                Some(self.now)
            }
            Event::Loaded { .. } | Event::Exchanged { .. } => None,
            // Who tries asks once, and at once.
            Event::Intent(Intent::Try) => None,
            _ => driver.failed_at,
        };
        driver.handled += 1;
        driver.machine.handle(event, now);
        let mut count = 0;
        while let Some(action) = self.nodes[node].drivers[key].machine.next_action() {
            count += 1;
            if count > 16 {
                return self.violate(format!("{node} asks for ever more"));
            }
            if self.event_log.keeps_lines() {
                self.record(format_args!("{node}/{key}   {}", shorten(&action)));
            }
            self.perform(node, key, action);
        }
        self.check_driver(node, key);
        self.set_timer(node, key);
    }

    fn perform(&mut self, node: usize, key: usize, action: Action) {
        match action {
            Action::Load { request } => self.request(node, key, request, RequestBody::Load),
            Action::CompareExchange { request, expected, write } => {
                self.request(node, key, request, RequestBody::Exchange(expected, write));
            }
            Action::Watch => self.ask_for_watch(node, key),
            Action::Unwatch => self.unwatch(node, key),
            Action::Granted(grant) => self.granted(node, key, grant),
            Action::Renewed { version, deadline } => self.renewed(node, key, version, deadline),
            Action::Lost(loss) => self.lost(node, key, &loss),
            Action::Released(outcome) => self.released(node, key, outcome),
            Action::Failed(failure) => self.failed(node, key, &failure),
        }
    }

    fn request(&mut self, node: usize, key: usize, request: u64, what: RequestBody) {
        let number = self.fresh_id();
        let is_load = matches!(what, RequestBody::Load);
        self.check_request(node, key);
        let driver = &mut self.nodes[node].drivers[key];
        driver.awaited.push(number);
        driver.requested_at = self.now;
        if driver.awaited.len() > 1 {
            return self.violate(format!("{node} has two requests under way"));
        }
        let after = self.random.u64(1..MS / 20);
        self.schedule_after(
            after,
            Scheduled::AtNode(
                node,
                Input::Send(EngineRequest { node, key, request, number, what }),
            ),
        );
        let timeout = Duration::from_nanos(self.profile.request_timeout);
        let at = self.when_clock_shows(node, timeout);
        self.schedule(
            at,
            Scheduled::AtNode(node, Input::TimedOut { key, number, request, is_load }),
        );
    }

    fn set_timer(&mut self, node: usize, key: usize) {
        let wake_at = self.nodes[node].drivers[key].machine.wake_at();
        let is_set = self.nodes[node].drivers[key].timer.map(|(at, _)| at);
        if wake_at == is_set {
            return;
        }
        let number = self.fresh_id();
        self.nodes[node].drivers[key].timer = wake_at.map(|at| (at, number));
        let Some(at) = wake_at else { return };
        let exact = self.nodes[node].clock.when(at);
        let late = match self.random.u8(..8) {
            0 => self.random.u64(..=self.profile.max_timer_delay),
            1..4 => 0,
            _ => self.random.u64(..=self.profile.max_timer_delay.min(MS)),
        };
        let moment = exact.max(self.now).saturating_add(late);
        self.schedule(moment, Scheduled::AtNode(node, Input::Timer { key, number }));
    }

    /// What a thread does, later.
    pub(super) fn schedule_step(&mut self, node: usize, key: usize, after: u64, step: ThreadStep) {
        self.schedule_after(after, Scheduled::AtNode(node, Input::Thread { key, step }));
    }
}

/// Its text, with the bytes of a value as text.
fn shorten(what: &impl std::fmt::Debug) -> String {
    let text = format!("{what:?}");
    let mut short = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("value: [") {
        short += before;
        rest = after.split_once(']').map_or("", |(_, rest)| rest);
        short += "value";
    }
    short + rest
}

// What the threads of a node do with a lock: they want it, wait or do not, use the resource behind
// it, hand it to each other, and give it back.
impl World {
    /// A thread takes its step, unless what it was meant for is over.
    pub(super) fn act(&mut self, node: usize, key: usize, step: ThreadStep) {
        let held_lease = self.nodes[node].drivers[key].local.held_lease;
        let holds = |serial: u64| held_lease.is_some_and(|held_lease| held_lease.serial == serial);
        match step {
            ThreadStep::Want if self.runs_threads && !self.is_calm() => self.want(node, key),
            ThreadStep::Cancel(serial) => {
                let local = &self.nodes[node].drivers[key].local;
                if local.intent.is_some() && local.serial == serial {
                    self.set_intent(node, key, Intent::Nothing);
                }
            }
            ThreadStep::Use(serial) if holds(serial) => {
                // A guard asks the clock, nothing else.
                if self.is_valid(node, key) {
                    self.send_access(node, key);
                }
                let after = self.random.u64(..self.lease() / 2);
                self.schedule_step(node, key, after, ThreadStep::Use(serial));
            }
            ThreadStep::HandOff(serial) if holds(serial) => {
                self.hand_off(node, key);
                let after = self.random.u64(..self.lease() / 4);
                self.schedule_step(node, key, after, ThreadStep::HandOff(serial));
            }
            ThreadStep::Refresh(serial) if holds(serial) => self.handle(node, key, Event::Refresh),
            ThreadStep::Finish(serial) if holds(serial) => self.finish(node, key),
            _ => {}
        }
    }

    /// Whether a guard on this node says that it is valid.
    pub(super) fn is_valid(&self, node: usize, key: usize) -> bool {
        let held_lease = &self.nodes[node].drivers[key].local.held_lease;
        held_lease.is_some_and(|held_lease| self.clock(node) < held_lease.deadline)
    }

    fn want(&mut self, node: usize, key: usize) {
        let has_intent = self.nodes[node].drivers[key].local.intent.is_some();
        if !has_intent {
            self.maybe_replace_machine(node, key);
            let tries = self.chance(self.profile.tries);
            self.set_intent(node, key, if tries { Intent::Try } else { Intent::Wait });
            if self.chance(self.profile.cancels) {
                let serial = self.nodes[node].drivers[key].local.serial;
                let most = [MS, 20 * MS, 500 * MS, 2 * self.lease()][self.random.usize(..4)];
                let after = self.random.u64(..most);
                self.schedule_step(node, key, after, ThreadStep::Cancel(serial));
            }
        }
        let after = self.random_between(self.profile.idle_time);
        self.schedule_step(node, key, after, ThreadStep::Want);
    }

    /// A driver may drop a machine that is idle, and make a new one when it is needed.
    fn maybe_replace_machine(&mut self, node: usize, key: usize) {
        let driver = &self.nodes[node].drivers[key];
        if driver.machine.is_idle() && driver.local.releasing.is_none() && self.chance(300) {
            self.unwatch(node, key);
            let id = self.nodes[node].id;
            self.nodes[node].drivers[key].machine = self.new_machine(id, node);
            self.nodes[node].drivers[key].timer = None;
            self.nodes[node].drivers[key].failed_at = None;
            self.record(format_args!("{node}/{key} drops its idle machine"));
        }
    }

    fn hand_off(&mut self, node: usize, key: usize) {
        let skip = if self.chance(100) { self.random.u32(..1024) } else { 0 };
        let Some(held_lease) = &mut self.nodes[node].drivers[key].local.held_lease else { return };
        // A guard is not handed off when it is not valid.
        let next = held_lease.next + skip;
        let Some(token) = FencingToken::of(held_lease.base, next) else {
            return self.handle(node, key, Event::Refresh);
        };
        held_lease.next = next + 1;
        held_lease.token = token;
        if self.is_valid(node, key) {
            self.check_token(node, key, token);
        }
    }

    fn finish(&mut self, node: usize, key: usize) {
        if self.nodes[node].drivers[key].local.intent.is_none()
            && self.runs_threads
            && self.chance(300)
        {
            let again = !self.is_calm();
            if again {
                self.set_intent(node, key, Intent::Wait);
            }
        }
        self.release(node, key);
    }

    /// The guard is gone.
    pub(super) fn release(&mut self, node: usize, key: usize) {
        let local = &mut self.nodes[node].drivers[key].local;
        // The intent may have found that the lease is over.
        let Some(held_lease) = local.held_lease.take() else { return };
        local.releasing = Some(held_lease);
        self.handle(node, key, Event::Release);
    }

    /// What an interruption means for the threads. Whether there is anything to interrupt.
    pub(super) fn interrupt(&mut self, node: usize, key: usize, event: &Event) -> bool {
        let now = self.now;
        let local = &mut self.nodes[node].drivers[key].local;
        match event {
            Event::Intent(intent) => {
                local.serial += 1;
                local.intent = (*intent != Intent::Nothing).then_some((*intent, now));
            }
            Event::Release => {
                let Some(held_lease) = local.held_lease.take() else { return false };
                local.releasing = Some(held_lease);
            }
            _ => {}
        }
        true
    }

    /// What the threads do with a lock that has just come.
    pub(super) fn begin_holding(&mut self, node: usize, key: usize, held_lease: SimLease) {
        let serial = held_lease.serial;
        self.nodes[node].drivers[key].local.held_lease = Some(held_lease);
        if !self.runs_threads {
            return;
        }
        let lease = self.lease();
        let hold = if !self.is_calm() && self.chance(self.profile.long_holds) {
            self.random.u64(..2 * lease)
        } else {
            self.random_between(self.profile.hold_time)
        };
        self.schedule_step(node, key, hold, ThreadStep::Finish(serial));
        let first = self.random.u64(..hold + 1);
        self.schedule_step(node, key, first, ThreadStep::Use(serial));
        let second: Moment = self.random.u64(..hold + 1);
        self.schedule_step(node, key, second, ThreadStep::HandOff(serial));
        if self.chance(self.profile.refreshes) {
            self.schedule_step(node, key, second / 2, ThreadStep::Refresh(serial));
        }
    }
}
