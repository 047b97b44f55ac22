//! Runs a piece of a thread an instruction at a time, and something else in between.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// The thread runs.
const RUNS: u32 = 0;
/// The thread has stopped between two instructions.
const STOPPED: u32 = 1;
/// The piece is over.
const OVER: u32 = 2;

static STATE: AtomicU32 = AtomicU32::new(RUNS);

/// Stops the thread until it is told to go on. It calls nothing that is not allowed in a handler of signals.
extern "C" fn stop(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    STATE.store(STOPPED, Ordering::Release);
    while STATE.load(Ordering::Acquire) == STOPPED {
        // SAFETY: touches no memory.
        unsafe { libc::sched_yield() };
    }
}

/// Runs `piece` in a thread that has run `before`, and `between` in this one before each instruction of it,
/// with the number of instructions so far. Only one at a time in a process.
pub fn single_step<T: Send>(
    before: impl FnOnce() -> T + Send,
    piece: impl FnOnce(T) + Send,
    mut between: impl FnMut(usize),
) {
    // SAFETY: all zeros are a set of no signals and no flags, and the handler has the type for SA_SIGINFO.
    unsafe {
        let mut action = std::mem::zeroed::<libc::sigaction>();
        action.sa_sigaction = stop as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGTRAP, &raw const action, std::ptr::null_mut()), 0);
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let given = before();
            // SAFETY: sets the trap flag (bit 8), which the kernel keeps while a handler runs, and no other.
            unsafe { std::arch::asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
            piece(given);
            // SAFETY: clears it.
            unsafe { std::arch::asm!("pushfq", "and qword ptr [rsp], -0x101", "popfq") };
            STATE.store(OVER, Ordering::Release);
        });
        for step in 0.. {
            loop {
                match STATE.load(Ordering::Acquire) {
                    RUNS => thread::yield_now(),
                    STOPPED => break,
                    _ => return STATE.store(RUNS, Ordering::Relaxed),
                }
            }
            between(step);
            STATE.store(RUNS, Ordering::Release);
        }
    });
}
