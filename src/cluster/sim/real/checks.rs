//! The rules that every run must keep.
//!
//! They are checked against what only the simulator knows: true time, all guards of all nodes, and all
//! writes that took effect at the engine.

use super::copies::Copies;
use super::nodes::NodeState;
use super::users::{Acquire, Asked, KeyUse};
use super::world::World;
use crate::cluster::error::LockError;
use crate::cluster::fence::FencingToken;
use crate::cluster::guard::{AcquiredVia, DistributedGuard, LossReason};
use crate::cluster::key::Key;
use crate::cluster::local::HoldLimits;
use crate::cluster::node::Shutdown;
use crate::cluster::observer::{Hold, Observer, RemoteOperation};
use crate::cluster::process::virtual_child;
use crate::cluster::protocol::Time;
use crate::cluster::protocol::register::ClaimId;
use crate::cluster::sim::network::{AppliedWrite, Author};
use crate::cluster::sim::world::{MS, Moment};
use crate::cluster::transport::{TransportError, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A key at a node: both by their indices.
pub(super) type KeyOfNode = (usize, usize);

/// What the rules need to remember.
pub(super) struct Checks {
    /// The guards that exist.
    pub(super) guards: Vec<HeldGuard>,
    /// By key: all tokens, and the newest of a guard that was valid.
    pub(super) tokens: Vec<BTreeSet<FencingToken>>,
    pub(super) newest: Vec<Option<FencingToken>>,
    /// By key: grants by a write before this one are not protected any more, since an operator has
    /// released the lock by force, or the engine went back.
    excused: Vec<usize>,
    /// The same for tokens, since the engine went back.
    undone: Vec<usize>,
    /// What the observer was told of losses, and when it was last told that a request has failed.
    losses_told: BTreeMap<KeyOfNode, Vec<LossReason>>,
    failed_at: BTreeMap<KeyOfNode, Moment>,
    /// How many acquisitions there are, with the guards that they got, and how many have ever begun.
    pub(super) uses: BTreeMap<KeyOfNode, [u64; 2]>,
    /// Since when the engine has not answered the requests for a key.
    pub(super) silent_since: BTreeMap<KeyOfNode, Moment>,
    pub(super) copies: Copies,
    /// The nodes that are suspended in the middle of a poll.
    pub(super) suspended: BTreeSet<usize>,
    /// Futures that are never polled nor dropped.
    pub(super) leaked: Vec<(Acquire, KeyUse)>,
    /// Guards that their users keep for ever, by their ids.
    pub(super) hung: Vec<(u64, KeyUse)>,
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

/// A guard that a user has.
pub(super) struct HeldGuard {
    pub(super) id: u64,
    pub(super) node: usize,
    pub(super) key: usize,
    pub(super) guard: Arc<DistributedGuard>,
    /// The number of the write of which its token was made. `None` if the engine went back behind it.
    number: Option<usize>,
    /// The claim by which its node has the lock.
    pub(super) claim: Option<ClaimId>,
    own_limit: Option<OwnLimit>,
    /// It was seen to be invalid.
    is_over: bool,
    /// An answer has shown its node that the engine went back, while it was valid.
    pub(super) has_return: bool,
    /// How many there were of [`Checks::losses_told`] when it was made.
    losses_told: usize,
}

/// When the own limit of a guard passes, on the clock of its node.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnLimit {
    /// Not before this moment, and not after that.
    pub(super) earliest: Time,
    pub(super) latest: Time,
    /// It is the end of a lease that is not renewed.
    pub(super) is_lease: bool,
}

/// The version of the write that a token was made of.
pub(super) fn version_of(token: FencingToken) -> u64 {
    token.get() / u64::from(FencingToken::PER_VERSION)
}

impl Checks {
    pub(super) fn new(keys: usize) -> Self {
        Self {
            guards: vec![],
            tokens: vec![BTreeSet::new(); keys],
            newest: vec![None; keys],
            excused: vec![0; keys],
            undone: vec![0; keys],
            losses_told: BTreeMap::new(),
            failed_at: BTreeMap::new(),
            uses: BTreeMap::new(),
            silent_since: BTreeMap::new(),
            copies: Copies::default(),
            suspended: BTreeSet::new(),
            leaked: vec![],
            hung: vec![],
            counts: RunCounts::default(),
        }
    }

    fn is_excused(&self, held: &HeldGuard) -> bool {
        held.number.is_none_or(|number| number < self.excused[held.key])
    }

    /// Whether its token comes from a state behind which the engine went back.
    fn is_undone(&self, held: &HeldGuard) -> bool {
        held.number.is_none_or(|number| number < self.undone[held.key])
    }

    /// Any guard, if there is one: its node, its key, and its token.
    pub(super) fn some_guard(&self, random: u64) -> Option<(usize, usize, FencingToken)> {
        let at = usize::try_from(random).unwrap_or_default() % self.guards.len().max(1);
        self.guards.get(at).map(|held| (held.node, held.key, held.guard.token()))
    }

    /// Two nodes that hold a key by valid guards, and must not. `moment` tells when the clock of a node will
    /// have advanced by this much.
    fn conflict(
        &mut self,
        now: Moment,
        moment: impl Fn(usize, Duration) -> Moment,
    ) -> Option<[usize; 3]> {
        let Self { guards, excused, copies, .. } = self;
        let is_excused = |held: &HeldGuard| held.number.is_none_or(|at| at < excused[held.key]);
        let valid = guards.iter().filter(|held| !is_excused(held)).filter_map(|held| {
            let left = held.guard.remaining_now().filter(|left| !left.is_zero())?;
            Some((held, moment(held.node, left)))
        });
        let valid: Vec<_> = valid.collect();
        for (at, one) in valid.iter().enumerate() {
            for other in valid[at + 1..].iter().filter(|other| other.0.key == one.0.key) {
                if !copies.may_both_hold([*one, *other], now) {
                    return Some([one.0.node, other.0.node, one.0.key]);
                }
            }
        }
        None
    }

    /// Removes the guards of a node that died. The caller drops them.
    pub(super) fn take_guards(&mut self, node: usize) -> Vec<Arc<DistributedGuard>> {
        let dead = self.guards.extract_if(.., |held| held.node == node);
        dead.map(|held| held.guard).collect()
    }

    pub(super) fn losses_told(&self, node: usize, key: usize) -> &[LossReason] {
        self.losses_told.get(&(node, key)).map(Vec::as_slice).unwrap_or_default()
    }
}

impl World {
    /// From now on the writes of this key that have taken effect protect no grant.
    pub(super) fn excuse_all(&self, key: usize) {
        let writes = self.engine.lock().stores[key].writes();
        self.checks.lock().excused[key] = writes;
    }

    /// The same after a return of the engine, and tokens of these writes may come again.
    pub(super) fn undo_all(&self, key: usize) {
        self.excuse_all(key);
        let (floor, mut checks) = (self.engine.lock().stores[key].floor(), self.checks.lock());
        checks.undone[key] = checks.excused[key];
        checks.tokens[key].retain(|token| version_of(*token) <= floor);
        checks.newest[key] = checks.newest[key].filter(|token| version_of(*token) <= floor);
    }

    /// A user gets a guard. If it is valid, then it is the only valid one of its key, its token is
    /// larger than that of every valid one before, and the register names its node.
    pub(super) fn begin_guard(
        &self,
        node: usize,
        key: usize,
        id: u64,
        guard: DistributedGuard,
        asked: &Asked,
    ) -> Arc<DistributedGuard> {
        let (token, guard) = (guard.token(), Arc::new(guard));
        self.record(format_args!(
            "{node}: a guard of {key} with {token}, {:?}, valid for {:?}",
            guard.acquired_via(),
            guard.remaining()
        ));
        let (number, claim, was_handed) = match self.write_of(node, key, token) {
            Some((number, claim, was_handed)) => (Some(number), claim, was_handed),
            None => (None, None, false),
        };
        if number.is_none() && !self.went_back() {
            self.violate(format!("{node} has no write to make the token {token} of"));
        }
        if self.engine.lock().returns.is_too_small(node, key, version_of(token)) {
            self.violate(format!("{node} makes the token {token} of a version that did not grow"));
        }
        let register = self.engine.lock().stores[key].register();
        let value = register.holder.as_ref().and_then(|holder| holder.value.clone());
        let holder = register.holder.map(|holder| holder.claim.node);
        let id_of_node = self.nodes.lock()[node].id;
        let mut checks = self.checks.lock();
        checks.counts.grants += 1;
        let (now, left, clock) = (self.now(), guard.remaining(), self.clock(node));
        let held = HeldGuard {
            id,
            node,
            key,
            guard: guard.clone(),
            number,
            claim,
            own_limit: OwnLimit::of(asked.limits, asked.began, clock, left),
            is_over: left.is_zero(),
            has_return: false,
            losses_told: asked.losses_told.unwrap_or(checks.losses_told(node, key).len()),
        };
        checks.counts.late += u64::from(held.is_over);
        if was_handed {
            checks.copies.note_handed(&held);
        }
        let is_copied = checks.copies.is_shared(&held, now);
        let is_new = checks.is_undone(&held) || checks.tokens[key].insert(token);
        if !is_new && !is_copied {
            self.violate(format!("the token {token} of {node} was given out before"));
        }
        if !held.is_over && !checks.is_excused(&held) && !is_copied {
            if checks.newest[key] > Some(token) {
                let newest = checks.newest[key];
                self.violate(format!("the token {token} of {node} is smaller than {newest:?}"));
            }
            if holder != Some(id_of_node) {
                self.violate(format!("{node} holds {key}, but the register names {holder:?}"));
            } else if value.is_some() && guard.acquired_via() != AcquiredVia::LocalHandoff {
                self.violate(format!("{node} holds {key}, and publishes {value:?} of another"));
            }
            checks.newest[key] = Some(token);
        }
        checks.guards.push(held);
        drop(checks);
        self.check_guards();
        guard
    }

    /// The number of the write of which a node has made this token, the claim that it names as the holder, and
    /// whether that was handed the lock. `None` if the engine went back behind it.
    fn write_of(
        &self,
        node: usize,
        key: usize,
        token: FencingToken,
    ) -> Option<(usize, Option<ClaimId>, bool)> {
        let engine = self.engine.lock();
        let version = Version::new(version_of(token)).ok()?;
        let written = engine.stores[key].written(version)?;
        let nodes = self.nodes.lock();
        let id = nodes[node].id;
        let is_own = matches!(written.by, Author::Node(by) if nodes[by].id == id);
        // Another node has handed it the lock, or has joined since.
        let claim = written.holder().filter(|claim| claim.node == id);
        let is_handed = claim.is_some_and(|claim| written.register.is_handed_to(claim));
        (is_own || is_handed).then(|| (written.number, written.holder(), is_handed))
    }

    /// The user is about to give the guard back. Returns its own limit.
    pub(super) fn end_guard(&self, id: u64) -> Option<OwnLimit> {
        self.check_guards();
        let mut checks = self.checks.lock();
        let at = checks.guards.iter().position(|held| held.id == id);
        let gone = at.map(|at| checks.guards.remove(at));
        drop(checks);
        gone.and_then(|held| held.own_limit)
    }

    /// One guard of a key is valid at most. A guard that was seen to be invalid stays so, and a guard
    /// with a limit of its own is not valid after that. Where nothing goes wrong all others are valid.
    pub(super) fn check_guards(&self) {
        let mut checks = self.checks.lock();
        let moment = |node, left| self.moment_after(node, left);
        if let Some([one, other, key]) = checks.conflict(self.now(), moment) {
            self.violate(format!("{one} and {other} hold {key}, and both are valid"));
        }
        for HeldGuard { node, key, guard, is_over, own_limit, .. } in &mut checks.guards {
            let Some(left) = guard.remaining_now() else { continue };
            let is_valid = !left.is_zero();
            if *is_over && is_valid {
                self.violate(format!("{node}: a guard of {key} was invalid, and is valid again"));
            }
            let now = self.clock(*node);
            if is_valid && own_limit.is_some_and(|limit| now >= limit.latest) {
                self.violate(format!("{node}: a guard of {key} is valid after its limit"));
            }
            let may_be_over = own_limit.is_some_and(|limit| now >= limit.earliest);
            if self.profile.is_faultless() && !is_valid && !may_be_over {
                self.violate(format!("{node} has lost {key}, and nothing went wrong"));
            }
            *is_over |= !is_valid;
        }
    }

    /// A write of this key took effect. It does not renew a lease that its user wants not to be renewed.
    pub(super) fn check_renewal(&self, key: usize, by: Author) {
        let engine = self.engine.lock();
        let [.., before, last] = &engine.stores[key].log[..] else { return };
        let is_renewal = before.holder() == last.holder()
            && before.register.heartbeat != last.register.heartbeat
            && !last.is_first;
        let is_unwanted = |held: &HeldGuard| {
            (Author::Node(held.node), held.key, held.claim) == (by, key, last.holder())
                && held.own_limit.is_some_and(|limit| limit.is_lease)
                && held.guard.remaining_now().is_some_and(|left| !left.is_zero())
        };
        let is_wrong = is_renewal && self.checks.lock().guards.iter().any(is_unwanted);
        drop(engine);
        if is_wrong {
            self.violate(format!("{by:?} renews a lease of {key} that is not to be renewed"));
        }
    }

    /// [`DistributedGuard::lost`] is ready.
    pub(super) fn check_loss(&self, id: u64, guard: &DistributedGuard, why: &LossReason) {
        let mut checks = self.checks.lock();
        checks.counts.losses += 1;
        let Some(held) = checks.guards.iter().find(|held| held.id == id) else { return };
        let HeldGuard { node, key, losses_told, own_limit, has_return, .. } = *held;
        let is_undone = checks.is_undone(held);
        let is_copied = checks.copies.has_copy(node, key);
        let was_told = checks.losses_told(node, key)[losses_told..].contains(why);
        // A renewal may have waited for its turn behind the requests for other keys.
        let waits = self.profile.least_in_flight < self.profile.keys;
        let is_cause = |at: &(usize, usize)| at.0 == node && (at.1 == key || waits);
        let failed = checks.failed_at.iter().filter(|(at, _)| is_cause(at));
        let failed_at = failed.map(|(_, at)| *at).max();
        drop(checks);
        self.record(format_args!("{node}: the guard of {key} is lost: {why}"));
        if guard.is_valid() {
            self.violate(format!("{node} was told that {key} is lost, and the guard is valid"));
        }
        let (profile, state) = (&self.profile, self.nodes.lock()[node].state);
        // Or all of them were answered, and late.
        let overloaded_until = self.engine.lock().overloaded_until;
        let is_overloaded = self.now() < overloaded_until;
        let failed_at = failed_at.max((waits || is_overloaded).then_some(overloaded_until));
        // The lease of a node that was handed the lock may end before a request fails.
        let window = Duration::from_nanos(profile.handoff_lease);
        let has_failed = failed_at.is_some_and(|at| self.now() < at + 2 * profile.lease)
            || self.is_silent(node, key, 0, window);
        let is_lease = own_limit.is_some_and(|limit| limit.is_lease);
        let is_true = match why {
            LossReason::HoldLimit => {
                own_limit.is_some_and(|limit| self.clock(node) >= limit.earliest)
            }
            _ if profile.is_faultless() => false,
            LossReason::EngineWentBack => self.went_back(),
            LossReason::Closed => state != NodeState::Open,
            _ if has_return => false,
            LossReason::Expired { last } => {
                last.is_some() && !is_lease && (has_failed || profile.nodes_can_be_late())
            }
            LossReason::TakenOver | LossReason::Broken { .. } => {
                is_undone || self.was_removed(node, key, guard.token())
            }
            // A register from before has a heartbeat that its holder has forgotten.
            LossReason::Copied => is_copied || is_undone,
            _ => false,
        };
        if !is_true {
            self.violate(format!("{node} has not lost {key} for this reason: {why:?}"));
        }
        if *why != LossReason::Closed && state == NodeState::Open && !was_told {
            self.violate(format!(
                "{node}: a guard of {key} is lost, and the observer does not know why: {why:?}"
            ));
        }
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

    /// Whether a request of this node has had no answer for half of this time, and for no more than since
    /// `since`.
    pub(super) fn is_silent(&self, node: usize, key: usize, since: Moment, time: Duration) -> bool {
        let silent_since = self.checks.lock().silent_since.get(&(node, key)).copied();
        // A tenth for the clock, and some time for the driver.
        let half = u64::try_from(time.as_nanos() * 6 / 10).unwrap_or(u64::MAX).saturating_add(MS);
        silent_since.is_some_and(|at| self.now() >= at.max(since).saturating_add(half))
    }

    /// Whether anybody held the lock of a key or waited for it at some time since `since`.
    pub(super) fn was_taken(&self, key: usize, since: Moment) -> bool {
        let engine = self.engine.lock();
        let (log, returns) = (&engine.stores[key].log, &engine.returns);
        let is_new = |write: &&AppliedWrite| engine.written_at(key, write.number) >= since;
        let new = log.iter().rev().take_while(is_new).count();
        let mut there = log[..log.len() - new].last().into_iter().chain(&log[log.len() - new..]);
        returns.went_back_since(since) || there.any(|write| !write.register.is_idle())
    }

    /// Whether the holder or the heartbeat of a key has changed since `since`, or may have.
    pub(super) fn has_moved(&self, key: usize, since: Moment) -> bool {
        let engine = self.engine.lock();
        let log = &engine.stores[key].log;
        let moves = |at: usize| {
            let before = at.checked_sub(1).map(|before| log[before].register.liveness());
            log[at].is_first || before != Some(log[at].register.liveness())
        };
        let is_new = |at: &usize| engine.written_at(key, log[*at].number) >= since;
        engine.returns.went_back_since(since) || (0..log.len()).filter(is_new).any(moves)
    }

    /// An answer has told a node that the engine went back, and the poll in which it learnt of that is
    /// over: what it held is lost, and the observer knows why.
    pub(super) fn check_return(&self, node: usize) {
        let shown = self.engine.lock().returns.take_shown(node);
        for (key, was_told) in shown {
            let checks = self.checks.lock();
            let holds = |held: &HeldGuard| {
                (held.node, held.key, held.has_return) == (node, key, true)
                    && held.guard.remaining_now().is_some_and(|left| !left.is_zero())
            };
            let still_holds = checks.guards.iter().any(holds);
            drop(checks);
            if still_holds {
                self.violate(format!("{node} holds {key}, and knows that the engine went back"));
            }
            if !was_told {
                self.violate(format!("{node}: the observer does not know that {key} went back"));
            }
        }
    }

    /// The report of a shutdown names each key once, and all that were held at it.
    pub(super) fn check_shutdown(
        &self,
        node: usize,
        report: &Shutdown,
        held: impl Iterator<Item = usize>,
    ) {
        let Shutdown { released, lost, indeterminate } = report;
        let all = released.iter().chain(lost).chain(indeterminate);
        let names: BTreeSet<_> = all.clone().collect();
        if names.len() < all.count() {
            self.violate(format!("{node}: the report names a key twice: {report:?}"));
        }
        for key in held.map(|at| &self.keys[at]) {
            if !names.contains(key) {
                self.violate(format!("{node}: the report does not name {key}: {report:?}"));
            }
        }
    }

    /// The keys of which a node has valid guards, and until when those are valid.
    pub(super) fn held_by(&self, node: usize) -> Vec<(usize, Time)> {
        let (now, checks) = (self.clock(node), self.checks.lock());
        let own = checks.guards.iter().filter(|held| held.node == node);
        own.filter_map(|held| {
            let left = held.guard.remaining_now().filter(|left| !left.is_zero())?;
            Some((held.key, now + left))
        })
        .collect()
    }

    /// The futures that nobody polls go, too, and the guards of users that hang.
    pub(super) fn drop_leaked(&self) {
        let mut checks = self.checks.lock();
        let (leaked, hung) = (std::mem::take(&mut checks.leaked), std::mem::take(&mut checks.hung));
        let is_hung = |held: &mut HeldGuard| hung.iter().any(|(id, _)| *id == held.id);
        let guards: Vec<_> = checks.guards.extract_if(.., is_hung).collect();
        drop(checks);
        drop((leaked, hung, guards));
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
    fn key(&self, key: &Key) -> KeyOfNode {
        if virtual_child::is_running() {
            self.world.violate(format!("a child of {} tells the observer", self.node));
        }
        let at = self.world.keys.iter().position(|known| known == key);
        (self.node, at.expect("a key of this run"))
    }
}

impl Observer for SimObserver {
    fn lost(&self, key: &Key, why: &LossReason, _: Hold) {
        self.world.record(format_args!("{}: the observer is told: {why}", self.node));
        let key = self.key(key);
        self.world.checks.lock().losses_told.entry(key).or_default().push(why.clone());
    }

    fn acquire_failed(&self, key: &Key, _: Duration, error: &LockError) {
        self.key(key);
        self.world.record(format_args!("{}: the observer is told: {error}", self.node));
    }

    fn engine_went_back(&self, key: &Key, shown: Version, newest: Version) {
        let (node, key) = self.key(key);
        self.world.record(format_args!("{node}: the observer is told: {key} went back"));
        if shown >= newest || !self.world.went_back() {
            self.world.violate(format!("{node}: {shown} does not show a return from {newest}"));
        }
        self.world.engine.lock().returns.told_observer(node, key);
    }

    fn request_finished(
        &self,
        key: &Key,
        _: RemoteOperation,
        _: Duration,
        error: Option<&TransportError>,
    ) {
        let key = self.key(key);
        if error.is_some() {
            self.world.checks.lock().failed_at.insert(key, self.world.now());
        }
    }
}

impl OwnLimit {
    /// Of a guard that was asked for at `asked`, is there at `now`, and is valid for `left` without a
    /// renewal. The limit was set between the two.
    fn of(limits: HoldLimits, asked: Time, now: Time, left: Duration) -> Option<Self> {
        let HoldLimits { at_most, without_renewal } = limits;
        let of_user = at_most.map(|at_most| [asked + at_most, now + at_most]);
        let end = if left.is_zero() { asked } else { now + left };
        let of_lease = without_renewal.then_some([end, now + left]);
        let [earliest, latest] =
            [0, 1].map(|at| of_user.into_iter().chain(of_lease).map(|limit| limit[at]).min());
        let is_lease = without_renewal;
        earliest.zip(latest).map(|(earliest, latest)| Self { earliest, latest, is_lease })
    }
}
