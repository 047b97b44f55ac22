//! Every exit status of the program, in one place.
//!
//! Scripts depend on these numbers. Those from 64 on are of `sysexits.h`, where it has a fitting one.
//! `bench`, `compare` and `show` keep their own: 1 for a lock that has become slower, 2 for every failure.

/// `status --exit-code`: the lock is held.
pub const HELD: u8 = 1;
/// `break`: the question was not answered with yes.
pub const NOT_BROKEN: u8 = 1;
/// A failure of `bench`, `compare` and `show`.
pub const BENCH_FAILED: u8 = 2;
/// The command line is wrong, or this build or system cannot do it.
pub const USAGE: u8 = 64;
/// The engine cannot be reached, or is not fit (`status --health`: there is no watch, too); a register has something else than a lock; or the system
/// refuses what `run` needs.
pub const UNREACHABLE: u8 = 69;
/// The result cannot be written to standard output: the disk is full.
pub const CANNOT_WRITE: u8 = 74;
/// The lock is busy, or the time to wait is over. The command was not started.
pub const BUSY: u8 = 75;
/// The lock was lost while the command ran; or `gate` has refused the token.
pub const LOST: u8 = 76;
/// The engine refuses the credentials.
pub const DENIED: u8 = 77;
/// The command was found, and cannot be executed.
pub const CANNOT_EXECUTE: u8 = 126;
/// The command was not found.
pub const NOT_FOUND: u8 = 127;

/// After the death by this signal, as a shell has it.
pub const fn of_signal(number: i32) -> u8 {
    (128 + number) as u8
}

/// The exit status after Ctrl-C: 128 plus the number of SIGINT.
pub const INTERRUPTED: u8 = of_signal(2);
