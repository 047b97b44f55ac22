//! The few things that only the operating system knows.

use std::time::Duration;

/// CPU time the calling thread has used, where the system tells.
#[cfg(unix)]
pub fn thread_cpu_time() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to for the whole call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    (result == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// CPU time the calling thread has used, where the system tells.
#[cfg(not(unix))]
pub fn thread_cpu_time() -> Option<Duration> {
    None
}

/// The processors this process may run on.
#[cfg(target_os = "linux")]
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

/// The processors this process may run on: unknown here.
#[cfg(not(target_os = "linux"))]
pub fn processors() -> Vec<usize> {
    Vec::new()
}

/// Binds the calling thread to these processors; does nothing where the system cannot, or if
/// there is none.
#[cfg(target_os = "linux")]
pub fn pin(cpus: &[usize]) {
    if cpus.is_empty() {
        return;
    }
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus {
        // SAFETY: the index comes from `processors`, so it is below the number of bits.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: `set` is readable and its size is passed along. A refusal only costs precision.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
}

/// Binds the calling thread to these processors: not here.
#[cfg(not(target_os = "linux"))]
pub fn pin(_cpus: &[usize]) {}

/// The machine, in a few words, for the head of a table.
pub fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let model = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|l| l.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .unwrap_or_else(|| "processor unknown".to_owned());
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    format!("{cpus} processors ({model}), {arch}, {os}")
}
