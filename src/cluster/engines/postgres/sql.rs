//! The table, and the statements upon it. Each is one transaction.
//!
//! A statement sees the table as it was when it began, except for rows that it locks: those it sees
//! as they are when the lock is held. So each operation locks what it decides upon, and computes the
//! version afterwards.

use std::time::Duration;
use tokio_postgres::types::Type;

/// The moment, in microseconds since 1970.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// How many registers one statement of the housekeeping looks at. It keeps the floor locked while it
/// deletes, and so those waiting who create a register: for less than [`Limits::row`].
const PAGE: u32 = 500;

/// How long the server waits before it refuses.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// For a row that is locked. Ours are for milliseconds; whoever keeps one keeps all requests
    /// waiting that come after on the same connection.
    pub(super) row: Duration,
    /// For any other lock: who notifies waits at its commit for all others that notify.
    pub(super) lock: Duration,
    /// For a statement.
    pub(super) statement: Duration,
}

impl Limits {
    /// An answer of the server's within `timeout` is better than none: it says what was not done.
    pub(super) fn new(timeout: Duration) -> Self {
        let (lock, statement) = (timeout * 3 / 5, timeout * 4 / 5);
        Self { row: (timeout / 20).max(Duration::from_millis(50)).min(lock), lock, statement }
    }
}

/// As a setting.
fn in_ms(limit: Duration) -> String {
    format!("{}ms", limit.as_millis().max(1))
}

/// Sets `lock_timeout` for the rest of the transaction, and is true. A statement that waits for a
/// lock looks at it when it begins to wait.
fn wait_for(limit: Duration) -> String {
    format!("set_config('lock_timeout', '{}', true) IS NOT NULL", in_ms(limit))
}

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
    /// `written, version, value`: the new version; or what the row is. No row if there is no register.
    pub(super) update: Statement,
    /// `count, last`: the last key that was looked at, if there was any.
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
{};
"#,
        floor(table)
    )
}

/// The same, for one client at a time.
pub(super) fn create_schema(table: &str, limits: Limits) -> String {
    // The number is lockword's own. Without the lock, of two that create the table one may fail.
    // Statements that are sent together are one transaction.
    format!(
        "SELECT {}; SELECT pg_advisory_xact_lock(7813295760128);
{}",
        wait_for(limits.lock),
        schema(table)
    )
}

/// Whether the table is there. It is looked at first: whoever may write to a table that is there
/// need not have the right to create one.
pub(super) fn is_there(table: &str) -> String {
    format!("SELECT to_regclass('{table}') IS NOT NULL")
}

/// The floor, in a table that is there.
pub(super) fn floor(table: &str) -> String {
    format!(
        "INSERT INTO {table} (key, version, value) VALUES ('', 1, '') ON CONFLICT (key) DO NOTHING"
    )
}

/// Notifies `channel`, if it is not null, that `version` was written; with `value`, if `whole`.
fn notify(
    limits: Limits,
    done: &str,
    channel: &str,
    version: &str,
    value: &str,
    whole: &str,
) -> String {
    // All rows are locked by now.
    let patient = wait_for(limits.lock);
    format!(
        "CASE WHEN {done} AND {channel}::text IS NOT NULL AND {patient} THEN \
         pg_notify({channel}::text, $1 || ' ' || {version} || CASE WHEN {whole}::boolean \
         THEN ' ' || encode({value}::bytea, 'hex') ELSE '' END) IS NULL END AS notified"
    )
}

/// The version of the floor, which is locked before any other row: by whoever creates a register,
/// and by whoever deletes one. So a key is not created anew before the floor is above what was
/// deleted.
fn floor_for(table: &str, lock: &str, when: &str) -> String {
    format!("floor AS MATERIALIZED (SELECT version FROM {table} WHERE key = ''{when} FOR {lock})")
}

/// Raises the floor above what is `gone`.
fn raised(table: &str) -> String {
    format!(
        "raised AS (UPDATE {table} AS r SET version = greatest(floor.version, \
             (SELECT max(gone.version) FROM gone)) FROM floor WHERE r.key = '')"
    )
}

impl Statements {
    /// For this table. `own`: the limits are the connection's own already.
    pub(super) fn new(table: &str, limits: Limits, own: bool) -> Self {
        // Part of the condition by which the first row is found that is locked.
        let brief = match own {
            true => String::new(),
            false => format!(" AND (SELECT {})", wait_for(limits.row)),
        };
        Self {
            load: Statement {
                text: format!("SELECT version, value FROM {table} WHERE key = $1::text"),
                types: &[Type::TEXT],
            },
            create: Statement {
                text: create(table, limits, &brief),
                types: &[Type::TEXT, Type::BYTEA, Type::BOOL, Type::TEXT, Type::BOOL],
            },
            update: Statement {
                text: update(table, limits, &brief),
                types: &[Type::TEXT, Type::INT8, Type::BYTEA, Type::BOOL, Type::TEXT, Type::BOOL],
            },
            delete_idle: Statement { text: delete_idle(table, limits), types: &[Type::TEXT] },
            delete: Statement { text: delete(table, &brief), types: &[Type::TEXT] },
        }
    }
}

