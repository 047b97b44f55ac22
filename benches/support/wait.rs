//! Hogs: threads that hold the lock for long and re-lock at once, and how long each waits.
//!
//! Every acquisition is timed, which is cheap beside a hold of tens of microseconds. Holding is
//! spinning on the monotonic clock until the time has passed, so a holder that is preempted
//! holds for longer: that is part of every lock's longest wait, and of the throughput.

use std::hint::spin_loop;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::load::Apart;
use super::lock::{Family, Lock};
use super::roster::Workload;

/// The load: some threads that all do nothing but hold the one lock.
#[derive(Clone, Copy)]
pub struct Hogs {
    /// How many threads.
    pub threads: usize,
    /// How long each holds the lock.
    pub hold: Duration,
    /// How long a slice lasts.
    pub slice: Duration,
}

/// What a slice saw.
pub struct Waits {
    /// From the first thread's start to the signal to stop.
    pub elapsed: Duration,
    /// How long each acquisition waited, in nanoseconds, a list for each thread. A thread that
    /// still waits at the signal waits on until it has the lock, and that wait counts too.
    pub threads: Vec<Vec<f64>>,
}

impl Waits {
    /// Acquisitions a second.
    pub fn acquisitions_a_second(&self) -> f64 {
        self.threads.iter().map(Vec::len).sum::<usize>() as f64 / self.elapsed.as_secs_f64()
    }

    /// Acquisitions of the unluckiest thread.
    pub fn fewest(&self) -> usize {
        self.threads.iter().map(Vec::len).min().unwrap_or(0)
    }

    /// Acquisitions of the luckiest thread.
    pub fn most(&self) -> usize {
        self.threads.iter().map(Vec::len).max().unwrap_or(0)
    }
}

impl Workload for Hogs {
    type Sample = Waits;

    fn name(&self) -> String {
        format!("{}x{}us", self.threads, self.hold.as_micros())
    }

    fn run<F: Family>(&self) -> Waits {
        let lock = Apart(F::Mutex::<u64>::new(0));
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
            let tallies: Vec<_> = workers.into_iter().map(|w| w.join().unwrap()).collect();
            (stopped, tallies)
        });

        let started = tallies.iter().map(|t| t.0).min().unwrap();
        let threads: Vec<Vec<f64>> = tallies.into_iter().map(|t| t.1).collect();
        let counted = *lock.0.lock();
        assert_eq!(counted, threads.iter().map(Vec::len).sum::<usize>() as u64, "no exclusion");
        Waits { elapsed: stopped.duration_since(started), threads }
    }
}

impl Hogs {
    #[inline(never)]
    fn thread<F: Family>(
        &self,
        lock: &F::Mutex<u64>,
        stop: &AtomicBool,
        start: &Barrier,
    ) -> (Instant, Vec<f64>) {
        let expected = self.slice.as_nanos() / self.hold.as_nanos().max(1);
        // Written once beforehand: a page fault between unlock and lock would let others in.
        let mut waits = vec![1.0; 2 * expected as usize + 16];
        waits.clear();
        start.wait();
        let started = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            let mut count = lock.lock();
            let got = Instant::now();
            *count += 1;
            // Noted while holding, so that nothing but the clock stands between the hold and
            // the next attempt.
            waits.push((got - asked).as_secs_f64() * 1e9);
            while got.elapsed() < self.hold {
                spin_loop();
            }
            drop(count);
        }
        (started, waits)
    }
}
