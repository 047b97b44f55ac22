//! The guardian: a second process that ends the command where `run` cannot, since it was killed or
//! stopped.
//!
//! It is this program, executed again, in a session of its own, so that no signal of a terminal reaches
//! it. Its standard input is a pipe of which `run` alone has the other end. Through it come the process
//! group of the command (from the child that becomes the command, before that is executed, so there is
//! never a command that the guardian does not know), the deadline of the lock (from `run`, at each
//! renewal), and the dismissal. At the deadline, or at the end of the file without a dismissal, it kills
//! the group.
//!
//! In a directory its standard output is the tie of the lock to the processes of the command. `run` itself
//! keeps none, or the lock would be tied to it while it is stopped. At the dismissal the guardian ends the
//! tie for all that still have it; at the deadline it closes its own, so the tie ends with what it has
//! killed.

use super::clock::Moment;
use lockword::cluster::Key;
use lockword::cluster::engines::dir::Tie;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, Signal};
use std::io::{self, PipeWriter};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

/// The first argument of a guardian.
const ARGUMENT: &str = "__guardian";

/// What a guardian is told. In the pipe it is three numbers, written at once, so that it is never split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The process group of the command.
    Group(Pid),
    /// The lock is held until then at least.
    Deadline(Moment),
    /// The command has ended.
    Dismissed,
}

/// The length of a message in bytes.
const LENGTH: usize = 24;

impl Message {
    fn encode(self) -> [u8; LENGTH] {
        let numbers = match self {
            Message::Group(pid) => [1, u64::from(pid.as_raw_nonzero().get().unsigned_abs()), 0],
            Message::Deadline(at) => [2, at.with_suspend, at.steady],
            Message::Dismissed => [3, 0, 0],
        };
        let mut bytes = [0; LENGTH];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Message> {
        let number = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let (kind, first, second) = (number(0)?, number(8)?, number(16)?);
        match kind {
            1 => Pid::from_raw(i32::try_from(first).ok()?).map(Message::Group),
            2 => Some(Message::Deadline(Moment { with_suspend: first, steady: second })),
            3 => Some(Message::Dismissed),
            _ => None,
        }
    }
}

/// The guardian, as `run` has it.
pub struct Guardian {
    process: Child,
    pipe: PipeWriter,
}

impl Guardian {
    /// Starts one. The key is only for those who list processes.
    pub fn start(key: &Key, tie: Option<&Tie>) -> io::Result<Guardian> {
        let (input, pipe) = io::pipe()?;
        // A guardian that was stopped must not stop `run`.
        rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
        let mut command = Command::new(this_program());
        command.arg0("lockword").args([ARGUMENT, key.as_str()]).current_dir("/");
        let tie = tie.map(|tie| tie.as_fd().try_clone_to_owned()).transpose()?;
        command
            .stdin(input)
            .stdout(tie.map_or_else(Stdio::null, Stdio::from))
            .stderr(Stdio::null());
        let detach = || {
            rustix::process::setsid()?;
            close_others();
            Ok(())
        };
        // SAFETY: two system calls and no allocation, which is permitted between fork and exec.
        unsafe { command.pre_exec(detach) };
        Ok(Guardian { process: command.spawn()?, pipe })
    }

    /// Tells it something. An error: it has ended, or takes nothing in any more.
    pub fn tell(&self, message: Message) -> io::Result<()> {
        send(&self.pipe, message)
    }

    /// Has the command tell the guardian its process group, before it is executed. The start of the command
    /// fails with [`io::ErrorKind::BrokenPipe`] if the guardian has ended.
    pub fn guard(&self, command: &mut Command) -> io::Result<()> {
        let pipe = self.pipe.try_clone()?;
        let announce = move || {
            // A guardian that has ended is an error of the start, and no signal that ends the command.
            // SAFETY: the signal's action is ignored meanwhile; the one of before is put back.
            let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
            let sent = send(&pipe, Message::Group(rustix::process::getpid()));
            // SAFETY: as above.
            unsafe { libc::signal(libc::SIGPIPE, before) };
            sent
        };
        // SAFETY: system calls and no allocation, which is permitted between fork and exec.
        unsafe { command.pre_exec(announce) };
        Ok(())
    }

    /// Whether it has ended, although it was not told to.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Ends it: there is nothing to guard any more.
    pub fn dismiss(mut self) {
        if self.tell(Message::Dismissed).is_err() {
            // It has ended, or takes nothing in.
            let _ = self.process.kill();
        }
        self.wait_for_end();
    }

    /// Leaves what is left of the group to it: it kills that, and ends.
    pub fn abandon(self) {
        self.wait_for_end();
    }

