//! The direct handoff: a release writes the next waiter as the holder.

use super::*;
use crate::cluster::transport::Notices;

const MS: Duration = Duration::from_millis(1);

/// A holder, and a node that has joined the queue by a request that was sent at 100 ms.
fn one_waits(engine: &mut TestEngine, settings: MachineSettings) -> [Machine; 2] {
    let (mut one, mut two) = (machine(1), Machine::new(settings));
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    assert!(engine.tell(&mut two, Event::Intent(Intent::Wait), at(100)).is_empty());
    assert_eq!(engine.register().queue.len(), 1);
    engine.tell(&mut one, Event::Noticed(None), at(100));
    [one, two]
}

/// The machine looks, and its look is answered.
fn look(engine: &mut TestEngine, machine: &mut Machine, now: Time) -> Vec<Action> {
    let Some(Action::Load { request }) = machine.next_action() else { panic!("it looks") };
    assert!(machine.next_action().is_none());
    engine.tell(machine, Event::Loaded { request, result: Ok(engine.now.clone()) }, now)
}

fn short_deadline(sent: Time) -> Time {
    sent + CLAIM - CLOCK.allowance(CLAIM)
}

#[test]
fn a_release_hands_the_lock_to_the_next_waiter_who_holds_it_without_a_write() {
    let mut engine = TestEngine::default();
    let [mut one, mut two] = one_waits(&mut engine, settings(2));
    let before = engine.register();
    engine.tell(&mut one, Event::Release, at(110));
    let written = engine.writes.last().unwrap();
    assert_eq!((written.wake, written.idle), (Wake::Node(NodeId::new(2)), false));
    let register = engine.register();
    let holder = register.holder.as_ref().expect("it is handed over");
    assert_eq!((&*holder.label, holder.lease, holder.is_handed), ("n2", CLAIM, true));
    assert_ne!(register.heartbeat, before.heartbeat);
    let grant = granted(&engine.tell(&mut two, Event::Noticed(engine.now.clone()), at(111)));
    // The version is that of the release. The deadline counts from the request that joined the queue.
    let (version, deadline) = (Version::new(3).unwrap(), short_deadline(at(100)));
    let (is_short, via) = (true, GrantedVia::Handoff);
    assert_eq!(grant, Grant { version, deadline, is_short, via });
    let told = engine.tell(&mut two, Event::Release, at(112));
    assert!(matches!(told[..], [Action::Released(Outcome::Held)]), "{told:?}");
    assert_eq!(engine.writes.len(), 4, "take; join; release; release");
    assert!(engine.register().is_idle());
}

/// Half of the handoff lease has to be left, counted from the last request that has shown no grant.
#[test]
fn a_node_that_has_not_asked_lately_confirms_first() {
    let half = at(100) + CLAIM / 2 - CLOCK.allowance(CLAIM);
    for (now, confirms) in [(half, false), (half + Duration::from_nanos(1), true)] {
        let mut engine = TestEngine::default();
        let [mut one, mut two] = one_waits(&mut engine, settings(2));
        engine.tell(&mut one, Event::Release, now);
        let grant = granted(&engine.tell(&mut two, Event::Noticed(engine.now.clone()), now));
        assert_eq!((grant.is_short, engine.writes.len()), (!confirms, 3 + usize::from(confirms)));
        if confirms {
            assert_eq!(grant.deadline, now + LEASE - CLOCK.allowance(LEASE));
            assert_eq!(engine.writes.last().unwrap().wake, Wake::Nobody);
        }
    }
}

#[test]
fn a_node_whose_clock_may_stand_still_or_whose_engine_is_slow_confirms_first() {
    let confirming = MachineSettings { holds_at_once: false, ..settings(2) };
    for (settings, round_trip) in [(confirming, MS), (settings(2), CLAIM / 8)] {
        let mut engine = TestEngine::default();
        let [mut one, mut two] = one_waits(&mut engine, settings);
        two.round_trip = round_trip;
        engine.tell(&mut one, Event::Release, at(101));
        let grant = granted(&engine.tell(&mut two, Event::Noticed(engine.now.clone()), at(102)));
        assert!(!grant.is_short && !engine.register().holder.unwrap().is_handed);
    }
}

/// After a third of the short lease. Observers count with the lease in the register, and so does the holder.
#[test]
fn the_first_renewal_makes_the_lease_a_whole_one() {
    let mut engine = TestEngine::default();
    let [mut one, mut two] = one_waits(&mut engine, settings(2));
    engine.tell(&mut one, Event::Release, at(110));
    granted(&engine.tell(&mut two, Event::Noticed(engine.now.clone()), at(111)));
    let heartbeat = engine.register().heartbeat;
    let renew_at = two.wake_at().unwrap();
    assert_eq!(renew_at, at(100) + CLAIM / 3);
    let told = engine.tell(&mut two, Event::Timer, renew_at);
    let [Action::Renewed { deadline, .. }] = told[..] else { panic!("{told:?}") };
    assert_eq!(deadline, renew_at + LEASE - CLOCK.allowance(LEASE));
    let (register, granted) = (engine.register(), Some(3));
    let holder = register.holder.as_ref().unwrap();
    assert_eq!((holder.lease, holder.is_handed, holder.granted), (LEASE, false, granted));
    assert_ne!(register.heartbeat, heartbeat);
}

