//! One run: the processes, the faults, and the end.

use super::CHILD;
use super::faults::{FAULTS, Fault, LANES, Lane, clock, is_selected};
use super::record::{self, End, Line, Log, now};
use super::rules::{RULES, Setting, Violation, check};
use super::support::namespace::Namespace;
use super::support::process::{Folder, ServerProcess};
use super::support::relay::{Loss, Relay};
use super::target::{Forger, Forgery, Target};
use super::worker::{FINISH, LAST_KEY, LEAVE, PLAN, Plan, epoch, keys};
use fastrand::Rng;
use lockword::cluster::{Node, connect};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How many processes there are at a time.
const PROCESSES: usize = 5;
/// How long anything may take after the faults have ended.
const LIMIT: Duration = Duration::from_secs(90);

/// Runs the processes over this engine, and checks their history.
pub fn run<T: Target>() {
    let runtime = Runtime::new().expect("threads can be started");
    let Some(target) = T::start(&runtime) else { return };
    let seconds = number("LOCKWORD_CHAOS_SECS", 10);
    let seed = number("LOCKWORD_CHAOS_SEED", fastrand::u64(..1 << 32));
    let path = format!("lockword-chaos-{}-{seed}-{}.jsonl", T::NAME, std::process::id());
    let path = std::env::temp_dir().join(path).to_str().expect("the path is text").to_owned();
    println!("chaos over {}: seed {seed}, {seconds} s, history {path}", T::NAME);
    let chaos = Chaos::new(&target, seed, &path);
    chaos.strike(Duration::from_secs(seconds));
    chaos.finish(&runtime);
    let found = std::mem::take(&mut *chaos.trouble.lock().unwrap());
    drop(chaos);

    let grants = judge(&path, found);
    assert!(grants as u64 > seconds, "only {grants} grants: too few to say anything");
    if std::env::var_os("LOCKWORD_CHAOS_KEEP").is_none() {
        let _ = std::fs::remove_file(&path);
    }
}

/// Checks the history at `path`. `found`: the violations that were seen before. Returns the number of
/// grants.
///
/// Panics if a rule is violated.
pub fn judge(path: &str, mut found: Vec<Violation>) -> usize {
    let (lines, torn) = record::read(path);
    println!("{}", summary(&lines));
    let names: Vec<&str> = RULES.iter().map(|(name, ..)| *name).collect();
    let is_on = |name: &str, on| is_selected("LOCKWORD_CHAOS_RULES", &names, name, on);
    let setting = Setting { lease: lease().as_nanos() as u64 };
    found.extend(check(&lines, setting, is_on));
    let is_kill = |line: &&Line| matches!(line, Line::Fault { name, .. } if name == "kill");
    if torn > lines.iter().filter(is_kill).count() {
        found.push(Violation { rule: "run", what: format!("{torn} lines are torn") });
    }
    let Some(Line::Run { engine, seed, .. }) = lines.first() else { panic!("{path}: no history") };
    if found.is_empty() {
        return lines.iter().filter(|line| matches!(line, Line::Granted { .. })).count();
    }
    let mut texts = String::new();
    for (number, Violation { rule, what }) in found.iter().enumerate() {
        match number {
            0..5 => texts += &format!("\n\n{rule}: {what}"),
            5 => texts += &format!("\n\n.. and {} more", found.len() - 5),
            _ => {}
        }
    }
    panic!(
        "chaos over {engine} broke a rule. LOCKWORD_CHAOS_SEED={seed} has the same faults again; \
         the history is {path}.{texts}"
    );
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// The lease of all nodes.
fn lease() -> Duration {
    Duration::from_millis(number("LOCKWORD_CHAOS_LEASE_MS", 1_500))
}

/// What happened, for people.
fn summary(lines: &[Line]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut count = |what: String| *counts.entry(what).or_default() += 1;
    for line in lines {
        match line {
            Line::Fault { name, .. } => count(format!("fault {name}")),
            Line::Granted { via, .. } => count(format!("granted by {via}")),
            Line::Valid { .. } => count("checks".to_owned()),
            Line::Ended { how: End::Lost { why, .. }, .. } => count(format!("lost {why:?}")),
            Line::Ended { how, .. } => count(format!("ended {how:?}")),
            Line::Invoked { .. } => count("requests".to_owned()),
            Line::Stall { .. } => count("stalls".to_owned()),
            _ => {}
        }
    }
    let counts: Vec<String> = counts.iter().map(|(what, n)| format!("{n} {what}")).collect();
    counts.join(", ")
}

/// A run that goes on.
struct Chaos<'a, T> {
    target: &'a T,
    seed: u64,
    path: String,
    log: Log,
    slots: Vec<Slot>,
    /// How many processes were started so far.
    processes: AtomicU32,
    trouble: Mutex<Vec<Violation>>,
    is_over: Mutex<bool>,
    over: Condvar,
    folder: Folder,
}

