//! Can `lockword bench --preset gate` be trusted? It counts false alarms and detections.
//!
//! ```sh
//! cargo bench --features cli --bench gate              # 60 pairs, 30 detections: 40 minutes
//! cargo bench --features cli --bench gate -- 20 0      # 20 pairs, no detections
//! cargo bench --features cli --bench gate -- 60 30 quiet
//! cargo bench --features cli --bench gate -- 60 0 p99
//! ```
//!
//! - **Pairs**: the program measures the preset again and again, and each report is compared with
//!   the one before. Nothing has changed, so each comparison that finds a slower lock is a false
//!   alarm. In the end each report is compared with each other one.
//! - **Detections**: a copy of this bench measures lockword's lock under the same loads, and another
//!   copy the same lock, which now and then is held for 20 us more, so that it is acquired a tenth less often
//!   (which is measured before). `lockword compare` must find it.
//!
//! Meanwhile, and unless `quiet` is given, two busy processes start and end at random: each is there
//! for half a second to ten seconds, and not there for as long.
//!
//! With `p99`, the waits of the pairs are judged in place of the rates. There are no detections then.

#[path = "support/mod.rs"]
mod support;

use lockword::RawLock;
use lockword::contention::statistics::median;
use lockword::contention::{Comparison, ComparisonReport, LockApi, Std, work};
use lockword::lock_api::RawMutex;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::error::Error;
use std::hash::{BuildHasher as _, Hasher as _};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use support::beside::{BusyProcesses, be_busy_if_asked};

/// Tells a copy of the bench what to measure: the file to write, the file with the loads, and, for
/// the slower lock, the file with its [`Waste`].
const MEASURE: &str = "LOCKWORD_BENCH_GATE";

/// The limit of a detection, as in the preset.
const LIMIT: Duration = Duration::from_secs(19);

/// How much work the slower lock does for each release, in units of 2^-32 units of work.
static WASTE: AtomicU64 = AtomicU64::new(0);

/// So many units of work are done at once, about 20 us. A little work at each release would not do: a
/// processor executes it beside that of the load, so that a lock is as fast as before or half as
/// fast, and a lock that is held for a little longer has other waiters.
const BURST: u64 = 25_000;

/// The lock of this crate, which now and then does some work at a release if it is the slower one.
struct OurLock<const SLOWER: bool> {
    lock: RawLock,
    /// The work that it still has to do, in the same units.
    debt: AtomicU64,
}

// SAFETY: the lock of this crate does everything.
unsafe impl<const SLOWER: bool> RawMutex for OurLock<SLOWER> {
    const INIT: Self = OurLock { lock: RawLock::INIT, debt: AtomicU64::new(0) };
    type Guard = <RawLock as RawMutex>::Guard;

    fn lock(&self) -> Self::Guard {
        RawMutex::lock(&self.lock)
    }

    fn try_lock(&self) -> Option<Self::Guard> {
        RawMutex::try_lock(&self.lock)
    }

    unsafe fn unlock(&self, guard: Self::Guard) {
        if SLOWER {
            let debt = WASTE.load(Ordering::Relaxed) + self.debt.load(Ordering::Relaxed);
            let is_due = debt >> 32 >= BURST;
            self.debt.store(if is_due { 0 } else { debt }, Ordering::Relaxed);
            if is_due {
                black_box(work(black_box(1), BURST as u32));
            }
        }
        // SAFETY: the caller holds the lock.
        unsafe { RawMutex::unlock(&self.lock, guard) };
    }

    fn is_locked(&self) -> bool {
        RawMutex::is_locked(&self.lock)
    }
}

/// How much work the slower lock does for each release under each load, by the load's name.
type Waste = HashMap<String, u64>;

