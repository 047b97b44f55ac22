//! Many nodes that want the lock all the time: what a grant costs, and in what order they come.

use super::super::clock::MS;
use super::super::profile::Profile;
use super::super::runs::run;
use super::super::world::Counts;
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
