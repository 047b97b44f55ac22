//! The lock across nodes on real engines: its cost beside the engine's bare round trips, and beside
//! other locks on the same engine.
//!
//! ```text
//! cargo bench --features cluster,peers,redis,etcd,postgres,engine_peers --bench engines
//! cargo bench --features ... --bench engines -- redis                  # one engine
//! cargo bench --features ... --bench engines -- etcd/uncontended       # one cell
//! cargo bench --features ... --bench engines -- cost                   # what a lock costs, in a minute
//! ```
//!
//! It starts servers on free loopback ports, with their data in temporary folders, and stops them. An
//! engine whose program is not installed is left out, with a line on standard error. The engine in a
//! directory needs none: `TMPDIR=/dev/shm` has it in memory. All cells take about fifteen minutes. Per engine:
//!
//! - `uncontended`: one task acquires and releases, without contention; beside it `raw`, two writes of
//!   the same kind by the engine's own client (Redis: two `EVALSHA` of a script that compares and sets;
//!   PostgreSQL: two upserts of one row) or bare calls (etcd: two transactions that compare the revision
//!   and put), and the peer: `rslock` with its own settings (Redis; feature
//!   `engine_peers`), etcd's own lock with a lease that is granted before (etcd), `pg_advisory_lock`
//!   and `pg_advisory_unlock` (PostgreSQL). A directory has no client of its own: there `raw` is a
//!   locked file under which another is read, written anew and renamed, and the peer is `flock`, which
//!   keeps no queue and nothing else
//! - `threads-8`: 8 threads of one process on one key; the peer has a client for each thread
//! - `processes-8`: 8 processes on one key, which acquire, release, and acquire again at once; `kept turn`
//!   keeps each turn for 5 ms
//! - `elsewhere`: from the beginning of a release to the return of `acquire` in another process that
//!   waits, when the lock was held for 5 ms; beside it `bound`, by bare calls: a write until another client has the
//!   register, by an event (etcd) or by a notice and a read (the others), also after 5 ms of rest, since a
//!   thread that has slept is slower
//! - `elsewhere-2s`: the same when it was held for two seconds, so that it was renewed
//! - `keys-64`: 64 tasks of one node, each of which acquires and releases a key of its own; beside it the
//!   two writes of `raw` by 64 tasks over one connection, and over eight
//! - `waiting-4`, `waiting-32`: this many nodes, each with a connection of its own, which acquire, hold
//!   for a millisecond, release, and acquire again at once
//!
//! At the end, on Linux, `cost` counts what a held lock and one that is waited for cost: bytes in the client, at
//! the server and on the wire, requests a second, threads and descriptors.
//!
//! PostgreSQL is there three times: as it is, with an unlogged table, and with commits that take two milliseconds
//! (some of the cells only).
//!
//! Where there is a contender `on runtime`, it is lockword with node and connections on the runtime of
//! the callers, and not on the thread of the process. `sealed` (feature `sealed`) is lockword over `layers::Sealed`.
//!
//! The contenders of a cell take turns, so that a slice of one is beside a slice of the other. Requests
//! are the calls of the transport, counted by a layer around it.

#[cfg(all(target_os = "linux", any(feature = "redis", feature = "etcd", feature = "postgres")))]
mod cost;
#[cfg(target_os = "linux")]
mod dir;
mod engine;
#[cfg(all(unix, feature = "etcd"))]
mod etcd;
#[cfg(all(target_os = "linux", any(feature = "redis", feature = "etcd", feature = "postgres")))]
mod heap;
mod in_process;
#[cfg(all(unix, feature = "postgres"))]
mod postgres;
mod processes;
#[cfg(all(unix, feature = "redis"))]
mod redis;
mod sample;
#[cfg(all(unix, any(feature = "redis", feature = "etcd", feature = "postgres")))]
#[path = "../../tests/support/engines/mod.rs"]
#[allow(unused_imports, reason = "the tests do more to their servers")]
mod servers;
#[path = "../support/mod.rs"]
mod support;

use engine::{At, ContenderKind, Engine, Running};
use sample::{Cell, Contender, Measured, Sample};
use std::time::Duration;
use support::options::BenchOptions;
use support::report::{self, BenchmarkSamples};

/// Rounds in full mode.
const ROUNDS: usize = 10;

const MS: Duration = Duration::from_millis(1);

fn contender(name: &'static str, run: impl Fn() -> Sample + 'static) -> Contender {
    Contender { name, run: Box::new(run) }
}

