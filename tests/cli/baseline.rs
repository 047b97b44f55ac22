//! Comparing a report with an earlier one.

use crate::support::{Folder, bench, change_samples, lockword, run, status, stderr, stdout};
use serde_json::{Value, json};

/// The smallest number of rounds that can be judged.
const ROUNDS: [&str; 2] = ["--rounds", "6"];

/// Writes a copy of a report in which lockword has so many times the acquisitions.
fn scaled(folder: &Folder, from: &str, to: &str, factor: f64) -> String {
    let mut report = folder.json(from);
    change_samples(&mut report, |lock, sample| {
        for count in sample["acquisitions"].as_array_mut().unwrap() {
            if lock == "lockword" {
                *count = Value::from((count.as_u64().unwrap() as f64 * factor) as u64 + 1);
            }
        }
    });
    folder.write(to, &report.to_string())
}

#[test]
fn a_report_is_level_with_itself() {
    let folder = Folder::new("itself");
    let path = folder.quiet("report.json", &ROUNDS);
    for more in [&[][..], &["--absolute"], &["--reference", "lockword"]] {
        let output = run(lockword(&[&["compare", &path, &path], more].concat()));
        assert_eq!(status(&output), 0, "{}{}", stdout(&output), stderr(&output));
        assert!(stdout(&output).contains("level"), "{}", stdout(&output));
        assert!(!stdout(&output).contains("SLOWER"), "{}", stdout(&output));
    }
}

#[test]
fn a_lock_below_a_faster_baseline_is_slower() {
    let folder = Folder::new("faster_baseline");
    let path = folder.quiet("report.json", &ROUNDS);
    let better = scaled(&folder, "report.json", "better.json", 1.14);
    for more in [&[][..], &["--absolute"]] {
        let output = run(lockword(&[&["compare", &better, &path], more].concat()));
        assert_eq!(status(&output), 1, "{}", stderr(&output));
        assert!(stdout(&output).contains("SLOWER"), "{}", stdout(&output));
    }
    // A lock that has become faster is no failure, nor is one within the threshold.
    assert_eq!(status(&run(lockword(&["compare", &path, &better]))), 0);
    let within = run(lockword(&["compare", &better, &path, "--threshold", "40"]));
    assert_eq!(status(&within), 0, "{}", stdout(&within));
    // The reference is not judged, and if it alone has changed, nor is another lock.
    let other = run(lockword(&["compare", &path, &better, "--reference", "lockword"]));
    assert_eq!(status(&other), 2, "{}", stdout(&other));
    assert!(stdout(&other).contains("it is not the lock alone that changed"), "{}", stdout(&other));
}

#[test]
fn a_report_that_was_disturbed_is_not_judged() {
    let folder = Folder::new("disturbed");
    let path = folder.quiet("report.json", &ROUNDS);
    let mut report = folder.json("report.json");
    // The work was shorter than stated.
    change_samples(&mut report, |_, sample| sample["conditions"]["unit_ns"] = json!(1e-3));
    let void = folder.write("void.json", &report.to_string());
    for (old, new, name) in [(&void, &path, "the baseline"), (&path, &void, "this report")] {
        let output = run(lockword(&["compare", old, new]));
        assert_eq!(status(&output), 2, "{}", stdout(&output));
        let why = stderr(&output);
        assert!(why.contains("6 of 6 rounds were disturbed") && why.contains(name), "{why}");
    }
    // It is known before anything is measured.
    let output = run(bench(&[&ROUNDS[..], &["--baseline", &void]].concat()));
    assert_eq!(status(&output), 2, "{}", stdout(&output));
    assert!(!stderr(&output).contains("Measuring"), "{}", stderr(&output));
}

#[test]
fn a_lone_lock_is_only_compared_absolutely() {
    let folder = Folder::new("lone");
    let path = folder.quiet("report.json", &["--locks", "lockword", "--rounds", "6"]);
    let output = run(lockword(&["compare", &path, &path]));
    assert_eq!(status(&output), 2, "{}", stdout(&output));
    assert!(stderr(&output).contains("--absolute"), "{}", stderr(&output));
    assert_eq!(status(&run(lockword(&["compare", &path, &path, "--absolute"]))), 0);
}

#[test]
fn a_bench_with_a_baseline_fails_if_a_lock_is_slower() {
    let folder = Folder::new("bench");
    folder.quiet("report.json", &ROUNDS);
    // The factors are large enough for any spread.
    let better = scaled(&folder, "report.json", "better.json", 1e4);
    let worse = scaled(&folder, "report.json", "worse.json", 1e-3);
    let renewed = folder.write("renewed.json", "old");
    let with = |more: &[&str]| run(bench(&[&["--rounds", "20"], more].concat()));
    let slower = with(&["--baseline", &better, "--json", &renewed]);
    let level = with(&["--baseline", &worse]);
    // The tests beside this one may disturb it, which is told.
    let disturbed = |output| {
        let text = stdout(output) + &stderr(output);
        text.contains("rounds were disturbed") || text.contains("undecided")
    };
    if !(status(&slower) == 2 && disturbed(&slower)) {
        assert_eq!(status(&slower), 1, "{}", stderr(&slower));
        assert!(stdout(&slower).contains("SLOWER"), "{}", stdout(&slower));
        let format = &folder.json("renewed.json")["format"];
        assert_eq!(*format, 3, "the report is written even if a lock is slower");
    }
    if !(status(&level) == 2 && disturbed(&level)) {
        assert_eq!(status(&level), 0, "{}", stderr(&level));
    }
}

#[test]
fn a_load_of_only_one_report_is_listed() {
    let folder = Folder::new("one_of_them");
    let both = folder.quiet("both.json", &ROUNDS);
    let wide = folder.quiet("wide.json", &["--inside", "10,20", "--rounds", "6"]);
    let output = run(lockword(&["compare", &wide, &both]));
    let text = stdout(&output);
    assert!(text.contains("only in the baseline: 2 threads, 20/10 ns"), "{text}");
}

#[test]
fn fewer_than_six_rounds_decide_nothing() {
    let folder = Folder::new("few_rounds");
    folder.quiet("report.json", &["--locks", "lockword,std,usync", "--rounds", "6"]);
    let better = scaled(&folder, "report.json", "better.json", 1e4);
    // One lock of the later report has too few rounds.
    let mut report = folder.json("report.json");
    report["cells"][0]["locks"][2]["samples"].as_array_mut().unwrap().truncate(5);
    let few = folder.write("few.json", &report.to_string());
    let output = run(lockword(&["compare", &better, &few]));
    let text = stdout(&output);
    assert!(text.contains("undecided: too few rounds count"), "{text}");
    assert!(text.contains("1 of 1 slower"), "{text}");
    // Without a slower lock it is no success.
    let report = folder.path("report.json");
    assert_eq!(status(&run(lockword(&["compare", &report, &few]))), 2);
}
