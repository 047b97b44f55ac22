//! The state of a run, the queue of its events, and true time.

use super::checks::EventLog;
use super::network::Store;
use super::node::{
    EngineRequest, Input, KeyDriver, LocalThreads, ProcessState, SimNode, ThreadStep,
};
use super::profile::{PerMille, Profile};
use crate::cluster::fence::FencingToken;
use crate::cluster::fence::Gate;
use crate::cluster::key::Key;
use crate::cluster::protocol::register::ClaimId;
use crate::cluster::protocol::{
    ClockError, Event, IdSource, Intent, Machine, MachineSettings, Time,
};
use crate::cluster::transport::{NodeId, Version, Wakeups};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A point or a span of true time, in nanoseconds since the simulation began. No node can read it.
pub(super) type Moment = u64;

/// A millisecond of true time.
pub(super) const MS: Moment = 1_000_000;

const MILLION: u128 = 1_000_000;

/// The span of true time in which a perfect clock advances by `duration`.
pub(super) fn span(duration: Duration) -> Moment {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A node's clock: it never goes backward, and its rate has an error.
#[derive(Clone, Debug)]
pub(super) struct SimClock {
    /// What it shows at the beginning of true time.
    offset: Moment,
    /// The error of its rate in millionths: positive if it is fast.
    error: i64,
    /// Since when it is stopped, with its virtual machine.
    stopped_at: Option<Moment>,
    /// For how long it was stopped altogether.
    stopped_for: Moment,
    /// When it was last resumed.
    resumed_at: Moment,
}

impl SimClock {
    pub(super) fn new(offset: Moment, error: i64) -> Self {
        Self { offset, error, stopped_at: None, stopped_for: 0, resumed_at: 0 }
    }

    fn rate(&self) -> u128 {
        u128::try_from(1_000_000 + self.error).expect("a clock goes forward")
    }

    /// What it shows now.
    pub(super) fn read(&self, now: Moment) -> Time {
        let run = u128::from(self.stopped_at.unwrap_or(now) - self.stopped_for);
        let shown = u128::from(self.offset) + run * self.rate() / MILLION;
        Time::new(Duration::from_nanos(u64::try_from(shown).unwrap()))
    }

    /// When it first shows `time`, if it is not stopped again.
    pub(super) fn when(&self, time: Time) -> Moment {
        let shown = time.since_origin().as_nanos().saturating_sub(u128::from(self.offset));
        let run = (shown * MILLION).div_ceil(self.rate());
        u64::try_from(run).unwrap_or(u64::MAX / 2).saturating_add(self.stopped_for)
    }

    pub(super) fn stop(&mut self, now: Moment) {
        self.stopped_at.get_or_insert(now);
    }

    pub(super) fn resume(&mut self, now: Moment) {
        if let Some(since) = self.stopped_at.take() {
            self.stopped_for += now - since;
            self.resumed_at = now;
        }
    }

    /// Whether it was stopped at any time since `then`.
    pub(super) fn stopped_since(&self, then: Moment) -> bool {
        self.stopped_at.is_some() || (self.stopped_for > 0 && self.resumed_at >= then)
    }
}

/// An event of the simulation.
#[derive(Debug)]
pub(super) enum Scheduled {
    /// A request arrives at the engine.
    Arrive(EngineRequest),
    /// A subscription arrives at the engine.
    Subscribe { node: usize, key: usize, watch: u64 },
    /// The engine drops an idle register.
    Drop { key: usize, version: Version },
    /// An input arrives at a node.
    AtNode(usize, Input),
    /// A use of the resource behind the lock arrives there, with its token. If `must_pass`, a refusal
    /// breaks a rule.
    Access { node: usize, key: usize, token: FencingToken, must_pass: bool },
    /// The process is suspended. If `again`, the next such fault is scheduled.
    Freeze { node: usize, again: bool },
    /// The virtual machine is suspended, and its clock stops.
    Pause { node: usize },
    /// The process or the virtual machine is resumed.
    Thaw(usize),
    /// The process dies, and a new node begins.
    Kill(usize),
    /// The node is cut off from the engine.
    Partition(usize),
    /// The node is connected again.
    Heal(usize),
    /// An operator releases the lock of a key by force.
    ForceRelease(usize),
    /// No fault occurs from now on.
    EndFaults,
}

/// A watch that is in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watcher {
    pub(super) node: usize,
    pub(super) watch: u64,
}

