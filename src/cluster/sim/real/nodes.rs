//! The nodes: the real [`Node`] and its driver on virtual workers, and what befalls their processes.

use super::checks::SimObserver;
use super::engine::EngineClient;
use super::users::{User, poll_once};
use super::workers::DRIVER;
use super::world::World;
use crate::cluster::local::clock::{NodeClock, VirtualClock};
use crate::cluster::node::Node;
use crate::cluster::process::virtual_child;
use crate::cluster::protocol::{ClockError, IdSource, Time};
use crate::cluster::sim::world::{Moment, SimClock};
use crate::cluster::transport::NodeId;
use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

/// A node of the run.
pub(super) struct SimNode {
    pub(super) id: NodeId,
    pub(super) clock: SimClock,
    /// It is cut off from the engine.
    pub(super) is_partitioned: bool,
    /// Until when its process is suspended, and a worker of it is blocked.
    pub(super) frozen_until: Moment,
    pub(super) blocked_until: Moment,
    pub(super) state: NodeState,
    /// `None` once it was dropped or shut down.
    handle: Option<Node>,
    /// How many of its tasks and threads use locks.
    pub(super) users: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeState {
    Open,
    /// It was shut down or dropped.
    Closed,
    /// Its process was killed.
    Dead,
}

/// The clock of a node.
pub(super) struct WorldClock {
    world: Arc<World>,
    node: usize,
}

impl fmt::Debug for WorldClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorldClock({})", self.node)
    }
}

impl VirtualClock for WorldClock {
    fn now(&self) -> Time {
        self.world.read_clock(self.node)
    }

    fn error(&self) -> ClockError {
        // In thousandths; the profile has millionths.
        let rate = self.world.profile.clock_error.unsigned_abs().div_ceil(1000);
        ClockError { rate: u32::try_from(rate).unwrap_or(u32::MAX), reading: Duration::ZERO }
    }

    fn wake_at(&self, at: Time, waker: Waker) {
        if virtual_child::is_running() {
            self.world.violate(format!("a child of {} sets a timer", self.node));
        }
        self.world.wake_at(self.node, at, waker);
    }
}

fn nanos(time: Moment) -> Duration {
    Duration::from_nanos(time)
}

impl World {
    /// Calls `waker` when the clock of a node shows `at`, or somewhat later.
    pub(super) fn wake_at(&self, node: usize, at: Time, waker: Waker) {
        let moment = self.nodes.lock()[node].clock.when(at);
        let late = self.below(self.profile.max_timer_delay);
        self.after(moment.saturating_sub(self.now()) + late, move |_| waker.wake());
    }

    /// What the clock of a node shows.
    pub(super) fn clock(&self, node: usize) -> Time {
        self.nodes.lock()[node].clock.read(self.now())
    }

    /// When the clock of a node will have advanced by this much.
    pub(super) fn moment_after(&self, node: usize, time: Duration) -> Moment {
        let at = self.clock(node) + time;
        self.nodes.lock()[node].clock.when(at)
    }

    /// A node reads its clock, which takes some nanoseconds. Now and then its process forks just before
    /// that, or is suspended just before or just after it, in the middle of a poll.
    fn read_clock(self: &Arc<Self>, node: usize) -> Time {
        // The rules read clocks too: that takes no time. So does a child.
        let is_own = self.is_polling(node) && !virtual_child::is_running();
        if is_own && self.checks.try_lock().is_some() {
            self.pass(self.below(100));
            let is_struck = |once_in| !self.is_calm() && self.below(once_in) == 0;
            if self.profile.fork_at_clock.is_some_and(is_struck) {
                self.fork(node);
            }
            if self.profile.freeze_at_clock.is_some_and(is_struck) {
                let before = self.clock(node);
                self.freeze_in_poll(node);
                return if self.chance(500) { before } else { self.clock(node) };
            }
        }
        self.clock(node)
    }

    /// Suspends the process of a node in the middle of a poll: all others go on meanwhile.
    fn freeze_in_poll(self: &Arc<Self>, node: usize) {
        let poll = self.interrupt_poll();
        self.checks.lock().suspended.insert(node);
        self.freeze(node, self.fault_length());
        loop {
            let until = self.nodes.lock()[node].frozen_until;
            if until <= self.now() || self.violation().is_some() {
                break;
            }
            self.run(until, |_| false);
        }
        // It may be later than that, if another process was suspended in a poll meanwhile.
        self.nodes.lock()[node].frozen_until = self.now();
        self.checks.lock().suspended.remove(&node);
        self.resume_workers(node);
        self.resume_poll(poll);
    }

