//! A closed-loop load generator: threads that lock, work inside, unlock, work outside, for a
//! fixed time.
//!
//! No clock is read in the loop: a clock costs more than a short section. How long each thread
//! waited is the business of [`super::wait`], which is a pass of its own.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::lock::{Family, Lock};
use super::roster::Workload;
use super::system::thread_cpu_time;

/// `units` steps of arithmetic, each of which needs the result of the one before.
///
/// A step is a rotate, an exclusive-or and an addition: three cycles of latency, with no closed
/// form that a compiler would find. The result must be used, or the loop goes.
#[inline]
pub fn work(mut state: u64, units: u32) -> u64 {
    for _ in 0..units {
        state = (state.rotate_left(5) ^ 0x9E37_79B9_7F4A_7C15).wrapping_add(0x2545_F491_4F6C_DD1D);
    }
    state
}

/// What one unit of [`work`] takes on this machine, in nanoseconds: the fastest of some tries,
/// since whatever disturbs can only slow it down.
pub fn nanoseconds_a_unit() -> f64 {
    const UNITS: u32 = 1_000_000;
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let start = Instant::now();
        black_box(work(black_box(1), black_box(UNITS)));
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(UNITS));
    }
    best
}

/// Keeps its content clear of the cache lines of anything else, and of the line that the
/// prefetcher fetches with it.
#[repr(align(128))]
pub struct Apart<T>(pub T);

/// The load: one lock, some threads.
#[derive(Clone, Copy)]
pub struct Load {
    /// How many threads.
    pub threads: usize,
    /// Units of work while holding the lock.
    pub inside: u32,
    /// Units of work between two acquisitions.
    pub outside: u32,
    /// How long a slice lasts.
    pub slice: Duration,
}

/// What a slice counted.
pub struct Throughput {
    /// From the first thread's start to the signal to stop.
    pub elapsed: Duration,
    /// Acquisitions, a thread each.
    pub acquisitions: Vec<u64>,
    /// CPU time of all the threads, where the system tells.
    pub cpu: Option<Duration>,
}

impl Throughput {
    /// Acquisitions of all the threads.
    pub fn total(&self) -> u64 {
        self.acquisitions.iter().sum()
    }

    /// Millions of acquisitions a second.
    pub fn millions_a_second(&self) -> f64 {
        self.total() as f64 / self.elapsed.as_secs_f64() / 1e6
    }

    /// Wall-clock nanoseconds an acquisition.
    pub fn nanoseconds(&self) -> f64 {
        1e3 / self.millions_a_second()
    }

    /// CPU nanoseconds an acquisition; not a number where the system does not tell.
    pub fn cpu_nanoseconds(&self) -> f64 {
        self.cpu.map_or(f64::NAN, |cpu| cpu.as_secs_f64() * 1e9 / self.total() as f64)
    }
}

/// The data under the lock: one word counts, one is worked on.
#[derive(Default)]
struct Shared {
    count: u64,
    word: u64,
}

/// What one thread brings home.
struct Tally {
    started: Instant,
    acquisitions: u64,
    cpu: Option<Duration>,
}

impl Workload for Load {
    type Sample = Throughput;

    fn name(&self) -> String {
        format!("{}x{}/{}", self.threads, self.inside, self.outside)
    }

    fn run<F: Family>(&self) -> Throughput {
        let lock = Apart(F::Mutex::<Shared>::new(Shared::default()));
        let stop = Apart(AtomicBool::new(false));
        let start = Barrier::new(self.threads + 1);

        let (stopped, tallies) = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads)
                .map(|_| scope.spawn(|| self.thread::<F>(&lock.0, &stop.0, &start)))
                .collect();
            start.wait();
            thread::sleep(self.slice);
            stop.0.store(true, Ordering::Relaxed);
            let stopped = Instant::now();
            let tallies: Vec<Tally> = workers.into_iter().map(|w| w.join().unwrap()).collect();
            (stopped, tallies)
        });

        let acquisitions: Vec<u64> = tallies.iter().map(|t| t.acquisitions).collect();
        let counted = lock.0.lock().count;
        assert_eq!(counted, acquisitions.iter().sum::<u64>(), "no mutual exclusion");
        // The main thread may come out of the barrier late, when the others have long started.
        let started = tallies.iter().map(|t| t.started).min().unwrap();
        let elapsed = stopped.duration_since(started);
        Throughput { elapsed, acquisitions, cpu: tallies.iter().map(|t| t.cpu).sum() }
    }
}

impl Load {
    /// One thread's loop. It sees the signal to stop between two acquisitions, so each thread
    /// counts at most one acquisition too many.
    #[inline(never)]
    fn thread<F: Family>(
        &self,
        lock: &F::Mutex<Shared>,
        stop: &AtomicBool,
        start: &Barrier,
    ) -> Tally {
        let (inside, outside) = black_box((self.inside, self.outside));
        let mut private = 1;
        let mut acquisitions = 0;
        start.wait();
        let started = Instant::now();
        let cpu_before = thread_cpu_time();
        while !stop.load(Ordering::Relaxed) {
            let mut shared = lock.lock();
            shared.count += 1;
            shared.word = work(shared.word, inside);
            drop(shared);
            acquisitions += 1;
            private = work(private, outside);
        }
        let cpu = thread_cpu_time().zip(cpu_before).map(|(after, before)| after - before);
        black_box(private);
        Tally { started, acquisitions, cpu }
    }
}
