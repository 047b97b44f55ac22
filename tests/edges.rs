//! The edges between modules that must never exist, found by a search of the source text, and the
//! dependencies that every user of the crate builds.
//!
//! The search expands `use` trees. It does not follow renamings and glob imports.
#![cfg(not(lockword_loom))]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every path that `source` names, in `use` trees or elsewhere: `a::{b, c::d}` gives `a::b` and
/// `a::c::d`. Line comments are left out; the words of string literals count as paths.
fn paths(source: &str) -> Vec<String> {
    let code = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    let (mut found, mut word) = (vec![], String::new());
    let mut prefixes: Vec<String> = vec![];
    for char in code.flat_map(|line| line.chars().chain(['\n'])) {
        if char.is_alphanumeric() || char == '_' || char == ':' {
            word.push(char);
            continue;
        }
        let prefix = prefixes.last().cloned().unwrap_or_default();
        let path = prefix + &std::mem::take(&mut word);
        match char {
            '{' => prefixes.push(if path.ends_with("::") { path } else { String::new() }),
            '*' => found.push(path + "*"),
            '}' => {
                found.push(path);
                prefixes.pop();
            }
            _ => found.push(path),
        }
    }
    found
}

const RUNTIMES: &str = "tokio tokio_util async_std smol futures futures_util async_io pollster";
const CLIENTS: &str = "redis prost tonic tonic_prost tokio_postgres rustls tokio_rustls hyper_util tower_service rslock";
/// Where the engines are.
const ENGINES: [&str; 1] = ["engines"];

/// Why the file `file` of `src` must not name `path`, if it must not.
fn forbidden(file: &str, path: &str) -> Option<&'static str> {
    let first = path.split("::").next().unwrap_or_default();
    let is_one_of = |names: &str, name: &str| names.split(' ').any(|one| one == name);
    let names = |part: &str| path.split("::").any(|one| one == part);
    let is_local = is_one_of("crate super self lockword", first);
    // The path below the crate's root, or below the module that `super` leads to.
    let mut below = path.split("::").skip_while(|part| is_one_of("crate super self", part));
    let module: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    let in_cluster = module[0] == "cluster";

    let atomics = path.contains("sync::atomic") || first == "atomic";
    let in_program = module[0] == "bin";
    if path.contains("bin::lockword") && !in_program {
        return Some("the library does not know the program");
    }
    if first == "loom" && file != "primitive.rs"
        || atomics && file != "primitive.rs" && !in_cluster && !in_program
    {
        return Some("only primitive.rs names atomics and loom");
    }
    if in_program {
        return None;
    }
    if !in_cluster {
        let cluster = is_local && below.next() == Some("cluster");
        // It measures locks in tasks.
        let runtime = is_one_of(RUNTIMES, first) && file != "contention/tasks.rs";
        return (cluster || runtime || is_one_of(CLIENTS, first))
            .then_some("the in-process wing knows neither the cluster nor a runtime");
    }
    let below: Vec<&str> = below.skip_while(|part| *part == "cluster").collect();
    match module[1..] {
        ["protocol", ..] => {
            let impure = is_one_of(RUNTIMES, first) || is_one_of(CLIENTS, first);
            let reads = ["Instant", "SystemTime", "net", "clock", "Clock"].into_iter().any(names);
            let transport = path.ends_with("transport::Transport")
                || names("layers")
                || ENGINES.into_iter().any(names);
            (impure || reads || transport || path == "std::time::*")
                .then_some("the protocol knows no clock, socket, runtime or transport")
        }
        [folder, own, ..] if ENGINES.contains(&folder) => {
            let into = if ENGINES.contains(below.first()?) { &below[1..] } else { &below[..] };
            let target = into.first().filter(|_| is_local)?;
            // `mod`, `connect` and `grants` choose the engine.
            let chooses = ["mod", "connect", "grants"].contains(&own);
            let other = is_one_of("memory dir etcd redis postgres", target) && *target != own;
            let other = other && !chooses;
            let above = is_one_of("local node lock guard protocol", target);
            (other || above).then_some("an engine knows neither another one nor who uses it")
        }
        _ => None,
    }
}

