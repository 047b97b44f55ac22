//! A queue full of dead nodes costs claim windows, not leases.

use super::super::clock::{MS, Moment};
use super::{FAST, SLOW, story};
use crate::cluster::transport::Wakeups;

/// What a time on the slowest clock takes, and what the messages and timers besides.
fn at_most(time: Moment) -> Moment {
    time * 100 / 99 + 30 * MS
}

#[test]
fn twenty_dead_waiters_and_a_dead_holder_are_passed_over() {
    for wakeups in [Wakeups::PushToOne, Wakeups::PushToAll, Wakeups::Poll] {
        for seed in 0..10 {
            let mut world = story(seed);
            world.wakeups = wakeups;
            let [lease, claim] = [world.lease(), world.profile.claim_window];
            // Whoever is not woken learns of a reservation when it looks.
            let look = |dead| match wakeups {
                Wakeups::PushToAll => 0,
                Wakeups::PushToOne => (lease / 3).min(dead * claim / 2),
                Wakeups::Poll => claim / 2,
            };
            // The holder, the twenty, and three who live, with a dead one before each.
            let nodes: Vec<_> = (0..26)
                .map(|n| world.add_node_with_clock(if n % 2 == 0 { SLOW } else { FAST }))
                .collect();
            world.get(nodes[0]);
            nodes[1..].iter().for_each(|node| world.queue_up(*node));
            let (dead, alive) = ([0..21, 22..23, 24..25], [21, 23, 25]);
            dead.into_iter().flatten().for_each(|node| assert!(world.kill(nodes[node])));

            let bound = at_most(lease + lease / 100 + 20 * claim + look(20));
            let took = world.await_until(bound, "past the dead", |world| world.holds(alive[0]));
            if seed == 0 {
                println!("{wakeups:?}: past 21 dead in {} of {} ms", took / MS, bound / MS);
            }
            for pair in alive.windows(2) {
                world.release(pair[0], 0);
                let bound = at_most(claim + look(1));
                let took = world.await_until(bound, "past one", |world| world.holds(pair[1]));
                if seed == 0 {
                    println!("{wakeups:?}: past 1 dead in {} of {} ms", took / MS, bound / MS);
                }
            }
            world.release(alive[2], 0);
            world.await_until(lease, "it ends", |world| world.is_at_rest());
            assert!(world.stores[0].register().is_idle(), "seed {seed}: someone is left");
        }
    }
}

/// A node that joins the queue writes the register, but says nothing of the holder.
#[test]
fn those_who_join_do_not_keep_a_dead_holder_alive() {
    for seed in 0..20 {
        let mut world = story(seed);
        let nodes: Vec<_> = (0..8).map(|_| world.add_node_with_clock(SLOW)).collect();
        world.get(nodes[0]);
        world.queue_up(nodes[1]);
        world.kill(nodes[0]);
        let (lease, killed) = (world.lease(), world.now);
        for node in &nodes[2..] {
            world.go_on_for(lease / 8);
            world.queue_up(*node);
        }
        let bound = at_most(lease + lease / 100) - (world.now - killed);
        world.await_until(bound, "it takes over", |world| world.holds(nodes[1]));
    }
}
