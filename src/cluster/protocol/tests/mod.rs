//! Tests of single steps of one or two machines. The simulator tests many machines together.

use super::break_note::BreakNote;
use super::register::{Register, Unreadable};
use super::watch::WatchState;
use super::{
    Action, ClockError, Event, Failure, Grant, GrantedVia, IdSource, Intent, Loss, Machine,
    MachineSettings, Outcome, force_release,
};
use crate::cluster::protocol::Time;
use crate::cluster::transport::{
    Exchange, NodeId, TransportError, Version, Versioned, Wake, Wakeups, Write,
};
use std::time::Duration;

mod copies;
mod handoff;
mod hints;
mod kept_places;
mod publications;
mod send_queue;
mod went_back;

const LEASE: Duration = Duration::from_secs(10);
const CLAIM: Duration = Duration::from_millis(500);
const CLOCK: ClockError = ClockError { rate: 10, reading: Duration::ZERO };

fn at(ms: u64) -> Time {
    Time::new(Duration::from_millis(1_000_000 + ms))
}

fn machine(node: u64) -> Machine {
    Machine::new(settings(node))
}

fn settings(node: u64) -> MachineSettings {
    MachineSettings {
        node: NodeId::new(node),
        label: format!("n{node}"),
        lease: LEASE,
        claim_window: CLAIM,
        handoff_lease: CLAIM,
        keep_place: Duration::ZERO,
        holds_at_once: true,
        poll: Duration::from_millis(100),
        queue_limit: 3,
        unavailable_timeout: 3 * LEASE,
        wakeups: Wakeups::PushToAll,
        seed: node,
        ids: IdSource::seeded(node),
        clock_error: CLOCK,
        is_lossy: false,
        wall_clock: None,
    }
}

/// An engine with one key that performs each request at once.
#[derive(Default)]
struct TestEngine {
    now: Option<Versioned>,
    last: u64,
    writes: Vec<Write>,
}

impl TestEngine {
    fn exchange(&mut self, expected: Option<Version>, write: Write) -> Exchange {
        if self.now.as_ref().map(|now| now.version) != expected {
            return Exchange::Mismatch(self.now.clone());
        }
        self.last += 1;
        let version = Version::new(self.last).unwrap();
        self.now = Some(Versioned { version, value: write.value.clone() });
        self.writes.push(write);
        Exchange::Swapped(version)
    }

    fn register(&self) -> Register {
        self.now.as_ref().map_or_else(Register::empty, |now| Register::decode(&now.value).unwrap())
    }

    /// Performs the machine's requests until there are none, and returns its other actions.
    fn run(&mut self, machine: &mut Machine, now: Time) -> Vec<Action> {
        self.run_by(machine, now, |engine, expected, write| Ok(engine.exchange(expected, write)))
    }

    /// The same, with the responses that `respond` makes to writes.
    fn run_by(
        &mut self,
        machine: &mut Machine,
        now: Time,
        mut respond: impl FnMut(&mut Self, Option<Version>, Write) -> Result<Exchange, TransportError>,
    ) -> Vec<Action> {
        let mut told = vec![];
        while let Some(action) = machine.next_action() {
            match action {
                Action::Load { request } => {
                    let result = Ok(self.now.clone());
                    machine.handle(Event::Loaded { request, result }, now);
                }
                Action::CompareExchange { request, expected, write } => {
                    let result = respond(self, expected, write);
                    machine.handle(Event::Exchanged { request, result }, now);
                }
                Action::Watch => machine.handle(Event::Watching(Ok(())), now),
                Action::Unwatch => {}
                other => told.push(other),
            }
        }
        told
    }

    fn tell(&mut self, machine: &mut Machine, event: Event, now: Time) -> Vec<Action> {
        machine.handle(event, now);
        self.run(machine, now)
    }
}

/// The write that is the machine's next action.
fn requested_write(machine: &mut Machine) -> (u64, Option<Version>, Write) {
    let action = machine.next_action();
    let Some(Action::CompareExchange { request, expected, write }) = action else {
        panic!("a write, not {action:?}")
    };
    (request, expected, write)
}

