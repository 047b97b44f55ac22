//! Rights on the locks of a prefix, as SQL: one transaction.

use super::builder::{PostgresBuilder, full_name};
use super::floors;
use super::sql::{ServerTimeouts, in_ms};
use crate::cluster::engines::grants::{Grants, GrantsError, bad_role, check_role};
use crate::cluster::engines::prefix::{Prefix, SEALED_MARK};

/// The longest name of a role, in bytes: PostgreSQL cuts names of more than 63, and those of the policies are the
/// role's and at most seven bytes.
const LONGEST_ROLE: usize = 56;

impl PostgresBuilder {
    /// The SQL that gives `role` rights on the locks of `prefix`: see
    /// [`grants`](crate::cluster::engines::grants()), and [the page](super#rights-per-prefix).
    ///
    /// # Errors
    ///
    /// [`GrantsError`]; [`Role`](GrantsError::Role) also for `public`, which is everybody.
    pub fn grants(&self, prefix: &str, role: &str) -> Result<Grants, GrantsError> {
        let prefix = Prefix::new(prefix).map_err(|why| GrantsError::Prefix { why })?;
        check_role(role, LONGEST_ROLE)?;
        if role == "public" {
            return Err(bad_role(role, "that is everybody in PostgreSQL, also in quotation marks"));
        }
        let (table, limits) =
            (full_name(&self.table)?, ServerTimeouts::new(self.connection.timeout));
        let (schema, _) = table.split_once('.').expect("it has its schema");
        let (name, limit) = (identifier(role), in_ms(limits.row));
        let floor = floors::create(&table, &prefix, limits);
        // The name of the role comes last, so that no two roles have a policy of one name.
        let policies = ["read", "change", "create", "delete", "all"];
        let policies = policies.map(|what| identifier(&format!("{what} {role}")));
        let [read, change, create, ..] = &policies;
        let drop_policies: String = policies
            .iter()
            .map(|policy| format!("DROP POLICY IF EXISTS {policy} ON {table};\n"))
            .collect();
        let role_text = literal(role);
        // It is read before anything else, and written by none of them.
        let or_mark = match prefix.is_sealed() {
            true => format!(" OR key = '{SEALED_MARK}'"),
            false => String::new(),
        };
        let commands = format!(
            r#"BEGIN ISOLATION LEVEL READ COMMITTED;
-- No function or operator of another schema is meant: it would run with the rights of whoever runs this.
SET LOCAL search_path = pg_catalog, pg_temp;
-- A client that stops in the middle gives the table back.
SET LOCAL idle_in_transaction_session_timeout = '10s';
SET LOCAL statement_timeout = '10s';
-- All that use the table wait while this waits: if it is in vain, run it again.
SET LOCAL lock_timeout = '{limit}';
LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;
SET LOCAL client_min_messages = warning;

-- The versions of the prefix have a floor of their own.
{floor}
-- Other roles keep what they have, which is all rows.
DO $lockword$
DECLARE
    its record;
BEGIN
    IF EXISTS (SELECT FROM pg_class AS c CROSS JOIN LATERAL (
            SELECT a.grantee FROM aclexplode(c.relacl) AS a
            UNION SELECT a.grantee FROM pg_attribute AS t CROSS JOIN LATERAL aclexplode(t.attacl) AS a
                WHERE t.attrelid = c.oid
        ) AS a WHERE c.oid = '{table}'::regclass AND a.grantee = 0)
    THEN
        RAISE insufficient_privilege USING MESSAGE =
            'PUBLIC has rights on {table}, and no policy would let it see a row: REVOKE ALL ON TABLE {table} FROM PUBLIC';
    END IF;
    FOR its IN
        SELECT DISTINCT r.rolname, r.rolname = 'pg_read_all_data' AS reads,
            -- A longer name would be cut.
            CASE WHEN octet_length(r.rolname::text) > 59 THEN 'every ' || r.oid ELSE 'all ' || r.rolname END AS policy
        FROM pg_class AS c
        CROSS JOIN LATERAL (
            SELECT a.grantee FROM aclexplode(c.relacl) AS a
            UNION SELECT a.grantee FROM pg_attribute AS t CROSS JOIN LATERAL aclexplode(t.attacl) AS a
                WHERE t.attrelid = c.oid
            UNION SELECT o.oid FROM pg_roles AS o WHERE o.rolname IN ('pg_read_all_data', 'pg_write_all_data')
        ) AS a JOIN pg_roles AS r ON r.oid = a.grantee
        WHERE c.oid = '{table}'::regclass AND NOT c.relrowsecurity AND r.oid <> c.relowner
            AND NOT EXISTS (SELECT FROM pg_policy AS p
                WHERE p.polrelid = c.oid AND r.oid = ANY (p.polroles))
    LOOP
        EXECUTE format('CREATE POLICY %I ON {table} FOR %s TO %I USING (true)',
            its.policy, CASE WHEN its.reads THEN 'SELECT' ELSE 'ALL' END, its.rolname);
    END LOOP;
END
$lockword$;
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;

-- What the role has.
REVOKE ALL ON TABLE {table} FROM {name};
{drop_policies}GRANT SELECT, INSERT, UPDATE (version, value, idle_since) ON TABLE {table} TO {name};
CREATE POLICY {read} ON {table} FOR SELECT TO {name}
    USING (starts_with(key, '{prefix}'){or_mark});
-- A crash empties a table that is not logged, and leaves the policies: without its floor the role writes nothing.
CREATE POLICY {change} ON {table} FOR UPDATE TO {name}
    USING (starts_with(key, '{prefix}')
        AND EXISTS (SELECT FROM {table} AS floor WHERE floor.key = '{prefix}*'));
CREATE POLICY {create} ON {table} FOR INSERT TO {name}
    WITH CHECK (starts_with(key, '{prefix}') AND right(key, 1) <> '*'
        AND EXISTS (SELECT FROM {table} AS floor WHERE floor.key = '{prefix}*'));

-- What it must not have by another way: from PUBLIC, as a member of another role, as the owner or a superuser.
SET LOCAL lockword.role = {role_text};
DO $lockword$
DECLARE
    its name := current_setting('lockword.role');
    has record;
BEGIN
    IF NOT has_schema_privilege(its, '{schema}', 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA {schema} TO %I', its);
    END IF;
    SELECT r.rolname, more.why INTO has FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_database AS d ON d.datname = current_database()
    JOIN pg_roles AS r ON pg_has_role(its, r.oid, 'MEMBER')
    CROSS JOIN LATERAL (VALUES
        (CASE WHEN r.rolsuper OR r.rolbypassrls OR r.rolcreaterole
            THEN 'has SUPERUSER, BYPASSRLS or CREATEROLE' END),
        (CASE WHEN r.oid IN (c.relowner, n.nspowner, d.datdba)
            THEN 'owns the table, its schema or the database' END),
        (CASE WHEN r.rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files', 'pg_maintain')
            THEN 'has rights of the server' END),
        -- Others might call what it creates there.
        ((SELECT format('may create in the schema %I, perhaps as PUBLIC (REVOKE CREATE ON SCHEMA ... FROM PUBLIC)',
                min(s.nspname::text)) FROM pg_namespace AS s
            WHERE s.nspname IN (n.nspname, 'public') AND has_schema_privilege(r.oid, s.oid, 'CREATE')
            HAVING count(*) > 0)),
        (CASE WHEN has_column_privilege(r.oid, c.oid, 'key', 'UPDATE')
            OR has_table_privilege(r.oid, c.oid, 'DELETE, TRUNCATE, REFERENCES, TRIGGER')
            OR EXISTS (SELECT FROM aclexplode(c.relacl) AS a
                WHERE a.grantee = r.oid AND a.privilege_type = 'MAINTAIN')
            THEN 'has more than SELECT, INSERT and UPDATE (version, value, idle_since)' END),
        ((SELECT format('has the policy %I', min(p.polname::text)) FROM pg_policy AS p
            WHERE p.polrelid = c.oid AND p.polpermissive AND (0 = ANY (p.polroles) OR r.oid = ANY (p.polroles))
                AND p.polname NOT IN ('read ' || its, 'change ' || its, 'create ' || its)
            HAVING count(*) > 0))
    ) AS more(why)
    WHERE c.oid = '{table}'::regclass AND more.why IS NOT NULL ORDER BY r.rolname <> its;
    IF FOUND THEN
        RAISE insufficient_privilege USING MESSAGE = format(
            'the role %I has rights on more of {table} than the prefix: %I %s; nothing was granted',
            its, has.rolname, has.why);
    END IF;
END
$lockword$;
COMMIT;
"#
        );
        let notes = vec![
            format!(
                "It is for psql -X -v ON_ERROR_STOP=1, as the owner of {table}, or for a migration: one transaction, \
                 which does all or nothing. A second prefix takes the place of the first, and what was granted to the \
                 role by hand is gone: also DELETE."
            ),
            format!(
                "The role has to exist: CREATE ROLE {name} LOGIN. Its password is given by \\password in psql. Where \
                 PUBLIC may not connect it needs GRANT CONNECT ON DATABASE."
            ),
            "From now on a role sees no row of the table without a policy. All that have rights on it now get one \
             for all rows; who gets rights later needs one, too."
                .to_owned(),
            "There is no DELETE: who has it can lock the whole table. Another role does the housekeeping.".to_owned(),
        ];
        Ok(Grants { client: "psql", commands, notes })
    }
}

/// A name of SQL.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text of SQL, whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    match text.contains('\\') {
        true => format!("E'{}'", doubled.replace('\\', r"\\")),
        false => format!("'{doubled}'"),
    }
}
