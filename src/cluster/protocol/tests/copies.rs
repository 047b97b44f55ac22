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

/// A machine that writes before it holds the lock.
fn confirming(node: u64) -> Machine {
    Machine::new(MachineSettings { holds_at_once: false, ..settings(node) })
}

/// A machine that waits behind the holder, its copy, and the holder. The claim has not been in a write
/// that takes the lock.
fn waiting_copies(engine: &mut TestEngine, machine: fn(u64) -> Machine) -> [Machine; 3] {
    let (mut holder, mut one) = (machine(1), machine(2));
    granted(&engine.tell(&mut holder, Event::Intent(Intent::Wait), at(0)));
    // It knows of the holder.
    engine.tell(&mut one, Event::Intent(Intent::Try), at(1));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(1));
    assert_eq!(engine.writes.len(), 2, "take; join");
    engine.tell(&mut holder, Event::Noticed(None), at(2));
    [one.clone(), one, holder]
}

/// Both are handed the lock, and both hold it at once. One at most outlives its next renewal, and who releases
/// it meanwhile takes it from the other.
#[test]
fn of_two_copies_that_were_handed_the_lock_one_outlives_a_renewal() {
    for releases in [false, true] {
        let mut engine = TestEngine::default();
        let [mut one, mut copy, mut holder] = waiting_copies(&mut engine, machine);
        engine.tell(&mut holder, Event::Release, at(2));
        let grants = [&mut one, &mut copy].map(|node| {
            let told = engine.tell(node, Event::Noticed(engine.now.clone()), at(3));
            granted(&told)
        });
        assert_eq!(grants[0].version, grants[1].version);
        let event = if releases { Event::Release } else { Event::Refresh };
        engine.tell(&mut one, event, at(4));
        let told = engine.tell(&mut copy, Event::Refresh, at(5));
        let [Action::Lost(why)] = &told[..] else { panic!("{told:?}") };
        let expected = if releases { Loss::TakenOver } else { Loss::Copied };
        assert_eq!(*why, expected);
    }
}

/// One of them is granted the lock. Whatever the other one does, it keeps it, and then the other one gets
/// it.
#[test]
fn a_waiting_copy_takes_nothing_from_the_copy_that_was_granted_their_claim() {
    let (cancel, release) = (Event::Intent(Intent::Nothing), Event::Release);
    for (cancels, releases) in [(false, false), (true, false), (false, true), (true, true)] {
        let events = [cancels.then(|| cancel.clone()), releases.then(|| release.clone())];
        for looks in [false, true] {
            let mut engine = TestEngine::default();
            let [mut one, mut copy, mut holder] = waiting_copies(&mut engine, confirming);
            engine.tell(&mut holder, Event::Release, at(2));
            granted(&engine.tell(&mut one, Event::Noticed(None), at(3)));
            let held = engine.register();
            if looks {
                let told = engine.tell(&mut copy, Event::Noticed(None), at(4));
                assert!(told.is_empty(), "{told:?}");
            }
            for event in events.iter().flatten() {
                let told = engine.tell(&mut copy, event.clone(), at(5));
                assert!(matches!(told[..], [] | [Action::Released(Outcome::Lost(_))]), "{told:?}");
            }
            assert_eq!(engine.register().liveness(), held.liveness(), "{events:?}, looks: {looks}");
            assert!(!cancels || copy.is_idle());
            let told = engine.tell(&mut copy, Event::Intent(Intent::Wait), at(6));
            assert!(told.is_empty(), "{told:?}");
            let told = engine.tell(&mut one, Event::Refresh, at(7));
            assert!(matches!(told[..], [Action::Renewed { .. }]), "{told:?}");
            let told = engine.tell(&mut one, Event::Release, at(8));
            assert!(matches!(told[..], [Action::Released(Outcome::Held)]), "{told:?}");
            granted(&engine.tell(&mut copy, Event::Noticed(None), at(9)));
        }
    }
}

/// The write by which one copy takes the lock has an unknown outcome, and does not arrive. It is not to
/// be mixed up with that of the other.
#[test]
fn copies_that_waited_have_no_heartbeat_in_common() {
    let mut engine = TestEngine::default();
    let [mut one, mut copy, mut holder] = waiting_copies(&mut engine, confirming);
    engine.tell(&mut holder, Event::Release, at(2));
    copy.handle(Event::Noticed(engine.now.clone()), at(3));
    let (request, ..) = requested_write(&mut copy);
    granted(&engine.tell(&mut one, Event::Noticed(None), at(3)));
    let held = engine.register();
    copy.handle(Event::Exchanged { request, result: Err(indeterminate()) }, at(4));
    engine.tell(&mut copy, Event::Intent(Intent::Nothing), at(5));
    let again = copy.wake_at().expect("a retry is due");
    engine.tell(&mut copy, Event::Timer, again);
    assert_eq!(engine.register(), held);
    assert!(copy.is_idle());
}

/// Two copies and two other nodes do anything in any order, with writes that are lost, late, and of
/// unknown outcome. One of the nodes at most holds the lock.
#[test]
fn copies_of_a_waiting_node_that_confirm_exclude_each_other_and_everybody_else() {
    let (mut grants, mut copies) = ([0; 4], 0);
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut engine, mut late) = (TestEngine::default(), vec![]);
        let [one, copy, holder] = waiting_copies(&mut engine, confirming);
        let mut nodes = [one, copy, holder, confirming(3)];
        let mut holds = [false, false, true, false];
        for step in 1..200 {
            let (now, node) = (at(20 * step), random.usize(..4));
            let event = match random.u8(..8) {
                0 => Event::Intent(Intent::Nothing),
                1 | 2 => Event::Intent(Intent::Wait),
                3 if !holds[node] => Event::Intent(Intent::Try),
                3 | 4 => Event::Release,
                5 => Event::Refresh,
                6 => Event::Noticed(engine.now.clone()),
                _ => Event::Noticed(None),
            };
            holds[node] &= !matches!(event, Event::Release);
            nodes[node].handle(event, now);
            let told = engine.run_by(&mut nodes[node], now, |engine, expected, write| {
                match random.u8(..8) {
                    0 => late.push((expected, write)),
                    1 => drop(engine.exchange(expected, write)),
                    2 => {}
                    _ => return Ok(engine.exchange(expected, write)),
                }
                Err(indeterminate())
            });
            for told in told {
                match told {
                    Action::Granted(_) => (holds[node], grants[node]) = (true, grants[node] + 1),
                    Action::Renewed { .. } => assert!(holds[node], "seed {seed}"),
                    Action::Failed(Failure::Busy { .. } | Failure::Transport(_)) => {}
                    Action::Released(_) => {}
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
            let all = holds.iter().filter(|holds| **holds).count();
            assert!(all <= 1, "seed {seed}: {holds:?} hold it");
            if random.u8(..8) == 0
                && let Some((expected, write)) = late.pop()
            {
                engine.exchange(expected, write);
            }
            let [one, copy, ..] = &mut nodes;
            let waits = one.intent == Intent::Wait && one.releasing.is_none() && !holds[0];
            if waits && one.indeterminate.is_none() && copy.is_idle() {
                (*copy, copies) = (one.clone(), copies + 1);
            }
        }
    }
    assert!(grants.iter().all(|grants| *grants > 500) && copies > 500, "{grants:?}, {copies}");
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
