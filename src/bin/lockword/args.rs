//! The command line.

use crate::bench::baseline::{Basis, Judged, Rule};
use crate::bench::plan::{KNOWN_LOCKS, KnownLock};
use crate::lock_args::{
    AuditArgs, BreakArgs, CompletionsArgs, GateArgs, GrantsArgs, ListArgs, ManArgs, RunArgs,
    SealKeyArgs, StatusArgs, SweepArgs, TopArgs, WatchArgs,
};
use crate::{CliError, exit, output};
use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum, builder::PossibleValue};
use lockword::contention::Load;
use std::path::PathBuf;
use std::str::FromStr;

/// Runs commands one at a time, on one machine or on many; shows who holds a lock; measures locks
/// under contention.
#[derive(Debug, Parser)]
#[command(name = "lockword", version, arg_required_else_help = true, after_long_help = NOTES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const NOTES: &str = "\
Words: An engine keeps the locks: a directory, or a server. A lock is a register there, a value
with a version, made at its first use. A node is a process that holds locks or waits for them. Its
lease is the time after which others may take a lock from it if they see no renewal. A fencing
token is a number that grows from holder to holder, by which storage can refuse a late one.

States in the output: free; held; last-run (a record of --at-most-once-per); unreadable (a value of
something else); gone (deleted).
JSON: names that end in at_ms, since_ms and started_ms are milliseconds since 1970, others in _ms
are durations. Numbers that may exceed 2^53 are strings. Names stay, new ones may come.

Exit status:
    0  done; of `run` and `gate`: that of the command, 128+N after its death by signal N
    1  `status --exit-code`: held; `break`: the question was not answered with yes
   64  wrong command line, or not possible with this build, system or engine
   69  the engine cannot be reached, or is not fit; or a register has something else than a lock;
       or the system refuses what `run` needs
   74  the output cannot be written
   75  `run`: busy, the time to wait is over, or --at-most-once-per; nothing was started
   76  `run`: the lock was lost; `gate`: a later holder has been here
   77  the engine refuses the credentials, or the directory the user
  126  the command cannot be executed
  127  the command was not found
