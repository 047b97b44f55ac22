//! Never two commands at once: random schedules of kills, stops and cuts, which a seed repeats.

use crate::child;
use crate::locks::{Locks, children, end_of, is_guardian, kill, until};
use crate::random::Rng;
use crate::support::{run, status, stderr, stdout};
use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// The command. It writes its begin and its end with the time to a file, and in between a line from behind
/// a gate. It says `overlap` if another one runs: each locks that file, which the kernel unlocks when it dies,
/// in whatever way.
#[test]
fn worker() {
    if child::role().as_deref() != Some("worker") {
        return;
    }
    let variable = |name: &str| std::env::var(name).expect("it is set");
    let name = variable("LOCKWORD_TEST_FILE");
    let file = fs::File::options().append(true).create(true).open(&name).expect("it is writable");
    let write = |what: &str| {
        let line =
            format!("{what} {} {} {}\n", variable("LOCKWORD_TOKEN"), std::process::id(), now());
        // In one call, so that lines of several processes are not mixed.
        (&file).write_all(line.as_bytes()).expect("it is writable");
    };
    // SAFETY: the descriptor is open.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        write("overlap");
    }
    write("begin");
    thread::sleep(Duration::from_millis(u64::from(std::process::id() % 60)));
    let mut gate = Command::new(env!("CARGO_BIN_EXE_lockword"));
    gate.args(["gate", "--file", &format!("{name}.gate"), "--", "sh", "-c"]);
    gate.arg(format!("echo passed $LOCKWORD_TOKEN $$ 0 >> {name}")).stderr(Stdio::null());
    match gate.status().expect("it starts").code() {
        Some(0) => {}
        Some(76) => write("refused"),
        other => panic!("the gate ended with {other:?}"),
    }
    write("end");
}

/// CLOCK_BOOTTIME, in nanoseconds.
fn now() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is ours to write.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What can befall a `lockword run`.
#[derive(Clone, Copy, Debug)]
enum Fault {
    KillRun,
    KillGuardian,
    KillCommand,
    KillRunAndGuardian,
    /// For three leases.
    StopRun,
    /// Killed and started again.
    KillEngine,
    CutNetwork,
    /// By an operator, while its holder lives.
    Break,
    None,
}

const FAULTS: [Fault; 9] = [
    Fault::KillRun,
    Fault::KillGuardian,
    Fault::KillCommand,
    Fault::KillRunAndGuardian,
    Fault::StopRun,
    Fault::KillEngine,
    Fault::CutNetwork,
    Fault::Break,
    Fault::None,
];
const LEASE: Duration = Duration::from_millis(600);

/// What a schedule can do to an engine.
struct Server<'a> {
    /// Kills it, and starts it again after this time.
    kill: &'a dyn Fn(Duration),
    /// Cuts it off for this time.
    cut: &'a dyn Fn(Duration),
    /// What it has confirmed is gone when it was killed.
    forgets: bool,
}

/// What one schedule has shown.
#[derive(Debug, Default)]
struct Seen {
    begun: usize,
    /// Of these, the ones that nothing would have excused.
    strict: usize,
    passed: usize,
    refused: usize,
    overlaps: usize,
}

