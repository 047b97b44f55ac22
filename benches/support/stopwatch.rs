//! Wall-clock time and CPU time of a slice.

use std::time::{Duration, Instant};

use lockword::contention::system;

/// What one operation took in a slice.
#[derive(Clone, Copy)]
pub struct TimeSample {
    /// Wall-clock nanoseconds.
    pub ns: f64,
    /// CPU nanoseconds of all threads of the process; NaN where the system does not report them.
    pub cpu_ns: f64,
}

/// The clocks at the start of a slice.
pub struct Stopwatch {
    cpu: Option<Duration>,
    wall: Instant,
}

impl Stopwatch {
    /// Reads the clocks.
    pub fn start() -> Self {
        Stopwatch { cpu: system::process_cpu_time(), wall: Instant::now() }
    }

    /// How long the slice has lasted.
    pub fn elapsed(&self) -> Duration {
        self.wall.elapsed()
    }

    /// The time since the start for each of `count` operations.
    pub fn per(&self, count: u64) -> TimeSample {
        let ns = |time: Duration| time.as_secs_f64() * 1e9 / count as f64;
        let wall = self.wall.elapsed();
        let cpu = self.cpu.and_then(|start| Some(system::process_cpu_time()? - start));
        TimeSample { ns: ns(wall), cpu_ns: cpu.map_or(f64::NAN, ns) }
    }
}
