//! The engine, the messages between it and the nodes, and all faults.

use super::node::{EngineRequest, Input, ProcessState, RequestBody};
use super::world::{MS, Moment, Scheduled, Watcher, World};
use crate::cluster::protocol::register::{ClaimId, Register};
use crate::cluster::protocol::{Event, force_release};
use crate::cluster::transport::{
    Exchange, TransportError, Version, Versioned, Wake, Wakeups, Write,
};
use std::time::Duration;

/// The author of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Author {
    /// A node, by its index in the run.
    Node(usize),
    /// An operator who releases the lock by force.
    Operator,
}

/// A write that took effect.
#[derive(Debug)]
pub(super) struct AppliedWrite {
    /// How many writes of this key took effect before it, in all.
    pub(super) number: usize,
    pub(super) version: Version,
    pub(super) by: Author,
    /// There was no register before, so the heartbeat starts anew.
    pub(super) is_first: bool,
    /// The register that was written.
    pub(super) register: Register,
}

impl AppliedWrite {
    /// The claim that holds the lock since this write.
    pub(super) fn holder(&self) -> Option<ClaimId> {
        self.register.holder.as_ref().map(|holder| holder.claim)
    }
}

/// The engine's register of one key, and all writes of it.
#[derive(Debug, Default)]
pub(super) struct Store {
    current: Option<Versioned>,
    idle: bool,
    /// The newest version ever. It stays when the register is dropped.
    floor: u64,
    /// How many writes took effect, those included that a return to a backup has undone.
    writes: usize,
    /// The writes that took effect, but for those that were undone.
    pub(super) log: Vec<AppliedWrite>,
}

/// A state of a register to which the engine can go back.
#[derive(Clone, Debug)]
pub(super) struct Backup {
    current: Option<Versioned>,
    idle: bool,
    floor: u64,
    logged: usize,
}

impl Store {
    pub(super) fn load(&self) -> Option<Versioned> {
        self.current.clone()
    }

    pub(super) fn version(&self) -> Option<Version> {
        self.current.as_ref().map(|current| current.version)
    }

    /// The register; an empty one if there is none.
    pub(super) fn register(&self) -> Register {
        match (&self.current, self.log.last()) {
            (Some(_), Some(last)) => last.register.clone(),
            _ => Register::empty(),
        }
    }

    /// Compares and exchanges. `step` is the difference to the next version.
    ///
    /// # Errors
    ///
    /// If the write breaks the contract of the transport.
    pub(super) fn exchange(
        &mut self,
        expected: Option<Version>,
        write: &Write,
        by: Author,
        step: u64,
    ) -> Result<Exchange, String> {
        if expected != self.version() {
            return Ok(Exchange::Mismatch(self.current.clone()));
        }
        let register = Register::decode(&write.value)
            .map_err(|why| format!("what {by:?} wrote cannot be read: {why}"))?;
        if write.idle != register.is_idle() {
            return Err(format!("{by:?} says idle: {} of {register:?}", write.idle));
        }
        self.floor += step;
        let version = Version::new(self.floor).map_err(|error| error.to_string())?;
        self.current = Some(Versioned { version, value: write.value.clone() });
        self.idle = write.idle;
        let (number, is_first) = (self.writes, expected.is_none());
        self.writes += 1;
        self.log.push(AppliedWrite { number, version, by, is_first, register });
        Ok(Exchange::Swapped(version))
    }

    /// How many writes took effect, those included that a return to a backup has undone.
    pub(super) fn writes(&self) -> usize {
        self.writes
    }

    /// The newest version ever, or since the backup to which the engine went back.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    pub(super) fn backup(&self) -> Backup {
        let Self { current, idle, floor, log, .. } = self;
        Backup { current: current.clone(), idle: *idle, floor: *floor, logged: log.len() }
    }

    /// The engine goes back to this backup, versions included. It must not be newer than that to which
    /// it went back before.
    pub(super) fn restore(&mut self, backup: &Backup) {
        let Backup { current, idle, floor, logged } = backup.clone();
        (self.current, self.idle, self.floor) = (current, idle, floor);
        self.log.truncate(logged);
    }

    /// Versions go on above this one.
    pub(super) fn raise(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
    }

    /// Drops the register if it is idle and still has this version. Returns whether it did.
    pub(super) fn drop_if_idle(&mut self, version: Version) -> bool {
        let drops = self.idle && self.version() == Some(version);
        if drops {
            self.current = None;
        }
        drops
    }

    /// The write that got this version.
    pub(super) fn written(&self, version: Version) -> Option<&AppliedWrite> {
        let at = self.log.binary_search_by_key(&version, |written| written.version).ok()?;
        Some(&self.log[at])
    }

    /// The writes after this version, each with its predecessor.
    pub(super) fn after(&self, version: Version) -> impl Iterator<Item = [&AppliedWrite; 2]> {
        let from = self.log.partition_point(|written| written.version <= version).max(1);
        (from..self.log.len()).map(|at| [&self.log[at - 1], &self.log[at]])
    }
}

