//! Keeping the lock: renewal, and how it can be lost.

use super::{Action, Attempt, Kind, Loss, Machine};
use crate::cluster::time::Time;
use crate::cluster::transport::Version;

/// The lock is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) attempt: Attempt,
    /// From this moment on it is lost. Counted from before the last successful write was sent.
    pub(super) deadline: Time,
    /// When the next renewal is sent.
    pub(super) renew_at: Time,
}

impl Machine {
    /// Whatever else happens: at the deadline the lock is lost. This comes before an answer is looked
    /// at, so that a late one revives nothing.
    pub(super) fn check_deadline(&mut self, now: Time) {
        if self.held.is_some_and(|held| now >= held.deadline) {
            let last = self.trouble.last.as_ref().map(ToString::to_string);
            self.lose(Loss::Expired { last });
        }
    }

    /// Checks that the register still names this node; whether it is time to renew.
    pub(super) fn check_register(&mut self) {
        let Some(held) = self.held else { return };
        match &self.view.register {
            Ok(register) if register.is_held_by(held.attempt) => {}
            Ok(_) => self.lose(Loss::TakenOver),
            Err(why) => {
                let why = why.clone();
                self.lose(Loss::Unreadable(why));
            }
        }
    }

    /// Renews when it is time. There is no request under way.
    pub(super) fn hold(&mut self, now: Time) {
        let Some(held) = self.held else { return };
        if now < held.renew_at {
            return self.wake_by(held.renew_at);
        }
        let Ok(register) = &self.view.register else { return };
        let mut register = register.clone();
        register.advance();
        self.write(Kind::Renew, register, now);
    }

    /// The write that renews got this version. It was sent not before `sent`.
    pub(super) fn renewed(&mut self, version: Version, sent: Time) {
        let deadline = self.deadline(sent);
        let renew_at = sent + self.settings.lease / 3;
        let Some(held) = &mut self.held else { return };
        (held.deadline, held.renew_at) = (deadline, renew_at);
        self.actions.push_back(Action::Renewed { version, deadline });
    }

    pub(super) fn lose(&mut self, why: Loss) {
        self.held = None;
        self.begin_attempt();
        self.actions.push_back(Action::Lost(why));
    }
}
