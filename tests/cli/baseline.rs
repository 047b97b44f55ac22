//! Comparing with an earlier report.

use crate::support::{Folder, bench, lockword, run, status, stderr, stdout};

/// As many rounds as a judgement takes.
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
fn a_doctored_baseline_is_not_reached() {
    let folder = Folder::new("doctored");
    folder.measure("report.json", &ROUNDS);
    // On a busy machine the rounds spread: let all of them be alike.
    let mut report = folder.json("report.json");
    for lock in report["cells"][0]["locks"].as_array_mut().unwrap() {
        for sample in lock["samples"].as_array_mut().unwrap() {
            sample["elapsed_ns"] = 2e6.into();
            sample["acquisitions"] = vec![1000, 1000].into();
        }
    }
    let path = folder.write("report.json", &report.to_string());
    let better = folder.doctor("report.json", "better.json", 1.3);
    let output = run(lockword(&["compare", &better, &path]));
    assert_eq!(status(&output), 1, "{}", stderr(&output));
    assert!(stdout(&output).contains("SLOWER"), "{}", stdout(&output));
    // The other way round all is well, and a wider threshold forgives.
    assert_eq!(status(&run(lockword(&["compare", &path, &better]))), 0);
    let forgiven = run(lockword(&["compare", &better, &path, "--threshold", "40"]));
    assert_eq!(status(&forgiven), 0, "{}", stdout(&forgiven));
    // All locks alike: that is the machine.
    let relative = run(lockword(&["compare", &better, &path, "--relative"]));
    assert_eq!(status(&relative), 0, "{}", stdout(&relative));
}

#[test]
fn a_bench_compares_with_its_baseline() {
    let folder = Folder::new("bench");
    folder.measure("report.json", &ROUNDS);
    // So far off that no busy machine makes a difference.
    let better = folder.doctor("report.json", "better.json", 1e4);
    let worse = folder.doctor("report.json", "worse.json", 1e-4);
    let renewed = folder.write("renewed.json", "old");
    let with = |more: &[&str]| run(bench(&[&ROUNDS, more].concat()));
    let slower = with(&["--baseline", &better, "--json", &renewed]);
    assert_eq!(status(&slower), 1, "{}", stderr(&slower));
    assert!(stdout(&slower).contains("SLOWER"), "{}", stdout(&slower));
    assert_eq!(folder.json("renewed.json")["format"], 1, "slower is a result too");
    let level = with(&["--baseline", &worse]);
    assert_eq!(status(&level), 0, "{}", stderr(&level));
}

#[test]
fn what_is_only_in_one_of_them_is_told() {
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
    let better = folder.doctor("report.json", "better.json", 1e4);
    // One lock of the later report has too few rounds.
    let mut report = folder.json("report.json");
    report["cells"][0]["locks"][0]["samples"].as_array_mut().unwrap().truncate(5);
    let few = folder.write("few.json", &report.to_string());
    let output = run(lockword(&["compare", &better, &few]));
    let text = stdout(&output);
    assert!(text.contains("undecided: fewer than six rounds"), "{text}");
    assert!(text.contains("1 of 1 slower"), "{text}");
}