/// Finds, on a machine without the random load, the waste with which the slower lock is acquired a tenth less often than ours under these
/// loads, and prints how much less it is.
fn calibrate(loads: &ComparisonReport) -> Result<Waste, Box<dyn Error>> {
    const GOAL: f64 = 0.9;
    let mut found = Waste::new();
    for cell in &loads.cells {
        let comparison = Comparison::new()
            .lock::<LockApi<OurLock<true>>>("slower")
            .lock::<LockApi<OurLock<false>>>("ours")
            .load(cell.load.clone())
            .rounds(loads.rounds);
        let mut waste = 1e9;
        for step in 0.. {
            WASTE.store(waste as u64, Ordering::Relaxed);
            let report = comparison.run(&mut |_| (), &AtomicBool::new(false))?;
            let [slower, ours] = &report.cells[0].locks[..] else { unreachable!("of two locks") };
            let both = slower.samples.iter().zip(&ours.samples);
            let ratios: Vec<f64> = both.map(|(a, b)| a.per_second() / b.per_second()).collect();
            let ratio = median(&ratios).mid;
            if step == 9 && (ratio - GOAL).abs() > 0.01 {
                let why = format!(
                    "{}: no slower lock with {GOAL} of the acquisitions, but {ratio:.3}",
                    cell.name
                );
                return Err(why.into());
            }
            if (ratio - GOAL).abs() < 0.005 || step == 9 {
                println!("{}: the slower lock is acquired {ratio:.3} times as often", cell.name);
                break;
            }
            // The time of an acquisition grows by that of the work.
            let grows = (1.0 / GOAL - 1.0) / (1.0 / ratio - 1.0).max(0.01);
            waste *= grows.clamp(0.25, 4.0);
        }
        found.insert(cell.name.clone(), waste as u64);
    }
    Ok(found)
}

/// Busy processes that start and end at random, until it is dropped.
struct RandomLoad {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl RandomLoad {
    fn start(processes: usize) -> RandomLoad {
        let stop = Arc::new(AtomicBool::new(false));
        let one = |_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut busy = None;
                while !stop.load(Ordering::Relaxed) {
                    busy = match busy {
                        Some(_) => None,
                        None => Some(BusyProcesses::anywhere()),
                    };
                    let end = Instant::now() + Duration::from_millis(500 + random() % 9_500);
                    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(20));
                    }
                }
            })
        };
        let threads = (0..processes).map(one).collect();
        RandomLoad { stop, threads }
    }
}

impl Drop for RandomLoad {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("it does not panic"));
    }
}

/// A random number.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// How often a comparison ended how.
#[derive(Default)]
struct Counts {
    slower: usize,
    level: usize,
    refused: usize,
}

impl Counts {
    /// Compares two reports by the program.
    fn compare(
        &mut self,
        judge: &[&str],
        old: &Path,
        new: &Path,
    ) -> Result<Answer, Box<dyn Error>> {
        let output = lockword().arg("compare").args(judge).args([old, new]).output()?;
        let (out, why) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        let (count, word) = match output.status.code() {
            Some(0) => (&mut self.level, "level"),
            Some(1) => (&mut self.slower, "SLOWER"),
            Some(2) => (&mut self.refused, "refused"),
            code => return Err(format!("exit status {code:?}: {why}").into()),
        };
        *count += 1;
        Ok(Answer { word, text: out + &why })
    }
}

/// What the program answered.
struct Answer {
    word: &'static str,
    text: String,
}

impl Answer {
    fn print(&self, what: &str) {
        println!("{what}: {}", self.word);
        let told = |line: &&str| line.contains("->") || line.contains("were disturbed");
        self.text.lines().filter(told).for_each(|line| println!("    {}", line.trim()));
    }
}

fn lockword() -> Command {
    Command::new(env!("CARGO_BIN_EXE_lockword"))
}

/// Measures the preset by the program.
fn measure_preset(judge: &[&str], file: &Path) -> Result<(), Box<dyn Error>> {
    let mut bench = lockword();
    bench.args(["bench", "--preset", "gate", "--json"]).arg(file).args(judge);
    let status = bench.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("the bench failed: {status}").into()) }
}

/// Measures our lock, or the slower one, in a copy of this bench.
fn measure_copy(file: &Path, loads: &Path, waste: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let files = [Some(file), Some(loads), waste].into_iter().flatten();
    let files: Vec<&str> = files.filter_map(Path::to_str).collect();
    let status = Command::new(std::env::current_exe()?).env(MEASURE, files.join("\n")).status()?;
    if status.success() { Ok(()) } else { Err(format!("the copy failed: {status}").into()) }
}

fn read<T: DeserializeOwned>(file: impl AsRef<Path>) -> Result<T, Box<dyn Error>> {
    Ok(serde_json::from_str(&std::fs::read_to_string(file)?)?)
}

