//! `lockword run` over a directory: what the command gets, and every exit status.

use crate::locks::{Locks, end_of, heeds_signals, until};
use crate::support::{lockword, run, status, stderr, stdout};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn the_command_gets_the_key_and_a_token_that_grows() {
    let locks = Locks::new("run_token");
    let mut last = 0;
    for _ in 0..3 {
        let output = locks.run(&[], "echo $LOCKWORD_KEY $LOCKWORD_TOKEN; cat <&0");
        assert_eq!(status(&output), 0, "{}", stderr(&output));
        assert_eq!(stderr(&output), "", "nothing is said");
        let text = stdout(&output);
        let (key, token) = text.trim().split_once(' ').expect("two words");
        assert_eq!(key, "k");
        let token: u64 = token.parse().expect("a number");
        assert!(token > last, "{token} after {last}");
        last = token;
    }
}

#[test]
fn the_exit_status_is_that_of_the_command() {
    let locks = Locks::new("run_status");
    for (script, code) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        // Its own failure is not mistaken for one of the lock.
        ("exit 76", 76),
    ] {
        let output = locks.run(&[], script);
        assert_eq!(status(&output), code, "{script}: {}", stderr(&output));
        assert_eq!(stderr(&output), "", "{script}");
    }
    for (command, code, says) in [
        ("lockword-no-such-command", 127, "cannot run lockword-no-such-command"),
        ("/etc/passwd", 126, "cannot run /etc/passwd"),
    ] {
        let output = run(locks.lockword(&["run", "k", "--", command]));
        assert_eq!(status(&output), code);
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
    // Each of them has released the lock.
    assert_eq!(status(&locks.run(&["--no-wait"], "true")), 0);
}

