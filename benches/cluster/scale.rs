//! Many nodes and many keys in virtual time: the nodes and their drivers are the real ones, and the engine is in
//! memory at a distance. So the figures are of the protocol, and do not depend on the machine.

use super::support::options::BenchOptions;
use super::support::table::{TextTable, figure};
use fastrand::Rng;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use lockword::cluster::{
    Capabilities, Exchange, Key, Memory, Node, NodeId, Notices, Transport, TransportError, Version,
    Versioned, Wake, Wakeups, Watch, Write, async_trait,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, Sleep, sleep};

/// The numbers of nodes on one key.
const COUNTS: [usize; 5] = [10, 32, 100, 320, 1000];

/// From a request to its response, on average: each way takes from 8 to 12 ms. Without that, nodes would meet in lockstep.
/// (Tokio's timers count milliseconds.)
const ROUND_TRIP: Duration = Duration::from_millis(20);
const LEASE: Duration = Duration::from_secs(10);

/// How the engine wakes.
#[derive(Clone, Copy, PartialEq)]
enum Wakes {
    /// All, with the register: etcd.
    All,
    /// One, by a hint: Redis, PostgreSQL.
    One,
}

#[derive(Clone, Copy, Default)]
struct Figures {
    loads: u64,
    writes: u64,
    swaps: u64,
    watches: u64,
    bytes: u64,
    largest: usize,
}

impl Figures {
    fn requests(&self) -> u64 {
        self.loads + self.writes + self.watches
    }
}

type Watchers = HashMap<Key, Vec<(NodeId, UnboundedSender<()>)>>;

/// An engine in memory at a distance, which counts. A clone is the same engine.
#[derive(Clone)]
struct Distant {
    memory: Memory,
    wakes: Wakes,
    figures: Arc<Mutex<Figures>>,
    watchers: Arc<Mutex<Watchers>>,
    random: Arc<Mutex<Rng>>,
}

impl Distant {
    fn new(wakes: Wakes) -> Self {
        let (figures, watchers) = Default::default();
        let random = Arc::new(Mutex::new(Rng::with_seed(1)));
        Self { memory: Memory::new(), wakes, figures, watchers, random }
    }

    fn count(&self, count: impl FnOnce(&mut Figures)) {
        count(&mut self.figures.lock().expect("no panic"));
    }

    /// The figures since the last call.
    fn take(&self) -> Figures {
        std::mem::take(&mut self.figures.lock().expect("no panic"))
    }

    /// To the engine, or back.
    fn one_way(&self) -> Sleep {
        let ms = self.random.lock().expect("no panic").u64(8..=12);
        sleep(Duration::from_millis(ms))
    }

    fn notify(&self, key: &Key, wake: Wake) {
        let mut watchers = self.watchers.lock().expect("no panic");
        let Some(of_key) = watchers.get_mut(key) else { return };
        of_key.retain(|(node, sender)| match wake {
            Wake::Nobody => true,
            Wake::Node(woken) if woken != *node => true,
            _ => sender.send(()).is_ok(),
        });
    }
}

#[async_trait]
impl Transport for Distant {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.count(|figures| figures.loads += 1);
        self.one_way().await;
        let found = self.memory.load(key).await;
        self.one_way().await;
        found
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let (bytes, wake) = (new.value.len(), new.wake);
        self.count(|figures| figures.writes += 1);
        self.one_way().await;
        let done = self.memory.compare_exchange(key, expected, new).await;
        if let Ok(Exchange::Swapped(_)) = done {
            self.count(|figures| {
                figures.swaps += 1;
                figures.bytes += bytes as u64;
                figures.largest = figures.largest.max(bytes);
            });
            self.notify(key, wake);
        }
        self.one_way().await;
        done
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        self.count(|figures| figures.watches += 1);
        self.one_way().await;
        let watch: Watch = match self.wakes {
            Wakes::All => self.memory.watch(key, node).await?,
            Wakes::One => {
                let (sender, receiver) = unbounded_channel();
                let mut watchers = self.watchers.lock().expect("no panic");
                let of_key = watchers.entry(key.clone()).or_default();
                of_key.retain(|(_, sender)| !sender.is_closed());
                of_key.push((node, sender));
                let next = async |mut receiver: UnboundedReceiver<()>| {
                    receiver.recv().await?;
                    Some((Ok(None), receiver))
                };
                Box::pin(stream::unfold(receiver, next))
            }
        };
        self.one_way().await;
        let engine = self.clone();
        let late = move |item| {
            let way = engine.one_way();
            async {
                way.await;
                item
            }
        };
        Ok(Box::pin(watch.map(late).buffered(1000)))
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new("distant");
        (capabilities.wakeups, capabilities.notices) = match self.wakes {
            Wakes::All => (Wakeups::PushToAll, Notices::Answers),
            Wakes::One => (Wakeups::PushToOne, Notices::Hints),
        };
        capabilities
    }
}

