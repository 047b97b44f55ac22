//! The lock across nodes, over the embedded transport: what the protocol itself costs.
//!
//! ```text
//! cargo bench --features cluster,peers --bench cluster              # all cells, about a minute
//! cargo bench --features cluster,peers --bench cluster -- nodes-8   # one of them
//! ```
//!
//! - `uncontended`: one task acquires and releases the lock, and there is no other; beside it `raw`,
//!   the same two writes on the transport itself
//! - `local-8`: 8 threads of one node on one key, over a transport with 0.5 ms of latency; beside it
//!   the same without local handoffs (`no-handoff`), and `tokio::sync::Mutex` (`tokio`), an
//!   in-process lock with one queue for tasks and threads, without lease and token
//! - `nodes-N`: N nodes, with one task each, which acquires the lock, holds it for a millisecond,
//!   releases it, and acquires it again at once; beside it the same with faults (`faulty`: 2 % of the
//!   requests and 2 % of the responses are lost, delays up to 0.2 ms), and without faults and without
//!   holding the lock for any time (`tight`)
//! - `handoff-elsewhere`: from a release to the grant at another node, which waits
//! - `scale`: 10 to 1,000 nodes on one key (`scale-N`: N of them), and `scale-keys`: 1,000 nodes that hold 100 keys
//!   each, both in virtual time. They run only if they are asked for, and briefly in quick mode; `scale` takes minutes
//!
//! The contenders of a cell run in alternating slices. A layer around the transport counts requests and
//! writes.

#[path = "cluster/nodes.rs"]
mod nodes;
#[path = "cluster/scale.rs"]
mod scale;
mod support;

use lockword::cluster::layers::{Counts, Faulty, Intercept, Operations, Plan};
use lockword::cluster::{Key, Memory, Node, Transport, Wake, Write};
use lockword::contention::{MachineInfo, statistics};
use nodes::nodes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::options::BenchOptions;
use support::report::{self, BenchmarkSamples};
use support::table::{self, TextTable};
use tokio::runtime::Runtime;

/// Rounds in full mode.
const ROUNDS: usize = 15;

/// The latency of a request where there is one.
const LATENCY: Duration = Duration::from_micros(500);

const THREADS: usize = 8;

/// The result of one slice of one contender.
struct Sample {
    ns: f64,
    /// The requests for each acquisition, and the writes among them that were applied.
    requests: f64,
    writes: f64,
    /// The part of the grants that passed over a node which was first in the queue.
    out_of_turn: f64,
    /// The fewest grants of any node over the most grants of any node.
    evenness: f64,
}

impl Sample {
    fn new(elapsed: Duration, acquisitions: u64, operations: Operations) -> Self {
        let per = |count: u64| count as f64 / acquisitions as f64;
        Sample {
            ns: elapsed.as_nanos() as f64 / acquisitions as f64,
            requests: per(operations.total()),
            writes: per(operations.swaps),
            out_of_turn: 0.0,
            evenness: 1.0,
        }
    }
}

/// A contender of a cell: its name, and the function that runs one slice of it.
struct Contender {
    name: &'static str,
    run: Box<dyn Fn(Duration) -> Sample>,
}

struct Cell {
    name: String,
    contenders: Vec<Contender>,
}

fn contender(name: &'static str, run: impl Fn(Duration) -> Sample + 'static) -> Contender {
    Contender { name, run: Box::new(run) }
}

fn runtime(threads: usize) -> Runtime {
    match threads {
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        n => tokio::runtime::Builder::new_multi_thread().worker_threads(n).enable_all().build(),
    }
    .expect("a runtime")
}

fn counted(transport: impl Transport) -> (Arc<dyn Transport>, Counts) {
    let counts = Counts::default();
    (Arc::new(Intercept::new(transport, counts.clone())), counts)
}

fn uncontended(slice: Duration) -> Sample {
    runtime(1).block_on(async {
        let (transport, counts) = counted(Memory::new());
        let node = Node::builder(transport).build().expect("a node");
        let lock = node.lock("bench").expect("a key");
        let pair = async || lock.acquire().await.expect("free").release().await.expect("held");
        for _ in 0..10 {
            pair().await;
        }
        counts.take();
        let (start, mut done) = (Instant::now(), 0);
        while start.elapsed() < slice {
            pair().await;
            done += 1;
        }
        Sample::new(start.elapsed(), done, counts.take())
    })
}

