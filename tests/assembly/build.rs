//! Compiles the fixture to assembly, the way a user's release build does.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The assembly of `tests/fixtures/fast_path.rs`.
///
/// It is built with the default features and with no flags from outside, whatever this test
/// itself was built with (a sanitizer, coverage), in a target folder of its own, since the
/// cargo that runs this test may hold the lock of the usual one. What cargo needs is on this
/// machine: it was needed to build this test.
pub fn assembly_of_fixture() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("assembly");
    let library = build_library(root, &target);
    let output = target.join("fast_path.s");
    let mut rustc = clean(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()));
    rustc
        .args(["--edition", "2024", "--crate-type", "lib", "--crate-name", "fast_path"])
        .args(["-C", "opt-level=3", "-C", "codegen-units=1", "--emit", "asm"])
        .arg("--extern")
        .arg(format!("lockword={}", library.display()))
        .arg("-L")
        .arg(format!("dependency={}", library.with_file_name("deps").display()))
        .arg("-o")
        .arg(&output)
        .arg(root.join("tests/fixtures/fast_path.rs"));
    run(rustc);
    std::fs::read_to_string(output).expect("rustc wrote the assembly")
}

/// Builds lockword itself in release mode; returns the path of its `.rlib`.
fn build_library(root: &Path, target: &Path) -> PathBuf {
    let mut cargo = clean(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo
        .args(["build", "--release", "--lib", "--offline", "--message-format", "json"])
        .arg("--manifest-path")
        .arg(root.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target);
    run(cargo)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "lockword")
        .filter_map(|message| Some(PathBuf::from(message["filenames"][0].as_str()?)))
        .find(|path| path.extension().is_some_and(|extension| extension == "rlib"))
        .expect("cargo names the library that it built")
}

/// A command that inherits nothing which changes how code is compiled.
fn clean(program: String) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let changes_code = text.starts_with("CARGO_PROFILE_")
            || text.starts_with("CARGO_TARGET_")
            || text.starts_with("CARGO_BUILD_")
            || text.starts_with("CARGO_ENCODED_")
            || matches!(&*text, "RUSTFLAGS" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER");
        if changes_code {
            command.env_remove(&name);
        }
    }
    command
}

fn run(mut command: Command) -> String {
    let output = command.output().expect("the toolchain that built this test is here");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}
