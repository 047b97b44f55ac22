//! `status`, `list`, `watch`, `top`, `break`, `sweep` and `gate`: what they print, and their exit statuses.

use crate::locks::{Locks, end_of, kill, until};
use crate::support::{run, status, stderr, stdout};
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Output, Stdio};

/// The text of a command that has succeeded.
fn said(locks: &Locks, arguments: &[&str]) -> String {
    let output = run(locks.lockword(arguments));
    assert_eq!(status(&output), 0, "{arguments:?}: {}", stderr(&output));
    assert_eq!(stderr(&output), "", "{arguments:?}");
    stdout(&output)
}

fn json(locks: &Locks, arguments: &[&str]) -> Value {
    serde_json::from_str(&said(locks, arguments)).expect("JSON")
}

/// No line is wider than a usual terminal.
fn fits(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn status_shows_how_the_engine_is() {
    let locks = Locks::new("health");
    let text = said(&locks, &["status", "k", "--health"]);
    fits(&text);
    assert!(text.contains("\nengine    dir: responds in "), "{text}");
    assert!(text.contains("\nwatch     can be had\n"), "{text}");
    let shown = json(&locks, &["status", "k", "--health", "--json"]);
    assert_eq!((&shown["state"], &shown["health"]["watch"]), (&"free".into(), &true.into()));
    assert!(shown["health"]["round_trip_ms"].as_f64().unwrap() > 0.0, "{shown}");
    assert_eq!(shown["health"]["problems"], serde_json::json!([]));
    assert_eq!(json(&locks, &["status", "k", "--json"])["health"], Value::Null);
}

#[test]
fn status_shows_the_holder_and_whether_it_is_alive() {
    let locks = Locks::new("status");
    let text = said(&locks, &["status", "k"]);
    assert!(text.contains("lock      k\nstate     free\n"), "{text}");
    assert_eq!(json(&locks, &["status", "k", "--json"])["state"], "free");
    assert_eq!(status(&run(locks.lockword(&["status", "k", "--exit-code"]))), 0);

    let holder = locks.hold(&["--lease", "3s"]);
    let text = said(&locks, &["status", "k"]);
    fits(&text);
    let pid = format!("pid       {} ", holder.process.id());
    for part in [
        "state     held\n",
        "holder    tester@",
        "user      tester\n",
        &pid,
        ": alive\n",
        "since     20",
        "token     ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let shown = json(&locks, &["status", "k", "--json"]);
    assert_eq!(shown["state"], "held");
    assert_eq!(shown["renewed"], true);
    assert_eq!(shown["holder"]["user"], "tester");
    assert_eq!(shown["holder"]["program"], "sh");
    assert_eq!(shown["holder"]["pid"], holder.process.id());
    assert_eq!(shown["holder"]["lease_ms"], 3000);
    let token = locks.folder.read("token");
    assert_eq!(
        shown["holder"]["token"].as_str().expect("a string"),
        token.trim(),
        "it has renewed its lease"
    );
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let held = now.as_millis() as u64 - shown["holder"]["since_ms"].as_u64().expect("a time");
    assert!(held < 600_000, "{held} ms");
    assert_eq!(status(&run(locks.lockword(&["status", "k", "--exit-code"]))), 1);

    let text = said(&locks, &["status", "k", "--watch-for", "0"]);
    assert!(text.contains("not watched"), "{text}");

    // One that is stopped is shown to be dead.
    holder.signal(libc::SIGSTOP);
    let text = said(&locks, &["status", "k", "--watch-for", "5s"]);
    holder.signal(libc::SIGCONT);
    assert!(text.contains(": dead"), "{text}");
}

#[test]
fn a_label_of_your_own_is_shown_as_it_is() {
    let locks = Locks::new("label");
    let holder = locks.hold(&["--label", "the nightly backup"]);
    let text = said(&locks, &["status", "k", "--watch-for", "0"]);
    assert!(text.contains("holder    the nightly backup\n") && !text.contains("pid"), "{text}");
    assert!(said(&locks, &["list"]).contains("the nightly backup"));
    drop(holder);
}

#[test]
fn status_shows_who_waits_in_order() {
    let locks = Locks::new("queue");
    let holder = locks.hold(&[]);
    let mut waiters = vec![];
    for (number, label) in ["one", "two"].into_iter().enumerate() {
        waiters.push(locks.script(&["--label", label], "true").spawn().unwrap());
        until("it waits", || {
            let shown = json(&locks, &["status", "k", "--json", "--watch-for", "0"]);
            shown["queue"].as_array().unwrap().len() == number + 1
        });
    }
    let text = said(&locks, &["status", "k", "--watch-for", "0"]);
    assert!(text.contains("queue     one\n          two\n"), "{text}");
    assert!(said(&locks, &["list"]).trim_end().ends_with('2'));
    assert_eq!(holder.end(), Some(0));
    assert!(waiters.iter_mut().all(|waiter| end_of(waiter) == Some(0)));
}

/// Holders of these locks, each with so many that wait for it; and what ends all of them.
fn crowd(locks: &Locks, of: &[(&str, usize)]) -> (Vec<Child>, String) {
    let end = locks.folder.path("end");
    let mut all = vec![];
    for (key, waiters) in of {
        let begun = locks.folder.path(key);
        let script = format!("touch {begun}; until [ -e {end} ]; do sleep 0.01; done");
        all.push(locks.lockword(&["run", key, "--", "sh", "-c", &script]).spawn().unwrap());
        until("it is held", || std::fs::exists(&begun).unwrap());
        for _ in 0..*waiters {
            all.push(locks.lockword(&["run", key, "--", "true"]).spawn().unwrap());
        }
    }
    let waiting = of.iter().map(|(_, waiters)| waiters).sum::<usize>();
    until("all wait", || {
        let shown = json(locks, &["top", "--times", "1", "--json"]);
        let locks = shown["locks"].as_array().unwrap().iter();
        locks.map(|lock| lock["waiting"].as_u64().unwrap()).sum::<u64>() == waiting as u64
    });
    (all, end)
}

#[test]
fn top_has_the_locks_first_for_which_most_wait() {
    let locks = Locks::new("top");
    assert_eq!(status(&run(locks.lockword(&["run", "free", "--", "true"]))), 0);
    let (mut all, end) = crowd(&locks, &[("none", 0), ("one", 1), ("two", 2)]);
    let output = run(locks.lockword(&["top", "--times", "3", "--every", "100ms", "--json"]));
    let text = stdout(&output);
    let looks = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let looks: Vec<serde_json::Value> = looks.collect();
    assert_eq!((status(&output), looks.len()), (0, 3), "{text}");
    for look in &looks {
        let found = look["locks"].as_array().unwrap().iter();
        let found: Vec<_> = found.map(|lock| lock["key"].as_str().unwrap()).collect();
        assert_eq!((found, &look["keys"]), (vec!["two", "one", "none"], &4.into()), "{look}");
    }
    // From the first look on, in which they waited already.
    let ms = |look: usize, lock: usize, of: &str| looks[look]["locks"][lock][of].as_u64().unwrap();
    assert_eq!((ms(0, 0, "longest_ms"), ms(0, 0, "waited_ms")), (0, 0));
    for look in [1, 2] {
        let longest = ms(look, 0, "longest_ms");
        assert!(longest >= 100 * look as u64, "{longest} ms");
        assert!(ms(look, 0, "waited_ms").abs_diff(2 * longest) <= 1, "{text}");
        assert!(ms(look, 1, "waited_ms").abs_diff(longest) <= 1, "{text}");
        assert_eq!(ms(look, 2, "waited_ms"), 0);
    }
    assert!(ms(0, 2, "held_ms") >= ms(0, 0, "held_ms"), "the first one has been held for longest");

    let sorted = json(&locks, &["top", "--times", "1", "--json", "--sort", "held"]);
    assert_eq!(sorted["locks"][0]["key"], "none", "{sorted}");
    let only = json(&locks, &["top", "o", "--times", "1", "--json"]);
    assert_eq!(only["locks"].as_array().unwrap().len(), 1, "{only}");
    let text = said(&locks, &["top", "--times", "2", "--every", "10ms"]);
    assert_eq!(
        text.matches("3 nodes wait for 2 locks; 3 held; 4 keys in all; ").count(),
        2,
        "{text}"
    );
    let row = text.lines().find(|line| line.starts_with("two ")).expect("a row");
    assert!(row.contains("  2 ") && row.contains("tester@"), "{row}");
    assert!(!text.contains('\x1b'), "it is no terminal: {text}");

    std::fs::write(end, "").unwrap();
    assert!(all.iter_mut().all(|process| end_of(process) == Some(0)));
    assert_eq!(status(&run(locks.lockword(&["top", "--times", "0"]))), 64);
}

/// A wait that has ended does not count as one that goes on.
#[test]
fn top_forgets_a_wait_that_has_ended() {
    let locks = Locks::new("top_forgets");
    let holder = locks.hold(&[]);
    let mut command = locks.lockword(&["top", "--every", "20ms", "--json"]);
    let mut top = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(top.stdout.take().unwrap()).lines();
    // Until a look in which so many wait, and have done so for so long.
    let mut seen = |waiting: u64, longest_ms: u64| loop {
        let look: serde_json::Value =
            serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let lock = &look["locks"][0];
        if lock["waiting"] == waiting && lock["longest_ms"].as_u64() >= Some(longest_ms) {
            return (lock["longest_ms"].as_u64().unwrap(), lock["waited_ms"].as_u64().unwrap());
        }
    };
    let mut first = locks.script(&[], "true").spawn().unwrap();
    let (_, waited) = seen(1, 200);
    first.kill().unwrap();
    first.wait().unwrap();
    // Its place is given up by its next holder, or the one after it; here by the one that waits then.
    let mut second = locks.script(&[], "true").spawn().unwrap();
    seen(2, 0);
    assert_eq!(holder.end(), Some(0));
    assert_eq!(end_of(&mut second), Some(0));
    let (longest, sum) = seen(0, 0);
    assert!(longest == 0 && sum >= waited, "{longest} ms, {sum} ms");
    top.kill().unwrap();
    top.wait().unwrap();
}

/// `| head` and `| true`.
#[test]
fn a_reader_that_has_gone_is_no_error() {
    let locks = Locks::new("reader_gone");
    assert_eq!(locks.hold(&[]).end(), Some(0));
    for words in [
        &["status", "k"][..],
        &["list"],
        &["sweep"],
        &["watch"],
        &["top"],
        &["man"],
        &["run", "--help"],
    ] {
        let mut command = locks.lockword(words);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(process.stdout.take());
        let output = process.wait_with_output().unwrap();
        assert_eq!((status(&output), stderr(&output).as_str()), (0, ""), "{words:?}");
    }
}

#[test]
fn list_shows_locks_records_and_strange_values() {
    let locks = Locks::new("list");
    let long = "x".repeat(150);
    for key in ["jobs/a", "jobs/b", "other", &long] {
        let label = "l".repeat(60);
        let words = ["run", key, "--label", &label, "--at-most-once-per", "1d", "--", "true"];
        assert_eq!(status(&run(locks.lockword(&words))), 0);
    }
    let holder = locks.hold(&[]);
    let text = said(&locks, &["list"]);
    fits(&text);
    assert!(text.starts_with("KEY "), "{text}");
    for part in ["jobs/a  ", "jobs/a@last-run", "held", "last-run", "free"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let keys = |prefix: &str| {
        let text = said(&locks, &["list", prefix, "--json"]);
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.map(|line| line["key"].as_str().expect("a key").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys("jobs/"), ["jobs/a", "jobs/a@last-run", "jobs/b", "jobs/b@last-run"]);
    assert_eq!(keys("k"), ["k"]);
    assert!(keys("nothing").is_empty());
    assert_eq!(holder.end(), Some(0));
}

#[test]
fn watch_prints_changes_until_its_reader_has_gone() {
    let locks = Locks::new("watch");
    let holder = locks.hold(&[]);
    // It does not wait for the next list to see a change.
    let mut command = locks.lockword(&["watch", "--json", "--every", "1h"]);
    let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).expect("JSON");
    let first = next();
    assert_eq!((&first["key"], &first["state"]), (&"k".into(), &"held".into()));
    assert_eq!(holder.end(), Some(0));
    assert_eq!(next()["state"], "free");
    // It ends although nothing changes that it could print.
    drop(lines);
    assert!(end_of(&mut watch) == Some(0));

    // Those that come later are found by the list.
    let mut command = locks.lockword(&["watch", "later", "--every", "20ms"]);
    let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(status(&run(locks.lockword(&["run", "later/1", "--", "true"]))), 0);
    let line = BufReader::new(watch.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    assert!(line.contains(" later/1: "), "{line}");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn a_lock_is_broken_only_if_that_is_confirmed() {
    let locks = Locks::new("break");
    assert!(said(&locks, &["break", "k"]).contains("free"));
    let holder = locks.hold(&[]);
    let mut command = locks.lockword(&["break", "k"]);
    command.stdin(Stdio::null());
    let output = run(command);
    assert!(status(&output) == 64 && stderr(&output).contains("--yes"), "{}", stderr(&output));
    let shown = json(&locks, &["break", "k", "--yes", "--reason", "a\u{1b}[2Jb", "--json"]);
    assert!(shown["broken"].as_str().unwrap().starts_with("tester@"), "{shown}");
    let text = said(&locks, &["status", "k"]);
    fits(&text);
    assert!(text.contains("broken    20") && text.contains("a[2Jb"), "{text}");
    drop(holder);
}

/// What a killed holder has left stays for ever, unless somebody wants that lock. A holder that lives keeps its
/// lock, and so does one whose processes live.
#[test]
fn sweep_frees_the_locks_of_the_dead_if_that_is_asked_for() {
    let locks = Locks::new("sweep_dead");
    let dead = |key: &str, script: &str| {
        let begun = locks.folder.path(key);
        let script = format!("{script} : > {begun}; sleep 600");
        let words = ["run", key, "--lease", "1s", "--", "sh", "-c", &script];
        let mut process = locks.lockword(&words).spawn().unwrap();
        until("it runs", || fs::exists(&begun).unwrap());
        process.kill().unwrap();
        process.wait().unwrap();
    };
    let kept = locks.folder.path("kept");
    dead("dead", "");
    dead(
        "tied",
        &format!(
            "setsid sh -c 'echo $$ > {kept}; exec sleep 600' & until [ -s {kept} ]; do :; done;"
        ),
    );
    let alive = locks.hold(&["--lease", "1s"]);
    assert_eq!(json(&locks, &["sweep", "--json"])["freed"], 0);
    let tied: i32 = locks.folder.read("kept").trim().parse().unwrap();
    assert_eq!(json(&locks, &["sweep", "--dead", "--json"])["freed"], 1);
    kill(tied, libc::SIGKILL);
    until("the tie has ended", || json(&locks, &["status", "tied", "--json"])["tied"] == false);
    assert_eq!(json(&locks, &["sweep", "--dead", "--json"])["freed"], 1);
    assert_eq!(json(&locks, &["sweep", "--dead", "--json"])["freed"], 0);
    assert_eq!(alive.end(), Some(0));
}

#[test]
fn sweep_hands_records_whose_time_is_over_to_the_engine() {
    let locks = Locks::new("sweep");
    for (key, period) in [("short", "1ms"), ("long", "1d")] {
        let words = ["run", key, "--at-most-once-per", period, "--", "true"];
        assert_eq!(status(&run(locks.lockword(&words))), 0);
    }
    assert_eq!(json(&locks, &["sweep", "--json"])["records"], 1);
    assert_eq!(json(&locks, &["sweep", "--json"])["records"], 0, "only once");
    let again = ["run", "long", "--at-most-once-per", "1d", "--", "true"];
    assert_eq!(status(&run(locks.lockword(&again))), 75);
}

#[test]
fn the_gate_refuses_an_older_token() {
    let locks = Locks::new("gate");
    let file = locks.folder.path("gate");
    let gate = |key: &str, token: &str, words: &[&str]| -> Output {
        let mut command = locks.lockword(&[&["gate", "--file", &file, "--"], words].concat());
        command.env("LOCKWORD_KEY", key).env("LOCKWORD_TOKEN", token);
        run(command)
    };
    for (token, code, text) in [
        ("7", 0, "ran\n"),
        ("7", 0, "ran\n"),
        ("9", 0, "ran\n"),
        ("8", 76, ""),
        ("18446744073709551615", 0, "ran\n"),
        ("9", 76, ""),
    ] {
        let output = gate("k", token, &["echo", "ran"]);
        assert_eq!((status(&output), stdout(&output).as_str()), (code, text), "{token}");
    }
    assert_eq!(locks.folder.read("gate"), "18446744073709551615 k\n");
    assert_eq!(status(&gate("other", "9", &["echo"])), 64);
    assert_eq!(status(&gate("k", "x", &["echo"])), 64);
    let newest = "18446744073709551615";
    assert_eq!(status(&gate("k", newest, &["sh", "-c", "exit 5"])), 5);
    assert_eq!(status(&gate("k", newest, &["lockword-no-such-command"])), 127);
    locks.folder.write("gate", "something else");
    assert_eq!(status(&gate("k", newest, &["echo"])), 64);
    assert_eq!(locks.folder.read("gate"), "something else");
}

/// A command that has passed keeps those with newer tokens out until it has ended, so that it is never
/// late.
#[test]
fn commands_behind_a_gate_run_one_after_the_other() {
    let locks = Locks::new("gate_order");
    let (file, begun, go) =
        (locks.folder.path("gate"), locks.folder.path("begun"), locks.folder.path("go"));
    let gate = |token: &str, script: &str| {
        let mut command = locks.lockword(&["gate", "--file", &file, "--", "sh", "-c", script]);
        command.env("LOCKWORD_KEY", "k").env("LOCKWORD_TOKEN", token).spawn().unwrap()
    };
    let out = locks.folder.path("out");
    let slow = format!(
        "echo 1 >> {out}; : > {begun}; until [ -e {go} ]; do sleep 0.01; done; echo 1 >> {out}"
    );
    let mut older = gate("1", &slow);
    until("it is in", || std::fs::exists(&begun).unwrap());
    let mut newer = gate("2", &format!("echo 2 >> {out}"));
    until("it waits", || has_open(newer.id(), &file));
    std::fs::write(&go, "").unwrap();
    assert!(end_of(&mut older) == Some(0) && end_of(&mut newer) == Some(0));
    assert_eq!(locks.folder.read("out"), "1\n1\n2\n");
}

/// Whether a process has this file open.
fn has_open(process: u32, file: &str) -> bool {
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    files.map(|file| std::fs::read_link(file.path())).any(|to| to.is_ok_and(|to| to == *file))
}

/// Whoever waits for the gate takes the file that has the name when it is let in.
#[test]
fn a_gate_whose_file_is_removed_or_replaced_still_refuses_older_ones() {
    let locks = Locks::new("gate_removed");
    let [file, begun, go] = ["file", "begun", "go"].map(|name| locks.folder.path(name));
    let gate = |token: u32, script: &str| {
        let mut command = locks.lockword(&["gate", "--file", &file, "--", "sh", "-c", script]);
        command.env("LOCKWORD_KEY", "k").env("LOCKWORD_TOKEN", token.to_string());
        command
    };
    for (replaces, token) in [(false, 10), (true, 20)] {
        for file in [&begun, &go] {
            let _ = std::fs::remove_file(file);
        }
        let slow = format!(": > {begun}; until [ -e {go} ]; do sleep 0.01; done");
        let mut older = gate(token, &slow).spawn().unwrap();
        until("it is in", || std::fs::exists(&begun).unwrap());
        let mut newer = gate(token + 1, "true").spawn().unwrap();
        until("it waits", || has_open(newer.id(), &file));
        let copy = format!("{file}.copy");
        std::fs::copy(&file, &copy).unwrap();
        std::fs::remove_file(&file).unwrap();
        if replaces {
            std::fs::rename(&copy, &file).unwrap();
        }
        std::fs::write(&go, "").unwrap();
        assert_eq!((end_of(&mut older), end_of(&mut newer)), (Some(0), Some(0)));
        assert_eq!(status(&run(gate(token - 1, "true"))), 76);
    }
}

#[test]
fn a_gate_says_what_is_wrong_with_its_file() {
    let locks = Locks::new("gate_file");
    let gate = |file: &str| {
        let mut command = locks.lockword(&["gate", "--file", file, "--", "true"]);
        command.env("LOCKWORD_KEY", "k").env("LOCKWORD_TOKEN", "12");
        let output = run(command);
        (status(&output), stderr(&output))
    };
    let pipe = locks.folder.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (code, why) = gate(&pipe);
    assert!(code == 64 && why.contains("no regular file"), "{why}");
    for (code, text) in [
        (64, "#!/bin/sh\n"),
        (64, "4711"),
        (64, "x 12 k\n"),
        (64, "00000000000000000007 other\n"),
        (64, "00000000000000000007 other"),
        // Of a line without its end the token counts, if it is whole.
        (0, ""),
        (0, "0000"),
        (0, "00000000000000000012"),
        (0, "00000000000000000011 "),
        (0, "00000000000000000012 k"),
        (76, "00000000000000000013"),
        (76, "00000000000000000013 "),
        (76, "00000000000000000013 k"),
        (76, "00000000000000000013 k\n"),
    ] {
        let (got, why) = gate(&locks.folder.write("file", text));
        assert_eq!(got, code, "{text:?}: {why}");
        let kept = if code == 0 { "00000000000000000012 k\n" } else { text };
        assert_eq!(locks.folder.read("file"), kept);
    }
}

#[test]
fn completions_and_the_manual_name_the_commands() {
    let locks = Locks::new("help");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = said(&locks, &["completions", shell]);
        assert!(script.contains("skip-if-alive") && script.contains("lockword"), "{shell}");
    }
    let page = said(&locks, &["man"]);
    for part in [".TH lockword", "lockword\\-run(1)", "Exit status"] {
        assert!(page.contains(part), "{part}");
    }
    let page = said(&locks, &["man", "run"]);
    for part in
        [".TH lockword-run", "<KEY> \\-\\- <COMMAND>...", "skip\\-if\\-alive", "LOCKWORD_TOKEN"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(status(&run(locks.lockword(&["man", "walk"]))), 64);
    let folder = locks.folder.path("pages");
    std::fs::create_dir(&folder).unwrap();
    said(&locks, &["man", "--dir", &folder]);
    assert_eq!(std::fs::read_to_string(format!("{folder}/lockword-run.1")).unwrap(), page);
}