/// Three programs run commands under one lock, over and over, while one of them after the other is killed
/// or stopped.
fn schedule(locks: &Locks, server: Option<&Server<'_>>, seed: u64) -> Seen {
    const STEPS: usize = 12;
    let name = format!("schedule-{seed}");
    let file = locks.folder.path(&name);
    let worker = std::env::current_exe().expect("the path of this binary");
    let worker = worker.to_str().expect("it is UTF-8");
    let command = |options: &[&str]| {
        let mut command = locks.lockword(&[&["run", "k"], options, &["--", worker]].concat());
        command.args(["--exact", "schedules::worker", "--nocapture", "--test-threads=1"]);
        command.env(child::ROLE, "worker").env("LOCKWORD_TEST_FILE", &file).stdout(Stdio::null());
        command
    };
    let start = || command(&["--lease", "600ms", "--quiet"]).spawn().expect("it starts");
    // Seeds that differ in the last bit alone give the same numbers.
    let mut rng = Rng::new(2 * seed, 0);
    // Only what takes a lock from a holder that lives, or an engine that forgets, gives two at a time, and no
    // longer than up to the end of the lease of the one who has lost it, here with as much again.
    let mut excused: Vec<std::ops::Range<u64>> = vec![];
    let mut excuse = |since: u64| excused.push(since..now() + 2 * LEASE.as_nanos() as u64);
    let mut runs: Vec<Child> = (0..3).map(|_| start()).collect();
    for _ in 0..STEPS {
        thread::sleep(Duration::from_millis(rng.below(120) as u64));
        let (fault, chosen) = (FAULTS[rng.below(FAULTS.len())], rng.below(runs.len()));
        let time = Duration::from_millis(rng.below(900) as u64);
        let process = runs[chosen].id();
        let guardians = || children(process).into_iter().filter(|child| is_guardian(*child));
        match fault {
            Fault::KillRun => kill(process as i32, libc::SIGKILL),
            Fault::KillGuardian => guardians().for_each(|one| kill(one, libc::SIGKILL)),
            Fault::KillCommand => {
                let commands = children(process).into_iter().filter(|child| !is_guardian(*child));
                commands.for_each(|one| kill(one, libc::SIGKILL));
            }
            Fault::KillRunAndGuardian => {
                guardians().for_each(|one| kill(one, libc::SIGKILL));
                kill(process as i32, libc::SIGKILL);
            }
            Fault::StopRun => {
                kill(process as i32, libc::SIGSTOP);
                thread::sleep(3 * LEASE);
                kill(process as i32, libc::SIGCONT);
            }
            Fault::KillEngine => {
                if let Some(server) = server {
                    let since = now();
                    (server.kill)(time);
                    if server.forgets {
                        excuse(since);
                    }
                }
            }
            Fault::CutNetwork => {
                if let Some(server) = server {
                    (server.cut)(time);
                }
            }
            Fault::Break => {
                let since = now();
                let output =
                    run(locks.lockword(&["break", "k", "--yes", "--reason", "a schedule"]));
                // In a directory the tie keeps the next command out until the old one has ended.
                if server.is_some() && !stdout(&output).contains("nothing") {
                    excuse(since);
                }
            }
            Fault::None => {}
        }
        for run in &mut runs {
            if let Some(ended) = run.try_wait().expect("it can be waited for") {
                // Done, the command was killed, the engine could not be reached, or the lock was lost.
                let is_right = ended.code().is_none_or(|code| [0, 137, 69, 76].contains(&code));
                assert!(is_right, "seed {seed}: {ended}");
                *run = start();
            }
        }
    }
    for mut run in runs {
        end_of(&mut run);
    }
    // Whatever has happened, the next one gets the lock.
    let output = run(command(&["--wait", "1m"]));
    assert_eq!(status(&output), 0, "seed {seed}: {}", stderr(&output));
    // A child of a command that was killed may still write.
    let gate = locks.folder.path(&format!("{name}.gate"));
    until("nothing is behind the gate", || {
        let file =
            fs::File::options().append(true).create(true).open(&gate).expect("it is writable");
        // SAFETY: the descriptor is open.
        unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
    });
    check(seed, &locks.folder.read(&name), &excused)
}

/// Checks what the commands of a schedule have written.
fn check(seed: u64, text: &str, excused: &[std::ops::Range<u64>]) -> Seen {
    let mut seen = Seen::default();
    // The newest token that was behind the gate; that of the latest begin, and when the latest end was.
    let (mut newest, mut begun, mut ended) = (0, 0, 0);
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        let (token, time) = (number(1), number(3));
        let may_overlap = excused.iter().any(|range| range.contains(&time));
        match words[0] {
            "overlap" => {
                seen.overlaps += 1;
                assert!(may_overlap, "seed {seed}: two at once:\n{text}");
            }
            "begin" => {
                seen.begun += 1;
                seen.strict += usize::from(!may_overlap);
                let in_order = token > begun && time > ended;
                assert!(may_overlap || in_order, "seed {seed}: out of order:\n{text}");
                begun = token.max(begun);
            }
            "end" => ended = time.max(ended),
            "passed" => {
                seen.passed += 1;
                assert!(token >= newest, "seed {seed}: the gate has let an older one in:\n{text}");
                newest = token;
            }
            "refused" => {
                seen.refused += 1;
                assert!(token < newest, "seed {seed}: the gate has refused the newest:\n{text}");
            }
            other => panic!("seed {seed}: {other}"),
        }
    }
    assert!(seen.begun > 0, "seed {seed}: the last one has run:\n{text}");
    seen
}

