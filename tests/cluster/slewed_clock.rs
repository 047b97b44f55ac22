//! The clock of a node while time synchronization slews those of the kernel by a tenth, the most that it
//! can (`ADJ_TICK` of adjtimex(2)).
//!
//! This changes a clock of the machine, for a third of a second each way, and needs the right to do so.
//! It is the only test of its program, since other tests would notice.
#![cfg(target_os = "linux")]

use lockword::cluster::{Memory, Node};
use std::time::Duration;

/// Restores the rate when it is dropped.
struct Slewed {
    before: libc::timex,
}

fn adjust(modes: libc::c_uint, tick: libc::c_long) -> Result<libc::timex, std::io::Error> {
    // SAFETY: a C structure of numbers, for which zeros are valid.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    (timex.modes, timex.tick) = (modes, tick);
    // SAFETY: the structure is ours to write.
    match unsafe { libc::adjtimex(&raw mut timex) } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(timex),
    }
}

impl Slewed {
    /// `None`: the system does not permit it.
    fn by(tick: libc::c_long) -> Option<Self> {
        let before = adjust(0, 0).ok()?;
        match adjust(libc::ADJ_TICK, tick) {
            Ok(_) => Some(Self { before }),
            Err(why) => {
                eprintln!("skipped: adjtimex is refused ({why}); it takes CAP_SYS_TIME");
                None
            }
        }
    }
}

impl Drop for Slewed {
    fn drop(&mut self) {
        adjust(libc::ADJ_TICK, self.before.tick).expect("it was permitted before");
    }
}

fn read(clock: libc::clockid_t) -> Duration {
    // SAFETY: a C structure of numbers, for which zeros are valid.
    let mut now: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is ours to write.
    assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut now) }, 0);
    Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).expect("below 10^9"))
}

#[test]
fn a_lease_is_not_slewed() {
    let node = Node::builder(Memory::new()).lease(Duration::from_secs(60)).build().unwrap();
    let guard = node.blocking().lock("k").unwrap().acquire().unwrap();
    for (tick, rate) in [(9_000, 0.9), (11_000, 1.1)] {
        let Some(_slewed) = Slewed::by(tick) else { return };
        // The new rate holds from the next tick of the kernel's timer on.
        std::thread::sleep(Duration::from_millis(20));
        // All at one moment.
        let all = || loop {
            let raw = read(libc::CLOCK_MONOTONIC_RAW);
            let all = (guard.remaining(), raw, read(libc::CLOCK_BOOTTIME));
            if read(libc::CLOCK_MONOTONIC_RAW) - raw < Duration::from_micros(200) {
                return all;
            }
        };
        let (left, raw, slewed) = all();
        // It goes on the raw clock, so that the slew has no part in it.
        while read(libc::CLOCK_MONOTONIC_RAW) < raw + Duration::from_millis(300) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let (left_now, raw_now, slewed_now) = all();
        let (raw, slewed) = (raw_now - raw, slewed_now - slewed);
        let passed = left - left_now;
        let shown = slewed.as_secs_f64() / raw.as_secs_f64();
        assert!((shown - rate).abs() < 0.02, "tick {tick}: the slew is {shown}");
        let off = passed.abs_diff(raw);
        assert!(off < Duration::from_millis(3), "tick {tick}: {passed:?} passed in {raw:?}");
    }
}