128+N  `run` was ended by signal N while it waited
`bench` and `compare`: 0 done, 1 slower than the baseline, 2 else, 130 ended by Ctrl-C; `show`: 0, or 2.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command while holding a lock
    ///
    /// Acquires the lock, runs the command, and releases the lock. If the lock is lost, the command
    /// is ended before another one can get it.
    Run(Box<RunArgs>),
    /// Show who holds a lock, whether that one is alive, and who waits
    ///
    /// The holder is watched for a moment: one that is alive renews its lease after each third of it.
    Status(StatusArgs),
    /// List the locks that an engine has, with their holders
    List(ListArgs),
    /// Print each change of a lock, or of all whose names begin with a text, until Ctrl-C
    ///
    /// It looks when the engine reports a write, and at every --every. It shows the state at each look: what
    /// begins and ends between two looks is not shown.
    Watch(WatchArgs),
    /// Show the locks that most nodes wait for, live, until Ctrl-C
    ///
    /// Shown are locks that are held, waited for, or were since it began. They are queues, not rates: how often a lock is
    /// acquired is not known, and the threads of one process are one node. A wait that begins and ends between two looks
    /// is not seen. WAIT: the nodes in the queue (a full queue has others outside; one that was killed counts until its
    /// turn). LONGEST: how long the node has waited that has waited longest, from the look that saw it first. WAITED: the
    /// waiting time of all nodes together since `top` began (three nodes for 10s are 30s), estimated from the looks.
    /// HELD: how long the holder has had it, by its clock and by this machine's. All locks of the prefix are read at
    /// every --every, with a pause in between that is as long as that took. It needs the right to list, which a role of
    /// `lockword grants` does not have in Redis. JSON has waiting, longest_ms, waited_ms and held_ms for each of the
    /// `locks`, the number of `keys`, and `error` if the look failed.
    Top(TopArgs),
    /// Take a lock away from its holder, who may be alive
    ///
    /// The holder is not asked. It sees the loss at its next renewal (within a third of its lease), and
    /// then has its grace to end its command: over a server, the next holder's command can run beside it
    /// for so long. In a directory, the next `run` waits until the processes of the old one have ended.
    /// Exit status 0 also if there was nothing to break, 1 if the question was not answered with yes.
    Break(BreakArgs),
    /// Clean up: records of --at-most-once-per whose time is over, and old locks in a directory
    ///
    /// The records are marked as idle, and the engine's own housekeeping deletes them later. In a
    /// directory, what has been idle for an hour is deleted at once. With --dead, also the locks of
    /// killed holders that nobody has wanted since: run it from cron where names change.
    Sweep(SweepArgs),
    /// Print the commands that give a role rights on the locks below a prefix, and on no others
    ///
    /// Nothing is connected or changed: of the address only the engine counts, and where it keeps its locks.
    Grants(GrantsArgs),
    /// Run a command only if no later holder of the lock has been here: fencing for shells
    Gate(GateArgs),
    /// Check an audit trail that `run --audit`, `break --audit` or a program has written
    Audit(AuditArgs),
    /// Make a file of keys for --seal-key-file
    SealKey(SealKeyArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print a manual page, for `man -l -`, or write all of them to a folder
    Man(ManArgs),
    /// Measure locks under loads, and print a table
    ///
    /// Under a load some threads take a lock, work inside, release it and work outside, over and
    /// over. The locks take turns in short slices, round after round, so that what disturbs the
    /// machine disturbs them all alike. Most options of a load take lists: all of their combinations
    /// are measured. What is not given comes from the preset.
    Bench(Box<BenchArgs>),
    /// Compare two files that `bench --json` wrote; exit status 1 if a lock has become slower
    ///
    /// Each lock is judged by its figures over those of the reference lock in the same round (see
    /// --reference and --judge). A round does not count if something disturbed the lock or its reference: the processor
    /// changed its speed, the threads had to wait for a processor, or (with more threads than
    /// processors) other processes ran. It takes six rounds that count in both reports, or twenty
    /// where most were disturbed.
    Compare(CompareArgs),
    /// Print the table of a file that `bench --json` wrote, and make a page of it
    Show(ShowArgs),
}

