//! `--audit` and `lockword audit verify`.

use crate::locks::{Locks, kill, until};
use crate::support::{lockword, run, status, stderr, stdout};
use std::fs;

/// What `audit verify` prints, and its exit status.
fn verify(arguments: &[&str]) -> (String, i32) {
    let output = run(lockword(&[&["audit", "verify"], arguments].concat()));
    assert_eq!(stderr(&output), "");
    (stdout(&output), status(&output))
}

fn events(trail: &str) -> Vec<String> {
    let text = fs::read_to_string(trail).expect("the trail");
    let event = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).expect("JSON")["event"].clone()
    };
    text.lines().map(|line| event(line).as_str().expect("text").to_owned()).collect()
}

#[test]
fn a_trail_of_commands_is_whole_after_kill_9_and_a_change_is_found() {
    let locks = Locks::new("audit");
    let trail = locks.folder.path("trail");
    let output = locks.run(&["--audit", &trail], "true");
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert_eq!(events(&trail), ["opened", "node", "acquired", "released"]);
    // The file is of one process.
    let holder = locks.hold(&["--audit", &trail, "--lease", "1s"]);
    let output = locks.run(&["--audit", &trail], "true");
    assert_eq!(status(&output), 69, "{}", stderr(&output));
    assert!(stderr(&output).contains("another process writes to this audit trail"));
    until("the lock is in the trail", || events(&trail).len() == 7);
    kill(holder.process.id() as i32, libc::SIGKILL);
    drop(holder);
    let output = locks.run(&["--audit", &trail, "--wait", "60s"], "true");
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let found = events(&trail);
    // The processes of the holder are dead, so its lock is broken.
    assert_eq!(found[7..], ["opened", "node", "broke", "acquired", "released"]);
    let (text, code) = verify(&[&trail]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("12 lines, from 1 on: whole\nlast 12:"), "{text}");
    let mark = text.lines().last().unwrap().strip_prefix("last ").unwrap().to_owned();
    assert_eq!(verify(&[&trail, "--contains", &mark]).1, 0);
    // Its end is cut, and then a line is changed.
    let whole = fs::read_to_string(&trail).unwrap();
    let cut: String = whole.split_inclusive('\n').take(10).collect();
    fs::write(&trail, &cut).unwrap();
    assert_eq!(verify(&[&trail]).1, 0);
    let (text, code) = verify(&[&trail, "--contains", &mark]);
    assert_eq!(code, 76, "{text}");
    assert!(text.contains("line 12 is not the one that was kept, or is missing"), "{text}");
    fs::write(&trail, whole.replacen("tester@", "nobody@", 1)).unwrap();
    let (text, code) = verify(&[&trail]);
    assert_eq!(code, 76, "{text}");
    assert!(text.contains("line 2: it does not follow the line before"), "{text}");
    let output = run(lockword(&["audit", "verify", "--contains", "x", &trail]));
    assert_eq!(status(&output), 64, "{}", stderr(&output));
    let output = run(lockword(&["audit", "verify", &locks.folder.path("none")]));
    assert_eq!(status(&output), 69, "{}", stderr(&output));
}

#[test]
fn a_break_is_in_the_trail_of_both_sides() {
    let locks = Locks::new("audit-break");
    let (trail, desk) = (locks.folder.path("trail"), locks.folder.path("desk"));
    let mut holder = locks.hold(&["--audit", &trail, "--lease", "1s"]);
    let arguments = ["break", "k", "--yes", "--reason", "it hangs", "--audit", &desk];
    let output = run(locks.lockword(&arguments));
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert_eq!(events(&desk), ["opened", "node", "broke"]);
    assert_eq!(crate::locks::end_of(&mut holder.process), Some(76));
    let text = fs::read_to_string(&trail).unwrap();
    let lost = text.lines().find(|line| line.contains("\"lost\"")).expect(&text);
    assert!(
        lost.contains("\"reason\":\"it hangs\"") && lost.contains("\"broken_by\":\"tester@"),
        "{lost}"
    );
    assert_eq!(verify(&[&trail]).1, 0);
}