/// The request that is the machine's next action, if that is a load.
fn requested_load(machine: &mut Machine) -> Option<u64> {
    match machine.next_action() {
        Some(Action::Load { request }) => Some(request),
        None => None,
        other => panic!("a load, not {other:?}"),
    }
}

fn granted(told: &[Action]) -> Grant {
    let [Action::Granted(grant)] = told else { panic!("a grant, not {told:?}") };
    *grant
}

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn indeterminate() -> TransportError {
    TransportError::indeterminate("no response")
}

#[test]
fn a_free_lock_takes_one_write_and_its_release_another() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    let grant = granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    let deadline = at(0) + (LEASE - CLOCK.allowance(LEASE));
    let (version, via, is_short) = (Version::new(1).unwrap(), GrantedVia::Free, false);
    assert_eq!(grant, Grant { version, deadline, is_short, via });
    let told = engine.tell(&mut one, Event::Release, at(5));
    assert!(matches!(told[..], [Action::Released(Outcome::Held)]), "{told:?}");
    assert_eq!(engine.writes.len(), 2);
    assert!(engine.writes[1].idle && engine.writes[1].wake == Wake::Nobody);
    assert!(one.is_idle());
    // The second time the version is known, so it takes one write each again.
    granted(&engine.tell(&mut one, Event::Intent(Intent::Try), at(9)));
    engine.tell(&mut one, Event::Release, at(9));
    assert_eq!(engine.writes.len(), 4);
}

#[test]
fn the_deadline_counts_from_before_the_request_and_is_checked_before_the_response() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    one.handle(Event::Intent(Intent::Wait), at(0));
    let (request, expected, write) = requested_write(&mut one);
    let result = Ok(engine.exchange(expected, write));
    one.handle(Event::Exchanged { request, result }, at(3000));
    let grant = granted(&engine.run(&mut one, at(3000)));
    assert_eq!(grant.deadline, at(0) + (LEASE - CLOCK.allowance(LEASE)));
    // A renewal whose response comes too late does not revive the lease.
    one.handle(Event::Timer, at(5000));
    let (request, expected, write) = requested_write(&mut one);
    let result = Ok(engine.exchange(expected, write));
    one.handle(Event::Exchanged { request, result }, at(9950));
    let told = engine.run(&mut one, at(9950));
    assert!(matches!(told[..], [Action::Lost(Loss::Expired { .. })]), "{told:?}");
    assert!(engine.register().is_idle(), "the entry of the lost lease is removed");
}

#[test]
fn a_grant_that_came_late_is_renewed_only_after_its_user_is_known() {
    for renews in [true, false] {
        let (mut engine, mut one) = (TestEngine::default(), machine(1));
        one.handle(Event::Intent(Intent::Wait), at(0));
        let (request, expected, write) = requested_write(&mut one);
        let result = Ok(engine.exchange(expected, write));
        one.handle(Event::Exchanged { request, result }, at(9_000));
        granted(&engine.run(&mut one, at(9_000)));
        assert_eq!((engine.writes.len(), one.wake_at()), (1, Some(at(9_000))));
        one.handle(Event::Renewing(renews), at(9_000));
        engine.run(&mut one, at(9_000));
        engine.tell(&mut one, Event::Timer, at(9_000));
        assert_eq!(engine.writes.len(), 1 + usize::from(renews));
    }
}

#[test]
fn a_dead_holder_is_passed_over_after_its_lease_and_not_before() {
    let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    engine.tell(&mut two, Event::Intent(Intent::Wait), at(100));
    let due = at(100) + LEASE + CLOCK.allowance(LEASE);
    let early = due - Duration::from_nanos(1);
    assert!(engine.tell(&mut two, Event::Timer, early).is_empty());
    let grant = granted(&engine.tell(&mut two, Event::Timer, due));
    assert_eq!(grant.via, GrantedVia::Takeover);
    let told = engine.tell(&mut one, Event::Noticed(engine.now.clone()), at(200));
    assert!(matches!(told[..], [Action::Lost(Loss::TakenOver)]), "{told:?}");
}

