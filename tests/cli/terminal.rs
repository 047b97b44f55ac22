//! Colours, the help, closed pipes and full devices.

use crate::support::{Folder, bench, lockword, run, status, stderr, stdout};
use std::process::Stdio;

#[test]
fn a_pipe_gets_no_colours() {
    let output = run(bench(&[]));
    assert!(!stdout(&output).contains('\x1b') && !stderr(&output).contains('\x1b'));
}

#[cfg(unix)]
#[test]
fn a_terminal_gets_colours_unless_they_are_disabled() {
    use crate::interrupt::pseudoterminal;
    use std::io::Read as _;
    let folder = Folder::new("colours");
    let report = folder.measure("report.json", &[]);
    let printed = |environment: &[(&str, &str)]| {
        let (mut kept, given) = pseudoterminal();
        let mut command = lockword(&["show", &report]);
        command.envs(environment.iter().copied()).stdout(given);
        let mut child = command.spawn().expect("the program starts");
        drop(command);
        let (mut text, mut buffer) = (vec![], [0; 4096]);
        // Reading a closed terminal is an error.
        while let Ok(count @ 1..) = kept.read(&mut buffer) {
            text.extend(&buffer[..count]);
        }
        assert!(child.wait().expect("it ends").success());
        String::from_utf8(text).expect("it prints UTF-8")
    };
    let colours = printed(&[("TERM", "xterm")]);
    assert!(colours.contains("\x1b[1m2 threads"), "{colours}");
    // The table has at most 80 columns. The name of the processor and warnings may be longer.
    let table = colours.lines().skip_while(|line| !line.contains("2 threads"));
    for line in table.map(|line| anstream::adapter::strip_str(line).to_string()) {
        assert!(line.trim_end().chars().count() <= 80, "{line}");
    }
    for plain in [&[("TERM", "xterm"), ("NO_COLOR", "1")], &[("TERM", "dumb"), ("LANG", "C")]] {
        assert!(!printed(plain).contains('\x1b'), "{plain:?}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let folder = Folder::new("reader");
    let report = folder.quiet("report.json", &["--rounds", "6"]);
    for mut command in [
        bench(&["--json", &folder.path("written.json")]),
        lockword(&["show", &report]),
        lockword(&["compare", &report, &report]),
        lockword(&["bench", "--help"]),
    ] {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(status(&output), 0, "{command:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    }
    assert_eq!(folder.json("written.json")["format"], 3, "the file is written all the same");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_an_error() {
    let folder = Folder::new("full");
    let report = folder.quiet("report.json", &["--rounds", "6"]);
    let on = format!("dir:{}", folder.path("locks"));
    for (mut command, code) in [
        (lockword(&["show", &report]), 2),
        (lockword(&["compare", &report, &report]), 2),
        (bench(&["--json", &folder.path("written.json")]), 2),
        (lockword(&["bench", "--help"]), 74),
        (lockword(&["man"]), 74),
        (lockword(&["status", "--on", &on, "k"]), 74),
        (lockword(&["list", "--on", &on]), 74),
        (lockword(&["sweep", "--on", &on, "--json"]), 74),
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        command.stdout(full);
        let output = run(command);
        assert_eq!(status(&output), code, "{}", stderr(&output));
        assert!(stderr(&output).contains("cannot write to standard output"), "{}", stderr(&output));
    }
    assert_eq!(folder.json("written.json")["format"], 3, "the file is written all the same");
}

#[cfg(target_os = "linux")]
#[test]
fn a_page_that_cannot_be_written_leaves_the_report_as_it_was() {
    let folder = Folder::new("full_page");
    let json = folder.write("report.json", "old");
    let output = run(bench(&["--json", &json, "--html", "/dev/full"]));
    assert_eq!(status(&output), 2, "{}", stderr(&output));
    assert_eq!(folder.read("report.json"), "old");
    assert_eq!(folder.names(), ["report.json"], "nothing else is left");
}

#[test]
fn control_characters_of_a_report_are_not_printed() {
    let folder = Folder::new("orders");
    folder.quiet("report.json", &["--rounds", "6"]);
    let mut report = folder.json("report.json");
    let evil = "\u{1b}[2J\u{7}evil";
    report["warnings"] = vec![evil].into();
    report["machine"]["cpu"] = evil.into();
    report["cells"][0]["name"] = evil.into();
    report["cells"][0]["locks"][0]["lock"] = evil.into();
    let path = folder.write("evil.json", &report.to_string());
    for arguments in [&["show", &path][..], &["compare", &path, &path]] {
        let mut command = lockword(arguments);
        // Otherwise anstream would remove everything that begins with an escape character.
        command.env("CLICOLOR_FORCE", "1");
        let output = run(command);
        let text = stdout(&output);
        assert_eq!(status(&output), 0, "{}", stderr(&output));
        assert!(text.contains("evil") && !text.contains("\u{1b}[2J"), "{text:?}");
        assert!(!text.contains('\u{7}'), "{text:?}");
    }
    let line = stderr(&run(lockword(&["show", "no\u{7}file"])));
    assert!(line.contains("no\u{fffd}file"), "{line:?}");
}

#[test]
fn the_help_names_presets_locks_and_units() {
    let output = run(lockword(&["bench", "--help"]));
    assert_eq!(status(&output), 0);
    let help = stdout(&output);
    for word in [
        "quick",
        "full",
        "starvation",
        "oversubscribed",
        "parking_lot_fair",
        "usync",
        "spin",
        "lockword_rw",
        "parking_lot_rw",
        "--read",
        "nanoseconds",
        "milliseconds",
        "percent",
        "combinations",
        "gate",
        "cores",
        "undecided (exit status 2)",
        "four a processor",
        "ten minutes",
        "Examples:",
        "Exit status:",
        "NO_COLOR",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert!(stdout(&run(lockword(&["--version"]))).contains(env!("CARGO_PKG_VERSION")));
}
