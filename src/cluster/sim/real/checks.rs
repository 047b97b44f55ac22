//! The rules that every run must keep.
//!
//! They are checked against what only the simulator knows: true time, all guards of all nodes, and all
//! writes that took effect at the engine.

use super::nodes::NodeState;
use super::users::Acquire;
use super::world::World;
use crate::cluster::error::LockError;
use crate::cluster::fence::FencingToken;
use crate::cluster::guard::{DistributedGuard, LossReason};
use crate::cluster::key::Key;
use crate::cluster::node::Shutdown;
use crate::cluster::observer::{Observer, RemoteOperation};
use crate::cluster::sim::network::{AppliedWrite, Author};
use crate::cluster::sim::world::Moment;
use crate::cluster::transport::{TransportError, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What the rules need to remember.
pub(super) struct Checks {
    /// The guards that exist.
    guards: Vec<HeldGuard>,
    /// By key: all tokens, and the newest of a guard that was valid.
    tokens: Vec<BTreeSet<FencingToken>>,
    newest: Vec<Option<FencingToken>>,
    /// By key: a grant by a write of this version or an older one is not protected any more, since an
    /// operator has released the lock by force.
    excused: Vec<Option<Version>>,
    /// By node and key: how often the observer was told of a loss, and whether a request has failed
    /// since the last grant.
    losses_told: BTreeMap<(usize, usize), u64>,
    has_failed: BTreeSet<(usize, usize)>,
    /// The copies of nodes: the node, its copy, the key that both hold, and until when both may.
    pub(super) copies: Vec<(usize, usize, usize, Moment)>,
    /// The nodes that are suspended in the middle of a poll.
    pub(super) suspended: BTreeSet<usize>,
    /// Futures that are never polled nor dropped.
    pub(super) leaked: Vec<Acquire>,
    pub(super) counts: RunCounts,
}

/// What the run has shown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunCounts {
    pub(super) grants: u64,
    pub(super) writes: u64,
    pub(super) losses: u64,
    /// Guards that were late: their lease was over when they were made.
    pub(super) late: u64,
}

struct HeldGuard {
    id: u64,
    node: usize,
    key: usize,
    guard: Arc<DistributedGuard>,
    /// It was seen to be invalid.
    is_over: bool,
    /// [`Checks::losses_told`] when it was made.
    losses_told: u64,
}

/// The version of the write that a token was made of.
fn version_of(token: FencingToken) -> u64 {
    token.get() / u64::from(FencingToken::PER_VERSION)
}

impl Checks {
    pub(super) fn new(keys: usize) -> Self {
        Self {
            guards: vec![],
            tokens: vec![BTreeSet::new(); keys],
            newest: vec![None; keys],
            excused: vec![None; keys],
            losses_told: BTreeMap::new(),
            has_failed: BTreeSet::new(),
            copies: vec![],
            suspended: BTreeSet::new(),
            leaked: vec![],
            counts: RunCounts::default(),
        }
    }

    /// From now on grants of this key by a write of this version or an older one prove nothing.
    pub(super) fn excuse_before(&mut self, key: usize, version: Version) {
        self.excused[key] = self.excused[key].max(Some(version));
    }

    fn is_excused(&self, key: usize, token: FencingToken) -> bool {
        self.excused[key].is_some_and(|version| version_of(token) <= version.get())
    }

    /// Any guard, if there is one: its node, its key, and its token.
    pub(super) fn some_guard(&self, random: u64) -> Option<(usize, usize, FencingToken)> {
        let at = usize::try_from(random).unwrap_or_default() % self.guards.len().max(1);
        self.guards.get(at).map(|held| (held.node, held.key, held.guard.token()))
    }

    /// Whether both a node and its copy may hold this key now: one of them at most outlives its next
    /// renewal.
    fn is_copied(&self, node: usize, key: usize, now: Moment) -> bool {
        self.copies.iter().any(|(of, copy, at, until)| {
            (*of == node || *copy == node) && *at == key && now < *until
        })
    }

    /// The guards of this key that are valid at this moment.
    fn valid(&self, key: usize, now: Moment) -> impl Iterator<Item = &HeldGuard> {
        let of_key = self.guards.iter().filter(move |held| held.key == key);
        let of_key = of_key.filter(move |held| !self.is_copied(held.node, key, now));
        let counts = of_key.filter(move |held| !self.is_excused(key, held.guard.token()));
        counts.filter(|held| held.guard.is_valid_now() == Some(true))
    }

