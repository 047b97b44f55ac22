//! The floors: rows that remember the versions of registers that were deleted.
//!
//! The floor of a register is the one of the longest prefix of its key that has a floor. A prefix ends with a
//! slash. Its floor is the row of the prefix and a star, which no key has, so a rule that shows the rows of a
//! prefix also shows its floor. The row without a name is that of the empty prefix. Which floors there are, the
//! table says, so all clients agree.
//!
//! A statement finds the floors of its keys in its snapshot, and locks them before any other row, in the order of
//! their names. So a key is not created again before its floor is above what was deleted. Where a floor is made, no
//! other statement that writes runs: see [`create`].

use super::sql::{ServerTimeouts, in_ms};
use crate::cluster::engines::prefix::Prefix;

/// Whether a row is a register, or the floor without a name.
pub(super) const IS_REGISTER: &str = "right(key, 1) <> '*'";

/// A condition of a statement that uses the rows of [`of_rows`]: they are all locked.
pub(super) const ALL_LOCKED: &str = "(SELECT count(*) FROM floors) > 0";

/// An expression: the name of the floor of `key`, as the statement sees it. Null if this user sees none.
///
/// The star is less than all characters of a key, so the longest is also the last.
pub(super) fn of(table: &str, key: &str) -> String {
    format!(
        "(SELECT max(f.key) FROM {table} AS f WHERE f.key = ANY (ARRAY(SELECT \
             CASE WHEN at > 0 THEN left({key}, at) || '*' ELSE '' END \
             FROM generate_series(0, length({key})) AS at \
             WHERE at = 0 OR substr({key}, at, 1) = '/')))"
    )
}

/// A table expression `floor`: the name and the version of the floor of the key `$1`.
pub(super) fn of_asked(table: &str, lock: &str, when: &str) -> String {
    let its = of(table, "$1::text");
    format!(
        "floor AS MATERIALIZED (SELECT key, version FROM {table} WHERE key = {its}{when} FOR {lock})"
    )
}

/// A table expression `floors`: the names and the versions of those that the column `floor` of `rows` names.
pub(super) fn of_rows(table: &str, rows: &str, lock: &str, when: &str) -> String {
    format!(
        "floors AS MATERIALIZED (SELECT f.key, f.version FROM {table} AS f \
             WHERE f.key = ANY (ARRAY(SELECT DISTINCT floor FROM {rows})){when} \
             ORDER BY f.key FOR {lock} OF f)"
    )
}

/// The SQL that creates the floor without a name in an existing table.
pub(super) fn shared(table: &str) -> String {
    format!(
        "INSERT INTO {table} (key, version, value) VALUES ('', 1, '') ON CONFLICT (key) DO NOTHING"
    )
}

/// The SQL that creates the floor of `prefix`, unless it exists.
///
/// It begins with the version of the floor above it, which is at least that of each register of the prefix
/// that was deleted. A statement that has found that one ends before the lock of the table is granted. One
/// that comes later waits, and takes its snapshot afterwards; if its transaction has one already, it
/// fails when it locks the floor above (40001), since that was written.
pub(super) fn create(table: &str, prefix: &Prefix, limits: ServerTimeouts) -> String {
    let above = prefix.above();
    let above = std::iter::once("''".to_owned()).chain(above.map(|prefix| format!("'{prefix}*'")));
    let (above, limit) = (above.collect::<Vec<_>>().join(", "), in_ms(limits.row));
    format!(
        r#"DO $$
BEGIN
    -- All that write wait while this waits.
    SET LOCAL lock_timeout = '{limit}';
    LOCK TABLE {table} IN EXCLUSIVE MODE;
    WITH above AS (
        UPDATE {table} SET version = version
        WHERE key = (SELECT max(key) FROM {table} WHERE key IN ({above}))
        RETURNING version)
    INSERT INTO {table} (key, version, value) SELECT '{prefix}*', version, '' FROM above
    ON CONFLICT (key) DO NOTHING;
    IF NOT EXISTS (SELECT FROM {table} WHERE key = '{prefix}*') THEN
        RAISE undefined_table USING MESSAGE = 'the row without a name is missing in {table}';
    END IF;
END
$$;
"#
    )
}