/// The state of one run.
pub(super) struct World {
    pub(super) now: Moment,
    pub(super) random: fastrand::Rng,
    pub(super) profile: Profile,
    /// The run has no faults.
    pub(super) is_faultless: bool,
    pub(super) wakeups: Wakeups,
    /// The threads act at random. Otherwise a scenario controls them.
    pub(super) runs_threads: bool,
    queue: BTreeMap<(Moment, u64), Scheduled>,
    last_id: u64,
    pub(super) keys: Vec<Key>,
    pub(super) stores: Vec<Store>,
    pub(super) watchers: Vec<Vec<Watcher>>,
    pub(super) nodes: Vec<SimNode>,
    pub(super) gate: Gate,
    pub(super) tokens: Vec<BTreeSet<FencingToken>>,
    /// The last token that the resource accepted, for each key.
    pub(super) accepted: Vec<Option<FencingToken>>,
    /// The claims in the queue, in the order in which they joined, for each key.
    pub(super) joined: Vec<Vec<ClaimId>>,
    /// The writes that may still arrive: node, key, expected version, number of the request.
    pub(super) in_flight: Vec<(usize, usize, Option<Version>, u64)>,
    pub(super) event_log: EventLog,
    pub(super) counts: RunCounts,
    /// For scenarios: a node, the number of events after which it is interrupted, and the events that
    /// its machine then gets.
    pub(super) interruption: Option<(usize, u64, Vec<Event>)>,
    /// The first rule that was broken.
    pub(super) violation: Option<String>,
}

/// The counts of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunCounts {
    pub(super) grants: u64,
    pub(super) writes: u64,
    pub(super) requests: u64,
    pub(super) losses: u64,
    /// Uses of the resource that were refused because of their token.
    pub(super) refusals: u64,
    /// Live waiters that were passed over by a grant.
    pub(super) inversions: u64,
}

