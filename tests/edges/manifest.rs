//! What every user of the crate has to build: the manifest, and the lock file below it.
//!
//! The default features bring no async runtime, no network client, and nothing that compiles C.

use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::process::Command;

/// What may be depended on unconditionally, on whatever platform.
const DEPENDENCIES: [&str; 6] =
    ["lock_api", "parking_lot_core", "crossbeam-utils", "libc", "rustix", "windows-sys"];

/// What only a model is built with, and the condition for it.
const MODEL: (&str, &str) = ("loom", "cfg(lockword_loom)");

/// What may lie below those, on whatever platform and with whatever feature of ours: the lock
/// file does not tell.
const BELOW: [&str; 13] = [
    "bitflags",
    "cfg-if",
    "redox_syscall",
    "scopeguard",
    "smallvec",
    "windows-link",
    // Feature `serde`.
    "serde",
    "serde_core",
    "serde_derive",
    "proc-macro2",
    "quote",
    "syn",
    "unicode-ident",
];

/// The package of a manifest, as cargo reads it; nothing is resolved or fetched.
fn package(manifest: &Path) -> Value {
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let output = cargo.arg("--manifest-path").arg(manifest).output().expect("cargo is here");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{cargo:?} failed:\n{errors}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    metadata["packages"][0].clone()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The dependencies that a user always has, by name and condition.
fn always(package: &Value) -> impl Iterator<Item = (&str, Option<&str>)> {
    let dependencies = list(&package["dependencies"]).iter();
    let always = dependencies.filter(|d| d["kind"] != "dev" && d["optional"] == false);
    always.map(|d| (d["name"].as_str().unwrap_or_default(), d["target"].as_str()))
}

/// What is wrong with a package, a line each.
fn check(package: &Value) -> Vec<String> {
    let mut found = vec![];
    let default = list(&package["features"]["default"]);
    if !default.is_empty() {
        found.push(format!("the default features are {default:?}, not none"));
    }
    for (name, target) in always(package) {
        if !DEPENDENCIES.contains(&name) && (name, target) != (MODEL.0, Some(MODEL.1)) {
            found.push(format!("{name} is needed by everyone ({target:?})"));
        }
    }
    for target in list(&package["targets"]) {
        if list(&target["kind"]).iter().any(|kind| kind == "custom-build") {
            found.push("there is a build script".to_owned());
        }
    }
    found
}

/// What lies below the dependencies of `package` in the lock file `lock` and must not.
fn check_lock(package: &Value, lock: &str) -> Vec<String> {
    // By `name`, and by `name version`, which is how the file tells two versions apart.
    let mut below: HashMap<String, Vec<&str>> = HashMap::new();
    for entry in lock.split("[[package]]").skip(1) {
        // `name = "a"`, `version = "1.0.0"`, and a line `"b",` or `"b 1.0.0",` for each dependency.
        let mut quoted = entry.split('"').skip(1).step_by(2);
        let name = quoted.next().expect("a package has a name");
        let version = quoted.next().expect("a package has a version");
        let lines = entry.lines().filter_map(|line| line.strip_prefix(" \""));
        let lines: Vec<&str> = lines.filter_map(|line| line.split('"').next()).collect();
        below.entry(format!("{name} {version}")).or_default().extend(&lines);
        below.entry(name.to_owned()).or_default().extend(lines);
    }
    let own = package["name"].as_str().and_then(|name| below.get(name)).cloned();
    let own = own.unwrap_or_default();
    let name_of = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let locked = |name: &str| own.iter().find(|line| name_of(line) == name).copied();
    let mut queue: Vec<&str> =
        always(package).map(|(name, _)| locked(name).unwrap_or(name)).collect();
    queue.retain(|line| name_of(line) != MODEL.0);
    let mut seen = BTreeSet::new();
    while let Some(line) = queue.pop() {
        if seen.insert(line) {
            queue.extend(below.get(line).unwrap_or_else(|| panic!("{line} is not in the lock")));
        }
    }
    let names: BTreeSet<String> = seen.into_iter().map(name_of).collect();
    let expected = |name: &&String| !DEPENDENCIES.contains(&&***name) && !BELOW.contains(&&***name);
    names.iter().filter(expected).map(|name| format!("{name} is below the dependencies")).collect()
}

#[test]
fn the_default_features_pull_in_nothing_that_is_not_expected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = package(&root.join("Cargo.toml"));
    assert_eq!(package["name"], "lockword");
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).expect("the lock file is kept");
    let found = [check(&package), check_lock(&package, &lock)].concat();
    assert!(found.is_empty(), "what nobody asked for:\n{}", found.join("\n"));
    // The reader works.
    assert!(always(&package).any(|(name, _)| name == "lock_api"), "lockword needs lock_api");
}

/// The package of a made-up manifest with these lines.
fn made_up(lines: &str) -> Value {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("made_up");
    std::fs::create_dir_all(folder.join("src")).expect("a folder to write to");
    std::fs::write(folder.join("src/lib.rs"), "").expect("a folder to write to");
    let head = "[workspace]\n[package]\nname = \"made-up\"\nedition = \"2024\"\n";
    let manifest = folder.join("Cargo.toml");
    std::fs::write(&manifest, head.to_owned() + lines).expect("a folder to write to");
    package(&manifest)
}

#[test]
fn each_rule_of_the_manifest_catches_what_it_is_for() {
    for lines in [
        "[features]\ndefault = ['more']\nmore = []",
        "[dependencies]\nserde = { version = '1', optional = true }\n[features]\ndefault = ['serde']",
        "[dependencies]\ntokio = '1'",
        "[dependencies]\nlibc = { version = '1', package = 'tokio' }",
        "[target.'cfg(unix)'.dependencies]\nreqwest = '1'",
        "[target.'cfg(unix)'.dependencies.cc]\nversion = '1'",
        "[dependencies]\nloom = '0.7'",
        "[build-dependencies]\ncc = '1'",
        "[target.'cfg(windows)'.build-dependencies]\nprost-build = '1'",
        "build = 'build.rs'",
    ] {
        assert!(!check(&made_up(lines)).is_empty(), "nothing found in:\n{lines}");
    }
    for lines in [
        "[features]\ndefault = []\n[dependencies]\nlock_api = '0.5'",
        "[dependencies]\ntokio = { version = '1', optional = true }\n[features]\nc = ['dep:tokio']",
        "[dev-dependencies]\ntokio = '1'\n[target.'cfg(unix)'.dev-dependencies]\ncc = '1'",
        "[target.'cfg(lockword_loom)'.dependencies]\nloom = '0.7'",
    ] {
        let found = check(&made_up(lines));
        assert!(found.is_empty(), "{found:?} in:\n{lines}");
    }
    let package = made_up("[dependencies]\nlibc = '0.2'");
    let lock =
        "[[package]]\nname = \"libc\"\nversion = \"0.2.1\"\ndependencies = [\n \"cc 1.0.0\",\n]\n
                [[package]]\nname = \"cc\"\nversion = \"1.0.0\"\n";
    assert_eq!(check_lock(&package, lock), ["cc is below the dependencies"]);
    assert!(check_lock(&package, "[[package]]\nname = \"libc\"\nversion = \"1.0.0\"\n").is_empty());
}
