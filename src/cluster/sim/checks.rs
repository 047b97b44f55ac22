//! The rules that every run must keep, and the log of its events.
//!
//! The rules are checked at every event, against what only the simulation knows: true time, and all
//! writes that took effect at the engine.

use super::network::Author;
use super::node::{ProcessState, SimLease};
use super::world::{MS, Moment, World};
use crate::cluster::fence::FencingToken;
use crate::cluster::protocol::register::ClaimId;
use crate::cluster::protocol::{Failure, Grant, Intent, Loss, Outcome, Time};
use crate::cluster::transport::Version;
use std::fmt::{self, Write};

impl World {
    /// A machine reports a grant.
    pub(super) fn granted(&mut self, node: usize, key: usize, grant: Grant) {
        let Some(written) = self.stores[key].written(grant.version) else {
            return self.violate(format!("{node} is granted a version that no node wrote"));
        };
        let (by, holder) = (written.by, written.holder());
        let Some(claim) = holder.filter(|holder| holder.node == self.nodes[node].id) else {
            return self.violate(format!("{node} is granted the lock by a write that does not"));
        };
        let was_handed = written.register.is_handed_to(claim);
        if by != Author::Node(node) && !was_handed || grant.is_short != was_handed {
            return self.violate(format!("{node} is granted the lock by a write of {by:?}"));
        }
        // The lease of one that was handed the lock is counted from an earlier request.
        let driver = &self.nodes[node].drivers[key];
        let since = if was_handed { driver.answered[0] } else { driver.requested_at };
        let was_paused = self.nodes[node].clock.stopped_since(since);
        let is_excused = was_paused || self.was_force_released(key, claim, grant.version);
        let local = &mut self.nodes[node].drivers[key].local;
        if local.held_lease.is_some() {
            return self.violate(format!("{node} is granted what it holds"));
        }
        if local.intent.take().is_none() {
            return self.violate(format!("{node} is granted what it does not want"));
        }
        local.serial += 1;
        local.grants += 1;
        let mut held_lease = SimLease::new(local.serial, claim, &grant);
        held_lease.is_excused = is_excused;
        self.counts.grants += 1;
        self.begin_holding(node, key, held_lease);
        if self.clock(node) >= grant.deadline {
            return self.violate(format!("{node} is granted the lock after its deadline"));
        }
        self.check_token(node, key, held_lease.token);
        self.check_exclusion(node, key);
    }

    fn was_force_released(&self, key: usize, claim: ClaimId, since: Version) -> bool {
        self.stores[key]
            .after(since)
            .any(|[before, after]| after.by == Author::Operator && before.holder() == Some(claim))
    }

    /// A thread on this node gets this token: it must be larger than all before.
    pub(super) fn check_token(&mut self, node: usize, key: usize, token: FencingToken) {
        let is_excused = self.nodes[node].drivers[key]
            .local
            .held_lease
            .is_some_and(|held_lease| held_lease.is_excused);
        let newest = self.tokens[key].last().copied();
        if !self.tokens[key].insert(token) {
            self.violate(format!("the token {token} of {node} was given out before"));
        } else if newest > Some(token) && !is_excused {
            self.violate(format!("the token {token} of {node} is smaller than {newest:?}"));
        }
    }

    /// At most one guard is valid, and the register names its node as the holder.
    pub(super) fn check_exclusion(&mut self, node: usize, key: usize) {
        let valid = |of: &usize| {
            let held_lease = self.nodes[*of].drivers[key].local.held_lease;
            self.nodes[*of].state != ProcessState::Dead
                && held_lease.is_some_and(|held_lease| !held_lease.is_excused)
                && self.is_valid(*of, key)
        };
        let all: Vec<_> = (0..self.nodes.len()).filter(valid).collect();
        if all.len() > 1 {
            return self.violate(format!("all of {all:?} hold key {key}, and are valid"));
        }
        let Some(held_lease) = self.nodes[node].drivers[key].local.held_lease else { return };
        let is_named = self.stores[key].register().is_held_by(held_lease.claim);
        if all == [node] && !is_named {
            self.violate(format!("{node} holds key {key}, but the register does not say so"));
        }
    }

    pub(super) fn renewed(&mut self, node: usize, key: usize, version: Version, deadline: Time) {
        let by_own = self.stores[key].written(version).map(|w| (w.by, w.holder()));
        let Some(held_lease) = &mut self.nodes[node].drivers[key].local.held_lease else {
            return self.violate(format!("{node} renews what it does not hold"));
        };
        let (claim, base) = (held_lease.claim, held_lease.base);
        (held_lease.base, held_lease.next, held_lease.deadline) = (version, 0, deadline);
        if by_own != Some((Author::Node(node), Some(claim))) || version <= base {
            return self.violate(format!("{node} renews by a write that does not"));
        }
        self.check_exclusion(node, key);
    }

