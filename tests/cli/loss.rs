//! A lock that is lost, and a `lockword run` that is killed or stopped: the command ends, and the next one
//! starts.

use crate::child;
use crate::locks::{
    Locks, children, end_of, guardian, is_alive, is_guardian, kill, until, until_replaced, wait,
};
use crate::support::{run, status, stderr, stdout};
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn a_broken_lock_ends_the_command_and_tells_why() {
    let locks = Locks::new("loss_broken");
    let ready = locks.folder.path("ready");
    let script =
        format!("trap 'echo told; exit 0' TERM; : > {ready}; while :; do sleep 0.01; done");
    let mut command = locks.script(&["--lease", "6s"], &script);
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("it runs", || fs::exists(&ready).unwrap());
    let output = run(locks.lockword(&["break", "k", "--yes", "--reason", "it hangs"]));
    assert!(stdout(&output).contains("k is taken from tester@"), "{}", stdout(&output));
    let output = process.wait_with_output().unwrap();
    let text = stderr(&output);
    // It has the time to end well. The loss wins over its status.
    assert_eq!((status(&output), stdout(&output).as_str()), (76, "told\n"), "{text}");
    assert!(text.contains("broke it: it hangs") && text.contains("lost: tester@"), "{text}");
}

/// The command ends at once, and what it has started does not.
#[test]
fn what_the_command_has_started_ends_with_a_loss_too() {
    let locks = Locks::new("loss_started");
    let worker = locks.folder.path("worker");
    let script = format!(
        "(trap '' TERM; while :; do sleep 0.01; done) & echo $! > {worker}.new
         mv {worker}.new {worker}; wait"
    );
    let mut holder = locks.script(&["--hold-at-most", "4s", "--grace", "500ms"], &script);
    let mut holder = holder.stderr(Stdio::null()).spawn().unwrap();
    until("it has started something", || fs::exists(&worker).unwrap());
    let started: i32 = locks.folder.read("worker").trim().parse().expect("a number");
    // The next one begins when that is dead, and not before.
    let lives = format!("grep -qs 'State:.[^ZX]' /proc/{started}/status");
    let next = run(locks.script(&["--wait", &wait()], &format!("! {lives}")));
    assert_eq!((status(&next), end_of(&mut holder)), (0, Some(76)), "{}", stderr(&next));
    assert!(!is_alive(started));
}

#[test]
fn the_guardian_ends_the_command_when_run_is_killed() {
    let locks = Locks::new("loss_killed");
    let mut holder = locks.hold(&["--lease", "1h"]);
    let guardian = guardian(holder.process.id());
    holder.process.kill().unwrap();
    holder.process.wait().unwrap();
    until("the command is dead", || !is_alive(holder.command));
    until("the guardian has ended", || !is_alive(guardian));
}

/// The second line: the kernel kills the command when the thread that has started it ends.
#[test]
fn the_command_dies_with_run_also_if_the_guardian_cannot_act() {
    let locks = Locks::new("loss_both");
    let mut holder = locks.hold(&["--lease", "1h"]);
    let guardian = guardian(holder.process.id());
    kill(guardian, libc::SIGSTOP);
    holder.process.kill().unwrap();
    holder.process.wait().unwrap();
    until("the command is dead", || !is_alive(holder.command));
    kill(guardian, libc::SIGKILL);
}