    /// Removes the guards of a node that died. The caller drops them.
    pub(super) fn take_guards(&mut self, node: usize) -> Vec<Arc<DistributedGuard>> {
        let dead = self.guards.extract_if(.., |held| held.node == node);
        dead.map(|held| held.guard).collect()
    }

    fn losses_told(&self, node: usize, key: usize) -> u64 {
        self.losses_told.get(&(node, key)).copied().unwrap_or_default()
    }
}

impl World {
    /// A user gets a guard. If it is valid, then it is the only valid one of its key, its token is
    /// larger than that of every valid one before, and the register names its node.
    pub(super) fn begin_guard(
        &self,
        node: usize,
        key: usize,
        id: u64,
        guard: DistributedGuard,
    ) -> Arc<DistributedGuard> {
        let (token, guard) = (guard.token(), Arc::new(guard));
        self.record(format_args!(
            "{node}: a guard of {key} with {token}, {:?}, valid for {:?}",
            guard.acquired_via(),
            guard.remaining()
        ));
        let register = self.engine.lock().stores[key].register();
        let holder = register.holder.map(|holder| holder.claim.node);
        let id_of_node = self.nodes.lock()[node].id;
        let mut checks = self.checks.lock();
        checks.counts.grants += 1;
        checks.has_failed.remove(&(node, key));
        let now = self.now();
        let is_copied = checks.is_copied(node, key, now);
        if !checks.tokens[key].insert(token) && !is_copied {
            self.violate(format!("the token {token} of {node} was given out before"));
        }
        if !guard.is_valid() {
            checks.counts.late += 1;
        } else if !checks.is_excused(key, token) && !is_copied {
            if let Some(other) = checks.valid(key, now).next() {
                self.violate(format!("{node} and {} hold {key}, and both are valid", other.node));
            }
            if checks.newest[key] > Some(token) {
                let newest = checks.newest[key];
                self.violate(format!("the token {token} of {node} is smaller than {newest:?}"));
            }
            if holder != Some(id_of_node) {
                self.violate(format!("{node} holds {key}, but the register names {holder:?}"));
            }
            checks.newest[key] = Some(token);
        }
        let losses_told = checks.losses_told(node, key);
        let is_over = !guard.is_valid();
        let held = HeldGuard { id, node, key, guard: guard.clone(), is_over, losses_told };
        checks.guards.push(held);
        drop(checks);
        self.check_guards();
        guard
    }

    /// The user is about to give the guard back.
    pub(super) fn end_guard(&self, id: u64) {
        self.check_guards();
        let mut checks = self.checks.lock();
        let at = checks.guards.iter().position(|held| held.id == id);
        let gone = at.map(|at| checks.guards.remove(at));
        drop(checks);
        drop(gone);
    }

    /// One guard of a key is valid at most. A guard that was seen to be invalid stays so. Where nothing
    /// goes wrong all are valid.
    pub(super) fn check_guards(&self) {
        let mut checks = self.checks.lock();
        for key in 0..self.keys.len() {
            let valid: Vec<_> = checks.valid(key, self.now()).map(|held| held.node).collect();
            if valid.len() > 1 {
                self.violate(format!("{valid:?} hold {key}, and all are valid"));
            }
        }
        for HeldGuard { node, key, guard, is_over, .. } in &mut checks.guards {
            let Some(is_valid) = guard.is_valid_now() else { continue };
            if *is_over && is_valid {
                self.violate(format!("{node}: a guard of {key} was invalid, and is valid again"));
            }
            if self.profile.is_faultless() && !is_valid {
                self.violate(format!("{node} has lost {key}, and nothing went wrong"));
            }
            *is_over |= !is_valid;
        }
    }