/// The place of a process, and its way to the engine.
struct Slot {
    relays: Vec<Relay>,
    address: String,
    worker: Mutex<Option<Worker>>,
}

/// A process.
struct Worker {
    number: u32,
    child: Child,
    to: ChildStdin,
    output: String,
}

impl Worker {
    fn say(&mut self, word: &str) {
        // If it has ended, that is seen by its status.
        let _ = writeln!(self.to, "{word}");
    }

    fn signal(&self, number: i32) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: a signal to a child of ours that was not waited for yet.
        unsafe { libc::kill(id, number) };
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    /// The end of what it has said.
    fn said(&self) -> String {
        let text = std::fs::read(&self.output).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a, T: Target> Chaos<'a, T> {
    fn new(target: &'a T, seed: u64, path: &str) -> Self {
        let slots = (0..PROCESSES).map(|_| {
            let relays: Vec<Relay> =
                target.servers().into_iter().map(|(_, port)| Relay::new(port)).collect();
            let ports: Vec<u16> = relays.iter().map(Relay::port).collect();
            Slot { relays, address: target.address(&ports), worker: Mutex::default() }
        });
        let chaos = Self {
            target,
            seed,
            path: path.to_owned(),
            log: Log::open(path),
            slots: slots.collect(),
            processes: AtomicU32::new(0),
            trouble: Mutex::default(),
            is_over: Mutex::default(),
            over: Condvar::new(),
            folder: Folder::new("chaos"),
        };
        let faults = chaos.faults(|_| true).into_iter().map(|(_, name)| name.to_owned());
        let (engine, faults) = (T::NAME.to_owned(), faults.collect());
        chaos.log.write(&Line::Run { engine, seed, faults, at: now() });
        for slot in &chaos.slots {
            chaos.start(slot);
        }
        chaos
    }

    /// The faults of these lanes that are on.
    fn faults(&self, of: impl Fn(Lane) -> bool) -> Vec<(Fault, &'static str)> {
        let names: Vec<&str> = FAULTS.iter().map(|(_, name, ..)| *name).collect();
        let is_on = |name, on| is_selected("LOCKWORD_CHAOS_FAULTS", &names, name, on);
        let on = FAULTS.iter().filter(|(_, name, lane, on)| of(*lane) && is_on(name, *on));
        on.map(|(fault, name, ..)| (*fault, *name)).collect()
    }

    fn trouble(&self, rule: &'static str, what: String) {
        self.trouble.lock().unwrap().push(Violation { rule, what });
    }

    /// Starts a process.
    fn start(&self, slot: &Slot) {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        let plan = Plan {
            process: number,
            address: slot.address.clone(),
            log: self.path.clone(),
            seed: self.seed,
            lease_ms: lease().as_millis() as u64,
        };
        let output = self.folder.file(&format!("{number}"));
        let said = File::create(&output).expect("a file of ours");
        let exe = std::env::current_exe().expect("the path of this binary");
        let mut command = Command::new(exe);
        command
            .args(["--exact", CHILD, "--nocapture", "--test-threads=1"])
            .env(PLAN, serde_json::to_string(&plan).expect("a plan is JSON"))
            .stdin(Stdio::piped())
            .stdout(said.try_clone().expect("a second handle"))
            .stderr(said);
        let mut child = Namespace::here().spawn(command).expect("this binary starts again");
        let to = child.stdin.take().expect("a pipe");
        *slot.worker.lock().unwrap() = Some(Worker { number, child, to, output });
    }

    /// Lets time pass. Returns whether the faults go on.
    fn rest(&self, time: Duration) -> bool {
        let is_over = self.is_over.lock().unwrap();
        !*self.over.wait_timeout_while(is_over, time, |over| !*over).unwrap().0
    }

    /// Strikes for this time, and mends everything then.
    fn strike(&self, time: Duration) {
        thread::scope(|scope| {
            for lane in LANES {
                scope.spawn(move || {
                    // A lane that fails ends the run.
                    let _over = OverOnPanic(self);
                    self.lane(lane);
                });
            }
            self.rest(time);
            self.end();
        });
    }

    fn end(&self) {
        *self.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.over.notify_all();
    }

    /// The faults of one lane, one after the other.
    fn lane(&self, lane: Lane) {
        let faults = self.faults(|of| of == lane);
        let mut rng = Rng::with_seed(self.seed ^ ((lane as u64) << 40));
        let mut forger = self.target.forger().filter(|_| lane == Lane::Notices);
        let mut keeper = match lane {
            Lane::Clock if !faults.is_empty() => clock::Keeper::start(),
            _ => None,
        };
        let is_idle = match lane {
            Lane::Notices => forger.is_none(),
            Lane::Clock => keeper.is_none(),
            _ => false,
        };
        if faults.is_empty() || is_idle {
            return;
        }
        let pause = match lane {
            Lane::Processes | Lane::Network => lease() / 2,
            Lane::Engine | Lane::Clock => lease() * 3,
            Lane::Notices => lease() / 10,
        };
        while self.rest(pause.mul_f64(rng.f64() * 2.0)) {
            let (fault, name) = *rng.choice(&faults).expect("there are some");
            let (from, name) = (now(), name.to_owned());
            let (on, process) = match fault {
                Fault::Kill | Fault::Stop | Fault::Leave => {
                    let (on, process) = self.strike_process(fault, &mut rng);
                    (on, Some(process))
                }
                Fault::EngineKill | Fault::EngineStop => {
                    (self.strike_engine(fault, &mut rng), None)
                }
                Fault::ForgeHint | Fault::ForgeGarbage | Fault::ForgeOld | Fault::ForgeFree => {
                    let forger = forger.as_mut().expect("there is one");
                    (forge(&mut **forger, fault, &mut rng), None)
                }
                Fault::Slew => {
                    let keeper = keeper.as_mut().expect("it is permitted");
                    let by = rng.i64(-830..=830);
                    keeper.slew(by);
                    // A clock is slewed for long.
                    self.rest(lease().mul_f64(1.0 + rng.f64() * 2.0));
                    keeper.slew(0);
                    (format!("by {by}"), None)
                }
                _ => (self.strike_network(fault, &mut rng), None),
            };
            self.log.write(&Line::Fault { name, on, process, from, to: now() });
        }
    }

    /// How long a fault lasts: now and then for longer than the lease.
    fn span(&self, rng: &mut Rng) -> Duration {
        let leases = if rng.u8(..4) == 0 { 1.0 + rng.f64() } else { rng.f64() / 2.0 };
        lease().mul_f64(leases)
    }

    fn strike_process(&self, fault: Fault, rng: &mut Rng) -> (String, u32) {
        let index = rng.usize(..PROCESSES);
        let (slot, span) = (&self.slots[index], self.span(rng));
        let mut worker = slot.worker.lock().unwrap().take().expect("it was started");
        let number = worker.number;
        if let Some(status) = worker.ended() {
            let said = worker.said();
            self.trouble("run", format!("process {number} has ended by itself: {status}\n{said}"));
        }
        match fault {
            Fault::Stop => {
                worker.signal(libc::SIGSTOP);
                // For longer than the lease in half of the cases: who holds it then is late.
                self.rest(if rng.bool() { lease().mul_f64(1.0 + rng.f64()) } else { span });
                worker.signal(libc::SIGCONT);
                *slot.worker.lock().unwrap() = Some(worker);
            }
            Fault::Leave => {
                worker.say(LEAVE);
                self.expect_end(worker);
                self.start(slot);
            }
            _ => {
                drop(worker);
                self.rest(span.min(lease() / 2));
                self.start(slot);
            }
        }
        (format!("process {number}"), number)
    }

    /// Waits for the end of a process.
    fn expect_end(&self, mut worker: Worker) {
        let end = Instant::now() + LIMIT;
        let number = worker.number;
        loop {
            match worker.ended() {
                Some(status) if status.success() => return,
                Some(status) => {
                    let said = worker.said();
                    let what = format!("process {number} has failed: {status}\n{said}");
                    return self.trouble("run", what);
                }
                None if Instant::now() > end => {
                    let what = format!("process {number} does not end: somebody waits in it");
                    return self.trouble("left_waiting", what);
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn strike_network(&self, fault: Fault, rng: &mut Rng) -> String {
        let index = rng.usize(..PROCESSES);
        let (slot, span) = (&self.slots[index], self.span(rng));
        let way = rng.usize(..slot.relays.len());
        // All ways to the engine, or one.
        let ways = if rng.u8(..4) == 0 { &slot.relays[way..=way] } else { &slot.relays[..] };
        let what = match fault {
            Fault::Cut => {
                ways.iter().for_each(Relay::cut);
                "all".to_owned()
            }
            Fault::Lose => {
                ways.iter().for_each(|relay| relay.lose(Loss::Response));
                "the next answer".to_owned()
            }
            Fault::Delay => {
                let delay = Duration::from_millis(rng.u64(5..200));
                ways.iter().for_each(|relay| relay.delay(delay));
                self.rest(span);
                ways.iter().for_each(|relay| relay.delay(Duration::ZERO));
                format!("{delay:?}")
            }
            Fault::Silence => {
                let side = if rng.u8(..3) == 0 { Loss::Request } else { Loss::Response };
                ways.iter().for_each(|relay| relay.silence(side));
                self.rest(span);
                ways.iter().for_each(Relay::pass);
                format!("{side:?}")
            }
            _ => {
                let is_kept = rng.bool();
                ways.iter().for_each(|relay| if is_kept { relay.hold() } else { relay.drop_all() });
                self.rest(span);
                ways.iter().for_each(Relay::pass);
                if is_kept { "bytes arrive late" } else { "bytes are lost" }.to_owned()
            }
        };
        format!("slot {index}, {} of its ways: {what}", ways.len())
    }

    fn strike_engine(&self, fault: Fault, rng: &mut Rng) -> String {
        let servers = self.target.servers();
        let (first, span) = (rng.usize(..servers.len()), self.span(rng));
        let number = if rng.u8(..3) == 0 { servers.len() / 2 + 1 } else { 1 };
        let struck: Vec<&ServerProcess> =
            (first..first + number).map(|index| servers[index % servers.len()].0).collect();
        if fault == Fault::EngineStop {
            struck.iter().for_each(|server| server.stop());
            self.rest(span);
            struck.iter().for_each(|server| server.cont());
        } else {
            struck.iter().for_each(|server| server.kill9());
            self.rest(span);
            // They are ready when there is a majority: all at a time.
            struck.iter().for_each(|server| server.spawn());
            struck.iter().for_each(|server| server.wait_until_ready());
        }
        format!("{number} from server {first}")
    }

    /// The faults have ended: everybody gets the last key once, and nobody is left waiting.
    fn finish(&self, runtime: &Runtime) {
        let epochs = [epoch(), epoch().saturating_sub(1), epoch().saturating_sub(2)];
        let workers = self.slots.iter().filter_map(|slot| slot.worker.lock().unwrap().take());
        let mut workers: Vec<Worker> = workers.collect();
        workers.iter_mut().for_each(|worker| worker.say(FINISH));
        let end = Instant::now() + LIMIT;
        workers.into_iter().for_each(|worker| self.expect_end(worker));
        // Nor is a key left that nobody can get.
        let keys: Vec<String> = epochs.into_iter().flat_map(keys).collect();
        let left = runtime.block_on(async {
            let ports: Vec<u16> = self.target.servers().iter().map(|(_, port)| *port).collect();
            let engine = connect(&self.target.address(&ports)).await.expect("it runs");
            let node = Node::builder(engine).label("the end").lease(lease()).build().unwrap();
            let mut left = vec![];
            for key in keys.iter().map(String::as_str).chain([LAST_KEY]) {
                let lock = node.lock(key).expect("a key");
                let limit = end.saturating_duration_since(Instant::now()).max(lease() * 10);
                match lock.acquire_timeout(limit).await {
                    Ok(guard) => drop(guard),
                    Err(error) => {
                        left.push(format!("{error}: {:?}", node.inspect(key).await));
                    }
                }
            }
            node.shutdown().await;
            left
        });
        left.into_iter().for_each(|what| self.trouble("left_waiting", what));
    }
}

/// Ends the run if its thread panics.
struct OverOnPanic<'a, 'b, T: Target>(&'a Chaos<'b, T>);

impl<T: Target> Drop for OverOnPanic<'_, '_, T> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
    }
}

/// Sends some forged notices about the keys that are in use.
fn forge(forger: &mut (dyn Forger + '_), fault: Fault, rng: &mut Rng) -> String {
    let forgery = match fault {
        Fault::ForgeHint => Forgery::Hint,
        Fault::ForgeGarbage => Forgery::Garbage,
        Fault::ForgeOld => Forgery::Old,
        _ => Forgery::Free,
    };
    let (number, mut failure) = (rng.u32(1..20), String::new());
    for key in keys(epoch()).cycle().take(number as usize) {
        if let Err(error) = forger.forge(forgery, &key, rng) {
            failure = format!(", the last one failed: {error}");
        }
    }
    format!("{number} notices{failure}")
}
