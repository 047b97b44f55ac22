//! The lock across nodes, on real engines: what it costs beside the engine's bare round trips, and
//! beside other locks on the same engine.
//!
//! ```text
//! cargo bench --features cluster,peers,redis,etcd,postgres,engine_peers --bench engines
//! cargo bench --features ... --bench engines -- redis                  # one engine
//! cargo bench --features ... --bench engines -- etcd/uncontended       # one cell
//! ```
//!
//! It starts servers of its own on free loopback ports, with their data in folders for temporary
//! files, and ends them. An engine whose program is not installed is left out, with a line that says
//! so. All cells take about five minutes. Per engine:
//!
//! - `uncontended`: one task acquires and releases, nobody else is there; beside it `raw`, two writes
//!   of the same kind by the engine's client and nothing around them (Redis: two `EVALSHA` of a script
//!   that compares and sets; etcd: two transactions that compare the revision and put; PostgreSQL: two
//!   upserts of one row), and the peer: `rslock` with its own settings (Redis; feature
//!   `engine_peers`), etcd's own lock with a lease that is granted before (etcd), `pg_advisory_lock`
//!   and `pg_advisory_unlock` (PostgreSQL)
//! - `threads-8`: 8 threads of one process on one key; the peer has a client for each thread
//! - `processes-8`: 8 processes on one key, which acquire, release, and acquire again at once
//! - `elsewhere`: from the beginning of a release to the return of the grant in another process that
//!   waits, when the lock was held for 5 ms; beside it `notice`, from the beginning of a bare
//!   notification until a listener has it, and `two trips`, the two writes of `raw`; each of them
//!   after 5 ms of rest too, since whoever has slept is slower
//! - `waiting-4`, `waiting-32`: so many nodes with connections of their own, that acquire, hold for a
//!   millisecond, release, and acquire again at once
//!
//! The contenders of a cell take turns, so a slice of one stands beside a slice of the other. Requests
//! are the calls of the transport, counted by a layer around it.

// The engines, and what takes part on each.
#[path = "engines/engine.rs"]
mod engine;
// The cells within one process.
#[path = "engines/here.rs"]
mod here;
// The cells with several processes.
#[path = "engines/processes.rs"]
mod processes;
// What a slice shows, and the tables of it.
#[path = "engines/sample.rs"]
mod sample;
#[cfg(all(unix, any(feature = "redis", feature = "etcd", feature = "postgres")))]
#[path = "../tests/support/engines/mod.rs"]
#[allow(unused_imports, reason = "the tests do more to their servers")]
mod servers;
mod support;

use engine::{At, Engine, Running, What};
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

/// The cells of an engine, whose server need not run yet.
fn cells(options: &BenchOptions, engine: &'static dyn Engine, address: &str) -> Vec<Cell> {
    let at = At { engine, address: address.to_owned() };
    let slice = |ms: u32, quick: u32| if options.quick { quick * MS } else { ms * MS };
    let cell = |name: &str, contenders| Cell {
        engine: engine.name(),
        name: format!("{}/{name}", engine.name()),
        contenders,
    };
    // With the same for the peer, if it takes part.
    let with_peer =
        |mut contenders: Vec<Contender>, run: fn(&At, What, Duration) -> Sample, long| {
            if let Some(name) = engine.peer() {
                let at = at.clone();
                contenders.push(contender(name, move || run(&at, What::Peer, long)));
            }
            contenders
        };
    let one = |name, run: fn(&At, What, Duration) -> Sample, what, long| {
        let at = at.clone();
        contender(name, move || run(&at, what, long))
    };
    let (short, long) = (slice(200, 4), slice(1500, 60));
    let uncontended = vec![
        one("lockword", here::alone, What::Lockword, short),
        one("raw", here::alone, What::Raw, short),
    ];
    let threads = vec![one("lockword", here::threads, What::Lockword, slice(300, 4))];
    let processes = vec![one("lockword", processes::contend, What::Lockword, long)];
    let elsewhere = vec![
        one("lockword", processes::elsewhere, What::Lockword, long),
        one("notice", here::notice, What::Raw, short),
        one("two trips", here::two_trips, What::Raw, short),
    ];
    let mut cells = vec![
        cell("uncontended", with_peer(uncontended, here::alone, short)),
        cell("threads-8", with_peer(threads, here::threads, slice(300, 4))),
        cell("processes-8", with_peer(processes, processes::contend, long)),
        cell("elsewhere", elsewhere),
    ];
    for nodes in [4, 32] {
        let at = at.clone();
        let long = slice(1000, 20);
        let run = move || here::waiting(&at, nodes, long);
        cells.push(cell(&format!("waiting-{nodes}"), vec![contender("lockword", run)]));
    }
    cells
}

fn main() {
    if processes::is_child() {
        return;
    }
    let options = BenchOptions::read("engines");
    let rounds = options.rounds(ROUNDS);
    let (mut running, mut chosen): (Vec<Running>, Vec<Cell>) = (vec![], vec![]);
    for engine in engine::all() {
        let wanted = |address: &str| {
            options.select_cells(cells(&options, engine, address), |cell| cell.name.clone())
        };
        // Where only the names are asked for, there is no need of a server.
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
}