#[test]
fn an_acquisition_of_unknown_outcome_is_resolved_by_a_second_write() {
    for arrives in [false, true] {
        let (mut engine, mut one) = (TestEngine::default(), machine(1));
        one.handle(Event::Intent(Intent::Wait), at(0));
        let (request, expected, write) = requested_write(&mut one);
        if arrives {
            engine.exchange(expected, write);
        }
        one.handle(Event::Exchanged { request, result: Err(indeterminate()) }, at(100));
        assert!(!one.is_idle());
        let again = one.wake_at().unwrap();
        let grant = granted(&engine.tell(&mut one, Event::Timer, again));
        // The version and the deadline are those of the second write.
        assert_eq!(grant.version.get(), if arrives { 2 } else { 1 });
        assert_eq!(grant.deadline, again + (LEASE - CLOCK.allowance(LEASE)));
    }
}

#[test]
fn a_cancelled_acquisition_of_unknown_outcome_is_undone() {
    for arrives in [false, true] {
        let (mut engine, mut one) = (TestEngine::default(), machine(1));
        one.handle(Event::Intent(Intent::Try), at(0));
        let (request, expected, write) = requested_write(&mut one);
        one.handle(Event::Exchanged { request, result: Err(indeterminate()) }, at(100));
        let failed = one.next_action();
        assert!(matches!(failed, Some(Action::Failed(Failure::Transport(_)))), "{failed:?}");
        if arrives {
            engine.exchange(expected, write.clone());
        }
        let again = one.wake_at().expect("a retry is due");
        assert!(engine.tell(&mut one, Event::Timer, again).is_empty());
        assert!(one.is_idle() && engine.register().is_idle());
        // The late write finds another version.
        assert!(matches!(engine.exchange(expected, write), Exchange::Mismatch(_)));
    }
}

/// A register that became idle long before may be dropped at any moment.
#[test]
fn a_late_write_that_expects_no_register_finds_none_again_only_after_a_new_retention() {
    // The one that is idle, by another node; and the one that is in use, and shown by a late notice.
    for is_idle in [true, false] {
        let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
        engine.tell(&mut two, Event::Intent(Intent::Wait), at(0));
        if is_idle {
            engine.tell(&mut two, Event::Release, at(1));
        }
        one.handle(Event::Intent(Intent::Try), at(2));
        let (request, expected, late) = requested_write(&mut one);
        assert_eq!(expected, None);
        one.handle(Event::Exchanged { request, result: Err(indeterminate()) }, at(100));
        one.next_action().expect("the attempt has failed");
        let again = one.wake_at().expect("a retry is due");
        engine.tell(&mut one, Event::Noticed(engine.now.clone()), at(101));
        let before = engine.last;
        engine.tell(&mut one, Event::Timer, again);
        assert!(one.is_idle());
        // The node has written, after it has sent the late one.
        assert_eq!(engine.last, before + 1);
        assert_eq!(engine.register().is_idle(), is_idle);
        assert!(matches!(engine.exchange(expected, late), Exchange::Mismatch(_)));
    }
}

/// The operator has broken the handoff to a node that had not noticed it. Its next lock is not the one that was broken.
#[test]
fn a_claim_that_was_broken_before_it_was_used_is_not_used_again() {
    let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    engine.tell(&mut two, Event::Intent(Intent::Wait), at(1));
    let claim = two.claim_in_queue().expect("it waits");
    engine.tell(&mut one, Event::Release, at(2));
    let mut register = engine.register();
    let note = BreakNote {
        nonce: Some(claim.nonce),
        node: claim.node,
        of: "n2".to_owned(),
        by: "op".to_owned(),
        reason: String::new(),
        at_ms: None,
    };
    note.leave(&mut register);
    let write = force_release(&register).expect("it has a holder");
    engine.exchange(engine.now.as_ref().map(|now| now.version), write);
    engine.tell(&mut two, Event::Noticed(engine.now.clone()), at(3));
    let told = engine.tell(&mut two, Event::Timer, at(4));
    assert!(engine.register().holder.is_some_and(|holder| holder.claim != claim), "{told:?}");
}

