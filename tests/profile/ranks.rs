//! The example: a program that also counts by itself.

use crate::program::run;
use lockword::profile;

/// Within a tenth, or within a margin.
#[track_caller]
fn assert_near(what: &str, profiled: u64, counted: u64, margin: u64) {
    let limit = counted / 10 + margin;
    assert!(profiled.abs_diff(counted) <= limit, "{what}: {profiled}, by itself {counted}");
}

#[test]
fn the_profile_ranks_three_hot_places_and_its_numbers_are_right() {
    let _turn = crate::started();
    let counted = run(4, 1_000);
    let report = profile::report();
    println!("{report}");
    let lines: Vec<u32> = report.places.iter().map(|place| place.place.line).collect();
    let mut ranks = counted;
    // Those of the lock that nobody else uses have taken long only all together.
    ranks.sort_by_key(|it| std::cmp::Reverse((it.name != "own", it.waited)));
    let names: Vec<_> = ranks.iter().map(|it| it.name).collect();
    assert_eq!(names[..3], ["cache", "journal", "config"], "the program is not what it should be");
    assert_eq!(lines[..3], ranks[..3].iter().map(|it| it.line).collect::<Vec<_>>());
    for (mut counted, found) in ranks.into_iter().zip(report.places) {
        let name = counted.name;
        if name == "own" {
            assert_near(name, found.acquisitions, counted.acquisitions, 0);
            assert_eq!((found.contended, found.waits.count), (0, 0));
            continue;
        }
        // Acquisitions without waiting are few here, and so are their samples: 7 standard deviations.
        let calm = counted.acquisitions - found.contended;
        let margin = 7.0 * (calm as f64 * 61.0).sqrt();
        assert_near(name, found.acquisitions, counted.acquisitions, margin as u64);
        // Others come and go between the program's look at the lock and its acquisition.
        assert_near(name, found.contended, counted.contended, counted.acquisitions / 20);
        // Each acquisition of the program has two readings of the clock in it.
        let readings = counted.acquisitions * 100;
        let waited = counted.waited.as_nanos() as u64;
        assert_near(name, found.waits.total_ns, waited, readings);
        // The median of a sample of n is at 0.5 of all, and its standard deviation there is 0.5 / root of n.
        counted.holds.sort_unstable();
        let aside = (2.5 / (found.holds.count as f64).sqrt()).min(0.5);
        let bounds = [0.5 - aside, 0.5 + aside].map(|share| {
            let at = (share * (counted.holds.len() - 1) as f64) as usize;
            counted.holds[at].as_nanos() as u64
        });
        let [least, most] = [bounds[0] / 10 * 9, bounds[1] / 10 * 11];
        let median = found.holds.p50_ns;
        assert!((least..=most).contains(&median), "{name}: {median}, by itself {bounds:?}");
    }
}
