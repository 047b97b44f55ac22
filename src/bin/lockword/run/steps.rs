//! The steps of `lockword run`: see [the module above](super).

use super::acquire::{Held, Wait, acquire, still_tied};
use super::guardian::Guardian;
use super::signals::Signals;
use super::supervise::{Ended, Job, Timing, supervise};
use crate::engine::{Engine, request_failed};
use crate::lock_args::RunArgs;
use crate::output::now_ms;
use crate::{CliError, ExitOutcome, exit, output};
use lockword::cluster::engines::dir::{Tie, TieMark};
use lockword::cluster::periodic::{StartError, StartRecord};
use lockword::cluster::{DistributedGuard, Key, Label, LockStatus, Node, Observer, ReleaseError};
use std::convert::Infallible;
use std::future::pending;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::time::sleep;

/// Runs a command while holding a lock.
pub fn run(args: &RunArgs) -> Result<ExitOutcome, CliError> {
    let outcome = Settings::new(args).and_then(|settings| {
        // The command is started by this thread, which is the one whose end the kernel tells it of.
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|why| failed("cannot start", &why))?;
        runtime.block_on(settings.connect_and_run())
    });
    outcome.map_err(|error| {
        let is_busy = error.code == exit::BUSY;
        let code = args.busy_exit_code.filter(|_| is_busy).unwrap_or(error.code);
        // A job that is skipped on purpose, and says so by its status, is no news for cron to send.
        let is_skipped = is_busy && code == 0 && !args.verbose;
        CliError { code, ..error.quiet_if(args.quiet || is_skipped) }
    })
}

/// An error of the system before the command was started.
fn failed(what: &str, why: &io::Error) -> CliError {
    CliError::with(exit::UNREACHABLE, format!("{what}: {why}"))
}

/// Why `--at-most-once-per` keeps the command from being started.
fn not_started(why: StartError) -> CliError {
    match why {
        StartError::NotDue { last, due_in, .. } => {
            let ago = Duration::from_millis(now_ms().saturating_sub(last.started_ms));
            let (ago, left) = (crate::admin::age(ago), crate::admin::left(due_in));
            let by = last.label;
            let why = format!(
                "not started: the last start was {ago} ago, by {by}; the next may be in {left}"
            );
            CliError::with(exit::BUSY, why)
        }
        StartError::Lock(why) => why.into(),
        StartError::Record { source, .. } => request_failed(&source),
        StartError::InUse { at, .. } => {
            let record = at.key;
            let why =
                format!("{record} is no record of a start, but in use as a lock: use another name");
            CliError::with(exit::USAGE, why)
        }
        other => CliError::with(exit::UNREACHABLE, other.to_string()),
    }
}

/// The arguments, checked.
struct Settings<'a> {
    args: &'a RunArgs,
    key: Key,
    grace: Duration,
    label: String,
    wait: Wait,
}

impl<'a> Settings<'a> {
    fn new(args: &'a RunArgs) -> Result<Self, CliError> {
        let wrong = |why: &str| CliError::with(exit::USAGE, why);
        let key = Key::new(&args.key).map_err(|why| wrong(&why.to_string()))?;
        if args.key.starts_with("@sealed/") || args.key == "@lockword-sealed" {
            return Err(wrong(
                "this name is that of a sealed register, and of no lock: use another",
            ));
        }
        let shorter = args.hold_at_most.map_or(args.lease, |limit| limit.min(args.lease));
        let grace = args.grace.unwrap_or(shorter / 5);
        if grace >= args.lease / 2 {
            return Err(wrong("--grace has to be below half of the lease"));
        }
        if args.hold_at_most.is_some_and(|limit| limit <= grace) {
            return Err(wrong("--hold-at-most has to be longer than --grace"));
        }
        let wait = match (args.no_wait, args.skip_if_alive, args.wait) {
            (true, ..) => Wait::No,
            (_, true, _) => Wait::IfDead,
            (.., Some(Duration::ZERO)) => Wait::No,
            (.., Some(time)) => Wait::Within(time),
            _ => Wait::Forever,
        };
        if args.at_most_once_per.is_some() && StartRecord::key_of(&key).is_err() {
            let longest = StartRecord::MAX_KEY_LEN;
            let why =
                format!("with --at-most-once-per the lock's name has at most {longest} bytes");
            return Err(wrong(&why));
        }
        if args.publish.as_deref().is_some_and(|value| !DistributedGuard::can_publish(value)) {
            return Err(wrong("--publish takes at most 256 bytes, without control characters"));
        }
        let label = args.label.clone().unwrap_or_else(|| {
            let program = Path::new(&args.command[0]).file_name().unwrap_or_default();
            let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
            Label::of_this_process(user.as_deref(), &program.to_string_lossy()).to_string()
        });
        Ok(Settings { args, key, grace, label, wait })
    }