    fn wait_for_end(self) {
        let Guardian { mut process, pipe } = self;
        drop(pipe);
        if matches!(process.try_wait(), Ok(None)) {
            // It may have been stopped.
            let _ = rustix::process::kill_process(Pid::from_child(&process), Signal::CONT);
        }
        let _ = process.wait();
    }
}

fn send(pipe: &PipeWriter, message: Message) -> io::Result<()> {
    retry_on_intr(|| rustix::io::write(pipe, &message.encode()))?;
    Ok(())
}

/// This program, also if its file was replaced or removed meanwhile.
fn this_program() -> std::path::PathBuf {
    if cfg!(any(target_os = "linux", target_os = "android")) {
        return "/proc/self/exe".into();
    }
    std::env::current_exe().unwrap_or_else(|_| "lockword".into())
}

/// Has each descriptor that `run` was given, but standard input, output and error, closed at exec: the
/// guardian must not keep a pipe or a lock of others. Where the system cannot do that, it keeps them,
/// for no longer than `run` does.
fn close_others() {
    #[cfg(target_os = "linux")]
    // SAFETY: the call only marks descriptors of this process.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// Whether this process is to be a guardian.
pub fn is_asked_for() -> bool {
    std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT)
}

/// What a guardian does.
pub fn main() -> ExitCode {
    ignore_signals();
    let input = io::stdin();
    // The pipe's other end has flags of its own.
    let _ = rustix::fs::fcntl_setfl(&input, OFlags::NONBLOCK);
    // SAFETY: nothing in this process prints, so nobody else uses this descriptor.
    let mut tie = Some(unsafe { OwnedFd::from_raw_fd(libc::STDOUT_FILENO) });
    let mut alarm = Alarm::new();
    let (mut group, mut deadline) = (None, None::<Moment>);
    // A multiple of the length, so that no message is read in parts.
    let mut buffer = [0; 64 * LENGTH];
    loop {
        let mut left = deadline.map(Moment::left);
        if left == Some(Duration::ZERO) {
            // Once: when it is dead, the number may be that of another group one day.
            kill(group.take());
            tie = None;
            alarm.set(None);
            // A group that comes too late is killed at once.
            left = None;
        }
        alarm.wait(&input, left);
        match rustix::io::read(&input, &mut buffer) {
            Ok(0) => {
                kill(group);
                return ExitCode::SUCCESS;
            }
            Ok(length) => {
                for bytes in buffer[..length].chunks(LENGTH) {
                    match Message::decode(bytes) {
                        Some(Message::Group(pid)) => group = Some(Group::of(pid)),
                        Some(Message::Deadline(at)) => {
                            deadline = Some(at);
                            alarm.set(deadline);
                        }
                        Some(Message::Dismissed) => {
                            end_tie(tie);
                            return ExitCode::SUCCESS;
                        }
                        None => {}
                    }
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // There is no pipe: somebody has started this by hand.
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// Ends the tie also for what the command has left running. Without a tie it does nothing. Whose tie it was
/// stays in the file: if `run` dies before it has released the lock, those who wait see that.
fn end_tie(tie: Option<OwnedFd>) {
    if let Some(tie) = tie {
        let _ = rustix::fs::flock(&tie, FlockOperation::Unlock);
    }
}

/// The process group of the command.
#[derive(Clone, Copy)]
struct Group {
    number: Pid,
    session: Option<libc::pid_t>,
}

impl Group {
    fn of(number: Pid) -> Group {
        Group { number, session: session(number) }
    }

    /// Whether the number has come to a process of another session, since this guardian was stopped for long.
    fn is_another(self) -> bool {
        // None: the leader has ended. What is left of the group keeps the number.
        session(self.number).is_some_and(|now| self.session != Some(now))
    }
}

/// The session of a process, if there is such a process. It is 0 if the session is of an outer pid namespace,
/// as the processes of a container may be in; rustix takes none that is 0.
fn session(process: Pid) -> Option<libc::pid_t> {
    // SAFETY: the call only returns a number.
    let session = unsafe { libc::getsid(process.as_raw_pid()) };
    (session >= 0).then_some(session)
}

fn kill(group: Option<Group>) {
    if let Some(group) = group.filter(|group| !group.is_another()) {
        // An error: it has ended.
        let _ = rustix::process::kill_process_group(group.number, Signal::KILL);
    }
}

/// Whoever ends all processes named lockword by a signal ends the commands, and not the guardians.
fn ignore_signals() {
    use libc::{SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
    for number in [SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2] {
        // SAFETY: no handler of ours is replaced, and no code of ours runs in one.
        unsafe { libc::signal(number, libc::SIG_IGN) };
    }
}

/// Waits for a message or for a moment, also across a suspend.
struct Alarm {
    /// A timer on the clock that counts a suspend, if the system has one.
    timer: Option<OwnedFd>,
}

impl Alarm {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn new() -> Alarm {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Alarm { timer: timerfd_create(TimerfdClockId::Boottime, flags).ok() }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn new() -> Alarm {
        Alarm { timer: None }
    }

    /// Sets the timer, or switches it off.
    fn set(&mut self, at: Option<Moment>) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(timer) = &self.timer {
            use rustix::time::{Itimerspec, TimerfdTimerFlags, timerfd_settime};
            let it_value = timespec(Duration::from_nanos(at.map_or(0, |at| at.with_suspend)));
            let value = Itimerspec { it_interval: timespec(Duration::ZERO), it_value };
            // It cannot fail; if it did, the other clock would still be looked at.
            let _ = timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &value);
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = at;
    }

    /// Waits for input, but not for longer than `left`. It may return early.
    fn wait(&self, input: &impl rustix::fd::AsFd, left: Option<Duration>) {
        // A tenth early, and once more then: the clock of the system may be slewed by as much. The last
        // millisecond is waited for as it is.
        let early = |left: Duration| (left * 9 / 10).max(left.min(Duration::from_millis(1)));
        let timeout = left.map(|left| timespec(early(left)));
        let mut wanted = vec![PollFd::new(input, PollFlags::IN)];
        if let Some(timer) = &self.timer {
            wanted.push(PollFd::new(timer, PollFlags::IN));
        }
        let _ = poll(&mut wanted, timeout.as_ref());
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use super::{LENGTH, Message};
    use crate::run::clock::Moment;
    use rustix::process::Pid;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let at = Moment { with_suspend: 1 << 60, steady: 7 };
        for message in [
            Message::Group(Pid::from_raw(4_194_303).unwrap()),
            Message::Deadline(at),
            Message::Dismissed,
        ] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
        assert_eq!(Message::decode(&[0; LENGTH]), None);
        assert_eq!(Message::decode(&[1; LENGTH - 1]), None);
    }
}
