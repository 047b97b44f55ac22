//! Comparing with an earlier report.

use crate::support::{Folder, bench, lockword, run, status, stderr, stdout};

#[test]
fn a_report_is_level_with_itself() {
    let folder = Folder::new("itself");
    let path = folder.measure("report.json", &[]);
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
    let path = folder.measure("report.json", &[]);
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
    folder.measure("report.json", &[]);
    // So far off that no busy machine makes a difference.
    let better = folder.doctor("report.json", "better.json", 1e4);
    let worse = folder.doctor("report.json", "worse.json", 1e-4);
    let slower = run(bench(&["--baseline", &better]));
    assert_eq!(status(&slower), 1, "{}", stderr(&slower));
    assert!(stdout(&slower).contains("SLOWER"), "{}", stdout(&slower));
    let level = run(bench(&["--baseline", &worse]));
    assert_eq!(status(&level), 0, "{}", stderr(&level));
    // The same file may be read and written.
    let renewed = run(bench(&["--baseline", &worse, "--json", &worse]));
    assert_eq!(status(&renewed), 0, "{}", stderr(&renewed));
    let compared = run(lockword(&["compare", &better, &worse]));
    assert_eq!(status(&compared), 1, "it is a new report: {}", stderr(&compared));
}

#[test]
fn what_is_only_in_one_of_them_is_told() {
    let folder = Folder::new("one_of_them");
    let both = folder.measure("both.json", &[]);
    let wide = folder.measure("wide.json", &["--inside", "10,20"]);
    let output = run(lockword(&["compare", &wide, &both]));
    let text = stdout(&output);
    assert!(text.contains("only in the baseline: 2 threads, 20/10 ns"), "{text}");
}
