//! Can `lockword bench --preset gate` be trusted? It counts false alarms and detections.
//!
//! ```sh
//! cargo bench --features cli --bench gate              # 60 pairs, 30 detections: half an hour
//! cargo bench --features cli --bench gate -- 20 0      # 20 pairs, no detections
//! cargo bench --features cli --bench gate -- 60 30 quiet
//! ```
//!
//! - **Pairs**: the program measures the preset again and again, and each report is compared with
//!   the one before. Nothing has changed, so each lock that is found slower is a false alarm.
//! - **Detections**: a copy of this bench measures lockword's lock under the same loads, and another
//!   copy the same lock with some work more at each release, so that it does a tenth less under each
//!   load. `lockword compare` must find it.
//!
//! Meanwhile, and unless `quiet` is given, two busy processes start and end at random: each is there
//! for half a second to ten seconds, and not there for as long.

#[path = "support/mod.rs"]
mod support;

use lockword::RawLock;
use lockword::contention::statistics::median;
use lockword::contention::{Comparison, ComparisonReport, Load, LockApi, Std, unit_ns, work};
use lockword::lock_api::RawMutex;
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
/// the slower lock, the file with its rates.
const MEASURE: &str = "LOCKWORD_BENCH_GATE";

/// The rounds of a detection, and the limit, as in the preset.
const ROUNDS: usize = 300;
const LIMIT: Duration = Duration::from_secs(19);

/// How much work more there is at each release, in units of 2^-32 units of work.
static WASTE: AtomicU64 = AtomicU64::new(0);

/// The lock of this crate, with work at each release.
struct WastefulLock {
    lock: RawLock,
    /// The fraction of a unit that is left over.
    rest: AtomicU64,
}

// SAFETY: the lock of this crate does everything.
unsafe impl RawMutex for WastefulLock {
    const INIT: Self = WastefulLock { lock: RawLock::INIT, rest: AtomicU64::new(0) };
    type Guard = <RawLock as RawMutex>::Guard;

    fn lock(&self) -> Self::Guard {
        RawMutex::lock(&self.lock)
    }

    fn try_lock(&self) -> Option<Self::Guard> {
        RawMutex::try_lock(&self.lock)
    }

    unsafe fn unlock(&self, guard: Self::Guard) {
        let waste = WASTE.load(Ordering::Relaxed) + self.rest.load(Ordering::Relaxed);
        self.rest.store(waste % (1 << 32), Ordering::Relaxed);
        black_box(work(black_box(1), (waste >> 32) as u32));
        // SAFETY: the caller holds the lock.
        unsafe { RawMutex::unlock(&self.lock, guard) };
    }

    fn is_locked(&self) -> bool {
        RawMutex::is_locked(&self.lock)
    }
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
    /// Compares two reports by the program, and prints its answer.
    fn compare(&mut self, what: &str, old: &Path, new: &Path) -> Result<(), Box<dyn Error>> {
        let output = lockword().arg("compare").args([old, new]).output()?;
        let (out, why) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        let word = match output.status.code() {
            Some(0) => {
                self.level += 1;
                "level"
            }
            Some(1) => {
                self.slower += 1;
                "SLOWER"
            }
            Some(2) => {
                self.refused += 1;
                "refused"
            }
            code => return Err(format!("exit status {code:?}: {why}").into()),
        };
        println!("{what}: {word}");
        let told = |line: &&str| line.contains("->") || line.contains("were disturbed");
        out.lines()
            .chain(why.lines())
            .filter(told)
            .for_each(|line| println!("    {}", line.trim()));
        Ok(())
    }
}

fn lockword() -> Command {
    Command::new(env!("CARGO_BIN_EXE_lockword"))
}

/// Measures the preset by the program.
fn measure_preset(file: &Path) -> Result<(), Box<dyn Error>> {
    let mut bench = lockword();
    bench.args(["bench", "--preset", "gate", "--json"]).arg(file);
    let status = bench.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("the bench failed: {status}").into()) }
}

