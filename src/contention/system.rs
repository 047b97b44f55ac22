//! What the operating system reports: CPU time, processors, the machine ([`MachineInfo`]), and
//! whether something else disturbed a measurement.

use super::topology::Topology;
use super::work::{calibrate, unit_ns};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

/// The CPU time that the calling thread has used; `None` where the system does not provide it.
#[must_use]
pub fn thread_cpu_time() -> Option<Duration> {
    #[cfg(unix)]
    return cpu_time(libc::CLOCK_THREAD_CPUTIME_ID);
    #[cfg(not(unix))]
    None
}

/// The CPU time that all threads of this process have used; `None` where the system does not
/// provide it.
#[must_use]
pub fn process_cpu_time() -> Option<Duration> {
    #[cfg(unix)]
    return cpu_time(libc::CLOCK_PROCESS_CPUTIME_ID);
    #[cfg(not(unix))]
    None
}

/// Reads a clock of the system; `None` if that fails.
#[cfg(unix)]
fn cpu_time(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = std::mem::MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is valid for writes of a `timespec` during the call.
    let result = unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) };
    // SAFETY: it was initialised to zeros, which are a valid `timespec`, and perhaps written since.
    let time = unsafe { time.assume_init() };
    (result == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// How long the calling thread was ready to run and had no processor.
pub(super) struct RunDelay {
    #[cfg(unix)]
    file: Option<fs::File>,
}

/// The same, since a start.
pub(super) struct RunDelaySince {
    total: RunDelay,
    before: Option<Duration>,
    /// How late the thread was at the start.
    late: Duration,
}

impl RunDelay {
    /// Opens the figure of the calling thread.
    pub(super) fn of_this_thread() -> RunDelay {
        RunDelay {
            #[cfg(unix)]
            file: fs::File::open("/proc/thread-self/schedstat").ok(),
        }
    }

    /// Counts from now on. What has passed since `started` is a delay too: the thread should have
    /// run since then.
    pub(super) fn start(self, started: Instant) -> RunDelaySince {
        RunDelaySince { before: self.total(), total: self, late: started.elapsed() }
    }

    /// The delay since the thread exists; `None` where the system does not provide it.
    fn total(&self) -> Option<Duration> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::FileExt as _;
            // Three numbers of at most 20 digits.
            let mut text = [0; 64];
            let length = self.file.as_ref()?.read_at(&mut text, 0).ok()?;
            run_delay(std::str::from_utf8(&text[..length]).ok()?)
        }
        #[cfg(not(unix))]
        None
    }
}

impl RunDelaySince {
    /// The delay up to now; `None` where the system does not provide it.
    pub(super) fn end(self) -> Option<Duration> {
        Some(self.total.total()? - self.before? + self.late)
    }
}

/// The second figure of `schedstat`: nanoseconds spent waiting on a run queue.
#[cfg(unix)]
fn run_delay(text: &str) -> Option<Duration> {
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// The number of threads of the machine that have a processor or wait for one, including the
/// calling thread; `None` where the system does not provide it (Linux does).
pub(super) fn running_threads() -> Option<u32> {
    parse_running_threads(&fs::read_to_string("/proc/loadavg").ok()?)
}

/// Parses the text of `/proc/loadavg`, such as `0.20 0.18 0.12 1/80 11206`: see proc_loadavg(5).
fn parse_running_threads(text: &str) -> Option<u32> {
    text.split_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
}

/// The numbers of the processors on which the calling thread may run. It is empty if the system
/// does not report them.
#[cfg(target_os = "linux")]
#[must_use]
pub fn processors() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is writable and its size is passed along.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if result != 0 {
        return Vec::new();
    }
    let all = 0..8 * size_of_val(&set);
    // SAFETY: every index is below the number of bits in the set.
    all.filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// The numbers of the processors on which the calling thread may run. It is empty here, since the
/// system does not report them.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn processors() -> Vec<usize> {
    Vec::new()
}

