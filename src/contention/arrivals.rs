//! [`ArrivalProcess`]: when a thread requests its next acquisition. In a closed loop it does so as
//! soon as it is done with the previous one, perhaps with a pause between batches; in an open loop
//! on a schedule.

use super::load::Batch;
use super::statistics::WaitHistogram;
use super::work::{Work, work};
use crate::primitive::{AtomicBool, Ordering, spin_loop};
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

/// When a thread requests its next acquisition.
pub(super) trait ArrivalProcess {
    /// Sets the times at which the schedule begins and ends, the same for all threads. Without a
    /// schedule it does nothing.
    fn start(&mut self, _at: Instant, _end: Instant) {}

    /// Waits until the next acquisition is due; `false` if the stop flag was set meanwhile, or nothing
    /// is due any more. An implementation that does not wait need not check the flag: the loop does so after each
    /// critical section.
    fn next(&mut self, stop: &AtomicBool) -> bool;

    /// The scheduled time of the acquisition for which [`ArrivalProcess::next`] returned; `None`
    /// without a schedule.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// After the stop: records the waits until `stopped` of all acquisitions that were due by the end
    /// of the schedule and were not requested.
    fn record_unserved(&self, _stopped: Instant, _waits: &mut WaitHistogram) {}
}

/// Always at once.
pub(super) struct ClosedLoop;

impl ArrivalProcess for ClosedLoop {
    #[inline(always)]
    fn next(&mut self, _stop: &AtomicBool) -> bool {
        true
    }
}

/// A number of acquisitions at once, then a pause.
pub(super) struct Batches {
    size: u32,
    left: u32,
    pause: BatchPause,
}

/// The pause after a batch.
enum BatchPause {
    Work(u32),
    Sleep(Duration),
}

/// A shorter pause is spent working, since a sleep takes some 50 us longer than requested.
const SHORTEST_SLEEP_NS: u64 = 100_000;

/// The longest sleep between two checks of the stop flag.
const MAX_SLEEP: Duration = Duration::from_millis(5);

impl Batches {
    pub(super) fn new(batch: Batch) -> Batches {
        let pause = match batch.pause_ns {
            ns if ns < SHORTEST_SLEEP_NS => BatchPause::Work(Work::nanos(ns).units_of()),
            ns => BatchPause::Sleep(Duration::from_nanos(ns)),
        };
        Batches { size: batch.acquisitions, left: batch.acquisitions, pause }
    }
}

impl BatchPause {
    #[cold]
    fn spend(&self, stop: &AtomicBool) {
        match *self {
            BatchPause::Work(units) => drop(black_box(work(black_box(1), units))),
            BatchPause::Sleep(mut left) => {
                while !left.is_zero() && !stop.load(Ordering::Relaxed) {
                    let step = left.min(MAX_SLEEP);
                    thread::sleep(step);
                    left -= step;
                }
            }
        }
    }
}

impl ArrivalProcess for Batches {
    #[inline(always)]
    fn next(&mut self, stop: &AtomicBool) -> bool {
        if self.left == 0 {
            self.pause.spend(stop);
            self.left = self.size;
            if stop.load(Ordering::Relaxed) {
                return false;
            }
        }
        self.left -= 1;
        true
    }
}

/// On a schedule: every `step_ns`, beginning `offset_ns` after the start of the slice, until its end.
///
/// What is late at the end is still served. Else a thread that the system does not run at that moment
/// would lose all arrivals of its absence: in a slice of 10 ms, at 300 k a second, one was seen with
/// 18.8 k.
pub(super) struct OpenLoop {
    step_ns: f64,
    offset_ns: f64,
    start: Instant,
    end: Instant,
    /// How many acquisitions have been requested.
    count: u64,
    due: Instant,
}

impl OpenLoop {
    /// The schedule of thread number `thread` of `threads`. The threads take turns on a common
    /// schedule of `per_second` arrivals.
    pub(super) fn new(per_second: f64, thread: usize, threads: usize) -> OpenLoop {
        let turn_ns = 1e9 / per_second;
        let now = Instant::now();
        OpenLoop {
            step_ns: turn_ns * threads as f64,
            offset_ns: turn_ns * thread as f64,
            start: now,
            end: now,
            count: 0,
            due: now,
        }
    }

    /// When acquisition number `count` is due. It is computed from the start each time, so that
    /// rounding errors do not add up.
    fn due_at(&self, count: u64) -> Instant {
        let ns = self.offset_ns + self.step_ns * count as f64;
        // A time that the clock cannot represent is replaced by one that never comes. The steps are
        // finite, since the load was validated.
        let never = self.start + Duration::from_secs(1 << 30);
        self.start.checked_add(Duration::from_nanos(ns as u64)).unwrap_or(never)
    }
}

impl ArrivalProcess for OpenLoop {
    fn start(&mut self, at: Instant, end: Instant) {
        (self.start, self.end) = (at, end);
    }

    #[inline]
    fn next(&mut self, stop: &AtomicBool) -> bool {
        let due = self.due_at(self.count);
        if due >= self.end {
            return false;
        }
        loop {
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            wait_some(left);
        }
        self.due = due;
        self.count += 1;
        true
    }

    #[inline]
    fn due(&self) -> Option<Instant> {
        Some(self.due)
    }

