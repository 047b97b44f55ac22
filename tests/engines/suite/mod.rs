//! The suite of faults: one list of tests, for each engine.
//!
//! Every test has a server of its own. The answers of the transports are checked by
//! `conformance::History`, except where other processes write too. Figures are printed (`--nocapture`).
//! `LOCKWORD_ENGINE_SECS=30` has the processes contend for longer.

#[cfg(feature = "redis")]
mod data_loss;
#[cfg(feature = "etcd")]
mod etcd_cluster;
mod fixture;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod forged_notices;
#[cfg(target_os = "linux")]
mod fork;
mod full_disk;
mod given_runtime;
mod large_values;
mod leaks;
mod partition;
mod processes;
mod server_outage;
mod unknown_outcome;

/// Each test of the list, with each engine.
macro_rules! suite {
    ($($feature:literal $engine:ident: $server:ty;)*) => {$(
        #[cfg(feature = $feature)]
        mod $engine {
            type Server = $server;

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
                a_process_that_holds_the_lock_is_killed: processes::holder_is_killed;
                a_process_that_holds_the_lock_is_stopped: processes::holder_is_stopped;
                processes_contend_and_exclude_each_other: processes::contend;
                a_write_without_an_answer_is_indeterminate: unknown_outcome::of_a_write;
                a_lock_finds_out_what_became_of_its_write: unknown_outcome::of_a_lock;
                a_full_disk_loses_nothing_acknowledged: full_disk::loses_nothing;
                values_that_are_too_large_are_refused_and_cost_no_other_key_its_lock:
                    large_values::are_refused_and_cost_no_other_key_its_lock;
                nothing_is_left_behind: leaks::nothing_is_left;
                connections_live_on_a_runtime_that_was_given: given_runtime::connections_end_with_it;
                a_runtime_that_is_of_no_use_is_refused: given_runtime::a_runtime_that_is_of_no_use_is_refused;
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
    "etcd" etcd: crate::support::etcd::EtcdServer;
    "postgres" postgres: crate::support::postgres::PostgresServer;
    "redis" redis: crate::support::redis::DurableRedis;
}