/// What `bench` measures, and what it does with the report.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES, allow_negative_numbers = true)]
pub struct BenchArgs {
    /// Loads, locks and times to begin with
    #[arg(long, value_enum, default_value_t = Preset::Quick)]
    pub preset: Preset,
    /// Locks, with commas between them
    #[arg(long, value_delimiter = ',', value_name = "NAME,..", value_parser = lock_names())]
    pub locks: Vec<String>,
    /// Numbers of threads
    #[arg(long, value_delimiter = ',', value_name = "N,..", value_parser = whole::<1, 4096>)]
    pub threads: Vec<u64>,
    /// Work while the lock is held, in nanoseconds
    #[arg(long, value_delimiter = ',', value_name = "NS,..", value_parser = whole::<0, SECOND>)]
    pub inside: Vec<u64>,
    /// Work between a release and the next acquisition, in nanoseconds
    #[arg(long, value_delimiter = ',', value_name = "NS,..", value_parser = whole::<0, SECOND>)]
    pub outside: Vec<u64>,
    /// Numbers of locks; each acquisition takes one of them
    #[arg(long, value_delimiter = ',', value_name = "N,..", value_parser = whole::<1, 65_536>)]
    pub n_locks: Vec<u64>,
    /// Choose among the locks by Zipf's law with this exponent, not all alike; 0 is all alike
    #[arg(long, value_delimiter = ',', value_name = "S,..", value_parser = exponent)]
    pub zipf: Vec<f64>,
    /// Pause for PAUSE nanoseconds after every N acquisitions of a thread
    #[arg(long, value_delimiter = ',', value_name = "N:PAUSE,..")]
    pub batch: Vec<BatchArg>,
    /// Add a thread that does nothing but hold the first lock, for so many nanoseconds each time
    #[arg(long, value_delimiter = ',', value_name = "NS,..", value_parser = whole::<0, SECOND>)]
    pub hog: Vec<u64>,
    /// So many acquisitions in a hundred only read, at random: reader-writer locks are measured then, and a
    /// mutex, which is locked to read, too
    #[arg(long, value_delimiter = ',', value_name = "PERCENT,..", value_parser = percent)]
    pub read: Vec<f64>,
    /// A bounded queue of this capacity under the lock, with two Condvars: half of the threads push and
    /// the others pop (of an odd number, one more pops)
    ///
    /// acq/s is then items a second, and a wait that of a push or pop until the lock is held and there
    /// is room, or an item. The locks are those that have a Condvar.
    #[arg(long, value_delimiter = ',', value_name = "N,..", value_parser = whole::<1, 1_048_576>)]
    #[arg(conflicts_with_all = ["n_locks", "zipf", "hog", "read", "rate", "sweep"])]
    pub queue: Vec<u64>,
    /// So many tasks on a runtime of tokio's, which has --threads threads: locks for tasks beside those
    /// that block a thread
    ///
    /// Each task takes the lock, works inside, releases it, works outside and yields. Nothing is awaited
    /// while the lock is held: should a short section have a lock for tasks at all? Unless they are
    /// given, the threads are one a processor.
    #[arg(long, value_delimiter = ',', value_name = "N,..", value_parser = whole::<1, 16_384>)]
    #[arg(conflicts_with_all = ["queue", "batch", "hog", "read", "rate", "sweep", "pin"])]
    pub tasks: Vec<u64>,
    /// Open loop: so many acquisitions a second arrive on a fixed schedule (10k, 1.5M, 300), or such
    /// a share of std's maximum (80%), and a wait counts from then
    ///
    /// The rate is that of all threads together, which take turns, and each lock is offered the same
    /// one: 80 is 80 arrivals a second, and 80% a share. The maximum is what std (or, without it, the first of the locks) serves in the same loop
    /// when more arrive; it is measured at the beginning, and
    /// again at the end. Without --rate, a thread acquires again as
    /// soon as it can.
    #[arg(long, value_delimiter = ',', value_name = "PER_S,..")]
    pub rate: Vec<RateArg>,
    /// Waits against the rate of arrivals, from 10 % to 120 % of the highest maximum of all locks; and
    /// the knee of each lock
    ///
    /// The knee is the last rate before the lock fails twice in a row, or at the highest rate: it serves less
    /// than 95 % of what arrives, or its p99 is above ten times the lowest of all rates. Unless they are given: one thread a processor (two
    /// at least), 200 ns inside and 1 us outside.
    #[arg(long, conflicts_with = "rate")]
    pub sweep: bool,
    /// Bind the threads to processors, in turn
    #[arg(long)]
    pub pin: bool,
    /// Length of a slice, in milliseconds
    #[arg(long, value_name = "MS", value_parser = whole::<1, 60_000>)]
    pub slice: Option<u64>,
    /// How often each lock is measured under each load; six give a 95 % interval
    #[arg(long, value_name = "N", value_parser = whole::<1, 10_000>)]
    pub rounds: Option<u64>,
    /// Go on until each load has as many undisturbed rounds as --rounds asks for, but begin none after
    /// so many seconds [default: 19 with the preset gate; with the others as many rounds as --rounds
    /// asks for are measured, disturbed or not]
    #[arg(long, value_name = "SECONDS", value_parser = whole::<1, 86_400>)]
    pub limit: Option<u64>,
    /// Do not time the waits: it takes half of the time then
    #[arg(long)]
    pub no_waits: bool,
    #[command(flatten)]
    pub outputs: OutputArgs,
    /// Compare with this report (a file of --json); exit status 1 if a lock has become slower
    ///
    /// Each lock is judged by its figures over those of the reference lock in the same round (see
    /// --reference and --judge). A round does not count if something disturbed the lock or its reference: the processor
    /// changed its speed, the threads had to wait for a processor, or (with more threads than
    /// processors) other processes ran. It takes six rounds that count in both reports, or twenty
    /// where most were disturbed. What may be slower and may be not is undecided (exit status 2): the rounds
    /// spread too much (the presets but `gate` have few, and often end so), the reference has changed with the
    /// ratio, or by more than three times --threshold or 25 %, the ratio has become worse and the lock itself has
    /// not, the machine runs at another speed, the rates of arrivals differ, or a part of the baseline was not
    /// measured, or not the reference beside it. A baseline of another machine is refused. No output may be the
    /// file of the baseline.
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    #[command(flatten)]
    pub rule: RuleArgs,
}

