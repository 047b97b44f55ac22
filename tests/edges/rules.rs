//! Which file must not name what: the edges that must never exist.

use crate::paths::Source;

/// Whether a top-level module is of the in-process wing: all are but these. The root has no name.
fn is_core(top: &str) -> bool {
    !["", "cluster", "bin"].contains(&top)
}

/// What the core as a whole is built on.
const DEPENDENCIES: [&str; 7] =
    ["lock_api", "parking_lot_core", "crossbeam_utils", "libc", "rustix", "windows_sys", "serde"];

/// Async runtimes.
const RUNTIMES: [&str; 14] = [
    "tokio",
    "tokio_util",
    "async_std",
    "smol",
    "futures",
    "futures_util",
    "futures_executor",
    "async_io",
    "async_executor",
    "embassy_executor",
    "glommio",
    "monoio",
    "compio",
    "pollster",
];

/// Client libraries of engines.
const ENGINES: [&str; 11] = [
    "redis",
    "fred",
    "etcd_client",
    "tonic",
    "postgres",
    "tokio_postgres",
    "sqlx",
    "async_nats",
    "nats",
    "zookeeper_client",
    "consul",
];

/// Clocks and sockets.
const CLOCKS: [&str; 4] = ["std::time::Instant", "std::time::SystemTime", "tokio::time", "quanta"];
const SOCKETS: [&str; 4] = ["std::net", "std::os::unix::net", "tokio::net", "mio"];

/// What of the cluster a transport knows nothing about.
const ABOVE_TRANSPORTS: [&str; 4] = ["lock", "guard", "driver", "protocol"];

/// Whether `path` is `of` or something inside it.
fn is_in(path: &str, of: &str) -> bool {
    path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn is_in_any(path: &str, of: &[&str]) -> bool {
    of.iter().any(|of| is_in(path, of))
}

/// Whether `path` leads into one of the crates that lockword depends on, or may one day.
fn is_foreign(path: &str) -> bool {
    is_in_any(path, &DEPENDENCIES) || is_in_any(path, &RUNTIMES) || is_in_any(path, &ENGINES)
}

/// The forbidden edges of all `sources`, one line each.
pub fn check(sources: &[Source]) -> Vec<String> {
    let mut found = vec![];
    for source in sources {
        let mut last = None;
        // In order: what lies inside a path that is refused comes right after it.
        for path in &source.paths {
            if last.is_some_and(|last| is_in(path, last)) {
                continue;
            }
            for path_in_crate in through_root(path, sources) {
                if let Some(why) = forbidden(source, &path_in_crate) {
                    found.push(format!("src/{}: names {path_in_crate}: {why}", source.file));
                    last = Some(path);
                }
            }
        }
        for included in &source.included {
            if !in_binary(source) && (included.contains("bin/") || included.contains("main.rs")) {
                found.push(format!("src/{}: takes in {included}: the binary", source.file));
            }
        }
    }
    found
}

/// What `path` may stand for: `crate::RawLock` is `crate::raw::RawLock`. What the root re-exports
/// is traced to its module, by a glob too; of a name that is found nowhere, any glob's.
fn through_root(path: &str, sources: &[Source]) -> Vec<String> {
    let traced = || {
        let root = sources.iter().find(|source| source.file == "lib.rs")?;
        let rest = path.strip_prefix("crate::")?;
        let first = rest.split("::").next()?;
        if let Some(full) = root.aliases.get(first) {
            return Some(vec![full.join("::") + &rest[first.len()..]]);
        }
        if root.items.contains(first) {
            return None;
        }
        let has = |glob: &&Vec<String>| {
            let module = sources.iter().find(|source| source.module == **glob);
            module.is_some_and(|m| m.items.contains(first) || m.aliases.contains_key(first))
        };
        let known: Vec<_> = root.globs.iter().filter(has).collect();
        let from = if known.is_empty() { root.globs.iter().collect() } else { known };
        Some(from.into_iter().map(|glob| format!("{}::{rest}", glob.join("::"))).collect())
    };
    traced().filter(|traced| !traced.is_empty()).unwrap_or_else(|| vec![path.to_owned()])
}

fn in_binary(source: &Source) -> bool {
    source.file == "main.rs" || source.file.starts_with("bin/")
}

/// Why `source` must not name `path`, if it must not.
fn forbidden(source: &Source, path: &str) -> Option<&'static str> {
    let module: Vec<&str> = source.module.iter().skip(1).map(String::as_str).collect();
    let top = module.first().copied().unwrap_or_default();
    let outside = |own: &str| is_in(path, "crate") && !is_in(path, own);

    let atomics = is_in_any(path, &["core::sync::atomic", "std::sync::atomic"]);
    if top != "primitive" && ((atomics && !in_binary(source)) || is_in(path, "loom")) {
        return Some("only primitive.rs names atomics and loom");
    }
    if is_core(top) && is_in(path, "crate::cluster") {
        return Some("the core does not know the cluster");
    }
    if is_core(top) && is_in_any(path, &RUNTIMES) {
        return Some("the core needs no async runtime");
    }
    match module.as_slice() {
        ["word", ..] => {
            let elsewhere = outside("crate::primitive") && outside("crate::word");
            ((elsewhere && path != "crate") || is_foreign(path))
                .then_some("word.rs stands on primitive.rs alone")
        }
        ["spin", ..] => is_in_any(path, &["crate::raw", "crate::park"])
            .then_some("spin.rs advises, it never acts"),
        ["raw", ..] => is_in(path, "lock_api").then_some("raw.rs knows nothing of guards"),
        ["cluster", rest @ ..] => forbidden_in_cluster(rest, path),
        _ if !in_binary(source) => {
            is_in(path, "crate::bin").then_some("the library does not know the binary")
        }
        _ => None,
    }
}

/// The same for a file of the cluster, whose module in it is `module`.
fn forbidden_in_cluster(module: &[&str], path: &str) -> Option<&'static str> {
    let transports = "crate::cluster::transports";
    match module {
        ["protocol" | "register", ..] => {
            if is_in_any(path, &CLOCKS) {
                Some("it is told the time, it reads no clock")
            } else if is_in_any(path, &SOCKETS) {
                Some("it is pure: no sockets")
            } else if is_in_any(path, &RUNTIMES) || is_in_any(path, &ENGINES) {
                Some("it is pure: no runtime and no engine")
            } else if is_in_any(path, &[transports, "crate::cluster::layers"])
                || is_in(path, "crate::cluster::transport::Transport")
            {
                Some("it is pure: no transport")
            } else {
                None
            }
        }
        ["conformance", ..] => (is_in(path, transports) || is_in_any(path, &ENGINES))
            .then_some("the suite is the same for every engine"),
        ["transports", own, ..] => {
            let inside = path.strip_prefix(transports).and_then(|rest| rest.strip_prefix("::"));
            let other = inside.is_some_and(|rest| !is_in(rest, own));
            let above = |name: &str| is_in(path, &format!("crate::cluster::{name}"));
            if other {
                Some("one transport does not know another")
            } else if ABOVE_TRANSPORTS.iter().any(|name| above(name)) {
                Some("a transport does not know who uses it")
            } else {
                None
            }
        }
        _ => is_in(path, "crate::bin").then_some("the library does not know the binary"),
    }
}
