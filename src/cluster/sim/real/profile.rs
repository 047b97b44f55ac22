//! The kinds of runs: how many nodes and users there are, which faults occur, and how often.

use crate::cluster::sim::profile::PerMille;
use crate::cluster::sim::world::{MS, Moment};
use crate::cluster::transport::Wakeups;

/// The parameters of a run. Times are spans of true time. A fault with `None` never occurs.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) name: &'static str,
    pub(super) nodes: [u64; 2],
    /// The tasks and threads of a node.
    pub(super) users: [u64; 2],
    pub(super) keys: usize,
    /// `None`: the seed decides.
    pub(super) wakeups: Option<Wakeups>,
    /// When the faults end, and nobody asks for the lock any more.
    pub(super) calm_at: Moment,

    pub(super) lease: Moment,
    pub(super) claim_window: Moment,
    /// Zero: the claim window in each even thousand of seeds, a quarter of the lease in the odd ones.
    pub(super) handoff_lease: Moment,
    pub(super) poll: Moment,
    pub(super) request_timeout: Moment,
    pub(super) unavailable_timeout: Moment,
    pub(super) local_handoff_window: [Moment; 2],
    pub(super) local_handoffs: [u64; 2],
    pub(super) barging_window: [Moment; 2],
    /// In each fourth two hundred of seeds; zero in the others.
    pub(super) keep_turn: Moment,
    pub(super) keep_place: Moment,
    pub(super) queue_limit: usize,
    /// A node has so many requests in flight, however slow the engine is.
    pub(super) least_in_flight: usize,
    /// Some drivers are tasks of the pool, beside the users; otherwise each has a thread of its own.
    pub(super) drivers_share_workers: bool,
    /// The largest error of a clock's rate, in millionths.
    pub(super) clock_error: i64,
    /// The largest delay of a timer.
    pub(super) max_timer_delay: Moment,

    /// The latency of a message, one way. Some messages take up to `max_delay` longer.
    pub(super) latency: [Moment; 2],
    pub(super) delayed: PerMille,
    pub(super) max_delay: Moment,
    /// A request or a response is lost; the engine refuses a request; a write gets the response that
    /// its outcome is unknown, whether it takes effect or not.
    pub(super) request_lost: PerMille,
    pub(super) response_lost: PerMille,
    pub(super) refused: PerMille,
    pub(super) indeterminate: PerMille,
    /// The item of a watch is lost, comes twice, has no value, or is the last of its watch.
    pub(super) item_lost: PerMille,
    pub(super) item_twice: PerMille,
    pub(super) item_empty: PerMille,
    pub(super) watch_ends: PerMille,
    /// Strangers can send items: these prove nothing.
    pub(super) items_are_hints: bool,
    pub(super) forgery: Option<Moment>,
    /// The engine stops, or is slow: the mean time between two such faults.
    pub(super) engine_stop: Option<Moment>,
    pub(super) overload: Option<Moment>,
    /// The engine declares that it can lose writes. A backup of it is made; it goes back to the last one.
    pub(super) is_lossy: bool,
    pub(super) backup: Option<Moment>,
    pub(super) go_back: Option<Moment>,
    /// A client has so many requests in flight at most.
    pub(super) in_flight: usize,
    /// A machine of a node is copied that holds a lock, or that waits for one.
    pub(super) copy_holder: Option<Moment>,
    pub(super) copy_waiter: Option<Moment>,
    /// How long an idle register is kept.
    pub(super) retention: Option<Moment>,

    /// The mean time between two such faults of any node: its process is suspended, is killed, or is
    /// cut off from the engine, or the node is shut down or dropped. A new node replaces one that is
    /// gone.
    pub(super) freeze: Option<Moment>,
    pub(super) kill: Option<Moment>,
    pub(super) partition: Option<Moment>,
    pub(super) close: Option<Moment>,
    /// A process is suspended once in so many readings of its clock, in the middle of a poll.
    pub(super) freeze_at_clock: Option<u64>,
    /// A process forks: the mean time between two such faults; once in so many readings of its clock, in
    /// the middle of a poll; while a user waits.
    pub(super) fork: Option<Moment>,
    pub(super) fork_at_clock: Option<u64>,
    pub(super) forks: PerMille,
    /// The mean time between two releases by force.
    pub(super) force_release: Option<Moment>,

    /// For how long a user does not want the lock, and for how long it has it at most.
    pub(super) idle_time: [Moment; 2],
    pub(super) hold_time: Moment,
    /// A user has the lock for up to two leases.
    pub(super) long_holds: PerMille,
    /// A user only tries, waits for at most a lease, or drops its future after at most a lease.
    pub(super) tries: PerMille,
    pub(super) timeouts: PerMille,
    pub(super) cancels: PerMille,
    /// A user tries, and outlasts a dead holder.
    pub(super) outlasts: PerMille,
    /// A guard has a limit of its own, or a lease that is not renewed. The user never gives it back.
    pub(super) limits: PerMille,
    pub(super) unrenewed: PerMille,
    pub(super) hangs: PerMille,
    /// A user inspects the key, or breaks the lock, before it asks for it.
    pub(super) inspects: PerMille,
    pub(super) breaks: PerMille,
    /// A user publishes a value while it has the lock.
    pub(super) publishes: PerMille,
    /// A user drops its lock after a turn, and makes a new one for the next.
    pub(super) forgets: PerMille,
    /// A user polls its future once and has another task await it.
    pub(super) moves: PerMille,
    /// A user polls its future once and then leaves it for up to two leases, or for ever.
    pub(super) neglects: PerMille,
    pub(super) leaks: PerMille,
    /// A user blocks its worker after it has given the lock back.
    pub(super) blocks: PerMille,
}

