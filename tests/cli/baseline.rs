//! Comparing a report with an earlier one.

use crate::support::{Folder, bench, lockword, run, status, stderr, stdout};

/// The smallest number of rounds that can be judged.
const ROUNDS: [&str; 2] = ["--rounds", "6"];

#[test]
fn a_report_is_level_with_itself() {
    let folder = Folder::new("itself");
    let path = folder.measure("report.json", &ROUNDS);
    for more in [&[][..], &["--relative"]] {
        let output = run(lockword(&[&["compare", &path, &path], more].concat()));
        assert_eq!(status(&output), 0, "{}{}", stdout(&output), stderr(&output));
        assert!(stdout(&output).contains("level"), "{}", stdout(&output));
        assert!(!stdout(&output).contains("SLOWER"), "{}", stdout(&output));
    }
}

#[test]
fn a_lock_below_a_faster_baseline_is_slower() {
    let folder = Folder::new("faster_baseline");
    folder.measure("report.json", &ROUNDS);
    // On a busy machine the rounds differ much, so all of them are set to the same figures.
    let mut report = folder.json("report.json");
    for lock in report["cells"][0]["locks"].as_array_mut().unwrap() {
        for sample in lock["samples"].as_array_mut().unwrap() {
            sample["elapsed_ns"] = 2e6.into();
            sample["acquisitions"] = vec![1000, 1000].into();
        }
    }
    let path = folder.write("report.json", &report.to_string());
    let better = folder.scale("report.json", "better.json", 1.3);
    let output = run(lockword(&["compare", &better, &path]));
    assert_eq!(status(&output), 1, "{}", stderr(&output));
    assert!(stdout(&output).contains("SLOWER"), "{}", stdout(&output));
    // A lock that has become faster is no failure, nor is one within the threshold.
    assert_eq!(status(&run(lockword(&["compare", &path, &better]))), 0);
    let within = run(lockword(&["compare", &better, &path, "--threshold", "40"]));
    assert_eq!(status(&within), 0, "{}", stdout(&within));
    // If all locks are slower alike, the machine is.
    let relative = run(lockword(&["compare", &better, &path, "--relative"]));
    assert_eq!(status(&relative), 0, "{}", stdout(&relative));
}

#[test]
fn a_bench_with_a_baseline_fails_if_a_lock_is_slower() {
    let folder = Folder::new("bench");
    folder.measure("report.json", &ROUNDS);
    // The factors are large enough for any disturbance of a busy machine.
    let better = folder.scale("report.json", "better.json", 1e4);
    let worse = folder.scale("report.json", "worse.json", 1e-4);
    let renewed = folder.write("renewed.json", "old");
    let with = |more: &[&str]| run(bench(&[&ROUNDS, more].concat()));
    let slower = with(&["--baseline", &better, "--json", &renewed]);
    assert_eq!(status(&slower), 1, "{}", stderr(&slower));
    assert!(stdout(&slower).contains("SLOWER"), "{}", stdout(&slower));
    assert_eq!(
        folder.json("renewed.json")["format"],
        1,
        "the report is written even if a lock is slower"
    );
    let level = with(&["--baseline", &worse]);
    assert_eq!(status(&level), 0, "{}", stderr(&level));
}

#[test]
fn a_load_of_only_one_report_is_listed() {
    let folder = Folder::new("one_of_them");
    let both = folder.measure("both.json", &ROUNDS);
    let wide = folder.measure("wide.json", &["--inside", "10,20", "--rounds", "6"]);
    let output = run(lockword(&["compare", &wide, &both]));
    let text = stdout(&output);
    assert!(text.contains("only in the baseline: 2 threads, 20/10 ns"), "{text}");
}

#[test]
fn fewer_than_six_rounds_decide_nothing() {
    let folder = Folder::new("few_rounds");
    folder.measure("report.json", &ROUNDS);
    let better = folder.scale("report.json", "better.json", 1e4);
    // One lock of the later report has too few rounds.
    let mut report = folder.json("report.json");
    report["cells"][0]["locks"][0]["samples"].as_array_mut().unwrap().truncate(5);
    let few = folder.write("few.json", &report.to_string());
    let output = run(lockword(&["compare", &better, &few]));
    let text = stdout(&output);
    assert!(text.contains("undecided: fewer than six rounds"), "{text}");
    assert!(text.contains("1 of 1 slower"), "{text}");
}
