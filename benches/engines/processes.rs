//! The cells with several processes: this program, started again.
//!
//! A child connects, says that it is ready, is told when to begin and to end, and then writes a line
//! for each of its acquisitions, with the times of the system's clock, which all processes have.

use crate::engine::{self, At, ContenderKind};
use crate::in_process::runtime;
use crate::sample::{Sample, Waits};
use lockword::cluster::layers::Operations;
use lockword::contention::statistics;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the lock is held in `elsewhere`, and how long each bare call there is preceded by rest.
pub const REST: Duration = Duration::from_millis(5);

const PROCESSES: usize = 8;

/// The first argument of a child.
const CHILD: &str = "a-child-of-the-bench";

/// An acquisition, in nanoseconds since 1970.
#[derive(Clone, Copy)]
struct Acquisition {
    asked: u64,
    granted: u64,
    releasing: u64,
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is about right");
    u64::try_from(since.as_nanos()).expect("it is not yet 2554")
}

/// Does the work of a child, if this process is one.
pub fn is_child() -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [child, name, address, what, hold] = &arguments[..] else { return false };
    if child != CHILD {
        return false;
    }
    let engine = engine::all().into_iter().find(|engine| engine.name() == name);
    let at = At { engine: engine.expect("the same build"), address: address.clone() };
    let what = match &**what {
        "peer" => ContenderKind::Peer,
        "on-runtime" => ContenderKind::OnRuntime,
        "kept-turn" => ContenderKind::KeptTurn,
        "no-place" => ContenderKind::NoPlace,
        _ => ContenderKind::Lockword,
    };
    let hold = Duration::from_micros(hold.parse().expect("a number"));
    runtime(1).block_on(run_child(&at, what, hold));
    true
}

async fn run_child(at: &At, what: ContenderKind, hold: Duration) {
    let held = async || {
        if !hold.is_zero() {
            tokio::time::sleep(hold).await;
        }
    };
    let (turns, requests);
    if what.is_lockword() {
        let (node, counts) = at.node(what).await;
        let lock = node.lock("processes").expect("a key");
        let end = begin().await;
        counts.take();
        turns = take_turns(end, async || {
            let asked = now();
            let guard = lock.acquire().await.expect("it is granted");
            let granted = now();
            held().await;
            let releasing = now();
            guard.release().await.expect("it is held");
            Acquisition { asked, granted, releasing }
        })
        .await;
        requests = counts.take();
        // A kept place would be a dead node in the queue of those that go on.
        node.shutdown().await;
    } else {
        let mut peer = at.other(what).await;
        let end = begin().await;
        turns = take_turns(end, async || {
            let asked = now();
            peer.acquire().await;
            let granted = now();
            held().await;
            let releasing = now();
            peer.release().await;
            Acquisition { asked, granted, releasing }
        })
        .await;
        requests = Operations::default();
    }
    let mut out = std::io::stdout().lock();
    for Acquisition { asked, granted, releasing } in turns {
        writeln!(out, "{asked} {granted} {releasing}").expect("somebody reads");
    }
    let (all, writes) = (requests.total(), requests.swaps);
    writeln!(out, "requests {all} {writes}").expect("somebody reads");
}

/// Says that the child is ready, and waits for the beginning. Returns the end.
async fn begin() -> u64 {
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("somebody writes");
    let (start, end) = line.trim().split_once(' ').expect("two numbers");
    let (start, end): (u64, u64) = (start.parse().expect("one"), end.parse().expect("two"));
    tokio::time::sleep(Duration::from_nanos(start.saturating_sub(now()))).await;
    end
}

async fn take_turns(end: u64, mut turn: impl AsyncFnMut() -> Acquisition) -> Vec<Acquisition> {
    let mut turns = vec![];
    while now() < end || turns.is_empty() {
        turns.push(turn().await);
    }
    turns
}

/// The acquisitions of each child, and the numbers of requests and writes of all.
struct ChildrenReport {
    turns: Vec<Vec<Acquisition>>,
    requests: u64,
    writes: u64,
    end: u64,
}

