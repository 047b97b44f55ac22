//! Measuring: the table, and the files.

use crate::support::{Folder, bench, lockword, run, status, stderr, stdout};
use std::fs;

#[test]
fn the_table_has_a_line_of_figures_for_each_lock() {
    let output = run(bench(&[]));
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let table = stdout(&output);
    assert!(table.contains("2 threads, 10 ns inside, 10 ns outside"), "{table}");
    for lock in ["lockword", "std"] {
        let line = table.lines().find(|line| line.trim_start().starts_with(lock));
        let line = line.unwrap_or_else(|| panic!("no line of {lock}: {table}"));
        // Throughput, fairness, and four waits at least.
        assert!(line.matches(|c: char| c.is_ascii_digit()).count() > 10, "{line}");
    }
    assert!(table.contains("too few rounds"), "one round gives no verdict: {table}");
    assert!(table.contains("one reading of the clock"), "{table}");
}

#[test]
fn every_lock_and_every_option_of_a_load_is_accepted() {
    let folder = Folder::new("every_option");
    let locks = "lockword,lockword_fair,std,parking_lot,parking_lot_fair,usync,spin,\
                 lockword_rw,lockword_sync_rw,std_rw,parking_lot_rw,usync_rw,sharded_rw";
    let path = folder.path("report.json");
    let mut command = lockword(&["bench", "--preset", "starvation", "--locks", locks]);
    command.args(["--threads", "1,2", "--inside", "10", "--outside", "20,30"]);
    command.args(["--n-locks", "4", "--zipf", "1.1", "--batch", "5:1000", "--hog", "500"]);
    command.args(["--read", "90", "--pin", "--slice", "2", "--rounds", "1", "--json", &path]);
    let output = run(command);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let report = folder.json("report.json");
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 4);
    for cell in cells {
        let load = &cell["load"];
        assert_eq!(load["locks"], 4);
        assert_eq!(load["pin"], true);
        assert_eq!(load["batch"]["acquisitions"], 5);
        assert_eq!(load["read"], 90.0);
        assert_eq!(cell["locks"].as_array().unwrap().len(), 13);
    }
    let words: Vec<&str> =
        report["command"].as_array().unwrap().iter().filter_map(|word| word.as_str()).collect();
    assert_eq!(words[..4], ["lockword", "bench", "--preset", "starvation"]);
}

#[test]
fn a_rate_makes_an_open_loop() {
    let folder = Folder::new("open_loop");
    folder.measure("report.json", &["--rate", "10000"]);
    let report = folder.json("report.json");
    assert_eq!(report["cells"][0]["load"]["arrivals"]["open"]["per_second"], 10000.0);
}

#[test]
fn a_share_of_reads_is_measured_with_reader_writer_locks() {
    let folder = Folder::new("reads");
    let path = folder.path("report.json");
    let mut command = lockword(&["bench", "--read", "99.9", "--threads", "2", "--slice", "2"]);
    command.args(["--inside", "10", "--outside", "10", "--rounds", "1", "--json", &path]);
    let output = run(command);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let table = stdout(&output);
    assert!(table.contains("10 ns outside, 99.9 % of them read"), "{table}");
    for lock in ["lockword", "lockword_rw", "std_rw", "parking_lot_rw", "usync_rw"] {
        let name = |line: &str| line.split_whitespace().next() == Some(lock);
        assert!(table.lines().any(name), "no line of {lock}: {table}");
    }
    let report = folder.json("report.json");
    assert_eq!(report["cells"][0]["load"]["read"], 99.9);
    let refused = run(lockword(&["bench", "--read", "101"]));
    assert_eq!(status(&refused), 2);
    assert!(stderr(&refused).contains("from 0 to 100"), "{}", stderr(&refused));
}

#[test]
fn waits_are_not_timed_on_request() {
    let folder = Folder::new("no_waits");
    folder.measure("report.json", &["--no-waits"]);
    assert!(folder.json("report.json")["cells"][0]["locks"][0]["waits"].is_null());
}

#[test]
fn output_files_replace_existing_ones() {
    let folder = Folder::new("files");
    let json = folder.write("report.json", "old");
    let html = folder.path("page.html");
    let output = run(bench(&["--json", &json, "--html", &html]));
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let report = folder.json("report.json");
    assert_eq!(report["format"], 3);
    assert_eq!(report["cut_short"], false);
    assert!(folder.read("page.html").starts_with("<!DOCTYPE html>"));
    assert_eq!(folder.names(), ["page.html", "report.json"], "nothing else is left");
}

#[cfg(unix)]
#[test]
fn symbolic_links_and_permissions_are_preserved() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let folder = Folder::new("link");
    let file = folder.write("report.json", "old");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let link = folder.path("link.json");
    symlink("report.json", &link).unwrap();
    let output = run(bench(&["--json", &link]));
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(folder.json("report.json")["format"], 3);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn show_prints_the_table_and_the_page_of_bench() {
    let folder = Folder::new("show");
    let (json, html) = (folder.path("report.json"), folder.path("page.html"));
    let measured = run(bench(&["--json", &json, "--html", &html]));
    let again = folder.path("again.html");
    let shown = run(lockword(&["show", &json, "--html", &again]));
    assert_eq!(status(&shown), 0, "{}", stderr(&shown));
    assert_eq!(stdout(&shown), stdout(&measured));
    assert_eq!(folder.read("again.html"), folder.read("page.html"));
}

#[test]
fn a_report_is_written_as_samples_markdown_and_for_criterion_too() {
    let folder = Folder::new("formats");
    let [json, csv, markdown, criterion] =
        ["report.json", "samples.csv", "table.md", "criterion"].map(|name| folder.path(name));
    let words =
        ["--json", &json, "--csv", &csv, "--markdown", &markdown, "--criterion", &criterion];
    let measured = run(bench(&[&words[..], &["--rounds", "3"]].concat()));
    assert_eq!(status(&measured), 0, "{}", stderr(&measured));
    let report = folder.json("report.json");
    let load = report["cells"][0]["name"].as_str().unwrap();
    let samples = folder.read("samples.csv");
    assert_eq!(samples.lines().count(), 1 + 2 * 3, "{samples}");
    assert!(samples.contains(&format!("\n\"{load}\",2,,,,std,3,")), "{samples}");
    assert!(folder.read("table.md").contains("\n| std | "));
    let file = format!("criterion/{}/std/new/estimates.json", load.replace('/', "_"));
    assert!(folder.json(&file)["median"]["point_estimate"].as_f64() > Some(0.0));
    // Of a report that there is.
    let again = run(lockword(&["show", &json, "--csv", "-"]));
    assert_eq!((status(&again), stdout(&again)), (0, samples));
    assert!(stderr(&again).contains("10 ns inside"), "the table: {}", stderr(&again));
}

#[test]
fn only_one_file_can_be_standard_output() {
    let refused = run(bench(&["--json", "-", "--csv", "-"]));
    assert_eq!(status(&refused), 2);
    assert!(
        stderr(&refused).contains("--json and --csv are the same file"),
        "{}",
        stderr(&refused)
    );
    let measured = run(bench(&["--json", "-"]));
    assert_eq!(status(&measured), 0, "{}", stderr(&measured));
    let report: serde_json::Value = serde_json::from_str(&stdout(&measured)).unwrap();
    assert_eq!(report["cut_short"], false);
}