/// Binds the calling thread to these processors (see [`processors`]), and returns whether that
/// succeeded. It fails if the list has no processor that the thread may use, or if the system does
/// not support it.
#[cfg(target_os = "linux")]
pub fn pin(cpus: &[usize]) -> bool {
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let bits = 8 * size_of_val(&set);
    for &cpu in cpus.iter().filter(|cpu| **cpu < bits) {
        // SAFETY: the number is below that of the bits in the set.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: `set` is readable and its size is passed along. An empty set is refused.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    result == 0
}

/// Binds the calling thread to these processors, and returns whether that succeeded. It always
/// fails here, since the system does not support it.
#[cfg(not(target_os = "linux"))]
pub fn pin(_cpus: &[usize]) -> bool {
    false
}

/// A description of the machine on which a measurement ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineInfo {
    /// The name of the processor.
    pub cpu: Option<String>,
    /// The number of processors that this process may use.
    pub processors: usize,
    /// The operating system and the release of its kernel.
    pub system: String,
    /// The architecture of the processor.
    pub architecture: String,
    /// How the processors lie to each other (Linux).
    pub topology: Option<Topology>,
    /// The frequency governor of the first processor (Linux).
    pub governor: Option<String>,
    /// The load average of the last minute at the start (Linux).
    pub load_average: Option<f64>,
    /// How long one unit of work takes, in nanoseconds (see [`unit_ns`]).
    pub unit_ns: f64,
}

impl MachineInfo {
    /// Describes this machine. The first call in a process also calibrates [`unit_ns`], which takes
    /// some 30 ms.
    #[must_use]
    pub fn read() -> MachineInfo {
        let text = |path: &str| fs::read_to_string(path).ok();
        let first = |text: String| Some(text.split_whitespace().next()?.to_owned());
        MachineInfo {
            cpu: text("/proc/cpuinfo").and_then(|text| processor_name(&text)),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            system: system_name(),
            architecture: std::env::consts::ARCH.to_owned(),
            topology: Topology::read(&processors()),
            governor: text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").and_then(first),
            load_average: text("/proc/loadavg").and_then(first).and_then(|load| load.parse().ok()),
            unit_ns: unit_ns(),
        }
    }
}

/// A short description for the head of a table.
impl fmt::Display for MachineInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MachineInfo { processors, architecture, system, .. } = self;
        let plural = if *processors == 1 { "" } else { "s" };
        let cpu = self.cpu.as_deref().unwrap_or("unknown");
        write!(f, "{processors} processor{plural} ({cpu})")?;
        if let Some(topology) = &self.topology {
            write!(f, ", {topology}")?;
        }
        write!(f, ", {architecture}, {system}")
    }
}

/// The name of the first processor in the text of `/proc/cpuinfo`.
fn processor_name(text: &str) -> Option<String> {
    let value = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    value("model name").or_else(|| value("Model")).or_else(|| value("Hardware"))
}

/// The operating system, and the release of its kernel if the system provides it.
fn system_name() -> String {
    let name = std::env::consts::OS;
    match fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(release) => format!("{name} {}", release.trim()),
        Err(_) => name.to_owned(),
    }
}

/// The share of the processors' time that other processes may use without a warning.
const MAX_OTHERS_SHARE: f64 = 0.05;
/// The share that the host of a virtual machine may steal without a warning.
const MAX_STOLEN_SHARE: f64 = 0.02;
/// The share by which a unit of work may change without a warning.
pub(super) const MAX_DRIFT: f64 = 0.05;

/// Detects whether something else used the machine, or its speed changed, during a measurement.
pub(super) struct DisturbanceMonitor {
    unit_ns: f64,
    load_average: Option<f64>,
    processors: usize,
    before: Option<ProcessorUsage>,
}

/// How the processors that this process may use were used since the machine started, in seconds.
#[derive(Clone, Copy)]
struct ProcessorUsage {
    /// By all processes, without stolen time.
    busy: f64,
    /// Stolen by the host of a virtual machine.
    stolen: f64,
    /// In total, including idle and stolen time.
    all: f64,
    /// By this process.
    own: f64,
}