const US: Moment = MS / 1000;
const S: Moment = 1000 * MS;

impl Profile {
    /// No faults, except that clocks differ.
    fn calm() -> Self {
        Self {
            name: "real_calm",
            nodes: [1, 4],
            users: [1, 4],
            keys: 1,
            wakeups: None,
            calm_at: 4 * S,
            lease: S,
            claim_window: 150 * MS,
            handoff_lease: 0,
            poll: 60 * MS,
            request_timeout: 250 * MS,
            unavailable_timeout: 8 * S,
            local_handoff_window: [0, 60 * MS],
            local_handoffs: [0, 40],
            barging_window: [0, 200 * US],
            keep_turn: 40 * MS,
            keep_place: 40 * MS,
            queue_limit: 64,
            least_in_flight: 32,
            drivers_share_workers: true,
            clock_error: 10_000,
            max_timer_delay: 10 * MS,
            latency: [100 * US, 2 * MS],
            delayed: 0,
            max_delay: 0,
            request_lost: 0,
            response_lost: 0,
            refused: 0,
            indeterminate: 0,
            item_lost: 0,
            item_twice: 0,
            item_empty: 0,
            watch_ends: 0,
            items_are_hints: false,
            forgery: None,
            engine_stop: None,
            overload: None,
            is_lossy: false,
            backup: None,
            go_back: None,
            in_flight: 1_000,
            copy_holder: None,
            copy_waiter: None,
            retention: None,
            freeze: None,
            kill: None,
            partition: None,
            close: None,
            freeze_at_clock: None,
            fork: None,
            fork_at_clock: None,
            forks: 0,
            force_release: None,
            idle_time: [0, 300 * MS],
            hold_time: 100 * MS,
            long_holds: 60,
            tries: 150,
            timeouts: 150,
            cancels: 100,
            outlasts: 0,
            limits: 0,
            unrenewed: 0,
            hangs: 0,
            inspects: 0,
            breaks: 0,
            publishes: 0,
            forgets: 0,
            moves: 50,
            neglects: 0,
            leaks: 0,
            blocks: 0,
        }
    }

    /// Users that have the lock for some microseconds and want it again at once.
    fn busy() -> Self {
        Self {
            name: "real_busy",
            users: [2, 6],
            calm_at: 60 * MS,
            idle_time: [0, 100 * US],
            hold_time: 50 * US,
            long_holds: 0,
            cancels: 50,
            ..Self::calm()
        }
    }

    /// Requests, responses and items of watches are lost, late, doubled or refused.
    fn storm() -> Self {
        Self {
            name: "real_storm",
            calm_at: 6 * S,
            latency: [100 * US, 20 * MS],
            delayed: 60,
            max_delay: 3 * S,
            request_lost: 60,
            response_lost: 60,
            refused: 30,
            indeterminate: 50,
            item_lost: 100,
            item_twice: 100,
            item_empty: 100,
            watch_ends: 50,
            ..Self::calm()
        }
    }

