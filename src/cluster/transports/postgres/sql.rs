//! The table, and the statements upon it. Each is one transaction.
//!
//! A statement sees the table as it was when it began, except for rows that it locks: those it sees
//! as they are when the lock is held. So each operation locks what it decides upon, and computes the
//! version afterwards.

use tokio_postgres::types::Type;

/// The moment, in microseconds since 1970.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// How many registers one statement of the housekeeping deletes, at most.
pub(super) const BATCH: u64 = 10_000;

/// A statement, and the types of its parameters.
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) types: &'static [Type],
}

/// All statements.
pub(super) struct Statements {
    /// `version, value`; no row if there is no register.
    pub(super) load: Statement,
    /// `fresh, version, value`: the row was created; or what it was. No row if there is no floor.
    pub(super) create: Statement,
    /// `written, version, value`: the new version, if it was written; what the row was. No row if
    /// there is no register.
    pub(super) update: Statement,
    /// `count`.
    pub(super) delete_idle: Statement,
    /// `count`.
    pub(super) delete: Statement,
}

/// The table `table`, as SQL.
pub(super) fn schema(table: &str) -> String {
    format!(
        r#"-- The registers of lockword, a row each.
CREATE TABLE IF NOT EXISTS {table} (
    -- The name of the lock. The row without a name is the floor: its version is at least that of
    -- every register that was deleted. It is never deleted itself.
    key text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL CHECK (version BETWEEN 1 AND 4503599627370495),
    -- To be read by convert_from(value, 'UTF8').
    value bytea NOT NULL,
    -- Since when nobody holds the lock and nobody waits for it.
    idle_since timestamptz,
    -- Tells the one who created the row from the one who found it.
    fresh boolean NOT NULL DEFAULT true
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
INSERT INTO {table} (key, version, value) VALUES ('', 1, '') ON CONFLICT (key) DO NOTHING;
"#
    )
}

/// The same, for one client at a time.
pub(super) fn create_schema(table: &str) -> String {
    // The number is lockword's own. Without the lock, of two that create the table one may fail.
    // Statements that are sent together are one transaction.
    format!(
        "SELECT pg_advisory_xact_lock(7813295760128);
{}",
        schema(table)
    )
}

/// Notifies `channel`, if it is not null, that `version` was written; with `value`, if `whole`.
fn notify(done: &str, channel: &str, version: &str, value: &str, whole: &str) -> String {
    format!(
        "CASE WHEN {done} AND {channel}::text IS NOT NULL THEN pg_notify({channel}::text, \
         $1 || ' ' || {version} || CASE WHEN {whole}::boolean \
         THEN ' ' || encode({value}::bytea, 'hex') ELSE '' END) IS NULL END AS notified"
    )
}

/// Deletes the registers that `which` names. The floor is locked first, as it is by whoever creates
/// a register: a key is not created anew before the floor is above what was deleted.
fn deleting(table: &str, which: &str) -> String {
    format!(
        "WITH floor AS MATERIALIZED (SELECT version FROM {table} WHERE key = '' FOR UPDATE), \
         gone AS (DELETE FROM {table} AS r USING floor WHERE r.key <> '' AND {which} \
             RETURNING r.version), \
         raised AS (UPDATE {table} AS r SET version = greatest(floor.version, \
             (SELECT max(gone.version) FROM gone)) FROM floor WHERE r.key = '') \
         SELECT count(*) FROM gone"
    )
}

impl Statements {
    /// For this table.
    pub(super) fn new(table: &str) -> Self {
        let load = format!("SELECT version, value FROM {table} WHERE key = $1::text");
        let notified = notify("r.fresh", "$4", "r.version", "$2", "$5");
        // Who finds the row writes it as it is, which locks it and returns it.
        let create = format!(
            "WITH floor AS MATERIALIZED (SELECT version FROM {table} WHERE key = '' FOR SHARE) \
             INSERT INTO {table} AS r (key, version, value, idle_since, fresh) \
             SELECT $1::text, greatest(floor.version + 1, {NOW}), $2::bytea, \
                 CASE WHEN $3::boolean THEN clock_timestamp() END, true FROM floor \
             ON CONFLICT (key) DO UPDATE SET fresh = false \
             RETURNING r.fresh, r.version, CASE WHEN NOT r.fresh THEN r.value END AS value, \
                 {notified}"
        );
        let notified = notify("written.version IS NOT NULL", "$5", "written.version", "$3", "$6");
        let update = format!(
            "WITH locked AS MATERIALIZED ( \
                 SELECT version, value FROM {table} WHERE key = $1::text FOR NO KEY UPDATE), \
             written AS ( \
                 UPDATE {table} AS r SET version = greatest(locked.version + 1, {NOW}), \
                     value = $3::bytea, \
                     idle_since = CASE WHEN $4::boolean THEN clock_timestamp() END \
                 FROM locked WHERE r.key = $1::text AND locked.version = $2::bigint \
                 RETURNING r.version) \
             SELECT written.version AS written, locked.version, \
                 CASE WHEN written.version IS NULL THEN locked.value END AS value, {notified} \
             FROM locked LEFT JOIN written ON true"
        );
        let long_idle = "idle_since < clock_timestamp() - interval '1 day'";
        let delete_idle = deleting(
            table,
            &format!(
                "r.key IN (SELECT i.key FROM {table} AS i WHERE i.{long_idle} LIMIT {BATCH}) \
                 AND r.{long_idle}"
            ),
        );
        Self {
            load: Statement { text: load, types: &[Type::TEXT] },
            create: Statement {
                text: create,
                types: &[Type::TEXT, Type::BYTEA, Type::BOOL, Type::TEXT, Type::BOOL],
            },
            update: Statement {
                text: update,
                types: &[Type::TEXT, Type::INT8, Type::BYTEA, Type::BOOL, Type::TEXT, Type::BOOL],
            },
            delete_idle: Statement { text: delete_idle, types: &[] },
            delete: Statement { text: deleting(table, "r.key = $1::text"), types: &[Type::TEXT] },
        }
    }
}

/// What a new connection asks, after it has set what `own` says: nothing, where other clients share
/// the server's side of it.
pub(super) fn setup(own: Option<std::time::Duration>) -> String {
    let asked = "SELECT current_setting('server_version_num'), current_setting('fsync'), \
        current_setting('synchronous_commit'), pg_is_in_recovery()::text, \
        current_setting('transaction_read_only');";
    let Some(limit) = own else { return asked.to_owned() };
    // An answer of the server's is better than none: it says what was not done.
    let (statement, lock) =
        ((limit.as_millis() * 4 / 5).max(1), (limit.as_millis() * 3 / 5).max(1));
    format!(
        "SELECT set_config('default_transaction_isolation', 'read committed', false), \
             set_config('statement_timeout', '{statement}', false), \
             set_config('lock_timeout', '{lock}', false), \
             CASE WHEN current_setting('synchronous_commit') = 'off' \
                 THEN set_config('synchronous_commit', 'on', false) END, \
             CASE WHEN current_setting('server_version_num')::int >= 140000 \
                 THEN set_config('idle_session_timeout', '0', false) END; \
         {asked}"
    )
}