/// `LOCKWORD_SCHEDULES=25` runs as many over each engine, which takes some minutes.
fn schedules(engine: &str, locks: &Locks, server: Option<&Server<'_>>) {
    let count = std::env::var("LOCKWORD_SCHEDULES").ok().and_then(|count| count.parse().ok());
    let mut sum = Seen::default();
    for seed in 1..=count.unwrap_or(1) {
        let seen = schedule(locks, server, seed);
        sum.begun += seen.begun;
        sum.strict += seen.strict;
        sum.passed += seen.passed;
        sum.refused += seen.refused;
        sum.overlaps += seen.overlaps;
    }
    println!("{engine}: {} schedules, {sum:?}", count.unwrap_or(1));
    let forgets = server.is_some_and(|server| server.forgets);
    // One schedule alone may be full of breaks.
    let is_long = count.unwrap_or(1) >= 10;
    assert!(forgets || !is_long || 4 * sum.strict > sum.begun, "many are checked: {sum:?}");
}

#[test]
fn no_two_commands_run_at_a_time_over_a_directory() {
    schedules("dir", &Locks::new("schedules"), None);
}

#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
mod over_servers {
    use super::{Locks, Server, schedules};
    use crate::servers::process::ServerProcess;
    use crate::servers::relay::Relay;

    fn run(name: &str, address: &str, process: &ServerProcess, relay: &Relay, forgets: bool) {
        let server = Server {
            kill: &|time| {
                process.kill9();
                std::thread::sleep(time);
                process.restart();
            },
            cut: &|time| {
                relay.drop_all();
                std::thread::sleep(time);
                relay.pass();
            },
            forgets,
        };
        schedules(name, &Locks::over(&format!("schedules_{name}"), address), Some(&server));
    }

    #[cfg(feature = "etcd")]
    #[test]
    fn no_two_commands_run_at_a_time_over_etcd() {
        let Some(server) = crate::servers::etcd::EtcdServer::start() else { return };
        let relay = Relay::new(server.port);
        let address = format!("etcd://{}", relay.server());
        run("etcd", &address, &server.process, &relay, false);
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn no_two_commands_run_at_a_time_over_postgres() {
        use crate::servers::postgres::{PostgresServer, PostgresSetup};
        let Some(server) = PostgresServer::start(PostgresSetup::default()) else { return };
        let relay = Relay::new(server.port);
        let address = server.address_at(relay.port(), "create_schema=true");
        run("postgres", &address, &server.process, &relay, false);
    }

    /// It writes each change to the disk first, and so forgets nothing.
    #[cfg(feature = "redis")]
    #[test]
    fn no_two_commands_run_at_a_time_over_redis() {
        redis(true);
    }

    /// What it has confirmed is gone when it is killed: then two can run, and the gate refuses the older one.
    #[cfg(feature = "redis")]
    #[test]
    fn the_gate_keeps_the_order_over_a_redis_that_forgets() {
        redis(false);
    }

    #[cfg(feature = "redis")]
    fn redis(durable: bool) {
        use crate::servers::redis::{RedisServer, RedisSetup};
        let setup = RedisSetup { durable, ..RedisSetup::default() };
        let Some(server) = RedisServer::start_with(setup) else { return };
        let relay = Relay::new(server.port);
        let name = if durable { "redis" } else { "forgetful_redis" };
        run(name, &server.address_at(relay.port()), &server.process, &relay, !durable);
    }
}