    fn record_unserved(&self, stopped: Instant, waits: &mut WaitHistogram) {
        /// The most different waits that are recorded: enough to show their distribution.
        const MAX_GROUPS: u64 = 1_000;
        let end = self.end.min(stopped);
        let first_due = self.due_at(self.count);
        let Some(until_end) = end.checked_duration_since(first_due) else { return };
        let first = stopped.saturating_duration_since(first_due);
        // The schedule does not contain its end.
        let unserved = (until_end.as_nanos() as f64 / self.step_ns).ceil() as u64;
        let groups = unserved.min(MAX_GROUPS);
        for group in 0..groups {
            let (from, to) = (unserved * group / groups, unserved * (group + 1) / groups);
            // The middle one represents its group.
            let after_first =
                Duration::from_nanos((self.step_ns * ((from + to) / 2) as f64) as u64);
            waits.record(first.saturating_sub(after_first), to - from);
        }
    }
}

/// Waits for a part of `left`, never for longer: sleeps if there is time for it, else yields or
/// spins.
#[cold]
fn wait_some(left: Duration) {
    /// How much longer than requested a sleep may take.
    const OVERSLEEP: Duration = Duration::from_micros(100);
    /// Below this, yielding the processor could take too long.
    const SPIN_BELOW: Duration = Duration::from_micros(20);
    if left > 2 * OVERSLEEP {
        thread::sleep((left - OVERSLEEP).min(MAX_SLEEP));
    } else if left > SPIN_BELOW {
        thread::yield_now();
    } else {
        spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_its_number_of_acquisitions_and_then_pauses() {
        let stop = AtomicBool::new(false);
        let mut batches = Batches::new(Batch { acquisitions: 3, pause_ns: 1_000_000 });
        let pauses = |batches: &mut Batches, count: u32| {
            let start = Instant::now();
            assert!((0..count).all(|_| batches.next(&stop)));
            start.elapsed().as_micros() / 1_000
        };
        // Three at once, then a sleep of a millisecond before every three more.
        assert!(pauses(&mut batches, 7) >= 2);
        stop.store(true, Ordering::Relaxed);
        assert_eq!([batches.next(&stop), batches.next(&stop)], [true, true], "the rest of a batch");
        assert!(!batches.next(&stop), "and no other");
    }

    #[test]
    fn a_stop_ends_a_long_pause() {
        let mut batches = Batches::new(Batch { acquisitions: 1, pause_ns: 3_600_000_000_000 });
        assert!(batches.next(&AtomicBool::new(false)));
        assert!(!batches.next(&AtomicBool::new(true)));
    }

    #[test]
    fn threads_take_turns_on_one_schedule() {
        let now = Instant::now();
        let after = |thread, count| {
            let mut open = OpenLoop::new(1e6, thread, 4);
            open.start(now, now + Duration::from_secs(1));
            (open.due_at(count) - now).as_nanos()
        };
        assert_eq!([after(0, 0), after(1, 0), after(3, 0)], [0, 1_000, 3_000]);
        assert_eq!([after(0, 1), after(1, 10)], [4_000, 41_000]);
    }

    #[test]
    fn no_acquisition_is_requested_before_it_is_due() {
        let go = AtomicBool::new(false);
        let mut open = OpenLoop::new(1_000.0, 0, 1);
        let start = Instant::now();
        open.start(start, start + Duration::from_secs(3600));
        for _ in 0..5 {
            assert!(open.next(&go));
            assert!(open.due().expect("a schedule") <= Instant::now());
        }
        assert!(open.start.elapsed() >= Duration::from_millis(4));
        assert!(!open.next(&AtomicBool::new(true)));
    }

    #[test]
    fn unserved_acquisitions_are_recorded_with_their_waits() {
        // One is due each millisecond, and none is requested for a hundred milliseconds.
        let open = |per_second, length| {
            let mut open = OpenLoop::new(per_second, 0, 1);
            let start = open.start;
            open.start(start, start + length);
            open
        };
        let late = open(1_000.0, Duration::from_millis(100));
        let mut waits = WaitHistogram::new();
        late.record_unserved(late.end, &mut waits);
        assert_eq!(waits.count(), 100);
        assert!(waits.max_ns().abs_diff(100_000_000) < 200_000, "{}", waits.max_ns());
        assert!(waits.quantile_ns(0.5).abs_diff(50_000_000) < 1_100_000);
        // No more are due after the end, and those that were wait on.
        let mut waits = WaitHistogram::new();
        late.record_unserved(late.end + Duration::from_millis(50), &mut waits);
        assert_eq!(waits.count(), 100);
        assert!(waits.max_ns().abs_diff(150_000_000) < 300_000, "{}", waits.max_ns());
        // A rate too high to record each wait takes no longer.
        let hour = open(1e9, Duration::from_secs(3600));
        let mut waits = WaitHistogram::new();
        hour.record_unserved(hour.end, &mut waits);
        assert_eq!(waits.count(), 3_600_000_000_000);
        // Nothing is recorded if nothing was due.
        let mut waits = WaitHistogram::new();
        hour.record_unserved(hour.start, &mut waits);
        assert_eq!(waits.count(), 0);
    }

    #[test]
    fn what_is_late_at_the_end_is_served_and_nothing_after_it() {
        // All ten were due in the past.
        let go = AtomicBool::new(false);
        let mut open = OpenLoop::new(1_000.0, 0, 1);
        let start = Instant::now() - Duration::from_millis(20);
        open.start(start, start + Duration::from_millis(10));
        assert_eq!((0..20).filter(|_| open.next(&go)).count(), 10);
    }
}
