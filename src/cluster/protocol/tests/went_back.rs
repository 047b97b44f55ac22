//! An engine that shows an older state than before.

use super::*;
use crate::cluster::protocol::WentBack;

/// An engine that was restored from a backup: the register as it was, and versions that go on there.
fn restored(from: &TestEngine) -> TestEngine {
    let (now, last) = (from.now.clone(), from.now.as_ref().map_or(0, |now| now.version.get()));
    TestEngine { now, last, writes: vec![] }
}

#[test]
fn a_lock_is_lost_when_the_engine_goes_back() {
    for is_lossy in [false, true] {
        let (mut engine, mut two) = (TestEngine::default(), machine(2));
        let mut one = Machine::new(MachineSettings { is_lossy, ..settings(1) });
        engine.tell(&mut two, Event::Intent(Intent::Wait), at(0));
        let mut backup = restored(&engine);
        engine.tell(&mut two, Event::Release, at(1));
        let grant = granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(2)));
        let newest = grant.version;
        let told = backup.tell(&mut one, Event::Refresh, at(3));
        let shown = version(1);
        assert!(
            matches!(&told[..], [Action::WentBack(why), Action::Lost(Loss::WentBack)]
                if *why == WentBack { shown, newest }),
            "{told:?}"
        );
    }
}

#[test]
fn an_engine_that_goes_back_and_does_not_say_so_is_refused_until_its_versions_exceed_all_seen() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    engine.tell(&mut one, Event::Release, at(1));
    let mut backup = restored(&engine);
    for ms in 2..10 {
        engine.tell(&mut one, Event::Intent(Intent::Wait), at(ms));
        engine.tell(&mut one, Event::Release, at(ms));
    }
    let newest = engine.now.as_ref().unwrap().version;
    for (intent, told_of) in [(Intent::Wait, true), (Intent::Wait, false), (Intent::Try, false)] {
        let told = backup.tell(&mut one, Event::Intent(intent), at(20));
        let (last, before) = told.split_last().unwrap();
        let Action::Failed(Failure::WentBack(why)) = last else { panic!("{told:?}") };
        assert_eq!(*why, WentBack { shown: backup.now.as_ref().unwrap().version, newest });
        assert_eq!(matches!(before, [Action::WentBack(_)]), told_of, "{told:?}");
        assert!(one.is_idle() && backup.writes.is_empty());
    }
    // Another node writes, or an operator raises the versions.
    backup.last = newest.get();
    let mut two = machine(2);
    granted(&backup.tell(&mut two, Event::Intent(Intent::Wait), at(30)));
    backup.tell(&mut two, Event::Release, at(31));
    let grant = granted(&backup.tell(&mut one, Event::Intent(Intent::Wait), at(32)));
    assert!(grant.version > newest);
}

#[test]
fn an_engine_that_may_lose_writes_goes_on_with_a_version_that_exceeds_all_seen() {
    for jumps in [true, false] {
        let mut engine = TestEngine::default();
        let mut one = Machine::new(MachineSettings { is_lossy: true, ..settings(1) });
        engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
        engine.tell(&mut one, Event::Release, at(1));
        let mut backup = restored(&engine);
        for ms in 2..10 {
            engine.tell(&mut one, Event::Intent(Intent::Wait), at(ms));
            engine.tell(&mut one, Event::Release, at(ms));
        }
        if jumps {
            backup.last = engine.last;
        }
        let mut told = backup.tell(&mut one, Event::Intent(Intent::Wait), at(20));
        // A version that does not exceed those before it counts as a write of unknown outcome.
        while told.iter().all(|told| matches!(told, Action::WentBack(_))) {
            let now = one.wake_at().expect("it goes on");
            told.extend(backup.tell(&mut one, Event::Timer, now));
        }
        let Some((last, [Action::WentBack(_)])) = told.split_last() else { panic!("{told:?}") };
        match last {
            Action::Granted(grant) if jumps => assert!(grant.version.get() > engine.last),
            Action::Failed(Failure::WentBack(_)) if !jumps => {
                while !one.is_idle() {
                    let now = one.wake_at().expect("it removes what it wrote");
                    backup.tell(&mut one, Event::Timer, now);
                }
                assert!(backup.register().is_idle());
            }
            _ => panic!("{told:?}"),
        }
    }
}