fn create(table: &str, limits: Limits, brief: &str) -> String {
    let notified = notify(limits, "r.fresh", "$4", "r.version", "$2", "$5");
    let floor = floor_for(table, "SHARE", brief);
    // Who finds the row writes it as it is, which locks it and returns it.
    format!(
        "WITH {floor} \
         INSERT INTO {table} AS r (key, version, value, idle_since, fresh) \
         SELECT $1::text, greatest(floor.version + 1, {NOW}), $2::bytea, \
             CASE WHEN $3::boolean THEN clock_timestamp() END, true FROM floor \
         ON CONFLICT (key) DO UPDATE SET fresh = false \
         RETURNING r.fresh, r.version, CASE WHEN NOT r.fresh THEN r.value END AS value, {notified}"
    )
}

/// Only who does not write locks the row to see it: the row may be a newer one than those that the
/// statement could write to, and may have the version that was expected.
fn update(table: &str, limits: Limits, brief: &str) -> String {
    let notified = notify(limits, "true", "$5", "r.version", "$3", "$6");
    format!(
        "WITH written AS ( \
             UPDATE {table} AS r SET version = greatest(r.version + 1, {NOW}), \
                 value = $3::bytea, \
                 idle_since = CASE WHEN $4::boolean THEN clock_timestamp() END \
             WHERE r.key = $1::text AND r.version = $2::bigint{brief} \
             RETURNING r.version, {notified}), \
         seen AS MATERIALIZED ( \
             SELECT version, value FROM {table} \
             WHERE key = $1::text AND NOT EXISTS (SELECT FROM written) FOR NO KEY UPDATE) \
         SELECT version AS written, NULL::bigint AS version, NULL::bytea AS value, notified \
             FROM written \
         UNION ALL SELECT NULL, version, value, NULL FROM seen"
    )
}

/// The next page, in the order of the keys: by the index that is there, and without a look at what
/// comes later. Those that somebody has locked are not idle.
///
/// Whoever creates registers shares the floor, and may keep it shared for long: it has patience.
fn delete_idle(table: &str, limits: Limits) -> String {
    let long_idle = "idle_since < clock_timestamp() - interval '1 day'";
    let patient = wait_for(limits.lock);
    let when = format!(" AND EXISTS (SELECT FROM page WHERE is_old) AND (SELECT {patient})");
    let (floor, raised) = (floor_for(table, "UPDATE", &when), raised(table));
    format!(
        "WITH page AS MATERIALIZED (SELECT key, {long_idle} AS is_old FROM {table} \
             WHERE key > $1::text ORDER BY key LIMIT {PAGE}), \
         {floor}, \
         idle AS MATERIALIZED (SELECT r.key FROM floor, page, {table} AS r \
             WHERE page.is_old AND r.key = page.key AND r.{long_idle} \
             FOR UPDATE OF r SKIP LOCKED), \
         gone AS (DELETE FROM {table} AS r USING idle WHERE r.key = idle.key \
             RETURNING r.version), \
         {raised} \
         SELECT (SELECT count(*) FROM gone) AS count, (SELECT max(key) FROM page) AS last"
    )
}

fn delete(table: &str, brief: &str) -> String {
    let (floor, raised) = (floor_for(table, "UPDATE", brief), raised(table));
    format!(
        "WITH {floor}, \
         gone AS (DELETE FROM {table} AS r USING floor WHERE r.key <> '' AND r.key = $1::text \
             RETURNING r.version), \
         {raised} \
         SELECT count(*) FROM gone"
    )
}

/// Whether a replica has what is acknowledged. `t` or `f`, or null where there are no such settings.
pub(super) const SYNC: &str = "current_setting('synchronous_standby_names', true) <> '' \
    AND current_setting('synchronous_commit') IN ('on', 'remote_apply')";

/// What a new connection asks, after it has set what is its `own`: nothing, where other clients share
/// the server's side of it.
pub(super) fn setup(own: Option<Limits>, must_be_sync: bool) -> String {
    let asked = "SELECT current_setting('server_version_num'), current_setting('fsync'), \
        current_setting('synchronous_commit'), pg_is_in_recovery()::text, \
        current_setting('transaction_read_only')";
    let sync = if must_be_sync { format!(", {SYNC}") } else { String::new() };
    let Some(Limits { row, statement, .. }) = own else { return format!("{asked}{sync}") };
    format!(
        "SELECT set_config('default_transaction_isolation', 'read committed', false), \
             set_config('statement_timeout', '{}', false), \
             set_config('lock_timeout', '{}', false), \
             CASE WHEN current_setting('synchronous_commit') = 'off' \
                 THEN set_config('synchronous_commit', 'on', false) END, \
             CASE WHEN current_setting('server_version_num')::int >= 140000 \
                 THEN set_config('idle_session_timeout', '0', false) END; \
         {asked}{sync}",
        in_ms(statement),
        in_ms(row)
    )
}
