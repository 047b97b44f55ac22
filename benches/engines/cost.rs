//! What a lock costs: memory, requests, bytes on the wire, threads, descriptors.
//!
//! One process holds many keys, and in another one two nodes wait for all of them. Both are this program, started again,
//! which does what it reads line by line, and answers with what it has counted. Their bytes come by a relay
//! that counts them, and the server is asked what it stores. Figures of one key are those of all, divided by their
//! number, so what is the same for any number of keys is nearly gone from them.

use crate::engine::{self, At, Engine};
use crate::heap;
use crate::in_process::runtime;
use crate::processes::KillOnDrop;
use crate::servers::relay::Relay;
use crate::support::options::BenchOptions;
use crate::support::table::{TextTable, figure};
use lockword::cluster::layers::Counts;
use lockword::cluster::{DistributedGuard, DistributedLock, Node};
use lockword::contention::MachineInfo;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// The first argument of a child.
const CHILD: &str = "a-client-of-the-bench";

/// The name of the report in a filter.
const NAME: &str = "cost";

/// The lease of all nodes here.
const LEASE: Duration = Duration::from_secs(3);

/// The default lease, to which the figures of requests a second are converted.
const USUAL: Duration = Duration::from_secs(10);

/// Pairs of one key, one after the other.
const PAIRS: usize = 100;

/// How many keys, and for how long they are watched.
#[derive(Clone, Copy)]
struct Size {
    keys: usize,
    slice: Duration,
}

/// By name.
type Figures = BTreeMap<String, f64>;

/// What is printed: a name, the figure that it shows, and how.
const ROWS: &[(&str, &str, Unit)] = &[
    ("client: a node with its connections, bytes", "node bytes", Unit::Whole),
    ("client: a held key, with its guard, bytes", "held bytes", Unit::Whole),
    ("client: a key that is waited for, with the task, bytes", "waiting bytes", Unit::Whole),
    ("server: a free key, bytes", "server free", Unit::Whole),
    ("server: a held key, bytes", "server held", Unit::Whole),
    ("server: the same and two nodes that wait, bytes", "server waiting", Unit::Whole),
    ("server: a renewal, in the log or until compaction, bytes", "log", Unit::Whole),
    ("requests: acquire and release", "requests pair", Unit::Figure),
    ("requests a second: a held key", "requests held", Unit::Figure),
    ("requests a second: first in the queue", "requests first", Unit::Figure),
    ("requests a second: second in the queue", "requests second", Unit::Figure),
    ("wire: acquire and release, bytes", "wire pair", Unit::Whole),
    ("wire: a renewal, bytes", "wire renewal", Unit::Whole),
    ("threads: the first node of a process", "threads first", Unit::Whole),
    ("threads: each further node", "threads second", Unit::Whole),
    ("threads: all keys, held", "threads held", Unit::Whole),
    ("descriptors: the first node of a process", "descriptors first", Unit::Whole),
    ("descriptors: each further node", "descriptors second", Unit::Whole),
    ("descriptors: all keys, held", "descriptors held", Unit::Whole),
];

#[derive(Clone, Copy)]
enum Unit {
    Whole,
    /// With three digits.
    Figure,
}

/// The report on the engines that the filter selects.
pub fn report(options: &BenchOptions) {
    let engines = engine::all().into_iter().filter(|engine| engine.has(NAME)).collect();
    let engines = options.select_cells(engines, |engine| format!("{}/{NAME}", engine.name()));
    let size = match options.quick {
        true => Size { keys: 20, slice: LEASE / 30 },
        false => Size { keys: 250, slice: LEASE },
    };
    let mut measured: Vec<(&str, Figures)> = vec![];
    for engine in engines {
        eprint!("\r{}: what a lock costs over {}", options.bench, engine.name());
        if let Some(figures) = measure(engine, size) {
            measured.push((engine.name(), figures));
        }
    }
    if measured.is_empty() {
        return;
    }
    println!("\nWhat a lock costs, by {} keys of a node, with a lease of 10 s", size.keys);
    println!("{}\n", MachineInfo::read());
    let heads = [""].into_iter().chain(measured.iter().map(|(name, _)| *name));
    let mut table = TextTable::new(1, &heads.collect::<Vec<_>>());
    for (title, name, unit) in ROWS {
        let shown = |(_, figures): &(&str, Figures)| match (figures.get(*name), unit) {
            (None, _) => "-".to_owned(),
            (Some(value), Unit::Whole) => format!("{value:.0}"),
            (Some(value), Unit::Figure) => figure(*value),
        };
        let cells = measured.iter().map(shown);
        table.row([(*title).to_owned()].into_iter().chain(cells).collect());
    }
    table.print();
    println!("Server: what it stores of a key and its part of an index, without its connections.");
}