// ---- Messages ----

impl World {
    /// Sends a request from its node to the engine.
    pub(super) fn send(&mut self, request: EngineRequest) {
        self.counts.requests += 1;
        let profile = &self.profile;
        let [delayed, lost, refused, indeterminate] =
            [profile.delayed, profile.request_lost, profile.refused, profile.indeterminate];
        let (late, profile_timeout) = (profile.max_delay, profile.request_timeout);
        let mut after = self.latency(request.node);
        if self.chance(delayed) {
            let most = if self.chance(500) { late.min(profile_timeout) } else { late };
            after += self.random.u64(..=most);
        }
        let is_write = matches!(request.body, RequestBody::Exchange(..));
        if self.chance(refused) {
            self.record(format_args!(
                "the engine refuses {}'s request {}",
                request.node, request.request
            ));
            let error = TransportError::unavailable("refused");
            return self.respond_with_error(&request, after, error);
        }
        if is_write && self.chance(indeterminate) {
            let at = self.latency(request.node);
            let error = TransportError::indeterminate("the connection was reset");
            self.respond_with_error(&request, at, error);
        }
        if self.chance(lost) {
            self.record(format_args!("{}'s request {} is lost", request.node, request.request));
            return;
        }
        if let RequestBody::Exchange(expected, _) = &request.body {
            self.in_flight.push((request.node, request.key, *expected, request.number));
        }
        self.schedule_after(after, Scheduled::Arrive(request));
    }

    fn respond_with_error(
        &mut self,
        request: &EngineRequest,
        after: Moment,
        error: TransportError,
    ) {
        let &EngineRequest { node, key, request, number, ref body } = request;
        let event = match body {
            RequestBody::Load => Event::Loaded { request, result: Err(error) },
            RequestBody::Exchange(..) => Event::Exchanged { request, result: Err(error) },
        };
        self.schedule_after(after, Scheduled::AtNode(node, Input::Response { key, number, event }));
    }

    /// Processes a request that arrives at the engine.
    pub(super) fn arrive(&mut self, request: EngineRequest) {
        let EngineRequest { node, key, request, number, body } = request;
        self.in_flight.retain(|&(.., other)| other != number);
        if self.nodes[node].is_partitioned {
            return self.record(format_args!("{node}'s request {request} is cut off"));
        }
        let event = match body {
            RequestBody::Load => {
                let seen = self.stores[key].load();
                self.record(format_args!(
                    "engine: {node} loads key {key} (request {request}): {}",
                    show(seen.as_ref())
                ));
                Event::Loaded { request, result: Ok(seen) }
            }
            RequestBody::Exchange(expected, write) => {
                let exchanged = self.exchange(key, expected, &write, Author::Node(node));
                let Some(exchanged) = exchanged else { return };
                self.record(format_args!(
                    "engine: {node} writes key {key} (request {request}), expecting {}: {}",
                    expected.map_or(0, Version::get),
                    match &exchanged {
                        Exchange::Swapped(version) => {
                            format!("{version} = {}", String::from_utf8_lossy(&write.value))
                        }
                        Exchange::Mismatch(seen) => format!("no, it is {}", show(seen.as_ref())),
                    }
                ));
                Event::Exchanged { request, result: Ok(exchanged) }
            }
        };
        let mut after = self.latency(node);
        if self.chance(self.profile.delayed) {
            after +=
                self.random.u64(..=self.profile.max_delay.min(2 * self.profile.request_timeout));
        }
        if self.chance(self.profile.response_lost) {
            return self.record(format_args!("the response to {node}'s request {request} is lost"));
        }
        self.schedule_after(after, Scheduled::AtNode(node, Input::Response { key, number, event }));
    }

    /// Performs a write at the engine. `None` if it breaks the contract.
    pub(super) fn exchange(
        &mut self,
        key: usize,
        expected: Option<Version>,
        write: &Write,
        by: Author,
    ) -> Option<Exchange> {
        let step = if self.chance(300) { self.random.u64(1..1000) } else { 1 };
        match self.stores[key].exchange(expected, write, by, step) {
            Ok(exchanged) => {
                if let Exchange::Swapped(version) = exchanged {
                    self.counts.writes += 1;
                    self.check_write(key);
                    if let Author::Node(node) = by {
                        self.count_inversions(node, key);
                    }
                    self.note_joins(key);
                    if let (true, Some(retention)) = (write.idle, self.profile.retention) {
                        self.schedule_after(retention, Scheduled::Drop { key, version });
                    }
                    self.notice(key, write.wake);
                }
                Some(exchanged)
            }
            Err(why) => {
                self.violate(why);
                None
            }
        }
    }