impl DisturbanceMonitor {
    pub(super) fn start(machine: &MachineInfo) -> DisturbanceMonitor {
        DisturbanceMonitor {
            unit_ns: machine.unit_ns,
            load_average: machine.load_average,
            processors: machine.processors,
            before: ProcessorUsage::read(),
        }
    }

    /// What may have distorted the figures since the start, one sentence each.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut found = match (self.before, ProcessorUsage::read()) {
            (Some(before), Some(after)) => busy(before, after),
            _ => busy_at_start(self.load_average, self.processors),
        };
        found.extend(drift(self.unit_ns, calibrate()));
        found
    }
}

impl ProcessorUsage {
    fn read() -> Option<ProcessorUsage> {
        let own = process_cpu_time()?;
        ProcessorUsage::parse(&fs::read_to_string("/proc/stat").ok()?, &processors(), own)
    }

    /// Parses the text of `/proc/stat` for these processors: see proc_stat(5). Its unit is a
    /// hundredth of a second, which does not depend on the kernel's timer.
    fn parse(text: &str, processors: &[usize], own: Duration) -> Option<ProcessorUsage> {
        let names: Vec<String> = processors.iter().map(|number| format!("cpu{number}")).collect();
        let mut sum = ProcessorUsage { busy: 0.0, stolen: 0.0, all: 0.0, own: own.as_secs_f64() };
        let mut found = 0;
        for line in text.lines() {
            let mut fields = line.split_whitespace();
            if !fields.next().is_some_and(|name| names.iter().any(|known| known == name)) {
                continue;
            }
            let fields: Vec<f64> = fields.map_while(|field| field.parse().ok()).collect();
            // The time of guests, the next field, is included in `user`.
            let [user, nice, system, idle, iowait, irq, softirq, stolen] = *fields.first_chunk()?;
            let busy = user + nice + system + irq + softirq;
            sum.busy += busy / 100.0;
            sum.stolen += stolen / 100.0;
            sum.all += (busy + stolen + idle + iowait) / 100.0;
            found += 1;
        }
        (found > 0).then_some(sum)
    }
}

/// Warnings of other processes' use and of stolen time between two readings.
fn busy(before: ProcessorUsage, after: ProcessorUsage) -> Vec<String> {
    let mut found = vec![];
    let all = after.all - before.all;
    // The kernel counts in hundredths of a second, so less than half a second is too imprecise.
    if all < 0.5 {
        return found;
    }
    let others = (after.busy - before.busy - (after.own - before.own)) / all;
    if others > MAX_OTHERS_SHARE {
        found.push(format!(
            "busy machine: other processes used {:.0} % of its processors meanwhile; \
             stop them and measure again",
            100.0 * others
        ));
    }
    let stolen = (after.stolen - before.stolen) / all;
    if stolen > MAX_STOLEN_SHARE {
        found.push(format!(
            "busy host: it took {:.0} % of this virtual machine's processors meanwhile; \
             measure again, or elsewhere",
            100.0 * stolen
        ));
    }
    found
}

/// A warning of a high load average, for systems that do not report how the processors were used.
fn busy_at_start(load_average: Option<f64>, processors: usize) -> Vec<String> {
    let load = load_average.unwrap_or(0.0);
    if load <= 0.5 * processors as f64 {
        return vec![];
    }
    vec![format!(
        "busy machine: a load average of {load:.1} on {processors} processors at the start; \
         stop other processes and measure again"
    )]
}