/// In a copy: measures, and writes the report.
fn be_a_copy(files: &str) -> Result<(), Box<dyn Error>> {
    let files: Vec<&str> = files.lines().collect();
    let loads: ComparisonReport = read(files[1])?;
    let waste: Option<Waste> = files.get(2).map(read).transpose()?;
    let mut comparison = Comparison::new().rounds(loads.rounds).until_undisturbed(LIMIT);
    comparison = match waste {
        Some(_) => comparison.lock::<LockApi<OurLock<true>>>("lockword"),
        None => comparison.lock::<LockApi<OurLock<false>>>("lockword"),
    };
    comparison = comparison.lock::<Std>("std");
    for cell in loads.cells {
        comparison = comparison.load(cell.load);
    }
    let set = |cell: &str| {
        let of_cell = waste.as_ref().and_then(|waste| waste.get(cell));
        WASTE.store(of_cell.copied().unwrap_or(0), Ordering::Relaxed);
    };
    let report = comparison.run(&mut |progress| set(progress.cell), &AtomicBool::new(false))?;
    std::fs::write(files[0], serde_json::to_string(&report)?)?;
    Ok(())
}

fn run() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<usize> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let (pairs, detections) = match numbers[..] {
        [] => (60, 30),
        [pairs] => (pairs, 0),
        [pairs, detections, ..] => (pairs, detections),
    };
    let is_given = |wanted: &str| std::env::args().any(|word| word == wanted);
    let quiet = is_given("quiet");
    let judge: &[&str] = if is_given("p99") { &["--judge", "p99"] } else { &[] };
    if !judge.is_empty() && detections > 0 {
        return Err("there are no detections with p99".into());
    }
    let folder = std::env::temp_dir().join(format!("lockword-gate-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let file = |name: &str| -> PathBuf { folder.join(name) };
    let (loads, waste) = (file("loads"), file("waste"));
    if detections > 0 {
        measure_preset(judge, &loads)?;
        std::fs::write(&waste, serde_json::to_string(&calibrate(&read(&loads)?)?)?)?;
    }
    let load = RandomLoad::start(if quiet { 0 } else { 2 });

    let mut alarms = Counts::default();
    let reports: Vec<PathBuf> = (0..=pairs).map(|n| file(&format!("report-{n}"))).collect();
    measure_preset(judge, &reports[0])?;
    for (n, pair) in reports.windows(2).enumerate() {
        measure_preset(judge, &pair[1])?;
        alarms.compare(judge, &pair[0], &pair[1])?.print(&format!("pair {}", n + 1));
    }
    let mut found = Counts::default();
    let (old, new) = (file("old"), file("new"));
    for detection in 1..=detections {
        measure_copy(&old, &loads, None)?;
        measure_copy(&new, &loads, Some(&waste))?;
        found.compare(judge, &old, &new)?.print(&format!("detection {detection}"));
    }
    drop(load);

    let mut all = Counts::default();
    for (a, old) in reports.iter().enumerate() {
        for (b, new) in reports.iter().enumerate().filter(|(b, _)| *b != a) {
            let answer = all.compare(judge, old, new)?;
            if answer.word == "SLOWER" {
                answer.print(&format!("reports {a} and {b}"));
            }
        }
    }
    std::fs::remove_dir_all(&folder)?;

    let Counts { slower, level, refused } = all;
    println!(
        "\nAll ordered pairs of the reports: {slower} false alarms, {level} level, {refused} refused"
    );
    let Counts { slower, level, refused } = alarms;
    println!("{pairs} pairs of the same: {slower} false alarms, {level} level, {refused} refused");
    let is_false = 60 * slower > pairs.max(60);
    let Counts { slower, level, refused } = found;
    println!("{detections} slower locks: {slower} found, {level} missed, {refused} refused");
    if is_false || 10 * slower < 9 * detections {
        return Err("more than 1 false alarm in 60 (or 1 if there are fewer pairs), or less than 9 of 10 found".into());
    }
    Ok(())
}

fn main() {
    be_busy_if_asked();
    let done = match std::env::var(MEASURE) {
        Ok(files) => be_a_copy(&files),
        Err(_) => run(),
    };
    if let Err(error) = done {
        eprintln!("{error}");
        std::process::exit(2);
    }
}
