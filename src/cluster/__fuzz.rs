//! Access to internals for the fuzz targets. It is not part of the API and exists only under
//! `--cfg fuzzing`.

use super::fence::FencingToken;
use super::protocol::register::Register;
use super::protocol::{
    Action, ClockError, Event, Grant, IdSource, Intent, Machine, MachineSettings, Outcome, Time,
};
use super::transport::{Exchange, NodeId, TransportError, Version, Versioned, Wakeups, Write};
use std::time::Duration;

/// Decodes a value. If that succeeds, encodes the register and decodes it again.
///
/// # Panics
///
/// If the second register differs from the first.
pub fn register(value: &[u8]) {
    match Register::decode(value) {
        Ok(register) => {
            let written = register.encode();
            let again = Register::decode(&written).expect("an encoded register decodes");
            assert_eq!(again, register);
            assert_eq!(again.encode(), written);
        }
        Err(why) => assert!(!why.to_string().is_empty()),
    }
}

/// The fate of the request that a node has in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFate {
    /// The request takes effect and its response arrives.
    Succeeds,
    /// The request takes effect and its response is lost.
    ResponseLost,
    /// The request has no effect, and the response says so.
    Refused,
    /// The outcome is unknown. The request arrives later or never.
    Late,
    /// The engine refuses the client for good.
    Denied,
}

/// A request of the machine: its number, and for a write the expected version and the write.
type PendingRequest = (u64, Option<(Option<Version>, Write)>);

struct FuzzNode {
    machine: Machine,
    request: Option<PendingRequest>,
    is_watching: bool,
    /// The deadline of the lease, while the node holds the lock.
    held: Option<Time>,
    is_releasing: bool,
    has_intent: bool,
}

/// Two nodes and an engine with one key, all on one clock that the fuzzer controls.
pub struct TwoNodes {
    now: Time,
    nodes: [FuzzNode; 2],
    history: Vec<Versioned>,
    has_register: bool,
    floor: u64,
    late: Vec<(Option<Version>, Write)>,
    newest: Option<FencingToken>,
    /// A foreign write has changed the key, so exclusion is not guaranteed any more.
    is_tampered: bool,
}

impl TwoNodes {
    /// Two nodes without an intent, and no register. `variant` selects the settings.
    #[must_use]
    pub fn new(seed: u64, variant: u8) -> Self {
        let wakeups = [Wakeups::PushToOne, Wakeups::PushToAll, Wakeups::Poll];
        let node = |number: u64| FuzzNode {
            machine: Machine::new(MachineSettings {
                node: NodeId::new(number),
                label: format!("n{number}"),
                lease: Duration::from_secs(3),
                claim_window: Duration::from_millis(300),
                handoff_lease: Duration::from_millis(300),
                keep_place: Duration::from_millis(20),
                holds_at_once: true,
                poll: Duration::from_millis(100),
                queue_limit: usize::from(variant / 3 % 3),
                unavailable_timeout: Duration::from_secs(5),
                wakeups: wakeups[usize::from(variant) % 3],
                seed: seed ^ number,
                ids: IdSource::seeded(seed ^ number),
                clock_error: ClockError { rate: 10, reading: Duration::ZERO },
                is_lossy: false,
                wall_clock: None,
            }),
            request: None,
            is_watching: false,
            held: None,
            is_releasing: false,
            has_intent: false,
        };
        Self {
            now: Time::new(Duration::from_secs(1000)),
            nodes: [node(1), node(2)],
            history: vec![],
            has_register: false,
            floor: 0,
            late: vec![],
            newest: None,
            is_tampered: false,
        }
    }

    /// Advances the clock. A node whose timer is due gets its event if `wakes` says so.
    pub fn pass(&mut self, time: Duration, wakes: [bool; 2]) {
        self.now = self.now + time;
        for index in [0, 1] {
            let is_due = self.nodes[index].machine.wake_at().is_some_and(|at| at <= self.now);
            if wakes[index] && is_due {
                self.tell(index, Event::Timer);
            }
        }
    }

    /// Sets the intent of node `index`. 0: nothing; 1: try; otherwise: wait.
    pub fn intent(&mut self, index: usize, intent: u8) {
        let intent = [Intent::Nothing, Intent::Try, Intent::Wait][usize::from(intent.min(2))];
        self.nodes[index].has_intent = intent != Intent::Nothing;
        self.tell(index, Event::Intent(intent));
    }

    /// Releases the lock at node `index`, if that node holds it.
    pub fn release(&mut self, index: usize) {
        if self.nodes[index].held.take().is_some() {
            self.nodes[index].is_releasing = true;
            self.tell(index, Event::Release);
        }
    }

    /// Asks node `index` to renew now.
    pub fn refresh(&mut self, index: usize) {
        self.tell(index, Event::Refresh);
    }