/// A node that joins rewrites the register. The token is made of its version, which is larger than all of the
/// holder before.
#[test]
fn a_node_that_joins_after_the_handoff_changes_nothing_but_the_version() {
    let mut engine = TestEngine::default();
    let [mut one, mut two] = one_waits(&mut engine, settings(2));
    engine.tell(&mut one, Event::Release, at(110));
    engine.tell(&mut machine(3), Event::Intent(Intent::Wait), at(111));
    let grant = granted(&engine.tell(&mut two, Event::Noticed(engine.now.clone()), at(112)));
    assert_eq!(
        (grant.is_short, grant.version, grant.deadline),
        (true, engine.now.clone().unwrap().version, short_deadline(at(100)))
    );
    let told = engine.tell(&mut two, Event::Release, at(113));
    assert!(matches!(told[..], [Action::Released(Outcome::Held)]), "{told:?}");
    assert_eq!(engine.register().holder.unwrap().label, "n3");
}

/// Whatever it carries: the node looks, and what that shows counts.
#[test]
fn a_hint_grants_nothing() {
    let mut engine = TestEngine::default();
    let push = MachineSettings { wakeups: Wakeups::PushToOne, ..settings(2) };
    let [_one, mut two] = one_waits(&mut engine, push);
    let mut forged = engine.register();
    forged.hand_over();
    let version = Version::new(100).unwrap();
    let item = Versioned { version, value: forged.encode().into() };
    two.handle(Event::of_item(Notices::Hints, Some(item)), at(110));
    let told = look(&mut engine, &mut two, at(110));
    assert!(told.is_empty() && !two.is_only_holding(), "{told:?}");
}

/// A dead node that was handed the lock costs its handoff lease, and the one after it takes the lock.
#[test]
fn the_lock_is_taken_from_a_dead_node_that_was_handed_it_after_its_handoff_lease() {
    let mut engine = TestEngine::default();
    let [mut one, _dead] = one_waits(&mut engine, settings(2));
    let mut three = machine(3);
    engine.tell(&mut three, Event::Intent(Intent::Wait), at(101));
    engine.tell(&mut one, Event::Noticed(engine.now.clone()), at(101));
    engine.tell(&mut one, Event::Release, at(110));
    engine.tell(&mut three, Event::Noticed(engine.now.clone()), at(111));
    let due = at(111) + CLAIM + CLOCK.allowance(CLAIM);
    let early = due - Duration::from_nanos(1);
    assert!(engine.tell(&mut three, Event::Timer, early).is_empty());
    let grant = granted(&engine.tell(&mut three, Event::Timer, due));
    assert_eq!((grant.via, grant.is_short), (GrantedVia::Takeover, false));
}

/// To hold the lock at once when its turn comes.
#[test]
fn the_first_in_the_queue_looks_when_it_has_not_asked_lately() {
    let mut engine = TestEngine::default();
    let [mut one, mut two] = one_waits(&mut engine, settings(2));
    let mut three = machine(3);
    engine.tell(&mut three, Event::Intent(Intent::Wait), at(101));
    engine.tell(&mut one, Event::Noticed(engine.now.clone()), at(101));
    let later = at(101) + CLAIM;
    engine.tell(&mut one, Event::Release, later);
    granted(&engine.tell(&mut two, Event::Noticed(engine.now.clone()), later));
    three.handle(Event::Noticed(engine.now.clone()), later);
    assert!(look(&mut engine, &mut three, later).is_empty());
    let soon = later + CLAIM / 3;
    three.handle(Event::Noticed(engine.now.clone()), soon - Duration::from_nanos(1));
    assert!(three.next_action().is_none());
    assert_eq!(three.wake_at(), Some(soon));
    three.handle(Event::Timer, soon);
    assert!(look(&mut engine, &mut three, soon).is_empty());
    engine.tell(&mut two, Event::Release, soon);
    let grant = granted(&engine.tell(&mut three, Event::Noticed(engine.now.clone()), soon));
    assert_eq!((grant.is_short, grant.deadline), (true, short_deadline(soon)));
}

/// So that it has eight attempts at least.
#[test]
fn an_engine_that_is_slow_is_asked_sooner() {
    let mut engine = TestEngine::default();
    let [mut one, mut two] = one_waits(&mut engine, settings(2));
    two.round_trip = CLAIM / 10;
    engine.tell(&mut one, Event::Release, at(101));
    granted(&engine.tell(&mut two, Event::Noticed(engine.now.clone()), at(101)));
    assert_eq!(two.wake_at(), Some(short_deadline(at(100)) - CLAIM * 8 / 10));
}