/// A second write of unknown outcome expects the idle register that the first has met.
#[test]
fn a_write_that_expects_no_register_is_remembered_beside_a_later_one() {
    let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
    engine.tell(&mut two, Event::Intent(Intent::Wait), at(0));
    engine.tell(&mut two, Event::Release, at(1));
    one.handle(Event::Intent(Intent::Wait), at(2));
    let (request, none, late) = requested_write(&mut one);
    one.handle(Event::Exchanged { request, result: Err(indeterminate()) }, at(100));
    one.handle(Event::Timer, one.wake_at().expect("a retry is due"));
    let (request, ..) = requested_write(&mut one);
    let result = Ok(Exchange::Mismatch(engine.now.clone()));
    one.handle(Event::Exchanged { request, result }, at(200));
    // This one is lost, and then the register is dropped.
    let (request, expected, _) = requested_write(&mut one);
    assert!(none.is_none() && expected.is_some());
    one.handle(Event::Exchanged { request, result: Err(indeterminate()) }, at(300));
    engine.now = None;
    one.handle(Event::Timer, one.wake_at().expect("a retry is due"));
    let (request, ..) = requested_write(&mut one);
    one.handle(Event::Exchanged { request, result: Ok(Exchange::Mismatch(None)) }, at(400));
    let (request, ..) = requested_write(&mut one);
    // Now the first one arrives. It is this node's own, by a heartbeat that it remembers.
    assert!(matches!(engine.exchange(none, late), Exchange::Swapped(_)));
    one.handle(Event::Intent(Intent::Nothing), at(401));
    let result = Ok(Exchange::Mismatch(engine.now.clone()));
    one.handle(Event::Exchanged { request, result }, at(402));
    engine.run(&mut one, at(403));
    assert!(one.is_idle() && engine.register().is_idle());
}

#[test]
fn a_notice_may_show_a_release_before_its_response() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    one.handle(Event::Release, at(1));
    let (request, expected, write) = requested_write(&mut one);
    let result = Ok(engine.exchange(expected, write));
    one.handle(Event::Noticed(engine.now.clone()), at(2));
    assert!(one.next_action().is_none());
    one.handle(Event::Exchanged { request, result }, at(3));
    let told = one.next_action();
    assert!(matches!(told, Some(Action::Released(Outcome::Held))), "{told:?}");
}

#[test]
fn a_release_that_finds_another_holder_reports_the_loss_and_changes_nothing() {
    let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    let write = force_release(&engine.register()).unwrap();
    engine.exchange(engine.now.as_ref().map(|now| now.version), write);
    granted(&engine.tell(&mut two, Event::Intent(Intent::Try), at(2)));
    let told = engine.tell(&mut one, Event::Release, at(3));
    assert!(
        matches!(told[..], [Action::Released(Outcome::Lost(Some(Loss::TakenOver)))]),
        "{told:?}"
    );
    assert_eq!(engine.register().holder.unwrap().label, "n2");
}

#[test]
fn a_release_that_finds_the_lock_lost_says_why() {
    for what in ["restored", "garbage", "copied"] {
        let (mut engine, mut one) = (TestEngine::default(), machine(1));
        engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
        engine.tell(&mut one, Event::Release, at(1));
        let before = engine.now.clone();
        engine.tell(&mut one, Event::Intent(Intent::Wait), at(2));
        match what {
            "restored" => engine.now = before,
            "garbage" => {
                let write =
                    Write { value: b"{".as_slice().into(), wake: Wake::Nobody, idle: false };
                engine.exchange(engine.now.as_ref().map(|now| now.version), write);
            }
            _ => drop(engine.tell(&mut one.clone(), Event::Refresh, at(3))),
        }
        let told = engine.tell(&mut one, Event::Release, at(4));
        let Some(Action::Released(Outcome::Lost(Some(why)))) = told.last() else {
            panic!("{what}: {told:?}")
        };
        let is_right = match why {
            Loss::WentBack => what == "restored",
            Loss::Unreadable(_) => what == "garbage",
            Loss::Copied => what == "copied",
            _ => false,
        };
        assert!(is_right, "{what}: {why:?}");
    }
}