const EXAMPLES: &str = "\
Examples:
  lockword bench
      The quick preset: less than a minute.
  lockword bench --threads 1,4,16 --inside 200 --outside 0,1000 --html page.html
      Six loads: each number of threads with each work outside.
  lockword bench --threads 8 --n-locks 1,64
      Do 64 locks help? How many times the rate of one lock they have, for each lock.
  lockword bench --n-locks 64 --zipf 1.1 --rate 500k
      Some locks are hotter than others, and half a million acquisitions a second arrive.
  lockword bench --threads 2 --rate 80%
      How long acquisitions wait at 80 % of what std serves at most.
  lockword bench --sweep --html page.html
      Waits against the rate of arrivals, and the rate up to which each lock keeps up.
  lockword bench --read 99.9 --threads 2,8
      Reader-writer locks beside a mutex, where one acquisition in a thousand writes.
  lockword bench --queue 1,16,256 --threads 4
      Queues of three capacities, with two threads that push and two that pop.
  lockword bench --preset gate --json new.json --baseline old.json
      For continuous integration, ten seconds: exit status 1 if lockword is slower than in
      old.json by more than 7 % and the spread, as measured against std beside it.
  lockword bench --tasks 64 --inside 100 --outside 1000
      Is tokio's mutex worth it for a short section, or does one that blocks do?

A lock of your own: in a program of a few lines with lockword::contention, whose JSON `lockword show`
and `lockword compare` read.
Exit status: 0 done, 1 slower than the baseline, 2 bad input, a lock that cannot be judged or
output that cannot be written, 130 ended by Ctrl-C (the table and the files then hold what was
measured).
Colours: none if standard output is no terminal, if NO_COLOR is set, or if TERM is dumb.";

#[derive(Args, Debug)]
pub struct CompareArgs {
    /// The earlier report
    pub old: PathBuf,
    /// The later report
    pub new: PathBuf,
    #[command(flatten)]
    pub rule: RuleArgs,
}

#[derive(Args, Debug)]
pub struct RuleArgs {
    /// How much slower counts, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 7.0, value_parser = between::<0, 100>)]
    pub threshold: f64,
    /// The lock that the others are compared with, round by round [default: of the locks of the baseline
    /// std, or std_rw, or the first that is not of this crate]. `bench` shows its ratios with it, too
    /// (without it, with lockword)
    #[arg(long, value_name = "NAME")]
    pub reference: Option<String>,
    /// Compare acquisitions a second, not how the locks stand to the reference: only for reports of
    /// one machine at the same speed
    #[arg(long, conflicts_with = "reference")]
    pub absolute: bool,
    /// Which figures are judged. An open loop (--rate, --sweep) is always judged by both
    #[arg(long, value_enum, default_value_t = Judged::Rate)]
    pub judge: Judged,
}

impl RuleArgs {
    pub fn rule(&self) -> Rule {
        let basis = match self.absolute {
            true => Basis::Absolute,
            false => Basis::Relative { reference: self.reference.clone() },
        };
        Rule { threshold: self.threshold / 100.0, basis, judged: self.judge }
    }
}