/// A process that has left the group of the command is killed by nobody. It has the tie, so the lock stays
/// its own up to its end, also after the end of the lease; and if the lease has an hour left, it is not waited
/// for.
#[test]
fn a_waiter_starts_as_soon_as_the_last_process_has_died_and_never_before() {
    let locks = Locks::new("loss_tie");
    let (kept, begun) = (locks.folder.path("kept"), locks.folder.path("begun"));
    let script =
        format!("setsid sh -c 'echo $$ > {kept}.new; mv {kept}.new {kept}; exec sleep 600' & wait");
    let mut took = vec![];
    for lease in ["2s", "1h", "1h", "1h", "2s"] {
        for file in [&kept, &begun] {
            let _ = fs::remove_file(file);
        }
        let mut holder = locks.script(&["--lease", lease], &script).spawn().unwrap();
        until("it runs", || fs::exists(&kept).unwrap());
        let keeper: i32 = locks.folder.read("kept").trim().parse().unwrap();
        let command = children(holder.id()).into_iter().find(|one| !is_guardian(*one)).unwrap();
        let mut waiter =
            locks.script(&["--lease", lease], &format!(": > {begun}")).spawn().unwrap();
        until("it waits", || locks.is_waited_for());
        holder.kill().unwrap();
        holder.wait().unwrap();
        until("the command is dead", || !is_alive(command));
        // For longer than the shorter lease: its end changes nothing.
        std::thread::sleep(Duration::from_millis(if lease == "2s" { 3000 } else { 300 }));
        assert!(!fs::exists(&begun).unwrap() && is_alive(keeper), "a process of the holder lives");
        kill(keeper, libc::SIGKILL);
        let died = Instant::now();
        until("the next one starts", || fs::exists(&begun).unwrap());
        took.push(died.elapsed());
        assert!(end_of(&mut waiter) == Some(0));
    }
    took.sort();
    println!("the next command started within {took:?}");
    assert!(took[took.len() / 2] <= Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_stopped_run_loses_the_lock_and_its_command() {
    let locks = Locks::new("loss_stopped");
    let mut holder = locks.hold(&["--lease", "2s"]);
    holder.signal(libc::SIGSTOP);
    until("the guardian ends the command", || !is_alive(holder.command));
    let output = run(locks.script(&["--wait", &wait()], "echo next"));
    assert_eq!(stdout(&output), "next\n", "{}", stderr(&output));
    holder.signal(libc::SIGCONT);
    assert_eq!(end_of(&mut holder.process), Some(76));
}

#[test]
fn a_guardian_that_was_killed_is_replaced_and_a_stopped_one_is_ended() {
    for number in [libc::SIGKILL, libc::SIGSTOP] {
        let locks = Locks::new(&format!("loss_guardian_{number}"));
        let mut holder = locks.hold(&["--lease", "1h"]);
        let first = guardian(holder.process.id());
        kill(first, number);
        if number == libc::SIGSTOP {
            // `run` ends all the same.
            assert_eq!(holder.end(), Some(0));
            until("it has ended", || !is_alive(first));
            continue;
        }
        until_replaced(holder.process.id(), first);
        holder.process.kill().unwrap();
        holder.process.wait().unwrap();
        until("the command is dead", || !is_alive(holder.command));
    }
}

/// The command of the test below: it closes what it has inherited, as daemons and `sudo` do.
#[test]
fn closer() {
    if child::role().as_deref() != Some("closer") {
        return;
    }
    // SAFETY: nothing of this process uses these descriptors any more.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    let [begun, end] = ["BEGUN", "END"].map(|name| std::env::var(name).expect("it is set"));
    fs::write(begun, "").expect("it is writable");
    until("it is told to end", || fs::exists(&end).unwrap());
}

/// The tie ends with a guardian that is killed if the command has closed it. The lock stays with the `run` that
/// lives, also if that is stopped for a while, and is released when the command has ended.
#[test]
fn a_lock_without_a_tie_is_not_taken_from_a_run_that_lives() {
    let locks = Locks::new("loss_closer");
    let [begun, end] = ["begun", "end"].map(|name| locks.folder.path(name));
    let own = std::env::current_exe().unwrap();
    let own = own.to_str().unwrap();
    let mut command = locks.lockword(&["run", "k", "--lease", "1h", "--", own]);
    command.args(["--exact", "loss::closer", "--nocapture", "--test-threads=1"]);
    command.env(child::ROLE, "closer").env("BEGUN", &begun).env("END", &end);
    let mut holder = command.stdout(Stdio::null()).spawn().unwrap();
    until("it runs", || fs::exists(&begun).unwrap());
    let first = guardian(holder.id());
    kill(first, libc::SIGKILL);
    until_replaced(holder.id(), first);
    for number in [libc::SIGCONT, libc::SIGSTOP] {
        kill(holder.id() as i32, number);
        let output = run(locks.script(&["--wait", "300ms"], "true"));
        assert_eq!(status(&output), 75, "{}", stderr(&output));
    }
    fs::write(&end, "").unwrap();
    kill(holder.id() as i32, libc::SIGCONT);
    assert_eq!(end_of(&mut holder), Some(0));
    assert_eq!(status(&run(locks.script(&["--no-wait"], "true"))), 0);
}

/// Also one that does not wait sees that the processes of the holder are dead.
#[test]
fn a_dead_holder_is_no_reason_to_be_busy() {
    for options in [&["--no-wait"][..], &["--wait", "0"], &["--skip-if-alive"]] {
        let locks = Locks::new("loss_dead");
        let mut holder = locks.hold(&["--lease", "1h"]);
        holder.process.kill().unwrap();
        holder.process.wait().unwrap();
        until("the command is dead", || !is_alive(holder.command));
        until("nobody has the tie", || {
            let output = run(locks.lockword(&["status", "k", "--json", "--watch-for", "0"]));
            stdout(&output).contains("\"tied\":false")
        });
        let output = run(locks.script(options, "exit 3"));
        assert_eq!(status(&output), 3, "{options:?}: {}", stderr(&output));
    }
}

/// A reason is any text, and makes no other loss of it.
#[test]
fn the_reason_of_a_break_changes_no_exit_status() {
    let locks = Locks::new("loss_reason");
    let mut holder = locks.hold(&["--lease", "3s"]);
    let reason = "its processes are dead";
    let output = run(locks.lockword(&["break", "k", "--yes", "--reason", reason]));
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert_eq!(end_of(&mut holder.process), Some(76));
}

/// What the command leaves in its group ends with it if `run` is killed, also what PR_SET_PDEATHSIG does
/// not reach.
#[test]
fn the_whole_group_is_killed() {
    let locks = Locks::new("loss_group");
    let child = locks.folder.path("child");
    let script = format!("sleep 600 & echo $! > {child}.new; mv {child}.new {child}; wait");
    let mut process = locks.script(&[], &script).spawn().unwrap();
    until("it runs", || fs::exists(&child).unwrap());
    let sleeper: i32 = locks.folder.read("child").trim().parse().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    until("it is dead", || !is_alive(sleeper));
}

/// In a container, the session and the group of `run` may be of an outer pid namespace: then they have the
/// number 0.
#[test]
#[cfg(target_os = "linux")]
fn the_whole_group_is_killed_also_where_the_session_has_no_number() {
    use std::os::unix::process::CommandExt as _;

    let locks = Locks::new("loss_namespace");
    let begun = locks.folder.path("begun");
    let command = locks.script(&[], &format!("sleep 600 & : > {begun}; wait"));
    let mut outer = std::process::Command::new("sh");
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    // The first child is the init process of the namespace. It lives on, or all would be dead with it.
    outer.args(["-c", "sh -c '\"$@\" & wait; sleep 600' \"$@\"; exit 1", "sh", "sh"]);
    outer.arg(command.get_program()).args(command.get_args());
    let unshare = || {
        // SAFETY: the calls only concern this process.
        let done = unsafe {
            libc::unshare(libc::CLONE_NEWPID) == 0
                || libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID) == 0
        };
        if done { Ok(()) } else { Err(std::io::ErrorKind::Unsupported.into()) }
    };
    // SAFETY: system calls and no allocation, which is permitted between fork and exec.
    unsafe { outer.pre_exec(unshare) };
    let mut outer = match outer.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
            eprintln!("skipped: this process may not unshare its process numbers");
            return;
        }
        outer => outer.unwrap(),
    };
    until("it runs", || fs::exists(&begun).unwrap());
    let init = children(outer.id())[0];
    let namespace = Namespace { init };
    let run = children(init as u32)[0];
    let command = children(run as u32).into_iter().find(|one| !is_guardian(*one)).unwrap();
    let sleeper = children(command as u32)[0];
    kill(run, libc::SIGKILL);
    until("it is dead", || !is_alive(sleeper));
    assert!(is_alive(init));
    drop(namespace);
    assert_eq!(end_of(&mut outer), Some(1));
}

/// A pid namespace, whose processes all end with this.
#[cfg(target_os = "linux")]
struct Namespace {
    init: i32,
}

#[cfg(target_os = "linux")]
impl Drop for Namespace {
    fn drop(&mut self) {
        kill(self.init, libc::SIGKILL);
    }
}
