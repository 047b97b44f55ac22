//! The faults: one list, for each engine.
//!
//! Every test has a server of its own. What the transports were told goes through the checks of
//! `conformance::History`, except where other processes write, too. The figures are printed
//! (`--nocapture`). `LOCKWORD_ENGINE_SECS=30` has the processes contend for longer.

// Processes that contend, and one that dies.
mod children;
// Several servers that are one etcd.
#[cfg(feature = "etcd")]
mod cluster;
// Requests and answers that are lost.
mod indeterminate;
// Disks that are full.
mod full;
// Servers that stand still.
mod halt;
// Servers that are killed.
mod kill;
// What is left when all is done.
mod left;
// Servers that have forgotten, and those that must not.
#[cfg(feature = "redis")]
mod lossy;
// A client that is cut off.
mod partition;
// The server, the nodes, and what they were told.
mod stage;

/// Each test of the list, with each engine.
macro_rules! suite {
    ($($feature:literal $engine:ident: $server:ty;)*) => {$(
        #[cfg(feature = $feature)]
        mod $engine {
            type Server = $server;

            tests! {
                killed_in_a_hold: kill::in_a_hold;
                killed_in_a_wait: kill::in_a_wait;
                killed_in_a_release: kill::in_a_release;
                killed_for_longer_than_the_lease: kill::for_longer_than_the_lease;
                halted_for_longer_than_the_lease: halt::for_longer_than_the_lease;
                a_client_is_cut_off: partition::held_back;
                a_client_is_cut_off_and_bytes_are_dropped: partition::dropped;
                a_process_is_unplugged: partition::unplugged;
                a_process_is_killed_in_a_hold: children::killed_in_a_hold;
                a_process_is_halted_in_a_hold: children::halted_in_a_hold;
                processes_contend: children::contend;
                a_write_is_in_doubt: indeterminate::of_a_transport;
                a_lock_resolves_doubt: indeterminate::of_a_lock;
                its_disk_is_full: full::disk;
                nothing_is_left_behind: left::nothing;
            }
        }
    )*};
}

macro_rules! tests {
    ($($name:ident: $module:ident::$test:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            super::$module::$test::<Server>().await;
        }
    )*};
}

suite! {
    "etcd" etcd: crate::support::etcd::Etcd;
    "postgres" postgres: crate::support::postgres::Server;
    "redis" redis: crate::support::engine::Durable;
}
