//! `--seal-key-file` and `seal-key`.

use crate::locks::Locks;
use crate::support::{Folder, lockword, run, status, stderr, stdout};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

/// Makes a file of keys in this folder, and returns its path.
fn keys(folder: &Folder, name: &str) -> String {
    let file = folder.path(name);
    let output = run(lockword(&["seal-key", &file]));
    assert_eq!((status(&output), stdout(&output).as_str()), (0, ""), "{}", stderr(&output));
    file
}

fn with(locks: &Locks, file: &str, arguments: &[&str]) -> Output {
    let (command, rest) = arguments.split_first().expect("a command");
    run(locks.lockword(&[&[command, "--seal-key-file", file], rest].concat()))
}

/// All names and all contents of the files in the directory of the locks.
fn raw(locks: &Locks) -> String {
    let mut found = String::new();
    for file in fs::read_dir(locks.directory()).expect("it is there").flatten() {
        found.push('\n');
        found += &file.file_name().to_string_lossy();
        found += &String::from_utf8_lossy(&fs::read(file.path()).expect("it is readable"));
    }
    found
}

#[test]
fn a_lock_is_used_and_seen_by_those_who_have_the_keys() {
    let locks = Locks::new("sealed");
    let file = keys(&locks.folder, "keys");
    let holder = locks.hold(&["--seal-key-file", &file]);
    let said = |arguments: &[&str]| {
        let output = with(&locks, &file, arguments);
        assert_eq!(status(&output), 0, "{arguments:?}: {}", stderr(&output));
        stdout(&output)
    };
    let shown: serde_json::Value = serde_json::from_str(&said(&["status", "--json", "k"])).unwrap();
    assert_eq!((&shown["state"], &shown["tied"]), (&"held".into(), &true.into()), "{shown}");
    assert!(said(&["list"]).contains("tester@"));
    let busy = with(&locks, &file, &["run", "--no-wait", "k", "--", "true"]);
    assert_eq!(status(&busy), 75, "{}", stderr(&busy));
    // By the variable.
    let mut command = locks.lockword(&["status", "--exit-code", "k"]);
    command.env("LOCKWORD_SEAL_KEY_FILE", &file);
    assert_eq!(status(&run(command)), 1);

    let found = raw(&locks);
    for secret in ["tester", "sh[", "lease", "holder", "\nk."] {
        assert!(!found.contains(secret), "{secret}: {found}");
    }
    // Without the file the lock would be free, under another name.
    for arguments in [&["run", "--no-wait", "k", "--", "true"][..], &["list"], &["break", "k"]] {
        let output = run(locks.lockword(arguments));
        assert_eq!(status(&output), 64, "{arguments:?}");
        assert!(stderr(&output).contains("--seal-key-file"), "{}", stderr(&output));
        // An empty variable is no file.
        let mut command = locks.lockword(arguments);
        command.env("LOCKWORD_SEAL_KEY_FILE", "");
        let output = run(command);
        assert_eq!(status(&output), 64, "{arguments:?}");
        assert!(stderr(&output).contains("is empty"), "{}", stderr(&output));
    }
    // The name in the engine shows the lock, and is no lock.
    let stored = run(lockword(&["seal-key", &file, "--stored", "k"]));
    let stored = stdout(&stored);
    assert!(said(&["status", stored.trim()]).contains("tester@"));
    assert_eq!(status(&with(&locks, &file, &["status", "--exit-code", stored.trim()])), 1);

    assert_eq!(status(&with(&locks, &file, &["break", "--yes", "k"])), 0);
    drop(holder);
    assert_eq!(status(&with(&locks, &file, &["run", "k", "--", "true"])), 0);
    assert_eq!(status(&with(&locks, &file, &["sweep"])), 0);
}

#[test]
fn wrong_keys_are_told_from_one_another() {
    let locks = Locks::new("sealed-wrong");
    let file = keys(&locks.folder, "keys");
    assert_eq!(status(&with(&locks, &file, &["run", "k", "--", "true"])), 0);
    let before = raw(&locks);

    let refused = |file: &str| {
        let output = with(&locks, file, &["run", "k", "--", "true"]);
        assert_eq!(status(&output), 69, "{}", stderr(&output));
        stderr(&output)
    };
    let other = keys(&locks.folder, "other");
    let said = refused(&other);
    assert!(said.contains("hash names with the key"), "{said}");
    // It is not taken for an engine that cannot list.
    for command in ["list", "sweep"] {
        let output = with(&locks, &other, &[command, "k"]);
        assert_eq!((status(&output), stdout(&output).as_str()), (69, ""), "{command}");
        assert!(stderr(&output).contains("hash names with the key"), "{}", stderr(&output));
    }
    let lines = |name: &str| locks.folder.read(name).lines().map(str::to_owned).collect::<Vec<_>>();
    let (ours, theirs) = (lines("keys"), lines("other"));
    let mixed = locks.folder.write("mixed", &format!("{}\n{}\n", ours[1], theirs[2]));
    fs::set_permissions(&mixed, fs::Permissions::from_mode(0o600)).unwrap();
    let said = refused(&mixed);
    assert!(said.contains("which this node does not have") && said.contains("same file"), "{said}");
    assert_eq!(raw(&locks), before);

    // It is rotated, and goes on.
    let old = ours[2].replace("seal", "open");
    locks.folder.write("mixed", &format!("{}\n{}\n{old}\n", ours[1], theirs[2]));
    assert_eq!(status(&with(&locks, &mixed, &["run", "k", "--", "true"])), 0);
    let said = refused(&file);
    assert!(said.contains("which this node does not have"), "{said}");
}