/// As for one that holds a whole lease, since the response tells whether the lock was held until then.
#[test]
fn the_release_of_a_short_lease_waits_for_its_response_for_as_long_as_that_of_a_whole_one() {
    let mut engine = TestEngine::default();
    let [mut one, mut two] = one_waits(&mut engine, settings(2));
    engine.tell(&mut one, Event::Release, at(110));
    granted(&engine.tell(&mut two, Event::Noticed(engine.now.clone()), at(111)));
    two.handle(Event::Release, at(112));
    let (request, expected, write) = requested_write(&mut two);
    let result = Ok(engine.exchange(expected, write));
    two.handle(Event::Timer, short_deadline(at(100)));
    assert!(two.next_action().is_none());
    let told = engine.tell(&mut two, Event::Exchanged { request, result }, at(100) + 2 * CLAIM);
    assert!(matches!(told[..], [Action::Released(Outcome::Held)]), "{told:?}");
}

/// It has given up waiting, and is handed the lock by a write that comes first: it hands it on.
#[test]
fn a_node_that_does_not_want_the_lock_any_more_hands_it_on() {
    let mut engine = TestEngine::default();
    let [mut one, mut two] = one_waits(&mut engine, settings(2));
    two.handle(Event::Intent(Intent::Nothing), at(110));
    let (request, expected, write) = requested_write(&mut two);
    engine.tell(&mut one, Event::Release, at(110));
    let result = Ok(engine.exchange(expected, write));
    two.handle(Event::Exchanged { request, result }, at(111));
    let told = engine.run(&mut two, at(111));
    assert!(told.is_empty() && two.is_idle(), "{told:?}");
    assert!(engine.register().is_idle());
}

/// Its write that hands the lock on has an unknown outcome, and it wants the lock again: the lock may be another
/// node's by now.
#[test]
fn a_node_that_may_have_handed_the_lock_on_writes_before_it_holds_it() {
    for is_applied in [false, true] {
        let mut engine = TestEngine::default();
        let [mut one, mut two] = one_waits(&mut engine, settings(2));
        let mut three = machine(3);
        engine.tell(&mut three, Event::Intent(Intent::Wait), at(101));
        engine.tell(&mut one, Event::Noticed(engine.now.clone()), at(101));
        two.handle(Event::Intent(Intent::Nothing), at(110));
        let (request, expected, write) = requested_write(&mut two);
        engine.tell(&mut one, Event::Release, at(110));
        let result = Ok(engine.exchange(expected, write));
        two.handle(Event::Exchanged { request, result }, at(110));
        let (request, expected, write) = requested_write(&mut two);
        if is_applied {
            engine.exchange(expected, write);
        }
        let result = Err(TransportError::indeterminate("reset"));
        two.handle(Event::Exchanged { request, result }, at(111));
        two.handle(Event::Intent(Intent::Wait), at(111));
        assert!(two.next_action().is_none(), "it waits after the error");
        let retry_at = two.wake_at().unwrap();
        let told = engine.tell(&mut two, Event::Timer, retry_at);
        if is_applied {
            assert!(told.is_empty(), "{told:?}");
            assert!(
                granted(&engine.tell(&mut three, Event::Noticed(engine.now.clone()), at(120)))
                    .is_short
            );
        } else {
            assert!(!granted(&told).is_short);
        }
    }
}

/// It finds an earlier acquisition of its own as the holder, and others in the queue: the first of those has the
/// lock next, however long that holder has not written.
#[test]
fn a_node_takes_no_turn_by_a_stale_claim_of_its_own() {
    for waiting in [1, 2] {
        let mut engine = TestEngine::default();
        let mut one = machine(1);
        granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
        let mut others = [2, 3].map(machine);
        for other in &mut others[..waiting] {
            engine.tell(other, Event::Intent(Intent::Wait), at(1));
        }
        // Its lease ends, since no renewal gets through.
        one.handle(Event::Timer, at(0) + LEASE);
        let Some(Action::Lost(_)) = one.next_action() else { panic!("it is lost") };
        let (request, ..) = requested_write(&mut one);
        let result = Err(TransportError::unavailable("not now"));
        one.handle(Event::Exchanged { request, result }, at(0) + LEASE);
        one.handle(Event::Intent(Intent::Wait), at(0) + LEASE);
        let told = engine.tell(&mut one, Event::Timer, at(0) + LEASE + CLAIM * 2);
        assert!(told.is_empty(), "{told:?}");
        let register = engine.register();
        assert_eq!(register.holder.map(|holder| holder.label).as_deref(), Some("n2"));
        assert_eq!(register.queue.last().map(|waiter| &*waiter.label), Some("n1"));
    }
}

/// Only another node's hand can have written one.
#[test]
fn a_lease_that_is_longer_than_its_own_counts_as_its_own() {
    let mut engine = TestEngine::default();
    let [mut one, two] = one_waits(&mut engine, settings(2));
    engine.tell(&mut one, Event::Release, at(110));
    for lease in [LEASE * 2, Duration::MAX] {
        let mut register = engine.register();
        register.holder.as_mut().unwrap().lease = lease;
        let version = Version::new(100).unwrap();
        let item = Versioned { version, value: register.encode().into() };
        let mut two = two.clone();
        let grant = granted(&engine.tell(&mut two, Event::Noticed(Some(item)), at(111)));
        assert_eq!(grant.deadline, at(100) + LEASE - CLOCK.allowance(LEASE));
    }
}
