//! The table, the statements, and what the errors of the server mean. Each statement is one transaction.
//!
//! A statement sees the table as it was when the statement began, except for rows that it locks: those
//! it sees as they are when it has the lock. So a write locks the rows that it decides on, and computes the
//! version afterwards. What it does not write it does not lock: a mismatch is what the table was when the
//! statement began. Where that is no mismatch, because the row was changed meanwhile, it is asked again.

use super::floors;
use crate::cluster::{ConnectError, TransportError};
use std::error::Error;
use std::io;
use std::time::Duration;
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::types::Type;

/// The present time, in microseconds since 1970.
///
/// Operators match their types exactly, so that no role which may create some in a schema of the search path can put
/// its own in their place.
const NOW: &str =
    "(extract(epoch FROM clock_timestamp())::double precision * 1000000::double precision)::bigint";

/// The value of a register, for this client. No node writes more than 1 MiB, so what a stranger has
/// written beyond that is not read into memory: one byte more is enough to refuse it.
const VALUE: &str = "substr(value, 1, 1048577)";

/// The same in a join.
const VALUE_OF_ROW: &str = "substr(r.value, 1, 1048577)";

/// How many registers one statement of the housekeeping reads. While it deletes, it keeps their floors
/// locked, and so delays the creation of registers: for less than [`ServerTimeouts::row`].
const PAGE: u32 = 500;

/// How long the server waits for a lock or a statement before it refuses.
#[derive(Clone, Copy)]
pub(super) struct ServerTimeouts {
    /// For a row that is locked. lockword locks a row for milliseconds. A statement that waits delays
    /// all later requests on the same connection.
    pub(super) row: Duration,
    /// For the turn of a write that notifies: it waits at its commit for all others that notify.
    pub(super) notice: Duration,
    /// For any other lock.
    pub(super) lock: Duration,
    /// For a statement.
    pub(super) statement: Duration,
}

impl ServerTimeouts {
    /// The server's timeouts are shorter than `timeout`, so that its answer comes in time: the answer
    /// says that nothing was written.
    pub(super) fn new(timeout: Duration) -> Self {
        let (lock, statement) = (timeout * 3 / 5, timeout * 4 / 5);
        let row = (timeout / 20).max(Duration::from_millis(50)).min(lock);
        Self { row, notice: (timeout / 5).max(row).min(lock), lock, statement }
    }
}

/// The value of a setting of the server.
pub(super) fn in_ms(limit: Duration) -> String {
    format!("{}ms", limit.as_millis().max(1))
}

/// An expression that sets `lock_timeout` for the rest of the transaction, and is true. A statement
/// reads the setting when it begins to wait for a lock.
pub(super) fn wait_for(limit: Duration) -> String {
    format!("set_config('lock_timeout', '{}', true) IS NOT NULL", in_ms(limit))
}

/// A statement, and the types of its parameters.
pub(super) struct SqlStatement {
    pub(super) text: String,
    pub(super) types: &'static [Type],
}

/// All statements.
pub(super) struct SqlStatements {
    /// `version, value`; no row if there is no register.
    pub(super) load: SqlStatement,
    /// `written, version, value`: the new version; if there is none, what the row is; if there is nothing of
    /// both, the row was created meanwhile. No row if there is no floor that this user may lock.
    pub(super) create: SqlStatement,
    /// The same, with a notice. The ones without do not name `pg_notify`: a user who may not execute it
    /// could not run them.
    pub(super) create_and_notify: SqlStatement,
    /// `written, version, value`: the new version; if there is none, what the row was. No row if there
    /// was no register.
    pub(super) update: SqlStatement,
    /// The same, with a notice.
    pub(super) update_and_notify: SqlStatement,
    /// `written, version, value, key`, as the two above, for each of several keys that are all different.
    pub(super) create_all: SqlStatement,
    pub(super) create_all_and_notify: SqlStatement,
    /// The same. A row that is locked is not waited for, and is as it was.
    pub(super) update_all: SqlStatement,
    pub(super) update_all_and_notify: SqlStatement,
    /// `count, last, has_floor`: the last key that was read, if there was any; whether each register that has
    /// to go has a floor that this user may lock.
    pub(super) delete_idle: SqlStatement,
    /// `count, has_floor`.
    pub(super) delete: SqlStatement,
    pub(super) list: SqlStatement,
}