    pub(super) fn lost(&mut self, node: usize, key: usize, loss: &Loss) {
        self.counts.losses += 1;
        if self.is_faultless {
            self.violate(format!("{node} loses the lock, and nothing went wrong"));
        }
        let now = self.clock(node);
        let local = &mut self.nodes[node].drivers[key].local;
        let held_lease = match (local.held_lease.take(), &mut local.releasing) {
            (Some(held_lease), _) => held_lease,
            (None, Some(releasing)) => *releasing,
            (None, None) => return self.violate(format!("{node} loses what it does not hold")),
        };
        let is_true = match loss {
            Loss::Expired { .. } => now >= held_lease.deadline,
            Loss::TakenOver | Loss::Broken { .. } => {
                self.was_removed(key, &held_lease, |by| by != Author::Node(node))
            }
            Loss::Unreadable(_) | Loss::Copied | Loss::WentBack => false,
        };
        if !is_true {
            self.violate(format!("{node} has not lost the lock: {loss:?}"));
        }
    }

    /// Whether a write of an author that `by` accepts ended the held lease.
    fn was_removed(&self, key: usize, held_lease: &SimLease, by: impl Fn(Author) -> bool) -> bool {
        self.stores[key].after(held_lease.granted).any(|[before, after]| {
            let holder = Some(held_lease.claim);
            before.holder() == holder && after.holder() != holder && by(after.by)
        })
    }

    pub(super) fn released(&mut self, node: usize, key: usize, outcome: Outcome) {
        let now = self.clock(node);
        let Some(held_lease) = self.nodes[node].drivers[key].local.releasing.take() else {
            return self.violate(format!("{node} has released what it did not hold"));
        };
        let is_true = match outcome {
            Outcome::Held => self.was_removed(key, &held_lease, |by| by == Author::Node(node)),
            Outcome::Lost(_) => {
                now >= held_lease.deadline
                    || self.was_removed(key, &held_lease, |by| by != Author::Node(node))
            }
            Outcome::Indeterminate => !self.is_faultless,
        };
        if !is_true {
            self.violate(format!("{node}'s release was not {outcome:?}"));
        }
    }

    pub(super) fn failed(&mut self, node: usize, key: usize, failure: &Failure) {
        let intent = self.nodes[node].drivers[key].local.intent.take();
        let is_right = match (intent, failure) {
            (Some((intent, _)), Failure::Busy { .. }) => intent == Intent::Try,
            (Some(_), Failure::Transport(_)) => !self.is_faultless,
            _ => false,
        };
        if !is_right {
            self.violate(format!("the intent {intent:?} of {node} failed: {failure:?}"));
        }
    }

    /// Checks a machine after each of its events.
    pub(super) fn check_driver(&mut self, node: usize, key: usize) {
        let now = self.clock(node);
        let driver = &self.nodes[node].drivers[key];
        if let Some(held_lease) = &driver.local.held_lease {
            if now >= held_lease.deadline {
                return self.violate(format!("{node} is not told that its lease is over"));
            }
            if driver.machine.wake_at().is_none_or(|at| at > held_lease.deadline) {
                return self.violate(format!("{node} would sleep past its deadline"));
            }
        }
        let is_done = driver.local.intent.is_none()
            && driver.local.held_lease.is_none()
            && driver.local.releasing.is_none();
        if driver.machine.is_idle() {
            if !is_done {
                return self.violate(format!("{node} rests, and an intent or a lease is left"));
            }
            self.check_rest(node, key);
        }
    }

    /// A machine that rests has no entry in the register and no write that can still take effect.
    pub(super) fn check_rest(&mut self, node: usize, key: usize) {
        let id = self.nodes[node].id;
        let register = self.stores[key].register();
        let holds = register.holder.as_ref().is_some_and(|holder| holder.claim.node == id);
        if holds || register.queue.iter().any(|waiter| waiter.claim.node == id) {
            return self.violate(format!("{node} rests, and the register names it"));
        }
        let version = self.stores[key].version();
        let may_arrive = |&(of, at, expected, _): &(usize, usize, _, u64)| {
            (of, at) == (node, key) && expected == version
        };
        if self.in_flight.iter().any(may_arrive) {
            self.violate(format!("{node} rests, and a write of it may yet take effect"));
        }
    }

