//! The kinds of runs: how many nodes there are, which faults occur, and how often.

use super::world::{MS, Moment};
use crate::cluster::transport::Wakeups;

/// One thousandth.
pub(super) type PerMille = u32;

/// The parameters of a run. Times are spans of true time. A fault with `None` never occurs.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) name: &'static str,
    pub(super) nodes: [usize; 2],
    pub(super) keys: usize,
    /// `None`: the seed decides.
    pub(super) wakeups: Option<Wakeups>,
    /// When the faults and new intents end.
    pub(super) calm_at: Moment,

    pub(super) lease: Moment,
    pub(super) claim_window: Moment,
    /// Zero: the claim window in each even thousand of seeds, a quarter of the lease in the odd ones.
    pub(super) handoff_lease: Moment,
    /// By the seed.
    pub(super) keep_place: Moment,
    pub(super) poll: Moment,
    pub(super) request_timeout: Moment,
    pub(super) unavailable_timeout: Moment,
    pub(super) queue_limit: usize,
    /// The largest error of a clock's rate, in millionths.
    pub(super) clock_error: i64,

    /// The largest delay of a timer.
    pub(super) max_timer_delay: Moment,
    /// The latency of a message, one way.
    pub(super) latency: [Moment; 2],
    /// A message takes up to `max_delay` longer.
    pub(super) delayed: PerMille,
    pub(super) max_delay: Moment,
    /// A request is lost.
    pub(super) request_lost: PerMille,
    /// A response is lost.
    pub(super) response_lost: PerMille,
    /// The engine refuses a request.
    pub(super) refused: PerMille,
    /// A write gets the response that its outcome is unknown, whether it takes effect or not.
    pub(super) indeterminate: PerMille,
    /// A notice is lost, comes twice, has no value, or is the last of its watch.
    pub(super) notice_lost: PerMille,
    pub(super) notice_twice: PerMille,
    pub(super) notice_empty: PerMille,
    pub(super) watch_ends: PerMille,
    /// How long an idle register is kept.
    pub(super) retention: Option<Moment>,

    /// The mean time between two such faults of a node: its process is suspended, its virtual machine
    /// is suspended, its process is killed and replaced, or it is cut off from the engine.
    pub(super) freeze: Option<Moment>,
    pub(super) pause: Option<Moment>,
    pub(super) kill: Option<Moment>,
    pub(super) partition: Option<Moment>,
    /// The process is suspended after the machine has returned a request and before it is sent.
    pub(super) freeze_at_send: PerMille,
    /// The mean time between two releases by force of a key's lock.
    pub(super) force_release: Option<Moment>,

    /// For how long a node does not want the lock, and for how long it holds it.
    pub(super) idle_time: [Moment; 2],
    pub(super) hold_time: [Moment; 2],
    /// A node holds the lock for up to two leases.
    pub(super) long_holds: PerMille,
    /// A node renews early.
    pub(super) refreshes: PerMille,
    /// An intent is to try, or is cancelled.
    pub(super) tries: PerMille,
    pub(super) cancels: PerMille,
}

const S: Moment = 1000 * MS;

impl Profile {
    /// No faults, except that clocks differ.
    pub(super) fn calm() -> Self {
        Self {
            name: "calm",
            nodes: [2, 8],
            keys: 1,
            wakeups: None,
            calm_at: 12 * S,
            lease: 3 * S,
            claim_window: 300 * MS,
            handoff_lease: 0,
            keep_place: 0,
            poll: 500 * MS,
            request_timeout: 700 * MS,
            unavailable_timeout: 20 * S,
            queue_limit: 64,
            clock_error: 10_000,
            max_timer_delay: 30 * MS,
            latency: [MS / 10, 3 * MS],
            delayed: 0,
            max_delay: 0,
            request_lost: 0,
            response_lost: 0,
            refused: 0,
            indeterminate: 0,
            notice_lost: 0,
            notice_twice: 0,
            notice_empty: 0,
            watch_ends: 0,
            retention: None,
            freeze: None,
            pause: None,
            kill: None,
            partition: None,
            freeze_at_send: 0,
            force_release: None,
            idle_time: [0, 800 * MS],
            hold_time: [0, 500 * MS],
            long_holds: 100,
            refreshes: 200,
            tries: 150,
            cancels: 150,
        }
    }

    /// Requests, responses and notices are lost, late, duplicated or refused.
    fn storm() -> Self {
        Self {
            name: "storm",
            nodes: [2, 5],
            calm_at: 20 * S,
            hold_time: [0, 3 * S],
            latency: [MS / 10, 30 * MS],
            delayed: 60,
            max_delay: 8 * S,
            request_lost: 60,
            response_lost: 60,
            refused: 30,
            indeterminate: 50,
            notice_lost: 100,
            notice_twice: 100,
            notice_empty: 100,
            watch_ends: 50,
            ..Self::calm()
        }
    }