    /// Sends a notice to the watches of a key.
    fn notice(&mut self, key: usize, wake: Wake) {
        let watchers = self.watchers[key].clone();
        for Watcher { node, watch } in watchers {
            let is_for = match (self.wakeups, wake) {
                (Wakeups::Poll, _) => false,
                (Wakeups::PushToAll, _) | (_, Wake::Everybody) => true,
                (_, Wake::Node(id)) => id == self.nodes[node].id,
                (_, Wake::Nobody) => false,
            };
            if !is_for || self.chance(self.profile.notice_lost) {
                continue;
            }
            let times = 1 + u8::from(self.chance(self.profile.notice_twice));
            for _ in 0..times {
                let empty = self.chance(self.profile.notice_empty);
                let seen = if empty { None } else { self.stores[key].load() };
                let mut after = self.latency(node);
                if self.chance(self.profile.delayed) {
                    after += self.random.u64(..=self.profile.max_delay);
                }
                self.schedule_after(
                    after,
                    Scheduled::AtNode(node, Input::Noticed { key, watch, seen }),
                );
            }
            if self.chance(self.profile.watch_ends) {
                self.end_watch(key, watch);
            }
        }
    }

    /// Ends a watch at the engine, and informs its node.
    pub(super) fn end_watch(&mut self, key: usize, watch: u64) {
        if let Some(at) = self.watchers[key].iter().position(|watcher| watcher.watch == watch) {
            let Watcher { node, .. } = self.watchers[key].remove(at);
            let after = self.latency(node);
            self.schedule_after(after, Scheduled::AtNode(node, Input::WatchEnded { key, watch }));
        }
    }

    /// Sends a subscription from a node to the engine.
    pub(super) fn send_subscription(&mut self, node: usize, key: usize) {
        let watch = self.fresh_id();
        self.nodes[node].drivers[key].watch = Some((watch, false));
        let mut after = self.latency(node);
        if self.chance(self.profile.delayed) {
            after += self.random.u64(..=self.profile.max_delay);
        }
        let fails = self.chance(self.profile.refused) || self.chance(self.profile.request_lost);
        if !fails {
            self.schedule_after(after, Scheduled::Subscribe { node, key, watch });
        }
        // The driver gives up if no response arrives in time.
        let timeout = self.profile.request_timeout;
        let at = self.when_clock_shows(node, Duration::from_nanos(timeout));
        let result = Err(TransportError::unavailable("no response to the subscription"));
        self.schedule(at, Scheduled::AtNode(node, Input::Watching { key, watch, result }));
    }

    /// Processes a subscription that arrives at the engine.
    pub(super) fn subscribe(&mut self, node: usize, key: usize, watch: u64) {
        if self.nodes[node].is_partitioned || self.nodes[node].state == ProcessState::Dead {
            return;
        }
        self.record(format_args!("engine: {node} watches key {key}"));
        self.watchers[key].push(Watcher { node, watch });
        let after = self.latency(node);
        self.schedule_after(
            after,
            Scheduled::AtNode(node, Input::Watching { key, watch, result: Ok(()) }),
        );
    }

    pub(super) fn unwatch(&mut self, node: usize, key: usize) {
        if let Some((watch, _)) = self.nodes[node].drivers[key].watch.take() {
            self.watchers[key].retain(|watcher| watcher.watch != watch);
        }
    }

    /// Sends a use of the resource behind the lock, with the token of the thread that holds it.
    pub(super) fn send_access(&mut self, node: usize, key: usize) {
        let Some(held_lease) = self.nodes[node].drivers[key].local.held_lease else { return };
        let token = held_lease.token;
        // Most uses take time and may arrive late. A use that takes no time must be accepted.
        let after = match self.random.u8(..4) {
            0 => 0,
            1 => self.random.u64(..2 * self.profile.lease),
            _ => self.random.u64(..20 * MS),
        };
        let must_pass = after == 0 && !held_lease.is_excused;
        if after == 0 {
            self.access(node, key, token, must_pass);
        } else {
            self.schedule_after(after, Scheduled::Access { node, key, token, must_pass });
        }
    }
}

fn show(seen: Option<&Versioned>) -> String {
    seen.map_or("nothing".to_owned(), |seen| {
        format!("{} = {}", seen.version, String::from_utf8_lossy(&seen.value))
    })
}

// ---- Faults of nodes ----

impl World {
    /// The length of a fault: half of them at most half a lease, the others at most three leases.
    fn fault_length(&mut self) -> Moment {
        let most = if self.chance(500) { self.lease() / 2 } else { 3 * self.lease() };
        self.random.u64(1..most)
    }

