//! Each rule on sources that break it, and on sources that only look as if they did.

use crate::paths::Source;
use crate::rules::check;

/// The edges found in `text` as the file `file`, beside a root that re-exports a few things.
fn edges(file: &str, text: &str) -> Vec<String> {
    let root = "mod raw; mod spin; pub use raw::RawLock; pub use cluster::lock::DistributedLock;
                pub mod cluster;";
    check(&[Source::read("lib.rs", root), Source::read(file, text)])
}

#[track_caller]
fn refused(file: &str, text: &str) {
    assert!(!edges(file, text).is_empty(), "nothing found in {file}: {text}");
}

#[track_caller]
fn allowed(file: &str, text: &str) {
    let found = edges(file, text);
    assert!(found.is_empty(), "{found:?} in {file}: {text}");
}

#[test]
fn the_core_knows_neither_cluster_nor_runtime() {
    for file in [
        "word.rs",
        "barrier.rs",
        "lobby.rs",
        "spin.rs",
        "park.rs",
        "raw.rs",
        "mutex.rs",
        "condvar.rs",
        "sync/mutex.rs",
        "probe.rs",
        "barrier/linux.rs",
        "a_new_one.rs",
    ] {
        refused(file, "use crate::cluster::Key;");
        refused(file, "fn f() { crate::cluster::lock::acquire() }");
        refused(file, "use tokio::sync::Notify;");
        refused(file, "fn f() { async_std::task::yield_now() }");
        refused(file, "use ::smol;");
    }
    refused("park.rs", "use crate::DistributedLock;");
    refused("raw.rs", "use super::cluster as c; fn f() { c::start() }");
    refused("raw.rs", "mod tests { use super::super::cluster::Key; }");
    allowed("cluster/driver.rs", "use tokio::time; use crate::raw::RawLock;");
    allowed("mutex.rs", "/// Like `crate::cluster::lock`.\nuse crate::raw::RawLock;");
}

#[test]
fn what_the_root_gives_away_by_a_glob_is_traced() {
    let root = "mod a; mod cluster; pub use cluster::*; pub use a::*; pub fn own() {}";
    let edges = |text: &str| {
        let a = Source::read("a.rs", "pub struct Plain; pub use b::Other;");
        let cluster = Source::read("cluster/mod.rs", "pub const fn join() {} pub use x::Shared;");
        let raw = Source::read("raw.rs", text);
        check(&[Source::read("lib.rs", root), a, cluster, raw])
    };
    for text in ["use crate::join;", "fn f() { crate::Shared::new() }", "use crate::unknown;"] {
        assert!(!edges(text).is_empty(), "nothing found in: {text}");
    }
    for text in ["use crate::{Plain, Other};", "fn f() { crate::own() }", "use crate::a::B;"] {
        let found = edges(text);
        assert!(found.is_empty(), "{found:?} in: {text}");
    }
}

