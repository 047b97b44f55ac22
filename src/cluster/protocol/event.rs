//! The machine's settings, its events, and its actions.

use crate::cluster::protocol::register::{Liveness, Unreadable};
use crate::cluster::transport::{
    Exchange, NodeId, Notices, TransportError, Version, Versioned, Wakeups, Write,
};
use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::time::Duration;

/// The settings of a machine.
#[derive(Clone, Debug)]
pub(crate) struct MachineSettings {
    pub(crate) node: NodeId,
    /// The node's label in the register, for human readers.
    pub(crate) label: String,
    /// How long the lock stays with a holder whose heartbeat does not move.
    pub(crate) lease: Duration,
    /// How long the lock stays with each node in the queue before this one after a dead holder's lease.
    pub(crate) claim_window: Duration,
    /// The lease that this node has when it is handed the lock, until it has renewed.
    pub(crate) handoff_lease: Duration,
    /// A node that was handed the lock may hold it before it has written. Not with a clock that may stand still.
    pub(crate) holds_at_once: bool,
    /// How long after a release the node keeps a place in the queue for its next user. Zero: not at all.
    pub(crate) keep_place: Duration,
    /// The longest time between two loads by the first in the queue if no watch wakes it.
    pub(crate) poll: Duration,
    /// How many nodes the queue in the register holds. Other nodes wait to join it.
    pub(crate) queue_limit: usize,
    /// How long the transport may fail before [`Intent::Wait`] fails.
    pub(crate) unavailable_timeout: Duration,
    /// How the transport wakes a waiter.
    pub(crate) wakeups: Wakeups,
    /// The seed for jitter: for delays and nothing else.
    pub(crate) seed: u64,
    /// Where claim ids and heartbeats come from.
    pub(crate) ids: IdSource,
    /// The bounds on the errors of this node's clock.
    pub(crate) clock_error: ClockError,
    /// The engine can lose acknowledged writes, so it may show a smaller version than before.
    pub(crate) is_lossy: bool,
    /// The wall clock, in milliseconds since 1970: for human readers, who see it in the register. Nothing
    /// is decided by it.
    pub(crate) wall_clock: Option<fn() -> u64>,
}

/// A source of numbers that nobody else draws and nobody can guess: neither another node, nor a copy
/// of this process (after a fork, or of a virtual machine that was resumed twice).
///
/// Claim ids and heartbeats come from it, and each is drawn when it is needed: numbers in store would
/// be in the stores of both copies. A generator with a seed is for the simulator and for tests, where
/// copies share it.
#[derive(Clone)]
pub(crate) struct IdSource(Arc<dyn Fn() -> u64 + Send + Sync>);

impl IdSource {
    pub(crate) fn new(draw: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(draw))
    }

    /// The same numbers for the same seed. Clones take turns.
    pub(crate) fn seeded(seed: u64) -> Self {
        let random = crate::Mutex::new(fastrand::Rng::with_seed(seed));
        Self::new(move || random.lock().u64(..))
    }

    pub(crate) fn draw(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for IdSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdSource")
    }
}

/// The assumed bounds on the errors of a node's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClockError {
    /// The error of the clock's rate, in parts per thousand: while true time advances by `t`, the
    /// clock advances by `t (1 - r)` to `t (1 + r)`.
    pub(crate) rate: u32,
    /// By how much a reading may be behind a clock that has only the error of the rate.
    pub(crate) reading: Duration,
}

impl ClockError {
    /// By how much a holder with this clock shortens a lease, and an observer with this clock extends
    /// it; at least one nanosecond.
    ///
    /// With `a` the part of the lease that is allowed for and `r` the error of the rate, the holder
    /// stops after at most `(1 - a) / (1 - r)` of the lease in true time, and the observer takes over
    /// after at least `(1 + a) / (1 + r)`. With `a = r` both are exactly the lease, whatever the rates
    /// of the two clocks: so a node needs to know nothing of the other's clock.
    pub(crate) fn allowance(self, lease: Duration) -> Duration {
        lease.mul_f64(f64::from(self.rate) / 1000.0) + self.reading + Duration::from_nanos(1)
    }
}