    /// Ends the request that node `index` has in flight.
    pub fn end_request(&mut self, index: usize, fate: RequestFate) {
        let Some((request, write)) = self.nodes[index].request.take() else { return };
        let Some((expected, write)) = write else {
            let result = match fate {
                RequestFate::Succeeds | RequestFate::ResponseLost => Ok(self.load()),
                RequestFate::Refused | RequestFate::Late => {
                    Err(TransportError::unavailable("fuzz"))
                }
                RequestFate::Denied => Err(TransportError::denied("fuzz")),
            };
            return self.tell(index, Event::Loaded { request, result });
        };
        let indeterminate = || Err(TransportError::indeterminate("fuzz"));
        let result = match fate {
            RequestFate::Succeeds => Ok(self.exchange(expected, &write)),
            RequestFate::ResponseLost => {
                self.exchange(expected, &write);
                indeterminate()
            }
            RequestFate::Late => {
                self.late.push((expected, write));
                indeterminate()
            }
            RequestFate::Refused => Err(TransportError::unavailable("fuzz")),
            RequestFate::Denied => Err(TransportError::denied("fuzz")),
        };
        self.tell(index, Event::Exchanged { request, result });
    }

    /// Lets one of the late writes arrive.
    pub fn arrive(&mut self, which: u8) {
        if !self.late.is_empty() {
            let (expected, write) = self.late.swap_remove(usize::from(which) % self.late.len());
            self.exchange(expected, &write);
        }
    }

    /// Sends a notice to node `index`, with the value that was written `ago` writes before the last.
    /// `None`: the notice has no value.
    pub fn notice(&mut self, index: usize, ago: Option<u8>) {
        if self.nodes[index].is_watching {
            let seen = ago.and_then(|ago| self.history.iter().rev().nth(usize::from(ago)).cloned());
            self.tell(index, Event::Noticed(seen));
        }
    }

    /// Responds to the subscription of node `index`.
    pub fn watching(&mut self, index: usize, works: bool) {
        if self.nodes[index].is_watching {
            self.nodes[index].is_watching = works;
            let result = if works { Ok(()) } else { Err(TransportError::unavailable("fuzz")) };
            self.tell(index, Event::Watching(result));
        }
    }

    /// Ends the watch of node `index`.
    pub fn watch_ended(&mut self, index: usize) {
        if std::mem::take(&mut self.nodes[index].is_watching) {
            self.tell(index, Event::WatchEnded);
        }
    }

    /// Writes these bytes to the key, as a foreign program does.
    pub fn tamper(&mut self, value: &[u8]) {
        self.is_tampered = true;
        self.put(value.into());
    }

    fn load(&self) -> Option<Versioned> {
        self.history.last().filter(|_| self.has_register).cloned()
    }

    fn put(&mut self, value: std::sync::Arc<[u8]>) -> Version {
        self.floor += 1;
        let version = Version::new(self.floor).expect("fewer writes than versions");
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
            assert!(is_readable, "an unreadable value is not overwritten");
        }
        let register = Register::decode(&write.value).expect("a node writes a readable register");
        assert_eq!(register.is_idle(), write.idle);
        Exchange::Swapped(self.put(write.value.clone()))
    }

    fn tell(&mut self, index: usize, event: Event) {
        self.nodes[index].machine.handle(event, self.now);
        for count in 0.. {
            assert!(count < 16, "the actions have no end");
            let Some(action) = self.nodes[index].machine.next_action() else { break };
            self.perform(index, action);
        }
        let node = &self.nodes[index];
        if let Some(deadline) = node.held {
            assert!(self.now < deadline, "the loss is not reported at the deadline");
            let wake_at = node.machine.wake_at();
            assert!(
                wake_at.is_some_and(|at| at <= deadline),
                "the timer is set after the deadline"
            );
        }
        if node.machine.is_idle() {
            assert!(node.held.is_none() && !node.is_releasing && !node.has_intent);
            assert!(node.request.is_none());
        }
    }

    fn perform(&mut self, index: usize, action: Action) {
        let node = &mut self.nodes[index];
        match action {
            Action::Load { request } => assert!(node.request.replace((request, None)).is_none()),
            Action::CompareExchange { request, expected, write } => {
                let asked = node.request.replace((request, Some((expected, write))));
                assert!(asked.is_none(), "one request at a time");
            }
            Action::Watch => node.is_watching = true,
            Action::Unwatch => node.is_watching = false,
            Action::Granted(grant) => self.granted(index, grant),
            Action::Renewed { deadline, .. } => {
                assert!(node.held.replace(deadline).is_some(), "only a held lock is renewed");
                self.check_exclusion();
            }
            Action::WentBack(why) => panic!("{why:?}"),
            Action::Lost(_) => assert!(node.held.take().is_some() || node.is_releasing),
            Action::Released(outcome) => {
                assert!(std::mem::take(&mut node.is_releasing), "{outcome:?} without a release");
                let _: Outcome = outcome;
            }
            Action::Failed(_) => {
                assert!(std::mem::take(&mut node.has_intent), "only an intent can fail");
            }
        }
    }

    fn granted(&mut self, index: usize, Grant { version, deadline, .. }: Grant) {
        let node = &mut self.nodes[index];
        assert!(std::mem::take(&mut node.has_intent), "only an intent is granted");
        assert!(node.held.replace(deadline).is_none(), "the lock is granted twice");
        let token = FencingToken::of(version, 0);
        if !self.is_tampered {
            assert!(token > self.newest, "tokens grow");
        }
        self.newest = self.newest.max(token);
        self.check_exclusion();
    }

    fn check_exclusion(&self) {
        let is_valid = |node: &FuzzNode| node.held.is_some_and(|deadline| self.now < deadline);
        assert!(self.is_tampered || !self.nodes.iter().all(is_valid), "both hold the lock");
    }
}
