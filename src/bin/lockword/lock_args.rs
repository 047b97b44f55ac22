//! The command line of the commands about locks.

use clap::{Args, Subcommand, ValueEnum};
use lockword::cluster::audit::AuditMark;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Which engine.
#[derive(Args, Debug)]
pub struct EngineArgs {
    /// Address of the engine (default: the variable LOCKWORD_ON)
    ///
    /// dir:/PATH needs no server, and is for the processes of this machine. The directory is made for
    /// its owner only; dir:/PATH?mode=2770 shares it with its group, and has to be the same in all
    /// commands. redis://HOST, postgres://HOST and etcd://HOST are there if the build has those
    /// features; postgres://HOST?create_schema=true
    /// makes the table that it needs. A password is better in a file, as in redis://USER@HOST?password_file=/PATH,
    /// which each login reads again; others can read command lines, and the command inherits the variable. It goes to
    /// other machines over TLS only (rediss://, etcds://, sslmode=verify-full), unless the address has plaintext=allow.
    #[arg(long, value_name = "URL")]
    pub on: Option<String>,
    /// File of keys that keep names and values from whoever runs the engine (default: the variable
    /// LOCKWORD_SEAL_KEY_FILE)
    ///
    /// `lockword seal-key` makes it. All that use a lock need the same: without the file, or with another name
    /// key, a command would look at other registers, so it is refused where it finds that others seal. See the
    /// documentation of lockword::cluster::layers::Sealed for what leaks and how to change keys.
    #[arg(long, value_name = "FILE")]
    pub seal_key_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_long_help = SEAL_KEY_NOTES)]
pub struct SealKeyArgs {
    /// The file; it is never overwritten
    pub file: PathBuf,
    /// Make no file: print how the engine stores a name, or a prefix that ends with a slash, by the keys of FILE
    #[arg(long, value_name = "NAME")]
    pub stored: Option<String>,
}

const SEAL_KEY_NOTES: &str = "\
Copy the file to all nodes as you do with other secrets, and keep a copy: without it no lock can be
read. Only its owner may have rights on it.

To change the sealing key, each step at all nodes before the next:
  1. Make a key by `openssl rand -hex 32`, and add it to the file of each node as a line: open KEY.
  2. Exchange the words: seal KEY, open OLD. What is written from now on has the new key.
  3. Have each lock written once, so that none has the old key:
       lockword sweep --dead
       lockword list --json | jq -r 'select(.state == \"free\").key' |
         while read -r KEY; do lockword run --no-wait \"$KEY\" -- true </dev/null; done
     (A record of --at-most-once-per is written at the next start of its command, and one whose
     time is over by lockword sweep.) What still has the old key is shown as unreadable by
     lockword list with a file that lacks it. Then remove the line with the old key. A register
     that still has it is refused, and not overwritten.
What runs keeps the keys that it has read: start it again in each step. Never change the line `name`
while anything runs.";