    /// [`DistributedGuard::lost`] is ready.
    pub(super) fn check_loss(&self, id: u64, guard: &DistributedGuard, why: &LossReason) {
        let mut checks = self.checks.lock();
        checks.counts.losses += 1;
        let Some(held) = checks.guards.iter().find(|held| held.id == id) else { return };
        let HeldGuard { node, key, losses_told, .. } = *held;
        let was_told = checks.losses_told(node, key) > losses_told;
        let has_failed = checks.has_failed.contains(&(node, key));
        drop(checks);
        self.record(format_args!("{node}: the guard of {key} is lost: {why}"));
        if guard.is_valid() {
            self.violate(format!("{node} was told that {key} is lost, and the guard is valid"));
        }
        let (profile, state) = (&self.profile, self.nodes.lock()[node].state);
        let is_true = match why {
            _ if profile.is_faultless() => false,
            LossReason::Expired { last } => !(has_failed && last.is_none()),
            LossReason::TakenOver => self.was_removed(node, key, guard.token()),
            LossReason::Copied => self.has_copy(node, key),
            LossReason::Closed => state != NodeState::Open,
            _ => false,
        };
        if !is_true {
            self.violate(format!("{node} has not lost {key} for this reason: {why:?}"));
        }
        if *why != LossReason::Closed && !was_told {
            self.violate(format!(
                "{node}: a guard of {key} is lost, and the observer knows nothing"
            ));
        }
    }

    fn has_copy(&self, node: usize, key: usize) -> bool {
        let is_of = |(of, copy, at, _): &(usize, usize, usize, Moment)| {
            (*of == node || *copy == node) && *at == key
        };
        self.checks.lock().copies.iter().any(is_of)
    }

    /// Whether a write of somebody else ended the grant that this token was made of.
    fn was_removed(&self, node: usize, key: usize, token: FencingToken) -> bool {
        let id = self.nodes.lock()[node].id;
        let is_own = |write: &AppliedWrite| write.holder().is_some_and(|claim| claim.node == id);
        let since = Version::new(version_of(token)).expect("tokens are made of versions");
        let engine = self.engine.lock();
        engine.stores[key].after(since).any(|[before, after]| {
            is_own(before) && before.holder() != after.holder() && after.by != Author::Node(node)
        })
    }

    /// The report of a shutdown names each key once.
    pub(super) fn check_shutdown(&self, node: usize, report: &Shutdown) {
        let all = report.released.iter().chain(&report.indeterminate);
        let names: BTreeSet<_> = all.clone().collect();
        if names.len() < all.count() {
            self.violate(format!("{node}: the report names a key twice: {report:?}"));
        }
    }

    /// The futures that nobody polls go, too.
    pub(super) fn drop_leaked(&self) {
        let leaked = std::mem::take(&mut self.checks.lock().leaked);
        drop(leaked);
    }

    /// What is left when nothing happens any more: idle registers, and nodes that remember nothing.
    pub(super) fn check_rest(&self) {
        for (at, key) in self.keys.iter().enumerate() {
            let register = self.engine.lock().stores[at].register();
            if !register.is_idle() {
                self.violate(format!("the register of {key} is not idle: {register:?}"));
            }
        }
        for node in self.open_nodes() {
            let Some(handle) = self.handle(node) else { continue };
            let waiting: usize = self.keys.iter().map(|key| handle.waiting(key.as_str())).sum();
            let keys = handle.keys();
            if waiting + keys > 0 {
                self.violate(format!("{node} remembers {keys} keys and {waiting} waiters"));
            }
        }
    }
}

/// Notes what the observer of a node is told.
pub(super) struct SimObserver {
    pub(super) world: Arc<World>,
    pub(super) node: usize,
}

impl SimObserver {
    fn key(&self, key: &Key) -> (usize, usize) {
        let at = self.world.keys.iter().position(|known| known == key);
        (self.node, at.expect("a key of this run"))
    }
}

impl Observer for SimObserver {
    fn lost(&self, key: &Key, why: &LossReason) {
        self.world.record(format_args!("{}: the observer is told: {why}", self.node));
        *self.world.checks.lock().losses_told.entry(self.key(key)).or_default() += 1;
    }

    fn acquire_failed(&self, _: &Key, _: Duration, error: &LockError) {
        self.world.record(format_args!("{}: the observer is told: {error}", self.node));
    }

    fn request_finished(
        &self,
        key: &Key,
        _: RemoteOperation,
        _: Duration,
        error: Option<&TransportError>,
    ) {
        if error.is_some() {
            self.world.checks.lock().has_failed.insert(self.key(key));
        }
    }
}
