//! Bad input: one line, exit status 2 (64 where nothing is to be measured), and no file is touched.

use crate::support::{Folder, bench, lockword, run, status, stderr, stdout};
use serde_json::Value;
use std::process::Command;

/// Runs a command that must be refused, and returns its only line of output.
fn refused(command: Command) -> String {
    refused_with(2, command)
}

fn refused_with(code: i32, command: Command) -> String {
    let output = run(command);
    let line = stderr(&output);
    assert_eq!(status(&output), code, "{line}");
    assert_eq!(line.trim_end().lines().count(), 1, "one line:\n{line}");
    assert!(line.starts_with("lockword: "), "{line}");
    assert_eq!(stdout(&output), "", "nothing was measured");
    line
}

#[test]
fn invalid_arguments_are_refused_by_name() {
    for (arguments, says) in [
        (&["--threads", "0"][..], "--threads"),
        (&["--threads", "2,0"], "--threads"),
        (&["--threads", "5000"], "--threads"),
        (&["--threads", ""], "--threads"),
        (&["--threads", "two"], "--threads"),
        (&["--inside", "-1"], "--inside"),
        (&["--slice", "0"], "--slice"),
        (&["--rounds", "0"], "--rounds"),
        (&["--n-locks", "0"], "--n-locks"),
        (&["--zipf", "NaN"], "--zipf"),
        (&["--batch", "3"], "--batch"),
        (&["--rate", "0"], "--rate"),
        (&["--rate", "100", "--batch", "3:100"], "batches and a fixed rate"),
        (&["--threshold", "0"], "--threshold"),
        (&["--preset", "quik"], "quick"),
        (&["--loks", "std"], "--locks"),
    ] {
        // Without the arguments of the tiny bench, since an option given twice is refused too.
        let line = refused(lockword(&[&["bench"], arguments].concat()));
        assert!(line.contains(says), "{arguments:?}: {line}");
    }
    assert!(refused_with(64, lockword(&[])).contains("lockword run"));
    assert!(refused_with(64, lockword(&["bensh"])).contains("bench"));
}

