//! Many nodes that want the lock all the time: what a grant costs, and in what order they come.

use super::super::clock::MS;
use super::super::profile::Profile;
use super::super::runs::run;
use crate::cluster::transport::Wakeups;

#[test]
fn a_grant_takes_three_writes_however_many_want_it_and_the_order_is_that_of_coming() {
    println!("wake-ups   nodes   grants   writes a grant   passed over");
    for wakeups in [Wakeups::PushToOne, Wakeups::PushToAll, Wakeups::Poll] {
        for nodes in [2, 4, 8, 16, 32] {
            let profile = Profile {
                nodes: [nodes, nodes],
                wakeups: Some(wakeups),
                calm_at: 3000 * MS,
                rest: [5 * MS, 20 * MS],
                hold: [0, 5 * MS],
                long_holds: 0,
                tries: 0,
                cancels: 0,
                ..Profile::calm()
            };
            let report = run(profile, nodes as u64, false);
            assert_eq!(report.violation, None, "{wakeups:?}, {nodes} nodes");
            let counts = report.counts;
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