/// What is wanted at this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// The lock is not wanted. A request for it that is in flight is undone.
    Nothing,
    /// The lock is wanted if it is free. Otherwise the machine returns [`Action::Failed`] with
    /// [`Failure::Busy`], and the intent is over.
    Try,
    /// The lock is wanted if it is free, or if its holder is dead: the machine observes the holder for as
    /// long as it has to. At the first sign of life it
    /// returns [`Action::Failed`] with [`Failure::Busy`], and the intent is over.
    Outlast,
    /// The lock is wanted, however long it takes.
    Wait,
}

/// An event for the machine.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// What is wanted at this node from now on. While the lock is held or being released, it is what
    /// is wanted after that. An intent lasts until the lock is granted or the intent fails; then it
    /// is [`Intent::Nothing`] again.
    Intent(Intent),
    /// Renew as soon as possible: the local tokens run short, or the node has to learn whether others
    /// wait.
    Refresh,
    /// Renew the lease when it is due (`true`), as a machine does from a grant on, or never (`false`).
    Renewing(bool),
    /// Publish this with the lock, by a renewal at once and by all that follow. [`Action::Renewed`] has the number when
    /// it is written.
    Publish(Publication),
    /// Release the lock. If it is not held any more, the outcome is [`Outcome::Lost`].
    ///
    /// If the intent is [`Intent::Wait`] and others wait, the same write puts this node at the end of
    /// the queue.
    Release,
    /// The response to [`Action::Load`].
    Loaded { request: u64, result: Result<Option<Versioned>, TransportError> },
    /// The response to [`Action::CompareExchange`].
    Exchanged { request: u64, result: Result<Exchange, TransportError> },
    /// The response to [`Action::Watch`].
    Watching(Result<(), TransportError>),
    /// The watch yielded: an answer of the engine, or (`None`) a hint that the register may have
    /// changed, which anybody may have sent. [`Event::of_item`] tells them apart.
    Noticed(Option<Versioned>),
    /// The watch has ended.
    WatchEnded,
    /// The time of [`Machine::wake_at`](super::Machine::wake_at) has come.
    Timer,
}

impl Event {
    /// The event of an item of a watch, over an engine that declares `notices`. What a hint carries is
    /// dropped: nothing is lost, granted or written because of it.
    pub(crate) fn of_item(notices: Notices, item: Option<Versioned>) -> Self {
        Self::Noticed(item.filter(|_| notices == Notices::Answers))
    }
}

/// An action for the driver.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Load the register. The response is [`Event::Loaded`].
    Load { request: u64 },
    /// Compare and exchange the register. The response is [`Event::Exchanged`]. If none arrives in
    /// time, the driver drops the request and responds with [`TransportError::Indeterminate`].
    CompareExchange { request: u64, expected: Option<Version>, write: Write },
    /// Subscribe. The response is [`Event::Watching`], then [`Event::Noticed`] and
    /// [`Event::WatchEnded`] follow.
    Watch,
    /// End the watch or the attempt to subscribe. No event of it may follow.
    Unwatch,
    /// This node holds the lock from now on.
    Granted(Grant),
    /// The lease is renewed until `deadline`. New tokens may be made of `version`. `published` is the number of the
    /// publication that was due and is written now.
    Renewed { version: Version, deadline: Time, published: Option<u64> },
    /// This node does not hold the lock any more, and has not released it.
    Lost(Loss),
    /// The lock was released by [`Event::Release`].
    Released(Outcome),
    /// The intent has failed and is over.
    Failed(Failure),
    /// The engine went back. This is reported once for each time.
    WentBack(WentBack),
}

/// What a holder publishes, if anything, and the how manieth of its lease this is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) number: u64,
    pub(crate) value: Option<Arc<str>>,
}

/// The engine shows an older state than one that it has shown before: it was restored from a backup,
/// it has lost writes, or another engine answers in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WentBack {
    /// The version that it shows.
    pub(crate) shown: Version,
    /// The largest version that an answer has shown before.
    pub(crate) newest: Version,
}

/// A grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The version of the write that granted it.
    pub(crate) version: Version,
    /// When the lease ends unless it is renewed.
    pub(crate) deadline: Time,
    /// It is the short lease of a node that was handed the lock. The first renewal makes it a whole one.
    pub(crate) is_short: bool,
    pub(crate) via: GrantedVia,
}

