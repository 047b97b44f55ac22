//! A forked child that runs a piece of the test, with a deadline.

use std::fmt::Write as _;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A child process, and the number of the step it is in.
pub struct Forked {
    pid: libc::pid_t,
    step: *const AtomicU32,
}

const FAILED: i32 = 3;
const PANICKED: i32 = 4;

impl Forked {
    /// Forks; the child runs `body` and ends without any clean-up.
    pub fn start(body: impl FnOnce(&AtomicU32) -> Result<(), &'static str>) -> Self {
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe { libc::mmap(ptr::null_mut(), 4096, access, flags, -1, 0) };
        assert_ne!(page, libc::MAP_FAILED, "no shared page");
        let step = page.cast::<AtomicU32>().cast_const();
        // SAFETY: the child runs `body` and leaves by `_exit`; glibc keeps its allocator usable.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            // It ends with the thread that has forked it: nobody would wait for it after a panic there.
            // SAFETY: a call of the system about this process alone.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            // SAFETY: the page is mapped until `drop`, which the child does not reach.
            let body = std::panic::AssertUnwindSafe(|| body(unsafe { &*step }));
            let status = match std::panic::catch_unwind(body) {
                Ok(Ok(())) => 0,
                Ok(Err(why)) => {
                    // SAFETY: the bytes of the text, to standard error.
                    unsafe { libc::write(2, why.as_ptr().cast(), why.len()) };
                    FAILED
                }
                Err(_) => PANICKED,
            };
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(status) }
        }
        Forked { pid, step }
    }

    /// Waits for the child to end well. At the deadline, kills it and panics with its state.
    pub fn expect_success(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut status = 0;
        loop {
            // SAFETY: our own child, not yet waited for; the status is ours to write.
            let pid = unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG) };
            assert!(pid >= 0, "waitpid: {}", std::io::Error::last_os_error());
            if pid == self.pid {
                break;
            }
            if Instant::now() >= end {
                let threads = self.threads();
                // SAFETY: our own child, not yet waited for.
                unsafe {
                    libc::kill(self.pid, libc::SIGKILL);
                    libc::waitpid(self.pid, &mut status, 0);
                }
                panic!("the child hangs in step {}; its threads:\n{threads}", self.step());
            }
            thread::yield_now();
        }
        let ended = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
        assert_eq!(ended, Some(0), "the child, status {status:#x}, failed in step {}", self.step());
    }

    /// The step that the child is in, or was in last.
    pub fn step(&self) -> u32 {
        // SAFETY: the page is mapped until `drop`.
        unsafe { &*self.step }.load(Ordering::SeqCst)
    }

    /// Where each thread of the child is.
    fn threads(&self) -> String {
        let mut text = String::new();
        let tasks = format!("/proc/{}/task", self.pid);
        for task in std::fs::read_dir(tasks).into_iter().flatten().flatten() {
            for file in ["stat", "wchan", "syscall"] {
                let read = std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
                let _ = write!(text, "{}  ", read.trim().chars().take(60).collect::<String>());
            }
            text.push('\n');
        }
        text
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        // SAFETY: mapped by `start`, of this size, no longer used.
        unsafe { libc::munmap(self.step.cast_mut().cast(), 4096) };
    }
}