    /// Starts the process of a new node, with its driver and without users.
    pub(super) fn add_node(self: &Arc<Self>) -> usize {
        let profile = &self.profile;
        let most = profile.clock_error;
        // Half of the clocks are as wrong as they may be.
        let error = match self.below(4) {
            0 => most,
            1 => -most,
            _ => self.below(2 * most.unsigned_abs() + 1).cast_signed() - most,
        };
        let clock = SimClock::new(1_000_000_000_000_000 + self.below(1 << 40), error);
        self.record(format_args!("the next node starts: its clock is off by {error} ppm"));
        self.add_process(self.random(), clock)
    }

    /// Starts the process of a node with this number and this clock.
    pub(super) fn add_process(self: &Arc<Self>, seed: u64, clock: SimClock) -> usize {
        let (profile, node) = (&self.profile, self.nodes.lock().len());
        self.add_pool(1 + self.index(4));
        self.nodes.lock().push(SimNode {
            id: NodeId::new(seed),
            clock,
            is_partitioned: false,
            frozen_until: 0,
            blocked_until: 0,
            state: NodeState::Open,
            handle: None,
            users: 0,
        });
        let clock = NodeClock::Virtual(Arc::new(WorldClock { world: self.clone(), node }));
        let ids = {
            let world = self.clone();
            IdSource::new(move || world.random())
        };
        let has_thread = !(profile.drivers_share_workers && self.chance(700));
        let (handle, driver) = Node::builder(EngineClient::new(self.clone(), node))
            .label(format!("n{node}"))
            .lease(nanos(profile.lease))
            .claim_window(nanos(profile.claim_window))
            .handoff_lease(nanos(profile.handoff_lease))
            .poll(nanos(profile.poll))
            .request_timeout(nanos(profile.request_timeout))
            .unavailable_timeout(nanos(profile.unavailable_timeout))
            .local_handoff_window(nanos(self.between(profile.local_handoff_window)))
            .local_handoffs(u32::try_from(self.between(profile.local_handoffs)).unwrap_or(u32::MAX))
            .barging_window(nanos(self.between(profile.barging_window)))
            .keep_turn(nanos(profile.keep_turn))
            .keep_place(nanos(profile.keep_place))
            .queue_limit(profile.queue_limit)
            .least_in_flight(profile.least_in_flight)
            .observer(SimObserver { world: self.clone(), node })
            .seed(seed)
            .build_virtual(clock, ids, has_thread)
            .expect("the settings are in their ranges");
        self.nodes.lock()[node].handle = Some(handle);
        self.record(format_args!("{node} starts"));
        if has_thread {
            self.spawn_thread(node, DRIVER, driver);
        } else {
            self.spawn(node, DRIVER, driver);
        }
        node
    }

    /// Starts a new node with its users.
    pub(super) fn add_node_with_users(self: &Arc<Self>) {
        let node = self.add_node();
        let count = self.between(self.profile.users);
        self.nodes.lock()[node].users = count as usize;
        let handle = self.handle(node).expect("the node is new");
        for _ in 0..count {
            let key = self.index(self.keys.len());
            let user = User::new(self.clone(), node, key, &handle, self.chance(400));
            if user.is_thread {
                self.spawn_thread(node, "a thread", user.run());
            } else {
                self.spawn(node, "a task", user.run());
            }
        }
    }

    pub(super) fn handle(&self, node: usize) -> Option<Node> {
        self.nodes.lock()[node].handle.clone()
    }

    /// The nodes that are open.
    pub(super) fn open_nodes(&self) -> Vec<usize> {
        let nodes = self.nodes.lock();
        (0..nodes.len()).filter(|node| nodes[*node].state == NodeState::Open).collect()
    }

    /// How many users have not ended, of nodes that live.
    pub(super) fn users_left(&self) -> usize {
        let nodes = self.nodes.lock();
        nodes.iter().filter(|node| node.state != NodeState::Dead).map(|node| node.users).sum()
    }

    // ---- Faults ----

    /// The length of a fault: half of them at most half a lease, the others at most three leases.
    pub(super) fn fault_length(&self) -> Moment {
        let lease = self.profile.lease;
        let most = if self.chance(500) { lease / 2 } else { 3 * lease };
        1 + self.below(most)
    }

    /// Suspends the process of a node. Its clock goes on.
    pub(super) fn freeze(&self, node: usize, length: Moment) {
        let now = self.now();
        let mut nodes = self.nodes.lock();
        nodes[node].frozen_until = nodes[node].frozen_until.max(now + length);
        drop(nodes);
        self.record(format_args!("{node} is suspended for {} us", length / 1000));
        self.stop_workers(node);
        self.after(length, move |world| {
            let nodes = world.nodes.lock();
            let is_over = nodes[node].frozen_until <= world.now();
            let lives = nodes[node].state != NodeState::Dead;
            drop(nodes);
            let is_in_poll = world.checks.lock().suspended.contains(&node);
            if is_over && lives && !is_in_poll {
                world.record(format_args!("{node} goes on"));
                world.resume_workers(node);
            }
        });
    }