/// What `run` runs, and under which lock.
#[derive(Args, Debug)]
#[command(after_long_help = RUN_NOTES)]
pub struct RunArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Name of the lock: letters, digits and - _ . : / @
    pub key: String,
    /// The command, and its arguments
    #[arg(last = true, required = true, num_args = 1.., value_name = "COMMAND")]
    pub command: Vec<OsString>,
    /// Do not wait: exit 75 at once if the lock is busy
    #[arg(long, conflicts_with_all = ["wait", "skip_if_alive"])]
    pub no_wait: bool,
    /// Wait for so long at most, then exit 75
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "skip_if_alive")]
    pub wait: Option<Duration>,
    /// Exit 75 if the holder is alive, and take the lock over if it is dead (for cron)
    ///
    /// It takes up to half of the holder's lease to see that it is alive, and up to the lease to see
    /// that it is dead.
    #[arg(long)]
    pub skip_if_alive: bool,
    /// Exit status in place of 75; with 0, nothing is printed then (for cron)
    #[arg(long, value_name = "N")]
    pub busy_exit_code: Option<u8>,
    /// How long the lock stays with a holder that is not heard of any more, 100ms to 1h
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub lease: Duration,
    /// Name of this holder for others (default: user@host/command[pid], with the pid of `run`)
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    /// End the command so that it has the lock for no longer: SIGTERM --grace before, then SIGKILL,
    /// and exit status 76
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub hold_at_most: Option<Duration>,
    /// Exit 75 if the last start under this lock was less than DURATION ago, on any host
    ///
    /// For a job that several hosts start at the same minute: choose less than the time between two
    /// starts, and more than their clocks differ. The time of the start is kept in a register of its
    /// own, KEY@last-run, which is written before the command starts: a run that fails counts, too.
    /// It goes by the clocks of the hosts: where they differ, the time is longer or shorter by as
    /// much. A start that lies in the future by more than DURATION is ignored. Give the same
    /// DURATION in all commands of one lock: `lockword sweep` goes by that of the last start.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub at_most_once_per: Option<Duration>,
    /// Publish a text with the lock, for `lockword status` and `lockword watch` (an address, say; at most 256 bytes, as in JSON)
    #[arg(long, value_name = "TEXT")]
    pub publish: Option<String>,
    /// How long the command has between SIGTERM and SIGKILL; below half of the lease (default: a
    /// fifth of the lease, or of --hold-at-most if that is shorter)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub grace: Option<Duration>,
    /// Print nothing, not even why the command was not run
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print when the lock is acquired and released
    #[arg(short, long)]
    pub verbose: bool,
    /// Add who had the lock, when, and how that ended to this audit trail; one process writes to a file at a time
    #[arg(long, value_name = "FILE")]
    pub audit: Option<PathBuf>,
}

const RUN_NOTES: &str = "\
The command gets LOCKWORD_KEY and LOCKWORD_TOKEN, the fencing token: a number that is larger than
that of every earlier holder. It has stdin, stdout and stderr, a process group of its own, and the
terminal, if `run` has it on both stdin and stdout (otherwise when it asks for it). `run` passes
SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH and SIGTSTP on to the group, and stops
when the command is stopped from the terminal. The lock is released when the command has ended;
what it leaves in the background is not waited for.

At most one command runs at a time: if the lease cannot be renewed, the group gets SIGTERM when
--grace is left of it, and SIGKILL at its end. A second process, the guardian, does the same if
`run` is killed or stopped. Over a server, two commands can run at a time only if the lock is taken
from a holder that is alive (`lockword break`), if the server loses what it has confirmed, if a
process leaves the group or takes other rights (sudo: `run` may not signal it), if one is stuck in
the kernel, if `run` and its guardian are both killed or stopped, or if the whole machine or
container is paused for longer than the lease (the command goes on for a moment after that). In a directory, the next command waits in each of these cases until the last
process that has the descriptor of the lock has ended: the command, and what it has started and
does not close it. Where an overlap matters, let what is written to check the token: see
`lockword gate`.

The command inherits LOCKWORD_ON, and with it a password that is in the address. One in a file
(?password_file=/PATH) may be replaced while `run` runs.

Exit status: that of the command, 128+N after its death by signal N, 126 if it cannot be executed,
127 if it is not found. Where that could be confused with what follows, let the command use others.
75 busy, the time to wait is over, or --at-most-once-per. 76 the lock was lost: before the command
had ended, or before its release; or `run` had told the command to end, since it was about to be
lost. This wins over the status of the command. 128+N if signal N ends the wait. 69 the engine
cannot be used. 77 it refuses the credentials. 64 wrong arguments. All: lockword --help.

DURATION is a number with a unit: 500ms, 10s, 5m, 1h, 1d. Without one it is in seconds.

Examples:
  lockword run --on dir:/run/lock/jobs backup -- /usr/local/bin/backup
      One at a time on this machine.
  LOCKWORD_ON=redis://cache
  0 3 * * * lockword run nightly --skip-if-alive --at-most-once-per 12h --busy-exit-code 0 -- ./nightly
      Two lines in the crontabs of several hosts: one of them does it, and the others say nothing.";