/// The two writes of an acquisition and release, with values of the same size, and nothing else.
fn raw(slice: Duration) -> Sample {
    runtime(1).block_on(async {
        let (transport, counts) = counted(Memory::new());
        let key = Key::new("bench").expect("a key");
        let held = Write { value: vec![0; 150].into(), wake: Wake::Nobody, idle: false };
        let free = Write { value: vec![0; 40].into(), wake: Wake::Nobody, idle: true };
        let (mut version, mut done) = (None, 0);
        let start = Instant::now();
        while start.elapsed() < slice {
            for write in [&held, &free] {
                let response = transport.compare_exchange(&key, version, write.clone()).await;
                let Ok(lockword::cluster::Exchange::Swapped(new)) = response else {
                    panic!("nobody else writes: {response:?}")
                };
                version = Some(new);
            }
            done += 1;
        }
        Sample::new(start.elapsed(), done, counts.take())
    })
}

/// Threads that call `section` until the slice is over. Returns how long that took, and the number of
/// calls.
fn threads(slice: Duration, section: impl Fn() + Sync) -> (Duration, u64) {
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let done = thread::scope(|scope| {
        let worker = || {
            let mut done = 0;
            while !stop.load(Ordering::Relaxed) {
                section();
                done += 1;
            }
            done
        };
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        thread::sleep(slice);
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
    });
    (start.elapsed(), done)
}

fn local(slice: Duration, local_handoffs: Option<u32>) -> Sample {
    let (transport, counts) = counted(Faulty::delayed(Memory::new(), LATENCY));
    let mut builder = Node::builder(transport);
    if let Some(local_handoffs) = local_handoffs {
        builder = builder.local_handoffs(local_handoffs);
    }
    let node = builder.build().expect("a node");
    let lock = node.blocking().lock("bench").expect("a key");
    // The first acquisition waits for the start of the node's thread: it is not measured.
    drop(lock.acquire().expect("free"));
    counts.take();
    let (elapsed, done) = threads(slice, || drop(lock.acquire().expect("it is granted")));
    Sample::new(elapsed, done, counts.take())
}

fn tokio_mutex(slice: Duration) -> Sample {
    let lock = tokio::sync::Mutex::new(());
    let (elapsed, done) = threads(slice, || drop(lock.blocking_lock()));
    Sample::new(elapsed, done, Operations::default())
}

/// Two nodes take turns. Measures the time from the release by one to the grant to the other.
fn grant_elsewhere(slice: Duration) -> Sample {
    let runtime = runtime(2);
    runtime.block_on(async {
        let (transport, counts) = counted(Memory::new());
        let ends: Vec<_> =
            (0..2).map(|_| Node::builder(transport.clone()).build().expect("a node")).collect();
        let locks: Vec<_> = ends.iter().map(|n| n.lock("bench").expect("a key")).collect();
        let start = Instant::now();
        let (mut waited, mut done) = (Duration::ZERO, 0);
        let mut guard = locks[0].acquire().await.expect("free");
        while start.elapsed() < slice {
            let other = locks[(done as usize + 1) % 2].clone();
            let waiter = tokio::spawn(async move {
                let guard = other.acquire().await.expect("it is granted");
                (guard, Instant::now())
            });
            while ends[0].inspect("bench").await.expect("memory").queue.is_empty() {
                tokio::task::yield_now().await;
            }
            let released = Instant::now();
            drop(guard);
            let (next, granted) = waiter.await.expect("no panic");
            waited += granted - released;
            (guard, done) = (next, done + 1);
        }
        Sample::new(waited, done, counts.take())
    })
}

fn cells() -> Vec<Cell> {
    let faulty = Plan {
        delay: Duration::ZERO..=Duration::from_micros(200),
        lose_request: 0.02,
        lose_response: 0.02,
        timeout: Duration::from_millis(20),
        ..Plan::default()
    };
    let mut cells = vec![
        Cell {
            name: "uncontended".into(),
            contenders: vec![contender("lockword", uncontended), contender("raw", raw)],
        },
        Cell {
            name: format!("local-{THREADS}"),
            contenders: vec![
                contender("lockword", |slice| local(slice, None)),
                contender("no-handoff", |slice| local(slice, Some(0))),
                contender("tokio", tokio_mutex),
            ],
        },
        Cell {
            name: "handoff-elsewhere".into(),
            contenders: vec![contender("lockword", grant_elsewhere)],
        },
    ];
    for count in [2, 4, 8, 16, 32] {
        let plan = faulty.clone();
        let ms = Duration::from_millis(1);
        cells.push(Cell {
            name: format!("nodes-{count}"),
            contenders: vec![
                contender("lockword", move |slice| nodes(3 * slice, count, ms, None)),
                contender("faulty", move |slice| nodes(3 * slice, count, ms, Some(&plan))),
                contender("tight", move |slice| nodes(slice, count, Duration::ZERO, None)),
            ],
        });
    }
    cells
}