    /// Cuts a node off from the engine.
    pub(super) fn partition(&self, node: usize, length: Moment) {
        self.record(format_args!("{node} is cut off for {} us", length / 1000));
        self.nodes.lock()[node].is_partitioned = true;
        self.after(length, move |world| {
            world.record(format_args!("{node} is connected again"));
            world.nodes.lock()[node].is_partitioned = false;
        });
    }

    /// Kills the process of a node.
    pub(super) fn kill(&self, node: usize) {
        self.record(format_args!("{node} is killed"));
        let mut nodes = self.nodes.lock();
        nodes[node].state = NodeState::Dead;
        let handle = nodes[node].handle.take();
        drop(nodes);
        let guards = self.checks.lock().take_guards(node);
        self.drop_tasks(node);
        drop((guards, handle));
    }

    /// Shuts a node down, or only drops it.
    pub(super) fn close(self: &Arc<Self>, node: usize) {
        let mut nodes = self.nodes.lock();
        nodes[node].state = NodeState::Closed;
        let Some(handle) = nodes[node].handle.take() else { return };
        drop(nodes);
        if self.chance(500) {
            self.record(format_args!("{node} is dropped"));
            return drop(handle);
        }
        self.record(format_args!("{node} is shut down"));
        self.nodes.lock()[node].users += 1;
        let world = self.clone();
        self.spawn(node, "a shutdown", async move {
            let held = world.held_by(node);
            let mut shutdown = Box::pin(handle.shutdown());
            let at_once = poll_once(&mut shutdown).await;
            // It has begun, and what has ended before that need not be reported.
            let now = world.clock(node);
            let held: Vec<_> = held.into_iter().filter(|(_, until)| *until > now).collect();
            let report = match at_once {
                Some(report) => report,
                None => shutdown.await,
            };
            world.record(format_args!("{node} was shut down: {report:?}"));
            world.check_shutdown(node, &report, held.into_iter().map(|(key, _)| key));
            world.nodes.lock()[node].users -= 1;
        });
    }

    /// Begins a fault that occurs once in `mean` on the average, until the faults end. `None`: never.
    pub(super) fn begin_fault(self: &Arc<Self>, mean: Option<Moment>, fault: fn(&Arc<World>)) {
        let Some(mean) = mean else { return };
        self.after(self.below(2 * mean), move |world| {
            if !world.is_calm() {
                fault(world);
                world.begin_fault(Some(mean), fault);
            }
        });
    }

    /// An open node, chosen by chance.
    fn some_node(&self) -> Option<usize> {
        let mut open = self.open_nodes();
        // The code of a node cannot be called in the middle of a poll of it.
        open.retain(|node| !self.checks.lock().suspended.contains(node));
        (!open.is_empty()).then(|| open[self.index(open.len())])
    }

    /// Begins all faults of the profile.
    pub(super) fn begin_faults(self: &Arc<Self>) {
        let profile = &self.profile;
        self.begin_fault(profile.freeze, |world| {
            let length = world.fault_length();
            if let Some(node) = world.some_node() {
                world.freeze(node, length);
            }
        });
        self.begin_fault(profile.partition, |world| {
            let length = world.fault_length();
            if let Some(node) = world.some_node() {
                world.partition(node, length);
            }
        });
        self.begin_fault(profile.kill, |world| {
            if let Some(node) = world.some_node() {
                world.kill(node);
                world.add_node_with_users();
            }
        });
        self.begin_fault(profile.close, |world| {
            if let Some(node) = world.some_node() {
                world.close(node);
                world.add_node_with_users();
            }
        });
        self.begin_fault(profile.engine_stop, |world| {
            let until = (world.now() + world.fault_length()).min(world.profile.calm_at);
            world.record(format_args!("engine: it is stopped until {} us", until / 1000));
            world.engine.lock().stopped_until = until;
        });
        self.begin_fault(profile.overload, |world| {
            let until = (world.now() + world.fault_length()).min(world.profile.calm_at);
            world.record(format_args!("engine: it is overloaded until {} us", until / 1000));
            world.engine.lock().overloaded_until = until;
        });
        self.begin_fault(profile.copy_holder, |world| world.copy_holder());
        self.begin_fault(profile.copy_waiter, |world| world.copy_waiter());
        self.begin_fault(profile.fork, |world| {
            if let Some(node) = world.some_node() {
                world.fork(node);
            }
        });
        self.begin_fault(profile.backup, |world| world.back_up());
        self.begin_fault(profile.go_back, World::go_back);
        self.begin_fault(profile.forgery, |world| world.forge());
        self.begin_fault(profile.force_release, |world| {
            world.force_release(world.index(world.keys.len()));
        });
    }
}
