//! Nodes that take the lock again at the very moment at which they give it back.

use super::super::clock::{MS, Moment};
use super::story;
use crate::cluster::protocol::Wish;
use crate::cluster::simulation::world::World;
use crate::cluster::transport::Wakeups;

/// A world of one node for each of these round trips; of any, if it is nothing.
fn hogs(seed: u64, trips: &[Option<Moment>]) -> World {
    let mut world = story(seed);
    world.profile.claim_window = 500 * MS;
    world.wakeups = [Wakeups::PushToOne, Wakeups::PushToAll][seed as usize % 2];
    for trip in trips {
        let node = world.add_node_with_clock(0);
        world.nodes[node].latency = trip.map(|trip| trip / 2);
    }
    world
}

/// Goes on: each of the first `count` nodes frees the lock as soon as it has it, and wants it again.
fn hog(world: &mut World, count: usize, within: Moment, is_done: impl Fn(&World) -> bool) -> bool {
    let until = world.now + within;
    while world.now < until && !is_done(world) {
        for node in 0..count {
            if world.holds(node) {
                world.wish(node, 0, Wish::Wait);
                world.release(node, 0);
            } else if world.nodes[node].seats[0].local.wish.is_none() {
                world.wish(node, 0, Wish::Wait);
            }
        }
        let holds = |world: &World| (0..count).any(|node| world.holds(node));
        world.run(until, |world| holds(world) || is_done(world));
        world.check();
    }
    is_done(world)
}

#[test]
fn a_node_in_a_tight_loop_lets_others_in() {
    for (trip, within) in [(MS, 1000 * MS), (20 * MS, 10_000 * MS)] {
        let mut longest = 0;
        for seed in 0..8 {
            let mut world = hogs(seed, &[Some(MS), Some(trip)]);
            let before = world.random.u64(..2000 * MS);
            hog(&mut world, 1, before, |_| false);
            assert!(world.counts.grants > before / (10 * MS), "it is alone, and busy");
            let since = world.now;
            world.wish(1, 0, Wish::Wait);
            let is_in = hog(&mut world, 1, within, |world| world.holds(1));
            assert!(is_in, "{trip} ns, seed {seed}: not within {} ms{}", within / MS, world.tail());
            longest = longest.max(world.now - since);
        }
        println!("beside a tight loop, {} ms away: had in {} ms at most", trip / MS, longest / MS);
    }
}

/// Also where all round trips are of the same length, so that no chance helps.
#[test]
fn eight_nodes_in_tight_loops_all_get_their_turns() {
    for (seed, trip) in [None, Some(MS)].into_iter().cycle().take(4).enumerate() {
        let mut world = hogs(seed as u64, &[trip; 8]);
        hog(&mut world, 8, 3000 * MS, |_| false);
        let turns: Vec<_> = world.nodes.iter().map(|node| node.seats[0].local.grants).collect();
        let (least, most) = (*turns.iter().min().unwrap(), *turns.iter().max().unwrap());
        println!("turns of eight in 3 s, seed {seed}, {trip:?} ns away: {turns:?}");
        assert!(least > 20 && most < 3 * least, "seed {seed}, {trip:?} ns: {turns:?}");
    }
}

/// Those who are near hand the lock to each other, and never write at the same time.
#[test]
fn a_node_far_away_gets_in_beside_two_that_are_near() {
    let mut longest = 0;
    for seed in 0..4 {
        let mut world = hogs(seed, &[Some(MS), Some(MS), Some(20 * MS)]);
        let before = world.random.u64(500 * MS..2000 * MS);
        hog(&mut world, 2, before, |_| false);
        let since = world.now;
        world.wish(2, 0, Wish::Wait);
        let is_in = hog(&mut world, 2, 20_000 * MS, |world| world.holds(2));
        assert!(is_in, "seed {seed}: not within 20 s{}", world.tail());
        longest = longest.max(world.now - since);
    }
    println!("20 ms away, beside two that are 1 ms away: had in {} ms at most", longest / MS);
}