#[test]
fn only_primitive_names_atomics() {
    let files =
        ["raw.rs", "lib.rs", "probe.rs", "barrier.rs", "cluster/local.rs", "contention/pace.rs"];
    for file in files {
        refused(file, "use core::sync::atomic::AtomicU8;");
        refused(file, "use std::sync::{Arc, atomic::{AtomicU8, Ordering}};");
        refused(file, "static X: std::sync::atomic::AtomicU8 = Y;");
        refused(file, "use std::sync; fn f(x: &sync::atomic::AtomicU8) {}");
        refused(file, "use std as s; fn f(x: &s::sync::atomic::AtomicU8) {}");
        refused(file, "use std::sync::*; fn f(x: &atomic::AtomicU8) {}");
        refused(file, "extern crate std as s; use s::sync::atomic::fence;");
        refused(file, "macro_rules! m { () => { ::core::sync::atomic::fence(X) } }");
        refused(file, "use loom::model;");
        refused(file, "#[cfg(test)] mod tests { fn f() { loom::model(|| ()) } }");
        refused(file, "fn f<'a>(x: &'a u8) { let q = '\"'; std::sync::atomic::fence(O); }");
    }
    let innocent = r####"
        //! std::sync::atomic
        /* use core::sync::atomic::AtomicU8; /* loom::model */ */
        use crate::primitive::AtomicU8;
        use std::sync::Arc;
        #[cfg(lockword_loom)]
        fn f() { g("use std::sync::atomic::AtomicU8;", r#"loom::model"#, '"', "loom::model") }
        struct S { loom: u8 }
    "####;
    allowed("raw.rs", innocent);
    allowed("primitive.rs", "pub use core::sync::atomic::*; use loom::cell::UnsafeCell;");
}

#[test]
fn word_stands_on_primitive_alone() {
    refused("word.rs", "use crate::lobby::Lobby;");
    refused("word.rs", "fn f() { crate::barrier::light() }");
    refused("word.rs", "use super::spin;");
    refused("word.rs", "use crate::RawLock;");
    refused("word.rs", "use lock_api::RawMutex;");
    refused("word.rs", "fn f() { parking_lot_core::park() }");
    allowed("word.rs", "use crate::primitive::{AtomicU8, Ordering}; use core::fmt;");
    allowed("word.rs", "mod tests { use super::*; fn f() { LockWord::new() } }");
    allowed("word.rs", "mod tests { use super::LockWord; fn f() { LockWord::new() } }");
}

#[test]
fn spin_advises_and_never_acts() {
    refused("spin.rs", "use crate::raw::RawLock;");
    refused("spin.rs", "use crate::{park, word};");
    refused("spin.rs", "fn f() { super::park::park() }");
    refused("spin.rs", "use crate::RawLock as R;");
    allowed("spin.rs", "use crate::{lobby, word::LockWord}; fn parking() { spin.raw() }");
    allowed("lobby.rs", "use crate::park;");
}

#[test]
fn raw_knows_nothing_of_guards() {
    refused("raw.rs", "use lock_api::RawMutex;");
    refused("raw.rs", "impl lock_api::RawMutex for RawLock {}");
    refused("raw.rs", "use lock_api as api;");
    allowed("raw.rs", "// SAFETY: as lock_api::RawMutex asks.\nuse crate::park;");
    allowed("mutex.rs", "use lock_api::RawMutex;");
}

#[test]
fn the_protocol_is_pure() {
    for file in ["cluster/protocol.rs", "cluster/register.rs", "cluster/protocol/queue.rs"] {
        refused(file, "use std::time::Instant;");
        refused(file, "use std::time::{Duration, SystemTime};");
        refused(file, "use std::time::*; fn f() { Instant::now(); }");
        refused(file, "fn f() { std::net::TcpStream::connect(x) }");
        refused(file, "use tokio::time::sleep;");
        refused(file, "use futures::Stream;");
        refused(file, "use crate::cluster::transports::memory::Memory;");
        refused(file, "use crate::cluster::transport::Transport;");
        refused(file, "use redis::Client;");
        refused(file, "use crate::cluster::layers::faults;");
    }
    refused("cluster/protocol.rs", "use super::transports::memory::Memory;");
    refused("cluster/protocol/queue.rs", "use super::super::transport::Transport;");
    let pure = "use super::transport::{Key, Version}; use std::time::Duration;";
    allowed("cluster/protocol.rs", pure);
    allowed("cluster/driver.rs", "use super::{protocol::Event, transport::Transport};");
}

#[test]
fn a_transport_knows_no_other_and_nobody_above() {
    for file in ["cluster/transports/redis.rs", "cluster/transports/redis/watch.rs"] {
        refused(file, "use crate::cluster::transports::memory::Memory;");
        refused(file, "use crate::cluster::transports::{etcd, redis};");
        refused(file, "use crate::cluster::lock::DistributedLock;");
        refused(file, "use crate::DistributedLock;");
        refused(file, "use crate::cluster::{guard::Guard, driver};");
        refused(file, "fn f() { crate::cluster::protocol::step() }");
        allowed(file, "use crate::cluster::transport::{Transport, Key}; use redis::Client;");
        allowed(file, "use crate::cluster::transports::redis::Connection;");
    }
    refused("cluster/transports/redis.rs", "use super::etcd::Client;");
    refused("cluster/transports/redis/mod.rs", "use super::etcd::Client;");
    allowed("cluster/transports/redis/mod.rs", "use self::watch::Watch; mod watch;");
    allowed("cluster/transports/redis/watch.rs", "use super::Connection;");
    allowed("cluster/transports/mod.rs", "pub mod memory; pub mod redis;");
}

#[test]
fn the_suite_names_no_engine_and_the_library_no_binary() {
    refused("cluster/conformance.rs", "use super::transports::memory::Memory;");
    refused("cluster/conformance/laws.rs", "use etcd_client::Client;");
    allowed("cluster/conformance.rs", "use super::transport::Transport;");
    refused("contention/mod.rs", "#[path = \"../bin/lockword/args.rs\"] mod args;");
    refused("lib.rs", "include!(\"bin/lockword/main.rs\");");
    refused("cluster/mod.rs", "use crate::bin::lockword;");
    refused("probe.rs", "use crate::bin::lockword;");
    allowed("bin/lockword/main.rs", "use lockword::Mutex; mod args;");
    // No model takes the binary in: it has std's atomics, as every user of the library.
    allowed("bin/lockword/main.rs", "use std::sync::atomic::AtomicBool;");
    refused("bin/lockword/main.rs", "use loom::model;");
}