/// The forbidden edges of one file.
fn edges<'a>(file: &'a str, text: &str) -> impl Iterator<Item = String> + 'a {
    let text = text.replace("bin/lockword", "bin::lockword");
    let found = paths(&text).into_iter();
    found.filter_map(move |path| Some(format!("{file}: {path}: {}", forbidden(file, &path)?)))
}

/// Every `.rs` file under `folder`.
fn source_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("the folder is readable").path();
        if path.is_dir() {
            source_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn src_has_no_forbidden_edge() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut found) = (vec![], vec![]);
    source_files(&src, &mut files);
    for file in &files {
        let text = std::fs::read_to_string(file).expect("sources are UTF-8");
        let name = file.strip_prefix(&src).expect("found under src").to_string_lossy();
        found.extend(edges(&name.replace('\\', "/"), &text));
    }
    assert!(found.is_empty(), "edges that must never exist:\n{}", found.join("\n"));
    let cluster = src.join("cluster");
    assert!(cluster.join("protocol").is_dir() && src.join("primitive.rs").is_file());
    assert!(ENGINES.iter().any(|folder| cluster.join(folder).is_dir()), "no engines");
}

#[test]
fn each_rule_finds_what_it_is_for() {
    for (file, bad) in [
        ("raw/mutex.rs", "use crate::{fork, cluster::Key};"),
        ("sync/mutex.rs", "fn f() { tokio::task::yield_now() }"),
        ("raw/waiters.rs", "use std::sync::{Arc, atomic::AtomicU8};"),
        ("cluster/local/wait_queue.rs", "loom::model(f)"),
        ("cluster/protocol/view.rs", "use std::time::{Duration, Instant};"),
        ("cluster/protocol/view.rs", "use super::super::transport::Transport;"),
        ("cluster/protocol/mod.rs", "use tokio::net::TcpStream;"),
        ("cluster/engines/redis/mod.rs", "use super::{etcd::Etcd};"),
        ("cluster/engines/redis/link.rs", "use crate::cluster::engines::memory::Memory;"),
        ("cluster/engines/etcd/mod.rs", "use crate::cluster::{key::Key, guard::Guard};"),
        ("cluster/engines/etcd/mod.rs", "use crate::cluster::local::driver::Driver;"),
        ("cluster/engines/connect.rs", "use crate::cluster::node::Node;"),
        ("contention/mod.rs", "#[path = \"../bin/lockword/args.rs\"] mod args;"),
    ] {
        assert_eq!(edges(file, bad).count(), 1, "{file}: {bad}");
    }
}

#[test]
fn the_default_features_build_only_these() {
    let cargo = |arguments: &[&str]| {
        let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
        cargo.args(arguments).args(["--offline", "--manifest-path"]);
        let output = cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).output();
        let output = output.expect("cargo is here");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("cargo writes UTF-8")
    };
    // What is needed directly, on whatever platform. loom is for models only.
    let metadata = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("cargo writes JSON");
    let package = &metadata["packages"][0];
    let dependencies = package["dependencies"].as_array().expect("there are some").iter();
    let direct: BTreeSet<&str> = dependencies
        .filter(|d| d["optional"] == false && d["kind"] != "dev")
        .filter(|d| d["target"] != "cfg(lockword_loom)")
        .filter_map(|d| d["name"].as_str())
        .collect();
    let expected = ["crossbeam-utils", "libc", "lock_api", "windows-sys"];
    assert!(direct.iter().eq(&expected), "{direct:?}");
    assert_eq!(package["features"]["default"], serde_json::json!([]));
    // All that lies below, on this platform.
    let tree = cargo(&["tree", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"]);
    let below = ["lockword", "scopeguard", "windows-link"];
    for name in tree.lines().filter_map(|line| line.split(' ').next()) {
        assert!(expected.contains(&name) || below.contains(&name), "{name} is built:\n{tree}");
    }
}