/// The register is gone, and the first write gets a small version.
#[test]
fn an_engine_that_has_forgotten_all_makes_no_token_of_a_smaller_version() {
    for is_lossy in [false, true] {
        let mut engine = TestEngine { last: 500, ..TestEngine::default() };
        let mut one = Machine::new(MachineSettings { is_lossy, ..settings(1) });
        engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
        engine.tell(&mut one, Event::Release, at(1));
        let (mut empty, mut now) = (TestEngine::default(), at(2));
        let mut told = empty.tell(&mut one, Event::Intent(Intent::Wait), now);
        while !told.iter().any(|told| matches!(told, Action::Failed(_))) {
            assert!(!told.iter().any(|told| matches!(told, Action::Granted(_))), "{told:?}");
            now = one.wake_at().expect("it goes on");
            told.extend(empty.tell(&mut one, Event::Timer, now));
        }
        assert!(matches!(told.last(), Some(Action::Failed(Failure::WentBack(_)))), "{told:?}");
    }
}

/// A node that keeps no handle of the key has a new machine for each acquisition.
#[test]
fn a_new_machine_that_remembers_the_largest_version_makes_no_token_of_a_smaller_one() {
    let turn = |engine: &mut TestEngine, is_lossy, newest: &mut Option<Version>, ms| {
        let mut one = Machine::new(MachineSettings { is_lossy, ..settings(1) });
        one.remember(*newest, None);
        let told = engine.tell(&mut one, Event::Intent(Intent::Wait), at(ms));
        engine.tell(&mut one, Event::Release, at(ms));
        assert!(one.is_idle());
        *newest = one.newest();
        told
    };
    for is_lossy in [false, true] {
        let (mut engine, mut newest) = (TestEngine::default(), None);
        granted(&turn(&mut engine, is_lossy, &mut newest, 0));
        let mut backup = restored(&engine);
        for ms in 1..5 {
            granted(&turn(&mut engine, is_lossy, &mut newest, ms));
        }
        let before = newest.unwrap();
        assert_eq!(before, engine.now.as_ref().unwrap().version);
        let shown = backup.now.as_ref().unwrap().version;
        if is_lossy {
            backup.last = engine.last;
        } else {
            for ms in 10..13 {
                let told = turn(&mut backup, is_lossy, &mut newest, ms);
                assert!(
                    matches!(&told[..], [Action::WentBack(_), Action::Failed(Failure::WentBack(why))]
                        if *why == WentBack { shown, newest: before }),
                    "{told:?}"
                );
                assert!(backup.writes.is_empty() && newest == Some(before));
            }
            // An operator resets it, and another node writes.
            backup.last = engine.last;
            granted(&backup.tell(&mut machine(2), Event::Intent(Intent::Wait), at(20)));
            let write = force_release(&backup.register()).unwrap();
            backup.exchange(backup.now.as_ref().map(|now| now.version), write);
        }
        let told = turn(&mut backup, is_lossy, &mut newest, 30);
        let grant = granted(&told[usize::from(is_lossy)..]);
        assert!(grant.version > before, "{told:?}");
    }
}

/// A response that is older than a notice that came before it is late, and no sign that the engine went
/// back.
#[test]
fn a_response_that_is_older_than_a_notice_is_only_late() {
    let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    one.handle(Event::Noticed(None), at(1));
    let request = requested_load(&mut one).unwrap();
    let result = Ok(engine.now.clone());
    engine.tell(&mut two, Event::Intent(Intent::Wait), at(2));
    one.handle(Event::Noticed(engine.now.clone()), at(3));
    one.handle(Event::Loaded { request, result }, at(4));
    assert!(one.next_action().is_none());
    // Nor is a notice that comes late.
    let old = engine.now.clone();
    engine.tell(&mut one, Event::Refresh, at(5));
    let told = engine.tell(&mut one, Event::Noticed(old), at(6));
    assert!(told.is_empty(), "{told:?}");
}