    /// Processes a fault.
    pub(super) fn fault(&mut self, fault: Scheduled) {
        if self.is_calm() && !matches!(fault, Scheduled::Thaw(_) | Scheduled::Heal(_)) {
            return;
        }
        match fault {
            Scheduled::Freeze { node, again } => {
                let length = self.fault_length();
                self.freeze(node);
                self.schedule_after(length, Scheduled::Thaw(node));
                if again {
                    self.schedule_fault(self.profile.freeze, Scheduled::Freeze { node, again });
                }
            }
            Scheduled::Pause { node } => {
                let length = self.fault_length();
                self.freeze(node);
                let now = self.now;
                self.nodes[node].clock.stop(now);
                for driver in &mut self.nodes[node].drivers {
                    if let Some(held_lease) = &mut driver.local.held_lease {
                        held_lease.is_excused = true;
                    }
                }
                self.schedule_after(length, Scheduled::Thaw(node));
                self.schedule_fault(self.profile.pause, Scheduled::Pause { node });
            }
            Scheduled::Thaw(node) => self.thaw(node),
            Scheduled::Kill(node) => {
                if self.kill(node) {
                    self.add_node();
                }
            }
            Scheduled::Partition(node) => {
                let length = self.fault_length();
                self.partition(node);
                self.schedule_after(length, Scheduled::Heal(node));
                self.schedule_fault(self.profile.partition, Scheduled::Partition(node));
            }
            Scheduled::Heal(node) => self.heal(node),
            Scheduled::ForceRelease(key) => {
                self.force_release_key(key);
                self.schedule_fault(self.profile.force_release, Scheduled::ForceRelease(key));
            }
            _ => unreachable!("not a fault"),
        }
    }

    pub(super) fn freeze(&mut self, node: usize) {
        if self.nodes[node].state == ProcessState::Running {
            self.nodes[node].state = ProcessState::Asleep;
            self.record(format_args!("{node} falls asleep"));
        }
    }

    pub(super) fn thaw(&mut self, node: usize) {
        if self.nodes[node].state != ProcessState::Asleep {
            return;
        }
        let now = self.now;
        self.nodes[node].state = ProcessState::Running;
        self.nodes[node].clock.resume(now);
        self.record(format_args!("{node} goes on"));
        // The threads run first: a guard must know its deadline without the machine.
        for key in 0..self.profile.keys {
            if self.is_valid(node, key) {
                self.send_access(node, key);
            }
        }
        let mut inbox = std::mem::take(&mut self.nodes[node].inbox);
        match self.random.u8(..3) {
            0 => inbox.sort_by_key(|input| input.is_timer()),
            1 => inbox.sort_by_key(|input| !input.is_timer()),
            _ => {}
        }
        for input in inbox {
            match self.nodes[node].state {
                ProcessState::Running => self.deliver(node, input),
                ProcessState::Asleep => self.nodes[node].inbox.push(input),
                ProcessState::Dead => {}
            }
        }
    }

    /// Kills a node. Returns whether it was alive.
    pub(super) fn kill(&mut self, node: usize) -> bool {
        if self.nodes[node].state == ProcessState::Dead {
            return false;
        }
        self.nodes[node].state = ProcessState::Dead;
        self.record(format_args!("{node} is killed"));
        for key in 0..self.profile.keys {
            self.unwatch(node, key);
            self.nodes[node].drivers[key].local = Default::default();
        }
        true
    }

    pub(super) fn partition(&mut self, node: usize) {
        self.nodes[node].is_partitioned = true;
        self.record(format_args!("{node} is cut off"));
    }

    pub(super) fn heal(&mut self, node: usize) {
        if !self.nodes[node].is_partitioned {
            return;
        }
        self.nodes[node].is_partitioned = false;
        self.record(format_args!("{node} is connected again"));
        // Its watches end, since they have missed notices.
        for key in 0..self.profile.keys {
            if let Some((watch, _)) = self.nodes[node].drivers[key].watch {
                self.end_watch(key, watch);
            }
        }
    }

    fn force_release_key(&mut self, key: usize) {
        let register = self.stores[key].register();
        let holder = register.holder.as_ref().map(|holder| holder.claim);
        let (Some(holder), Some(write)) = (holder, force_release(&register)) else { return };
        let version = self.stores[key].version();
        self.record(format_args!("the operator releases the lock of key {key} by force"));
        self.exchange(key, version, &write, Author::Operator);
        for node in &mut self.nodes {
            if let Some(held_lease) = &mut node.drivers[key].local.held_lease
                && held_lease.claim == holder
            {
                held_lease.is_excused = true;
            }
        }
    }

    /// Ends all faults.
    pub(super) fn end_faults(&mut self) {
        self.record(format_args!("all is calm"));
        self.profile = self.profile.without_faults();
        for node in 0..self.nodes.len() {
            self.heal(node);
            self.thaw(node);
        }
    }
}
