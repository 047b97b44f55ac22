//! The one request under way: how it is sent, what its answer says, and what follows if there is none.

use super::{Action, Failure, Machine, Outcome, Wish, courtesy};
use crate::cluster::register::Register;
use crate::cluster::time::Time;
use crate::cluster::transport::{Exchange, TransportError, Version, Versioned, Wake, Write};
use std::time::Duration;

/// What a request under way is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Load,
    Take,
    Join,
    Renew,
    Leave,
}

/// The one request under way.
#[derive(Debug)]
pub(super) struct UnderWay {
    pub(super) request: u64,
    pub(super) kind: Kind,
    /// A moment before it was sent.
    pub(super) sent: Time,
    /// The version that was known then, which a write expects.
    pub(super) basis: Option<Version>,
    /// For how long the register was known to have that version.
    pub(super) stood_still: Duration,
    /// What is written; for a load, nothing.
    pub(super) written: Option<Register>,
}

/// How the transport fails, if it does.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Since when, and how often in a row.
    pub(super) since: Option<Time>,
    pub(super) failures: u32,
    pub(super) last: Option<TransportError>,
    /// No request before that.
    pub(super) retry_at: Option<Time>,
}

impl Machine {
    pub(super) fn answer_to(&mut self, request: u64) -> Option<UnderWay> {
        self.under_way.take_if(|under_way| under_way.request == request)
    }

    pub(super) fn loaded(
        &mut self,
        sent: UnderWay,
        result: Result<Option<Versioned>, TransportError>,
        now: Time,
    ) {
        match result {
            Ok(seen) => {
                self.went_well(&sent, now);
                self.view.answered(seen, sent.basis, now);
            }
            Err(error) => self.went_wrong(error, now),
        }
    }

    pub(super) fn exchanged(
        &mut self,
        sent: UnderWay,
        result: Result<Exchange, TransportError>,
        now: Time,
    ) {
        let UnderWay { kind, basis, .. } = sent;
        let result = match result {
            // It was written, but no token may be made of that version.
            Ok(Exchange::Swapped(version)) if Some(version) <= basis => {
                let what = format!("version {version} does not follow that before it");
                Err(TransportError::indeterminate(what))
            }
            Ok(Exchange::Mismatch(seen)) if seen.as_ref().map(|seen| seen.version) == basis => {
                Err(TransportError::corrupt("a mismatch that shows the expected version"))
            }
            result => result,
        };
        match result {
            Ok(Exchange::Swapped(version)) => {
                self.went_well(&sent, now);
                self.stood_still(sent.stood_still, now);
                let written = sent.written.unwrap_or_else(Register::empty);
                self.view.wrote(version, written, now);
                self.doubt = None;
                match kind {
                    Kind::Take => self.taken(version, sent.sent, now),
                    Kind::Renew => self.renewed(version, sent.sent),
                    Kind::Leave => {
                        if self.others_wait() {
                            self.gave_way(now);
                        }
                        self.released(Outcome::Held);
                    }
                    Kind::Join => self.joined(),
                    Kind::Load => {}
                }
            }
            Ok(Exchange::Mismatch(seen)) => {
                self.went_well(&sent, now);
                self.view.answered(seen, basis, now);
                if kind == Kind::Join {
                    self.put_off_joining(now);
                }
            }
            Err(error) => {
                if matches!(error, TransportError::Indeterminate(_)) {
                    self.doubt = Some(basis);
                    if let Some(leaving) = &mut self.leaving {
                        leaving.is_in_doubt |= kind == Kind::Leave;
                    }
                }
                self.went_wrong(error, now);
            }
        }
    }

    fn went_well(&mut self, sent: &UnderWay, now: Time) {
        self.trouble = Trouble::default();
        self.round_trip = now.since(sent.sent).max(courtesy::SHORTEST);
    }

    /// Waits before the next request, and tells those who wait here if it does not pass.
    fn went_wrong(&mut self, error: TransportError, now: Time) {
        let since = *self.trouble.since.get_or_insert(now);
        self.trouble.failures = (self.trouble.failures + 1).min(16);
        let longest = self.settings.lease / if self.held.is_some() { 20 } else { 4 };
        let wait = Duration::from_millis(5).saturating_mul(1 << self.trouble.failures).min(longest);
        self.trouble.retry_at = Some(now + wait.mul_f64(0.5 + self.random.f64() / 2.0));
        self.trouble.last = Some(error.clone());
        // What was to be looked at still is.
        self.must_look = true;
        let gives_up = match self.wish {
            Wish::Nothing => false,
            Wish::Try => true,
            Wish::Wait => !error.is_passing() || now.since(since) >= self.settings.patience,
        };
        if gives_up {
            self.fail(Failure::Transport(error));
        }
    }

    pub(super) fn load(&mut self, now: Time) {
        let request = self.send(Kind::Load, None, now);
        self.actions.push_back(Action::Load { request });
    }

    pub(super) fn write(&mut self, kind: Kind, register: Register, now: Time) {
        let (expected, mut write) = (self.view.version, write(&register));
        if kind == Kind::Join
            && let Some(holder) = &register.holder
        {
            // The holder, if it listens: what it writes next will expect the right version, and it
            // knows that its tasks and threads are not alone any more.
            let is_first = register.queue.len() == 1;
            let holder = Wake::Node(holder.attempt.node);
            write.wake = if is_first { holder } else { Wake::Nobody };
        }
        let request = self.send(kind, Some(register), now);
        self.actions.push_back(Action::CompareExchange { request, expected, write });
    }

    fn send(&mut self, kind: Kind, written: Option<Register>, sent: Time) -> u64 {
        self.last_request += 1;
        self.must_look = false;
        let (request, basis) = (self.last_request, self.view.version);
        let stood_still = sent.since(self.view.seen);
        self.under_way = Some(UnderWay { request, kind, sent, basis, stood_still, written });
        request
    }
}

/// The write of this register. It wakes the first in the queue: the lock is reserved for it, or it
/// has a new beat to watch.
fn write(register: &Register) -> Write {
    let wake = register.queue.first().map_or(Wake::Nobody, |first| Wake::Node(first.attempt.node));
    Write { value: register.encode().into(), wake, idle: register.is_idle() }
}

/// The write by which an operator breaks the lock, and the register that it breaks: whoever holds
/// it is out, and it is reserved for the first in the queue. `None` if nobody holds it.
pub(crate) fn broken(register: &Register) -> Option<Write> {
    register.holder.as_ref()?;
    let mut register = register.clone();
    register.holder = None;
    register.advance();
    Some(Write { wake: Wake::Everybody, ..write(&register) })
}
