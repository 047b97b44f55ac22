//! Runs a piece of a thread an instruction at a time, and something else in between.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// The thread runs.
const RUNS: u32 = 0;
/// The thread has stopped between two instructions.
const STOPPED: u32 = 1;
/// The piece is over.
const OVER: u32 = 2;

static STATE: AtomicU32 = AtomicU32::new(RUNS);

/// Where the kernel's own code is in this process (`vdso(7)`): that which reads the clock, above all. It begins again
/// whenever the kernel has moved the clock meanwhile, so that it would never end if each of its instructions took as
/// long as a tick.
static KERNELS: OnceLock<Range<usize>> = OnceLock::new();

fn kernels() -> Range<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("the maps of this process");
    let range = maps.lines().find(|line| line.ends_with("[vdso]")).and_then(|line| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        Some(address(from)?..address(to)?)
    });
    range.unwrap_or_default()
}

/// Stops the thread until it is told to go on. It calls nothing that is not allowed in a handler of signals.
extern "C" fn stop(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO the state of the interrupted thread, until it returns.
    let at =
        unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] };
    if KERNELS.get().is_some_and(|kernels| kernels.contains(&(at.cast_unsigned() as usize))) {
        return;
    }
    STATE.store(STOPPED, Ordering::Release);
    while STATE.load(Ordering::Acquire) == STOPPED {
        // SAFETY: touches no memory.
        unsafe { libc::sched_yield() };
    }
}

/// Runs `piece` in a thread that has run `before`, and `between` in this one before each instruction of it that is not
/// the kernel's, with the number of instructions so far. Only one at a time in a process.
pub fn single_step<T: Send>(
    before: impl FnOnce() -> T + Send,
    piece: impl FnOnce(T) + Send,
    mut between: impl FnMut(usize),
) {
    KERNELS.get_or_init(kernels);
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
