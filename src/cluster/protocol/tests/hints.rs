//! A hint makes the machine look, and has no other effect.

use super::*;
use crate::cluster::transport::Notices;

/// What a forger may send to a node: it knows the register, and has no right to write it.
fn forgeries(engine: &TestEngine) -> Vec<Option<Versioned>> {
    let free: std::sync::Arc<[u8]> = Register::empty().encode().into();
    let now = engine.now.clone().unwrap();
    vec![
        Some(Versioned { version: Version::MAX, value: free.clone() }),
        Some(Versioned { version: Version::MAX, value: b"garbage"[..].into() }),
        Some(Versioned { version: now.version, value: free.clone() }),
        Some(Versioned { version: version(now.version.get() + 1), value: free }),
        Some(Versioned { version: version(1), value: now.value }),
        None,
    ]
}

#[test]
fn a_forged_notice_ends_no_lock_fails_no_waiter_and_is_not_written_on() {
    let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    engine.tell(&mut two, Event::Intent(Intent::Wait), at(1));
    let before = engine.register();
    for (ms, item) in forgeries(&engine).into_iter().enumerate() {
        for machine in [&mut one, &mut two] {
            let event = Event::of_item(Notices::Hints, item.clone());
            let told = engine.tell(machine, event, at(2 + ms as u64));
            assert!(told.is_empty(), "{item:?}: {told:?}");
        }
        assert_eq!(engine.register(), before, "{item:?}");
    }
    assert_eq!(engine.writes.len(), 2, "take; join");
    assert!(matches!(engine.tell(&mut one, Event::Release, at(20))[..], [Action::Released(_)]));
    granted(&engine.tell(&mut two, Event::of_item(Notices::Hints, None), at(21)));
}

#[test]
fn an_answer_of_a_watch_is_taken_at_its_word() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    let write = force_release(&engine.register()).unwrap();
    engine.exchange(Some(version(1)), write);
    let event = Event::of_item(Notices::Answers, engine.now.clone());
    one.handle(event, at(1));
    let told = one.next_action();
    assert!(matches!(told, Some(Action::Lost(Loss::TakenOver))), "{told:?}");
}

/// A holder learns of a break at once, and of a node that has joined, without another write.
#[test]
fn a_hint_makes_a_holder_look() {
    let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    engine.tell(&mut two, Event::Intent(Intent::Wait), at(1));
    assert!(!one.others_wait());
    assert!(engine.tell(&mut one, Event::Noticed(None), at(2)).is_empty());
    assert!(one.others_wait());
    let write = force_release(&engine.register()).unwrap();
    engine.exchange(Some(version(2)), write);
    let told = engine.tell(&mut one, Event::Noticed(None), at(3));
    assert!(matches!(told[..], [Action::Lost(Loss::TakenOver)]), "{told:?}");
}

/// The load in flight may have been answered before the change of which the hint tells.
#[test]
fn a_hint_during_a_load_causes_one_more_load_after_it() {
    let settings = MachineSettings { wakeups: Wakeups::PushToOne, ..settings(2) };
    let (mut engine, mut one, mut two) =
        (TestEngine::default(), machine(1), Machine::new(settings));
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    engine.tell(&mut two, Event::Intent(Intent::Wait), at(1));
    two.handle(Event::Noticed(None), at(2));
    let request = requested_load(&mut two).expect("it looks");
    // Answered before the release, and received after the hint that tells of it.
    let result = Ok(engine.now.clone());
    engine.tell(&mut one, Event::Noticed(None), at(3));
    engine.tell(&mut one, Event::Release, at(3));
    two.handle(Event::Noticed(None), at(4));
    two.handle(Event::Loaded { request, result }, at(5));
    granted(&engine.run(&mut two, at(5)));
}