fn in_virtual_time<T>(run: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime");
    runtime.block_on(run)
}

fn nodes(engine: &Distant, count: usize) -> Vec<Node> {
    let node = |number| {
        let node = Node::builder(engine.clone()).lease(LEASE).label("node");
        node.seed(number as u64 + 1).tokio_clock().build()
    };
    (0..count).map(|number| node(number).expect("a node")).collect()
}

/// What a grant costs where each node wants the lock again at once.
struct Turns {
    grants: u64,
    figures: Figures,
    /// From a release to the next grant, in round trips.
    between: f64,
    /// The most grants of any node.
    most: u64,
}

/// `count` nodes take turns on one key, and hold it for `hold` each.
async fn turns(wakes: Wakes, count: usize, hold: Duration, grants: u64) -> Turns {
    let engine = Distant::new(wakes);
    let nodes = nodes(&engine, count);
    let granted = Arc::new(Mutex::new(vec![0_u64; count]));
    let sum = || granted.lock().expect("no panic").iter().sum::<u64>();
    let work = |(number, node): (usize, &Node)| {
        let (lock, granted) = (node.lock("bench").expect("a key"), granted.clone());
        tokio::spawn(async move {
            loop {
                let guard = lock.acquire().await.expect("it is granted");
                granted.lock().expect("no panic")[number] += 1;
                sleep(hold).await;
                guard.release().await.expect("it was held");
            }
        })
    };
    let workers: Vec<_> = nodes.iter().enumerate().map(work).collect();
    let until = async |grants: u64| {
        while sum() < grants {
            sleep(ROUND_TRIP).await;
        }
    };
    // The start is not measured.
    until(2 * count.min(100) as u64).await;
    granted.lock().expect("no panic").fill(0);
    engine.take();
    let start = Instant::now();
    until(grants).await;
    let (elapsed, figures) = (start.elapsed(), engine.take());
    workers.iter().for_each(tokio::task::JoinHandle::abort);
    let granted = granted.lock().expect("no panic").clone();
    let grants: u64 = granted.iter().sum();
    let free = elapsed.as_secs_f64() / grants as f64 - hold.as_secs_f64();
    let between = free / ROUND_TRIP.as_secs_f64();
    Turns { grants, figures, between, most: granted.into_iter().max().unwrap_or(0) }
}

/// The requests while one node holds the lock and `count - 1` wait for it.
async fn waiting(wakes: Wakes, count: usize, time: Duration) -> Figures {
    let engine = Distant::new(wakes);
    let nodes = nodes(&engine, count);
    let _guard = nodes[0].lock("bench").expect("a key").acquire().await.expect("free");
    let wait = |node: &Node| {
        let lock = node.lock("bench").expect("a key");
        tokio::spawn(async move { lock.acquire().await.map(drop) })
    };
    let waiters: Vec<_> = nodes[1..].iter().map(wait).collect();
    sleep(LEASE * 3).await;
    engine.take();
    sleep(time).await;
    let figures = engine.take();
    waiters.iter().for_each(tokio::task::JoinHandle::abort);
    figures
}

/// Runs the cells that are asked for, and all of them briefly in quick mode. Returns whether one was asked for.
pub fn run(options: &BenchOptions) -> bool {
    let is_smoke = |name: &str| {
        let selected = options.select_cells(vec![name], |name| (*name).to_owned());
        options.quick && !selected.is_empty()
    };
    let counts = COUNTS.into_iter().filter(|count| options.asks_for(&format!("scale-{count}")));
    let counts: Vec<_> = counts.collect();
    let (all, keys) = (options.asks_for("scale"), options.asks_for("scale-keys"));
    if options.list {
        // They are no benchmarks of criterion's.
    } else if !counts.is_empty() {
        one_key(options, &counts);
    } else if all && !options.quick {
        one_key(options, &COUNTS);
    } else if all || is_smoke("scale") {
        one_key(options, &COUNTS[..2]);
    }
    if !options.list && (keys || is_smoke("scale-keys")) {
        many_keys(options);
    }
    all || keys || !counts.is_empty()
}

