//! The fast path in a release build: one locked instruction, no fence, and no call but those to
//! the two cold slow paths.
//!
//! The symmetric mode has a fence there, and other processors have other instructions.
#![cfg(all(
    target_arch = "x86_64",
    target_os = "linux",
    not(lockword_loom),
    not(lockword_symmetric)
))]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// What is compiled. std's mutex, which swaps to unlock, shows that a second locked access is seen.
const FIXTURE: &str = r#"
#[unsafe(no_mangle)]
pub fn lock_and_unlock(m: &lockword::Mutex<u32>) { *m.lock() += 1; }
#[unsafe(no_mangle)]
pub fn try_lock_and_unlock(m: &lockword::Mutex<u32>) -> bool {
    m.try_lock().is_some_and(|mut guard| { *guard += 1; true })
}
#[unsafe(no_mangle)]
pub fn read_and_unlock(l: &lockword::RwLock<u32>) -> u32 { *l.read() }
#[unsafe(no_mangle)]
pub fn control(m: &std::sync::Mutex<u32>) { if let Ok(mut guard) = m.lock() { *guard += 1; } }
"#;

/// The instructions of the function `name`, a line each: `lock cmpxchgb %al, (%rdi)`.
fn function(assembly: &str, name: &str) -> String {
    let lines = assembly.lines().skip_while(|line| *line != format!("{name}:")).skip(1);
    let lines = lines.take_while(|line| !line.contains(".cfi_endproc")).map(str::trim);
    let code = lines.filter(|line| !line.starts_with(['.', '#'])).collect::<Vec<_>>().join("\n");
    assert!(!code.is_empty(), "{name} is not in the assembly");
    // The prefix has a line of its own.
    code.replace('\t', " ").replace("lock\n", "lock ")
}

/// How many instructions lock the bus: those that say so, and swaps with memory.
fn locked(code: &str) -> usize {
    let swaps = |line: &str| line.starts_with("xchg") && line.contains('(');
    code.lines().filter(|line| line.starts_with("lock ") || swaps(line)).count()
}

/// The targets of all calls, and of all jumps that leave the function or go through a pointer.
/// They are symbols, without the hash and the table of symbols that they are read from.
fn callees(code: &str) -> BTreeSet<&str> {
    let branches = code.lines().filter(|line| line.starts_with("call") || line.starts_with('j'));
    let targets = branches.filter_map(|line| line.split(' ').nth(1));
    let targets = targets.filter(|target| !target.starts_with(".L"));
    targets.filter_map(|target| target.split("@GOTPCREL").next()?.split("17h").next()).collect()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(std::env::var(program).unwrap_or(program.to_lowercase()));
    // Nothing from outside changes the code: neither a sanitizer nor a profile.
    let kinds = ["PROFILE", "TARGET", "BUILD", "ENCODED"].map(|kind| format!("CARGO_{kind}_"));
    let flags = ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"];
    for (name, _) in std::env::vars() {
        if kinds.iter().any(|kind| name.starts_with(kind)) || flags.contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    let output =
        command.args(arguments).output().expect("the toolchain that built this test is here");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_fast_path_is_one_locked_instruction() {
    // A target folder of its own, since the cargo that runs this test may hold the usual one.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("assembly");
    let path = |name: &str| target.join(name).to_str().expect("UTF-8").to_owned();
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let build = ["build", "--release", "--lib", "--offline", "--manifest-path", manifest];
    run("CARGO", &[&build[..], &["--target-dir", &path("")]].concat());
    std::fs::write(path("fast_path.rs"), FIXTURE).expect("a folder to write to");
    let options = ["--edition=2024", "--crate-type=lib", "-Copt-level=3", "-Ccodegen-units=1"];
    let emit = ["--emit=asm", "-o", &path("fast_path.s"), &path("fast_path.rs"), "--extern"];
    let library = format!("lockword={}", path("release/liblockword.rlib"));
    let dependencies = format!("-Ldependency={}", path("release/deps"));
    run("RUSTC", &[&options[..], &emit, &[&library, &dependencies]].concat());
    let assembly = std::fs::read_to_string(path("fast_path.s")).expect("rustc wrote it");

    let both: &[&str] = &["9lock_slow", "11unlock_slow"];
    for (name, slow_paths) in [("lock_and_unlock", both), ("try_lock_and_unlock", &both[1..])] {
        let code = function(&assembly, name);
        assert_eq!(locked(&code), 1, "one compare-and-swap, no other locked access:\n{code}");
        assert!(!code.contains("mfence"), "no fence:\n{code}");
        let callees = callees(&code);
        let is_slow = |callee: &&str| {
            callee.contains("8lockword") && slow_paths.iter().any(|path| callee.ends_with(path))
        };
        let expected = callees.len() == slow_paths.len() && callees.iter().all(is_slow);
        assert!(expected, "calls {callees:?}, not {slow_paths:?}:\n{code}");
        assert!(code.lines().count() <= 40, "more than the fast path is inlined:\n{code}");
    }
    // What is inlined is the path of a reader in a slot. The counted readers are called.
    let code = function(&assembly, "read_and_unlock");
    assert_eq!(locked(&code), 0, "a reader runs no locked instruction:\n{code}");
    assert!(!code.contains("mfence"), "no fence:\n{code}");
    let control = function(&assembly, "control");
    assert!(locked(&control) >= 2, "std's mutex swaps to unlock:\n{control}");
}
