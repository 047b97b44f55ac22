//! Many nodes that want the lock all the time: what a grant costs, and in what order they come.

use super::super::clock::{MS, Moment};
use super::super::profile::Profile;
use super::super::runs::run;
use super::super::world::{Counts, World};
use super::story;
use crate::cluster::protocol::Intent;
use crate::cluster::transport::Wakeups;

fn contention(nodes: usize, wakeups: Wakeups) -> Profile {
    Profile {
        nodes: [nodes, nodes],
        wakeups: Some(wakeups),
        calm_at: 3000 * MS,
        rest: [5 * MS, 20 * MS],
        hold: [0, 5 * MS],
        long_holds: 0,
        refreshes: 0,
        tries: 0,
        cancels: 0,
        ..Profile::calm()
    }
}

fn checked(profile: Profile, seed: u64) -> Counts {
    let report = run(profile.clone(), seed, false);
    assert_eq!(report.violation, None, "{profile:?}");
    report.counts
}

#[test]
fn a_grant_takes_three_writes_however_many_want_it_and_the_order_is_that_of_coming() {
    println!("wake-ups   nodes   grants   writes a grant   passed over");
    for wakeups in [Wakeups::PushToOne, Wakeups::PushToAll, Wakeups::Poll] {
        for nodes in [2, 4, 8, 16, 32] {
            let counts = checked(contention(nodes, wakeups), nodes as u64);
            let cost = counts.writes as f64 / counts.grants as f64;
            println!(
                "{:9} {nodes:6} {:8} {cost:16.3} {:13}",
                format!("{wakeups:?}"),
                counts.grants,
                counts.inversions
            );
            assert!(counts.grants > 30, "{counts:?}");
            assert!(cost <= 3.0, "{cost}");
            assert_eq!(counts.inversions, 0);
        }
    }
}

/// Those whom the queue has no room for wait to join it, and write nothing.
#[test]
fn a_short_queue_costs_no_writes() {
    for wakeups in [Wakeups::PushToOne, Wakeups::PushToAll, Wakeups::Poll] {
        let profile = Profile { queue_limit: 2, ..contention(8, wakeups) };
        let counts = checked(profile, 8);
        assert!(counts.grants > 30, "{counts:?}");
        assert!(counts.writes <= 3 * counts.grants, "{counts:?}");
    }
}

/// Requests for a grant, where so many nodes have the lock for that long, and want it again at once.
fn requests(nodes: usize, wakeups: Wakeups, hold: Moment) -> f64 {
    let mut world = story(nodes as u64);
    world.wakeups = wakeups;
    for node in 0..nodes {
        world.add_node_with_clock(0);
        world.nodes[node].latency = Some(MS / 2);
        world.intent(node, 0, Intent::Wait);
    }
    let mut before = Counts::default();
    for turn in 0..8 * nodes {
        if turn == 2 * nodes {
            before = world.counts;
        }
        let holder = |world: &World| (0..nodes).find(|node| world.holds(*node));
        world.await_until(10_000 * MS, "somebody has it", |world| holder(world).is_some());
        let node = holder(&world).expect("somebody has it");
        world.go_on_for(hold);
        world.release(node, 0);
        world.await_until(1000 * MS, "it is given back", |world| world.is_idle(node));
        world.intent(node, 0, Intent::Wait);
    }
    let Counts { requests, grants, .. } = world.counts;
    (requests - before.requests) as f64 / (grants - before.grants) as f64
}

/// Three writes; and where the watch does not show who joins and confirms, a look before joining, and
/// one release that goes by what was before somebody joined.
#[test]
fn requests_for_a_grant_do_not_grow_with_those_who_wait() {
    for (wakeups, limit) in [(Wakeups::PushToAll, 3.05), (Wakeups::PushToOne, 5.05)] {
        // Who waits for long looks from time to time, which is not meant here.
        let found = [2, 4, 32].map(|nodes| requests(nodes, wakeups, 10 * MS));
        println!("{wakeups:?}: {found:.2?} requests where 2, 4 and 32 nodes wait");
        assert!(found.iter().all(|found| *found <= limit), "{wakeups:?}: {found:?}");
    }
}