/// Which lock, and how to print.
#[derive(Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Name of the lock
    pub key: String,
    /// Exit 1 if the lock is held
    #[arg(long)]
    pub exit_code: bool,
    /// Watch the holder for so long at most, to see whether it renews its lease (default: half of
    /// its lease, at most 10s; to call it dead takes the whole lease)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub watch_for: Option<Duration>,
    /// Show too how fast the engine responds, and whether a watch of the lock can be had
    #[arg(long)]
    pub health: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What is done with an audit trail.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AuditArgs {
    #[command(subcommand)]
    pub command: AuditCommand,
}

#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// Check that no line was changed, removed or put in; exit status 76 otherwise
    ///
    /// Prints the mark of the last line, its number and its hash. Keep it where whoever writes the trail cannot
    /// write, and give it to the next check: without one, it is not seen that the end was cut or that the whole
    /// was written anew.
    Verify(VerifyArgs),
}

#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The files of one trail, the oldest first: locks.jsonl.1 locks.jsonl
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The trail must have this line: a mark that an earlier check has printed
    #[arg(long, value_name = "MARK", value_parser = crate::audit::mark)]
    pub contains: Option<AuditMark>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Only the locks whose names begin with this
    #[arg(default_value = "")]
    pub prefix: String,
    /// Print JSON: one object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct WatchArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Name of a lock, or the beginning of names: all that begin with it
    #[arg(default_value = "")]
    pub prefix: String,
    /// How often to list the locks, and to look at all of them
    #[arg(long, value_name = "DURATION", value_parser = interval, default_value = "500ms")]
    pub every: Duration,
    /// Print JSON: one object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Only the locks whose names begin with this
    #[arg(default_value = "")]
    pub prefix: String,
    /// Time between two looks at all of the locks
    #[arg(long, value_name = "DURATION", value_parser = interval, default_value = "1s")]
    pub every: Duration,
    /// Which locks come first
    #[arg(long, value_enum, default_value_t = SortBy::Waiting)]
    pub sort: SortBy,
    /// Exit after N looks; the exit status is that of the last one (default: with Ctrl-C)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub times: Option<u64>,
    /// Print JSON: one object for each look
    #[arg(long)]
    pub json: bool,
}

/// The order of `lockword top`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    /// How many nodes wait (WAIT)
    Waiting,
    /// The longest wait of a node that still waits (LONGEST)
    Longest,
    /// The time that all nodes have waited since `top` began (WAITED)
    Waited,
    /// How long the lock has been held (HELD)
    Held,
}

#[derive(Args, Debug)]
pub struct BreakArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Name of the lock
    pub key: String,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Why, in at most 64 bytes; it is kept in the register, and shown by `status` and to the holder
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
    /// Add this to an audit trail; one process writes to a file at a time
    #[arg(long, value_name = "FILE")]
    pub audit: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct SweepArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Only what begins with this
    #[arg(default_value = "")]
    pub prefix: String,
    /// Also free the locks that killed holders have left, so that the engine deletes them later
    ///
    /// Each is watched as by a command that waits for it: for its lease, without a sign of life. Locks
    /// whose holders live are left alone, and those with a tied process.
    #[arg(long)]
    pub dead: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(after_long_help = GRANTS_NOTES)]
pub struct GrantsArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// What the names of the locks begin with; it ends with a slash
    #[arg(long, value_name = "PREFIX")]
    pub prefix: String,
    /// Name of the user or role: of Redis a user, which is made; of PostgreSQL a role, and of etcd a user, which
    /// have to exist
    #[arg(long, value_name = "NAME")]
    pub role: String,
    /// Print JSON: the commands, the program that they are for, and the notes
    #[arg(long)]
    pub json: bool,
}

const GRANTS_NOTES: &str = "\
The commands go to standard output, and what to do besides to standard error. They are for psql,
or for sh with redis-cli or etcdctl, run by somebody with all rights. They set no password: a user of Redis
that is made by them cannot log in before you give it one (ACL SETUSER jobs '>PASSWORD').