#[test]
fn a_node_that_wants_the_lock_again_joins_the_queue_by_the_write_that_releases_it() {
    let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    engine.tell(&mut two, Event::Intent(Intent::Wait), at(1));
    assert!(engine.tell(&mut one, Event::Intent(Intent::Wait), at(2)).is_empty());
    engine.tell(&mut one, Event::Release, at(2));
    let Register { holder, queue, .. } = engine.register();
    let labels =
        [holder.map(|holder| holder.label), queue.first().map(|first| first.label.clone())];
    assert_eq!((labels, engine.writes.len()), ([Some("n2".into()), Some("n1".into())], 3));
}

#[test]
fn a_failed_try_reports_the_holder_and_leaves_no_entry() {
    let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    let told = engine.tell(&mut two, Event::Intent(Intent::Try), at(1));
    let [Action::Failed(Failure::Busy { holder: Some(holder) })] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((&holder[..], engine.writes.len()), ("n1", 1));
    assert!(two.is_idle());
}

/// What a response shows was true before the call, if its request was sent before.
#[test]
fn a_try_is_not_refused_by_the_response_to_an_earlier_request() {
    for intent in [Intent::Try, Intent::Outlast] {
        let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
        granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
        two.handle(Event::Intent(intent), at(1));
        let (request, expected, write) = requested_write(&mut two);
        let result = Ok(engine.exchange(expected, write));
        two.handle(Event::Intent(Intent::Nothing), at(2));
        // The lock is released, and then the next caller tries.
        engine.tell(&mut one, Event::Release, at(3));
        two.handle(Event::Intent(intent), at(4));
        let told = engine.tell(&mut two, Event::Exchanged { request, result }, at(5));
        granted(&told);
    }
}

#[test]
fn a_value_that_is_not_understood_is_refused_and_not_overwritten() {
    let old = br#"{"lockword":"1.0","beat":1,"queue":[]}"#;
    let format = Unreadable::Format { major: 1, minor: 0 };
    for (value, expected) in [(&b"mine"[..], Unreadable::Foreign), (old, format)] {
        let (mut engine, mut one) = (TestEngine::default(), machine(1));
        let write = Write { value: value.into(), wake: Wake::Nobody, idle: false };
        engine.exchange(None, write);
        for intent in [Intent::Try, Intent::Wait] {
            let told = engine.tell(&mut one, Event::Intent(intent), at(0));
            let [Action::Failed(Failure::Unreadable(why))] = &told[..] else { panic!("{told:?}") };
            assert_eq!(*why, expected);
        }
        assert_eq!((engine.writes.len(), one.is_idle()), (1, true));
    }
}

#[test]
fn the_queue_is_bounded_and_a_node_that_finds_it_full_joins_later() {
    let mut engine = TestEngine::default();
    let mut nodes: Vec<_> = (1..=5).map(machine).collect();
    for (ms, node) in nodes.iter_mut().enumerate() {
        engine.tell(node, Event::Intent(Intent::Wait), at(ms as u64));
    }
    assert_eq!(engine.register().queue.len(), 3);
    engine.tell(&mut nodes[1], Event::Intent(Intent::Nothing), at(10));
    assert_eq!(engine.register().queue.len(), 2, "a node that gives up leaves the queue");
    assert!(nodes[1].is_idle());
    // The watch shows nothing in this test. The node looks at what it has seen some times, and loads the register
    // after a third of its lease.
    let mut now = at(10);
    while engine.register().queue.len() < 3 {
        now = nodes[4].wake_at().unwrap();
        engine.tell(&mut nodes[4], Event::Timer, now);
    }
    assert!(now.since(at(10)) <= LEASE, "{now:?}");
    let labels: Vec<_> = engine.register().queue.into_iter().map(|waiter| waiter.label).collect();
    assert_eq!(labels, ["n3", "n4", "n5"]);
}

/// How long a request takes where the time does not matter.
const TRIP: Duration = Duration::from_millis(1);

