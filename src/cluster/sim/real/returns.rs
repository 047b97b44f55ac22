//! An engine that goes back: its whole state is that of a backup again, versions included.
//!
//! What a node does then depends on what it has seen ([`Returns::newest`]). An answer with a smaller
//! version than one that was seen before tells it that the engine went back:
//!
//! - What it holds is lost from that moment, for this reason, and the observer is told
//!   ([`World::check_return`]).
//! - It makes no token of a version that does not exceed all that it has seen.
//! - It does not ask for the lock by a write, unless the engine declares that it can lose writes.
//! - Its acquisitions fail by [`LockError::EngineWentBack`](crate::cluster::LockError), and only as long
//!   as the versions are too small: until an operator has raised them, and has written the key once. They
//!   never are, if the versions of an engine that can lose writes begin with the time.
//!
//! A node that has seen nothing notices nothing. So what was granted before a return is not protected
//! any more ([`World::undo_all`]), and neither is what is granted until somebody writes by a version that
//! he has seen before the return ([`World::overwritten`]): the engine may have reached it again, with another
//! register. Among the others one guard is valid at most, and tokens grow.

use super::engine::{Request, Response, Told};
use super::world::World;
use crate::cluster::protocol::register::Register;
use crate::cluster::sim::network::{Author, Backup, Store};
use crate::cluster::sim::world::Moment;
use crate::cluster::transport::{Exchange, NodeId, Version, Wake, Write};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What has come of the engine's returns.
pub(super) struct Returns {
    /// By key.
    backups: Vec<Backup>,
    /// By key: the largest version ever.
    largest: Vec<u64>,
    /// When the engine last went back.
    last: Option<Moment>,
    /// Until when the versions were not larger than all before.
    until: Moment,
    /// What was told in answers before a return, and is not true any more.
    void: BTreeSet<Told>,
    /// By node and key: the largest version that a response has shown.
    newest: BTreeMap<(usize, usize), Version>,
    /// The same of the items of watches, which the node may have missed.
    items: BTreeMap<(usize, usize), Version>,
    /// Writes that got a version which is not larger than all that their node had seen.
    too_small: BTreeSet<(usize, usize, u64)>,
    /// By node and key: an answer has just shown that the engine went back.
    shown: BTreeSet<(usize, usize)>,
    /// By node and key: the observer was told, and no larger version was seen since.
    told: BTreeSet<(usize, usize)>,
}

impl Returns {
    pub(super) fn new(keys: usize) -> Self {
        Self {
            backups: vec![Store::default().backup(); keys],
            largest: vec![0; keys],
            last: None,
            until: 0,
            void: BTreeSet::new(),
            newest: BTreeMap::new(),
            items: BTreeMap::new(),
            too_small: BTreeSet::new(),
            shown: BTreeSet::new(),
            told: BTreeSet::new(),
        }
    }

    /// Whether this was told before a return, and is not true any more.
    pub(super) fn is_void(&self, told: &Told) -> bool {
        self.void.contains(told)
    }

    /// Whether no token may be made of this version.
    pub(super) fn is_too_small(&self, node: usize, key: usize, version: u64) -> bool {
        self.too_small.contains(&(node, key, version))
    }

    pub(super) fn told_observer(&mut self, node: usize, key: usize) {
        self.told.insert((node, key));
    }

    /// The keys of which a node has just been shown a return, and whether the observer was told.
    pub(super) fn take_shown(&mut self, node: usize) -> Vec<(usize, bool)> {
        let shown: Vec<_> = self.shown.extract_if((node, 0)..(node + 1, 0), |_| true).collect();
        shown.into_iter().map(|of| (of.1, self.told.contains(&of))).collect()
    }

    pub(super) fn went_back_since(&self, since: Moment) -> bool {
        self.last >= Some(since)
    }

    /// A watch of a node shows this version.
    pub(super) fn note_item(&mut self, node: usize, key: usize, version: Version) {
        let before = self.items.entry((node, key)).or_insert(version);
        *before = version.max(*before);
    }

    fn shown_by_items(&self, node: usize, key: usize) -> Option<Version> {
        self.items.get(&(node, key)).copied()
    }

    /// A node has seen this version, which is not smaller than those before.
    fn note(&mut self, node: usize, key: usize, version: Version) {
        self.newest.insert((node, key), version);
    }

    /// A copy of a node knows what that knows.
    pub(super) fn copy(&mut self, node: usize, copy: usize) {
        let newest: Vec<_> = self.newest.range((node, 0)..(node + 1, 0)).collect();
        let newest: Vec<_> = newest.into_iter().map(|((_, key), seen)| (*key, *seen)).collect();
        self.newest.extend(newest.into_iter().map(|(key, seen)| ((copy, key), seen)));
    }
}

impl World {
    /// Whether the engine ever went back.
    pub(super) fn went_back(&self) -> bool {
        self.engine.lock().returns.last.is_some()
    }

    /// Whether the engine gave versions that were too small at some time since `since`.
    pub(super) fn was_back(&self, since: Moment) -> bool {
        let delay = 2 * self.profile.latency[1] + self.profile.max_delay;
        self.engine.lock().returns.until.saturating_add(delay) >= since
    }