impl BenchArgs {
    /// Whether to time the waits: the preset `gate` does so only if they are judged, as those of an open
    /// loop are.
    pub fn times_waits(&self) -> bool {
        !self.no_waits
            && (self.preset != Preset::Gate
                || self.rule.judge.needs_waits()
                || !self.rate.is_empty()
                || self.sweep)
    }
}

#[derive(Args, Debug)]
pub struct ShowArgs {
    /// The report
    pub file: PathBuf,
    #[command(flatten)]
    pub outputs: OutputArgs,
}

/// Where a report goes beside the table.
#[derive(Args, Debug, Default)]
pub struct OutputArgs {
    /// Write the report to this file, as JSON (its fields: the docs of lockword::contention)
    ///
    /// FILE may be - in this option and the next three: standard output, and the table goes to standard error.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report to this file, as a page for a browser
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the samples to this file: a line for each round of each lock under each load
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write the table to this file, as Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write the nanoseconds for an acquisition to this folder, as criterion does, for tools that read that
    #[arg(long, value_name = "FOLDER")]
    pub criterion: Option<PathBuf>,
}

/// Where the loads come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// From one thread to four a processor (at most 64, or one a processor where that is more),
    /// light and heavy contention; less than a minute
    Quick,
    /// More numbers of threads, more mixes, all mutexes but lockword_sync, more rounds: ten minutes and more
    Full,
    /// Sections of 200 us, nothing outside, also with a hog: who is left waiting? Slices of 2 s,
    /// ten minutes
    Starvation,
    /// Many more threads than processors; some minutes
    Oversubscribed,
    /// For --baseline: many short rounds of lockword and std without and with contention; ten
    /// seconds, without waits unless --judge asks for them
    Gate,
    /// For machines with many processors: 1, 2, 4 and so on up to all of them, mutexes, reader-writer locks, and queues
    /// with Condvars; at most ten minutes. Run it as `lockword bench --preset cores --json cores.json --html cores.html`
    Cores,
}

/// A value `N:PAUSE` of `--batch`: a number of acquisitions and a pause in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct BatchArg {
    pub acquisitions: u32,
    pub pause_ns: u64,
}

impl FromStr for BatchArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (count, pause) = text.split_once(':').ok_or("it is two numbers with a colon")?;
        let acquisitions = whole::<1, 1_000_000_000>(count)? as u32;
        Ok(BatchArg { acquisitions, pause_ns: whole::<0, SECOND>(pause)? })
    }
}

/// A value of `--rate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RateArg {
    /// Arrivals a second.
    PerSecond(f64),
    /// Percent of a measured maximum.
    Percent(f64),
}

impl FromStr for RateArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "it is a number above 0, such as 300, 10k or 1.5M, at most 1000M; or 80%, at most 1000%";
        let text = text.trim();
        let (number, scale) = match text.as_bytes().last() {
            Some(b'k') => (&text[..text.len() - 1], 1e3),
            Some(b'M') => (&text[..text.len() - 1], 1e6),
            Some(b'%') => (&text[..text.len() - 1], 1.0),
            _ => (text, 1.0),
        };
        let number = number.trim_end().parse::<f64>().map_err(|_| wrong)? * scale;
        let is_share = text.ends_with('%');
        let most = if is_share { Load::MAX_PERCENT } else { Load::MAX_RATE };
        match number {
            number if !(number > 0.0 && number <= most) => Err(wrong.to_owned()),
            percent if is_share => Ok(RateArg::Percent(percent)),
            per_second => Ok(RateArg::PerSecond(per_second)),
        }
    }
}

/// The longest work or pause that is accepted, in nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// Parses a whole number from `LEAST` to `MOST`.
fn whole<const LEAST: u64, const MOST: u64>(text: &str) -> Result<u64, String> {
    let number = text.trim().parse::<u64>().ok();
    number
        .filter(|number| (LEAST..=MOST).contains(number))
        .ok_or_else(|| format!("it is a whole number from {LEAST} to {MOST}"))
}