/// Takes the lock and releases it, with requests that take a `trip` each. Returns for how long the
/// machine deferred the release.
fn turn(engine: &mut TestEngine, one: &mut Machine, now: &mut Time, trip: Duration) -> Duration {
    let mut paused = Duration::ZERO;
    one.handle(Event::Intent(Intent::Wait), *now);
    let mut action = one.next_action();
    while let Some(next) = action {
        match next {
            Action::CompareExchange { request, expected, write } => {
                *now = *now + trip;
                let result = Ok(engine.exchange(expected, write));
                one.handle(Event::Exchanged { request, result }, *now);
            }
            Action::Granted(_) => {
                one.handle(Event::Release, *now);
                action = one.next_action();
                if action.is_none() {
                    let until = one.wake_at().expect("a deferred release has a time");
                    paused = until.since(*now);
                    *now = until;
                    one.handle(Event::Timer, *now);
                    action = one.next_action();
                }
                continue;
            }
            Action::Released(outcome) => assert_eq!(outcome, Outcome::Held),
            other => panic!("{other:?}"),
        }
        action = one.next_action();
    }
    paused
}

#[test]
fn a_node_that_is_alone_leaves_quiet_periods_for_others() {
    let (mut engine, mut one, mut now) = (TestEngine::default(), machine(1), at(0));
    let pauses: Vec<_> = (0..5000).map(|_| turn(&mut engine, &mut one, &mut now, TRIP)).collect();
    let pauses: Vec<_> = pauses.into_iter().filter(|pause| !pause.is_zero()).collect();
    let (first, longest) = (pauses[0], *pauses.iter().max().unwrap());
    assert!(first >= Duration::from_millis(2), "two round trips, not {first:?}");
    assert_eq!(longest, CLAIM / 8);
    let all: Duration = pauses.iter().sum();
    assert!(all < now.since(at(0)) / 50, "{all:?} of {:?}", now.since(at(0)));
    // If the lock is unused now and then, there are quiet periods already.
    for _ in 0..5000 {
        now = now + CLAIM / 8;
        assert_eq!(turn(&mut engine, &mut one, &mut now, TRIP), Duration::ZERO);
    }
}

#[test]
fn a_node_that_has_met_contention_yields_but_not_for_long_after_a_late_response() {
    let late = Duration::from_secs(1);
    for trip in [TRIP, late] {
        let (mut engine, mut one, mut now) = (TestEngine::default(), machine(1), at(0));
        one.note_contention();
        let longest = (0..100).map(|_| turn(&mut engine, &mut one, &mut now, trip)).max().unwrap();
        assert!(trip == late || longest >= 6 * TRIP, "several round trips, not {longest:?}");
        assert!(longest <= CLAIM / 2, "{longest:?} after responses that took {trip:?}");
    }
}

/// The engine stopped for a moment while the lock was released. That must not delay the next load for
/// as long.
#[test]
fn a_late_response_does_not_delay_the_next_load_for_long() {
    for (collisions, seed) in (0..100).flat_map(|seed| [(0, seed), (4, seed)]) {
        let mut engine = TestEngine::default();
        let settings = |node| MachineSettings {
            wakeups: Wakeups::PushToOne,
            seed: seed + node,
            ..settings(node)
        };
        let (mut a, mut b) = (Machine::new(settings(1)), Machine::new(settings(2)));
        granted(&engine.tell(&mut a, Event::Intent(Intent::Wait), at(0)));
        engine.tell(&mut b, Event::Intent(Intent::Wait), at(0));
        a.collisions = collisions;
        let end = at(0) + Duration::from_micros(20);
        a.handle(Event::Release, end);
        // The first node does not know yet that the other waits.
        let (request, expected, write) = requested_write(&mut a);
        let result = Ok(engine.exchange(expected, write));
        a.handle(Event::Exchanged { request, result }, end);
        let (request, expected, write) = requested_write(&mut a);
        let result = Ok(engine.exchange(expected, write));
        a.handle(Event::Exchanged { request, result }, at(2000));
        while a.next_action().is_some() {}
        // The other node takes the lock and releases it, so it is free.
        granted(&engine.tell(&mut b, Event::Noticed(engine.now.clone()), at(2000)));
        engine.tell(&mut b, Event::Release, at(2001));
        assert!(engine.register().is_idle());
        a.handle(Event::Intent(Intent::Wait), at(2001));
        let loads = a.next_action().is_some() || a.wake_at() <= Some(at(2002));
        assert!(loads, "seed {seed}, {collisions} collisions: not before {:?}", a.wake_at());
    }
}

