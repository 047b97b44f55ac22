//! What the tests of `lockword run` share: a directory for locks, a holder, and processes.

use crate::support::{Folder, lockword, run, stdout};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::thread;
use std::time::{Duration, Instant};

/// A folder for one test, and a directory for its locks.
pub struct Locks {
    pub folder: Folder,
    directory: PathBuf,
    address: String,
}

impl Locks {
    /// The directory is in memory, if the system has such a place: a busy disk can take longer for a
    /// request than a short lease.
    pub fn new(name: &str) -> Locks {
        let folder = Folder::new(name);
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let directory = place.join(format!("lockword-cli-{}-{name}", std::process::id()));
        let address = format!("dir:{}", directory.display());
        Locks { folder, directory, address }
    }

    /// The same over another engine.
    #[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
    pub fn over(name: &str, address: &str) -> Locks {
        let mut locks = Locks::new(name);
        address.clone_into(&mut locks.address);
        locks
    }

    /// Where the locks are, if they are in a directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `lockword` with these arguments and the engine in the variable.
    pub fn lockword(&self, arguments: &[&str]) -> Command {
        let mut command = lockword(arguments);
        command.env("LOCKWORD_ON", &self.address).env("USER", "tester");
        command
    }

    /// `lockword run` of the lock `k`, with these options, of a script.
    pub fn script(&self, options: &[&str], script: &str) -> Command {
        self.lockword(&[&["run", "k"], options, &["--", "sh", "-c", script]].concat())
    }

    pub fn run(&self, options: &[&str], script: &str) -> Output {
        run(self.script(options, script))
    }

    /// Whether a node waits for the lock `k`.
    pub fn is_waited_for(&self) -> bool {
        self.waiting() > 0
    }

    /// How many nodes wait for the lock `k`.
    pub fn waiting(&self) -> usize {
        let output = run(self.lockword(&["status", "k", "--json", "--watch-for", "0"]));
        let shown: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
        shown["queue"].as_array().map_or(0, Vec::len)
    }

    /// Starts a holder of the lock `k`, which has it when this returns. It ends when the file `end` is
    /// there.
    pub fn hold(&self, options: &[&str]) -> Holder {
        let (begun, end) = (self.folder.path("begun"), self.folder.path("end"));
        let _ = std::fs::remove_file(&begun);
        let _ = std::fs::remove_file(&end);
        let token = self.folder.path("token");
        let script = format!(
            "echo $LOCKWORD_TOKEN > {token}; echo $$ > {begun}.new; mv {begun}.new {begun}
             until [ -e {end} ]; do sleep 0.01; done"
        );
        let process = self.script(options, &script).spawn().expect("it starts");
        until("the command runs", || std::fs::exists(&begun).unwrap());
        let command = self.folder.read("begun").trim().parse().expect("a number");
        Holder { process, command, end }
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        // A process that is about to end may have it open.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A `lockword run` that holds a lock.
pub struct Holder {
    pub process: std::process::Child,
    /// The process of the command, which leads its group.
    pub command: i32,
    end: String,
}

impl Holder {
    /// Has the command end, and returns the exit status.
    pub fn end(mut self) -> Option<i32> {
        self.tell_to_end();
        end_of(&mut self.process)
    }

    pub fn tell_to_end(&self) {
        std::fs::write(&self.end, "").expect("it is writable");
    }

    pub fn signal(&self, number: i32) {
        // SAFETY: the child was started here and not waited for, so the number is still its own.
        unsafe { libc::kill(self.process.id() as i32, number) };
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended already. The guardian ends the command.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How long something that is to happen is waited for: a minute. A planted bug has less, by
/// `LOCKWORD_TEST_LIMIT` in seconds, since it is not to be told from a busy machine.
pub fn limit() -> Duration {
    let seconds = std::env::var("LOCKWORD_TEST_LIMIT").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// Waits until this holds, for a minute at most.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit(), "{what}: not within {:?}", limit());
        thread::sleep(Duration::from_millis(2));
    }
}

/// Has the command start with the signals of a keyboard not ignored, as a shell ignores them for what it
/// starts in the background, these tests perhaps.
pub fn heeds_signals(command: &mut Command) {
    use std::os::unix::process::CommandExt as _;
    let reset = || {
        for number in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTSTP] {
            // SAFETY: the default action runs no code.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: system calls and no allocation, which is permitted between fork and exec.
    unsafe { command.pre_exec(reset) };
}

/// Whether there is such a process, other than as a zombie.
pub fn is_alive(process: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = status.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// Waits for the end of a child of the test, and returns its exit status. If it takes longer than
/// [`limit`], it is killed.
pub fn end_of(process: &mut Child) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = process.try_wait().expect("it can be waited for") {
            return status.code();
        }
        if start.elapsed() >= limit() {
            let _ = process.kill();
            panic!("it does not end within {:?}", limit());
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The guardian of a `lockword run`: the child of it that is not the command.
pub fn guardian(of: u32) -> i32 {
    children(of).into_iter().find(|process| is_guardian(*process)).expect("it has a guardian")
}

/// The children of this process.
pub fn children(of: u32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    children.split_whitespace().map(|child| child.parse().expect("a number")).collect()
}

pub fn is_guardian(process: i32) -> bool {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains("__guardian")
}

/// For `--wait`.
pub fn wait() -> String {
    format!("{}s", limit().as_secs())
}

pub fn kill(process: i32, number: i32) {
    // SAFETY: a process that a test of this file has started.
    unsafe { libc::kill(process, number) };
}

/// Waits until `run` has another guardian than this one.
pub fn until_replaced(of: u32, guardian: i32) {
    until("another guardian is there", || {
        let all = children(of);
        !all.contains(&guardian) && all.iter().any(|process| is_guardian(*process))
    });
}
