//! What the fuzz targets need of the inside. Not part of the API, and only there under
//! `--cfg fuzzing`.

use super::protocol::register::Register;
use super::protocol::{Action, Event, Grant, Intent, Machine, MachineSettings, Outcome};
use super::time::Time;
use super::token::FencingToken;
use super::transport::{Exchange, NodeId, TransportError, Version, Versioned, Wakeups, Write};
use std::time::Duration;

/// Decodes a value; what can be read is written and read again, and is the same.
///
/// # Panics
///
/// If it is not.
pub fn register(value: &[u8]) {
    match Register::decode(value) {
        Ok(register) => {
            let written = register.encode();
            let again = Register::decode(&written).expect("what was written can be read");
            assert_eq!(again, register);
            assert_eq!(again.encode(), written);
        }
        Err(why) => assert!(!why.to_string().is_empty()),
    }
}

/// What becomes of the request that a node waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It takes effect and is answered.
    Answered,
    /// It takes effect; that it did is indeterminate.
    AnswerLost,
    /// Nothing happens, and that is known.
    Refused,
    /// It is indeterminate, and arrives later, or never.
    Late,
    /// The engine refuses the client for good.
    Denied,
}

/// A request as the machine made it: for a write, what it expects and writes.
type Request = (u64, Option<(Option<Version>, Write)>);

struct Player {
    machine: Machine,
    request: Option<Request>,
    is_watching: bool,
    /// Until when it holds, and by which attempt's write.
    held: Option<Time>,
    is_releasing: bool,
    intents: bool,
}

/// Two nodes and an engine with one key, all on one clock that the fuzzer winds.
pub struct Duel {
    now: Time,
    players: [Player; 2],
    history: Vec<Versioned>,
    has_register: bool,
    floor: u64,
    late: Vec<(Option<Version>, Write)>,
    newest: Option<FencingToken>,
    /// Somebody else wrote to the key: nothing is promised any more.
    is_tampered: bool,
}

impl Duel {
    /// The beginning. `via` chooses the settings.
    #[must_use]
    pub fn new(seed: u64, via: u8) -> Self {
        let wakeups = [Wakeups::PushToOne, Wakeups::PushToAll, Wakeups::Poll];
        let player = |node: u64| Player {
            machine: Machine::new(MachineSettings {
                node: NodeId::new(node),
                label: format!("n{node}"),
                lease: Duration::from_secs(3),
                claim_window: Duration::from_millis(300),
                poll: Duration::from_millis(100),
                queue_limit: usize::from(via / 3 % 3),
                unavailable_timeout: Duration::from_secs(5),
                wakeups: wakeups[usize::from(via) % 3],
                seed: seed ^ node,
            }),
            request: None,
            is_watching: false,
            held: None,
            is_releasing: false,
            intents: false,
        };
        Self {
            now: Time::new(Duration::from_secs(1000)),
            players: [player(1), player(2)],
            history: vec![],
            has_register: false,
            floor: 0,
            late: vec![],
            newest: None,
            is_tampered: false,
        }
    }

    /// Time passes. Those whose timer is due may be told, or sleep on.
    pub fn pass(&mut self, time: Duration, wakes: [bool; 2]) {
        self.now = self.now + time;
        for who in [0, 1] {
            let is_due = self.players[who].machine.wake_at().is_some_and(|at| at <= self.now);
            if wakes[who] && is_due {
                self.tell(who, Event::Timer);
            }
        }
    }

    /// Node `who` wants the lock: 0, not at all; 1, at once; else, in the end.
    pub fn intent(&mut self, who: usize, intent: u8) {
        let intent = [Intent::Nothing, Intent::Try, Intent::Wait][usize::from(intent.min(2))];
        self.players[who].intents = intent != Intent::Nothing;
        self.tell(who, Event::Intent(intent));
    }

    /// Node `who` gives the lock back, if it holds it.
    pub fn release(&mut self, who: usize) {
        if self.players[who].held.take().is_some() {
            self.players[who].is_releasing = true;
            self.tell(who, Event::Release);
        }
    }

    /// Node `who` wants to renew now.
    pub fn refresh(&mut self, who: usize) {
        self.tell(who, Event::Refresh);
    }

    /// The request that node `who` waits for meets its fate.
    pub fn settle(&mut self, who: usize, fate: Fate) {
        let Some((request, write)) = self.players[who].request.take() else { return };
        let Some((expected, write)) = write else {
            let result = match fate {
                Fate::Answered | Fate::AnswerLost => Ok(self.load()),
                Fate::Refused | Fate::Late => Err(TransportError::unavailable("fuzz")),
                Fate::Denied => Err(TransportError::denied("fuzz")),
            };
            return self.tell(who, Event::Loaded { request, result });
        };
        let indeterminate = || Err(TransportError::indeterminate("fuzz"));
        let result = match fate {
            Fate::Answered => Ok(self.exchange(expected, &write)),
            Fate::AnswerLost => {
                self.exchange(expected, &write);
                indeterminate()
            }
            Fate::Late => {
                self.late.push((expected, write));
                indeterminate()
            }
            Fate::Refused => Err(TransportError::unavailable("fuzz")),
            Fate::Denied => Err(TransportError::denied("fuzz")),
        };
        self.tell(who, Event::Exchanged { request, result });
    }

