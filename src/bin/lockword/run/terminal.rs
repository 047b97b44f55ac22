//! The terminal, which the command has while `run` waits for it.
//!
//! The command is in a process group of its own, so the terminal has to be handed to that group: when it
//! starts, if `run` has the terminal on standard input and output, and otherwise when it asks for it. (The
//! reader of a pipe after `run` may be a pager, which needs the terminal too.)

use rustix::fd::{AsRawFd as _, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{self, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// The terminal that controls this process.
pub struct Terminal {
    tty: OwnedFd,
    /// Its modes before the command had it.
    modes: Option<Termios>,
}

impl Terminal {
    /// `None`: there is none.
    pub fn of_process() -> Option<Terminal> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let tty = rustix::fs::open("/dev/tty", flags, Mode::empty()).ok()?;
        let modes = tcgetattr(&tty).ok();
        Some(Terminal { tty, modes })
    }

    /// Whether `group` is in the foreground.
    pub fn is_of(&self, group: GroupNumber) -> bool {
        // SAFETY: the descriptor is open.
        unsafe { libc::tcgetpgrp(self.tty.as_raw_fd()) == group }
    }

    /// Whether the command gets it at once.
    pub fn is_wanted_at_start(&self) -> bool {
        self.is_of(own_group()) && io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    /// Has the command take it before it is executed.
    pub fn give_at_start(&self, command: &mut Command) -> io::Result<()> {
        let tty = self.tty.try_clone()?;
        let take = move || {
            // A terminal that is gone is no reason not to run.
            let _ = set_foreground(&tty, rustix::process::getpid().as_raw_pid());
            Ok(())
        };
        // SAFETY: system calls and no allocation, which is permitted between fork and exec.
        unsafe { command.pre_exec(take) };
        Ok(())
    }

    /// Takes it back from a command that could not be executed, whose group is no more.
    pub fn take_back(&self) {
        let _ = set_foreground(&self.tty, own_group());
    }

    /// Puts its modes back after a command that could not do so, as a shell would, if it is that of `run`.
    pub fn restore(&self) {
        if let Some(modes) = &self.modes
            && self.is_of(own_group())
        {
            let _ = without_sigttou(|| tcsetattr(&self.tty, OptionalActions::Drain, modes));
        }
    }

    /// Hands it from one group to another. Returns whether it was that of the first.
    pub fn pass(&self, from: GroupNumber, to: GroupNumber) -> bool {
        self.is_of(from) && set_foreground(&self.tty, to).is_ok()
    }
}

/// The number of a process group. It is 0 if the group is of an outer pid namespace, as `run` may be in a
/// container.
pub type GroupNumber = libc::pid_t;

/// The process group of `run`.
pub fn own_group() -> GroupNumber {
    // SAFETY: the call only returns a number. (That of rustix takes none that is 0.)
    unsafe { libc::getpgrp() }
}

/// Puts a group into the foreground, also from the background.
fn set_foreground(tty: &OwnedFd, group: GroupNumber) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    let result = without_sigttou(|| unsafe { libc::tcsetpgrp(tty.as_raw_fd(), group) });
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs `act` with SIGTTOU blocked, which would otherwise stop a group in the background that writes to
/// its terminal or changes it.
pub fn without_sigttou<T>(act: impl FnOnce() -> T) -> T {
    let (mut blocked, mut before) = (empty_set(), empty_set());
    // SAFETY: both sets are ours, and initialized.
    unsafe {
        libc::sigaddset(&raw mut blocked, libc::SIGTTOU);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, &raw mut before);
    }
    let result = act();
    // SAFETY: the set is the one of before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    result
}

fn empty_set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: the call initializes the set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}