/// Kills the child when it is dropped, so that a panic leaves none behind.
pub struct KillOnDrop(pub Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(
    at: &At,
    what: ContenderKind,
    count: usize,
    hold: Duration,
    slice: Duration,
) -> ChildrenReport {
    let program = std::env::current_exe().expect("this program");
    let what = match what {
        ContenderKind::Peer => "peer",
        ContenderKind::OnRuntime => "on-runtime",
        ContenderKind::KeptTurn => "kept-turn",
        ContenderKind::NoPlace => "no-place",
        _ => "lockword",
    };
    let hold = hold.as_micros().to_string();
    let mut children: Vec<_> = (0..count)
        .map(|_| {
            let mut command = Command::new(&program);
            command.args([CHILD, at.engine.name(), &at.address, what, &hold]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = KillOnDrop(command.spawn().expect("this program starts again"));
            let lines = BufReader::new(child.0.stdout.take().expect("piped")).lines();
            (child, lines.map(|line| line.expect("text")))
        })
        .collect();
    for (_, lines) in &mut children {
        assert_eq!(lines.next().as_deref(), Some("ready"), "a child fails to connect");
    }
    let start = now() + 20_000_000;
    let end = start + u64::try_from(slice.as_nanos()).expect("seconds");
    for (child, _) in &mut children {
        let mut stdin = child.0.stdin.take().expect("piped");
        writeln!(stdin, "{start} {end}").expect("the child reads");
    }
    let (mut turns, mut requests, mut writes) = (vec![], 0, 0);
    for (mut child, lines) in children {
        let mut own = vec![];
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| -> u64 { words[at].parse().expect("a number") };
            match words[..] {
                ["requests", ..] => {
                    requests += number(1);
                    writes += number(2);
                }
                _ => own.push(Acquisition {
                    asked: number(0),
                    granted: number(1),
                    releasing: number(2),
                }),
            }
        }
        assert!(child.0.wait().expect("a child").success(), "a child failed");
        turns.push(own);
    }
    ChildrenReport { turns, requests, writes, end }
}

/// Eight processes on one key.
pub fn contend(at: &At, what: ContenderKind, slice: Duration) -> Sample {
    let report = run(at, what, PROCESSES, Duration::ZERO, slice);
    let within = |turn: &&Acquisition| turn.granted < report.end;
    let grants: Vec<u64> =
        report.turns.iter().map(|turns| turns.iter().filter(within).count() as u64).collect();
    let done: u64 = grants.iter().sum();
    let waits = report.turns.iter().flatten().map(|turn| turn.granted.saturating_sub(turn.asked));
    let waits = statistics::sorted(&waits.map(|ns| ns as f64).collect::<Vec<_>>());
    let mut sample = Sample::new(slice.as_nanos() as f64 / done.max(1) as f64).with_grants(&grants);
    sample.waits = Some(Waits {
        half: statistics::quantile(&waits, 0.5),
        most: statistics::quantile(&waits, 0.99),
        all: waits[waits.len() - 1],
    });
    if what.is_lockword() {
        let all = report.turns.iter().map(Vec::len).sum::<usize>();
        sample = sample.with_counts(report.requests, report.writes, all as u64);
    }
    sample
}

/// From a release to the grant in another process: two of them, in turn.
pub fn elsewhere(at: &At, what: ContenderKind, hold: Duration, slice: Duration) -> Sample {
    let report = run(at, what, 2, hold, slice);
    let mut all: Vec<(usize, Acquisition)> = vec![];
    for (process, turns) in report.turns.iter().enumerate() {
        all.extend(turns.iter().map(|turn| (process, *turn)));
    }
    all.sort_by_key(|(_, turn)| turn.granted);
    let gap = |pair: &[(usize, Acquisition)]| {
        let [(one, before), (other, after)] = pair else { return None };
        // Only if it was waiting for a while, and was report.
        let rest = u64::try_from(REST.as_nanos()).expect("milliseconds") / 2;
        let waited = one != other && after.asked + rest < before.releasing;
        waited.then(|| after.granted.saturating_sub(before.releasing) as f64)
    };
    let gaps: Vec<f64> = all.windows(2).filter_map(gap).collect();
    assert!(!gaps.is_empty(), "no process waited: {} turns", all.len());
    let count = all.len() as u64;
    let sample = Sample::new(statistics::median(&gaps).mid);
    sample.with_counts(report.requests, report.writes, count)
}
