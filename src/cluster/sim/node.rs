//! A node: its clock, and for each key a state machine, a model of the driver, and a model of the
//! threads.
//!
//! The driver passes events to the machine, performs its actions, times requests out, and keeps one
//! timer. The threads acquire the lock, use the resource behind it, hand it to each other, renew,
//! cancel and release.

use super::world::{MS, Moment, Scheduled, SimClock, World};
use crate::cluster::fence::FencingToken;
use crate::cluster::protocol::register::ClaimId;
use crate::cluster::protocol::{Action, Event, Grant, Intent, Machine, Time};
use crate::cluster::transport::{NodeId, TransportError, Version, Versioned, Write};
use std::time::Duration;

/// The state of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessState {
    Running,
    /// The process is suspended. If its virtual machine is, its clock is stopped too.
    Asleep,
    /// The process was killed. Its replacement is another node.
    Dead,
}

/// A node.
#[derive(Debug)]
pub(super) struct SimNode {
    pub(super) id: NodeId,
    pub(super) clock: SimClock,
    pub(super) state: ProcessState,
    /// The latency to the engine, one way. `None`: that of the profile.
    pub(super) latency: Option<Moment>,
    /// The node is cut off from the engine.
    pub(super) is_partitioned: bool,
    /// The inputs that arrived while it was asleep.
    pub(super) inbox: Vec<Input>,
    /// The drivers of the keys.
    pub(super) drivers: Vec<KeyDriver>,
}

/// The driver of one key at a node.
#[derive(Debug)]
pub(super) struct KeyDriver {
    pub(super) machine: Machine,
    /// The number of events that the machine has processed.
    pub(super) handled: u64,
    /// The requests whose response is awaited.
    pub(super) awaited: Vec<u64>,
    /// When the machine returned the last request, in true time.
    pub(super) requested_at: Moment,
    /// The same of the last two requests that were answered.
    pub(super) answered: [Moment; 2],
    /// When the last request failed, in true time; `None` if it succeeded.
    pub(super) failed_at: Option<Moment>,
    /// The last subscription, and whether it has succeeded.
    pub(super) watch: Option<(u64, bool)>,
    /// The time of the timer on the node's clock, and its number.
    pub(super) timer: Option<(Time, u64)>,
    /// The time of the last timer event, and how many there were at that time.
    pub(super) timer_repeats: (Time, u32),
    pub(super) local: LocalThreads,
}

/// The state of the threads of a node that use one key.
#[derive(Debug, Default)]
pub(super) struct LocalThreads {
    /// The intent of the machine and when it began, until it is granted, failed or cancelled.
    pub(super) intent: Option<(Intent, Moment)>,
    /// The number of intents and leases so far. A step carries the number that it is meant for.
    pub(super) serial: u64,
    pub(super) held_lease: Option<SimLease>,
    /// The lease that is being released, until the outcome is reported.
    pub(super) releasing: Option<SimLease>,
    pub(super) grants: u64,
}

/// A lease, as far as the node knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct SimLease {
    pub(super) serial: u64,
    pub(super) claim: ClaimId,
    pub(super) granted: Version,
    pub(super) deadline: Time,
    /// The version and the number that the next token is made of.
    pub(super) base: Version,
    pub(super) next: u32,
    /// The token of the thread that holds the lock.
    pub(super) token: FencingToken,
    /// The node's clock was stopped, or an operator released the lock by force, so exclusion is not
    /// guaranteed.
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

/// A request to the engine.
#[derive(Clone, Debug)]
pub(super) struct EngineRequest {
    pub(super) node: usize,
    pub(super) key: usize,
    /// The number by which the machine knows it.
    pub(super) request: u64,
    /// A number that no other request has.
    pub(super) number: u64,
    pub(super) body: RequestBody,
}

/// The operation of a request.
#[derive(Clone, Debug)]
pub(super) enum RequestBody {
    Load,
    Exchange(Option<Version>, Write),
}

/// A step of a thread. All but `Want` carry the number of the intent or the lease.
#[derive(Clone, Copy, Debug)]
pub(super) enum ThreadStep {
    Want,
    Cancel(u64),
    Use(u64),
    HandOff(u64),
    Refresh(u64),
    Finish(u64),
}

/// An input of a node.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Timer {
        key: usize,
        number: u64,
    },
    /// A request that the machine has returned is sent.
    Send(EngineRequest),
    Response {
        key: usize,
        number: u64,
        event: Event,
    },
    /// The time for a response is over.
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
    /// Whether it is due to time. A node that wakes up may process these before or after the others.
    pub(super) fn is_timer(&self) -> bool {
        matches!(self, Self::Timer { .. } | Self::TimedOut { .. } | Self::Thread { .. })
    }
}

// ---- The driver ----

