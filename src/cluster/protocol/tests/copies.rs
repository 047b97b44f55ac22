//! Two processes with the state of one machine, and what only looks like that.

use super::*;
use crate::cluster::transport::Notices;

/// A machine that holds the lock, and its copy, which draws from the same source.
fn holder_and_copy(engine: &mut TestEngine) -> [Machine; 2] {
    let mut one = machine(1);
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    let copy = one.clone();
    [one, copy]
}

#[test]
fn of_two_copies_that_hold_the_lock_one_at_most_outlives_its_next_renewal() {
    for (first, joins) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut engine = TestEngine::default();
        let mut copies = holder_and_copy(&mut engine);
        let mut two = machine(2);
        if joins {
            engine.tell(&mut two, Event::Intent(Intent::Wait), at(10));
        }
        let due = copies[0].wake_at().unwrap();
        let told = engine.tell(&mut copies[first], Event::Timer, due);
        assert!(matches!(told[..], [Action::Renewed { .. }]), "{told:?}");
        let told = engine.tell(&mut copies[1 - first], Event::Timer, due);
        assert!(matches!(told[..], [Action::Lost(Loss::Copied)]), "{told:?}");
        // The copy that has lost it takes nothing from the other one when it wants the lock again.
        let told = engine.tell(&mut copies[1 - first], Event::Intent(Intent::Wait), due);
        assert!(told.is_empty(), "{told:?}");
        for round in 1..20 {
            let now = due + round * LEASE / 3;
            for of in [0, 1] {
                let told = engine.tell(&mut copies[of], Event::Timer, now);
                let renewed = told.iter().all(|told| matches!(told, Action::Renewed { .. }));
                assert!(renewed && told.len() <= usize::from(of == first), "{told:?}");
            }
        }
    }
}

/// The other copy's renewal shows in an answer before this one's is sent.
#[test]
fn a_copy_is_found_by_its_heartbeat_however_the_register_is_seen() {
    for notice in [Notices::Answers, Notices::Hints] {
        let mut engine = TestEngine::default();
        let [mut one, mut copy] = holder_and_copy(&mut engine);
        engine.tell(&mut copy, Event::Refresh, at(10));
        let event = Event::of_item(notice, engine.now.clone());
        let told = engine.tell(&mut one, event, at(11));
        assert!(matches!(told[..], [Action::Lost(Loss::Copied)]), "{told:?}");
    }
}

#[test]
fn a_version_alone_does_not_end_a_lease() {
    let mut engine = TestEngine::default();
    let mut one = machine(1);
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    // Three nodes join, and one of them gives up.
    let mut others: Vec<_> = (2..=4).map(machine).collect();
    for other in &mut others {
        engine.tell(other, Event::Intent(Intent::Wait), at(1));
        let told = engine.tell(&mut one, Event::Noticed(engine.now.clone()), at(1));
        assert!(told.is_empty(), "{told:?}");
    }
    engine.tell(&mut others[1], Event::Intent(Intent::Nothing), at(2));
    let told = engine.tell(&mut one, Event::Noticed(None), at(2));
    assert!(told.is_empty(), "{told:?}");
    let told = engine.tell(&mut one, Event::Refresh, at(3));
    assert!(matches!(told[..], [Action::Renewed { .. }]), "{told:?}");
}

/// Neither that of a renewal nor that of the write that took the lock, and whether another node joins
/// before this one knows of it or not.
#[test]
fn a_write_of_unknown_outcome_is_not_one_of_a_copy() {
    for (renews, joins) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
        if renews {
            granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
            one.handle(Event::Refresh, at(1));
        } else {
            one.handle(Event::Intent(Intent::Wait), at(0));
        }
        let (request, expected, write) = requested_write(&mut one);
        one.handle(Event::Exchanged { request, result: Err(indeterminate()) }, at(10));
        let again = one.wake_at().unwrap();
        // A second write of unknown outcome expects the same version, and only one of them arrives.
        one.handle(Event::Timer, again);
        let (request, ..) = requested_write(&mut one);
        one.handle(Event::Exchanged { request, result: Err(indeterminate()) }, again);
        engine.exchange(expected, write);
        if joins {
            engine.tell(&mut two, Event::Intent(Intent::Wait), again);
        }
        let again = one.wake_at().unwrap();
        let told = engine.tell(&mut one, Event::Timer, again);
        let holds = matches!(told[..], [Action::Granted(_)] | [Action::Renewed { .. }]);
        assert!(holds, "renews: {renews}, joins: {joins}: {told:?}");
    }
}

