//! Nodes, an engine, and what happens, in the order of true time.

use super::clock::{Clock, MS, Moment, span};
use super::history::History;
use super::node::{Input, Life, Local, Node, Request, Seat, Step};
use super::profile::{PerMille, Profile};
use super::store::Store;
use crate::cluster::fence::Gate;
use crate::cluster::key::Key;
use crate::cluster::protocol::register::ClaimId;
use crate::cluster::protocol::{Event, Intent, Machine, MachineSettings};
use crate::cluster::token::FencingToken;
use crate::cluster::transport::{NodeId, Version, Wakeups};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What happens next.
#[derive(Debug)]
pub(super) enum Item {
    /// A request arrives at the engine.
    Arrive(Request),
    /// A subscription does.
    Subscribe {
        node: usize,
        key: usize,
        watch: u64,
    },
    /// The engine drops an idle register.
    Drop {
        key: usize,
        version: Version,
    },
    AtNode(usize, Input),
    /// A request with a token arrives at the resource behind the lock; valid: when it was sent, and
    /// it took no time.
    Access {
        node: usize,
        key: usize,
        token: FencingToken,
        must_pass: bool,
    },
    Freeze {
        node: usize,
        again: bool,
    },
    Pause {
        node: usize,
    },
    Thaw(usize),
    Kill(usize),
    Part(usize),
    Mend(usize),
    Break(usize),
    Calm,
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
    /// Nothing goes wrong in this run from the beginning.
    pub(super) is_faultless: bool,
    pub(super) wakeups: Wakeups,
    /// Threads do what they like; otherwise only what a scenario says.
    pub(super) is_lively: bool,
    queue: BTreeMap<(Moment, u64), Item>,
    numbers: u64,
    pub(super) keys: Vec<Key>,
    pub(super) stores: Vec<Store>,
    pub(super) watchers: Vec<Vec<Watcher>>,
    pub(super) nodes: Vec<Node>,
    pub(super) gate: Gate,
    pub(super) tokens: Vec<BTreeSet<FencingToken>>,
    /// The last token that the resource took, of each key.
    pub(super) accepted: Vec<Option<FencingToken>>,
    /// Who waits in the register, in the order in which they came, of each key.
    pub(super) joined: Vec<Vec<ClaimId>>,
    /// The writes that may still arrive: node, key, expected version, request.
    pub(super) in_flight: Vec<(usize, usize, Option<Version>, u64)>,
    pub(super) history: History,
    pub(super) counts: Counts,
    /// The node whose machine is told something else after so many events: for scenarios.
    pub(super) interruption: Option<(usize, u64, Vec<Event>)>,
    /// The first rule that was broken.
    pub(super) violation: Option<String>,
}

/// What was counted in a run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) grants: u64,
    pub(super) writes: u64,
    pub(super) requests: u64,
    pub(super) losses: u64,
    pub(super) refusals: u64,
    pub(super) inversions: u64,
}

