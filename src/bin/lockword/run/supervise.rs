//! The command, from its start to its end, and what becomes of it when the lock is lost.

use super::clock::Moment;
use super::guardian::{Guardian, Message};
use super::signals::{ENDING, Signals, stop_own_group};
use super::terminal::{Terminal, own_group};
use crate::exit;
use lockword::cluster::{DistributedGuard, LossReason};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getppid, kill_process_group, waitid};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

/// The command that runs.
pub struct Job {
    process: Child,
    group: Pid,
    terminal: Option<Terminal>,
    /// The terminal was handed to the command, which gets it back when it goes on after a stop.
    has_had_terminal: bool,
    /// How often it was told that it will never get the terminal.
    told_in_vain: u32,
}

/// How the command ended.
pub struct Ended {
    /// Its exit status, as a shell has it.
    pub code: u8,
    /// Why the lock was lost before, if it was.
    pub lost: Option<LossReason>,
}

impl Job {
    /// Starts the command, in a process group of its own. The guardian knows the group and the deadline
    /// before the command is executed, and it is not executed after the deadline: this process may have been
    /// stopped meanwhile.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] after the deadline; others if the command cannot be executed.
    pub fn start(
        guard: &DistributedGuard,
        guardian: &Guardian,
        mut command: Command,
    ) -> io::Result<Job> {
        let deadline = deadline(guard);
        let _ = guardian.tell(Message::Deadline(deadline));
        command.process_group(0);
        guardian.guard(&mut command)?;
        not_after(deadline, &mut command);
        die_with_parent(&mut command);
        let terminal = Terminal::of_process();
        let wanted = terminal.as_ref().filter(|terminal| terminal.is_wanted_at_start());
        let has_had_terminal = wanted.is_some();
        if let Some(terminal) = wanted {
            terminal.give_at_start(&mut command)?;
        }
        let started = command.spawn();
        if started.is_err()
            && let Some(terminal) = &terminal
            && has_had_terminal
        {
            // The child took it before it failed: its group is gone, and nobody's.
            terminal.take_back();
        }
        let process = started?;
        let group = Pid::from_child(&process);
        Ok(Job { process, group, terminal, has_had_terminal, told_in_vain: 0 })
    }

    /// Sends a signal to the group. An error: it has ended.
    fn signal(&self, number: i32) {
        // SAFETY: the number is that of a signal.
        let signal = unsafe { Signal::from_raw_unchecked(number) };
        let _ = kill_process_group(self.group, signal);
    }

    /// The signal that has stopped the command since the last call, if one has.
    fn stopped_by(&self) -> Option<i32> {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        waitid(WaitId::Pid(self.group), options).ok()??.stopping_signal()
    }

