//! The suite of faults: a list of tests for each engine, and one for each that is a server.
//!
//! Every test has an engine of its own. The answers of the transports are checked by
//! `conformance::History`, except where other processes write too. Figures are printed (`--nocapture`).
//! `LOCKWORD_ENGINE_SECS=30` has the processes contend for longer, and `LOCKWORD_HELD_LOCKS=20000` a node hold
//! more locks.

#[cfg(feature = "redis")]
mod data_loss;
mod elections;
#[cfg(feature = "etcd")]
mod etcd_cluster;
pub mod fixture;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod forged_notices;
#[cfg(all(target_os = "linux", any(feature = "etcd", feature = "postgres", feature = "redis")))]
mod fork;
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
mod full_disk;
mod given_runtime;
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
mod large_values;
mod leaks;
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
mod many_locks;
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
mod partition;
pub mod processes;
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
pub mod rotation;
#[cfg(feature = "sealed")]
mod sealed;
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
mod server_outage;
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
mod unknown_outcome;

/// The list for every engine.
macro_rules! every_engine {
    () => {
        tests! {
            a_process_that_holds_the_lock_is_killed: processes::holder_is_killed;
            a_process_that_holds_the_lock_is_stopped: processes::holder_is_stopped;
            processes_contend_and_exclude_each_other: processes::contend;
            nothing_is_left_behind: leaks::nothing_is_left;
            connections_live_on_a_runtime_that_was_given: given_runtime::connections_end_with_it;
            a_leader_is_found_at_once: elections::a_leader_is_found_at_once;
        }
    };
}

macro_rules! tests {
    ($($name:ident: $module:ident::$test:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            crate::suite::$module::$test::<Engine>().await;
        }
    )*};
}

/// Each test of the lists, with each engine that is a server.
macro_rules! servers {
    ($($feature:literal $engine:ident: $server:ty;)*) => {$(
        #[cfg(feature = $feature)]
        mod $engine {
            type Engine = $server;

            every_engine!();
            tests! {
                the_server_is_killed_while_the_lock_is_held: server_outage::killed_while_held;
                the_server_is_killed_while_a_node_waits: server_outage::killed_while_a_node_waits;
                the_server_is_killed_during_a_release: server_outage::killed_during_a_release;
                the_server_is_down_for_longer_than_the_lease:
                    server_outage::down_for_longer_than_the_lease;
                the_server_is_stopped_for_longer_than_the_lease:
                    server_outage::stopped_for_longer_than_the_lease;
                a_client_is_cut_off_and_its_bytes_arrive_late: partition::bytes_are_delayed;
                a_client_is_cut_off_and_its_bytes_are_lost: partition::bytes_are_dropped;
                a_process_loses_its_network: partition::network_is_down;
                a_write_without_an_answer_is_indeterminate: unknown_outcome::of_a_write;
                a_lock_finds_out_what_became_of_its_write: unknown_outcome::of_a_lock;
                a_full_disk_loses_nothing_acknowledged: full_disk::loses_nothing;
                many_locks_of_one_node_are_kept: many_locks::of_one_node_are_kept;
                values_that_are_too_large_are_refused_and_cost_no_other_key_its_lock:
                    large_values::are_refused_and_cost_no_other_key_its_lock;
                a_runtime_that_is_of_no_use_is_refused: given_runtime::one_of_no_use_is_refused;
                a_runtime_without_io_is_enough_for_callers: given_runtime::callers_need_timers_only;
            }
        }
    )*};
}

#[cfg(target_os = "linux")]
mod dir {
    type Engine = crate::support::dir::DirFolder;

    every_engine!();
}

servers! {
    "etcd" etcd: crate::support::etcd::EtcdServer;
    "postgres" postgres: crate::support::postgres::PostgresServer;
    "redis" redis: crate::support::redis::DurableRedis;
}

/// The layer that seals, over each engine.
#[cfg(all(feature = "sealed", target_os = "linux"))]
mod through_sealed {
    /// Those for every engine, and more.
    macro_rules! sealed {
        ($engine:ty: $($name:ident: $module:ident::$test:ident;)*) => {
            type Engine = crate::suite::sealed::Through<$engine>;

            tests! {
                nothing_that_is_stored_tells_what_is_locked: sealed::nothing_is_told;
                the_laws_are_kept: sealed::laws_are_kept;
                a_process_that_holds_the_lock_is_killed: processes::holder_is_killed;
                a_process_that_holds_the_lock_is_stopped: processes::holder_is_stopped;
                $($name: $module::$test;)*
            }
        };
    }

    mod dir {
        sealed! {
            crate::support::dir::DirFolder:
            processes_contend_and_exclude_each_other: processes::contend;
        }
    }

    /// The same for a server.
    #[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
    macro_rules! sealed_server {
        ($engine:ty) => {
            sealed! {
                $engine:
                the_server_is_killed_while_a_node_waits: server_outage::killed_while_a_node_waits;
                the_server_is_killed_during_a_release: server_outage::killed_during_a_release;
                the_server_is_stopped_for_longer_than_the_lease:
                    server_outage::stopped_for_longer_than_the_lease;
                a_client_is_cut_off_and_its_bytes_arrive_late: partition::bytes_are_delayed;
                a_write_without_an_answer_is_indeterminate: unknown_outcome::of_a_write;
                a_lock_finds_out_what_became_of_its_write: unknown_outcome::of_a_lock;
            }
        };
    }

    #[cfg(feature = "etcd")]
    mod etcd {
        sealed_server!(crate::support::etcd::EtcdServer);
    }

    #[cfg(feature = "postgres")]
    mod postgres {
        sealed_server!(crate::support::postgres::PostgresServer);
    }

    #[cfg(feature = "redis")]
    mod redis {
        sealed_server!(crate::support::redis::DurableRedis);
    }
}