/// How this node got the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrantedVia {
    /// The lock was free: it had no holder and no queue.
    Free,
    /// The holder before has handed it to this node.
    Handoff,
    /// The lock was taken from a holder whose heartbeat did not move for a lease.
    Takeover,
}

/// Why the lock was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// No renewal succeeded in time. `last` says why.
    Expired { last: String },
    /// The register has another holder or none: another node took the lock over.
    TakenOver,
    /// An operator took the lock away: the label of the node, and the reason.
    Broken { by: String, reason: String },
    /// The register names the claim that we hold, with a heartbeat that this machine did not write: a
    /// copy of this node has renewed the lease. A version alone says nothing, since each node that
    /// joins the queue writes the register with our name in it.
    Copied,
    /// The engine went back, and may not know of the lease.
    WentBack,
    /// The register can no longer be read.
    Unreadable(Unreadable),
}

/// The outcome of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The lock was held until the release, and is now free or the next waiter's.
    Held,
    /// The lock was lost before the release. `None`: [`Action::Lost`] has said why.
    Lost(Option<Loss>),
    /// The lock is not held any more. Whether it was held until the release is not known: the
    /// release was a write of unknown outcome, or the engine did not respond before the lease was
    /// over.
    Indeterminate,
}

/// Why an intent failed.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The lock has a holder or a queue; for [`Intent::Try`] and [`Intent::Outlast`] only. `holder` is
    /// the holder's label.
    Busy { holder: Option<String> },
    /// A permanent error of the engine, or one that has lasted for
    /// [`MachineSettings::unavailable_timeout`]; for [`Intent::Try`] any error.
    Transport(TransportError),
    /// The register cannot be read.
    Unreadable(Unreadable),
    /// The engine went back, and does not declare that it may.
    WentBack(WentBack),
}

/// What the engine has last said: for the errors that users see.
#[derive(Clone, Debug, Default)]
pub(crate) struct EngineStatus {
    /// The error of the last request, if it failed.
    pub(crate) last_error: Option<TransportError>,
    /// A request has been in flight since this moment.
    pub(crate) asked_at: Option<Time>,
    /// There is a request to send since this moment, which the limit on the requests in flight does not permit.
    pub(crate) queued_since: Option<Time>,
    /// How the last request of the node failed, if that is so.
    pub(crate) node_error: Option<TransportError>,
    /// Whether a watch is in force. `None`: none is wanted.
    pub(crate) is_watching: Option<bool>,
    /// How many nodes are in the queue, as last seen.
    pub(crate) queued_nodes: usize,
}

impl EngineStatus {
    /// What is wrong with the engine at `now`: that a request could not be sent, or had no response, for
    /// `longest_silence` or longer, or the last error. `None` if nothing is known to be wrong.
    pub(crate) fn trouble(&self, now: Time, longest_silence: Duration) -> Option<TransportError> {
        let long = |time: &Duration| *time >= longest_silence;
        let queued = self.queued_for(now).filter(long).map(|time| {
            let overload = || TransportError::unavailable(not_sent(time, None));
            self.node_error.clone().unwrap_or_else(overload)
        });
        let silent = || self.silent_for(now).filter(long).map(no_response);
        let silent = queued.or_else(|| silent().map(TransportError::unavailable));
        silent.or_else(|| self.last_error.clone())
    }

    /// Why no renewal has succeeded until `now`.
    pub(crate) fn cause_of_expiry(&self, now: Time) -> String {
        if let Some(time) = self.queued_for(now) {
            return not_sent(time, self.last_error.as_ref().or(self.node_error.as_ref()));
        }
        match (&self.last_error, self.silent_for(now)) {
            (Some(error), _) => error.to_string(),
            (None, Some(time)) => no_response(time),
            (None, None) => String::from(
                "no renewal was sent in time: this process, or the node's background task, did not run",
            ),
        }
    }

    /// For how long a response has been awaited, if one is.
    fn silent_for(&self, now: Time) -> Option<Duration> {
        self.asked_at.map(|at| now.since(at))
    }

    /// For how long there has been a request to send, and it may not be.
    fn queued_for(&self, now: Time) -> Option<Duration> {
        self.queued_since.map(|at| now.since(at))
    }
}