impl World {
    /// Processes an input of a node that is running.
    pub(super) fn deliver(&mut self, node: usize, input: Input) {
        let is_partitioned = self.nodes[node].is_partitioned;
        match input {
            Input::Timer { key, number } => self.timer(node, key, number),
            Input::Send(request) => {
                if !self.is_awaited(node, request.key, request.number) {
                    // The request timed out before it was sent.
                } else if self.chance(self.profile.freeze_at_send) && !self.is_calm() {
                    self.fault(Scheduled::Freeze { node, again: false });
                    self.nodes[node].inbox.push(Input::Send(request));
                } else {
                    self.send(request);
                }
            }
            Input::Response { key, number, event } => {
                if !is_partitioned && self.end_request(node, key, number) {
                    let driver = &mut self.nodes[node].drivers[key];
                    driver.answered = [driver.answered[1], driver.requested_at];
                    self.handle(node, key, event);
                }
            }
            Input::TimedOut { key, number, request, is_load } => {
                if self.end_request(node, key, number) {
                    self.handle(
                        node,
                        key,
                        if is_load {
                            let result = Err(TransportError::unavailable("no response"));
                            Event::Loaded { request, result }
                        } else {
                            let result = Err(TransportError::indeterminate("no response"));
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
                // The response to the subscription comes first.
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
            Input::Thread { key, step } => self.take_step(node, key, step),
        }
    }

    fn is_awaited(&self, node: usize, key: usize, number: u64) -> bool {
        self.nodes[node].drivers[key].awaited.contains(&number)
    }

    /// Ends a request: its response has arrived or it has timed out. Returns whether it was awaited.
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
            // The clock was stopped meanwhile.
            Some((at, present)) if present == number => {
                let at = self.nodes[node].clock.when(at);
                self.schedule(at, Scheduled::AtNode(node, Input::Timer { key, number }));
            }
            _ => {}
        }
    }

    /// Passes an event to a machine and performs its actions; then interrupts it, if that is due.
    pub(super) fn handle(&mut self, node: usize, key: usize, event: Event) {
        self.pass_to_machine(node, key, event);
        let handled = self.nodes[node].drivers[key].handled;
        if let Some((of, after, _)) = &self.interruption
            && (*of, *after) == (node, handled)
        {
            let (_, _, events) = self.interruption.take().expect("it was matched above");
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
            // `Try` may send its request shortly after a failure.
            Event::Intent(Intent::Try) => None,
            _ => driver.failed_at,
        };
        driver.handled += 1;
        driver.machine.handle(event, now);
        let mut count = 0;
        while let Some(action) = self.nodes[node].drivers[key].machine.next_action() {
            count += 1;
            if count > 16 {
                return self.violate(format!("{node} has no end of actions"));
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
            Action::Watch => self.send_subscription(node, key),
            Action::Unwatch => self.unwatch(node, key),
            Action::Granted(grant) => self.granted(node, key, grant),
            Action::Renewed { version, deadline, .. } => self.renewed(node, key, version, deadline),
            Action::Lost(loss) => self.lost(node, key, &loss),
            Action::Released(outcome) => self.released(node, key, outcome),
            Action::Failed(failure) => self.failed(node, key, &failure),
            Action::WentBack(why) => self.violate(format!("{node} says that the engine {why:?}")),
        }
    }

    fn request(&mut self, node: usize, key: usize, request: u64, body: RequestBody) {
        let number = self.fresh_id();
        let is_load = matches!(body, RequestBody::Load);
        self.check_request(node, key);
        let driver = &mut self.nodes[node].drivers[key];
        driver.awaited.push(number);
        driver.requested_at = self.now;
        if driver.awaited.len() > 1 {
            return self.violate(format!("{node} has two requests in flight"));
        }
        let after = self.random.u64(1..MS / 20);
        self.schedule_after(
            after,
            Scheduled::AtNode(
                node,
                Input::Send(EngineRequest { node, key, request, number, body }),
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

    /// Schedules a step of a thread.
    pub(super) fn schedule_step(&mut self, node: usize, key: usize, after: u64, step: ThreadStep) {
        self.schedule_after(after, Scheduled::AtNode(node, Input::Thread { key, step }));
    }
}

/// The debug text, without the bytes of values.
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

// ---- The threads ----

impl World {
    /// Takes a step of a thread, unless its intent or its lease is over.
    pub(super) fn take_step(&mut self, node: usize, key: usize, step: ThreadStep) {
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
                // A guard compares its deadline with the clock and checks nothing else.
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

    /// Whether a guard on this node considers itself valid.
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

    /// Replaces an idle machine at random, as a driver does that drops it and makes another later.
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

    /// Drops the guard.
    pub(super) fn release(&mut self, node: usize, key: usize) {
        let local = &mut self.nodes[node].drivers[key].local;
        // The intent that was set before may have shown that the lease is over.
        let Some(held_lease) = local.held_lease.take() else { return };
        local.releasing = Some(held_lease);
        self.handle(node, key, Event::Release);
    }

    /// Applies an interruption to the threads. Returns whether its event is due.
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

    /// Schedules what the threads do with a lock that was just granted.
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