/// Parses a number above `ABOVE` and up to `MOST`.
fn between<const ABOVE: u32, const MOST: u32>(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok();
    number
        .filter(|number| *number > f64::from(ABOVE) && *number <= f64::from(MOST))
        .ok_or_else(|| format!("it is a number above {ABOVE}, at most {MOST}"))
}

/// Parses the exponent of Zipf's law.
fn exponent(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok();
    number
        .filter(|number| (0.0..=10.0).contains(number))
        .ok_or_else(|| "it is a number from 0 to 10".to_owned())
}

/// Parses a number from 0 to 100.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok();
    number
        .filter(|number| (0.0..=100.0).contains(number))
        .ok_or_else(|| "it is a number from 0 to 100".to_owned())
}

/// The names that `--locks` accepts, with their descriptions for the help.
fn lock_names() -> PossibleValuesParser {
    let value = |lock: &KnownLock| PossibleValue::new(lock.name).help(lock.about);
    KNOWN_LOCKS.iter().map(value).collect::<Vec<_>>().into()
}

impl Cli {
    /// Reads the command line. `None` if it asks for help or the version, which is printed.
    pub fn read() -> Result<Option<Cli>, CliError> {
        let error = match Cli::try_parse() {
            Ok(cli) => return Ok(Some(cli)),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                output::print(&error.render().ansi().to_string())?;
                Ok(None)
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let why = "what shall be done? Try: lockword run, or lockword --help";
                Err(CliError::with(exit::USAGE, why))
            }
            _ => Err(one_line(usage_code(), &error.render().to_string())),
        }
    }
}

/// The exit status of a wrong command line. The commands that measure keep theirs for verdicts.
fn usage_code() -> u8 {
    let command = std::env::args_os().nth(1).unwrap_or_default();
    let measures = ["bench", "compare", "show"].into_iter().any(|name| command == name);
    if measures { exit::BENCH_FAILED } else { exit::USAGE }
}

/// clap's error message in one line, without the usage text after it.
fn one_line(code: u8, message: &str) -> CliError {
    let until_usage = message
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let parts = until_usage.map(str::trim).filter(|line| !line.is_empty());
    let mut line = parts.collect::<Vec<_>>().join("; ").replace(":; ", ": ");
    // As `flock` has it.
    if line.contains("unexpected argument") && !std::env::args_os().any(|argument| argument == "--")
    {
        line += "; a command comes after --: lockword run backup -- ./backup.sh";
    }
    CliError::with(code, line.strip_prefix("error: ").unwrap_or(&line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        assert_eq!(whole::<1, 8>("8"), Ok(8));
        for bad in ["0", "9", "-1", "", "x", "1.5", "99999999999999999999"] {
            assert!(whole::<1, 8>(bad).is_err(), "{bad}");
        }
        assert_eq!(between::<0, 10>("1.1"), Ok(1.1));
        for bad in ["0", "-1", "10.1", "NaN", "inf", ""] {
            assert!(between::<0, 10>(bad).is_err(), "{bad}");
        }
        assert_eq!((percent("0"), percent("99.9"), percent("100")), (Ok(0.0), Ok(99.9), Ok(100.0)));
        for bad in ["-1", "100.1", "NaN", "", "x"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
        for (text, rate) in [("300", 300.0), ("10k", 1e4), ("1.5M", 1.5e6), ("1e3", 1e3)] {
            assert_eq!(text.parse(), Ok(RateArg::PerSecond(rate)), "{text}");
        }
        assert_eq!("80%".parse(), Ok(RateArg::Percent(80.0)));
        assert_eq!("99.5 %".parse(), Ok(RateArg::Percent(99.5)));
        for bad in ["0", "-1", "1001M", "0%", "1001%", "k", "%", "", "NaN", "inf", "5G", "1%k"] {
            assert!(bad.parse::<RateArg>().is_err(), "{bad}");
        }
        assert!("3:100".parse::<BatchArg>().is_ok());
        for bad in ["3", "3:", ":3", "0:3", "3:3:3"] {
            assert!(bad.parse::<BatchArg>().is_err(), "{bad}");
        }
    }
}