    /// Checks the last write.
    pub(super) fn check_write(&mut self, key: usize) {
        let Some(last) = self.stores[key].log.last() else { return };
        let (register, by) = (&last.register, last.by);
        let before = self.stores[key].log.iter().nth_back(1);
        if self.is_faultless && before.is_some_and(|before| before.register == *register) {
            return self.violate(format!("{by:?} writes what was there"));
        }
        let is_holder =
            |of: ClaimId| matches!(by, Author::Node(node) if self.nodes[node].id == of.node);
        let moves = before.is_some_and(|before| {
            !last.is_first
                && before.holder() == last.holder()
                && before.register.heartbeat != register.heartbeat
        });
        if moves && !last.holder().is_some_and(is_holder) {
            return self.violate(format!("{by:?} moves the heartbeat and is not the holder"));
        }
        let mut all: Vec<_> = register.queue.iter().map(|waiter| waiter.claim).collect();
        if all.len() > self.profile.queue_limit {
            let len = all.len();
            return self.violate(format!("{by:?} writes a queue of {len}"));
        }
        all.extend(last.holder());
        let count = all.len();
        all.sort_by_key(|claim| (claim.node, claim.nonce));
        all.dedup();
        if all.len() < count {
            self.violate(format!("{by:?} writes a claim twice"));
        }
    }

    /// A machine returns a request: not immediately after one has failed.
    pub(super) fn check_request(&mut self, node: usize, key: usize) {
        let failed_at = self.nodes[node].drivers[key].failed_at;
        if failed_at.is_some_and(|at| self.now < at + 4 * MS) {
            self.violate(format!("{node} retries immediately after a failure"));
        }
    }

    /// A use of the resource arrives there with its token.
    pub(super) fn access(&mut self, node: usize, key: usize, token: FencingToken, must_pass: bool) {
        let name = self.keys[key].clone();
        match self.gate.pass(&name, token) {
            Ok(()) => {
                if self.accepted[key].is_some_and(|newest| newest > token) {
                    self.violate(format!("the resource took {token} of {node} too late"));
                }
                self.accepted[key] = Some(token);
            }
            Err(stale) => {
                self.counts.refusals += 1;
                if must_pass {
                    self.violate(format!("{node} is valid, and was refused: {stale}"));
                }
            }
        }
    }

    /// If the last write made this node the holder: counts the live waiters that joined before it.
    pub(super) fn count_inversions(&mut self, node: usize, key: usize) {
        let log = &self.stores[key].log;
        let Some(last) = log.last() else { return };
        let new = last.holder().filter(|holder| holder.node == self.nodes[node].id);
        let before = log.len().checked_sub(2).map(|at| &log[at]);
        if new.is_none() || before.and_then(|before| before.holder()) == new {
            return;
        }
        let waited: Vec<_> = before.map_or(vec![], |before| {
            before.register.queue.iter().map(|waiter| waiter.claim).collect()
        });
        let since = |claim| self.joined[key].iter().position(|joined| *joined == claim);
        let own = new.filter(|new| waited.contains(new)).and_then(since);
        let lives = |claim: &ClaimId| {
            let of = self.nodes.iter().find(|node| node.id == claim.node);
            of.is_some_and(|of| of.state != ProcessState::Dead) && Some(*claim) != new
        };
        let is_earlier = |claim: &&ClaimId| {
            lives(claim) && own.is_none_or(|own| since(**claim).is_some_and(|at| at < own))
        };
        let passed_over = waited.iter().filter(is_earlier).count();
        self.counts.inversions += passed_over as u64;
        if passed_over > 0 {
            self.record(format_args!("{node} passes over {passed_over} live waiters"));
        }
    }

    /// Records the order of joining, independently of the order in the register.
    pub(super) fn note_joins(&mut self, key: usize) {
        let Some(last) = self.stores[key].log.last() else { return };
        self.joined[key].retain(|claim| last.register.position(*claim).is_some());
        for waiter in &last.register.queue {
            if !self.joined[key].contains(&waiter.claim) {
                self.joined[key].push(waiter.claim);
            }
        }
    }
}

/// The log of one run: a hash of all lines, and the lines themselves if the run is replayed.
#[derive(Debug)]
pub(super) struct EventLog {
    hash: u64,
    /// `None` unless the run is replayed, since formatting is slow.
    lines: Option<Vec<String>>,
    pub(super) events: u64,
}

/// FNV-1a, of text.
struct Hasher(u64);

impl Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

impl EventLog {
    pub(super) fn new(keeps_lines: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: keeps_lines.then(Vec::new), events: 0 }
    }

    pub(super) fn record(&mut self, at: Moment, what: fmt::Arguments<'_>) {
        self.events += 1;
        let Some(lines) = &mut self.lines else { return };
        let line = format!("{:>10}.{:06} ms  {what}", at / MS, at % MS);
        let mut hasher = Hasher(self.hash);
        hasher.write_str(&line).expect("hashing cannot fail");
        self.hash = hasher.0;
        lines.push(line);
    }

    pub(super) fn keeps_lines(&self) -> bool {
        self.lines.is_some()
    }

    /// The hash of the lines: two replayed runs are the same if it is.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}
