//! A clock whose rate nobody changes and that counts suspend, made of clocks that have one of the two.
//!
//! `CLOCK_MONOTONIC_RAW` is not slewed, and stands still while the machine is suspended. How long that
//! was is the difference between `CLOCK_BOOTTIME` and `CLOCK_MONOTONIC`, which are slewed alike. So the
//! time is the raw clock plus that difference ([`RawClock::read_all`]).
//!
//! Four readings take four times as long as one, and the time is read several times for each local
//! handoff. So there is a base, at most a millisecond old, and the time is the base plus seven eighths
//! of what `CLOCK_BOOTTIME` has gone since ([`RawClock::now`]). A suspend shows in that at once, since
//! it makes the base old. A slew of up to 10 % does not matter: seven eighths of a clock that is too fast
//! by a tenth is less than one of the right rate, so the time never gets ahead of what the four readings
//! give.

#[cfg(target_has_atomic = "64")]
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The clocks of the kernel, in nanoseconds. A test makes them up.
pub(super) trait Readings {
    fn boottime(&self) -> u64;
    fn monotonic(&self) -> u64;
    fn raw(&self) -> u64;
}

/// For how long, on `CLOCK_BOOTTIME`, a base is used.
const BASE_AGE: u64 = 1_000_000;
/// Readings that took longer than this belong to no one moment.
const APART: u64 = 50_000;
/// The suspended time is taken anew only if it has grown by more than this. It is exact to [`APART`].
const STEP: u64 = 1_000_000;
/// How often the clocks are read at most until they belong to one moment.
const TRIES: u32 = 1000;
/// Added to the suspended time, and so to the time, so that neither is negative in a time namespace:
/// about 36 years.
const OFFSET: u64 = 1 << 60;

pub(super) struct RawClock {
    /// The difference between `CLOCK_BOOTTIME` and `CLOCK_MONOTONIC`, and [`OFFSET`].
    suspended: Largest,
    /// The time at a base, less seven eighths of `CLOCK_BOOTTIME` then.
    base: Largest,
    /// `CLOCK_BOOTTIME` at the last base.
    base_at: Largest,
}

impl RawClock {
    /// By how much a reading may be behind the raw clock and the suspended time: by [`STEP`] and
    /// [`APART`], and by a quarter of [`BASE_AGE`]; two milliseconds are more than all of that.
    pub(super) const BEHIND: Duration = Duration::from_millis(2);

    pub(super) const fn new() -> Self {
        Self { suspended: Largest::new(), base: Largest::new(), base_at: Largest::new() }
    }

    /// The time, in nanoseconds. It never goes backwards, across threads either.
    ///
    /// Why it does not go backwards: `base` only grows, and so does `CLOCK_BOOTTIME`. A call that
    /// happens after another one sees at least the same of both.
    pub(super) fn now(&self, clocks: &impl Readings) -> u64 {
        let base_at = self.base_at.get();
        let boottime = clocks.boottime();
        // If the base is newer than `boottime`, this is a large number.
        if boottime.wrapping_sub(base_at) < BASE_AGE {
            // At least the base that belongs to `base_at`, since that was written after it. A larger one
            // is another thread's, and as good.
            return time(self.base.get(), boottime);
        }
        self.read_all(clocks)
    }

    /// Reads all clocks, and makes a new base.
    fn read_all(&self, clocks: &impl Readings) -> u64 {
        let mut tries = 0;
        loop {
            let before = clocks.boottime();
            let (monotonic, raw) = (clocks.monotonic(), clocks.raw());
            let boottime = clocks.boottime();
            let is_one_moment = boottime.wrapping_sub(before) <= APART;
            tries += 1;
            if !is_one_moment && tries < TRIES {
                continue;
            }
            // No more than the difference, since `before` was read first.
            let seen = before.wrapping_add(OFFSET).wrapping_sub(monotonic);
            let known = self.suspended.get();
            let suspended = if seen > known + STEP { self.suspended.raise(seen) } else { known };
            let base = self.base.raise((raw + suspended).saturating_sub(part(boottime)));
            if is_one_moment {
                // With a suspend in between, `boottime` counts it, and the base does not.
                self.base_at.raise(boottime);
            }
            return time(base, boottime);
        }
    }
}

/// Seven eighths.
fn part(boottime: u64) -> u64 {
    boottime - boottime / 8
}

fn time(base: u64, boottime: u64) -> u64 {
    base + part(boottime)
}

/// A number that only grows.
#[cfg(target_has_atomic = "64")]
struct Largest(AtomicU64);

#[cfg(target_has_atomic = "64")]
impl Largest {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn get(&self) -> u64 {
        // ORDERING: with the Release in `raise`: whoever sees a number sees what was raised before it.
        self.0.load(Ordering::Acquire)
    }

    /// Returns the number that it is then.
    fn raise(&self, to: u64) -> u64 {
        // ORDERING: Release for the Acquire in `get`.
        self.0.fetch_max(to, Ordering::Release).max(to)
    }
}