/// A warning if a unit of work takes longer or less time than at the start.
fn drift(first_ns: f64, last_ns: f64) -> Option<String> {
    let change = last_ns / first_ns - 1.0;
    let percent = 100.0 * change.abs();
    if change > MAX_DRIFT {
        Some(format!(
            "slower processor: the same work took {percent:.0} % longer at the end (heat, saving \
             power, or other work beside it); let it cool down and measure again"
        ))
    } else if change < -MAX_DRIFT {
        Some(format!(
            "faster processor: the same work took {percent:.0} % less at the end, so all work was \
             shorter than stated; measure again"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn used(busy: f64, stolen: f64, all: f64, own: f64) -> ProcessorUsage {
        ProcessorUsage { busy, stolen, all, own }
    }

    #[test]
    fn proc_stat_is_parsed_for_the_given_processors() {
        let text = "cpu  9 9 9 9 9 9 9 9\ncpu0 100 25 25 4000 50 25 25 75 9 0\n\
                    cpu1 0 0 0 0 0 0 0 0\ncpu2 100 0 0 0 0 0 0 25\ncpu10 9 9 9 9 9 9 9 9\nintr 1";
        let read =
            |processors: &[usize]| ProcessorUsage::parse(text, processors, Duration::from_secs(1));
        let first = read(&[0]).expect("it is there");
        assert_eq!([first.busy, first.stolen, first.all, first.own], [2.0, 0.75, 43.25, 1.0]);
        let both = read(&[0, 2]).expect("they are there");
        assert_eq!([both.busy, both.stolen, both.all], [3.0, 1.0, 44.5]);
        assert!(read(&[]).is_none() && read(&[7]).is_none());
        assert!(ProcessorUsage::parse("cpu0 1 2 3", &[0], Duration::ZERO).is_none(), "too short");
    }

    #[test]
    fn running_threads_and_run_delays_are_parsed() {
        assert_eq!(parse_running_threads("0.20 0.18 0.12 3/80 11206\n"), Some(3));
        assert_eq!(parse_running_threads("0.20 0.18"), None);
        #[cfg(unix)]
        assert_eq!(run_delay("81 42914 7\n"), Some(Duration::from_nanos(42_914)));
        #[cfg(target_os = "linux")]
        assert!(running_threads() >= Some(1), "this one runs");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_late_start_is_a_delay() {
        let hour = Duration::from_secs(3600);
        let Some(started) = Instant::now().checked_sub(hour) else { return };
        let delay = RunDelay::of_this_thread().start(started).end();
        // Not known where the kernel does not count it.
        assert!(delay.is_none_or(|delay| delay >= hour && delay < 2 * hour), "{delay:?}");
    }

    #[test]
    fn only_others_make_a_machine_busy() {
        let start = used(10.0, 0.0, 100.0, 5.0);
        assert!(busy(start, used(18.0, 0.0, 110.0, 13.0)).is_empty(), "it was us");
        let found = busy(start, used(18.0, 0.0, 110.0, 10.0));
        assert!(found.len() == 1 && found[0].contains("30 %"), "{found:?}");
        let found = busy(start, used(15.0, 1.0, 110.0, 10.0));
        assert!(found.len() == 1 && found[0].contains("10 %"), "{found:?}");
        assert!(busy(start, used(10.4, 0.0, 100.4, 5.0)).is_empty(), "the time is too short");
    }

    #[test]
    fn without_proc_stat_the_load_average_counts() {
        assert!(busy_at_start(None, 2).is_empty());
        assert!(busy_at_start(Some(0.9), 2).is_empty());
        assert_eq!(busy_at_start(Some(1.1), 2).len(), 1);
    }

    #[test]
    fn a_change_of_speed_is_noticed() {
        assert_eq!(drift(1.0, 1.04), None);
        assert!(drift(1.0, 1.10).is_some_and(|text| text.contains("10 % longer")));
        assert!(drift(1.0, 0.90).is_some_and(|text| text.contains("10 % less")));
    }

    #[test]
    fn the_name_of_the_processor_is_found() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n\nmodel name\t: Other";
        assert_eq!(processor_name(text).as_deref(), Some("Some CPU @ 2 GHz"));
        assert_eq!(processor_name("Hardware\t: A board").as_deref(), Some("A board"));
        assert_eq!(processor_name(""), None);
    }
}
