//! Runs one test of the present binary again, in a process of its own and in another role.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The variable that has the role.
pub const ROLE: &str = "LOCKWORD_TEST_ROLE";

/// The role that the parent gave to this process, if any.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// How a child ended.
#[derive(Debug)]
pub struct Ended {
    /// Whether it had to be killed at the deadline.
    pub timed_out: bool,
    /// Its exit status.
    pub status: ExitStatus,
    /// Both of its outputs.
    pub output: String,
}

impl Ended {
    /// Panics with the child's output unless it ended by itself and well.
    #[allow(dead_code, reason = "not every test binary expects success")]
    pub fn expect_success(&self, what: &str) {
        assert!(
            !self.timed_out && self.status.success(),
            "{what}: {}, {}\n{}",
            if self.timed_out { "killed at the deadline" } else { "ended" },
            self.status,
            self.output
        );
    }
}

/// Runs the test named `test` again with the given role, and kills it at the deadline.
pub fn run(test: &str, role: &str, deadline: Duration) -> Ended {
    run_with(test, role, &[], deadline)
}

/// The same, with these variables besides.
pub fn run_with(
    test: &str,
    role: &str,
    variables: &[(&str, &std::path::Path)],
    deadline: Duration,
) -> Ended {
    let exe = std::env::current_exe().expect("the path of this binary");
    // The program that runs this binary, where the system cannot: an emulator.
    let mut command = match std::env::var_os("LOCKWORD_RUNNER") {
        Some(runner) => {
            let mut command = Command::new(runner);
            command.arg(exe);
            command
        }
        None => Command::new(exe),
    };
    let mut child = command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this binary starts again");

    // The pipes close when the child ends, so the readers' last word tells of its end.
    let (sender, ended) = mpsc::channel();
    let mut pipes: [Box<dyn Read + Send>; 2] =
        [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
    let readers = pipes.each_mut().map(|pipe| {
        let mut pipe = std::mem::replace(pipe, Box::new(std::io::empty()));
        let sender = sender.clone();
        thread::spawn(move || {
            let mut text = Vec::new();
            let _ = pipe.read_to_end(&mut text);
            let _ = sender.send(());
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    let timed_out = (0..2).any(|_| ended.recv_timeout(deadline).is_err());
    if timed_out {
        child.kill().expect("a child can be killed");
    }
    let status = child.wait().expect("a child can be waited for");
    let output = readers.map(|reader| reader.join().unwrap()).concat();
    Ended { timed_out, status, output }
}

/// Runs `body` in a process in which no other test runs, and with it no thread but those that
/// `body` starts. It panics when that fails or takes longer than `deadline`.
#[allow(dead_code, reason = "only the tests that fork need it")]
pub fn alone(test: &str, deadline: Duration, body: impl FnOnce()) {
    if role().is_some() {
        body();
    } else {
        run(test, "alone", deadline).expect_success(test);
    }
}