    /// Processes are suspended, for up to three leases.
    fn frozen() -> Self {
        Self {
            name: "real_frozen",
            nodes: [2, 4],
            calm_at: 8 * S,
            freeze: Some(S),
            freeze_at_clock: Some(500),
            delayed: 30,
            max_delay: S,
            hold_time: 600 * MS,
            ..Self::calm()
        }
    }

    /// Processes are killed, and nodes are cut off, shut down and dropped.
    fn gone() -> Self {
        Self {
            name: "real_gone",
            nodes: [2, 4],
            calm_at: 6 * S,
            kill: Some(2 * S),
            partition: Some(2 * S),
            close: Some(2 * S),
            delayed: 20,
            max_delay: S,
            ..Self::calm()
        }
    }

    /// The engine stops and is overloaded, and drops idle registers early.
    fn engine() -> Self {
        Self {
            name: "real_engine",
            calm_at: 8 * S,
            engine_stop: Some(3 * S),
            overload: Some(2 * S),
            retention: Some(4 * S),
            unavailable_timeout: 2 * S,
            ..Self::calm()
        }
    }

    /// Users block their workers, and the driver has a thread of its own: nothing is lost or late.
    fn blocked() -> Self {
        Self { name: "real_blocked", blocks: 200, drivers_share_workers: false, ..Self::calm() }
    }

    /// The same where the driver may be in the slot of a worker that is blocked.
    fn shared() -> Self {
        Self { name: "real_shared", drivers_share_workers: true, ..Self::blocked() }
    }

    /// Futures are left unpolled.
    fn neglected() -> Self {
        Self { name: "real_neglected", neglects: 150, leaks: 50, ..Self::calm() }
    }

    /// Machines are copied while they hold a lock.
    fn copied() -> Self {
        Self {
            name: "real_copied",
            copy_holder: Some(S),
            hold_time: 2 * S,
            long_holds: 200,
            ..Self::calm()
        }
    }

    /// Machines are copied while they wait for a lock, and users change their minds.
    fn copied_waiting() -> Self {
        Self {
            name: "real_copied_waiting",
            nodes: [2, 4],
            calm_at: 3 * S,
            copy_waiter: Some(700 * MS),
            hold_time: 500 * MS,
            cancels: 300,
            ..Self::calm()
        }
    }

    /// Processes fork, and their children try all they can.
    fn forked() -> Self {
        Self {
            name: "real_forked",
            fork: Some(100 * MS),
            fork_at_clock: Some(500),
            forks: 200,
            ..Self::calm()
        }
    }

    /// Guards have limits, users hang with them, and dead holders are outlasted.
    fn limited() -> Self {
        Self {
            name: "real_limited",
            limits: 400,
            unrenewed: 200,
            hangs: 100,
            outlasts: 300,
            ..Self::calm()
        }
    }

    /// The same where processes are suspended and killed.
    fn outlasted() -> Self {
        Self {
            name: "real_outlasted",
            nodes: [2, 4],
            users: [1, 2],
            calm_at: 6 * S,
            kill: Some(S),
            freeze: Some(3 * S),
            freeze_at_clock: Some(2_000),
            outlasts: 800,
            forgets: 300,
            ..Self::limited()
        }
    }

    /// Operators inspect keys and break locks.
    fn operated() -> Self {
        Self {
            name: "real_operated",
            inspects: 500,
            breaks: 100,
            forgets: 300,
            delayed: 30,
            max_delay: S,
            response_lost: 30,
            hold_time: 600 * MS,
            ..Self::calm()
        }
    }

    /// The engine is restored from backups, and does not say that it may lose writes.
    fn restored() -> Self {
        Self {
            name: "real_restored",
            calm_at: 5 * S,
            backup: Some(S),
            go_back: Some(2 * S),
            kill: Some(4 * S),
            forgets: 200,
            delayed: 10,
            max_delay: 500 * MS,
            hold_time: 300 * MS,
            ..Self::calm()
        }
    }

    /// The engine loses writes, and says that it may.
    fn lossy() -> Self {
        Self { name: "real_lossy", is_lossy: true, ..Self::restored() }
    }

