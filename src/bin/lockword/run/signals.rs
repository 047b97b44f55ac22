//! The signals that `run` receives.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::ptr;
use std::task::Poll;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Those that end `run` while it waits for the lock, and are passed on to the command.
const OF_TERMINATION: [i32; 6] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

/// Those that are received while the command runs: to be passed on, to go on after a stop, and the one
/// that tells of the command's end.
const OF_A_COMMAND: [i32; 4] = [libc::SIGWINCH, libc::SIGTSTP, libc::SIGCONT, libc::SIGCHLD];

/// Those by which somebody wants the command to end.
pub const ENDING: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// The signals that were received and not yet taken.
pub struct Signals {
    streams: Vec<(i32, Signal)>,
}

impl Signals {
    /// Receives the signals of termination from now on. What is ignored stays ignored, here and in the
    /// command: `nohup` means both.
    pub fn of_termination() -> io::Result<Signals> {
        let mut signals = Signals { streams: vec![] };
        signals.receive(&OF_TERMINATION)?;
        Ok(signals)
    }

    /// Receives those that matter while a command runs, too.
    pub fn receive_those_of_a_command(&mut self) -> io::Result<()> {
        self.receive(&OF_A_COMMAND)
    }

    fn receive(&mut self, numbers: &[i32]) -> io::Result<()> {
        for number in numbers.iter().copied().filter(|number| !is_ignored(*number)) {
            self.streams.push((number, signal(SignalKind::from_raw(number))?));
        }
        Ok(())
    }

    /// Has the command not receive signals as `run` does before it is executed: one that comes between fork
    /// and exec has its usual effect, and is not swallowed by a handler that nobody asks in the child.
    pub fn reset_in(&self, command: &mut Command) {
        let numbers: Vec<i32> = self.streams.iter().map(|(number, _)| *number).collect();
        let reset = move || {
            for number in &numbers {
                // SAFETY: the default action runs no code of ours.
                unsafe { libc::signal(*number, libc::SIG_DFL) };
            }
            Ok(())
        };
        // SAFETY: system calls and no allocation, which is permitted between fork and exec.
        unsafe { command.pre_exec(reset) };
    }

    /// Waits for a signal. It may be dropped at any moment.
    pub async fn next(&mut self) -> i32 {
        poll_fn(|cx| {
            for (number, stream) in &mut self.streams {
                if stream.poll_recv(cx).is_ready() {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl Signals {
    /// Waits for one by which somebody wants an end.
    pub async fn next_ending(&mut self) {
        while !ENDING.contains(&self.next().await) {}
    }

    /// Whether this process goes on after a stop, which began before this call.
    pub async fn has_been_continued(&mut self) -> bool {
        let stream = self.streams.iter_mut().find(|(number, _)| *number == libc::SIGCONT);
        let Some((_, stream)) = stream else { return true };
        // The signal is there already; the thread that passes it on has at most to be scheduled.
        tokio::time::timeout(Duration::from_millis(500), stream.recv()).await.is_ok()
    }
}

/// Whether whoever started `run` has it ignore this signal.
fn is_ignored(number: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the action is only read, into memory that is ours; it is initialized if the call succeeds.
    unsafe {
        libc::sigaction(number, ptr::null(), action.as_mut_ptr()) == 0
            && number != libc::SIGCHLD
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Stops the process group of `run` by this signal, itself last: when this returns, it goes on. A group that no
/// shell watches is not stopped by the kernel, and this returns at once.
///
/// The signal to this process goes to the calling thread. One to the group could be taken by another thread,
/// and only when the handler is back: then nothing would stop.
pub fn stop_own_group(number: i32) {
    let mut before = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the signal is ignored, and then has its default action, meanwhile: neither runs code of ours. The
    // action of before is put back, and is initialized if the first call succeeds.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_IGN;
        if libc::sigaction(number, &raw const action, before.as_mut_ptr()) == 0 {
            libc::kill(0, number);
            action.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(number, &raw const action, ptr::null_mut());
            libc::raise(number);
            libc::sigaction(number, before.as_ptr(), ptr::null_mut());
        }
    }
}
