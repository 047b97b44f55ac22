//! `lockword run` in a terminal, under a shell with job control: Ctrl-C, Ctrl-Z and `fg`, a pager.

use crate::interrupt::pseudoterminal;
use crate::locks::{Locks, heeds_signals, is_alive, until};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A shell in a terminal of its own.
struct Shell {
    process: Child,
    keys: File,
    screen: mpsc::Receiver<Vec<u8>>,
    /// What was printed and not yet waited for.
    seen: String,
}

impl Shell {
    /// `None` without bash.
    fn start(locks: &Locks) -> Option<Shell> {
        let (kept, given) = pseudoterminal();
        let tty = given.as_raw_fd();
        let mut command = Command::new("bash");
        command.args(["--norc", "--noprofile", "--noediting", "-i"]);
        let variables = locks.lockword(&[]);
        command.envs(variables.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PS1", "$ ").env("L", env!("CARGO_BIN_EXE_lockword"));
        command.stdin(given.try_clone().unwrap()).stdout(given.try_clone().unwrap()).stderr(given);
        let control = move || {
            // SAFETY: both calls only concern this process and its terminal.
            if unsafe { libc::setsid() < 0 || libc::ioctl(tty, libc::TIOCSCTTY, 0) < 0 } {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        };
        // SAFETY: two system calls and no allocation.
        unsafe { command.pre_exec(control) };
        heeds_signals(&mut command);
        let process = command.spawn().ok()?;
        drop(command);
        let (sender, screen) = mpsc::channel();
        let mut reader = kept.try_clone().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut shell = Shell { process, keys: kept, screen, seen: String::new() };
        // What is typed is not seen twice. And the kernel does not throw away what was printed when it sends a signal
        // for a key: on a busy machine it does that only after the shell has said that the job has stopped.
        shell.types("stty -echo noflsh; echo rea''dy\n");
        shell.wait_for("ready");
        Some(shell)
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal is there");
    }

    /// Waits until this is printed, after what was waited for before.
    fn wait_for(&mut self, text: &str) {
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            match self.screen.recv_timeout(Duration::from_secs(60)) {
                Ok(more) => self.seen += &String::from_utf8_lossy(&more),
                Err(_) => panic!("{text:?} is not printed: {:?}", self.seen),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The hang-up ends what it has started.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A command that repeats what is typed, in one process: with `cat` beside a shell, the shell could be seen as
/// stopped while `cat` still takes the next line, or could be unable to stop since it waits for `cat` to be
/// executed.
const READS: &str = "while read line; do echo \"$line\"; done";

#[test]
fn ctrl_c_goes_to_the_command_and_its_status_to_the_shell() {
    let locks = Locks::new("tty_interrupt");
    let Some(mut shell) = Shell::start(&locks) else { return };
    shell.types("$L run k -- sh -c 'trap \"exit 3\" INT; echo u''p; while :; do sleep 0.01; done'; echo rc=$?\n");
    shell.wait_for("up");
    shell.types("\x03");
    shell.wait_for("rc=3");
    // A command that does not care dies of it.
    shell.types("$L run k -- sh -c 'echo u''p; exec sleep 100'; echo rc=$?\n");
    shell.wait_for("up");
    shell.types("\x03");
    shell.wait_for("rc=130");
}

#[test]
fn ctrl_z_stops_the_job_and_fg_goes_on_with_it() {
    let locks = Locks::new("tty_stop");
    let Some(mut shell) = Shell::start(&locks) else { return };
    shell.types(&format!("$L run --lease 1h k -- sh -c 'echo u''p; {READS}; exit 4'\n"));
    shell.wait_for("up");
    shell.types("one\n");
    shell.wait_for("one");
    for text in ["two", "three", "four", "five", "six"] {
        shell.types("\x1a");
        shell.wait_for("Stopped");
        // The shell has the terminal again.
        shell.types("echo a''gain; fg\n");
        shell.wait_for("again");
        shell.types(&format!("{text}\n"));
        shell.wait_for(text);
    }
    shell.types("\x04");
    shell.types("echo rc=$?\n");
    shell.wait_for("rc=4");
}

/// With the lock lost while the job was stopped, it does not go on.
#[test]
fn a_job_that_was_stopped_for_longer_than_its_lease_has_lost_the_lock() {
    let locks = Locks::new("tty_lost");
    let Some(mut shell) = Shell::start(&locks) else { return };
    shell.types(&format!("$L run --lease 2s k -- sh -c 'echo u''p; {READS}; echo went-on'\n"));
    shell.wait_for("up");
    shell.types("\x1a");
    shell.wait_for("Stopped");
    shell.types("$L run k -- echo ne''xt\n");
    shell.wait_for("next");
    shell.types("fg; echo rc=$?\n");
    shell.wait_for("rc=76");
    assert!(!shell.seen.contains("went-on"), "{}", shell.seen);
}

/// In a pipe the terminal is the other program's, until the command asks for it.
#[test]
fn a_command_in_a_pipe_gets_the_terminal_when_it_reads() {
    let locks = Locks::new("tty_pipe");
    let Some(mut shell) = Shell::start(&locks) else { return };
    shell.types("$L run k -- sh -c 'read a; echo got $a' | cat; echo rc=${PIPESTATUS[0]}\n");
    shell.types("x1\n");
    shell.wait_for("got x1");
    shell.wait_for("rc=0");
    // In the background it stops, as any job does, and goes on in the foreground.
    shell.types("$L run k -- sh -c 'read a; echo got $a' &\n");
    shell.types("until [[ $(jobs) == *Stopped* ]]; do sleep 0.02; done; echo j''obs\n");
    shell.wait_for("jobs");
    shell.types("fg\n");
    shell.types("x2\n");
    shell.wait_for("got x2");
}

/// A shell that suspends itself does so by SIGSTOP.
#[test]
fn a_command_that_stops_itself_gives_the_terminal_back() {
    let locks = Locks::new("tty_suspend");
    let Some(mut shell) = Shell::start(&locks) else { return };
    shell.types("$L run k -- sh -c 'kill -STOP $$; echo went''-on; exit 5'; echo rc=$?\n");
    shell.wait_for("Stopped");
    shell.types("fg; echo rc=$?\n");
    shell.wait_for("went-on");
    shell.wait_for("rc=5");
}

/// Its shell has ended, so nobody can ever give it the terminal.
#[test]
fn a_command_that_nobody_can_give_the_terminal_ends() {
    let locks = Locks::new("tty_orphan");
    let pid = locks.folder.path("pid");
    let Some(mut shell) = Shell::start(&locks) else { return };
    // Also one that does not care.
    for trap in ["", "trap \"\" HUP;"] {
        let script = format!("{trap} while :; do read a < /dev/tty; done");
        let line = format!("set -m; $L run k -- sh -c \"$S\" & echo $! > {pid}");
        shell.types(&format!("S='{script}' bash -c '{line}'; echo d''one\n"));
        shell.wait_for("done");
        let process: i32 = locks.folder.read("pid").trim().parse().unwrap();
        until("it ends", || !is_alive(process));
    }
}

/// It reads keys from the terminal, and has set it to its own mode.
#[test]
fn a_pager_has_the_terminal() {
    let locks = Locks::new("tty_pager");
    let file = locks.folder.write("long", &"line\n".repeat(500));
    let Some(mut shell) = Shell::start(&locks) else { return };
    if Command::new("less").arg("--version").output().is_err() {
        eprintln!("skipped: less is not installed");
        return;
    }
    // Alone, and behind a program that writes to it.
    for line in ["$L run k -- less -P pa''ge FILE", "$L run k -- cat FILE | less -P pa''ge"] {
        shell.types(&format!("TERM=xterm {}; echo rc=$?\n", line.replace("FILE", &file)));
        shell.wait_for("page");
        shell.types(" ");
        shell.wait_for("page");
        shell.types("q");
        shell.wait_for("rc=0");
        // The shell has the terminal again, as it was.
        shell.types("echo a''gain\n");
        shell.wait_for("again");
    }
}

#[test]
fn ctrl_c_ends_a_wait_a_watch_and_a_top() {
    let locks = Locks::new("tty_wait");
    let holder = locks.hold(&[]);
    let Some(mut shell) = Shell::start(&locks) else { return };
    shell.types("$L run k -- true; echo rc=$?\n");
    shell.wait_for("waiting for k");
    shell.types("\x03");
    shell.wait_for("rc=130");
    shell.types("$L watch\n");
    shell.wait_for("k: held");
    // The shell ends a list of commands with one that dies of it.
    shell.types("\x03");
    shell.types("echo rc=$?\n");
    shell.wait_for("rc=130");
    // Its second table takes the place of the first.
    shell.types("$L top --every 20ms\n");
    for _ in 0..2 {
        shell.wait_for("\x1b[H\x1b[K0 nodes wait for 0 locks; 1 held; 1 key in all; a look takes ");
    }
    shell.types("\x03");
    shell.types("echo rc=$?\n");
    shell.wait_for("rc=130");
    assert_eq!(holder.end(), Some(0));
}

#[test]
fn break_asks_on_a_terminal() {
    let locks = Locks::new("tty_break");
    let holder = locks.hold(&[]);
    let Some(mut shell) = Shell::start(&locks) else { return };
    for (answer, says) in [("n", "rc=1"), ("", "rc=1"), ("y", "rc=0")] {
        shell.types("$L break k; echo rc=$?\n");
        shell.wait_for("Break it? [y/N]");
        shell.types(&format!("{answer}\n"));
        shell.wait_for(says);
    }
    drop(holder);
}
