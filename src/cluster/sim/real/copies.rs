//! Copies of nodes: a machine is resumed twice from one snapshot, so two processes have the state of one.
//!
//! A copy is made of a node that holds a lock, or that waits for one; its connections are gone. Neither
//! of the two can be told from the other, so less is promised of them:
//!
//! - Copies of a holder both hold, until their next renewal, which is before the deadlines that they
//!   have in common. One at most outlives that. If one of them releases the lock, a third node may hold
//!   it beside the other one until then.
//! - Copies of a waiter have a claim in common. All of them may be handed the lock by it, and each may take the
//!   lock by it, one after the other. Then the same holds of them until the deadlines that they have at that
//!   time. A copy that has not had the lock by that claim takes it from nobody.
//!
//! From then on they are two nodes with one number.

use super::checks::HeldGuard;
use super::users::User;
use super::world::World;
use crate::cluster::local::{HoldLimits, WaitMode};
use crate::cluster::node::Node;
use crate::cluster::protocol::register::ClaimId;
use crate::cluster::sim::network::{AppliedWrite, Author};
use crate::cluster::sim::world::Moment;
use futures_util::FutureExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Context, Waker};

/// The copies of a run.
#[derive(Default)]
pub(super) struct Copies {
    holders: Vec<HolderCopy>,
    waiters: Vec<WaiterCopies>,
}

/// A node and its copy, and the key that both hold until a moment at the latest.
struct HolderCopy {
    nodes: [usize; 2],
    key: usize,
    until: Moment,
}

/// A node and its copies, and the claim by which all of them wait.
struct WaiterCopies {
    nodes: Vec<usize>,
    key: usize,
    claim: ClaimId,
    /// Those of them that have written the claim as the holder, were handed the lock by it, or have handed it
    /// on.
    took: BTreeSet<usize>,
    /// By two of them that have both held the lock: until when both may.
    until: BTreeMap<[usize; 2], Moment>,
}

impl Copies {
    /// Whether copies of a holder still may both hold this, this guard's node among them.
    fn are_both_holders(&self, held: &HeldGuard, now: Moment) -> bool {
        self.holders
            .iter()
            .any(|copy| copy.nodes.contains(&held.node) && copy.key == held.key && now < copy.until)
    }

    /// This guard's node holds the lock that its claim was handed.
    pub(super) fn note_handed(&mut self, held: &HeldGuard) {
        if let Some(copies) = self.waiters.iter_mut().find(|copies| copies.is_of(held)) {
            copies.took.insert(held.node);
        }
    }

    /// The copies of a waiter by whose claim this guard's node has the lock.
    fn waiters_of(&self, held: &HeldGuard) -> Option<&WaiterCopies> {
        self.waiters.iter().find(|copy| copy.is_of(held))
    }

    /// Whether the node of this guard may not be the only one that holds the lock.
    pub(super) fn is_shared(&self, held: &HeldGuard, now: Moment) -> bool {
        self.are_both_holders(held, now)
            || self.waiters_of(held).is_some_and(|all| all.took.len() > 1)
    }

    /// Whether two guards of one key may be valid at the same time. With each comes its end, if it is not
    /// renewed.
    pub(super) fn may_both_hold(&mut self, pair: [(&HeldGuard, Moment); 2], now: Moment) -> bool {
        let [(one, ends), (other, other_ends)] = pair;
        if one.node == other.node {
            return false;
        }
        let of_both =
            self.waiters.iter_mut().find(|copies| copies.is_of(one) && copies.is_of(other));
        let nodes = [one.node.min(other.node), one.node.max(other.node)];
        match of_both {
            Some(copies) => now < *copies.until.entry(nodes).or_insert(ends.max(other_ends)),
            None => self.is_shared(one, now) || self.is_shared(other, now),
        }
    }

    /// Whether there is a copy of this node that may have its claims of this key.
    pub(super) fn has_copy(&self, node: usize, key: usize) -> bool {
        self.holders.iter().any(|copy| copy.nodes.contains(&node) && copy.key == key)
            || self.waiters.iter().any(|all| all.nodes.contains(&node) && all.key == key)
    }

    /// A node that waits by this claim was copied.
    fn add_waiter(&mut self, [node, copy]: [usize; 2], key: usize, claim: ClaimId) {
        let known = |all: &&mut WaiterCopies| (all.key, all.claim) == (key, claim);
        if let Some(copies) = self.waiters.iter_mut().find(known) {
            return copies.nodes.push(copy);
        }
        let (nodes, took, until) = (vec![node, copy], BTreeSet::new(), BTreeMap::new());
        self.waiters.push(WaiterCopies { nodes, key, claim, took, until });
    }
}