    /// The exit status, if the command has ended, and whether a signal has ended it. It stays a zombie, so
    /// that its number, which is that of the group, is not used again.
    fn ended(&self) -> Option<(u8, bool)> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(self.group), options).ok()??;
        let code = status.exit_status().map(|code| (code as u8, false));
        code.or_else(|| status.terminating_signal().map(|signal| (exit::of_signal(signal), true)))
    }

    /// The command was stopped: stops this process and its group, too, as the terminal would have.
    async fn mirror_stop(&mut self, number: i32, signals: &mut Signals) {
        let Some(terminal) = &self.terminal else { return };
        let number = match number {
            // A shell suspends itself by this; the terminal is of use to nobody then.
            libc::SIGSTOP if terminal.is_of(self.group.as_raw_pid()) => libc::SIGTSTP,
            libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => number,
            // Somebody has stopped the command alone.
            _ => return,
        };
        let asks = number != libc::SIGTSTP;
        if asks && terminal.pass(own_group(), self.group.as_raw_pid()) {
            self.has_had_terminal = true;
            self.signal(libc::SIGCONT);
            return;
        }
        terminal.pass(self.group.as_raw_pid(), own_group());
        stop_own_group(number);
        // The signal is taken here in any case: later it would be one that continues the command, perhaps in the
        // moment in which it is stopped again.
        let is_continued = signals.has_been_continued().await;
        if asks && !is_continued {
            // The kernel stops no group that no shell would continue: nobody will ever give the terminal to
            // the command. It is told so as the processes of a shell that has ended are, and then less kindly.
            self.signal(match self.told_in_vain {
                0 => libc::SIGHUP,
                1 => libc::SIGTERM,
                _ => libc::SIGKILL,
            });
            self.told_in_vain += 1;
        }
        // It goes on, or was not stopped. Then the command would stay stopped for ever.
        self.resume();
    }

    /// This process goes on after a stop: so does the command.
    fn resume(&self) {
        if let Some(terminal) = &self.terminal
            && self.has_had_terminal
        {
            // Unless the shell has put this process into the background.
            terminal.pass(own_group(), self.group.as_raw_pid());
        }
        self.signal(libc::SIGCONT);
    }

    /// Ends the job: no process has its number after this. `was_killed`: it could not put the modes of the
    /// terminal back.
    fn reap(mut self, was_killed: bool) {
        let _ = self.process.wait();
        if let Some(terminal) = &self.terminal {
            terminal.pass(self.group.as_raw_pid(), own_group());
            if was_killed && self.has_had_terminal {
                terminal.restore();
            }
        }
    }
}

/// Has the kernel kill the command when the thread that starts it ends: a second line behind the guardian,
/// since it does not reach what the command has started, nor a program with other rights.
fn die_with_parent(command: &mut Command) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let parent = rustix::process::getpid();
        let die = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // It may have ended before.
            if getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
        };
        // SAFETY: two system calls and no allocation, which is permitted between fork and exec.
        unsafe { command.pre_exec(die) };
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = command;
}

/// Has the command not executed if it is too late. A guardian that the deadline has found without a group
/// kills it besides.
fn not_after(deadline: Moment, command: &mut Command) {
    let check = move || {
        let is_over = deadline.left().is_zero();
        if is_over { Err(rustix::io::Errno::TIMEDOUT.into()) } else { Ok(()) }
    };
    // SAFETY: two system calls and no allocation, which is permitted between fork and exec.
    unsafe { command.pre_exec(check) };
}

/// The moment up to which the guard is valid.
fn deadline(guard: &DistributedGuard) -> Moment {
    // The clock is read first, so that it is no later than the guard's own.
    let now = Moment::now();
    now.after(guard.remaining())
}

/// What has been done to end the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Not,
    /// It got SIGTERM.
    Asked,
    /// It got SIGKILL.
    Killed,
}

/// When the command is to end, and what changes that.
pub struct Timing<'a> {
    /// How long before the deadline the command gets SIGTERM.
    pub grace: Duration,
    /// Until when the lock is held at most: so long after its acquisition, as the guard counts it.
    pub limit: Option<Moment>,
    /// Tells of renewals.
    pub renewed: &'a Notify,
}

