//! A slice of a bounded queue: a mutex, and a Condvar for each side.
//!
//! Half of the threads push and the others pop. A waiter that nobody has notified although there is
//! room, or an item, shows that a notification was lost: after the stop the queue is closed, which
//! wakes all, only when there is no such waiter.

use super::arrivals::{ArrivalProcess, Batches, ClosedLoop};
use super::load::Load;
use super::lock_kind::{CondvarKind, MeasuredMutex};
use super::slice::{STUCK_LIMIT, SliceBody};
use super::system::{RunDelay, thread_cpu_time};
use super::work::{LongSection, Section};
use super::worker::{
    Checks, GuardedData, Instrumentation, NoInstrumentation, Pass, Tally, ThreadRole, pin_thread,
};
use crate::primitive::{AtomicBool, Ordering};
use crossbeam_utils::CachePadded;
use std::collections::VecDeque;
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

/// The two sides of a queue.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Push,
    Pop,
}

/// What the mutex protects.
struct QueueState {
    /// Its count is of all operations.
    data: GuardedData,
    items: VecDeque<u64>,
    capacity: usize,
    /// The threads of each side that wait, or were notified and have not acquired the mutex since.
    waiting: [usize; 2],
    closed: bool,
}

impl QueueState {
    /// Whether there is room, or an item.
    fn is_ready(&self, side: Side) -> bool {
        match side {
            Side::Push => self.items.len() < self.capacity,
            Side::Pop => !self.items.is_empty(),
        }
    }

    /// Whether a thread waits for what is there. That is so for a moment after each notification.
    ///
    /// Once no thread begins another operation it ends: a thread begins to wait when there is nothing
    /// for it, and for each item, or place, that comes after that one waiter is notified, who takes
    /// one or finds that others have.
    fn has_idle_waiter(&self) -> bool {
        [Side::Push, Side::Pop]
            .iter()
            .any(|side| self.waiting[*side as usize] > 0 && self.is_ready(*side))
    }
}

/// What all threads of a slice share.
pub(super) struct QueueContext<K: CondvarKind> {
    state: CachePadded<K::Mutex<QueueState>>,
    not_full: CachePadded<K::Condvar>,
    not_empty: CachePadded<K::Condvar>,
    stop: CachePadded<AtomicBool>,
    load: Load,
    processors: Vec<usize>,
}

impl<K: CondvarKind> QueueContext<K> {
    pub(super) fn new(load: &Load, capacity: usize, processors: Vec<usize>) -> Self {
        let state = QueueState {
            data: GuardedData::default(),
            items: VecDeque::with_capacity(capacity),
            capacity,
            waiting: [0; 2],
            closed: false,
        };
        QueueContext {
            state: CachePadded::new(K::Mutex::new(state)),
            not_full: CachePadded::default(),
            not_empty: CachePadded::default(),
            stop: CachePadded::new(AtomicBool::new(false)),
            load: load.clone(),
            processors,
        }
    }

    /// The Condvar at which a side waits.
    fn condvar(&self, side: Side) -> &K::Condvar {
        match side {
            Side::Push => &self.not_full,
            Side::Pop => &self.not_empty,
        }
    }

    fn with_arrivals<I: Instrumentation>(
        &self,
        side: Side,
        instrumentation: I,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        match self.load.batch {
            Some(batch) => self.run(side, Batches::new(batch), instrumentation, gate),
            None => self.run(side, ClosedLoop, instrumentation, gate),
        }
    }