/// The cells of an engine. Its server need not run yet.
fn cells(options: &BenchOptions, engine: &'static dyn Engine, address: &str) -> Vec<Cell> {
    let at = At { engine, address: address.to_owned() };
    let slice = |ms: u32, quick: u32| if options.quick { quick * MS } else { ms * MS };
    let cell = |name: &str, contenders| Cell {
        engine: engine.name(),
        name: format!("{}/{name}", engine.name()),
        contenders,
    };
    // Adds the peer, if it is part of this build.
    let with_peer =
        |mut contenders: Vec<Contender>, run: fn(&At, ContenderKind, Duration) -> Sample, long| {
            if let Some(name) = engine.peer() {
                let at = at.clone();
                contenders.push(contender(name, move || run(&at, ContenderKind::Peer, long)));
            }
            contenders
        };
    let one = |name, run: fn(&At, ContenderKind, Duration) -> Sample, what, long| {
        let at = at.clone();
        contender(name, move || run(&at, what, long))
    };
    let (short, long) = (slice(200, 4), slice(1500, 60));
    let uncontended = vec![
        one("lockword", in_process::alone, ContenderKind::Lockword, short),
        one("on runtime", in_process::alone, ContenderKind::OnRuntime, short),
        #[cfg(feature = "sealed")]
        one("sealed", in_process::alone, ContenderKind::Sealed, short),
        one("raw", in_process::alone, ContenderKind::Raw, short),
    ];
    let threads = vec![
        one("lockword", in_process::threads, ContenderKind::Lockword, slice(300, 4)),
        one("on runtime", in_process::threads, ContenderKind::OnRuntime, slice(300, 4)),
    ];
    let processes = vec![
        one("lockword", processes::contend, ContenderKind::Lockword, long),
        one("no place", processes::contend, ContenderKind::NoPlace, long),
        one("kept turn", processes::contend, ContenderKind::KeptTurn, long),
    ];
    let elsewhere = |at: &At, what, long| processes::elsewhere(at, what, processes::REST, long);
    // An idle processor is slow at first, so the bound rests as long as the lock is held.
    let bound = |rest: Duration, long| {
        let at = at.clone();
        contender("bound", move || in_process::bound(&at, rest, long))
    };
    let elsewhere = vec![
        one("lockword", elsewhere, ContenderKind::Lockword, long),
        bound(processes::REST, short),
        one("on runtime", elsewhere, ContenderKind::OnRuntime, long),
    ];
    let quick = options.quick;
    let hold = if quick { 20 * MS } else { 2000 * MS };
    let two_seconds = {
        let at = at.clone();
        move || processes::elsewhere(&at, ContenderKind::Lockword, hold, hold * 5 / 2)
    };
    let elsewhere_long = vec![contender("lockword", two_seconds), bound(hold, hold * 5 / 2)];
    let keys = |name, what, connections, long| {
        let at = at.clone();
        contender(name, move || in_process::keys(&at, what, connections, long))
    };
    let keys = vec![
        keys("lockword", ContenderKind::Lockword, 1, slice(500, 10)),
        keys("on runtime", ContenderKind::OnRuntime, 1, slice(500, 10)),
        keys("raw", ContenderKind::Raw, 1, slice(500, 10)),
        keys("raw over 8", ContenderKind::Raw, 8, slice(500, 10)),
    ];
    let mut cells = vec![
        cell("uncontended", with_peer(uncontended, in_process::alone, short)),
        cell("threads-8", with_peer(threads, in_process::threads, slice(300, 4))),
        cell("processes-8", with_peer(processes, processes::contend, long)),
        cell("elsewhere", elsewhere),
        cell("elsewhere-2s", elsewhere_long),
        cell("keys-64", keys),
    ];
    for nodes in [4, 32] {
        let at = at.clone();
        let long = slice(1000, 20);
        let run = move || in_process::waiting(&at, nodes, long);
        cells.push(cell(&format!("waiting-{nodes}"), vec![contender("lockword", run)]));
    }
    cells.retain(|cell| {
        cell.name.strip_prefix(engine.name()).is_some_and(|name| engine.has(&name[1..]))
    });
    cells
}

fn main() {
    if processes::is_child() {
        return;
    }
    #[cfg(all(
        target_os = "linux",
        any(feature = "redis", feature = "etcd", feature = "postgres")
    ))]
    if cost::is_client() {
        return;
    }
    let options = BenchOptions::read("engines");
    let rounds = options.rounds(ROUNDS);
    let (mut running, mut chosen): (Vec<Running>, Vec<Cell>) = (vec![], vec![]);
    for engine in engine::all() {
        let wanted = |address: &str| {
            options.select_cells(cells(&options, engine, address), |cell| cell.name.clone())
        };
        // To list the names no server is needed.
        if rounds == 0 || wanted("").is_empty() {
            chosen.extend(wanted(""));
            continue;
        }
        let Some(server) = engine.start() else {
            eprintln!("{} is left out: its server is not installed here", engine.name());
            continue;
        };
        chosen.extend(wanted(&server.address));
        running.push(server);
    }
    if engine::all().is_empty() {
        println!("no engine is part of this build: enable the features redis, etcd or postgres");
    }
    let none = |cell: Cell| {
        let samples = cell.contenders.iter().map(|_| vec![]).collect();
        (cell, samples)
    };
    let mut measured: Measured = chosen.into_iter().map(none).collect();
    for round in 0..rounds {
        for (cell, samples) in &mut measured {
            options.progress(round, rounds);
            for turn in lockword::contention::rotation(round, cell.contenders.len()) {
                samples[turn].push((cell.contenders[turn].run)());
            }
        }
    }
    drop(running);
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
    if rounds > 0 && !measured.is_empty() {
        sample::print(&options, rounds, &measured);
    }
    #[cfg(all(
        target_os = "linux",
        any(feature = "redis", feature = "etcd", feature = "postgres")
    ))]
    if rounds > 0 {
        cost::report(&options);
    }
}