/// What is wrong if a request could not be sent for so long. `error`: the last one of the engine.
pub(super) fn not_sent(time: Duration, error: Option<&TransportError>) -> String {
    match error {
        Some(error) => {
            format!("{error}; so this request was queued in the node for {time:?} and not sent")
        }
        None => format!(
            "overload: this request was queued in the node for {time:?} and not sent, because the engine responds too \
             slowly; use fewer locks at a time, longer leases, or a faster engine"
        ),
    }
}

fn no_response(time: Duration) -> String {
    format!("no response for the last {time:?}")
}

/// That a machine has a request to send, and may not send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueuedSend {
    pub(crate) since: Time,
    /// From when on it comes before all that are not urgent. `None`: never.
    pub(crate) urgent_at: Option<Time>,
    /// The lock is this node's, or a notice says that it may be.
    pub(crate) is_next: bool,
}

/// What was seen of the holder of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) liveness: Liveness,
    /// Since when it is known to be unchanged.
    pub(crate) since: Time,
    /// The lease of the holder; zero if there is none.
    pub(crate) lease: Duration,
}

/// A moment on one node's clock, as the time since an origin that is the same for all moments of that
/// node. Moments of two nodes cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Time(Duration);

impl Time {
    pub(crate) const fn new(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// The time from `earlier` to this moment; zero if this moment is before `earlier`.
    pub(crate) fn since(self, earlier: Time) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The time since the origin.
    #[cfg(test)]
    pub(crate) fn since_origin(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    /// A moment that is too late to be represented becomes the latest moment.
    fn add(self, later: Duration) -> Time {
        Self(self.0.saturating_add(later))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    /// A moment before the origin becomes the origin.
    fn sub(self, earlier: Duration) -> Time {
        Self(self.0.saturating_sub(earlier))
    }
}

#[cfg(test)]
mod tests {
    use super::{ClockError, IdSource, Time};
    use std::time::Duration;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let (second, origin) = (Duration::from_secs(1), Time::new(Duration::ZERO));
        let latest = Time::new(Duration::MAX);
        assert_eq!((origin - second, latest + second), (origin, latest));
        assert_eq!((origin + second).since(origin), second);
        assert_eq!(origin.since(origin + second), Duration::ZERO);
    }

    /// A holder whose clock is slow, and an observer whose clock is fast, each as much as is assumed.
    #[test]
    fn a_holder_stops_before_an_observer_takes_over_whatever_the_rates_of_their_clocks() {
        let lease = Duration::from_secs(10);
        for (allowed, rate) in [(100, 100), (100, 84), (10, 10), (10, 1)] {
            let error = ClockError { rate: allowed, reading: Duration::from_millis(2) };
            for (holder, observer) in [(-1, 1), (1, -1), (1, 1), (-1, -1), (0, 1), (-1, 0), (0, 0)]
            {
                // In true time, of a duration that a clock with this error measures.
                let true_time = |measured: Duration, sign: i32| {
                    measured.div_f64(1.0 + f64::from(sign) * f64::from(rate) / 1000.0)
                };
                let stops = true_time(lease - error.allowance(lease), holder);
                let takes_over = true_time(lease + error.allowance(lease), observer);
                assert!(stops < takes_over, "{stops:?} {takes_over:?}: {allowed} {rate}");
                // Even if the two clocks are of different kinds.
                assert!(stops <= lease && lease <= takes_over, "{stops:?} {takes_over:?}");
            }
        }
    }

    /// What the rule of one hundredth did with chrony's default slew of 8.3 %.
    #[test]
    fn an_allowance_that_is_smaller_than_the_error_of_the_rate_does_not_suffice() {
        let lease = Duration::from_secs(10);
        let error = ClockError { rate: 10, reading: Duration::ZERO };
        let stops = (lease - error.allowance(lease)).div_f64(1.0 - 0.083);
        assert!(stops > lease + error.allowance(lease), "{stops:?}");
    }

    #[test]
    fn clones_of_a_seeded_source_do_not_draw_the_same() {
        let (one, again) = (IdSource::seeded(7), IdSource::seeded(7));
        let clone = one.clone();
        let drawn = [one.draw(), clone.draw(), one.draw()];
        assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2] && drawn[0] != drawn[2]);
        assert_eq!(drawn, [again.draw(), again.draw(), again.draw()]);
    }
}