    /// Runs the loop, and reads the clocks before and after it.
    fn run<P: ArrivalProcess, I: Instrumentation>(
        &self,
        side: Side,
        mut arrivals: P,
        mut instrumentation: I,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Tally> {
        let run_delay = RunDelay::of_this_thread();
        let run_delay = run_delay.start(gate()?);
        let cpu_before = thread_cpu_time();
        let (acquisitions, late) = self.operate(side, &mut arrivals, &mut instrumentation);
        let cpu = thread_cpu_time().zip(cpu_before).map(|(after, before)| after - before);
        let run_delays = vec![run_delay.end()];
        let (waits, intrusions) = instrumentation.finish();
        Some(Tally {
            acquisitions,
            late,
            reads: 0,
            intrusions,
            unpinned: false,
            // Each item is pushed and popped: it counts once.
            is_counted: side == Side::Pop,
            cpu,
            run_delays,
            ended: Instant::now(),
            waits,
        })
    }

    /// The measured loop. Returns the operations before the stop, and those after it.
    fn operate<P: ArrivalProcess, I: Instrumentation>(
        &self,
        side: Side,
        arrivals: &mut P,
        instrumentation: &mut I,
    ) -> (u64, u64) {
        let stop = &*self.stop;
        let inside = LongSection::from(self.load.inside);
        let outside = LongSection::from(self.load.outside);
        let own = self.condvar(side);
        let other = self.condvar(if side == Side::Push { Side::Pop } else { Side::Push });
        let mut private = 1;
        let mut done = 0;
        while instrumentation.go_on(stop) && arrivals.next(stop) {
            let requested = instrumentation.request(arrivals);
            let mut state = self.state.lock();
            while !state.is_ready(side) && !state.closed {
                state.waiting[side as usize] += 1;
                state = K::wait(own, state);
                state.waiting[side as usize] -= 1;
            }
            if !state.is_ready(side) {
                // It is closed. There was nothing to wait for any more: the wait is not recorded.
                break;
            }
            instrumentation.enter(requested, &mut &mut state.data);
            state.data.count += 1;
            let word = inside.spend(state.data.word ^ private, stop);
            state.data.word = word;
            match side {
                Side::Push => state.items.push_back(word),
                Side::Pop => drop(black_box(state.items.pop_front())),
            }
            instrumentation.leave(&mut &mut state.data);
            drop(state);
            K::notify_one(other);
            if stop.load(Ordering::Relaxed) {
                return (done, 1);
            }
            done += 1;
            private = outside.spend(private ^ word, stop);
        }
        black_box(private);
        (done, 0)
    }
}

impl<K: CondvarKind> SliceBody for QueueContext<K> {
    fn work(
        &self,
        role: ThreadRole,
        pass: Pass,
        gate: impl FnOnce() -> Option<Instant>,
    ) -> Option<Vec<Tally>> {
        let ThreadRole::Worker(number) = role else { return None };
        let unpinned = !pin_thread(&self.processors, number);
        let side = if number < self.load.threads / 2 { Side::Push } else { Side::Pop };
        let tally = match pass {
            Pass::Count => self.with_arrivals(side, NoInstrumentation, gate),
            _ => self.with_arrivals(side, Checks::new(number, pass == Pass::Time), gate),
        };
        tally.map(|tally| vec![Tally { unpinned, ..tally }])
    }

    fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    fn close(&self) {
        const POLL: Duration = Duration::from_millis(1);
        let start = Instant::now();
        loop {
            let mut state = self.state.lock();
            if !state.has_idle_waiter() {
                state.closed = true;
                drop(state);
                K::notify_all(&self.not_full);
                K::notify_all(&self.not_empty);
                return;
            }
            drop(state);
            if start.elapsed() > STUCK_LIMIT {
                // The waiter stays, so the slice fails.
                return;
            }
            thread::sleep(POLL);
        }
    }

    fn must_close(&self) -> bool {
        true
    }

    fn counts(&self) -> Vec<u64> {
        vec![self.state.lock().data.count]
    }
}

#[cfg(test)]
mod tests {
    use super::super::slice::{SliceError, measure_queue};
    use super::*;
    use crate::contention::{Batch, GuardOf, LockKind, LockwordCondvar, Std, Work};
    use std::sync::Condvar;

    fn load(threads: usize, capacity: usize) -> Load {
        let load = Load::new(threads).inside(Work::units(5)).outside(Work::units(20));
        load.queue(capacity).slice_ms(20)
    }