    fn say(&self, line: impl AsRef<str>) {
        if self.args.verbose {
            self.print(line);
        }
    }

    /// What is said unless `--quiet` is set.
    fn warn(&self, line: impl AsRef<str>) {
        if !self.args.quiet {
            self.print(line);
        }
    }

    fn print(&self, line: impl AsRef<str>) {
        let line = format!("lockword: {}", output::printable(line.as_ref()));
        super::terminal::without_sigttou(|| output::print_error(&line));
    }

    async fn connect_and_run(&self) -> Result<ExitOutcome, CliError> {
        let mut signals = Signals::of_termination().map_err(|why| failed("no signals", &why))?;
        let engine = tokio::select! {
            engine = Engine::connect(&self.args.engine) => engine?,
            number = signals.next() => return Ok(ExitOutcome::With(exit::of_signal(number))),
        };
        let audit = self.args.audit.as_deref().map(crate::audit::open).transpose()?;
        let renewed = Arc::new(Notify::new());
        let node = Node::builder(engine.transport.clone())
            .lease(self.args.lease)
            // A command that begins has its whole lease.
            .hold_at_once(false)
            .label(&self.label)
            .observer(Renewals(renewed.clone()));
        let node = audit.iter().fold(node, |node, audit| node.observer(audit.clone()));
        let node = node.build().map_err(|why| CliError::with(exit::USAGE, why.to_string()))?;
        let outcome = self.run_on(&engine, &node, &mut signals, &renewed).await;
        // Nothing of this process is left in the queue.
        let _ = in_time(&mut signals, node.shutdown()).await;
        crate::audit::finish(audit.as_ref());
        outcome
    }

    async fn run_on(
        &self,
        engine: &Engine,
        node: &Node,
        signals: &mut Signals,
        renewed: &Notify,
    ) -> Result<ExitOutcome, CliError> {
        let held = tokio::select! {
            held = self.hold(engine, node) => held?,
            number = signals.next() => return Ok(ExitOutcome::With(exit::of_signal(number))),
        };
        let Held { guard, acquired, tie } = held;
        let (ended, _mark) = match self.start(&guard, tie, signals) {
            Ok((job, guardian, mark)) => {
                let limit = self.args.hold_at_most.map(|limit| acquired.after(limit));
                let timing = Timing { grace: self.grace, limit, renewed };
                let warn = |line| self.warn(line);
                (supervise(&guard, job, guardian, signals, timing, warn).await, mark)
            }
            Err(error) => {
                let _ = in_time(signals, guard.release()).await;
                return Err(error);
            }
        };
        self.end(guard, ended, signals).await
    }

    /// Acquires the lock, and records the start.
    async fn hold(&self, engine: &Engine, node: &Node) -> Result<Held, CliError> {
        let periodic = self.args.at_most_once_per;
        let periodic = periodic.map(|period| node.periodic_job(&self.key, period)).transpose()?;
        if let Some(job) = &periodic {
            job.check().await.map_err(not_started)?;
        }
        let lock = node.lock(&self.key)?;
        let lock = match self.args.hold_at_most {
            Some(limit) => lock.hold_at_most(limit),
            None => lock,
        };
        self.say(format!("acquiring {}", self.key));
        let held = tokio::select! {
            biased;
            held = acquire(engine, node, &lock, self.wait) => held?,
            never = self.tell_of_waiting(engine, node) => match never {},
        };
        let token = held.guard.token();
        self.say(format!("holding {}, token {token}", self.key));
        if let Some(value) = &self.args.publish {
            let published = held.guard.publish(value).await;
            published.map_err(|why| CliError::with(exit::LOST, why.to_string()))?;
        }
        // At the end: a start that is recorded counts.
        if let Some(job) = &periodic {
            job.record(&held.guard).await.map_err(not_started)?;
        }
        Ok(held)
    }

    /// Tells somebody at a terminal what is waited for, if it takes longer than a second. It never ends.
    async fn tell_of_waiting(&self, engine: &Engine, node: &Node) -> Infallible {
        if self.args.verbose || (!self.args.quiet && io::stderr().is_terminal()) {
            sleep(Duration::from_secs(1)).await;
            let key = &self.key;
            let line = match node.inspect(key).await.map(|is| is.status) {
                // This process has the lease already.
                Ok(LockStatus::Held { node: holder, .. }) if holder == node.id() => {
                    engine.dir.as_ref().map(|dir| still_tied(dir, key))
                }
                Ok(LockStatus::Held { label, .. }) => {
                    Some(format!("waiting for {key}, which {label} holds"))
                }
                Ok(_) => Some(format!("waiting for {key}")),
                Err(why) => Some(format!("waiting for {key}: {why}")),
            };
            if let Some(line) = line {
                self.print(line);
            }
        }
        pending().await
    }