/// A number that only grows.
#[cfg(not(target_has_atomic = "64"))]
struct Largest(crate::Mutex<u64>);

#[cfg(not(target_has_atomic = "64"))]
impl Largest {
    const fn new() -> Self {
        Self(crate::Mutex::new(0))
    }

    fn get(&self) -> u64 {
        *self.0.lock()
    }

    /// Returns the number that it is then.
    fn raise(&self, to: u64) -> u64 {
        let mut number = self.0.lock();
        *number = to.max(*number);
        *number
    }
}

#[cfg(test)]
mod tests {
    use super::{BASE_AGE, OFFSET, RawClock, Readings, STEP};
    use std::cell::RefCell;

    /// A machine whose clocks are slewed, and which is suspended now and then, between two readings too.
    struct Machine {
        random: fastrand::Rng,
        raw: u64,
        monotonic: f64,
        suspended: u64,
        /// The rate of `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME`, as measured by the raw clock.
        rate: f64,
        suspends: bool,
    }

    impl Machine {
        fn pass(&mut self, nanos: u64) {
            self.raw += nanos;
            self.monotonic += nanos as f64 * self.rate;
        }

        fn suspend(&mut self) {
            self.suspended += self.random.u64(..20_000_000_000);
        }

        /// What happens between two readings.
        fn tick(&mut self) {
            let nanos = if self.random.u8(..50) == 0 { 200_000 } else { 60 };
            self.pass(nanos);
            if self.suspends && self.random.u8(..100) == 0 {
                self.suspend();
            }
        }
    }

    impl Readings for RefCell<Machine> {
        fn boottime(&self) -> u64 {
            let mut machine = self.borrow_mut();
            machine.tick();
            machine.monotonic as u64 + machine.suspended
        }

        fn monotonic(&self) -> u64 {
            let mut machine = self.borrow_mut();
            machine.tick();
            machine.monotonic as u64
        }

        fn raw(&self) -> u64 {
            let mut machine = self.borrow_mut();
            machine.tick();
            machine.raw
        }
    }

    fn machine(seed: u64, suspends: bool) -> RefCell<Machine> {
        let random = fastrand::Rng::with_seed(seed);
        let (raw, monotonic, suspended) = (5_000_000_000, 5_000_000_000.0, 7_000_000_000);
        RefCell::new(Machine { random, raw, monotonic, suspended, rate: 1.0, suspends })
    }

    /// The time that is right: at the beginning of a call, or at its end.
    fn truth(machine: &RefCell<Machine>) -> u64 {
        machine.borrow().raw + machine.borrow().suspended
    }

    #[test]
    fn the_time_is_the_raw_clock_and_the_suspended_time_whatever_the_slew() {
        for (seed, suspends) in (0..40).flat_map(|seed| [(seed, false), (seed, true)]) {
            let (clock, machine) = (RawClock::new(), machine(seed, suspends));
            let (behind, mut last) = (RawClock::BEHIND.as_nanos() as u64, 0);
            for round in 0..20_000 {
                {
                    let mut machine = machine.borrow_mut();
                    if round % 50 == 0 {
                        machine.rate =
                            [0.9, 0.916, 1.0, 1.0001, 1.084, 1.1][machine.random.usize(..6)];
                    }
                    let gap =
                        [0, 100, 10_000, BASE_AGE - 1_000, 50_000_000][machine.random.usize(..5)];
                    let gap = machine.random.u64(..=gap);
                    machine.pass(gap);
                }
                let before = truth(&machine);
                let time = clock.now(&machine) - OFFSET;
                let after = truth(&machine);
                assert!(time >= last, "{seed}: it goes back from {last} to {time}");
                assert!(time <= after, "{seed}: {time} is ahead of {after}");
                assert!(time + behind >= before, "{seed}: {time} is behind {before}");
                last = time;
            }
        }
    }

    /// It is not missed because the base is young.
    #[test]
    fn a_suspend_shows_in_the_next_reading() {
        let (clock, machine) = (RawClock::new(), machine(1, false));
        for _ in 0..1_000 {
            let before = clock.now(&machine);
            let slept = {
                let mut machine = machine.borrow_mut();
                let was = machine.suspended;
                machine.suspend();
                machine.suspended - was
            };
            let shown = clock.now(&machine) - before;
            assert!(shown + STEP + 100_000 >= slept, "{shown} of {slept}");
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn the_clock_of_this_machine_never_goes_back_across_threads() {
        use crate::cluster::local::clock::NodeClock;
        use std::sync::atomic::{AtomicU64, Ordering};

        let latest = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100_000 {
                        let before = latest.load(Ordering::Acquire);
                        let now = NodeClock::System.now().since_origin().as_nanos() as u64;
                        assert!(now >= before, "{now} after {before}");
                        latest.fetch_max(now, Ordering::Release);
                    }
                });
            }
        });
    }
}
