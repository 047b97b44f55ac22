//! Client processes: this binary again, in another role.

use super::fixture::{Fixture, KEY, client, granted, is_free, release, wait};
use crate::support::engine::Engine;
use crate::support::namespace::Namespace;
use lockword::cluster::fence::Gate;
use lockword::cluster::{FencingToken, Key, Node};
use std::fs::{read_to_string, write};
use std::io::{BufRead, BufReader, Lines, Write as _, stdin};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const ROLE: &str = "LOCKWORD_ENGINE_ROLE";
const ADDRESS: &str = "LOCKWORD_ENGINE_ADDRESS";
const FILE: &str = "LOCKWORD_ENGINE_FILE";
/// How long processes contend, in seconds: 6 unless it is set.
const SECS: &str = "LOCKWORD_ENGINE_SECS";

const PROCESSES: usize = 32;
/// A line of a child that is for its parent begins so.
const MARK: &str = "lockword> ";

/// A child, and what it says.
pub struct ChildProcess {
    child: Child,
    to: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl ChildProcess {
    pub fn start(role: &str, address: &str, file: &str) -> Self {
        Self::start_at(&Namespace::here(), role, address, file)
    }

    pub fn start_at(namespace: &Namespace, role: &str, address: &str, file: &str) -> Self {
        let exe = std::env::current_exe().expect("the path of this binary");
        let mut command = Command::new(exe);
        command
            .args(["--exact", "suite::processes::child", "--nocapture", "--test-threads=1"])
            .envs([(ROLE, role), (ADDRESS, address), (FILE, file)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = namespace.spawn(command).expect("this binary starts again");
        let to = child.stdin.take().expect("a pipe");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, to, lines }
    }

    /// What it says next. `None`: it has ended.
    pub fn hear(&mut self) -> Option<String> {
        loop {
            let line = self.lines.next()?.expect("text");
            // The test harness has said something on the same line.
            if let Some((_, said)) = line.split_once(MARK) {
                return Some(said.to_owned());
            }
        }
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, number: i32) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: a signal to a child of ours that was not waited for yet.
        unsafe { libc::kill(id, number) };
    }

    pub fn say(&mut self, word: &str) {
        assert!(self.try_say(word), "it listens");
    }

    /// Whether it may have heard it. `false`: it has ended before.
    pub fn try_say(&mut self, word: &str) -> bool {
        writeln!(self.to, "{word}").is_ok()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a child does. It does nothing in the parent's process.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let address = std::env::var(ADDRESS).expect("an address");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match &*role {
            "hold" => hold(&address).await,
            #[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
            "lose" => super::partition::lose(&address).await,
            "contend" => contend_as_child(&address).await,
            #[cfg(target_os = "linux")]
            role if role.starts_with("dir-") => crate::dir::child(role, &address).await,
            other => panic!("{other}?"),
        }
    });
}

pub fn tell(what: impl std::fmt::Display) {
    println!("{MARK}{what}");
}

/// Waits for the parent's word. The parent's end is the child's.
pub fn ask() -> String {
    let mut word = String::new();
    if stdin().read_line(&mut word).expect("a pipe") == 0 {
        std::process::exit(1);
    }
    word.trim().to_owned()
}

async fn hold(address: &str) {
    let node = Node::builder(client(address).await).lease(LEASE).build().unwrap();
    let held = node.lock(KEY).unwrap().acquire().await.unwrap();
    tell(held.token());
    // Renews meanwhile.
    tokio::task::spawn_blocking(ask).await.unwrap();
    tell(held.is_valid());
}

pub const LEASE: Duration = Duration::from_secs(2);
/// A waiting node gets the lock within this time after the holder has stopped renewing: it polls every
/// third of a lease, and sees the last heartbeat then, if not before. A second is for the machine.
pub const TAKE_OVER: Duration = LEASE.saturating_add(Duration::from_millis(1667));

pub async fn holder_is_killed<E: Engine>() {
    let Some(fixture) = Fixture::<E>::start().await else { return };
    let node = fixture.node(LEASE).await;
    let looker = fixture.looker().await;
    let mut process = ChildProcess::start("hold", &fixture.server.address(), "");
    let token: u64 = process.hear().expect("it holds").parse().expect("a token");
    let waiting = wait(&node, &looker).await;
    let began = Instant::now();
    process.child.kill().expect("it runs");
    let next = granted(waiting).await;
    let took = began.elapsed();
    println!("in after {took:?} of a lease of {LEASE:?}");
    assert!(took < TAKE_OVER, "{took:?}");
    assert!(next.token().get() > token, "{} after {token}", next.token());
    release(next).await;
    // What the child wrote was not recorded: there is no history.
    is_free(&looker).await;
}

