//! When the machine subscribes to the key's changes, and when it loads the register without a notice.

use super::{Action, Intent, Machine};
use crate::cluster::protocol::Time;
use crate::cluster::protocol::register::Register;
use crate::cluster::transport::{TransportError, Wakeups};
use std::time::Duration;

/// An engine without wake-ups is not polled more often than this, unless the settings say so.
const MIN_POLL: Duration = Duration::from_millis(1);

/// The watch of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WatchState {
    Off,
    Starting,
    /// The watch has been in force since `since`, and ends at `until` if this node does not wait again.
    On {
        since: Time,
        until: Time,
    },
    /// The subscription failed or the watch has ended. The next attempt is made at `retry_at`.
    Failed {
        retry_at: Time,
    },
}

impl Machine {
    /// Subscribes if no watch is in force. Returns whether the response to the subscription must be
    /// awaited before this node may rely on notices or on polling.
    pub(super) fn await_watch(&mut self, now: Time) -> bool {
        if self.settings.wakeups == Wakeups::Poll {
            return false;
        }
        let keep = now + self.settings.lease;
        match &mut self.watch {
            WatchState::On { until, .. } => {
                *until = keep;
                return false;
            }
            WatchState::Starting => return true,
            WatchState::Failed { retry_at } if now < *retry_at => {
                let retry_at = *retry_at;
                self.wake_by(retry_at);
                return false;
            }
            WatchState::Failed { .. } | WatchState::Off => {}
        }
        if !self.can_send(now) {
            return true;
        }
        self.watch = WatchState::Starting;
        self.actions.push_back(Action::Watch);
        true
    }

    /// Whether the watch shows every change.
    pub(super) fn sees_all(&self) -> bool {
        self.is_watching() && self.settings.wakeups == Wakeups::PushToAll
    }

    /// Whether a watch is in force.
    pub(super) fn is_watching(&self) -> bool {
        matches!(self.watch, WatchState::On { .. })
    }

    /// Whether this node waits, and a watch should be in force by now.
    pub(super) fn wants_watch(&self) -> bool {
        self.intent == Intent::Wait && !matches!(self.watch, WatchState::Off | WatchState::Starting)
    }

    /// Keeps a watch that is in force until then at least.
    pub(super) fn keep_watch(&mut self, at_least: Time) {
        if let WatchState::On { until, .. } = &mut self.watch {
            *until = at_least.max(*until);
        }
    }

    /// Processes the response to the subscription.
    pub(super) fn watching(&mut self, result: Result<(), TransportError>, now: Time) {
        if self.watch != WatchState::Starting {
            return;
        }
        match result {
            Ok(()) => {
                self.watch = WatchState::On { since: now, until: now + self.settings.lease };
                // Changes before the watch was in force show no notice.
                self.must_load = true;
            }
            Err(_) => self.watch_ended(now),
        }
    }

    /// Processes the end of the watch. The delay before the next subscription grows with each failure.
    pub(super) fn watch_ended(&mut self, now: Time) {
        if self.watch == WatchState::Off {
            return;
        }
        if let WatchState::On { since, .. } = self.watch
            && now.since(since) >= self.settings.claim_window
        {
            self.failed_watches = 0;
        }
        self.failed_watches = (self.failed_watches + 1).min(8);
        let wait = Duration::from_millis(5).saturating_mul(1 << self.failed_watches);
        let wait = wait.min(self.settings.claim_window);
        self.watch = WatchState::Failed { retry_at: now + wait };
        self.must_load = true;
    }

    /// Ends a watch that this node has not needed for a lease.
    pub(super) fn expire_watch(&mut self, now: Time) {
        match self.watch {
            WatchState::On { until, .. } if now >= until => {
                self.watch = WatchState::Off;
                self.actions.push_back(Action::Unwatch);
            }
            WatchState::On { until, .. } => self.wake_by(until),
            _ => {}
        }
    }

    /// Loads the register if a load is due: after an event that may have hidden a change, or if
    /// nothing was heard for the polling interval. No request is in flight.
    ///
    /// With a watch that shows every change, polling is a precaution, and a third of the lease is
    /// enough. A watch that shows only what is addressed to this node does not show that the lock was
    /// handed to a node before it, which may be dead, and costs its handoff lease. There the interval is half of such
    /// a lease, and grows with this node's rank, as does the time at which it may pass over those before it; so all
    /// waiters together poll as often as one waiter does, times the logarithm of their number.
    ///
    /// Without a watch the interval has to be short enough to notice in time that this node was
    /// handed the lock. That is the poll interval of the settings, but at most half of the claim window, times
    /// this node's place in the queue. An engine without wake-ups is polled more often than that after
    /// a change. An engine whose watch has failed is not: it may be overloaded.
    pub(super) fn poll_register(&mut self, rank: usize, now: Time) {
        let depth = u32::try_from(rank).unwrap_or(u32::MAX);
        let (precaution, rare) = (self.settings.lease / 3, self.settings.claim_window / 2);
        let interval = match (self.watch, self.settings.wakeups) {
            (WatchState::On { .. }, Wakeups::PushToOne) if rank > 0 => {
                let half = self.settings.handoff_lease.max(self.settings.claim_window) / 2;
                precaution.min(half.saturating_mul(depth))
            }
            (WatchState::On { .. }, _) => precaution,
            (_, wakeups) => {
                let longest = self.settings.poll.min(rare);
                let interval = match wakeups {
                    Wakeups::Poll => self.adaptive_interval(longest),
                    Wakeups::PushToOne | Wakeups::PushToAll => longest,
                };
                interval.saturating_mul(depth.saturating_add(1)).min(rare)
            }
        };
        let at = self.view.heard_at + interval;
        self.load_by(at, now);
    }

    /// Loads the register at `at`, or at once if it may have changed without a notice.
    fn load_by(&mut self, at: Time, now: Time) {
        if self.must_load || now >= at {
            self.load(now);
        } else {
            self.wake_by(at);
        }
    }

    /// The next look of [`Intent::Outlast`](super::Intent::Outlast) at a lock that others have. It does
    /// not join the queue, so the holder does not wake it. A holder that lives moves the heartbeat after
    /// a third of its lease, and the next waiter within its claim window. No request is in flight.
    pub(super) fn look_for_life(&mut self, register: &Register, now: Time) {
        let window = self.settings.claim_window / 2;
        let interval = register.holder.as_ref().map_or(window, |holder| holder.lease / 12);
        self.load_by(self.view.heard_at + interval.max(MIN_POLL), now);
    }

    /// The poll interval of the first in the queue of an engine without wake-ups, at most `longest`.
    ///
    /// A register that has changed lately is likely to change soon: the interval is a quarter of the
    /// time for which the register has been unchanged. It is not less than a tenth of `longest`, nor
    /// less than [`MIN_POLL`].
    fn adaptive_interval(&self, longest: Duration) -> Duration {
        let shortest = (longest / 10).max(MIN_POLL).min(longest);
        let unchanged = self.view.heard_at.since(self.view.version_since);
        (unchanged / 4).clamp(shortest, longest)
    }
}