#[test]
fn a_busy_lock_is_not_waited_for_if_that_is_not_wanted() {
    let locks = Locks::new("run_busy");
    let holder = locks.hold(&["--lease", "6s"]);
    for options in [&["--no-wait"][..], &["--wait", "100ms"], &["--skip-if-alive"]] {
        let output = locks.run(options, "echo ran");
        assert_eq!(status(&output), 75, "{options:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "");
        assert!(stderr(&output).starts_with("lockword: "), "{options:?}");
        let output =
            locks.run(&[options, &["--busy-exit-code", "0", "--quiet"]].concat(), "echo ran");
        assert_eq!((status(&output), stderr(&output).as_str()), (0, ""), "{options:?}");
    }
    let waiter =
        locks.script(&[], "echo ran").stdout(std::process::Stdio::piped()).spawn().unwrap();
    assert_eq!(holder.end(), Some(0));
    let output = waiter.wait_with_output().unwrap();
    assert_eq!((status(&output), stdout(&output).as_str()), (0, "ran\n"));
}

#[test]
fn wrong_arguments_are_64() {
    let locks = Locks::new("run_usage");
    for (arguments, says) in [
        (&["run", "k"][..], "COMMAND"),
        (&["run", "k", "true"], "comes after --"),
        (&["run", "a b", "--", "true"], "' ' at byte 1"),
        (&["run", "k", "--lease", "1ms", "--", "true"], "lease"),
        (&["run", "k", "--lease", "x", "--", "true"], "--lease"),
        (&["run", "k", "--grace", "5s", "--", "true"], "half of the lease"),
        (&["run", "k", "--hold-at-most", "1s", "--grace", "2s", "--", "true"], "--grace"),
        (&["run", "k", "--no-wait", "--wait", "1s", "--", "true"], "--wait"),
        (&["run", "k", "--on", "memory:", "--", "true"], "memory:"),
        (&["run", "k", "--on", "nosuch:", "--", "true"], "nosuch"),
        (&["run", "k", "--on", "", "--", "true"], "--on"),
        (&["status"], "KEY"),
        (&["gate", "--file", "x", "--", "true"], "LOCKWORD_KEY"),
    ] {
        let output = run(locks.lockword(arguments));
        let line = stderr(&output);
        assert_eq!(status(&output), 64, "{arguments:?}: {line}");
        assert!(
            line.contains(says) && line.trim_end().lines().count() == 1,
            "{arguments:?}: {line}"
        );
    }
    let mut command = lockword(&["run", "k", "--", "true"]);
    command.env_remove("LOCKWORD_ON");
    let output = run(command);
    assert!(
        status(&output) == 64 && stderr(&output).contains("LOCKWORD_ON"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn an_engine_that_cannot_be_reached_is_69() {
    let locks = Locks::new("run_engine");
    let address = format!("dir:{}", locks.folder.path("missing/locks"));
    let output = run(lockword(&["run", "k", "--on", &address, "--", "true"]));
    assert_eq!(status(&output), 69, "{}", stderr(&output));
}

#[test]
fn signals_are_passed_on_to_the_group() {
    let locks = Locks::new("run_signals");
    for (name, number) in [
        ("INT", libc::SIGINT),
        ("TERM", libc::SIGTERM),
        ("HUP", libc::SIGHUP),
        ("QUIT", libc::SIGQUIT),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("WINCH", libc::SIGWINCH),
    ] {
        let (ready, got) = (locks.folder.path("ready"), locks.folder.path("got"));
        let _ = std::fs::remove_file(&ready);
        let script = format!(
            "trap 'echo {name} > {got}; exit 9' {name}; : > {ready}; while :; do sleep 0.01; done"
        );
        let mut command = locks.script(&[], &script);
        heeds_signals(&mut command);
        let mut process = command.spawn().unwrap();
        until("the command runs", || std::fs::exists(&ready).unwrap());
        // SAFETY: the child was started here and not waited for.
        unsafe { libc::kill(process.id() as i32, number) };
        assert_eq!(end_of(&mut process), Some(9), "{name}");
        assert_eq!(locks.folder.read("got").trim(), name);
    }
}

#[test]
fn a_signal_that_is_ignored_stays_ignored_in_the_command() {
    let locks = Locks::new("run_nohup");
    let program = env!("CARGO_BIN_EXE_lockword");
    let mut command = Command::new("sh");
    // dash cannot trap what was ignored when it began: it would die of the signal otherwise.
    let script = format!("trap '' HUP; exec {program} run k -- sh -c 'kill -HUP $$; echo lived'");
    command.args(["-c", &script]).envs(
        locks
            .lockword(&[])
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))),
    );
    let output = run(command);
    assert_eq!((status(&output), stdout(&output).as_str()), (0, "lived\n"), "{}", stderr(&output));
}

#[test]
fn a_signal_before_the_command_runs_ends_the_wait() {
    let locks = Locks::new("run_wait_signal");
    let holder = locks.hold(&[]);
    let mut waiter = locks.script(&[], "echo ran").spawn().unwrap();
    until("it waits", || locks.is_waited_for());
    // SAFETY: the child was started here and not waited for.
    unsafe { libc::kill(waiter.id() as i32, libc::SIGTERM) };
    assert_eq!(end_of(&mut waiter), Some(143));
    assert!(!locks.is_waited_for(), "it has left the queue");
    assert_eq!(holder.end(), Some(0));
}

#[test]
fn a_limit_ends_the_command() {
    let locks = Locks::new("run_limit");
    let options = ["--hold-at-most", "600ms", "--grace", "300ms"];
    // It gets the time to end well.
    let output =
        locks.run(&options, "trap 'echo ended; exit 0' TERM; while :; do sleep 0.01; done");
    assert_eq!((status(&output), stdout(&output).as_str()), (76, "ended\n"), "{}", stderr(&output));
    assert!(stderr(&output).contains("--hold-at-most"), "{}", stderr(&output));
    // It does not, and is killed with all of its group.
    let began = Instant::now();
    let output = locks.run(&options, "trap '' TERM; sleep 60 & wait; sleep 60; sleep 60");
    assert_eq!(status(&output), 76, "{}", stderr(&output));
    assert!(began.elapsed() < Duration::from_secs(30), "the group is killed");
    assert!(stderr(&output).contains("the command ended with 137"), "{}", stderr(&output));
}

#[test]
fn a_job_starts_once_in_its_period() {
    let locks = Locks::new("run_once");
    // All of them have looked before any has started.
    let holder = locks.hold(&[]);
    let starts: Vec<_> = (0..4)
        .map(|_| locks.script(&["--at-most-once-per", "1h"], "echo ran >> $0.txt; exit 5"))
        .map(|mut command| command.arg(locks.folder.path("runs")).spawn().unwrap())
        .collect();
    until("all wait", || locks.waiting() == 4);
    assert_eq!(holder.end(), Some(0));
    let mut codes: Vec<_> =
        starts.into_iter().map(|mut process| end_of(&mut process).unwrap()).collect();
    codes.sort_unstable();
    // A run that fails counts.
    assert_eq!(codes, [5, 75, 75, 75]);
    assert_eq!(locks.folder.read("runs.txt"), "ran\n");
    let output = locks.run(&["--at-most-once-per", "1ms"], "echo ran");
    assert_eq!((status(&output), stdout(&output).as_str()), (0, "ran\n"), "{}", stderr(&output));
}

/// An election from a shell: the others see where the holder is found.
#[test]
fn a_command_publishes_a_text_with_its_lock() {
    let locks = Locks::new("run_publish");
    let holder = locks.hold(&["--publish", "http://10.0.0.7:8080"]);
    let value = || {
        let shown = run(locks.lockword(&["status", "--json", "k"]));
        let shown: serde_json::Value = serde_json::from_str(&stdout(&shown)).unwrap();
        shown["holder"]["value"].as_str().map(str::to_owned)
    };
    assert_eq!(value().as_deref(), Some("http://10.0.0.7:8080"));
    let shown = stdout(&run(locks.lockword(&["status", "k"])));
    assert!(shown.contains("value     http://10.0.0.7:8080\n"), "{shown}");
    let mut watch = locks.lockword(&["watch", "k"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains(" at http://10.0.0.7:8080"), "{line}");
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert_eq!(holder.end(), Some(0));
    assert_eq!(value(), None);
    let too_long = "x".repeat(257);
    let refused = locks.run(&["--publish", &too_long, "--at-most-once-per", "1d"], "echo ran");
    assert_eq!((status(&refused), stdout(&refused).as_str()), (64, ""), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("256 bytes"), "{}", stderr(&refused));
    // Nothing stays held, and no start is recorded.
    let output = locks.run(&["--no-wait", "--at-most-once-per", "1d"], "true");
    assert_eq!(status(&output), 0, "{}", stderr(&output));
}

#[test]
fn a_command_whose_reader_has_gone_ends_as_without_run() {
    let locks = Locks::new("run_pipe");
    let (program, code) = (env!("CARGO_BIN_EXE_lockword"), locks.folder.path("code"));
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{{ {program} run k -- yes; echo $? > {code}; }} | head -n 1")]);
    let variables = locks.lockword(&[]);
    command.envs(variables.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = run(command);
    assert_eq!(stdout(&output), "y\n");
    // 128 and SIGPIPE.
    assert_eq!(locks.folder.read("code").trim(), "141", "{}", stderr(&output));
}

/// As in a service or a cron job.
#[test]
fn a_terminal_is_not_needed() {
    use std::os::unix::process::CommandExt as _;
    let locks = Locks::new("run_no_terminal");
    let mut command = locks.script(&[], "cat; (: < /dev/tty) 2> /dev/null || echo none; exit 6");
    command.stdin(std::process::Stdio::null());
    let detach = || {
        // SAFETY: the call only concerns the child.
        unsafe { libc::setsid() };
        Ok(())
    };
    // SAFETY: one system call and no allocation.
    unsafe { command.pre_exec(detach) };
    let output = run(command);
    assert_eq!((status(&output), stdout(&output).as_str()), (6, "none\n"), "{}", stderr(&output));
}

/// A program in the middle of a pipe: all three streams are the command's.
#[test]
fn the_streams_are_those_of_the_command() {
    use std::io::Write as _;
    use std::process::Stdio;
    let locks = Locks::new("run_streams");
    let mut command = locks.script(&["--quiet"], "tr a b; echo err >&2");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut input = process.stdin.take().unwrap();
    // More than a pipe takes in.
    let writer = thread::spawn(move || input.write_all(&[b'a'; 200_000]));
    let output = process.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(stderr(&output), "err\n");
    assert!(output.stdout == vec![b'b'; 200_000], "all of it");
}

#[test]
fn verbose_tells_what_happens() {
    let locks = Locks::new("run_verbose");
    let text = stderr(&locks.run(&["--verbose"], "true"));
    for word in ["acquiring k", "holding k, token ", "released k"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}