/// Both have the claim in the queue. What one of them takes, the other may take for its own once.
#[test]
fn a_grant_to_the_claim_of_two_waiting_copies_is_held_by_one_in_the_end() {
    let (mut engine, mut holder, mut one) = (TestEngine::default(), machine(1), machine(2));
    granted(&engine.tell(&mut holder, Event::Intent(Intent::Wait), at(0)));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(1));
    let mut copies = [one.clone(), one];
    engine.tell(&mut holder, Event::Noticed(None), at(2));
    engine.tell(&mut holder, Event::Release, at(2));
    let mut holds = [false; 2];
    for round in 0..40 {
        let now = at(3) + round * LEASE / 4;
        for (copy, holds) in copies.iter_mut().zip(&mut holds) {
            let mut told = engine.tell(copy, Event::Noticed(None), now);
            told.extend(engine.tell(copy, Event::Timer, now));
            for told in told {
                match told {
                    Action::Granted(_) => *holds = true,
                    Action::Lost(Loss::Copied | Loss::TakenOver) => *holds = false,
                    Action::Renewed { .. } => assert!(*holds),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(round < 2 || holds == [true, false] || holds == [false, true], "{holds:?}");
    }
}

/// Copies of a node that did not want the lock have no claim in common.
#[test]
fn copies_of_an_idle_node_exclude_each_other() {
    let mut engine = TestEngine::default();
    let mut one = machine(1);
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    engine.tell(&mut one, Event::Release, at(1));
    let mut copy = one.clone();
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(2)));
    let told = engine.tell(&mut copy, Event::Intent(Intent::Wait), at(3));
    assert!(told.is_empty(), "{told:?}");
    let told = engine.tell(&mut copy, Event::Intent(Intent::Nothing), at(4));
    assert!(told.is_empty() && copy.is_idle(), "{told:?}");
    assert!(engine.register().holder.is_some(), "it removes nothing of the other's");
}

/// What this machine itself left behind is not a copy's: it is removed at once.
#[test]
fn a_claim_that_was_drawn_earlier_is_a_trace() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    // A renewal of unknown outcome arrives after the end of the lease.
    one.handle(Event::Refresh, at(1));
    let (request, expected, write) = requested_write(&mut one);
    one.handle(Event::Exchanged { request, result: Err(indeterminate()) }, at(2));
    let told = {
        one.handle(Event::Timer, at(10_000));
        one.next_action()
    };
    assert!(matches!(told, Some(Action::Lost(Loss::Expired { .. }))), "{told:?}");
    engine.exchange(expected, write);
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(10_001)));
}

/// An acquisition is given up and begun again, by the same claim. An observer that saw the first write
/// and then the last one would take the holder for dead.
#[test]
fn no_heartbeat_comes_twice() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    let (mut seen, mut now) = (std::collections::HashSet::new(), at(0));
    for _ in 0..20 {
        one.handle(Event::Intent(Intent::Wait), now);
        let (request, expected, write) = requested_write(&mut one);
        engine.exchange(expected, write);
        assert!(seen.insert(engine.register().heartbeat));
        one.handle(Event::Exchanged { request, result: Err(indeterminate()) }, now);
        one.handle(Event::Intent(Intent::Nothing), now);
        now = one.wake_at().expect("it undoes the write");
        one.handle(Event::Timer, now);
        // It is undone, and before the node knows of that, the lock is wanted again.
        loop {
            let (request, expected, write) = requested_write(&mut one);
            let result = engine.exchange(expected, write);
            let is_undone = engine.register().is_idle();
            let result = if is_undone { Err(indeterminate()) } else { Ok(result) };
            one.handle(Event::Exchanged { request, result }, now);
            if is_undone {
                break;
            }
        }
        one.handle(Event::Intent(Intent::Wait), now);
        now = one.wake_at().expect("a retry is due");
        let told = engine.tell(&mut one, Event::Timer, now);
        granted(&told);
        assert!(seen.insert(engine.register().heartbeat));
        engine.tell(&mut one, Event::Release, now);
        while !one.is_idle() {
            now = one.wake_at().expect("it defers the release");
            engine.tell(&mut one, Event::Timer, now);
        }
    }
}