impl World {
    pub(super) fn new(profile: Profile, seed: u64, keeps_lines: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x10c4_0d00_5eed);
        let any = [Wakeups::PushToOne, Wakeups::PushToAll, Wakeups::Poll][random.usize(..3)];
        let keys = (0..profile.keys).map(|k| Key::new(&format!("key{k}")).unwrap()).collect();
        let count = random.usize(profile.nodes[0]..=profile.nodes[1]);
        let mut world = Self {
            now: 0,
            random,
            wakeups: profile.wakeups.unwrap_or(any),
            is_faultless: profile.is_calm(),
            is_lively: true,
            queue: BTreeMap::new(),
            numbers: 0,
            keys,
            stores: (0..profile.keys).map(|_| Store::default()).collect(),
            watchers: vec![vec![]; profile.keys],
            nodes: vec![],
            gate: Gate::new(),
            tokens: vec![BTreeSet::new(); profile.keys],
            accepted: vec![None; profile.keys],
            joined: vec![vec![]; profile.keys],
            in_flight: vec![],
            history: History::new(keeps_lines),
            counts: Counts::default(),
            interruption: None,
            violation: None,
            profile,
        };
        let wakeups = world.wakeups;
        world.tell(format_args!("{} nodes, {wakeups:?}", count));
        for _ in 0..count {
            world.add_node();
        }
        world.schedule(world.profile.calm_at, Item::Calm);
        for key in 0..world.profile.keys {
            world.schedule_fault(world.profile.break_lock, Item::Break(key));
        }
        world
    }

    /// A new node, which begins to live.
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
        let clock = Clock::new(self.random.u64(..1_000_000_000_000), error);
        let seats = (0..self.profile.keys).map(|_| self.new_seat(id, node)).collect();
        let life = Life::Runs;
        self.nodes.push(Node {
            id,
            clock,
            life,
            latency: None,
            is_parted: false,
            inbox: vec![],
            seats,
        });
        self.tell(format_args!("node {node} begins; its clock is {error} ppm fast"));
        for key in 0..self.profile.keys {
            let after = self.between(self.profile.rest);
            self.later(after, Item::AtNode(node, Input::Local { key, step: Step::Want }));
        }
        self.schedule_fault(self.profile.freeze, Item::Freeze { node, again: true });
        self.schedule_fault(self.profile.pause, Item::Pause { node });
        self.schedule_fault(self.profile.kill, Item::Kill(node));
        self.schedule_fault(self.profile.part, Item::Part(node));
        node
    }

    pub(super) fn new_machine(&mut self, id: NodeId, node: usize) -> Machine {
        let profile = &self.profile;
        let millis = |moment: Moment| Duration::from_millis(moment / MS);
        Machine::new(MachineSettings {
            node: id,
            label: format!("n{node}"),
            lease: millis(profile.lease),
            claim_window: millis(profile.claim_window),
            poll: millis(profile.poll),
            queue_limit: profile.queue_limit,
            unavailable_timeout: millis(profile.unavailable_timeout),
            wakeups: self.wakeups,
            seed: self.random.u64(..),
        })
    }

    fn new_seat(&mut self, id: NodeId, node: usize) -> Seat {
        Seat {
            machine: self.new_machine(id, node),
            handled: 0,
            awaited: vec![],
            asked_at: 0,
            failed_at: None,
            watch: None,
            timer: None,
            spins: (crate::cluster::time::Time::new(Duration::ZERO), 0),
            local: Local::default(),
        }
    }

    pub(super) fn tell(&mut self, what: std::fmt::Arguments<'_>) {
        self.history.tell(self.now, what);
    }

    /// A rule is broken. The first time counts.
    pub(super) fn violate(&mut self, what: String) {
        self.tell(format_args!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    pub(super) fn chance(&mut self, of: PerMille) -> bool {
        of > 0 && self.random.u32(..1000) < of
    }

    pub(super) fn between(&mut self, [least, most]: [Moment; 2]) -> Moment {
        self.random.u64(least..=most)
    }

    /// A number that no watch and no timer has had.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn schedule(&mut self, at: Moment, item: Item) {
        let number = self.number();
        self.queue.insert((at.max(self.now), number), item);
    }

    pub(super) fn later(&mut self, after: Moment, item: Item) {
        self.schedule(self.now.saturating_add(after), item);
    }

    /// Schedules what happens once in `mean`, if ever.
    pub(super) fn schedule_fault(&mut self, mean: Option<Moment>, item: Item) {
        if let Some(mean) = mean {
            let after = self.random.u64(..2 * mean);
            self.later(after, item);
        }
    }

    pub(super) fn is_calm(&self) -> bool {
        self.now >= self.profile.calm_at
    }

    pub(super) fn lease(&self) -> Moment {
        self.profile.lease
    }

    /// What a node's clock shows now.
    pub(super) fn clock(&self, node: usize) -> crate::cluster::time::Time {
        self.nodes[node].clock.read(self.now)
    }

    /// Lets the next thing happen, unless it is later than `until`. Returns whether it did.
    pub(super) fn step(&mut self, until: Moment) -> bool {
        match self.queue.first_entry() {
            Some(first) if first.key().0 <= until => {
                let ((at, _), item) = first.remove_entry();
                self.now = at;
                self.happen(item);
                true
            }
            _ => {
                self.now = self.now.max(until);
                false
            }
        }
    }

    /// Goes on until `until`, or until `is_done`. Returns whether it is.
    pub(super) fn run(&mut self, until: Moment, is_done: impl Fn(&Self) -> bool) -> bool {
        while self.violation.is_none() {
            if is_done(self) {
                return true;
            }
            if self.history.events > 200_000 {
                self.violate("the run does not end: somebody spins".to_owned());
            } else if !self.step(until) {
                return is_done(self);
            }
        }
        false
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::Arrive(request) => self.arrive(request),
            Item::Subscribe { node, key, watch } => self.subscribe(node, key, watch),
            Item::Drop { key, version } => {
                if self.stores[key].drop_if_idle(version) {
                    self.tell(format_args!("the engine drops the idle register {key}"));
                }
            }
            Item::AtNode(node, input) => match self.nodes[node].life {
                Life::Runs => self.take_in(node, input),
                Life::Sleeps => self.nodes[node].inbox.push(input),
                Life::Dead => {}
            },
            Item::Access { node, key, token, must_pass } => {
                self.access(node, key, token, must_pass);
            }
            Item::Calm => self.calm_down(),
            fault => self.fault(fault),
        }
    }

    /// The intent of a node, from a scenario.
    pub(super) fn intent(&mut self, node: usize, key: usize, intent: Intent) {
        let local = &mut self.nodes[node].seats[key].local;
        local.serial += 1;
        local.intent = (intent != Intent::Nothing).then_some((intent, self.now));
        self.handle(node, key, Event::Intent(intent));
    }

    /// How long a message takes, one way.
    pub(super) fn latency(&mut self, node: usize) -> Moment {
        let any = self.between(self.profile.latency);
        self.nodes[node].latency.unwrap_or(any)
    }

    /// When a node's clock shows what `after` is from now.
    pub(super) fn on_its_clock(&self, node: usize, after: Duration) -> Moment {
        let at = self.nodes[node].clock.when(self.clock(node) + after);
        at.max(self.now + span(after) / 2)
    }
}