/// The SQL that creates the table `table`.
pub(super) fn schema(table: &str, unlogged: bool) -> String {
    let kind = if unlogged { "UNLOGGED TABLE" } else { "TABLE" };
    format!(
        r#"-- The registers of lockword, a row each.
CREATE {kind} IF NOT EXISTS {table} (
    -- The name of the lock. The row without a name is the floor: its version is at least that of
    -- every register that was deleted. A row whose name ends with /* is the floor of those that begin
    -- with what is before the star. A floor is never deleted itself.
    key text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL CHECK (version BETWEEN 1 AND 4503599627370495),
    -- To be read by convert_from(value, 'UTF8').
    value bytea NOT NULL,
    -- Since when nobody holds the lock and nobody waits for it.
    idle_since timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
{};
"#,
        floors::shared(table)
    )
}

/// The same as [`schema`], for one client at a time.
pub(super) fn create_schema(table: &str, unlogged: bool, limits: ServerTimeouts) -> String {
    // The number is lockword's own. Without this lock, one of two clients that create the table at a
    // time may fail. Statements that are sent together are one transaction.
    format!(
        "SELECT {}; SELECT pg_advisory_xact_lock(7813295760128);
{}",
        wait_for(limits.lock),
        schema(table, unlogged)
    )
}

/// An expression: whether the table is one of those that a crash empties. Null if it does not exist.
fn is_unlogged(table: &str) -> String {
    let (schema, name) = table.split_once('.').expect("it has its schema");
    format!(
        "(SELECT c.relpersistence = 'u' FROM pg_catalog.pg_class AS c \
             JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
             WHERE n.nspname = '{schema}' AND c.relname = '{name}')"
    )
}

/// Whether the table exists; and whether a crash empties it. This is asked before it is created, since a user who
/// may write to an existing table need not have the right to create one.
pub(super) fn table_exists(table: &str) -> String {
    format!("SELECT to_regclass('{table}') IS NOT NULL, {}", is_unlogged(table))
}

/// Why a table is refused of which a crash leaves nothing, or everything, and of which the options say the opposite.
/// `is_unlogged`: whether it is such a table.
pub(super) fn other_kind(table: &str, is_unlogged: bool) -> String {
    let (is, option, change) = match is_unlogged {
        true => ("unlogged", "is not set", "LOGGED"),
        false => ("logged", "is set", "UNLOGGED"),
    };
    format!(
        "the table {table} is {is}, but unlogged=true {option}: change the option for all clients, use another \
         table, or run ALTER TABLE {table} SET {change}"
    )
}

/// An expression that notifies `channel` with `hint`.
fn notify(limits: ServerTimeouts, channel: &str, hint: &str) -> String {
    // All rows are locked by now, so the timeout for the turn at the commit applies.
    let patient = wait_for(limits.notice);
    format!("CASE WHEN {patient} THEN pg_notify({channel}::text, {hint}::text) IS NULL END")
}

/// Whether this connection may notify, and there is room for it. `t` or `f`.
pub(super) const CAN_NOTIFY: &str = "has_function_privilege('pg_notify(text, text)', 'EXECUTE') \
    AND pg_notification_queue_usage() < 0.95::double precision";

impl SqlStatements {
    /// The statements for this table. `own`: the timeouts are set for the whole connection already.
    pub(super) fn new(table: &str, limits: ServerTimeouts, own: bool) -> Self {
        // A part of the condition by which the first row that is to be locked is found.
        let brief = match own {
            true => String::new(),
            false => format!(" AND (SELECT {})", wait_for(limits.row)),
        };
        Self {
            load: SqlStatement {
                text: format!("SELECT version, {VALUE} AS value FROM {table} WHERE key = $1::text"),
                types: &[Type::TEXT],
            },
            create: SqlStatement {
                text: create(table, &brief, None),
                types: &[Type::TEXT, Type::BYTEA, Type::BOOL],
            },
            create_and_notify: SqlStatement {
                text: create(table, &brief, Some(notify(limits, "$4", "$5"))),
                types: &[Type::TEXT, Type::BYTEA, Type::BOOL, Type::TEXT, Type::TEXT],
            },
            update: SqlStatement {
                text: update(table, &brief, None),
                types: &[Type::TEXT, Type::INT8, Type::BYTEA, Type::BOOL],
            },
            update_and_notify: SqlStatement {
                text: update(table, &brief, Some(notify(limits, "$5", "$6"))),
                types: &[Type::TEXT, Type::INT8, Type::BYTEA, Type::BOOL, Type::TEXT, Type::TEXT],
            },
            create_all: SqlStatement {
                text: create_all(table, &brief, None),
                types: &[Type::TEXT_ARRAY, Type::BYTEA_ARRAY, Type::BOOL_ARRAY],
            },
            create_all_and_notify: SqlStatement {
                text: create_all(table, &brief, Some(limits)),
                types: &[
                    Type::TEXT_ARRAY,
                    Type::BYTEA_ARRAY,
                    Type::BOOL_ARRAY,
                    Type::TEXT_ARRAY,
                    Type::TEXT_ARRAY,
                ],
            },
            update_all: SqlStatement {
                text: update_all(table, None),
                types: &[Type::TEXT_ARRAY, Type::BYTEA_ARRAY, Type::BOOL_ARRAY, Type::INT8_ARRAY],
            },
            update_all_and_notify: SqlStatement {
                text: update_all(table, Some(limits)),
                types: &[
                    Type::TEXT_ARRAY,
                    Type::BYTEA_ARRAY,
                    Type::BOOL_ARRAY,
                    Type::TEXT_ARRAY,
                    Type::TEXT_ARRAY,
                    Type::INT8_ARRAY,
                ],
            },
            delete_idle: SqlStatement { text: delete_idle(table, limits), types: &[Type::TEXT] },
            delete: SqlStatement { text: delete(table, &brief), types: &[Type::TEXT] },
            list: SqlStatement { text: list(table), types: &[Type::TEXT, Type::TEXT] },
        }
    }
}

/// A register that is there is read as the statement found it, which is the truth of a moment of the call.
/// One that is created while the statement runs is not seen: then the row that it returns is empty.
fn create(table: &str, brief: &str, notify: Option<String>) -> String {
    let notified = notify.map_or(String::new(), |notify| format!(", {notify}"));
    let when = format!(" AND NOT EXISTS (SELECT FROM seen){brief}");
    let floor = floors::of_asked(table, "SHARE", &when);
    format!(
        "WITH seen AS MATERIALIZED ( \
             SELECT version, {VALUE} AS value FROM {table} WHERE key = $1::text), \
         {floor}, \
         written AS ( \
             INSERT INTO {table} AS r (key, version, value, idle_since) \
             SELECT $1::text, greatest(floor.version + 1, {NOW}), $2::bytea, \
                 CASE WHEN $3::boolean THEN clock_timestamp() END FROM floor \
             ON CONFLICT (key) DO NOTHING \
             RETURNING r.version{notified}) \
         SELECT version AS written, NULL::bigint AS version, NULL::bytea AS value FROM written \
         UNION ALL SELECT NULL, version, value FROM seen \
         UNION ALL SELECT NULL, NULL, NULL FROM floor WHERE NOT EXISTS (SELECT FROM written)"
    )
}

/// A register that has another version is read as the statement found it: neither locked, nor written, nor is
/// there a transaction to be flushed. One that gets another version while the statement waits for its row is
/// not written, and is read with the version that was expected.
fn update(table: &str, brief: &str, notify: Option<String>) -> String {
    let notified = notify.map_or(String::new(), |notify| format!(", {notify}"));
    format!(
        "WITH written AS ( \
             UPDATE {table} AS r SET version = greatest(r.version + 1, {NOW}), \
                 value = $3::bytea, \
                 idle_since = CASE WHEN $4::boolean THEN clock_timestamp() END \
             WHERE r.key = $1::text AND r.version = $2::bigint{brief} \
             RETURNING r.version{notified}), \
         seen AS MATERIALIZED ( \
             SELECT version, {VALUE} AS value FROM {table} \
             WHERE key = $1::text AND NOT EXISTS (SELECT FROM written)) \
         SELECT version AS written, NULL::bigint AS version, NULL::bytea AS value FROM written \
         UNION ALL SELECT NULL, version, value FROM seen"
    )
}

/// An expression that notifies the channel of a row that was asked for, if there is one.
fn notify_asked(limits: Option<ServerTimeouts>) -> String {
    let Some(limits) = limits else { return String::new() };
    let all = "unnest($1::text[], $4::text[], $5::text[]) AS a(key, channel, hint)";
    let notify = notify(limits, "a.channel", "a.hint");
    // Several rows may be told of in one statement.
    format!(
        ", (SELECT count({notify}) FROM {all} WHERE a.key = r.key AND a.channel IS NOT NULL) \
         AS notified"
    )
}

/// [`create`] for several keys. They are created in the order of the keys, so that two such statements do not wait
/// for each other.
fn create_all(table: &str, brief: &str, limits: Option<ServerTimeouts>) -> String {
    let notified = notify_asked(limits);
    let floors = floors::of_rows(table, "fresh", "SHARE", brief);
    let its_floor = floors::of(table, "a.key");
    format!(
        "WITH asked AS MATERIALIZED ( \
             SELECT * FROM unnest($1::text[], $2::bytea[], $3::boolean[]) AS a(key, value, idle)), \
         seen AS MATERIALIZED ( \
             SELECT r.key, r.version, {VALUE_OF_ROW} AS value \
             FROM {table} AS r JOIN asked ON r.key = asked.key), \
         fresh AS MATERIALIZED ( \
             SELECT a.key, a.value, a.idle, {its_floor} AS floor FROM asked AS a \
             WHERE NOT EXISTS (SELECT FROM seen WHERE seen.key = a.key)), \
         {floors}, \
         written AS ( \
             INSERT INTO {table} AS r (key, version, value, idle_since) \
             SELECT a.key, greatest(floors.version + 1, {NOW}), a.value, \
                 CASE WHEN a.idle THEN clock_timestamp() END \
             FROM fresh AS a JOIN floors ON floors.key = a.floor WHERE {ALL_LOCKED} \
             ORDER BY a.key COLLATE \"C\" \
             ON CONFLICT (key) DO NOTHING \
             RETURNING r.key, r.version{notified}) \
         SELECT written.version AS written, seen.version, seen.value, asked.key FROM asked \
             LEFT JOIN written ON written.key = asked.key LEFT JOIN seen ON seen.key = asked.key",
        ALL_LOCKED = floors::ALL_LOCKED
    )
}

/// [`update`] for several keys.
fn update_all(table: &str, limits: Option<ServerTimeouts>) -> String {
    let notified = notify_asked(limits);
    let expected = if limits.is_some() { "$6" } else { "$4" };
    format!(
        "WITH asked AS MATERIALIZED ( \
             SELECT * FROM unnest($1::text[], {expected}::bigint[], $2::bytea[], $3::boolean[]) \
                 AS a(key, expected, value, idle)), \
         locked AS MATERIALIZED ( \
             SELECT r.key, asked.value, asked.idle FROM {table} AS r \
                 JOIN asked ON r.key = asked.key AND r.version = asked.expected \
             ORDER BY r.key FOR NO KEY UPDATE OF r SKIP LOCKED), \
         written AS ( \
             UPDATE {table} AS r SET version = greatest(r.version + 1, {NOW}), \
                 value = locked.value, \
                 idle_since = CASE WHEN locked.idle THEN clock_timestamp() END \
             FROM locked WHERE r.key = locked.key \
             RETURNING r.key, r.version{notified}), \
         seen AS MATERIALIZED ( \
             SELECT r.key, r.version, {VALUE_OF_ROW} AS value \
             FROM {table} AS r JOIN asked ON r.key = asked.key \
             WHERE NOT EXISTS (SELECT FROM written WHERE written.key = r.key)) \
         SELECT written.version AS written, seen.version, seen.value, asked.key FROM asked \
             LEFT JOIN written ON written.key = asked.key LEFT JOIN seen ON seen.key = asked.key"
    )
}

/// Deletes the idle registers of the next page, in the order of the keys: by the index of the primary
/// key, and without reading later rows. A row that is locked is not idle, and a floor is no register,
/// whatever its columns say.
///
/// Statements that create registers share the floor, and together they may keep it for long. So this
/// one uses the longer timeout.
fn delete_idle(table: &str, limits: ServerTimeouts) -> String {
    let long_idle = "idle_since < clock_timestamp() - interval '1 day'";
    let patient = format!(" AND (SELECT {})", wait_for(limits.lock));
    let floors = floors::of_rows(table, "old", "UPDATE", &patient);
    let its_floor = floors::of(table, "page.key");
    format!(
        "WITH page AS MATERIALIZED (SELECT key, {long_idle} AND {IS_REGISTER} AS is_old \
             FROM {table} WHERE key > $1::text ORDER BY key LIMIT {PAGE}), \
         old AS MATERIALIZED (SELECT key, {its_floor} AS floor FROM page WHERE is_old), \
         {floors}, \
         idle AS MATERIALIZED (SELECT r.key, old.floor FROM floors, old, {table} AS r \
             WHERE {ALL_LOCKED} AND old.floor = floors.key AND r.key = old.key AND r.{long_idle} \
             FOR UPDATE OF r SKIP LOCKED), \
         gone AS (DELETE FROM {table} AS r USING idle WHERE r.key = idle.key \
             RETURNING r.version, idle.floor), \
         raised AS (UPDATE {table} AS r SET version = greatest(floors.version, \
             (SELECT max(gone.version) FROM gone WHERE gone.floor = floors.key)) \
             FROM floors WHERE r.key = floors.key) \
         SELECT (SELECT count(*) FROM gone) AS count, (SELECT max(key) FROM page) AS last, \
             NOT EXISTS (SELECT FROM old WHERE floor IS NULL) AS has_floor",
        IS_REGISTER = floors::IS_REGISTER,
        ALL_LOCKED = floors::ALL_LOCKED
    )
}

/// The keys of the next page that begin with a prefix, in one row. The order is that of the bytes.
fn list(table: &str) -> String {
    format!(
        "SELECT array(SELECT key FROM {table} WHERE key <> '' AND starts_with(key, $1::text) \
             AND key COLLATE \"C\" > $2::text ORDER BY key COLLATE \"C\" LIMIT {PAGE})"
    )
}

fn delete(table: &str, brief: &str) -> String {
    let floor = floors::of_asked(table, "UPDATE", brief);
    format!(
        "WITH {floor}, \
         gone AS (DELETE FROM {table} AS r USING floor WHERE r.key <> '' AND r.key = $1::text \
             RETURNING r.version), \
         raised AS (UPDATE {table} AS r SET version = greatest(floor.version, \
             (SELECT max(gone.version) FROM gone)) FROM floor WHERE r.key = floor.key) \
         SELECT count(*), EXISTS (SELECT FROM floor) AS has_floor FROM gone"
    )
}

/// Whether replicas have every acknowledged write: `t` or `f`, or null without such settings.
pub(super) const SYNC: &str = "current_setting('synchronous_standby_names', true) <> '' \
    AND current_setting('synchronous_commit') IN ('on', 'remote_apply')";

/// The first statement of a connection: it sets the connection's `own` timeouts, if no other client
/// shares the server's side of the connection, and reads the settings of the server.
pub(super) fn setup(own: Option<ServerTimeouts>, must_be_sync: bool, table: &str) -> String {
    let asked = "SELECT current_setting('server_version_num'), current_setting('fsync'), \
        current_setting('synchronous_commit'), pg_is_in_recovery()::text, \
        current_setting('transaction_read_only')";
    let sync = if must_be_sync { SYNC } else { "true" };
    let kind = is_unlogged(table);
    let asked = format!("{asked}, {sync}, {CAN_NOTIFY}, pg_postmaster_start_time()::text, {kind}");
    let Some(ServerTimeouts { row, statement, .. }) = own else { return asked };
    format!(
        "SELECT set_config('default_transaction_isolation', 'read committed', false), \
             set_config('statement_timeout', '{}', false), \
             set_config('lock_timeout', '{}', false), \
             CASE WHEN current_setting('synchronous_commit') = 'off' \
                 THEN set_config('synchronous_commit', 'on', false) END, \
             CASE WHEN current_setting('server_version_num')::int >= 140000 \
                 THEN set_config('idle_session_timeout', '0', false) END; \
         {asked}",
        in_ms(statement),
        in_ms(row)
    )
}

/// Why there is no connection: as the error of connecting, and as that of a later request.
#[derive(Clone, Debug)]
pub(super) struct PostgresFailure {
    pub(super) connect: ConnectError,
    pub(super) call: TransportError,
    /// All is well but that notifications are refused.
    pub(super) is_of_notices: bool,
}

impl PostgresFailure {
    pub(super) fn unreachable(server: &str, why: impl Into<String>) -> Self {
        let why = why.into();
        let call = TransportError::unavailable(why.clone());
        let connect = ConnectError::Unreachable { server: server.to_owned(), cause: why.into() };
        Self { connect, call, is_of_notices: false }
    }

    /// Notifications are refused.
    pub(super) fn of_notices(server: &str, why: impl Into<String>) -> Self {
        let why = format!("notifications are refused, so nodes that wait poll: {}", why.into());
        Self { is_of_notices: true, ..Self::unreachable(server, why) }
    }

    pub(super) fn unsuitable(server: &str, why: impl Into<String>) -> Self {
        let why = why.into();
        let call = TransportError::unsupported(why.clone());
        let connect = ConnectError::Unsuitable { server: server.to_owned(), why };
        Self { connect, call, is_of_notices: false }
    }

    /// A server that may be fit later.
    pub(super) fn unsuitable_for_now(server: &str, why: impl Into<String>) -> Self {
        let failure = Self::unsuitable(server, why.into());
        let ConnectError::Unsuitable { why, .. } = &failure.connect else { return failure };
        Self { call: TransportError::unavailable(why.clone()), ..failure }
    }

    fn denied(server: &str, why: String) -> Self {
        ConnectError::Denied { server: server.to_owned(), cause: why.into() }.into()
    }

    fn untrusted(server: &str, why: String) -> Self {
        ConnectError::Untrusted { server: server.to_owned(), cause: why.into() }.into()
    }

    /// The same, with more in the error.
    pub(super) fn map(self, change: impl FnOnce(ConnectError) -> ConnectError) -> Self {
        match change(self.connect) {
            connect @ (ConnectError::Denied { .. } | ConnectError::Untrusted { .. }) => {
                connect.into()
            }
            ConnectError::Unreachable { server, cause } => Self {
                is_of_notices: self.is_of_notices,
                ..Self::unreachable(&server, cause.to_string())
            },
            connect => Self { connect, ..self },
        }
    }

    /// What the error of an attempt to connect means.
    pub(super) fn of_connecting(server: &str, error: &tokio_postgres::Error) -> Self {
        let why = text(error);
        if let Some(said) = error.as_db_error() {
            return match said.code().code() {
                // A database that does not exist.
                "3D000" => Self::unsuitable(server, why),
                code if code.starts_with("28") || code == "42501" => Self::denied(server, why),
                code if code.starts_with("42") => Self::unsuitable(server, why),
                _ => Self::unreachable(server, why),
            };
        }
        match tls_error(error) {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) => {
                Self::untrusted(server, why)
            }
            Some(_) => Self::unsuitable(server, why),
            None if why.contains("does not support TLS") => Self::unsuitable(
                server,
                "it offers no TLS: use sslmode=disable where the network is trusted",
            ),
            None if why.starts_with("authentication error") => Self::denied(server, why),
            None if why.starts_with("invalid configuration") => Self::denied(server, why),
            None => Self::unreachable(server, why),
        }
    }
}

/// It is not known whether the server suits.
impl From<ConnectError> for PostgresFailure {
    fn from(connect: ConnectError) -> Self {
        let call = match &connect {
            ConnectError::Unreachable { .. } | ConnectError::Credentials { .. } => {
                TransportError::unavailable(connect.clone())
            }
            ConnectError::Denied { .. }
            | ConnectError::Untrusted { .. }
            | ConnectError::Unencrypted { .. } => TransportError::denied(connect.clone()),
            _ => TransportError::unsupported(connect.clone()),
        };
        Self { connect, call, is_of_notices: false }
    }
}

/// What a statement's failure means.
pub(super) struct StatementFailure {
    pub(super) error: TransportError,
    /// The statement was certainly not applied, and may succeed when it is sent again at once.
    pub(super) can_retry: bool,
    /// The connection is of no use any more.
    pub(super) is_broken: bool,
    /// The server has refused the statement, which was certainly not applied.
    pub(super) refused: Option<SqlState>,
}

/// There was no connection for it.
impl From<TransportError> for StatementFailure {
    fn from(error: TransportError) -> Self {
        Self { error, can_retry: false, is_broken: false, refused: None }
    }
}

impl StatementFailure {
    /// What the error of a statement means. `write`: the statement changes something.
    pub(super) fn new(error: &tokio_postgres::Error, write: bool) -> Self {
        let why = text(error);
        let lost = |why: String| {
            let error = if write {
                TransportError::indeterminate(why)
            } else {
                TransportError::unavailable(why)
            };
            Self { error, can_retry: false, is_broken: true, refused: None }
        };
        let Some(said) = error.as_db_error() else { return lost(why) };
        let code = said.code().code();
        // An error that ends the connection may come in place of an answer.
        if is_fatal(said) || code.starts_with("08") || code == "40003" {
            return lost(why);
        }
        let transient = |why: String| TransportError::unavailable(why);
        let (error, can_retry, is_broken) = match code {
            // It lost against another transaction.
            "40001" | "40P01" => (transient(why), true, false),
            // It is a replica: the next connection may lead to another server.
            "25006" => (transient(why), false, true),
            // The server does not know a prepared statement, or has another one of the same name.
            "26000" | "42P05" => {
                let hint = "if a transaction pooler is in between, add pooled=true to the address";
                (TransportError::unsupported(format!("{why}; {hint}")), false, true)
            }
            // A prepared statement has become invalid, because the table was changed.
            "0A000" => (transient(why), false, true),
            "42P01" | "42703" | "3F000" | "42P10" => {
                let hint = "create the table by create_schema(), by ?create_schema=true in the address, or by the SQL of schema_sql()";
                (TransportError::unsupported(format!("{why}; {hint}")), false, false)
            }
            "42501" => (TransportError::denied(why), false, false),
            _ if code.starts_with("28") => (TransportError::denied(why), false, true),
            _ if code.starts_with("XX") => (TransportError::corrupt(why), false, false),
            _ if ["0A", "21", "22", "23", "42"].iter().any(|class| code.starts_with(class)) => {
                (TransportError::unsupported(why), false, false)
            }
            // A full disk, too little memory, a timeout.
            _ => (transient(why), false, false),
        };
        Self { error, can_retry, is_broken, refused: Some(said.code().clone()) }
    }
}

fn is_fatal(said: &DbError) -> bool {
    match said.parsed_severity() {
        Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
        None => said.severity() != "ERROR",
    }
}

/// The texts of an error and its sources, in one line and without repetitions.
fn text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = match cause.downcast_ref::<DbError>() {
            Some(said) => format!("{} ({})", said.message(), said.code().code()),
            None => cause.to_string(),
        };
        if !text.contains(&said) {
            text = if text == "db error" { said } else { format!("{text}: {said}") };
        }
        next = cause.source();
    }
    text
}

/// The error of rustls among the sources of an error.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    None
}
