//! The report: its figures, its serialization, and the names of loads.

use lockword::contention::{
    Arrivals, Batch, Comparison, ComparisonReport, Conditions, FORMAT, Load, Lockword, MachineInfo,
    Sample, Skew, Work,
};

fn sample(acquisitions: &[u64]) -> Sample {
    Sample {
        elapsed_ns: 2e9,
        acquisitions: acquisitions.to_vec(),
        hog_acquisitions: None,
        cpu_ns: Some(1e9),
        conditions: Conditions {
            unit_ns: 1.0,
            run_delay: None,
            most_run_delay: None,
            others_running: None,
        },
    }
}

#[test]
fn the_fairness_factor_is_the_share_of_the_luckier_half() {
    let factor = |acquisitions: &[u64]| sample(acquisitions).fairness_factor();
    assert_eq!(factor(&[5, 5]), 0.5);
    assert_eq!(factor(&[1, 3]), 0.75);
    assert_eq!(factor(&[0, 8, 0, 0]), 1.0);
    assert_eq!(factor(&[1, 4, 2, 3]), 0.7);
    // The middle one of three threads counts half, and a single thread is fair.
    assert_eq!(factor(&[2, 2, 2]), 0.5);
    assert_eq!(factor(&[6, 2, 0]), 0.875);
    assert_eq!(factor(&[7]), 0.5);
    assert_eq!(factor(&[0, 0]), 0.0, "no acquisition");
}

#[test]
fn rates_and_cpu_time_of_a_sample() {
    let uneven = sample(&[100, 25, 75]);
    assert_eq!(uneven.total(), 200);
    assert_eq!(uneven.per_second(), 100.0);
    assert_eq!(uneven.cpu_ns_each(), Some(5e6));
    assert_eq!(uneven.unluckiest_over_luckiest(), 0.25);
    assert_eq!(Sample { elapsed_ns: 0.0, ..uneven }.per_second(), 0.0);
    let none = sample(&[0, 0]);
    assert_eq!((none.per_second(), none.unluckiest_over_luckiest()), (0.0, 0.0));
}

#[test]
fn a_report_is_equal_after_serialization() {
    let load = Load::new(2).inside(Work::units(3)).outside(Work::nanos(50)).slice_ms(2);
    let report = Comparison::new()
        .lock::<Lockword>("lockword")
        .load(load.clone().batch(Batch { acquisitions: 3, pause_ns: 100 }))
        .load(load.clone().locks(3).skew(Skew::Zipf(0.99)).pin(true))
        .load(load.hog(Work::clock(1_000)).arrivals(Arrivals::Open { per_second: 1e4 }))
        .rounds(2)
        .waits(true)
        .run_quietly()
        .expect("it runs");
    assert_eq!(report.format, FORMAT);
    let text = serde_json::to_string(&report).expect("writes");
    let back: ComparisonReport = serde_json::from_str(&text).expect("reads");
    // The last digit of a fraction may differ in JSON.
    let (mut once, mut twice) = (report, back);
    for report in [&mut once, &mut twice] {
        report.machine.unit_ns = 0.0;
        report.machine.load_average = None;
        for lock in report.cells.iter_mut().flat_map(|cell| &mut cell.locks) {
            let waits = lock.waits.as_mut().expect("waits are timed");
            waits.curve.iter_mut().for_each(|(share, _)| *share = (*share * 1e9).round());
        }
    }
    assert_eq!(once, twice);
}

#[test]
fn the_name_of_a_load_has_every_setting_but_the_slice() {
    let load = Load::new(8).inside(Work::nanos(100)).outside(Work::nanos(100));
    assert_eq!(load.name(), "8 threads, 100/100 ns");
    assert_eq!(
        Load::new(1).inside(Work::units(2)).outside(Work::units(9)).name(),
        "1 thread, 2/9 units"
    );
    let mixed = Load::new(2).inside(Work::clock(200_000)).outside(Work::NONE);
    assert_eq!(mixed.name(), "2 threads, 200 us by the clock / 0 ns");
    let all = load
        .locks(64)
        .skew(Skew::Zipf(0.9))
        .hog(Work::clock(1_000_000))
        .batch(Batch { acquisitions: 4, pause_ns: 2_500 })
        .arrivals(Arrivals::Open { per_second: 1e6 })
        .pin(true);
    assert_eq!(
        all.name(),
        "8 threads, 100/100 ns, 64 locks, Zipf 0.9, batches of 4 and 2500 ns, \
         hog of 1 ms by the clock, 1000000 a second, pinned"
    );
}

#[test]
fn the_machine_is_described() {
    let machine = MachineInfo::read();
    assert!(machine.processors > 0 && machine.unit_ns > 0.0);
    assert_eq!(machine.architecture, std::env::consts::ARCH);
    let text = machine.to_string();
    assert!(text.contains(&machine.system) && text.contains("processor"), "{text}");
    if cfg!(target_os = "linux") {
        assert!(machine.load_average.is_some() && machine.system.starts_with("linux "));
    }
}
