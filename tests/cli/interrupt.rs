//! Ctrl-C: the first one ends the measurement, the second one the program.

use crate::support::{Folder, lockword};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A pseudoterminal: the end of the test, and the end of the program.
pub fn pseudoterminal() -> (File, OwnedFd) {
    let (mut kept, mut given) = (-1, -1);
    let size = libc::winsize { ws_row: 40, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: both descriptors are written to, the size is read, and the others may be null.
    let result = unsafe {
        libc::openpty(
            &raw mut kept,
            &raw mut given,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            (&raw const size).cast_mut(),
        )
    };
    assert_eq!(result, 0, "a pseudoterminal is available");
    // SAFETY: both descriptors are open, and no other object owns them.
    unsafe { (File::from_raw_fd(kept), OwnedFd::from_raw_fd(given)) }
}

/// A run that would take hours, with a terminal for its standard error.
struct LongRun {
    child: Child,
    /// What the program prints to standard error, as it arrives.
    errors: mpsc::Receiver<Vec<u8>>,
}

impl LongRun {
    fn start(arguments: &[&str]) -> LongRun {
        let mut command: Command = lockword(&["bench", "--locks", "lockword,std"]);
        command.args(["--threads", "1,2,3,4", "--slice", "10", "--rounds", "10000"]);
        let (mut kept, given) = pseudoterminal();
        command.env("TERM", "xterm").args(arguments).stdout(Stdio::piped()).stderr(given);
        let child = command.spawn().expect("the program starts");
        // The command holds the other end open, and reading would never end.
        drop(command);
        let (sender, errors) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading a closed terminal is an error.
            while let Ok(count @ 1..) = kept.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        LongRun { child, errors }
    }

    /// Waits until the progress bar shows this.
    fn wait_for(&mut self, text: &str) {
        let mut seen = String::new();
        while !seen.contains(text) {
            let more = self.errors.recv_timeout(TIMEOUT);
            seen += &String::from_utf8_lossy(&more.unwrap_or_else(|_| panic!("no {text}: {seen}")));
        }
    }

    fn interrupt(&self) {
        // SAFETY: the child was started here and not waited for, so the number is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGINT) };
    }

    /// Waits for the end of the program, and fails if it takes longer than [`TIMEOUT`].
    fn end(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(start.elapsed() < TIMEOUT, "the program does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for LongRun {
    fn drop(&mut self) {
        // The program may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Far longer than any step of these tests takes.
const TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn the_first_ctrl_c_ends_the_measurement_and_keeps_its_results() {
    let folder = Folder::new("first");
    let (json, html) = (folder.path("report.json"), folder.path("page.html"));
    let mut run = LongRun::start(&["--json", &json, "--html", &html]);
    run.wait_for("round 2");
    run.interrupt();
    let mut table = String::new();
    run.child.stdout.take().unwrap().read_to_string(&mut table).unwrap();
    assert_eq!(run.end().code(), Some(130));
    assert!(table.contains("warning: cut short: "), "{table}");
    let line = table.lines().find(|line| line.trim_start().starts_with("lockword")).unwrap();
    assert!(line.contains("ns"), "what was measured: {line}");
    let report = folder.json("report.json");
    assert_eq!(report["cut_short"], true);
    assert!(!report["cells"][0]["locks"][0]["samples"].as_array().unwrap().is_empty());
    assert!(folder.read("page.html").contains("cut short"));
    assert_eq!(folder.names(), ["page.html", "report.json"]);
}

#[test]
fn the_second_ctrl_c_ends_the_program() {
    let folder = Folder::new("second");
    let pipe = folder.path("pipe");
    let name = CString::new(pipe.as_str()).unwrap();
    // SAFETY: the name is a C string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    // The pipe is open and never read, so writing a page to it blocks.
    let reader = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let mut run = LongRun::start(&["--html", &pipe]);
    run.wait_for("round 2");
    run.interrupt();
    let mut out = run.child.stdout.take().unwrap();
    let mut table = vec![];
    while !String::from_utf8_lossy(&table).contains("in a pass of its own") {
        let mut buffer = [0; 4096];
        let count = out.read(&mut buffer).unwrap();
        assert!(count > 0, "the table has an end");
        table.extend(&buffer[..count]);
    }
    run.interrupt();
    assert_eq!(run.end().code(), Some(130));
    drop(reader);
}
