//! Whoever gives up, at whatever step, leaves nothing behind, and nobody stuck.

use super::super::clock::MS;
use super::super::profile::Profile;
use super::super::world::World;
use crate::cluster::protocol::{Event, Intent};

/// What is done in the middle: the future of an acquire is dropped, a guard is, or both; or the
/// guard is given back and the lock wanted again.
fn interruptions() -> [Vec<Event>; 4] {
    let (nothing, wait) = (Event::Intent(Intent::Nothing), Event::Intent(Intent::Wait));
    [
        vec![nothing.clone()],
        vec![Event::Release],
        vec![nothing, Event::Release],
        vec![wait, Event::Release],
    ]
}

#[test]
fn giving_up_after_every_event_leaves_nothing_behind() {
    let (mut runs, mut granted) = (0, 0);
    let began = std::time::Instant::now();
    for profile in Profile::all() {
        let profile = Profile {
            nodes: [2, 3],
            calm_at: 1200 * MS,
            rest: [0, 150 * MS],
            hold: [0, 300 * MS],
            cancels: 0,
            tries: 0,
            ..profile
        };
        for seed in 0..3 {
            for events in interruptions() {
                for after in 1.. {
                    let mut world = World::new(profile.clone(), seed, false);
                    world.interruption = Some((1, after, events.clone()));
                    world.settle();
                    let name = profile.name;
                    let what = || format!("{name}, seed {seed}, {events:?} after {after} events");
                    assert_eq!(world.violation, None, "{}", what());
                    runs += 1;
                    granted += world.counts.grants;
                    if world.interruption.is_some() {
                        break;
                    }
                }
            }
        }
    }
    println!("{runs} runs, {granted} grants, {:?}", began.elapsed());
    assert!(runs > 2000, "too little happens: {runs} runs");
}