type Measured = Vec<(Cell, Vec<Vec<Sample>>)>;

fn main() {
    let options = BenchOptions::read("cluster");
    if scale::run(&options) {
        return;
    }
    let rounds = options.rounds(ROUNDS);
    let mut measured: Measured = options
        .select_cells(cells(), |cell| cell.name.clone())
        .into_iter()
        .map(|cell| {
            let none = cell.contenders.iter().map(|_| Vec::new()).collect();
            (cell, none)
        })
        .collect();
    for round in 0..rounds {
        options.progress(round, rounds);
        for (cell, samples) in &mut measured {
            for (contender, samples) in cell.contenders.iter().zip(samples) {
                samples.push((contender.run)(options.slice(Duration::from_millis(150))));
            }
        }
    }
    let mut lines = Vec::new();
    for (cell, samples) in &measured {
        for (contender, samples) in cell.contenders.iter().zip(samples) {
            let ns = samples.iter().map(|sample| sample.ns).collect();
            lines.push(BenchmarkSamples {
                cell: cell.name.clone(),
                lock: contender.name.into(),
                ns,
            });
        }
    }
    report::publish(&options, &lines);
    if !options.list {
        print(&options, &measured);
    }
}

fn medians(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> statistics::Median {
    statistics::median(&samples.iter().map(of).collect::<Vec<_>>())
}

fn print(options: &BenchOptions, measured: &Measured) {
    println!("\nThe lock across nodes, over memory");
    println!("{}; {} rounds\n", MachineInfo::read(), options.rounds(ROUNDS));
    let heads =
        ["cell", "", "time", "95 % CI", "requests", "writes", "out of turn", "even", "times"];
    let mut rows = TextTable::new(2, &heads);
    for (cell, samples) in measured {
        let first: Vec<f64> = samples[0].iter().map(|sample| sample.ns).collect();
        for (contender, samples) in cell.contenders.iter().zip(samples) {
            let ns = medians(samples, |sample| sample.ns);
            let own: Vec<f64> = samples.iter().map(|sample| sample.ns).collect();
            rows.row(vec![
                cell.name.clone(),
                contender.name.to_owned(),
                table::time(ns.mid),
                format!("[{}, {}]", table::time(ns.low), table::time(ns.high)),
                table::figure(medians(samples, |sample| sample.requests).mid),
                table::figure(medians(samples, |sample| sample.writes).mid),
                format!("{:.2} %", 100.0 * medians(samples, |sample| sample.out_of_turn).mid),
                table::figure(medians(samples, |sample| sample.evenness).mid),
                table::ratio(&statistics::paired_ratio(&own, &first)),
            ]);
        }
        rows.gap();
    }
    rows.print();
    println!(
        "Time, requests and writes are for an acquisition (in handoff-elsewhere the time from a"
    );
    println!(
        "release to the next grant). Out of turn: grants that passed over the first in the queue."
    );
    println!(
        "Even: the fewest grants of a node over the most. Times: the time over that of the first line."
    );

    let find = |name: &str| measured.iter().find(|(cell, _)| cell.name == name);
    let quick = options.quick;
    let value = |name: &str, of: fn(&Sample) -> f64| {
        find(name).map(|(_, samples)| medians(&samples[0], of).mid)
    };
    println!("\nTargets:");
    let requests = value("uncontended", |sample| sample.requests);
    table::verdict(quick, "uncontended: 2 requests", requests, |v| v == 2.0);
    let local = format!("local-{THREADS}");
    let requests = value(&local, |sample| sample.requests);
    table::verdict(quick, "8 threads of a node: under 0.05 requests", requests, |v| v < 0.05);
    let gain = find(&local).map(|(_, samples)| {
        let ns = |of: &[Sample]| of.iter().map(|sample| sample.ns).collect::<Vec<_>>();
        statistics::paired_ratio(&ns(&samples[1]), &ns(&samples[0])).mid
    });
    let target = "8 threads of a node: 100 times the throughput without local handoffs";
    table::verdict(quick, target, gain, |v| v >= 100.0);
    for count in [2, 4, 8, 16, 32] {
        let name = format!("nodes-{count}");
        let writes = value(&name, |sample| sample.writes);
        let target = format!("{count} nodes: at most 3 writes");
        // A slice ends in the middle of a grant, so a little more is allowed.
        table::verdict(quick, &target, writes, |v| v <= 3.005);
        let turns = value(&name, |sample| sample.out_of_turn);
        table::verdict(quick, &format!("{count} nodes: in turn"), turns, |v| v == 0.0);
    }
}