/// One in each round trip, and one more after the last hint, for a holder as for a waiter.
#[test]
fn a_flood_of_hints_costs_one_load_for_each_round_trip() {
    let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    engine.tell(&mut two, Event::Intent(Intent::Wait), at(1));
    for machine in [&mut one, &mut two] {
        let (mut loads, mut in_flight) = (0, None);
        for ms in 2..102 {
            for _ in 0..50 {
                machine.handle(Event::Noticed(None), at(ms));
                let load = requested_load(machine);
                loads += usize::from(load.is_some());
                in_flight = in_flight.or(load);
            }
            // The response to the one in flight, after ten milliseconds.
            if ms % 10 == 0 {
                let (request, result) = (in_flight.take().unwrap(), Ok(engine.now.clone()));
                machine.handle(Event::Loaded { request, result }, at(ms));
                in_flight = requested_load(machine);
                loads += usize::from(in_flight.is_some());
            }
        }
        assert_eq!(loads, 11, "ten round trips");
        for is_last in [false, true] {
            let (request, result) = (in_flight.take().unwrap(), Ok(engine.now.clone()));
            machine.handle(Event::Loaded { request, result }, at(102));
            in_flight = requested_load(machine);
            assert_eq!(in_flight.is_none(), is_last, "one more after the last hint");
        }
    }
}

#[test]
fn a_flood_of_hints_delays_neither_a_renewal_nor_a_release_by_more_than_a_round_trip() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    for (event, ms) in [(Event::Refresh, 10), (Event::Release, 20)] {
        one.handle(Event::Noticed(None), at(ms));
        let request = requested_load(&mut one).expect("it looks");
        one.handle(event, at(ms + 1));
        one.handle(Event::Noticed(None), at(ms + 2));
        one.handle(Event::Loaded { request, result: Ok(engine.now.clone()) }, at(ms + 3));
        // Not another load.
        let (request, expected, write) = requested_write(&mut one);
        let result = Ok(engine.exchange(expected, write));
        one.handle(Event::Exchanged { request, result }, at(ms + 4));
        engine.run(&mut one, at(ms + 4));
    }
    assert!(engine.register().is_idle());
}

/// A node that yields to joiners learns of one by a hint, and releases at once.
#[test]
fn a_hint_ends_a_deferred_release() {
    let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
    let mut now = at(0);
    one.note_contention();
    for turn in 0.. {
        assert!(turn < 100, "it never defers a release");
        engine.tell(&mut one, Event::Intent(Intent::Wait), now);
        one.handle(Event::Release, now);
        if one.in_flight.is_none() {
            break;
        }
        engine.run(&mut one, now);
        now = now + TRIP;
    }
    engine.tell(&mut two, Event::Intent(Intent::Wait), now);
    let told = engine.tell(&mut one, Event::Noticed(None), now);
    assert!(matches!(told[..], [Action::Released(Outcome::Held)]), "{told:?}");
}

/// One hint comes with each response. What the responses show is known since the acquisition began.
#[test]
fn a_flood_of_hints_keeps_no_acquisition_from_its_end() {
    for intent in [Intent::Wait, Intent::Try, Intent::Outlast] {
        let mut one = machine(1);
        one.handle(Event::Intent(intent), at(0));
        let garbage = Versioned { version: version(1), value: b"garbage"[..].into() };
        let failed = (1..10).find_map(|ms| match one.next_action()? {
            Action::Load { request } => {
                one.handle(Event::Noticed(None), at(ms));
                one.handle(Event::Loaded { request, result: Ok(Some(garbage.clone())) }, at(ms));
                None
            }
            Action::CompareExchange { request, .. } => {
                one.handle(Event::Noticed(None), at(ms));
                let result = Ok(Exchange::Mismatch(Some(garbage.clone())));
                one.handle(Event::Exchanged { request, result }, at(ms));
                None
            }
            action => Some(action),
        });
        assert!(matches!(failed, Some(Action::Failed(Failure::Unreadable(_)))), "{failed:?}");
    }
}
