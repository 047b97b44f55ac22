//! When to subscribe to the key's changes, and when to look without being woken.

use super::{Action, Machine};
use crate::cluster::time::Time;
use crate::cluster::transport::{TransportError, Wakeups};
use std::time::Duration;

/// The watch of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WatchState {
    Off,
    Starting,
    /// In force, since when; and until when it is kept, if nobody waits any more.
    On {
        since: Time,
        until: Time,
    },
    /// It could not be had, or has ended. Tried again then.
    Failed {
        retry_at: Time,
    },
}

impl Machine {
    /// Sees to it that a watch is in force before this node counts on it. Whether its answer must be
    /// awaited.
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
        self.watch = WatchState::Starting;
        self.actions.push_back(Action::Watch);
        true
    }

    /// Whether the watch shows every change.
    pub(super) fn sees_all(&self) -> bool {
        let is_on = matches!(self.watch, WatchState::On { .. });
        is_on && self.settings.wakeups == Wakeups::PushToAll
    }

    /// The answer to the subscription.
    pub(super) fn watching(&mut self, result: Result<(), TransportError>, now: Time) {
        if self.watch != WatchState::Starting {
            return;
        }
        match result {
            Ok(()) => {
                self.watch = WatchState::On { since: now, until: now + self.settings.lease };
                // What changed before the watch was in force is looked at.
                self.must_look = true;
            }
            Err(_) => self.watch_ended(now),
        }
    }

    /// It has ended. A new one is tried later, the later the more often that happens.
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
        self.must_look = true;
    }

    /// Ends a watch that nobody has needed for a while.
    pub(super) fn tend_watch(&mut self, now: Time) {
        match self.watch {
            WatchState::On { until, .. } if now >= until => {
                self.watch = WatchState::Off;
                self.actions.push_back(Action::Unwatch);
            }
            WatchState::On { until, .. } => self.wake_by(until),
            _ => {}
        }
    }

    /// Loads the register if nothing was heard of it for long, or if something says so. There is no
    /// request in flight.
    ///
    /// With a watch that shows every change it is a precaution. A watch that shows only what is meant
    /// for this node does not show that the lock is reserved for one before it, who may be dead: the
    /// sooner this node's turn to pass over would come, the sooner it looks, so that all who wait
    /// look no more often than one who is alone, times the logarithm of their number.
    ///
    /// Without a watch it has to be often enough to claim a reservation within the claim window. A
    /// register that has changed lately is likely to change soon: the time to the next look is a
    /// quarter of the time for which it has been unchanged, but from a tenth of the poll interval to
    /// all of it.
    pub(super) fn look_from_time_to_time(&mut self, rank: usize, now: Time) {
        let depth = u32::try_from(rank).unwrap_or(u32::MAX);
        let (precaution, rare) = (self.settings.lease / 3, self.settings.claim_window / 2);
        let interval = match (self.watch, self.settings.wakeups) {
            (WatchState::On { .. }, Wakeups::PushToOne) if rank > 0 => {
                precaution.min(rare.saturating_mul(depth))
            }
            (WatchState::On { .. }, _) => precaution,
            _ => {
                let longest = self.settings.poll.min(rare);
                let unchanged = self.view.heard.since(self.view.seen);
                let poll = (unchanged / 4).clamp(longest / 10, longest);
                poll.saturating_mul(depth.saturating_add(1)).min(rare)
            }
        };
        let at = self.view.heard + interval;
        if self.must_look || now >= at {
            self.load(now);
        } else {
            self.wake_by(at);
        }
    }
}