/// Measures in a copy of this bench.
fn measure_copy(file: &Path, loads: &Path, slower: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let files = [Some(file), Some(loads), slower].into_iter().flatten();
    let files: Vec<&str> = files.filter_map(Path::to_str).collect();
    let status = Command::new(std::env::current_exe()?).env(MEASURE, files.join("\n")).status()?;
    if status.success() { Ok(()) } else { Err(format!("the copy failed: {status}").into()) }
}

fn read(file: &str) -> Result<ComparisonReport, Box<dyn Error>> {
    Ok(serde_json::from_str(&std::fs::read_to_string(file)?)?)
}

/// In a copy: measures, and writes the report.
fn be_a_copy(files: &str) -> Result<(), Box<dyn Error>> {
    let files: Vec<&str> = files.lines().collect();
    let loads = read(files[1])?;
    let rates = files.get(2).map(|file| read(file)).transpose()?;
    let waste: Vec<(String, u64)> =
        rates.iter().flat_map(|report| &report.cells).map(waste).collect();
    let mut comparison = Comparison::new()
        .lock::<LockApi<WastefulLock>>("lockword")
        .lock::<Std>("std")
        .rounds(ROUNDS)
        .until_undisturbed(LIMIT);
    for cell in loads.cells {
        comparison = comparison.load(cell.load);
    }
    let set = |cell: &str| {
        let of_cell = waste.iter().find(|(name, _)| name == cell);
        WASTE.store(of_cell.map_or(0, |(_, waste)| *waste), Ordering::Relaxed);
    };
    let report = comparison.run(&mut |progress| set(progress.cell), &AtomicBool::new(false))?;
    std::fs::write(files[0], serde_json::to_string(&report)?)?;
    Ok(())
}

/// The work at each release with which the lock is acquired a tenth less often in this cell, in
/// units of 2^-32 units of work.
fn waste(cell: &lockword::contention::CellReport) -> (String, u64) {
    let rates: Vec<f64> = cell.locks[0].samples.iter().map(|s| s.per_second()).collect();
    let apart = 1e9 / median(&rates).mid;
    let Load { threads, inside, outside, .. } = cell.load;
    // If the lock is held all the time, each nanosecond more delays every acquisition; if not, only
    // those of its own thread.
    let (inside, outside) = (inside.nominal_ns(), outside.nominal_ns());
    let is_saturated = threads as f64 * inside >= inside + outside;
    let cycle = if is_saturated { apart } else { apart * threads as f64 };
    let units = cycle / 9.0 / unit_ns();
    (cell.name.clone(), (units * (1_u64 << 32) as f64) as u64)
}

fn run() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<usize> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let (pairs, detections) = match numbers[..] {
        [] => (60, 30),
        [pairs] => (pairs, 0),
        [pairs, detections, ..] => (pairs, detections),
    };
    let quiet = std::env::args().any(|word| word == "quiet");
    let folder = std::env::temp_dir().join(format!("lockword-gate-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let file = |name: &str| -> PathBuf { folder.join(name) };
    let load = RandomLoad::start(if quiet { 0 } else { 2 });

    let mut alarms = Counts::default();
    measure_preset(&file("old"))?;
    let loads = file("loads");
    std::fs::copy(file("old"), &loads)?;
    for pair in 1..=pairs {
        measure_preset(&file("new"))?;
        alarms.compare(&format!("pair {pair}"), &file("old"), &file("new"))?;
        std::fs::rename(file("new"), file("old"))?;
    }
    let mut found = Counts::default();
    for detection in 1..=detections {
        measure_copy(&file("old"), &loads, None)?;
        measure_copy(&file("new"), &loads, Some(&file("old")))?;
        found.compare(&format!("detection {detection}"), &file("old"), &file("new"))?;
    }
    drop(load);
    std::fs::remove_dir_all(&folder)?;

    let Counts { slower, level, refused } = alarms;
    println!(
        "\n{pairs} pairs of the same: {slower} false alarms, {level} level, {refused} refused"
    );
    let is_false = 60 * slower > pairs.max(60);
    let Counts { slower, level, refused } = found;
    println!("{detections} slower locks: {slower} found, {level} missed, {refused} refused");
    if is_false || 10 * slower < 9 * detections {
        return Err("more than 1 false alarm in 60, or less than 27 of 30 found".into());
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