    fn measure<K: CondvarKind>(
        load: &Load,
        pass: Pass,
    ) -> Result<super::super::slice::Slice, SliceError> {
        let slice = measure_queue::<K>(load, pass, &AtomicBool::new(false))?;
        Ok(slice.expect("it is not cancelled"))
    }

    #[test]
    fn items_are_counted_once_for_each_consumer() {
        for pass in [Pass::WarmUp, Pass::Count, Pass::Time] {
            for (threads, capacity) in [(2, 1), (3, 16), (8, 2)] {
                for load in [
                    load(threads, capacity),
                    load(threads, capacity).batch(Batch { acquisitions: 3, pause_ns: 200_000 }),
                ] {
                    let slice = measure::<LockwordCondvar>(&load, pass);
                    let slice = slice.expect("it runs");
                    assert_eq!(slice.sample.acquisitions.len(), threads - threads / 2);
                    let (items, all) = (slice.sample.total(), slice.each_lock[0]);
                    // Each was pushed, too, but for what is in the queue and after the end.
                    assert!(items > 0 && all >= 2 * items, "{items} of {all}");
                    assert!(all - 2 * items <= (2 * threads + capacity) as u64, "{items} of {all}");
                    assert_eq!(slice.waits.is_some(), pass == Pass::Time);
                }
            }
        }
        assert!(measure::<Std>(&load(4, 16), Pass::Time).is_ok());
    }

    #[test]
    fn a_wait_that_the_close_ends_is_none() {
        // One of three pushes an item, and one pops it; both work outside until the stop.
        let load = load(3, 1).outside(Work::clock(Work::MAX_NS)).slice_ms(100);
        let slice = measure::<LockwordCondvar>(&load, Pass::Time).expect("it runs");
        let waits = slice.waits.expect("they are timed");
        assert_eq!(waits.count(), slice.each_lock[0]);
    }

    /// std's, but `ONE` or `ALL` notifications are lost.
    struct Broken<const ONE: bool, const ALL: bool>;

    impl<const ONE: bool, const ALL: bool> LockKind for Broken<ONE, ALL> {
        type Mutex<T: Send + Sync> = std::sync::Mutex<T>;
    }

    impl<const ONE: bool, const ALL: bool> CondvarKind for Broken<ONE, ALL> {
        type Condvar = Condvar;

        fn wait<'a, T: Send + Sync + 'static>(
            condvar: &Condvar,
            guard: GuardOf<'a, Self, T>,
        ) -> GuardOf<'a, Self, T> {
            condvar.wait(guard).expect("no panic")
        }

        fn notify_one(condvar: &Condvar) {
            if !ONE {
                condvar.notify_one();
            }
        }

        fn notify_all(condvar: &Condvar) {
            if !ALL {
                condvar.notify_all();
            }
        }
    }

    #[test]
    fn a_lost_notification_is_an_error() {
        // A thread that waits once waits for ever, so all wait soon: some of them for what is there.
        let lost_one = measure::<Broken<true, false>>(&load(3, 1).slice_ms(500), Pass::Count).err();
        assert!(matches!(lost_one, Some(SliceError::Stuck { threads: 3 })), "{lost_one:?}");
        // Of two consumers, one mostly waits at the end for what is not pushed any more.
        let load = load(3, 1).outside(Work::clock(1_000_000)).slice_ms(10);
        let lost_all = || measure::<Broken<false, true>>(&load, Pass::Count).err();
        let lost_all = (0..50).find_map(|_| lost_all());
        assert!(matches!(lost_all, Some(SliceError::Stuck { threads: 1.. })), "{lost_all:?}");
    }

    #[test]
    fn a_queue_that_is_stuck_does_not_delay_a_cancellation() {
        let cancelled = AtomicBool::new(true);
        let load = load(2, 1).slice_ms(3_600_000);
        let slice = measure_queue::<Broken<true, true>>(&load, Pass::Count, &cancelled);
        assert!(slice.expect("no error").is_none());
    }
}