    /// Processes are suspended, for up to three leases.
    fn frozen() -> Self {
        Self {
            name: "frozen",
            nodes: [2, 5],
            hold_time: [0, 2 * S],
            freeze: Some(8 * S),
            freeze_at_send: 10,
            delayed: 30,
            max_delay: 4 * S,
            calm_at: 20 * S,
            ..Self::calm()
        }
    }

    /// Processes are killed and replaced.
    fn killed() -> Self {
        Self {
            name: "killed",
            nodes: [3, 6],
            kill: Some(10 * S),
            delayed: 20,
            max_delay: 4 * S,
            calm_at: 20 * S,
            ..Self::calm()
        }
    }

    /// Nodes are cut off from the engine.
    fn partitioned() -> Self {
        Self {
            name: "partitioned",
            nodes: [2, 5],
            hold_time: [0, 2 * S],
            partition: Some(6 * S),
            watch_ends: 20,
            unavailable_timeout: 4 * S,
            calm_at: 20 * S,
            ..Self::calm()
        }
    }

    /// Virtual machines are suspended and their clocks stop, so only the tokens protect the resource.
    fn paused() -> Self {
        Self {
            name: "paused",
            nodes: [2, 4],
            hold_time: [0, 2 * S],
            pause: Some(6 * S),
            calm_at: 20 * S,
            ..Self::calm()
        }
    }

    /// An operator releases the lock by force.
    fn force_released() -> Self {
        Self {
            name: "forced",
            nodes: [2, 5],
            force_release: Some(S),
            response_lost: 30,
            hold_time: [100 * MS, 2 * S],
            ..Self::calm()
        }
    }

    /// Idle registers are dropped as soon as no request can be in flight.
    fn dropped() -> Self {
        Self {
            name: "dropped",
            nodes: [2, 3],
            hold_time: [0, S],
            retention: Some(2500 * MS),
            delayed: 80,
            max_delay: 2 * S,
            request_lost: 40,
            response_lost: 40,
            idle_time: [0, 6 * S],
            calm_at: 30 * S,
            ..Self::calm()
        }
    }

    /// More nodes than the queue has space for.
    fn crowd() -> Self {
        Self {
            name: "crowd",
            nodes: [5, 9],
            queue_limit: 2,
            kill: Some(25 * S),
            response_lost: 20,
            hold_time: [0, 200 * MS],
            ..Self::calm()
        }
    }

    /// A short queue, and no faults.
    fn narrow() -> Self {
        Self {
            name: "narrow",
            nodes: [4, 6],
            queue_limit: 2,
            hold_time: [0, 200 * MS],
            ..Self::calm()
        }
    }

    /// A network that is slow now and then, and holders that are suspended or cut off.
    fn slow() -> Self {
        Self {
            name: "slow",
            nodes: [2, 4],
            latency: [MS, 20 * MS],
            delayed: 300,
            max_delay: 650 * MS,
            claim_window: 1500 * MS,
            freeze: Some(6 * S),
            partition: Some(6 * S),
            freeze_at_send: 10,
            idle_time: [0, S],
            hold_time: [S, 8 * S],
            cancels: 50,
            tries: 50,
            calm_at: 40 * S,
            ..Self::calm()
        }
    }

    /// All faults together, except those that end exclusion by design.
    fn everything() -> Self {
        Self {
            name: "everything",
            nodes: [2, 5],
            keys: 2,
            freeze: Some(12 * S),
            kill: Some(20 * S),
            partition: Some(12 * S),
            freeze_at_send: 5,
            retention: Some(9 * S),
            queue_limit: 3,
            ..Self::storm()
        }
    }

    pub(super) fn all() -> Vec<Self> {
        vec![
            Self::calm(),
            Self::storm(),
            Self::frozen(),
            Self::killed(),
            Self::partitioned(),
            Self::paused(),
            Self::force_released(),
            Self::dropped(),
            Self::crowd(),
            Self::narrow(),
            Self::slow(),
            Self::everything(),
        ]
    }

    /// Whether there are no faults.
    pub(super) fn is_calm(&self) -> bool {
        let faults = [
            self.delayed,
            self.request_lost,
            self.response_lost,
            self.refused,
            self.indeterminate,
            self.notice_lost,
            self.notice_twice,
            self.notice_empty,
            self.watch_ends,
            self.freeze_at_send,
        ];
        let greater = [self.freeze, self.pause, self.kill, self.partition, self.force_release];
        faults.iter().all(|fault| *fault == 0) && greater.iter().all(Option::is_none)
    }

    /// The same parameters without faults.
    pub(super) fn without_faults(&self) -> Self {
        Self {
            delayed: 0,
            request_lost: 0,
            response_lost: 0,
            refused: 0,
            indeterminate: 0,
            notice_lost: 0,
            notice_twice: 0,
            notice_empty: 0,
            watch_ends: 0,
            freeze: None,
            pause: None,
            kill: None,
            partition: None,
            freeze_at_send: 0,
            force_release: None,
            ..self.clone()
        }
    }
}