A second prefix for the same role takes the place of the first (Redis, PostgreSQL), or is one more
(etcd, where the role also keeps what else it has).

Such a role can acquire, wait for, renew, hand over and release the locks below the prefix, look at
them, and break them; not over Redis: list them. What it can do by hand harms these locks only: it
could use up the numbers of their versions, but those of each such prefix are counted from a floor
of their own, so the locks of others go on. It can make the nodes of others look at their locks in
vain (not over etcd), and load the server, as every client can. The page of each engine has more.

With --seal-key-file the rights are on the names under which the locks of the prefix are stored.

A directory has no rights per prefix: use one for each group of users.

Examples:
  lockword grants --on postgres:///shop --prefix jobs/ --role jobs | psql -X -v ON_ERROR_STOP=1 shop
  lockword grants --on redis://cache --prefix jobs/ --role jobs | REDIS_CLI='redis-cli -h cache' sh
  lockword grants --on etcd://a,b,c --prefix jobs/ --role jobs |
    ETCDCTL_ENDPOINTS=a:2379,b:2379,c:2379 ETCDCTL_USER=root:PASSWORD sh";

#[derive(Args, Debug)]
#[command(after_long_help = GATE_NOTES)]
pub struct GateArgs {
    /// The file that keeps the largest token so far; it is made if it is missing
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// Print JSON if the token is refused
    #[arg(long)]
    pub json: bool,
    /// The command, and its arguments
    #[arg(last = true, required = true, num_args = 1.., value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

const GATE_NOTES: &str = "\
Fencing for shells: use it within `lockword run`, where the result is put in place. The token of
LOCKWORD_TOKEN is compared with that in the file. If it is smaller, a later holder has been here,
and the exit status is 76. Otherwise it is written to the file, and the command is executed. The
file is locked until the command and all that it leaves running have ended, so commands of two
holders never run at a time, and never in the wrong order. Keep the command short.

The file has to be on the storage that it protects, seen by every host that can hold the lock, and
`flock` has to work there between hosts (it does on NFS since Linux 2.6.12). Files on the disks of
two hosts protect nothing. One file is for one lock. A gate within a gate of the same file waits
for ever.

Example, with /shared on all hosts:
  lockword run --on redis://cache report -- sh -c '
    make-report > /shared/report.new &&
      lockword gate --file /shared/report.gate -- mv /shared/report.new /shared/report'";

#[derive(Args, Debug)]
pub struct ManArgs {
    /// The command whose page is printed; that of the program without one
    pub command: Option<String>,
    /// Write the pages of the program and of all commands to this folder, such as
    /// /usr/local/share/man/man1
    #[arg(long, value_name = "FOLDER", conflicts_with = "command")]
    pub dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

/// The longest duration that is accepted.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// Parses a number with a unit: `500ms`, `1.5h`, and `10` for ten seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 60.0 * 60.0,
        "d" => 24.0 * 60.0 * 60.0,
        _ => return Err("the unit is one of ms, s, m, h, d".to_owned()),
    };
    let is_number = number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let seconds = number.parse::<f64>().ok().filter(|_| is_number);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds * unit).ok())
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| "it is a number with a unit: 500ms, 10s, 5m, 1h, 1d".to_owned())
}

/// As [`duration`], but at least 10 ms, so that `watch` does not look without a pause.
fn interval(text: &str) -> Result<Duration, String> {
    let least = Duration::from_millis(10);
    duration(text).and_then(|time| {
        if time < least { Err("it is at least 10ms".to_owned()) } else { Ok(time) }
    })
}

#[cfg(test)]
mod tests {
    use super::duration;
    use std::time::Duration;

    #[test]
    fn durations_have_a_unit_and_are_seconds_without_one() {
        for (text, ms) in [
            ("500ms", 500),
            ("10", 10_000),
            ("10s", 10_000),
            ("1.5s", 1_500),
            ("2m", 120_000),
            ("2min", 120_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "s", "-1s", "1e3", "inf", "NaN", "10 s", "1w", "1.2.3s", "4000d", "+1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
