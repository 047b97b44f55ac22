//! Makes the kernel refuse system calls to this process, as a sandbox would.

use std::io;

/// Which calls of `membarrier` are refused.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(dead_code, reason = "not every test binary refuses it")]
pub enum Refuse {
    /// Every call.
    All,
    /// Only the barrier itself; to ask and to register still work.
    Barrier,
}

const PRIVATE_EXPEDITED: u32 = 1 << 3;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const ANSWER: u32 = libc::BPF_RET | libc::BPF_K;

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Leaves out `jf` statements unless the loaded word is `k`.
fn jump_unless_equal(k: u32, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ) as u16, jt: 0, jf, k }
}

/// Puts the filter in force for all threads of this process, for good.
fn install(filter: &mut [libc::sock_filter]) {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };

    // SAFETY: takes numbers only.
    let ret = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(ret, 0, "no_new_privs: {}", io::Error::last_os_error());
    // SAFETY: the program and its filter live until the call returns; the kernel copies them.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    assert_eq!(ret, 0, "seccomp: {}", io::Error::last_os_error());
}

/// From now on, the kernel kills this process when a thread of it opens a file.
#[allow(dead_code, reason = "not every test binary forbids it")]
pub fn kill_on_open() {
    // AArch64 never had the oldest of them.
    #[cfg(target_arch = "x86_64")]
    const CALLS: [libc::c_long; 3] = [libc::SYS_open, libc::SYS_openat, libc::SYS_openat2];
    #[cfg(not(target_arch = "x86_64"))]
    const CALLS: [libc::c_long; 2] = [libc::SYS_openat, libc::SYS_openat2];
    let mut filter = vec![statement(LOAD, 0)];
    for call in CALLS {
        filter.push(jump_unless_equal(call as u32, 1));
        filter.push(statement(ANSWER, libc::SECCOMP_RET_KILL_PROCESS));
    }
    filter.push(statement(ANSWER, libc::SECCOMP_RET_ALLOW));
    install(&mut filter);
}

/// From now on, the kernel kills this process when a thread of it calls `membarrier`.
#[allow(dead_code, reason = "not every test binary forbids it")]
pub fn kill_on_membarrier() {
    kill_on(libc::SYS_membarrier);
}

/// From now on, the kernel kills this process when a thread of it makes this call.
#[allow(dead_code, reason = "not every test binary forbids it")]
pub fn kill_on(call: libc::c_long) {
    install(&mut [
        statement(LOAD, 0),
        jump_unless_equal(call as u32, 1),
        statement(ANSWER, libc::SECCOMP_RET_KILL_PROCESS),
        statement(ANSWER, libc::SECCOMP_RET_ALLOW),
    ]);
}

/// From now on, this call fails with `errno` in every thread of this process.
#[allow(dead_code, reason = "not every test binary refuses it")]
pub fn refuse(call: libc::c_long, errno: i32) {
    install(&mut [
        statement(LOAD, 0),
        jump_unless_equal(call as u32, 1),
        statement(ANSWER, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(ANSWER, libc::SECCOMP_RET_ALLOW),
    ]);
}

/// From now on, `futex` can only sleep and wake: every other operation fails in every thread of this process.
#[allow(dead_code, reason = "not every test binary refuses it")]
pub fn refuse_requeue() {
    // The operation is the second argument, at 24.
    install(&mut [
        statement(LOAD, 0),
        jump_unless_equal(libc::SYS_futex as u32, 3),
        statement(LOAD, 24),
        jump_unless_equal((libc::FUTEX_REQUEUE | libc::FUTEX_PRIVATE_FLAG) as u32, 1),
        statement(ANSWER, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(ANSWER, libc::SECCOMP_RET_ALLOW),
    ]);
}

/// From now on, `membarrier` fails with `errno` in every thread of this process.
#[allow(dead_code, reason = "not every test binary refuses it")]
pub fn refuse_membarrier(refuse: Refuse, errno: i32) {
    // `struct seccomp_data`: the number of the call at 0, the low half of its first argument at
    // 16 (both targets of this test are little-endian).
    let mut filter = vec![statement(LOAD, 0)];
    match refuse {
        Refuse::All => filter.push(jump_unless_equal(libc::SYS_membarrier as u32, 1)),
        Refuse::Barrier => filter.extend([
            jump_unless_equal(libc::SYS_membarrier as u32, 3),
            statement(LOAD, 16),
            jump_unless_equal(PRIVATE_EXPEDITED, 1),
        ]),
    }
    filter.push(statement(ANSWER, libc::SECCOMP_RET_ERRNO | errno as u32));
    filter.push(statement(ANSWER, libc::SECCOMP_RET_ALLOW));
    install(&mut filter);
    assert_eq!(membarrier(PRIVATE_EXPEDITED), errno, "the filter is not in force");
    if refuse == Refuse::All {
        assert_eq!(membarrier(0), errno, "the filter is not in force");
    }
}

/// The error number of a call of `membarrier`, 0 if it succeeds.
fn membarrier(command: u32) -> i32 {
    // SAFETY: membarrier changes no memory of the caller.
    match unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) } {
        -1 => io::Error::last_os_error().raw_os_error().unwrap_or(-1),
        _ => 0,
    }
}