/// Watches the command until it has ended.
pub async fn supervise(
    guard: &DistributedGuard,
    mut job: Job,
    mut guardian: Guardian,
    signals: &mut Signals,
    Timing { grace, limit, renewed }: Timing<'_>,
    warn: impl Fn(String),
) -> Ended {
    let mut asked_for = LossReason::HoldLimit;
    let mut ending = Ending::Not;
    let mut lost: Option<LossReason> = None;
    // The deadline, as long as the lock was held.
    let mut known = deadline(guard);
    // When the command is killed after a loss that was not foreseen.
    let mut end_by: Option<Moment> = None;
    loop {
        if let Some((code, was_killed)) = job.ended() {
            let is_valid = guard.is_valid();
            let was_ended = ending != Ending::Not;
            if was_ended || lost.is_some() || !is_valid {
                // What the command has started may go on, and must not beside the next holder. While the
                // command is a zombie, the number is that of its group. The tie ends with what has it.
                job.signal(libc::SIGKILL);
                guardian.abandon();
            } else {
                // From here on nobody needs the lock.
                guardian.dismiss();
            }
            job.reap(was_killed);
            if lost.is_none() && (!is_valid || was_ended) {
                lost = Some(if is_valid { asked_for } else { guard.lost().await });
            }
            return Ended { code, lost };
        }
        if let Some(number) = job.stopped_by() {
            job.mirror_stop(number, signals).await;
        }
        if lost.is_none() {
            known = deadline(guard);
        }
        let left = end_by.map_or_else(|| guard.remaining(), Moment::left);
        if left.is_zero() && ending < Ending::Killed {
            ending = Ending::Killed;
            job.signal(libc::SIGKILL);
        } else if left <= grace && ending < Ending::Asked {
            ending = Ending::Asked;
            // The guard ends at its limit, or with its lease, whichever is first.
            if limit.is_none_or(|limit| limit.left() > left + Duration::from_millis(100)) {
                asked_for = LossReason::Expired { last: None };
            }
            let why = match &lost {
                None if asked_for == LossReason::HoldLimit => {
                    "it has had the lock for --hold-at-most".to_owned()
                }
                None => "the lease is about to end, since no renewal gets through".to_owned(),
                Some(why) => format!("the lock is lost: {why}"),
            };
            warn(format!(
                "ending the command (SIGTERM now, SIGKILL in {}): {why}",
                crate::admin::age(left)
            ));
            job.signal(libc::SIGTERM);
            // If it was stopped, it has to go on to end.
            job.signal(libc::SIGCONT);
        }
        let next = match ending {
            Ending::Not => left.saturating_sub(grace),
            Ending::Asked => left,
            Ending::Killed => Duration::from_secs(3600),
        };
        // A tenth early, and once more then: the clock of timers may be slewed by as much.
        let next = (next * 9 / 10).max(next.min(Duration::from_millis(1)));
        tokio::select! {
            number = signals.next() => match number {
                libc::SIGCHLD => {}
                libc::SIGCONT => match job.stopped_by() {
                    // This is about a stop of before, and was handled after it.
                    Some(number) => job.mirror_stop(number, signals).await,
                    None => job.resume(),
                },
                other => {
                    job.signal(other);
                    if ENDING.contains(&other) {
                        // If it was stopped, it has to go on to end.
                        job.signal(libc::SIGCONT);
                    }
                }
            },
            why = guard.lost(), if lost.is_none() => {
                let is_foreseen = matches!(why, LossReason::Expired { .. } | LossReason::HoldLimit);
                if !is_foreseen {
                    // Somebody else may have the lock already. It has the grace to end well.
                    let at = Moment::now().after(grace.min(known.left()));
                    end_by = Some(at);
                    let _ = guardian.tell(Message::Deadline(at));
                }
                lost = Some(why);
            }
            () = renewed.notified() => {
                if lost.is_none() {
                    keep(&mut guardian, guard, &job);
                }
            }
            () = sleep(next) => {}
        }
        if lost.is_none() && guardian.has_ended() {
            keep(&mut guardian, guard, &job);
        }
    }
}

/// Tells the guardian the new deadline; another guardian, if this one has ended or does not listen.
fn keep(guardian: &mut Guardian, guard: &DistributedGuard, job: &Job) {
    let at = Message::Deadline(deadline(guard));
    if !guardian.has_ended() && guardian.tell(at).is_ok() {
        return;
    }
    // The new one has no tie: that of the old one ends with the command and what else has it. If none can be
    // started, the next renewal tries again.
    if let Ok(new) = Guardian::start(guard.key(), None) {
        let _ = new.tell(Message::Group(job.group));
        let _ = new.tell(at);
        std::mem::replace(guardian, new).dismiss();
    }
}
