//! Which processor a thread runs on.

use std::io;
use std::mem::{size_of_val, zeroed};

/// Binds the calling thread, and those that it will start, to one of the processors that it may use: the first for 0,
/// the second for 1, and so on, from the first again after the last.
pub fn bind(number: usize) {
    // SAFETY: a set of processors is bits, and all zeros are one; the calls read or write no other
    // memory than the sets.
    let ret = unsafe {
        let mut all: libc::cpu_set_t = zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of_val(&all), &mut all), 0);
        let allowed = (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &all));
        let mut one: libc::cpu_set_t = zeroed();
        libc::CPU_SET(allowed.cycle().nth(number).expect("there is one"), &mut one);
        libc::sched_setaffinity(0, size_of_val(&one), &one)
    };
    assert_eq!(ret, 0, "affinity: {}", io::Error::last_os_error());
}
