//! [`Conditions`]: what a slice was measured under, and whether something else disturbed it.

use super::load::Load;
use super::system::{MAX_DRIFT, MachineInfo, running_threads};
use super::work::unit_ns_now;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What a slice was measured under, as raw figures. [`Conditions::disturbance`] judges them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// How long one unit of work took right before the slice, in nanoseconds. It is about
    /// [`MachineInfo::unit_ns`], unless the speed of the processor has changed since the process
    /// started.
    pub unit_ns: f64,
    /// The share of the slice in which a thread of the load was ready to run and had no processor,
    /// on average over the threads; `None` where the system does not provide it (Linux does). With
    /// tasks, the threads are those of the runtime that have run a task.
    pub run_delay: Option<f64>,
    /// The same share of the thread that has the largest. On a machine with many processors the
    /// average hardly shows that one of them was taken.
    pub most_run_delay: Option<f64>,
    /// The number of threads of other processes that had a processor or waited for one, right
    /// before or right after the slice, whichever is larger; `None` where the system does not
    /// provide it (Linux does).
    pub others_running: Option<u32>,
}

/// Why a slice cannot be compared with an undisturbed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Disturbance {
    /// The unit of work took longer or less time than stated, so that the work did, too.
    Speed,
    /// Something else had the processors for which the threads were ready.
    RunDelay,
    /// Other processes wanted a processor, under a load that has more threads than processors.
    Others,
}

/// The share of a slice in which a thread may be without a processor, if there is one for each
/// thread. Waking up takes below 1 % of it; a process beside them takes a third and more.
const MAX_RUN_DELAY: f64 = 0.05;
/// The same of any one thread: what one of two can have by [`MAX_RUN_DELAY`], so that it finds nothing
/// more where there are at most two. Of 16 threads, one that has no processor for half of the slice
/// delays all that wait for it, and the average is 3 %.
const MAX_RUN_DELAY_OF_ONE: f64 = 2.0 * MAX_RUN_DELAY;

impl Conditions {
    /// What disturbed a slice of this load on this machine; `None` if nothing is known to have.
    ///
    /// The unit of work may deviate by 5 % from that of the machine. If there is a processor for
    /// each thread, the threads may wait for one in 5 % of the slice on average, and none of them in
    /// more than 10 %. If not, they always do, and no other process may want a processor.
    #[must_use]
    pub fn disturbance(&self, load: &Load, machine: &MachineInfo) -> Option<Disturbance> {
        let threads = load.threads + usize::from(load.hog.is_some());
        let speed = self.unit_ns / machine.unit_ns;
        if !(1.0 - MAX_DRIFT..=1.0 + MAX_DRIFT).contains(&speed) {
            Some(Disturbance::Speed)
        } else if threads > machine.processors {
            self.others_running.is_some_and(|others| others > 0).then_some(Disturbance::Others)
        } else {
            let is_above = |share: Option<f64>, limit| share.is_some_and(|share| share > limit);
            let waited = is_above(self.run_delay, MAX_RUN_DELAY)
                || is_above(self.most_run_delay, MAX_RUN_DELAY_OF_ONE);
            waited.then_some(Disturbance::RunDelay)
        }
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Disturbance::Speed => "the processor changed its speed",
            Disturbance::RunDelay => "threads had to wait for a processor",
            Disturbance::Others => "other processes ran",
        })
    }
}

/// The conditions of a slice that is being measured.
pub(super) struct ConditionsProbe {
    unit_ns: f64,
    others: Option<u32>,
}

impl ConditionsProbe {
    /// Reads the figures, before the threads of the slice are started. It takes 0.3 ms.
    pub(super) fn before() -> ConditionsProbe {
        ConditionsProbe { others: others_running(), unit_ns: unit_ns_now() }
    }

    /// Reads the figures again, after all threads of the slice have ended. `run_delays` has how
    /// long each of them had no processor; it is empty if the system does not tell.
    pub(super) fn after(self, run_delays: &[Duration], elapsed: Duration) -> Conditions {
        let length = elapsed.as_secs_f64();
        let share =
            |delay: &Duration| if length > 0.0 { delay.as_secs_f64() / length } else { 0.0 };
        let all: f64 = run_delays.iter().map(share).sum();
        Conditions {
            unit_ns: self.unit_ns,
            run_delay: (!run_delays.is_empty()).then(|| all / run_delays.len() as f64),
            most_run_delay: run_delays.iter().max().map(share),
            others_running: self.others.max(others_running()),
        }
    }
}

