//! Single steps of the machine, by hand. What many machines do together is the simulation's business.

use super::{
    Action, Event, Failure, Grant, GrantedVia, Intent, Loss, Machine, MachineSettings, Outcome,
    allowance, force_release,
};
use crate::cluster::protocol::register::{Register, Unreadable};
use crate::cluster::time::Time;
use crate::cluster::transport::{
    Exchange, NodeId, TransportError, Version, Versioned, Wake, Wakeups, Write,
};
use std::time::Duration;

const LEASE: Duration = Duration::from_secs(10);
const CLAIM: Duration = Duration::from_millis(500);

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
        poll: Duration::from_millis(100),
        queue_limit: 3,
        unavailable_timeout: 3 * LEASE,
        wakeups: Wakeups::PushToAll,
        seed: node,
    }
}

/// An engine with one key that does at once what it is told.
#[derive(Default)]
struct Engine {
    now: Option<Versioned>,
    last: u64,
    writes: Vec<Write>,
}

impl Engine {
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

    /// Carries out what the machine asks for until it asks for nothing, and returns what it tells.
    fn run(&mut self, machine: &mut Machine, now: Time) -> Vec<Action> {
        let mut told = vec![];
        while let Some(action) = machine.next_action() {
            match action {
                Action::Load { request } => {
                    let result = Ok(self.now.clone());
                    machine.handle(Event::Loaded { request, result }, now);
                }
                Action::CompareExchange { request, expected, write } => {
                    let result = Ok(self.exchange(expected, write));
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

/// The one write that the machine asks for.
fn asked(machine: &mut Machine) -> (u64, Option<Version>, Write) {
    let action = machine.next_action();
    let Some(Action::CompareExchange { request, expected, write }) = action else {
        panic!("a write, not {action:?}")
    };
    (request, expected, write)
}

fn granted(told: &[Action]) -> Grant {
    let [Action::Granted(grant)] = told else { panic!("a grant, not {told:?}") };
    *grant
}

fn indeterminate() -> TransportError {
    TransportError::indeterminate("no answer")
}

#[test]
fn a_free_lock_takes_one_write_and_gives_it_back_in_one() {
    let (mut engine, mut one) = (Engine::default(), machine(1));
    let grant = granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    let deadline = at(0) + (LEASE - allowance(LEASE));
    assert_eq!(grant, Grant { version: Version::new(1).unwrap(), deadline, via: GrantedVia::Free });
    let told = engine.tell(&mut one, Event::Release, at(5));
    assert!(matches!(told[..], [Action::Released(Outcome::Held)]), "{told:?}");
    assert_eq!(engine.writes.len(), 2);
    assert!(engine.writes[1].idle && engine.writes[1].wake == Wake::Nobody);
    assert!(one.is_idle());
    // The next time the version is known: again one write each.
    granted(&engine.tell(&mut one, Event::Intent(Intent::Try), at(9)));
    engine.tell(&mut one, Event::Release, at(9));
    assert_eq!(engine.writes.len(), 4);
}

#[test]
fn the_deadline_counts_from_before_the_request_and_is_checked_before_the_answer() {
    let (mut engine, mut one) = (Engine::default(), machine(1));
    one.handle(Event::Intent(Intent::Wait), at(0));
    let (request, expected, write) = asked(&mut one);
    let result = Ok(engine.exchange(expected, write));
    one.handle(Event::Exchanged { request, result }, at(3000));
    let grant = granted(&engine.run(&mut one, at(3000)));
    assert_eq!(grant.deadline, at(0) + (LEASE - allowance(LEASE)));
    // A renewal whose answer comes too late revives nothing.
    one.handle(Event::Timer, at(5000));
    let (request, expected, write) = asked(&mut one);
    let result = Ok(engine.exchange(expected, write));
    one.handle(Event::Exchanged { request, result }, at(9950));
    let told = engine.run(&mut one, at(9950));
    assert!(matches!(told[..], [Action::Lost(Loss::Expired { .. })]), "{told:?}");
    assert!(engine.register().is_idle(), "what was lost is cleared away");
}

#[test]
fn the_queue_hands_on_and_the_heir_confirms_by_a_write_of_its_own() {
    let (mut engine, mut one, mut two) = (Engine::default(), machine(1), machine(2));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    assert!(engine.tell(&mut two, Event::Intent(Intent::Wait), at(1)).is_empty());
    assert_eq!(engine.register().queue.len(), 1);
    assert_eq!(engine.register().heartbeat, 1, "who joins does not move the beat");
    engine.tell(&mut one, Event::Release, at(2));
    let released = engine.writes.last().unwrap();
    assert_eq!((released.wake, released.idle), (Wake::Node(NodeId::new(2)), false));
    assert!(engine.register().holder.is_none());
    let noticed = Event::Noticed(engine.now.clone());
    let grant = granted(&engine.tell(&mut two, noticed, at(3)));
    assert_eq!((grant.via, grant.version.get()), (GrantedVia::Handoff, 4));
    assert_eq!(engine.writes.len(), 4, "take; join; release; take");
}

#[test]
fn a_dead_holder_is_passed_over_after_its_lease_and_not_before() {
    let (mut engine, mut one, mut two) = (Engine::default(), machine(1), machine(2));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    engine.tell(&mut two, Event::Intent(Intent::Wait), at(100));
    let due = at(100) + LEASE + allowance(LEASE);
    let early = due - Duration::from_nanos(1);
    assert!(engine.tell(&mut two, Event::Timer, early).is_empty());
    let grant = granted(&engine.tell(&mut two, Event::Timer, due));
    assert_eq!(grant.via, GrantedVia::Takeover);
    let told = engine.tell(&mut one, Event::Noticed(engine.now.clone()), at(200));
    assert!(matches!(told[..], [Action::Lost(Loss::TakenOver)]), "{told:?}");
}

#[test]
fn an_acquire_in_doubt_is_resolved_by_a_write_of_its_own() {
    for arrives in [false, true] {
        let (mut engine, mut one) = (Engine::default(), machine(1));
        one.handle(Event::Intent(Intent::Wait), at(0));
        let (request, expected, write) = asked(&mut one);
        if arrives {
            engine.exchange(expected, write);
        }
        one.handle(Event::Exchanged { request, result: Err(indeterminate()) }, at(100));
        assert!(!one.is_idle());
        let again = one.wake_at().unwrap();
        let grant = granted(&engine.tell(&mut one, Event::Timer, again));
        // Its own write's version, its own write's time.
        assert_eq!(grant.version.get(), if arrives { 2 } else { 1 });
        assert_eq!(grant.deadline, again + (LEASE - allowance(LEASE)));
    }
}

#[test]
fn what_was_given_up_in_doubt_is_undone() {
    for arrives in [false, true] {
        let (mut engine, mut one) = (Engine::default(), machine(1));
        one.handle(Event::Intent(Intent::Try), at(0));
        let (request, expected, write) = asked(&mut one);
        one.handle(Event::Exchanged { request, result: Err(indeterminate()) }, at(100));
        let failed = one.next_action();
        assert!(matches!(failed, Some(Action::Failed(Failure::Transport(_)))), "{failed:?}");
        if arrives {
            engine.exchange(expected, write.clone());
        }
        let again = one.wake_at().expect("it is not left alone");
        assert!(engine.tell(&mut one, Event::Timer, again).is_empty());
        assert!(one.is_idle() && engine.register().is_idle());
        // From now on the request finds another version, whenever it arrives.
        assert!(matches!(engine.exchange(expected, write), Exchange::Mismatch(_)));
    }
}

#[test]
fn the_watch_may_show_a_release_before_its_answer() {
    let (mut engine, mut one) = (Engine::default(), machine(1));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    one.handle(Event::Release, at(1));
    let (request, expected, write) = asked(&mut one);
    let result = Ok(engine.exchange(expected, write));
    one.handle(Event::Noticed(engine.now.clone()), at(2));
    assert!(one.next_action().is_none());
    one.handle(Event::Exchanged { request, result }, at(3));
    let told = one.next_action();
    assert!(matches!(told, Some(Action::Released(Outcome::Held))), "{told:?}");
}

#[test]
fn a_release_that_finds_another_holder_says_so_and_leaves_it_alone() {
    let (mut engine, mut one, mut two) = (Engine::default(), machine(1), machine(2));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    let write = force_release(&engine.register()).unwrap();
    engine.exchange(engine.now.as_ref().map(|now| now.version), write);
    granted(&engine.tell(&mut two, Event::Intent(Intent::Try), at(2)));
    let told = engine.tell(&mut one, Event::Release, at(3));
    assert!(matches!(told[..], [Action::Released(Outcome::Lost)]), "{told:?}");
    assert_eq!(engine.register().holder.unwrap().label, "n2");
}

#[test]
fn a_node_that_wants_it_again_goes_to_the_end_in_the_same_write() {
    let (mut engine, mut one, mut two) = (Engine::default(), machine(1), machine(2));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    engine.tell(&mut two, Event::Intent(Intent::Wait), at(1));
    assert!(engine.tell(&mut one, Event::Intent(Intent::Wait), at(2)).is_empty());
    engine.tell(&mut one, Event::Release, at(2));
    let labels: Vec<_> = engine.register().queue.into_iter().map(|waiter| waiter.label).collect();
    assert_eq!((labels, engine.writes.len()), (vec!["n2".into(), "n1".into()], 3));
}

#[test]
fn who_tries_is_told_who_has_it_and_leaves_nothing() {
    let (mut engine, mut one, mut two) = (Engine::default(), machine(1), machine(2));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    let told = engine.tell(&mut two, Event::Intent(Intent::Try), at(1));
    let [Action::Failed(Failure::Busy { holder: Some(holder) })] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((&holder[..], engine.writes.len()), ("n1", 1));
    assert!(two.is_idle());
}

#[test]
fn a_foreign_value_is_refused_and_left_alone() {
    let (mut engine, mut one) = (Engine::default(), machine(1));
    let write = Write { value: b"mine".as_slice().into(), wake: Wake::Nobody, idle: false };
    engine.exchange(None, write);
    for intent in [Intent::Try, Intent::Wait] {
        let told = engine.tell(&mut one, Event::Intent(intent), at(0));
        let [Action::Failed(Failure::Unreadable(Unreadable::Foreign))] = &told[..] else {
            panic!("{told:?}")
        };
    }
    assert_eq!((engine.writes.len(), one.is_idle()), (1, true));
}

#[test]
fn the_queue_is_bounded_and_who_finds_it_full_joins_later() {
    let mut engine = Engine::default();
    let mut nodes: Vec<_> = (1..=5).map(machine).collect();
    for (ms, node) in nodes.iter_mut().enumerate() {
        engine.tell(node, Event::Intent(Intent::Wait), at(ms as u64));
    }
    assert_eq!(engine.register().queue.len(), 3);
    engine.tell(&mut nodes[1], Event::Intent(Intent::Nothing), at(10));
    assert_eq!(engine.register().queue.len(), 2, "who gives up leaves the queue");
    assert!(nodes[1].is_idle());
    let look = nodes[4].wake_at().unwrap();
    engine.tell(&mut nodes[4], Event::Timer, look);
    let labels: Vec<_> = engine.register().queue.into_iter().map(|waiter| waiter.label).collect();
    assert_eq!(labels, ["n3", "n4", "n5"]);
}

/// How long a request takes, where that does not matter.
const TRIP: Duration = Duration::from_millis(1);

/// Takes the lock and gives it back, with requests that take a `trip` each. Returns how long the
/// machine waited before it gave it back.
fn turn(engine: &mut Engine, one: &mut Machine, now: &mut Time, trip: Duration) -> Duration {
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
                    let until = one.wake_at().expect("it comes back by itself");
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
fn who_has_the_lock_for_itself_leaves_room_for_others() {
    let (mut engine, mut one, mut now) = (Engine::default(), machine(1), at(0));
    let pauses: Vec<_> = (0..5000).map(|_| turn(&mut engine, &mut one, &mut now, TRIP)).collect();
    let pauses: Vec<_> = pauses.into_iter().filter(|pause| !pause.is_zero()).collect();
    let (first, longest) = (pauses[0], *pauses.iter().max().unwrap());
    assert!(first >= Duration::from_millis(2), "two round trips, not {first:?}");
    assert_eq!(longest, CLAIM / 8);
    let all: Duration = pauses.iter().sum();
    assert!(all < now.since(at(0)) / 50, "{all:?} of {:?}", now.since(at(0)));
    // Where the lock is left alone now and then there is room already.
    for _ in 0..5000 {
        now = now + CLAIM / 8;
        assert_eq!(turn(&mut engine, &mut one, &mut now, TRIP), Duration::ZERO);
    }
}

#[test]
fn who_has_met_others_leaves_room_for_them_but_not_for_long_after_a_late_answer() {
    let late = Duration::from_secs(1);
    for trip in [TRIP, late] {
        let (mut engine, mut one, mut now) = (Engine::default(), machine(1), at(0));
        one.met_others();
        let longest = (0..100).map(|_| turn(&mut engine, &mut one, &mut now, trip)).max().unwrap();
        assert!(trip == late || longest >= 6 * TRIP, "several round trips, not {longest:?}");
        assert!(longest <= CLAIM / 2, "{longest:?} after answers that took {trip:?}");
    }
}

/// The engine has stopped once while the lock was given back: that is no reason to leave it alone for
/// as long when it is wanted again.
#[test]
fn a_late_answer_keeps_nobody_from_looking() {
    for (collisions, seed) in (0..100).flat_map(|seed| [(0, seed), (4, seed)]) {
        let mut engine = Engine::default();
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
        // It does not know yet that the other waits.
        let (request, expected, write) = asked(&mut a);
        let result = Ok(engine.exchange(expected, write));
        a.handle(Event::Exchanged { request, result }, end);
        let (request, expected, write) = asked(&mut a);
        let result = Ok(engine.exchange(expected, write));
        a.handle(Event::Exchanged { request, result }, at(2000));
        while a.next_action().is_some() {}
        // The other takes it, and gives it back: it is free.
        granted(&engine.tell(&mut b, Event::Noticed(engine.now.clone()), at(2000)));
        engine.tell(&mut b, Event::Release, at(2001));
        assert!(engine.register().is_idle());
        a.handle(Event::Intent(Intent::Wait), at(2001));
        let looks = a.next_action().is_some() || a.wake_at() <= Some(at(2002));
        assert!(looks, "seed {seed}, {collisions} collisions: not before {:?}", a.wake_at());
    }
}

#[test]
fn a_look_that_failed_is_looked_again() {
    for wakeups in [Wakeups::PushToOne, Wakeups::PushToAll] {
        let mut engine = Engine::default();
        let settings = |node| MachineSettings { wakeups, ..settings(node) };
        let (mut holder, mut heir) = (Machine::new(settings(1)), Machine::new(settings(2)));
        granted(&engine.tell(&mut holder, Event::Intent(Intent::Wait), at(0)));
        engine.tell(&mut heir, Event::Intent(Intent::Wait), at(0));
        engine.tell(&mut holder, Event::Noticed(engine.now.clone()), at(1));
        engine.tell(&mut holder, Event::Release, at(1));
        assert!(engine.register().holder.is_none(), "it is reserved");
        // The watch tells that something has changed, and not what.
        heir.handle(Event::Noticed(None), at(2));
        let Some(Action::Load { request }) = heir.next_action() else { panic!("it looks") };
        let result = Err(TransportError::unavailable("once"));
        heir.handle(Event::Loaded { request, result }, at(3));
        let mut now = at(3);
        while heir.next_action().is_none() {
            now = heir.wake_at().expect("it does not sleep for ever");
            heir.handle(Event::Timer, now);
        }
        assert!(now < at(3) + CLAIM / 4, "{wakeups:?}: not before {now:?}");
    }
}