/// It is shown, and is no obstacle to the others.
#[test]
fn a_register_with_another_sealing_key_is_listed_as_unreadable() {
    let locks = Locks::new("sealed-foreign");
    let file = keys(&locks.folder, "keys");
    let used = |file: &str, key: &str| {
        let record = ["run", "--at-most-once-per", "1ms", key, "--", "true"];
        let output = with(&locks, file, &record);
        assert_eq!(status(&output), 0, "{}", stderr(&output));
    };
    used(&file, "jobs/foreign");
    let text = locks.folder.read("keys");
    let name = text.lines().find(|line| line.starts_with("name")).expect("it is there");
    locks.folder.write("keys", &format!("{name}\nseal {}\n", "5a".repeat(32)));
    used(&file, "jobs/ours");
    let shown = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let output = with(&locks, &file, arguments);
        assert_eq!(status(&output), 0, "{arguments:?}: {}", stderr(&output));
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    for prefix in ["jobs/", "jobs/o", ""] {
        let listed = shown(&["list", "--json", prefix]);
        let of = |state: &str| listed.iter().filter(|shown| shown["state"] == state).count();
        assert_eq!((of("unreadable"), of("free"), of("last-run")), (2, 1, 1), "{listed:?}");
        let unreadable = listed.iter().filter(|shown| shown["state"] == "unreadable");
        for shown in unreadable {
            assert!(shown["key"].as_str().unwrap().starts_with("@sealed/"), "{shown}");
            assert!(shown["why"].as_str().unwrap().contains("does not have"), "{shown}");
        }
    }
    for name in ["jobs/foreign", "jobs/foreign@last-run"] {
        assert_eq!(shown(&["status", "--json", name])[0]["state"], "unreadable");
    }
    assert_eq!(shown(&["sweep", "--json", "jobs/"])[0]["records"], 1);
    assert_eq!(shown(&["sweep", "--json", "--dead"])[0]["freed"], 0);
}

/// The third step, as the help has it.
#[test]
fn all_locks_are_written_with_the_new_key() {
    let locks = Locks::new("sealed-rotated");
    let file = keys(&locks.folder, "keys");
    for key in ["a", "jobs/b"] {
        assert_eq!(status(&with(&locks, &file, &["run", key, "--", "true"])), 0);
    }
    let text = locks.folder.read("keys");
    let new = "5a".repeat(32);
    locks.folder.write("keys", &format!("{}seal {new}\n", text.replace("seal", "open")));
    let listed = with(&locks, &file, &["list", "--json"]);
    assert_eq!(status(&listed), 0, "{}", stderr(&listed));
    let mut written = 0;
    for line in stdout(&listed).lines() {
        let shown: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let key = shown["key"].as_str().expect("a name");
        assert_eq!(status(&with(&locks, &file, &["run", "--no-wait", key, "--", "true"])), 0);
        written += 1;
    }
    assert_eq!(written, 2);
    let name = text.lines().find(|line| line.starts_with("name")).expect("it is there");
    locks.folder.write("keys", &format!("{name}\nseal {new}\n"));
    let listed = with(&locks, &file, &["list"]);
    assert_eq!(status(&listed), 0, "{}", stderr(&listed));
    assert!(!stdout(&listed).contains("unreadable"), "{}", stdout(&listed));
}

#[test]
fn a_file_of_keys_is_checked_and_never_overwritten() {
    let locks = Locks::new("sealed-file");
    let file = keys(&locks.folder, "keys");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = locks.folder.read("keys");
    let again = run(lockword(&["seal-key", &file]));
    assert_eq!(status(&again), 74);
    assert_eq!(locks.folder.read("keys"), text);

    let refused = |file: &str, why: &str| {
        let output = with(&locks, file, &["status", "k"]);
        let said = stderr(&output);
        assert_eq!(status(&output), 64, "{said}");
        assert!(said.contains(why) && !said.contains(&text[text.len() - 20..]), "{said}");
    };
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&file, "other users can read or write it (mode 0644)");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    locks.folder.write("keys", &text.replace("seal ", "sael "));
    refused(&file, "line 3 is wrong");
    refused(&locks.folder.path("missing"), "No such file");
    refused("/dev/null", "no regular file");

    locks.folder.write("keys", &text);
    let stored = |name: &str| stdout(&run(lockword(&["seal-key", &file, "--stored", name])));
    assert!(stored("jobs/nightly").starts_with(stored("jobs/").trim()));
}