/// The threads that have a processor or wait for one, without the calling thread.
fn others_running() -> Option<u32> {
    running_threads().map(|all| all.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Conditions = Conditions {
        unit_ns: 1.0,
        run_delay: Some(0.01),
        most_run_delay: Some(0.01),
        others_running: Some(0),
    };

    fn disturbance(conditions: Conditions, load: &Load) -> Option<Disturbance> {
        on_processors(2, conditions, load)
    }

    fn on_processors(
        processors: usize,
        conditions: Conditions,
        load: &Load,
    ) -> Option<Disturbance> {
        let machine = MachineInfo { unit_ns: 1.0, processors, ..MachineInfo::read() };
        conditions.disturbance(load, &machine)
    }

    #[test]
    fn a_unit_of_another_length_is_a_disturbance() {
        for (unit_ns, found) in [(0.96, None), (1.04, None), (0.94, Some(Disturbance::Speed))] {
            assert_eq!(disturbance(Conditions { unit_ns, ..QUIET }, &Load::new(2)), found);
        }
        for unit_ns in [1.06, f64::NAN] {
            let found = disturbance(Conditions { unit_ns, ..QUIET }, &Load::new(8));
            assert_eq!(found, Some(Disturbance::Speed));
        }
    }

    #[test]
    fn a_wait_for_a_processor_is_a_disturbance_if_there_is_one_for_each_thread() {
        let delayed = Conditions { run_delay: Some(0.06), ..QUIET };
        assert_eq!(disturbance(QUIET, &Load::new(2)), None);
        assert_eq!(disturbance(delayed, &Load::new(2)), Some(Disturbance::RunDelay));
        assert_eq!(disturbance(delayed, &Load::new(3)), None);
        let hog = Load { hog: Some(super::super::Work::nanos(9)), ..Load::new(2) };
        assert_eq!(disturbance(delayed, &hog), None, "the hog is the third thread");
        let unknown = Conditions { run_delay: None, most_run_delay: None, ..QUIET };
        assert_eq!(disturbance(unknown, &Load::new(2)), None);
    }

    #[test]
    fn one_of_many_threads_that_waits_for_a_processor_is_a_disturbance() {
        // Half of the slice in one of 16.
        let one = Conditions { run_delay: Some(0.03), most_run_delay: Some(0.5), ..QUIET };
        let found = |conditions, threads| on_processors(16, conditions, &Load::new(threads));
        assert_eq!(found(one, 16), Some(Disturbance::RunDelay));
        assert_eq!(found(Conditions { most_run_delay: Some(0.09), ..one }, 16), None);
        assert_eq!(found(one, 17), None, "one of them always waits");
    }

    #[test]
    fn others_disturb_where_there_are_more_threads_than_processors() {
        let beside = Conditions { others_running: Some(1), ..QUIET };
        assert_eq!(disturbance(beside, &Load::new(2)), None);
        assert_eq!(disturbance(beside, &Load::new(3)), Some(Disturbance::Others));
        assert_eq!(disturbance(QUIET, &Load::new(3)), None);
        let unknown = Conditions { others_running: None, ..QUIET };
        assert_eq!(disturbance(unknown, &Load::new(3)), None);
    }

    #[test]
    fn the_run_delay_is_the_mean_share_of_the_threads_and_the_largest_is_kept() {
        let after = |delays: &[u64], ms| {
            let probe = ConditionsProbe { unit_ns: 1.0, others: Some(3) };
            let delays: Vec<Duration> = delays.iter().copied().map(Duration::from_millis).collect();
            probe.after(&delays, Duration::from_millis(ms))
        };
        let of = after(&[1, 4, 1], 10);
        assert!((of.run_delay.unwrap() - 0.2).abs() < 1e-9 && of.unit_ns == 1.0, "{of:?}");
        assert!((of.most_run_delay.unwrap() - 0.4).abs() < 1e-9, "{of:?}");
        assert!(of.others_running >= Some(3));
        let unknown = after(&[], 10);
        assert_eq!((unknown.run_delay, unknown.most_run_delay), (None, None));
        let empty = after(&[0, 0], 0);
        assert_eq!((empty.run_delay, empty.most_run_delay), (Some(0.0), Some(0.0)));
    }
}
