//! Operators: they inspect keys, and break locks.

use super::nodes::NodeState;
use super::users::User;
use crate::cluster::admin::{ForcedRelease, KeyState, LockStatus};
use crate::cluster::error::LockError;
use crate::cluster::fence::FencingToken;
use crate::cluster::protocol::register::Register;
use crate::cluster::sim::network::{AppliedWrite, Author};
use crate::cluster::sim::world::Moment;
use crate::cluster::transport::{NodeId, Version};
use std::time::Duration;

impl User {
    /// Inspects the key.
    pub(super) async fn inspect(&self) {
        let (world, node, key) = (&self.world, self.node, self.key);
        let Some(handle) = world.handle(node) else { return };
        let asked = world.now();
        let found = world.as_operator(handle.inspect(&world.keys[key])).await;
        drop(handle);
        world.record(format_args!("{node}: an operator inspects {key}: {found:?}"));
        match found {
            Ok(found) => self.check_state(&found, asked),
            Err(error) => self.check_operator_error(&error),
        }
    }

    /// Breaks the lock.
    pub(super) async fn break_lock(&self) {
        let (world, node, key) = (&self.world, self.node, self.key);
        let Some(handle) = world.handle(node) else { return };
        let asked = world.now();
        world.record(format_args!("{node}: an operator breaks {key}"));
        let broken = world.as_operator(handle.break_lock(&world.keys[key])).await;
        drop(handle);
        world.record(format_args!("{node}: an operator has broken {key}: {broken:?}"));
        match broken {
            Ok(broken) => self.check_break(broken.as_ref(), asked),
            Err(error) => self.check_operator_error(&error),
        }
    }

    /// What an inspection that began at `asked` has found was there meanwhile, and the holder has not moved
    /// for as long as it says.
    fn check_state(&self, found: &KeyState, asked: Moment) {
        let (world, key) = (&self.world, self.key);
        if world.went_back() {
            // What was there may be undone.
            return;
        }
        let engine = world.engine.lock();
        let log = &engine.stores[key].log;
        let Some(version) = found.version else { return };
        let Some(at) = log.iter().position(|write| write.version == version) else {
            drop(engine);
            return self.violate(format!("an inspection found {version}, which was never there"));
        };
        let moment = |at: usize| log.get(at).map(|write| engine.written_at(key, write.number));
        let liveness = |at: usize| log[at].register.liveness();
        let is_old = moment(at + 1).is_some_and(|replaced| replaced < asked);
        let is_same = show(&log[at].register) == (found.status.clone(), ids(found));
        let same_since =
            (0..at).rev().take_while(|before| liveness(*before) == liveness(at)).last();
        let moved_at = moment(same_since.unwrap_or(at)).unwrap_or_default();
        let error = 1_000_000 + u128::from(world.profile.clock_error.unsigned_abs());
        let unchanged = u128::from(world.now() - moved_at) * error / 1_000_000 + 1;
        drop(engine);
        if is_old || !is_same {
            self.violate(format!("an inspection found what was not there: {found:?}"));
        }
        if found.unchanged_for > Duration::from_nanos(u64::try_from(unchanged).unwrap_or(u64::MAX))
        {
            self.violate(format!("the holder has moved {unchanged} ns ago: {found:?}"));
        }
    }

    /// The lock was taken from the node that is named, by this call. If none is, the holder has changed
    /// meanwhile, or there was none.
    fn check_break(&self, broken: Option<&ForcedRelease>, asked: Moment) {
        let (world, key) = (&self.world, self.key);
        let engine = world.engine.lock();
        let store = &engine.stores[key];
        let is_right = match broken {
            None => store.register().is_idle(),
            Some(broken) => store.log.windows(2).any(|writes| {
                let [before, after] = writes else { return false };
                let is_here = engine.written_at(key, after.number) >= asked;
                is_here && after.by == Author::Operator && taken_from(before) == Some(broken.node)
            }),
        };
        drop(engine);
        if !is_right && (broken.is_some() || !world.has_moved(key, asked)) {
            self.violate(format!("an operator has broken another lock: {broken:?}"));
        }
    }

    fn check_operator_error(&self, error: &LockError) {
        let is_right = match error {
            LockError::Closed { .. } => self.world.nodes.lock()[self.node].state != NodeState::Open,
            LockError::Transport { .. } => !self.world.profile.is_faultless(),
            _ => false,
        };
        if !is_right {
            self.violate(format!("an operator got {error}"));
        }
    }

    fn violate(&self, what: String) {
        self.world.violate(format!("{}: {what}", self.node));
    }
}

/// The node from which a release by force takes the lock.
fn taken_from(before: &AppliedWrite) -> Option<NodeId> {
    before.holder().map(|claim| claim.node)
}

/// What an inspection has to find in this register.
fn show(register: &Register) -> (LockStatus, Vec<NodeId>) {
    let status = match &register.holder {
        Some(holder) => LockStatus::Held {
            node: holder.claim.node,
            label: holder.label.clone(),
            lease: holder.lease,
            is_handed: holder.is_handed,
            // The simulator has no wall clock.
            since: None,
            token: holder.granted.and_then(token_of),
            value: holder.value.as_deref().map(str::to_owned),
        },
        None => LockStatus::Free,
    };
    (status, register.queue.iter().map(|waiter| waiter.claim.node).collect())
}

/// The token of a grant of this version.
fn token_of(granted: u64) -> Option<FencingToken> {
    FencingToken::of(Version::new(granted).ok()?, 0)
}

fn ids(found: &KeyState) -> Vec<NodeId> {
    found.queue.iter().map(|waiter| waiter.node).collect()
}