/// `None`: its server is not installed.
fn measure(engine: &'static dyn Engine, size: Size) -> Option<Figures> {
    let server = engine.start()?;
    let relay = port_of(&server.address).map(Relay::new);
    let address = match (&relay, port_of(&server.address)) {
        (Some(relay), Some(port)) => {
            server.address.replace(&format!(":{port}"), &format!(":{}", relay.port()))
        }
        _ => server.address.clone(),
    };
    let asking = runtime(1);
    let stored = || asking.block_on(engine.stored(&server));
    let written = || asking.block_on(engine.written(&server));
    let passed = || relay.as_ref().map(|relay| relay.passed() as f64);
    let mut figures = Figures::new();
    let mut put = |name: &str, value: f64| figures.insert(name.to_owned(), value);
    let count = size.keys as f64;

    let mut toucher = Client::start(engine, &address, size);
    toucher.run("connect");
    let empty = stored();
    toucher.run("touch");
    drop(toucher);
    put("server free", (stored() - empty) / count);

    let mut holder = Client::start(engine, &address, size);
    let seen = holder.run("connect");
    for name in ["node bytes", "threads first", "threads second"] {
        put(name, seen[name]);
    }
    for name in ["descriptors first", "descriptors second"] {
        put(name, seen[name]);
    }
    holder.run("warm");
    let before = passed();
    put("requests pair", holder.run("pairs")["requests"] / PAIRS as f64);
    if let Some((before, after)) = before.zip(passed()) {
        put("wire pair", (after - before) / PAIRS as f64);
    }

    let seen = holder.run("hold");
    put("held bytes", seen["bytes"] / count);
    put("threads held", seen["threads"]);
    put("descriptors held", seen["descriptors"]);
    put("server held", (stored() - empty) / count);

    let before = (passed(), written());
    let seen = holder.run("keep");
    let after = (passed(), written());
    let renewals = seen["writes"].max(1.0);
    put("requests held", each_second(seen["requests"], size));
    if let Some((before, after)) = before.0.zip(after.0) {
        put("wire renewal", (after - before) / renewals);
    }
    if let Some((before, after)) = before.1.zip(after.1) {
        put("log", (after - before) / renewals);
    }

    let mut waiter = Client::start(engine, &address, size);
    waiter.run("connect");
    put("waiting bytes", waiter.run("wait")["bytes"] / count);
    let seen = waiter.run("keep");
    put("requests first", each_second(seen["requests"], size));
    put("requests second", each_second(seen["requests of the second"], size));
    put("server waiting", (stored() - empty) / count);
    Some(figures)
}

/// The requests of all keys in a slice, as those of one in a second with the usual lease.
fn each_second(requests: f64, size: Size) -> f64 {
    let leases = size.slice.as_secs_f64() / LEASE.as_secs_f64();
    requests / size.keys as f64 / leases / USUAL.as_secs_f64()
}

/// `None`: it has no server.
fn port_of(address: &str) -> Option<u16> {
    let (_, rest) = address.split_once("127.0.0.1:")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
    digits.map(|digits| digits.parse().expect("a port"))
}

/// A child, as its parent sees it.
struct Client {
    child: KillOnDrop,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(engine: &dyn Engine, address: &str, size: Size) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args([CHILD, engine.name(), address, &size.keys.to_string()]);
        command.arg(size.slice.as_millis().to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = KillOnDrop(command.spawn().expect("this program starts again"));
        let lines = BufReader::new(child.0.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    /// Has it do this, and returns what it has counted.
    fn run(&mut self, what: &str) -> Figures {
        let stdin = self.child.0.stdin.as_mut().expect("piped");
        writeln!(stdin, "{what}").expect("the child reads");
        let mut figures = Figures::new();
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("{what}: the client failed"));
            let line = line.expect("text");
            let Some((name, value)) = line.split_once(": ") else { return figures };
            figures.insert(name.to_owned(), value.parse().expect("a number"));
        }
    }
}

/// Does the work of a client, if this process is one.
pub fn is_client() -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [child, name, address, keys, slice] = &arguments[..] else { return false };
    if child != CHILD {
        return false;
    }
    heap::count();
    let engine = engine::all().into_iter().find(|engine| engine.name() == name);
    let at = At { engine: engine.expect("the same build"), address: address.clone() };
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let slice = Duration::from_millis(number(slice));
    let size = Size { keys: usize::try_from(number(keys)).expect("some"), slice };
    runtime(1).block_on(serve(&at, size));
    true
}

/// What a client has.
#[derive(Default)]
struct Served {
    nodes: Vec<(Node, Counts)>,
    warm: Option<DistributedLock>,
    locks: Vec<DistributedLock>,
    guards: Vec<DistributedGuard>,
    waiting: Vec<JoinHandle<()>>,
}

