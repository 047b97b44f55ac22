//! A holder whose time is over before it knows: it slept for three leases, or was cut off.

use super::super::clock::MS;
use super::{FAST, SLOW, story};
use crate::cluster::sim::world::World;

/// A holder whose clock is slow, and a node that waits, whose clock is fast; some time has passed.
fn holder_and_waiter(seed: u64) -> World {
    let mut world = story(seed);
    world.add_node_with_clock(SLOW);
    world.add_node_with_clock(FAST);
    world.get(0);
    let before = world.random.u64(..2 * world.lease());
    world.go_on_for(before);
    world.queue_up(1);
    let before = world.random.u64(..world.lease());
    world.go_on_for(before);
    assert!(world.holds(0) && world.is_valid(0, 0), "it renews");
    world
}

#[test]
fn a_holder_that_slept_is_not_valid_any_more_and_is_refused() {
    let mut least = u64::MAX;
    for seed in 0..1000 {
        let mut world = holder_and_waiter(seed);
        world.freeze(0);
        let held_lease = world.nodes[0].seats[0].local.held_lease.unwrap();
        let deadline = world.nodes[0].clock.when(held_lease.deadline);
        let thaw = world.now + 3 * world.lease();
        let within = thaw - world.now;
        world.await_until(within, "the other takes over", |world| world.holds(1));
        // Not at the same time, in true time.
        assert!(deadline < world.now, "seed {seed}: valid until {deadline}, but {}", world.now);
        least = least.min(world.now - deadline);
        // The newer one comes to the resource first.
        let key = world.keys[0].clone();
        let newer = world.nodes[1].seats[0].local.held_lease.unwrap().token;
        world.gate.pass(&key, newer).unwrap();
        world.go_on_for(thaw - world.now);
        // The first instruction after the thaw: nothing has told the holder yet.
        assert!(world.holds(0) && !world.is_valid(0, 0), "seed {seed}");
        let stale = world.gate.pass(&key, held_lease.token).unwrap_err();
        assert_eq!(stale.newest, newer);
        world.thaw(0);
        world.go_on_for(30 * MS);
        assert!(!world.holds(0), "seed {seed}: it was not told");
        assert!(world.holds(1) && world.is_valid(1, 0), "seed {seed}: the other was disturbed");
    }
    // The two clocks together use up nearly all of what is allowed: so the test is a sharp one.
    println!("the least time between a deadline and the next grant: {} us", least / 1000);
    assert!(least < 10 * MS, "{least}");
}

#[test]
fn a_holder_that_is_cut_off_is_told_before_the_other_is_granted() {
    let mut least = u64::MAX;
    for seed in 0..1000 {
        let mut world = holder_and_waiter(seed);
        world.part(0);
        let within = world.lease() * 2;
        world.await_until(within, "the holder is told", |world| !world.holds(0));
        assert!(!world.holds(1), "seed {seed}");
        let told = world.now;
        world.await_until(within, "the other takes over", |world| world.holds(1));
        least = least.min(world.now - told);
    }
    println!("the least time between the telling and the next grant: {} us", least / 1000);
    assert!(least > 0);
}