/// One key.
fn one_key(options: &BenchOptions, counts: &[usize]) {
    let (grants, time) = if options.quick { (50, LEASE) } else { (200, LEASE * 6) };
    println!(
        "\nMany nodes on one key, in virtual time; a round trip takes {ROUND_TRIP:?}, a lease {LEASE:?}\n"
    );
    let heads = [
        "nodes",
        "wakes",
        "held for",
        "requests",
        "writes",
        "loads",
        "round trips",
        "most",
        "register",
        "waiting",
    ];
    let mut rows = TextTable::new(3, &heads);
    for &count in counts {
        for (wakes, name) in [(Wakes::All, "all"), (Wakes::One, "one")] {
            let waiting = in_virtual_time(waiting(wakes, count, time));
            for round_trips in [0, 10] {
                let turns = turns(wakes, count, ROUND_TRIP * round_trips, grants);
                let Turns { grants, figures, between, most } = in_virtual_time(turns);
                let each = |count: u64| figure(count as f64 / grants as f64);
                rows.row(vec![
                    count.to_string(),
                    name.to_owned(),
                    round_trips.to_string(),
                    each(figures.requests()),
                    each(figures.writes),
                    each(figures.loads),
                    figure(between),
                    most.to_string(),
                    figures.largest.to_string(),
                    figure(waiting.requests() as f64 / time.as_secs_f64()),
                ]);
            }
        }
        rows.gap();
    }
    rows.print();
    println!(
        "Held for: in round trips. Requests, writes (tried) and loads are for a grant; round trips are from a"
    );
    println!(
        "release to the next grant. Most: the most grants of any node, of {grants}. Register: the largest value,"
    );
    println!(
        "in bytes. Waiting: the requests a second while one node holds the lock, and all others wait."
    );
}

/// Bytes of memory that the process uses, where the system says so.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Many keys, each of which one node holds.
fn many_keys(options: &BenchOptions) {
    let (count, keys) = if options.quick { (10, 100) } else { (1000, 100) };
    let time = LEASE * 3;
    println!("\n{count} nodes hold {keys} keys each, in virtual time; a lease is {LEASE:?}\n");
    let heads = ["wakes", "to acquire", "renewals/s", "requests/s", "a key", "register", "memory"];
    let mut rows = TextTable::new(1, &heads);
    for (wakes, name) in [(Wakes::All, "all"), (Wakes::One, "one")] {
        let before = resident();
        let (acquired, held, after) = in_virtual_time(async {
            let engine = Distant::new(wakes);
            let nodes = nodes(&engine, count);
            let acquire = |(number, node): (usize, &Node)| {
                let locks = (0..keys).map(|key| node.lock(format!("{number}/{key}")));
                let locks: Vec<_> = locks.map(|lock| lock.expect("a key")).collect();
                async move { join_all(locks.iter().map(|lock| lock.acquire())).await }
            };
            let guards = join_all(nodes.iter().enumerate().map(acquire)).await;
            let acquired = engine.take();
            sleep(time).await;
            let (held, after) = (engine.take(), resident());
            let valid = guards
                .iter()
                .flatten()
                .filter(|guard| guard.as_ref().is_ok_and(|guard| guard.is_valid()));
            assert_eq!(valid.count(), count * keys, "all are held");
            (acquired, held, after)
        });
        let all = (count * keys) as f64;
        let second = |count: u64| count as f64 / time.as_secs_f64();
        let memory = after.zip(before).map(|(after, before)| after.saturating_sub(before) as f64);
        rows.row(vec![
            name.to_owned(),
            figure(acquired.requests() as f64 / all),
            figure(second(held.swaps)),
            figure(second(held.requests())),
            figure(second(held.requests()) / all),
            figure(held.bytes as f64 / held.swaps.max(1) as f64),
            memory.map_or_else(|| "?".to_owned(), |memory| figure(memory / all)),
        ]);
    }
    rows.print();
    println!(
        "To acquire: requests for each key. A key: requests a second for each held key. Register: bytes of a"
    );
    println!(
        "renewal. Memory: bytes of this process for each key, of the nodes, the guards and the engine in memory"
    );
    println!("together (of the second line what is over the first).");
}