async fn serve(at: &At, size: Size) {
    let mut served = Served::default();
    for line in std::io::stdin().lines() {
        for (name, value) in served.run(at, size, &line.expect("text")).await {
            println!("{name}: {value}");
        }
        println!("done");
    }
}

impl Served {
    async fn run(&mut self, at: &At, size: Size, what: &str) -> Vec<(&'static str, f64)> {
        match what {
            "connect" => self.connect(at).await,
            "warm" => {
                let lock = self.nodes[0].0.lock("warm").expect("a key");
                lock.acquire().await.expect("free").release().await.expect("held");
                self.warm = Some(lock);
                vec![]
            }
            "pairs" => {
                let (_, counts) = &self.nodes[0];
                counts.take();
                let lock = self.warm.as_ref().expect("it was warmed");
                for _ in 0..PAIRS {
                    lock.acquire().await.expect("free").release().await.expect("held");
                }
                vec![("requests", counts.take().total() as f64)]
            }
            "hold" => self.hold(size).await,
            "keep" => {
                for (_, counts) in &self.nodes {
                    counts.take();
                }
                sleep(size.slice).await;
                let counted: Vec<_> = self.nodes.iter().map(|(_, counts)| counts.take()).collect();
                let lost = self.guards.iter().filter(|guard| !guard.is_valid()).count();
                assert_eq!(lost, 0, "the machine is too slow for so many keys");
                vec![
                    ("requests", counted[0].total() as f64),
                    ("requests of the second", counted[1].total() as f64),
                    ("writes", counted[0].swaps as f64),
                ]
            }
            "wait" => self.wait(size).await,
            "touch" => {
                let locks = (0..size.keys).map(|number| self.nodes[0].0.lock(key(number)));
                let pairs = locks.map(async |lock| {
                    lock.expect("a key").acquire().await.expect("free").release().await
                });
                futures_util::future::try_join_all(pairs).await.expect("they are held");
                vec![]
            }
            other => panic!("{other}?"),
        }
    }

    /// Two nodes, each with connections of its own.
    async fn connect(&mut self, at: &At) -> Vec<(&'static str, f64)> {
        let mut seen = vec![];
        let names = [
            ["threads first", "descriptors first", "node bytes"],
            ["threads second", "descriptors second", "bytes of the second"],
        ];
        for names in names {
            let before = [entries("task"), entries("fd"), heap::in_use()];
            let counts = Counts::default();
            let node = Node::builder(at.connect_into(&counts).await).lease(LEASE).build();
            let node = node.expect("a node");
            // Connections that are made when they are needed.
            let lock = node.lock("first").expect("a key");
            lock.acquire().await.expect("free").release().await.expect("held");
            drop(lock);
            self.nodes.push((node, counts));
            let after = [entries("task"), entries("fd"), heap::in_use()];
            seen.extend(names.into_iter().zip(after.iter().zip(before).map(|(a, b)| a - b)));
        }
        seen
    }

    async fn hold(&mut self, size: Size) -> Vec<(&'static str, f64)> {
        let before = [entries("task"), entries("fd"), heap::in_use()];
        let (node, _) = &self.nodes[0];
        self.locks = (0..size.keys).map(|number| node.lock(key(number)).expect("a key")).collect();
        for lock in &self.locks {
            self.guards.push(lock.acquire().await.expect("it is free"));
            // So that the renewals of all are spread evenly.
            sleep(size.slice / 3 / self.locks.len() as u32).await;
        }
        let after = [entries("task"), entries("fd"), heap::in_use()];
        let names = ["threads", "descriptors", "bytes"];
        names.into_iter().zip(after.iter().zip(before).map(|(a, b)| a - b)).collect()
    }

    /// The first node waits for each key, and then the second one does, too.
    async fn wait(&mut self, size: Size) -> Vec<(&'static str, f64)> {
        let mut bytes = vec![];
        for place in [0, 1] {
            let before = heap::in_use();
            let (node, _) = &self.nodes[place];
            for number in 0..size.keys {
                let lock = node.lock(key(number)).expect("a key");
                self.waiting.push(tokio::spawn(async move {
                    drop(lock.acquire().await);
                }));
            }
            for number in 0..size.keys {
                while node.inspect(key(number)).await.expect("it answers").queue.len() <= place {
                    let is_over = self.waiting.iter().any(JoinHandle::is_finished);
                    assert!(!is_over, "a lock was lost: the machine is too slow");
                    sleep(Duration::from_millis(1)).await;
                }
            }
            bytes.push(heap::in_use() - before);
        }
        vec![("bytes", bytes[0])]
    }
}

fn key(number: usize) -> String {
    format!("cost/{number:04}")
}

/// How many threads (`task`) or descriptors (`fd`) this process has.
fn entries(of: &str) -> f64 {
    fs::read_dir(format!("/proc/self/{of}")).expect("Linux has that").count() as f64
}