/// A holder that the system halts, and that goes on as if nothing had been.
pub async fn holder_is_stopped<E: Engine>() {
    let Some(fixture) = Fixture::<E>::start().await else { return };
    let node = fixture.node(LEASE).await;
    let looker = fixture.looker().await;
    let (gate, key) = (Gate::new(), Key::new(KEY).expect("a key"));
    let mut process = ChildProcess::start("hold", &fixture.server.address(), "");
    let token: u64 = process.hear().expect("it holds").parse().expect("a token");
    let waiting = wait(&node, &looker).await;
    process.signal(libc::SIGSTOP);
    let next = granted(waiting).await;
    gate.pass(&key, next.token()).expect("it is the first here");
    process.signal(libc::SIGCONT);
    process.say("is it valid?");
    // It knows at once, before it has heard of anybody.
    assert_eq!(process.hear().as_deref(), Some("false"));
    gate.pass(&key, FencingToken::from_u64(token)).expect_err("it is late");
    assert!(next.is_valid());
    release(next).await;
    is_free(&looker).await;
}

/// Adds one to a number in a file, in steps that lose counts when two are at it; and asks a resource
/// behind a gate.
async fn contend_as_child(address: &str) {
    let file = std::env::var(FILE).expect("a path");
    let node = Node::builder(client(address).await)
        .unavailable_timeout(Duration::from_secs(300))
        .build()
        .unwrap();
    let lock = node.lock(KEY).unwrap();
    tell("ready");
    let limit = Duration::from_secs(ask().parse().expect("seconds"));
    let began = Instant::now();
    let mut sum = 0;
    while began.elapsed() < limit {
        let guard = lock.acquire().await.unwrap();
        let text = read_to_string(&file).expect("the file is there");
        let (count, last) = text.split_once(' ').expect("not half of it");
        let (count, last): (u64, u64) = (count.parse().unwrap(), last.parse().unwrap());
        let token = guard.token().get();
        assert!(token > last, "{token} after {last}");
        tokio::task::yield_now().await;
        write(&file, format!("{} {token}", count + 1)).expect("a file of ours");
        tell(token);
        // The node's lease is long enough for that.
        assert_eq!(ask(), "passed");
        guard.release().await.unwrap();
        sum += 1;
    }
    node.shutdown().await;
    tell(format!("sum {sum}"));
}

pub async fn contend<E: Engine>() {
    let Some(fixture) = Fixture::<E>::start().await else { return };
    let seconds: u64 = std::env::var(SECS).map_or(6, |secs| secs.parse().expect("seconds"));
    let folder = crate::support::process::Folder::new("contend");
    let file = folder.file("count");
    write(&file, "0 0").expect("a file of ours");
    let address = fixture.server.address();
    let mut processes: Vec<ChildProcess> =
        (0..PROCESSES).map(|_| ChildProcess::start("contend", &address, &file)).collect();
    for process in &mut processes {
        assert_eq!(process.hear().as_deref(), Some("ready"));
    }
    let (gate, key) = (Gate::new(), Key::new(KEY).expect("a key"));
    let log = Mutex::new(vec![]);
    let serve = |process: &mut ChildProcess| -> u64 {
        process.say(&seconds.to_string());
        loop {
            let said = process.hear().expect("it ends with a sum");
            if let Some(sum) = said.strip_prefix("sum ") {
                return sum.parse().expect("a number");
            }
            let token: u64 = said.parse().expect("a token");
            let pass = || log.lock().unwrap().push(token);
            gate.pass_and(&key, FencingToken::from_u64(token), pass).expect("no token is late");
            process.say("passed");
        }
    };
    let sums: Vec<u64> = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let serve = &serve;
            let served: Vec<_> =
                processes.iter_mut().map(|process| scope.spawn(move || serve(process))).collect();
            served.into_iter().map(|sum| sum.join().expect("a child succeeds")).collect()
        })
    });
    for mut process in processes {
        let status = process.child.wait().expect("a child of ours");
        assert!(status.success(), "{status}");
    }
    let total: u64 = sums.iter().sum();
    let log = log.into_inner().unwrap();
    let (min, max) = (sums.iter().min().unwrap(), sums.iter().max().unwrap());
    println!("{total} holds by {PROCESSES} processes in {seconds} s, each {min} to {max}");
    assert!(log.is_sorted_by(|a, b| a < b), "tokens did not grow");
    assert_eq!(log.len() as u64, total);
    assert!(*min > 0, "one never got in: {sums:?}");
    let last = log.last().expect("there were some");
    assert_eq!(read_to_string(&file).unwrap(), format!("{total} {last}"));
    is_free(&fixture.looker().await).await;
}
