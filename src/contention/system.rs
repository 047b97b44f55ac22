//! The few things that only the operating system knows.

use std::time::Duration;

/// CPU time the calling thread has used, where the system tells.
#[must_use]
pub fn thread_cpu_time() -> Option<Duration> {
    #[cfg(unix)]
    return cpu_time(libc::CLOCK_THREAD_CPUTIME_ID);
    #[cfg(not(unix))]
    None
}

/// CPU time that all threads of this process have used, where the system tells.
#[must_use]
pub fn process_cpu_time() -> Option<Duration> {
    #[cfg(unix)]
    return cpu_time(libc::CLOCK_PROCESS_CPUTIME_ID);
    #[cfg(not(unix))]
    None
}

/// What a clock of the system shows.
#[cfg(unix)]
fn cpu_time(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = std::mem::MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the memory is ours to write for the whole call.
    let result = unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) };
    // SAFETY: all zeros are a time, too.
    let time = unsafe { time.assume_init() };
    (result == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// The processors that the calling thread may run on, by number.
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

/// The processors that the calling thread may run on: unknown here.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn processors() -> Vec<usize> {
    Vec::new()
}

/// Binds the calling thread to these processors (see [`processors`]), and says whether that worked:
/// it does not where the system cannot, or if there is none.
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

/// Binds the calling thread to these processors: not here.
#[cfg(not(target_os = "linux"))]
pub fn pin(_cpus: &[usize]) -> bool {
    false
}