impl WaiterCopies {
    /// Whether it is by their claim that this guard's node has the lock.
    fn is_of(&self, held: &HeldGuard) -> bool {
        (self.key, Some(self.claim)) == (held.key, held.claim) && self.nodes.contains(&held.node)
    }
}

impl World {
    /// A write of this key took effect.
    pub(super) fn note_holder(&self, key: usize, by: Author) {
        // The one before it, too: a copy that gives up hands on what both were handed. A join changes nothing.
        let engine = self.engine.lock();
        let last = || engine.stores[key].log.iter().rev().take(2);
        let holders: Vec<_> = last().filter_map(AppliedWrite::holder).collect();
        let seen: Vec<_> = last().map(|write| write.register.liveness()).collect();
        let is_join = seen.len() == 2 && seen[0] == seen[1];
        drop(engine);
        let Author::Node(node) = by else { return };
        for copies in &mut self.checks.lock().copies.waiters {
            let is_theirs = copies.key == key && holders.contains(&copies.claim) && !is_join;
            if copies.nodes.contains(&node) && is_theirs {
                copies.took.insert(node);
            }
        }
    }

    /// Starts the process of a copy of a node, with the same number and clock. It knows nothing yet.
    fn add_copy(self: &Arc<Self>, node: usize) -> (usize, Node) {
        let (id, clock) = {
            let nodes = self.nodes.lock();
            (nodes[node].id, nodes[node].clock.clone())
        };
        let copy = self.add_process(id.get(), clock);
        self.engine.lock().copy_told(node, copy);
        (copy, self.handle(copy).expect("the node is new"))
    }

    /// A machine of a node is copied, with a lock that it holds.
    pub(super) fn copy_holder(self: &Arc<Self>) {
        let Some((node, key, token)) = self.checks.lock().some_guard(self.random()) else { return };
        let is_in_poll = self.checks.lock().suspended.contains(&node);
        let Some(handle) = self.handle(node).filter(|_| !is_in_poll) else { return };
        let (copy, new) = self.add_copy(node);
        let guard = {
            let (from, mut to) = (handle.shared().driver.lock(), new.shared().driver.lock());
            let drivers = from.as_ref().zip(to.as_mut());
            drivers.and_then(|(from, to)| from.copy_held(to, &self.keys[key], token))
        };
        let Some(guard) = guard else { return };
        self.record(format_args!("{node} is copied, and holds {key}: {copy}"));
        let until = self.moment_after(node, guard.remaining());
        let both = HolderCopy { nodes: [node, copy], key, until };
        self.checks.lock().copies.holders.push(both);
        self.nodes.lock()[copy].users += 1;
        let user = User::new(self.clone(), copy, key, &new, false);
        self.spawn(copy, "a task", user.run_with(guard));
    }

    /// A machine of a node is copied, while the node waits in the queue of a key.
    pub(super) fn copy_waiter(self: &Arc<Self>) {
        let suspended = self.checks.lock().suspended.clone();
        let open = self.open_nodes().into_iter().filter(|node| !suspended.contains(node));
        let all = open.flat_map(|node| (0..self.keys.len()).map(move |key| (node, key)));
        let waits = |&(node, key): &(usize, usize)| {
            let handle = self.handle(node)?;
            let driver = handle.shared().driver.lock();
            let claim = driver.as_ref()?.waits_by(&self.keys[key])?;
            Some((node, key, claim))
        };
        let waiting: Vec<_> = all.filter_map(|of| waits(&of)).collect();
        if waiting.is_empty() {
            return;
        }
        let (node, key, claim) = waiting[self.index(waiting.len())];
        let handle = self.handle(node).expect("an open node has a handle");
        let (copy, new) = self.add_copy(node);
        let user = User::new(self.clone(), copy, key, &new, false);
        let mut acquire = user.acquire(WaitMode::Wait, HoldLimits::default());
        // It joins the queue of the process, and its waker is that of the task from its next poll on.
        let result = acquire.poll_unpin(&mut Context::from_waker(Waker::noop()));
        assert!(result.is_pending(), "a new node has nothing to give");
        let (from, mut to) = (handle.shared().driver.lock(), new.shared().driver.lock());
        let drivers = from.as_ref().zip(to.as_mut());
        drivers.into_iter().for_each(|(from, to)| from.copy_waiting(to, &self.keys[key]));
        drop((from, to));
        self.record(format_args!("{node} is copied, and waits for {key}: {copy}"));
        self.checks.lock().copies.add_waiter([node, copy], key, claim);
        self.nodes.lock()[copy].users += 1;
        self.spawn(copy, "a task", user.run_waiting(acquire));
    }
}
