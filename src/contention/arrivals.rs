//! [`ArrivalProcess`]: when the next acquisition is due.

use super::load::Batch;
use super::statistics::WaitHistogram;
use super::work::{Work, work};
use crate::primitive::{AtomicBool, Ordering, spin_loop};
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

/// When the next acquisition is due.
pub(super) trait ArrivalProcess {
    /// When the schedule begins, if there is one: the same time for all threads.
    fn start(&mut self, _at: Instant) {}

    /// Waits until the next acquisition is due; `false` if the signal to stop came meanwhile. One
    /// that does not wait need not look at the signal: the loop does so after each section.
    fn next(&mut self, stop: &AtomicBool) -> bool;

    /// When the acquisition that [`ArrivalProcess::next`] has let go was due, if there is a schedule.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// After the signal to stop: notes the waits of all that was due by `end` and was not let go.
    fn note_unserved(&self, _end: Instant, _waits: &mut WaitHistogram) {}
}

/// At once.
pub(super) struct ClosedLoop;

impl ArrivalProcess for ClosedLoop {
    #[inline(always)]
    fn next(&mut self, _stop: &AtomicBool) -> bool {
        true
    }
}

/// Some at once, then a pause.
pub(super) struct Batches {
    size: u32,
    left: u32,
    pause: BatchPause,
}

/// A pause of a batch.
enum BatchPause {
    Work(u32),
    Sleep(Duration),
}

/// A shorter pause is worked through: the system's sleep takes some 50 us longer than requested.
const SHORTEST_SLEEP_NS: u64 = 100_000;

/// A thread sleeps for at most so long before it looks at the signal to stop.
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

/// On a schedule of its own: every `step_ns`, beginning `offset_ns` after the start of the slice.
pub(super) struct OpenLoop {
    step_ns: f64,
    offset_ns: f64,
    start: Instant,
    /// How many have been let go.
    count: u64,
    due: Instant,
}

impl OpenLoop {
    /// The part of thread number `thread` of `threads`, which take turns.
    pub(super) fn new(per_second: f64, thread: usize, threads: usize) -> OpenLoop {
        let turn_ns = 1e9 / per_second;
        let now = Instant::now();
        OpenLoop {
            step_ns: turn_ns * threads as f64,
            offset_ns: turn_ns * thread as f64,
            start: now,
            count: 0,
            due: now,
        }
    }

    /// When number `count` is due. Reckoned from the start each time, so that no error adds up.
    fn due_at(&self, count: u64) -> Instant {
        let ns = self.offset_ns + self.step_ns * count as f64;
        // A time beyond the clock's end never comes. The steps are finite: the load was validated.
        let never = self.start + Duration::from_secs(1 << 30);
        self.start.checked_add(Duration::from_nanos(ns as u64)).unwrap_or(never)
    }
}

impl ArrivalProcess for OpenLoop {
    fn start(&mut self, at: Instant) {
        self.start = at;
    }

    #[inline]
    fn next(&mut self, stop: &AtomicBool) -> bool {
        let due = self.due_at(self.count);
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

    fn note_unserved(&self, end: Instant, waits: &mut WaitHistogram) {
        /// So many different waits are enough to tell how they are spread.
        const GROUPS: u64 = 1_000;
        let Some(first) = end.checked_duration_since(self.due_at(self.count)) else { return };
        // One due at the very end has not waited.
        let unserved = (first.as_nanos() as f64 / self.step_ns).ceil() as u64;
        let groups = unserved.min(GROUPS);
        for group in 0..groups {
            let (from, to) = (unserved * group / groups, unserved * (group + 1) / groups);
            // The one in the middle stands for all of its group.
            let after_first =
                Duration::from_nanos((self.step_ns * ((from + to) / 2) as f64) as u64);
            waits.note(first.saturating_sub(after_first), to - from);
        }
    }
}

/// Waits for a part of `left`, never for longer: asleep if there is time, else awake.
#[cold]
fn wait_some(left: Duration) {
    /// How much longer a sleep may take than it should.
    const LATE: Duration = Duration::from_micros(100);
    const SOON: Duration = Duration::from_micros(20);
    if left > 2 * LATE {
        thread::sleep((left - LATE).min(MAX_SLEEP));
    } else if left > SOON {
        thread::yield_now();
    } else {
        spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_as_long_as_it_should_be() {
        let stop = AtomicBool::new(false);
        let mut batches = Batches::new(Batch { acquisitions: 3, pause_ns: 1_000_000 });
        let pauses = |batches: &mut Batches, count: u32| {
            let start = Instant::now();
            assert!((0..count).all(|_| batches.next(&stop)));
            start.elapsed().as_micros() / 1_000
        };
        // Three at once, then a millisecond asleep before each three more.
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
            open.start(now);
            (open.due_at(count) - now).as_nanos()
        };
        assert_eq!([after(0, 0), after(1, 0), after(3, 0)], [0, 1_000, 3_000]);
        assert_eq!([after(0, 1), after(1, 10)], [4_000, 41_000]);
    }

    #[test]
    fn none_is_let_go_before_it_is_due() {
        let go = AtomicBool::new(false);
        let mut open = OpenLoop::new(1_000.0, 0, 1);
        open.start(Instant::now());
        for _ in 0..5 {
            assert!(open.next(&go));
            assert!(open.due().expect("a schedule") <= Instant::now());
        }
        assert!(open.start.elapsed() >= Duration::from_millis(4));
        assert!(!open.next(&AtomicBool::new(true)));
    }

    #[test]
    fn what_was_not_served_has_waited_too() {
        // One each millisecond from the start on, and none was let go in a hundred of them.
        let mut open = OpenLoop::new(1_000.0, 0, 1);
        open.start(Instant::now());
        let end = open.start + Duration::from_millis(100);
        let mut waits = WaitHistogram::new();
        open.note_unserved(end, &mut waits);
        assert_eq!(waits.count(), 100);
        assert!(waits.max_ns().abs_diff(100_000_000) < 200_000, "{}", waits.max_ns());
        assert!(waits.quantile_ns(0.5).abs_diff(50_000_000) < 1_100_000);
        // A rate that cannot be listed one by one takes no longer.
        let mut open = OpenLoop::new(1e9, 0, 1);
        open.start(Instant::now());
        let mut waits = WaitHistogram::new();
        open.note_unserved(open.start + Duration::from_secs(3600), &mut waits);
        assert_eq!(waits.count(), 3_600_000_000_000);
        // And nothing is, if nothing was due.
        let mut waits = WaitHistogram::new();
        open.note_unserved(open.start, &mut waits);
        assert_eq!(waits.count(), 0);
    }
}