impl World {
    pub(super) fn new(profile: Profile, seed: u64, keeps_lines: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x10c4_0d00_5eed);
        let handoff_lease = match (profile.handoff_lease, seed / 1000 % 2) {
            (0, 0) => profile.claim_window,
            (0, _) => profile.lease / 4,
            (given, _) => given,
        };
        let keep_place = if seed / 100 % 8 == 7 { profile.claim_window } else { 0 };
        let profile = Profile { handoff_lease, keep_place, ..profile };
        let any = [Wakeups::PushToOne, Wakeups::PushToAll, Wakeups::Poll][random.usize(..3)];
        let keys = (0..profile.keys).map(|k| Key::new(&format!("key{k}")).unwrap()).collect();
        let count = random.usize(profile.nodes[0]..=profile.nodes[1]);
        let mut world = Self {
            now: 0,
            random,
            wakeups: profile.wakeups.unwrap_or(any),
            is_faultless: profile.is_calm(),
            runs_threads: true,
            queue: BTreeMap::new(),
            last_id: 0,
            keys,
            stores: (0..profile.keys).map(|_| Store::default()).collect(),
            watchers: vec![vec![]; profile.keys],
            nodes: vec![],
            gate: Gate::new(),
            tokens: vec![BTreeSet::new(); profile.keys],
            accepted: vec![None; profile.keys],
            joined: vec![vec![]; profile.keys],
            in_flight: vec![],
            event_log: EventLog::new(keeps_lines),
            counts: RunCounts::default(),
            interruption: None,
            violation: None,
            profile,
        };
        let wakeups = world.wakeups;
        world.record(format_args!("{} nodes, {wakeups:?}", count));
        for _ in 0..count {
            world.add_node();
        }
        world.schedule(world.profile.calm_at, Scheduled::EndFaults);
        for key in 0..world.profile.keys {
            world.schedule_fault(world.profile.force_release, Scheduled::ForceRelease(key));
        }
        world
    }

    /// Adds a node with a random clock error.
    pub(super) fn add_node(&mut self) -> usize {
        let most = self.profile.clock_error;
        let error = match self.random.u8(..4) {
            0 => most,
            1 => -most,
            _ => self.random.i64(-most..=most),
        };
        self.add_node_with_clock(error)
    }

    pub(super) fn add_node_with_clock(&mut self, error: i64) -> usize {
        let node = self.nodes.len();
        let id = NodeId::new(self.random.u64(..));
        let clock = SimClock::new(self.random.u64(..1_000_000_000_000), error);
        let drivers = (0..self.profile.keys).map(|_| self.new_driver(id, node)).collect();
        self.nodes.push(SimNode {
            id,
            clock,
            state: ProcessState::Running,
            latency: None,
            is_partitioned: false,
            inbox: vec![],
            drivers,
        });
        self.record(format_args!("node {node} begins; its clock is {error} ppm fast"));
        for key in 0..self.profile.keys {
            let after = self.random_between(self.profile.idle_time);
            self.schedule_after(
                after,
                Scheduled::AtNode(node, Input::Thread { key, step: ThreadStep::Want }),
            );
        }
        self.schedule_fault(self.profile.freeze, Scheduled::Freeze { node, again: true });
        self.schedule_fault(self.profile.pause, Scheduled::Pause { node });
        self.schedule_fault(self.profile.kill, Scheduled::Kill(node));
        self.schedule_fault(self.profile.partition, Scheduled::Partition(node));
        node
    }

    pub(super) fn new_machine(&mut self, id: NodeId, node: usize) -> Machine {
        let profile = &self.profile;
        let millis = |moment: Moment| Duration::from_millis(moment / MS);
        let seed = self.random.u64(..);
        Machine::new(MachineSettings {
            node: id,
            label: format!("n{node}"),
            lease: millis(profile.lease),
            claim_window: millis(profile.claim_window),
            handoff_lease: millis(profile.handoff_lease),
            holds_at_once: true,
            keep_place: millis(profile.keep_place),
            poll: millis(profile.poll),
            queue_limit: profile.queue_limit,
            unavailable_timeout: millis(profile.unavailable_timeout),
            wakeups: self.wakeups,
            seed,
            ids: IdSource::seeded(seed),
            clock_error: ClockError { rate: 10, reading: Duration::ZERO },
            is_lossy: false,
            wall_clock: None,
        })
    }

    fn new_driver(&mut self, id: NodeId, node: usize) -> KeyDriver {
        KeyDriver {
            machine: self.new_machine(id, node),
            handled: 0,
            awaited: vec![],
            requested_at: 0,
            answered: [0; 2],
            failed_at: None,
            watch: None,
            timer: None,
            timer_repeats: (crate::cluster::protocol::Time::new(Duration::ZERO), 0),
            local: LocalThreads::default(),
        }
    }

    pub(super) fn record(&mut self, what: std::fmt::Arguments<'_>) {
        self.event_log.record(self.now, what);
    }

    /// Reports that a rule is broken. The first report of a run is kept.
    pub(super) fn violate(&mut self, what: String) {
        self.record(format_args!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    pub(super) fn chance(&mut self, of: PerMille) -> bool {
        of > 0 && self.random.u32(..1000) < of
    }

    pub(super) fn random_between(&mut self, [least, most]: [Moment; 2]) -> Moment {
        self.random.u64(least..=most)
    }

    /// A number that nothing else in this run has.
    pub(super) fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn schedule(&mut self, at: Moment, item: Scheduled) {
        let number = self.fresh_id();
        self.queue.insert((at.max(self.now), number), item);
    }

    pub(super) fn schedule_after(&mut self, after: Moment, item: Scheduled) {
        self.schedule(self.now.saturating_add(after), item);
    }

    /// Schedules a fault that occurs once in `mean` on the average. `None`: it never occurs.
    pub(super) fn schedule_fault(&mut self, mean: Option<Moment>, item: Scheduled) {
        if let Some(mean) = mean {
            let after = self.random.u64(..2 * mean);
            self.schedule_after(after, item);
        }
    }

    pub(super) fn is_calm(&self) -> bool {
        self.now >= self.profile.calm_at
    }

    pub(super) fn lease(&self) -> Moment {
        self.profile.lease
    }

    /// What the clock of a node shows now.
    pub(super) fn clock(&self, node: usize) -> crate::cluster::protocol::Time {
        self.nodes[node].clock.read(self.now)
    }

    /// Dispatches the next event, unless it is later than `until`. Returns whether it did.
    pub(super) fn step(&mut self, until: Moment) -> bool {
        match self.queue.first_entry() {
            Some(first) if first.key().0 <= until => {
                let ((at, _), item) = first.remove_entry();
                self.now = at;
                self.dispatch(item);
                true
            }
            _ => {
                self.now = self.now.max(until);
                false
            }
        }
    }

    /// Runs until `until`, or until `is_done` is true. Returns the result of `is_done`.
    pub(super) fn run(&mut self, until: Moment, is_done: impl Fn(&Self) -> bool) -> bool {
        while self.violation.is_none() {
            if is_done(self) {
                return true;
            }
            if self.event_log.events > 200_000 {
                self.violate("the run does not end: a node spins".to_owned());
            } else if !self.step(until) {
                return is_done(self);
            }
        }
        false
    }

    fn dispatch(&mut self, item: Scheduled) {
        match item {
            Scheduled::Arrive(request) => self.arrive(request),
            Scheduled::Subscribe { node, key, watch } => self.subscribe(node, key, watch),
            Scheduled::Drop { key, version } => {
                if self.stores[key].drop_if_idle(version) {
                    self.record(format_args!("the engine drops the idle register {key}"));
                }
            }
            Scheduled::AtNode(node, input) => match self.nodes[node].state {
                ProcessState::Running => self.deliver(node, input),
                ProcessState::Asleep => self.nodes[node].inbox.push(input),
                ProcessState::Dead => {}
            },
            Scheduled::Access { node, key, token, must_pass } => {
                self.access(node, key, token, must_pass);
            }
            Scheduled::EndFaults => self.end_faults(),
            fault => self.fault(fault),
        }
    }

    /// Sets the intent of a node.
    pub(super) fn set_intent(&mut self, node: usize, key: usize, intent: Intent) {
        let local = &mut self.nodes[node].drivers[key].local;
        local.serial += 1;
        local.intent = (intent != Intent::Nothing).then_some((intent, self.now));
        self.handle(node, key, Event::Intent(intent));
    }

    /// The latency of a message between a node and the engine, one way.
    pub(super) fn latency(&mut self, node: usize) -> Moment {
        let any = self.random_between(self.profile.latency);
        self.nodes[node].latency.unwrap_or(any)
    }

    /// When a node's clock will have advanced by `after`.
    pub(super) fn when_clock_shows(&self, node: usize, after: Duration) -> Moment {
        let at = self.nodes[node].clock.when(self.clock(node) + after);
        at.max(self.now + span(after) / 2)
    }
}

#[test]
fn a_clock_shows_a_time_when_it_says_it_does() {
    for error in [-10_000, -1, 0, 7, 10_000] {
        let mut clock = SimClock::new(5, error);
        for late in [0, 3 * MS] {
            for after in [1, 999, 1_000_003, 7_777_777_777] {
                let time = Time::new(Duration::from_nanos(after + 5));
                let moment = clock.when(time);
                assert!(clock.read(moment) >= time);
                assert!(moment == late || clock.read(moment - 1) < time);
            }
            clock.stop(0);
            clock.resume(3 * MS);
        }
    }
}
