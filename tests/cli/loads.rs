//! The kinds of loads: rates, sweeps, queues, tasks.

use crate::support::{Folder, bench, lockword, run, status, stderr, stdout};
use ::lockword::contention::{Comparison, Load, Lockword, Std};

#[test]
fn a_rate_in_percent_is_resolved_and_named_by_the_percentage() {
    let folder = Folder::new("percent");
    let path = folder.measure("report.json", &["--rate", "5%,50%,1k", "--no-waits"]);
    let report = folder.json("report.json");
    let name = report["cells"][0]["name"].as_str().unwrap();
    assert!(name.ends_with(", 5 % of std's maximum"), "{name}");
    let offered = |cell: usize| report["cells"][cell]["offered"].as_f64().unwrap();
    assert!(offered(0) > 1.0 && offered(2) == 1000.0, "{report}");
    assert!((offered(1) / offered(0) - 10.0).abs() < 1e-6, "shares of one maximum: {report}");
    let table = stdout(&run(lockword(&["show", &path])));
    assert!(table.contains("100 % is std's maximum, "), "{table}");
    let refused = run(bench(&["--rate", "0%"]));
    assert_eq!(status(&refused), 2);
    assert!(stderr(&refused).contains("or 80%"), "{}", stderr(&refused));
}

#[test]
fn a_sweep_says_where_the_knee_is() {
    let folder = Folder::new("sweep");
    let html = folder.path("page.html");
    let path = folder.measure("report.json", &["--sweep", "--html", &html]);
    let table = stdout(&run(lockword(&["show", &path])));
    // The verdict may name the rate too; a row ends with a time.
    let is_row = |line: &&str| line.contains(" (100 %) ") && line.ends_with('s');
    assert_eq!(table.lines().filter(is_row).count(), 2, "a row for each lock: {table}");
    // Where it is depends on the machine.
    for lock in ["lockword", "std"] {
        let knees = [" has its knee at ", " has its knee below ", " has no knee up to "];
        let said = knees.map(|knee| table.matches(&format!("{lock}{knee}")).count());
        assert_eq!(said.iter().sum::<usize>(), 1, "{table}");
    }
    assert!(folder.read("page.html").contains("<figcaption>p99.9 of the waits</figcaption>"));
}

#[test]
fn a_queue_is_measured_in_items() {
    let folder = Folder::new("queue");
    let words = ["--queue", "4", "--threads", "4", "--locks", "lockword,parking_lot"];
    let path = folder.measure("report.json", &words);
    let report = folder.json("report.json");
    let cell = &report["cells"][0];
    assert_eq!(cell["load"]["queue"], 4);
    // Two of the four threads pop.
    assert_eq!(report["cells"].as_array().unwrap().len(), 1);
    assert_eq!(cell["locks"][0]["samples"][0]["acquisitions"].as_array().unwrap().len(), 2);
    let table = stdout(&run(lockword(&["show", &path])));
    assert!(table.contains("(2 push, 2 pop)"), "{table}");
    assert!(table.contains("acq/s is items a second"), "{table}");
    let refused = run(bench(&["--queue", "4", "--locks", "spin"]));
    assert_eq!(status(&refused), 2);
    assert!(stderr(&refused).contains("needs a Condvar"), "{}", stderr(&refused));
}

#[test]
fn tasks_are_measured_with_locks_of_both_kinds() {
    let folder = Folder::new("tasks");
    let path = folder.measure("report.json", &["--tasks", "4", "--locks", "std,tokio,async_lock"]);
    let report = folder.json("report.json");
    let cell = &report["cells"][0];
    assert_eq!(cell["load"]["tasks"], 4);
    for lock in cell["locks"].as_array().unwrap() {
        assert_eq!(lock["samples"][0]["acquisitions"].as_array().unwrap().len(), 4);
    }
    let table = stdout(&run(lockword(&["show", &path])));
    assert!(table.contains(", 4 tasks") && table.contains("4 tasks on 2 threads"), "{table}");
    let refused = run(bench(&["--locks", "tokio"]));
    assert_eq!(status(&refused), 2);
    assert!(stderr(&refused).contains("this lock is for tasks"), "{}", stderr(&refused));
}

#[test]
fn a_list_is_compared_with_its_first_value() {
    let output = run(bench(&["--n-locks", "1,8", "--rounds", "6", "--no-waits"]));
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let table = stdout(&output).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(table.contains("8 locks, times the rate of 1 lock: lockword "), "{table}");
}

#[test]
fn a_report_of_the_library_is_shown() {
    let folder = Folder::new("library");
    let report = Comparison::new()
        .lock::<Std>("my lock")
        .lock::<Lockword>("<other>")
        .load(Load::new(2).slice_ms(2))
        .rounds(2)
        .waits(true)
        .run_quietly()
        .expect("it runs");
    let json = folder.write("report.json", &serde_json::to_string(&report).expect("writes"));
    let html = folder.path("page.html");
    let shown = run(lockword(&["show", &json, "--html", &html]));
    assert_eq!(status(&shown), 0, "{}", stderr(&shown));
    let table = stdout(&shown);
    assert!(table.contains("\n  my lock ") && table.contains("\n  <other> "), "{table}");
    let page = folder.read("page.html");
    assert!(page.contains("&lt;other&gt;") && page.contains("a program of its own"));
}