#[test]
fn an_unknown_lock_is_refused_with_a_list_of_locks() {
    let line = refused(lockword(&["bench", "--locks", "std,parking-lot"]));
    for lock in ["lockword", "std", "parking_lot_fair", "usync", "spin", "similar"] {
        assert!(line.contains(lock), "{lock}: {line}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_refused() {
    let folder = Folder::new("unwritable");
    folder.write("file", "old");
    for name in ["missing/report.json", ".", "file/report.json"] {
        for option in ["--json", "--html"] {
            let path = folder.path(name);
            let line = refused(bench(&[option, &path]));
            assert!(line.contains("cannot write") && line.contains(&path), "{line}");
        }
    }
    assert_eq!(folder.names(), ["file"]);
    let path = folder.path("both");
    for other in [path.clone(), folder.path("./both")] {
        assert!(refused(bench(&["--json", &path, "--html", &other])).contains("the same file"));
    }
}

#[test]
fn a_refused_run_leaves_files_unchanged() {
    let folder = Folder::new("left");
    let old = folder.write("report.json", "old");
    let missing = folder.path("missing.json");
    refused(bench(&["--json", &old, "--baseline", &missing]));
    refused(bench(&["--json", &old, "--html", &folder.path("missing/page.html")]));
    refused(bench(&["--json", &old, "--baseline", &old]));
    assert_eq!(folder.read("report.json"), "old");
    assert_eq!(folder.names(), ["report.json"]);
}

#[test]
fn a_baseline_that_cannot_be_judged_is_refused_before_the_run() {
    let folder = Folder::new("not_judged");
    let old = folder.write("old.json", "old");
    let baseline = folder.quiet("baseline.json", &["--rounds", "6"]);
    let text = folder.read("baseline.json");
    for (arguments, says) in [
        (
            &["--locks", "usync", "--rounds", "6", "--reference", "std"][..],
            "that lock is not measured",
        ),
        (&["--locks", "std", "--rounds", "6"], "a reference beside it"),
        (&["--rounds", "5"], "nothing can be judged: that takes 6 rounds"),
        (&["--rounds", "6", "--judge", "p99", "--no-waits"], "no p99 to judge"),
    ] {
        let all = [&["--baseline", &baseline, "--json", &old], arguments].concat();
        let line = refused(bench(&all));
        assert!(line.contains(says), "{arguments:?}: {line}");
        assert_eq!(folder.read("old.json"), "old");
    }
    // An open loop is judged by its waits.
    let open = ["--rounds", "6", "--rate", "1k", "--no-waits", "--baseline", &baseline];
    assert!(refused(bench(&open)).contains("judged by its waits"));
    assert!(refused(bench(&["--absolute"])).contains("takes a --baseline"));
    // The report that is shown is not lost to what is made of it.
    for option in ["--json", "--html", "--csv", "--markdown"] {
        let path = folder.path("./baseline.json");
        let line = refused(lockword(&["show", &baseline, option, &path]));
        assert!(line.contains("same file"), "{line}");
    }
    for option in ["--json", "--html"] {
        let path = folder.path("./baseline.json");
        let line = refused(bench(&["--rounds", "6", option, &path, "--baseline", &baseline]));
        assert!(line.contains("same file"), "{line}");
    }
    assert_eq!(folder.read("baseline.json"), text);
}

#[test]
fn a_file_that_is_no_report_is_refused() {
    let folder = Folder::new("no_report");
    let good = folder.measure("good.json", &[]);
    let text = folder.read("good.json");
    let with = |change: &dyn Fn(&mut Value)| {
        let mut report = folder.json("good.json");
        change(&mut report);
        report.to_string()
    };
    let slice = |field: &'static str, value: Value| {
        with(&move |report| {
            report["cells"][0]["locks"][0]["samples"][0][field] = value.clone();
        })
    };
    for (text, says) in [
        (with(&|report| report["format"] = 1.into()), "format 1"),
        (with(&|report| report["format"] = "1".into()), "no report"),
        (with(&|report| report["machine"] = Value::Null), "no whole report"),
        (text[..text.len() / 2].to_owned(), "ends too early"),
        (String::new(), "ends too early"),
        ("{}".to_owned(), "no report"),
        ("hello".to_owned(), "no JSON"),
        (slice("elapsed_ns", (-1).into()), "cannot be"),
        (slice("elapsed_ns", 1e-3.into()), "cannot be (0.001 ns)"),
        (slice("elapsed_ns", 1e300.into()), "cannot be"),
        (slice("cpu_ns", (-1).into()), "CPU time that cannot be"),
        (slice("cpu_ns", 1e300.into()), "CPU time that cannot be"),
        (slice("acquisitions", vec![u64::MAX, u64::MAX].into()), "cannot be"),
        (with(&|report| report["cells"][0]["locks"][1]["lock"] = "lockword".into()), "twice"),
    ] {
        let bad = folder.write("bad.json", &text);
        for command in [
            lockword(&["show", &bad]),
            lockword(&["compare", &bad, &good]),
            lockword(&["compare", &good, &bad]),
            bench(&["--baseline", &bad]),
        ] {
            let line = refused(command);
            assert!(line.contains(says) && line.contains(&bad), "{says}: {line}");
        }
        assert_eq!(folder.read("bad.json"), text);
    }
    std::fs::write(folder.path("bytes"), [0xff, 0xfe, 0]).unwrap();
    refused(lockword(&["show", &folder.path("bytes")]));
}

#[test]
fn a_baseline_without_anything_in_common_is_refused() {
    let folder = Folder::new("something_else");
    let report = folder.quiet("report.json", &["--rounds", "6"]);
    let line = refused(lockword(&["bench", "--threads", "3", "--baseline", &report]));
    assert!(line.contains("no load in common") && line.contains("2 threads, 10/10 ns"), "{line}");

    let mut other = folder.json("report.json");
    other["machine"]["processors"] = 4095.into();
    let other = folder.write("other.json", &other.to_string());
    for command in [
        bench(&["--baseline", &other]),
        bench(&["--absolute", "--baseline", &other]),
        lockword(&["compare", &other, &report]),
    ] {
        let line = refused(command);
        assert!(line.contains("another machine") && line.contains("measure both"), "{line}");
    }

    let mut other = folder.json("report.json");
    for (lock, name) in [(0, "usync"), (1, "spin")] {
        other["cells"][0]["locks"][lock]["lock"] = name.into();
    }
    let other = folder.write("other.json", &other.to_string());
    let line = refused(lockword(&["compare", &other, &report]));
    assert!(line.contains("a reference beside it in both reports"), "{line}");
}