    /// One of the late writes arrives.
    pub fn arrive(&mut self, which: u8) {
        if !self.late.is_empty() {
            let (expected, write) = self.late.swap_remove(usize::from(which) % self.late.len());
            self.exchange(expected, &write);
        }
    }

    /// The watch of node `who` is in force, or could not be had; or yields what was written `ago`
    /// writes before the last (none: no value).
    pub fn notice(&mut self, who: usize, ago: Option<u8>) {
        if self.players[who].is_watching {
            let seen = ago.and_then(|ago| self.history.iter().rev().nth(usize::from(ago)).cloned());
            self.tell(who, Event::Noticed(seen));
        }
    }

    /// The answer to the subscription of node `who`.
    pub fn watching(&mut self, who: usize, works: bool) {
        if self.players[who].is_watching {
            self.players[who].is_watching = works;
            let result = if works { Ok(()) } else { Err(TransportError::unavailable("fuzz")) };
            self.tell(who, Event::Watching(result));
        }
    }

    /// The watch of node `who` ends.
    pub fn watch_ended(&mut self, who: usize) {
        if std::mem::take(&mut self.players[who].is_watching) {
            self.tell(who, Event::WatchEnded);
        }
    }

    /// A stranger writes these bytes.
    pub fn tamper(&mut self, value: &[u8]) {
        self.is_tampered = true;
        self.put(value.into());
    }

    fn load(&self) -> Option<Versioned> {
        self.history.last().filter(|_| self.has_register).cloned()
    }

    fn put(&mut self, value: std::sync::Arc<[u8]>) -> Version {
        self.floor += 1;
        let version = Version::new(self.floor).expect("there are not so many writes");
        self.history.push(Versioned { version, value });
        self.has_register = true;
        version
    }

    fn exchange(&mut self, expected: Option<Version>, write: &Write) -> Exchange {
        let seen = self.load();
        if seen.as_ref().map(|seen| seen.version) != expected {
            return Exchange::Mismatch(seen);
        }
        if let Some(seen) = seen {
            let is_readable = Register::decode(&seen.value).is_ok();
            assert!(is_readable, "what is not understood is not written over");
        }
        let register = Register::decode(&write.value).expect("a node writes what can be read");
        assert_eq!(register.is_idle(), write.idle);
        Exchange::Swapped(self.put(write.value.clone()))
    }

    fn tell(&mut self, who: usize, event: Event) {
        self.players[who].machine.handle(event, self.now);
        for count in 0.. {
            assert!(count < 16, "it asks for ever more");
            let Some(action) = self.players[who].machine.next_action() else { break };
            self.perform(who, action);
        }
        let player = &self.players[who];
        if let Some(deadline) = player.held {
            assert!(self.now < deadline, "it is not told that its lease is over");
            let wake_at = player.machine.wake_at();
            assert!(wake_at.is_some_and(|at| at <= deadline), "it sleeps past its deadline");
        }
        if player.machine.is_idle() {
            assert!(player.held.is_none() && !player.is_releasing && !player.intents);
            assert!(player.request.is_none());
        }
    }

    fn perform(&mut self, who: usize, action: Action) {
        let player = &mut self.players[who];
        match action {
            Action::Load { request } => assert!(player.request.replace((request, None)).is_none()),
            Action::CompareExchange { request, expected, write } => {
                let asked = player.request.replace((request, Some((expected, write))));
                assert!(asked.is_none(), "one request at a time");
            }
            Action::Watch => player.is_watching = true,
            Action::Unwatch => player.is_watching = false,
            Action::Granted(grant) => self.granted(who, grant),
            Action::Renewed { deadline, .. } => {
                assert!(player.held.replace(deadline).is_some(), "it renews what it holds");
                self.check_exclusion();
            }
            Action::Lost(_) => assert!(player.held.take().is_some() || player.is_releasing),
            Action::Released(outcome) => {
                assert!(std::mem::take(&mut player.is_releasing), "{outcome:?} of nothing");
                let _: Outcome = outcome;
            }
            Action::Failed(_) => {
                assert!(std::mem::take(&mut player.intents), "what is not wished cannot fail");
            }
        }
    }

    fn granted(&mut self, who: usize, Grant { version, deadline, .. }: Grant) {
        let player = &mut self.players[who];
        assert!(std::mem::take(&mut player.intents), "it is granted what it wants");
        assert!(player.held.replace(deadline).is_none(), "it is granted what it has not");
        let token = FencingToken::of(version, 0);
        if !self.is_tampered {
            assert!(token > self.newest, "tokens grow");
        }
        self.newest = self.newest.max(token);
        self.check_exclusion();
    }

    fn check_exclusion(&self) {
        let is_valid = |player: &Player| player.held.is_some_and(|deadline| self.now < deadline);
        assert!(self.is_tampered || !self.players.iter().all(is_valid), "both hold the lock");
    }
}