    /// Many keys over an engine that is slow now and then, with few requests in flight.
    fn loaded() -> Self {
        Self {
            name: "real_loaded",
            nodes: [2, 3],
            users: [4, 8],
            keys: 12,
            calm_at: 3 * S,
            in_flight: 4,
            least_in_flight: 2,
            overload: Some(500 * MS),
            drivers_share_workers: false,
            unavailable_timeout: S,
            hold_time: 600 * MS,
            ..Self::calm()
        }
    }

    /// An operator releases the lock by force.
    fn forced() -> Self {
        Self {
            name: "real_forced",
            force_release: Some(400 * MS),
            response_lost: 30,
            hold_time: 600 * MS,
            ..Self::calm()
        }
    }

    /// Clocks that NTP slews, a network that is slow now and then, and holders that are suspended or cut
    /// off.
    fn slewed() -> Self {
        Self {
            name: "real_slewed",
            nodes: [2, 4],
            clock_error: 100_000,
            calm_at: 8 * S,
            claim_window: 400 * MS,
            latency: [MS, 20 * MS],
            delayed: 300,
            max_delay: 220 * MS,
            partition: Some(S),
            freeze: Some(2 * S),
            max_timer_delay: MS,
            hold_time: 3 * S,
            ..Self::calm()
        }
    }

    /// Strangers send items to the watches.
    fn forged() -> Self {
        Self {
            name: "real_forged",
            items_are_hints: true,
            forgery: Some(50 * MS),
            hold_time: 300 * MS,
            ..Self::calm()
        }
    }

    /// Most faults together, with two keys.
    fn everything() -> Self {
        Self {
            name: "real_everything",
            nodes: [2, 4],
            keys: 2,
            queue_limit: 2,
            freeze: Some(3 * S),
            kill: Some(4 * S),
            partition: Some(3 * S),
            close: Some(4 * S),
            engine_stop: Some(4 * S),
            overload: Some(4 * S),
            freeze_at_clock: Some(2_000),
            fork_at_clock: Some(2_000),
            outlasts: 150,
            limits: 100,
            unrenewed: 50,
            hangs: 50,
            inspects: 100,
            forgets: 100,
            neglects: 50,
            blocks: 50,
            ..Self::storm()
        }
    }

    /// Holders publish, over an engine that loses requests and with processes that die.
    fn published() -> Self {
        Self {
            name: "real_published",
            nodes: [2, 4],
            publishes: 500,
            kill: Some(2 * S),
            partition: Some(2 * S),
            ..Self::storm()
        }
    }

    pub(super) fn all() -> Vec<Self> {
        vec![
            Self::calm(),
            Self::busy(),
            Self::storm(),
            Self::frozen(),
            Self::gone(),
            Self::engine(),
            Self::blocked(),
            Self::shared(),
            Self::neglected(),
            Self::copied(),
            Self::copied_waiting(),
            Self::forced(),
            Self::slewed(),
            Self::forged(),
            Self::forked(),
            Self::limited(),
            Self::outlasted(),
            Self::operated(),
            Self::restored(),
            Self::lossy(),
            Self::loaded(),
            Self::everything(),
            Self::published(),
        ]
    }

    /// Whether a node may be late, although the engine has answered it.
    pub(super) fn nodes_can_be_late(&self) -> bool {
        let is_blocked = self.drivers_share_workers && self.blocks > 0;
        is_blocked || self.freeze.is_some() || self.freeze_at_clock.is_some()
    }

    /// Whether nothing happens by which a guard could be lost or a request fail.
    pub(super) fn is_faultless(&self) -> bool {
        let faults = [
            self.delayed,
            self.request_lost,
            self.response_lost,
            self.refused,
            self.indeterminate,
            self.breaks,
            if self.drivers_share_workers { self.blocks } else { 0 },
        ];
        let greater = [
            self.engine_stop,
            self.overload,
            self.copy_holder,
            self.copy_waiter,
            self.go_back,
            self.freeze,
            self.freeze_at_clock,
            self.kill,
            self.partition,
            self.close,
            self.force_release,
        ];
        faults.iter().all(|fault| *fault == 0) && greater.iter().all(Option::is_none)
    }
}