    pub(super) fn back_up(&self) {
        self.record(format_args!("engine: a backup is made"));
        let mut engine = self.engine.lock();
        engine.returns.backups = engine.stores.iter().map(Store::backup).collect();
    }

    /// The engine goes back to the last backup. It is started anew for that.
    pub(super) fn go_back(self: &Arc<Self>) {
        let has_time = self.profile.is_lossy && self.chance(700);
        let (keys, now) = (0..self.keys.len(), self.now());
        let mut engine = self.engine.lock();
        let engine_now = &mut *engine;
        for key in keys.clone() {
            let (store, returns) = (&mut engine_now.stores[key], &mut engine_now.returns);
            returns.largest[key] = returns.largest[key].max(store.floor());
            store.restore(&returns.backups[key]);
            let floor = store.floor();
            let is_gone = |told: &Told| told.1 == key && told.2.get() > floor;
            returns.void.extend(engine_now.told.extract_if(.., |told| is_gone(told)));
            if has_time {
                store.raise(returns.largest[key]);
            }
        }
        engine.returns.last = Some(now);
        if !has_time {
            engine.returns.until = Moment::MAX;
        }
        drop(engine);
        self.record(format_args!("engine: it goes back, its versions go on: {has_time}"));
        keys.for_each(|key| self.undo_all(key));
        self.end_watches();
        if !has_time {
            let most = self.profile.calm_at.saturating_sub(self.now());
            self.after(self.fault_length().min(most), |world| world.reset());
        }
    }

    /// An operator has the versions go on above all that there ever were, and writes each key once.
    fn reset(self: &Arc<Self>) {
        self.record(format_args!("engine: an operator raises the versions"));
        for key in 0..self.keys.len() {
            let mut engine = self.engine.lock();
            let largest = engine.returns.largest[key];
            engine.stores[key].raise(largest);
            let (seen, register) = (engine.stores[key].load(), engine.stores[key].register());
            drop(engine);
            if let Some(seen) = seen {
                let (wake, idle) = (Wake::Everybody, register.is_idle());
                let write = Write { value: seen.value, wake, idle };
                self.exchange(key, Some(seen.version), &write, Author::Operator);
            }
        }
        self.engine.lock().returns.until = self.now();
    }

    /// A write took effect that was built on what was true before a return. Nobody can tell that.
    pub(super) fn overwritten(&self, key: usize) {
        self.record(format_args!("engine: that was built on what {key} was before it went back"));
        self.undo_all(key);
    }

    /// A request is about to be sent. Returns the largest version that its node has seen.
    pub(super) fn check_request(
        &self,
        node: usize,
        key: usize,
        by: Author,
        request: &Request,
    ) -> Option<Version> {
        let engine = self.engine.lock();
        let newest = engine.returns.newest.get(&(node, key)).copied();
        let is_back = |expected: &Option<Version>| expected.is_some() && *expected < newest;
        let asks = match request {
            Request::Exchange(expected, write) if is_back(expected) && by == Author::Node(node) => {
                let id = self.nodes.lock()[node].id;
                let old = expected.and_then(|version| engine.stores[key].written(version));
                let new = Register::decode(&write.value).expect("a node writes registers");
                old.is_some_and(|old| count(&new, id) > count(&old.register, id))
            }
            _ => false,
        };
        drop(engine);
        if by == Author::Node(node) && !matches!(request, Request::Watch(_)) {
            let now = self.now();
            self.checks.lock().silent_since.entry((node, key)).or_insert(now);
        }
        if asks && !self.profile.is_lossy {
            self.violate(format!("{node} asks for {key}, and knows that the engine went back"));
        }
        newest
    }

    /// A node takes in a response. `newest` is the largest version that it had seen when it sent the
    /// request.
    pub(super) fn answered(
        &self,
        node: usize,
        key: usize,
        by: Author,
        newest: Option<Version>,
        response: &Response,
    ) {
        if by == Author::Operator {
            // The state machine is not shown this.
            return;
        }
        self.checks.lock().silent_since.remove(&(node, key));
        let mut engine = self.engine.lock();
        let version = match response {
            Response::Loaded(seen) | Response::Exchanged(Exchange::Mismatch(seen)) => {
                seen.as_ref().map(|seen| seen.version)
            }
            Response::Exchanged(Exchange::Swapped(version)) => {
                if Some(*version) <= newest {
                    engine.returns.too_small.insert((node, key, version.get()));
                }
                (Some(*version) > newest).then_some(*version)
            }
            Response::Watching => None,
        };
        let Some(version) = version else { return };
        if Some(version) < newest {
            engine.returns.shown.insert((node, key));
            drop(engine);
            for held in &mut self.checks.lock().guards {
                let is_here = (held.node, held.key) == (node, key);
                let is_valid = |left: Duration| !left.is_zero();
                held.has_return |= is_here && held.guard.remaining_now().is_some_and(is_valid);
            }
        } else {
            engine.returns.note(node, key, version);
            if Some(version) > newest.max(engine.returns.shown_by_items(node, key)) {
                engine.returns.told.remove(&(node, key));
            }
        }
    }
}

/// How often a register names a node.
fn count(register: &Register, node: NodeId) -> usize {
    let holder = register.holder.iter().map(|holder| holder.claim.node);
    let all = holder.chain(register.queue.iter().map(|waiter| waiter.claim.node));
    all.filter(|named| *named == node).count()
}