#[test]
fn a_failed_load_is_repeated() {
    for wakeups in [Wakeups::PushToOne, Wakeups::PushToAll] {
        let mut engine = TestEngine::default();
        let settings = |node| MachineSettings { wakeups, ..settings(node) };
        let (mut holder, mut waiter) = (Machine::new(settings(1)), Machine::new(settings(2)));
        granted(&engine.tell(&mut holder, Event::Intent(Intent::Wait), at(0)));
        engine.tell(&mut waiter, Event::Intent(Intent::Wait), at(0));
        engine.tell(&mut holder, Event::Noticed(engine.now.clone()), at(1));
        engine.tell(&mut holder, Event::Release, at(1));
        assert!(engine.register().holder.is_some_and(|holder| holder.is_handed));
        // The notice says that the register has changed, and not how.
        waiter.handle(Event::Noticed(None), at(2));
        let Some(Action::Load { request }) = waiter.next_action() else { panic!("it loads") };
        let result = Err(TransportError::unavailable("once"));
        waiter.handle(Event::Loaded { request, result }, at(3));
        let mut now = at(3);
        while waiter.next_action().is_none() {
            now = waiter.wake_at().expect("a retry is due");
            waiter.handle(Event::Timer, now);
        }
        assert!(now < at(3) + CLAIM / 4, "{wakeups:?}: not before {now:?}");
    }
}

/// How long after it has seen a change a node that is first in the queue loads the register again.
fn poll_interval(settings: MachineSettings, watch: WatchState) -> Duration {
    let mut one = Machine::new(settings);
    one.watch = watch;
    let value = Register::empty().encode().into();
    let seen = Versioned { version: Version::new(1).unwrap(), value };
    one.view.responded(Some(seen), None, None, at(0));
    one.poll_register(0, at(0));
    one.wake_at().expect("it polls").since(at(0))
}

#[test]
fn without_wake_ups_a_change_shortens_the_poll_interval_to_no_less_than_a_millisecond() {
    let micros = Duration::from_micros;
    for (poll, claim_window, expected) in [
        (micros(100_000), CLAIM, micros(10_000)),
        (micros(5_000), CLAIM, micros(1_000)),
        // Never longer than the setting and half of the claim window.
        (micros(900), CLAIM, micros(900)),
        (micros(5_000), micros(1_000), micros(500)),
    ] {
        let settings =
            MachineSettings { poll, claim_window, wakeups: Wakeups::Poll, ..settings(1) };
        assert_eq!(poll_interval(settings, WatchState::Off), expected, "{poll:?}");
    }
}

#[test]
fn without_its_watch_a_node_polls_at_a_fixed_interval() {
    let failed = WatchState::Failed { retry_at: at(500) };
    for watch in [failed, WatchState::Off, WatchState::Starting] {
        for wakeups in [Wakeups::PushToOne, Wakeups::PushToAll] {
            let settings = MachineSettings { wakeups, ..settings(1) };
            let poll = settings.poll;
            assert_eq!(poll_interval(settings, watch), poll, "{wakeups:?}, {watch:?}");
        }
    }
}

#[test]
fn a_waiter_behind_another_takes_over_a_claim_window_later() {
    let mut engine = TestEngine::default();
    let [mut dead, mut first, mut second] = [1, 2, 3].map(machine);
    granted(&engine.tell(&mut dead, Event::Intent(Intent::Wait), at(0)));
    for waiter in [&mut first, &mut second] {
        engine.tell(waiter, Event::Intent(Intent::Wait), at(0));
    }
    let due = at(0) + LEASE + CLOCK.allowance(LEASE);
    for early in [due, due + CLAIM - Duration::from_nanos(1)] {
        assert!(engine.tell(&mut second, Event::Timer, early).is_empty());
    }
    let grant = granted(&engine.tell(&mut second, Event::Timer, due + CLAIM));
    assert_eq!(grant.via, GrantedVia::Takeover);
}
