//! Nodes that take the lock again at the very moment at which they give it back.

use super::super::clock::{MS, Moment};
use super::story;
use crate::cluster::protocol::Intent;
use crate::cluster::sim::world::World;
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

/// When a hog wants the lock again.
#[derive(Clone, Copy, Debug)]
enum Again {
    /// Before it gives it back.
    Before,
    /// When it has given it back.
    After,
}

impl World {
    /// How often each node had the lock.
    fn turns(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.seats[0].local.grants).collect()
    }
}

/// Goes on: each of the first `count` nodes frees the lock as soon as it has it, and wants it again.
fn hog(world: &mut World, count: usize, within: Moment, is_done: impl Fn(&World) -> bool) -> bool {
    hog_again(world, count, Again::Before, within, is_done)
}

fn hog_again(
    world: &mut World,
    count: usize,
    again: Again,
    within: Moment,
    is_done: impl Fn(&World) -> bool,
) -> bool {
    let until = world.now + within;
    while world.now < until && !is_done(world) {
        for node in 0..count {
            if world.holds(node) {
                if matches!(again, Again::Before) {
                    world.intent(node, 0, Intent::Wait);
                }
                world.release(node, 0);
            } else if world.is_idle(node) {
                world.intent(node, 0, Intent::Wait);
            }
        }
        let goes_on = |world: &World, node| world.holds(node) || world.is_idle(node);
        world.run(until, |world| (0..count).any(|node| goes_on(world, node)) || is_done(world));
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
            world.intent(1, 0, Intent::Wait);
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
        let turns = world.turns();
        let (least, most) = (*turns.iter().min().unwrap(), *turns.iter().max().unwrap());
        println!("turns of eight in 3 s, seed {seed}, {trip:?} ns away: {turns:?}");
        assert!(least > 20 && most < 3 * least, "seed {seed}, {trip:?} ns: {turns:?}");
    }
}

/// The same where round trips are short, so that everything else takes long beside them: nobody is
/// kept out, no more is written than a handoff takes, and where the engine wakes only one, the lock does
/// not wander at each turn.
#[test]
fn eight_nodes_near_the_engine_share_the_turns() {
    for again in [Again::Before, Again::After] {
        for seed in 0..2 {
            let mut world = hogs(seed, &[Some(MS / 20); 8]);
            hog_again(&mut world, 8, again, 250 * MS, |_| false);
            let turns = world.turns();
            let (least, most) = (*turns.iter().min().unwrap(), *turns.iter().max().unwrap());
            let even = least as f64 / most as f64;
            let writes = world.counts.writes as f64 / world.counts.grants as f64;
            println!("wanted {again:?}, seed {seed}: {even:.2}, {writes:.2} writes: {turns:?}");
            assert!(even >= 0.3, "seed {seed}: {turns:?}");
            let limit = if world.wakeups == Wakeups::PushToOne { 2.9 } else { 3.01 };
            assert!(writes <= limit, "seed {seed}: {writes}");
        }
    }
}

/// Whom nobody disturbs any more does not go on waiting for others.
#[test]
fn a_node_that_was_left_alone_is_soon_as_fast_as_one_that_always_was() {
    let mut alone = hogs(0, &[Some(MS / 20)]);
    hog_again(&mut alone, 1, Again::After, 200 * MS, |_| false);
    let mut left = hogs(0, &[Some(MS / 20); 2]);
    hog_again(&mut left, 2, Again::After, 50 * MS, |_| false);
    let begun = left.counts.grants;
    if left.holds(1) {
        left.release(1, 0);
    } else {
        left.intent(1, 0, Intent::Nothing);
    }
    hog_again(&mut left, 1, Again::After, 200 * MS, |_| false);
    let (alone, left) = (alone.counts.grants, left.counts.grants - begun);
    println!("turns in 200 ms: {alone} alone, {left} left alone");
    assert!(left * 10 > alone * 9, "{left} of {alone}");
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
        world.intent(2, 0, Intent::Wait);
        let is_in = hog(&mut world, 2, 20_000 * MS, |world| world.holds(2));
        assert!(is_in, "seed {seed}: not within 20 s{}", world.tail());
        longest = longest.max(world.now - since);
    }
    println!("20 ms away, beside two that are 1 ms away: had in {} ms at most", longest / MS);
}