    /// Starts the guardian and the command. The tie is theirs from then on, and this process keeps a mark that
    /// it lives.
    fn start(
        &self,
        guard: &DistributedGuard,
        tie: Option<Tie>,
        signals: &mut Signals,
    ) -> Result<(Job, Guardian, Option<TieMark>), CliError> {
        signals.receive_those_of_a_command().map_err(|why| failed("no signals", &why))?;
        let no_guardian = |why: io::Error| {
            failed("the guardian, a second process of this program, cannot be started", &why)
        };
        let mut tries = 3;
        let why = loop {
            let mut guardian = Guardian::start(&self.key, tie.as_ref()).map_err(no_guardian)?;
            let mut command = Command::new(&self.args.command[0]);
            command.args(&self.args.command[1..]);
            command.env("LOCKWORD_KEY", self.key.as_str());
            command.env("LOCKWORD_TOKEN", guard.token().get().to_string());
            signals.reset_in(&mut command);
            if let Some(tie) = &tie {
                tie.inherited_by(&mut command).map_err(|why| failed("no tie", &why))?;
            }
            let why = match Job::start(guard, &guardian, command) {
                Ok(job) => return Ok((job, guardian, tie.map(Tie::into_mark))),
                Err(why) => why,
            };
            // Somebody has killed the guardian: another one is tried.
            let is_killed = why.kind() == io::ErrorKind::BrokenPipe && guardian.has_ended();
            // Nothing was executed.
            guardian.dismiss();
            tries -= 1;
            if !is_killed || tries == 0 {
                break why;
            }
        };
        let code = match why.kind() {
            io::ErrorKind::TimedOut => {
                let why = format!("the lock {} was lost before the command ran", self.key);
                return Err(CliError::with(exit::LOST, why));
            }
            io::ErrorKind::BrokenPipe => return Err(failed("the guardian has ended", &why)),
            io::ErrorKind::NotFound => exit::NOT_FOUND,
            _ => exit::CANNOT_EXECUTE,
        };
        let name = self.args.command[0].to_string_lossy();
        Err(CliError::with(code, format!("cannot run {name}: {why}")))
    }

    /// The command has ended.
    async fn end(
        &self,
        guard: DistributedGuard,
        ended: Ended,
        signals: &mut Signals,
    ) -> Result<ExitOutcome, CliError> {
        let Some(released) = in_time(signals, guard.release()).await else {
            let (key, code) = (&self.key, ended.code);
            self.warn(format!("{key} may not be released: others get it when its lease is over"));
            return match ended.lost {
                None => Ok(ExitOutcome::With(code)),
                Some(why) => {
                    let line =
                        format!("the lock {key} was lost: {why}; the command ended with {code}");
                    Err(CliError::with(exit::LOST, line))
                }
            };
        };
        let lost = match (ended.lost, &released) {
            (Some(why), _) => Some(why),
            // It was taken before the release, and that was not seen until now.
            (None, Err(ReleaseError::Lost { why, .. })) => Some(why.clone()),
            (None, _) => None,
        };
        if let Some(why) = lost {
            let (key, code) = (&self.key, ended.code);
            let line = format!("the lock {key} was lost: {why}; the command ended with {code}");
            return Err(CliError::with(exit::LOST, line));
        }
        match released {
            // It was held up to the end of the command; whether it is released is the engine's affair.
            Err(why) => self.warn(why.to_string()),
            Ok(()) => self.say(format!("released {}", self.key)),
        }
        Ok(ExitOutcome::With(ended.code))
    }
}

/// Finishes what is a courtesy to others, unless a signal wants an end, or it takes very long. A signal that comes
/// within a second may have been one for the command.
async fn in_time<T>(signals: &mut Signals, work: impl Future<Output = T>) -> Option<T> {
    let asked = async {
        sleep(Duration::from_secs(1)).await;
        signals.next_ending().await;
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = asked => None,
        () = sleep(Duration::from_secs(10)) => None,
    }
}

/// Tells of each renewal.
struct Renewals(Arc<Notify>);

impl Observer for Renewals {
    fn renewed(&self, _: &Key, _: Duration) {
        self.0.notify_one();
    }
}
