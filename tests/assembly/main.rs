//! The fast path, read in the release build's assembly: one locked instruction, and no call
//! but those to the cold slow paths.
//!
//! The symmetric mode has a fence there, and other processors other instructions.
#![cfg(all(
    target_arch = "x86_64",
    target_os = "linux",
    not(lockword_loom),
    not(lockword_symmetric)
))]

mod build;
mod function;
mod symbol;

use function::Function;
use std::collections::BTreeSet;
use symbol::demangle;

/// The slow paths, in the order of [`Function::callees`].
const SLOW_PATHS: [&str; 2] =
    ["lockword::raw::lock::lock_slow", "lockword::raw::unlock::unlock_slow"];

/// What holds for every function of the fixture that uses lockword; it calls `slow_paths`.
fn check(function: &Function, slow_paths: &[&str]) {
    let listing = function.listing();
    assert_eq!(function.locked(), 1, "one compare-and-swap, no other locked access:\n{listing}");
    assert!(!function.has("mfence"), "no fence:\n{listing}");
    assert!(function.indirect().is_empty(), "no call through a pointer:\n{listing}");
    let callees: BTreeSet<String> = function.callees().into_iter().map(demangle).collect();
    assert!(callees.iter().eq(slow_paths), "calls {callees:?}, not {slow_paths:?}:\n{listing}");
    let fast = function.shortest_path_without_call();
    let fast = fast.unwrap_or_else(|| panic!("every path calls something:\n{listing}"));
    assert!(fast <= 24, "{fast} instructions on the fast path:\n{listing}");
}

#[test]
fn the_fast_path_is_one_locked_instruction() {
    let assembly = build::assembly_of_fixture();
    check(&Function::find(&assembly, "lock_and_unlock"), &SLOW_PATHS);
    check(&Function::find(&assembly, "try_lock_and_unlock"), &SLOW_PATHS[1..]);

    // The control: a lock that releases by a swap is told apart.
    let control = Function::find(&assembly, "control");
    assert!(control.locked() >= 2, "std's mutex swaps to unlock:\n{}", control.listing());
}
