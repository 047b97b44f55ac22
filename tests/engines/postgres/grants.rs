//! The SQL of `grants`, as a migration runs it.

use super::*;
use futures_util::StreamExt;
use lockword::cluster::NodeId;
use lockword::cluster::engines::grants;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Above the clock.
const HIGH: i64 = 1 << 51;

/// The SQL for the table of the tests.
pub(super) fn sql(role: &str, prefix: &str) -> String {
    grants("postgres://h", prefix, role).expect("good names").commands().to_owned()
}

/// The address for a role.
fn address_of(server: &PostgresServer, role: &str) -> String {
    let name: String = role.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("postgres://{name}@127.0.0.1:{}/postgres", server.port)
}

/// PostgreSQL's own client, as a role.
async fn by_hand_as(server: &PostgresServer, role: &str) -> tokio_postgres::Client {
    let address = address_of(server, role);
    let (client, wire) =
        tokio_postgres::connect(&address, tokio_postgres::NoTls).await.expect("it runs");
    tokio::spawn(wire);
    client
}

/// Runs the SQL as the owner.
async fn apply(
    server: &PostgresServer,
    role: &str,
    prefix: &str,
) -> Result<(), tokio_postgres::Error> {
    // A connection of its own: one that is refused is in the middle of a transaction.
    server.client().await.batch_execute(&sql(role, prefix)).await
}

/// A server with the role `jobs`, which has the rights on `jobs/`, and the role `app`, which had all rights before;
/// and the client of the latter. `None`: skip the test.
async fn with_roles() -> Option<(PostgresServer, Postgres)> {
    let server = server().await?;
    let roles = "CREATE ROLE jobs LOGIN; CREATE ROLE app LOGIN; \
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.lockword TO app";
    server.client().await.batch_execute(roles).await.unwrap();
    apply(&server, "jobs", "jobs/").await.unwrap();
    let app = client(&address_of(&server, "app")).await;
    Some((server, app))
}

fn is_denied<T>(result: &Result<T, TransportError>) -> bool {
    matches!(result, Err(TransportError::Denied(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_has_locks_below_the_prefix_and_nowhere_else() {
    let Some((server, app)) = with_roles().await else { return };
    // A name that has to be quoted; an underscore, which is a pattern for LIKE; and rights of before, which it loses.
    let role = "o'b\"x\\\u{e4} $$ $lockword$";
    let by_hand = server.client().await;
    let quoted = role.replace('"', "\"\"");
    let before =
        format!("CREATE ROLE \"{quoted}\" LOGIN; GRANT ALL ON public.lockword TO \"{quoted}\"");
    by_hand.batch_execute(&before).await.unwrap();
    // Twice: it does no harm. Whatever the setting, a backslash is one.
    for strings in ["on", "off"] {
        let set = format!("ALTER DATABASE postgres SET standard_conforming_strings = {strings}");
        by_hand.batch_execute(&set).await.unwrap();
        apply(&server, role, "a_b/").await.unwrap();
    }
    by_hand.batch_execute("ALTER DATABASE postgres RESET ALL").await.unwrap();
    put(&app, "other/k", "v").await;
    put(&app, "axb/held", "v").await;
    let lease = ms(1500);
    let a = node(&client(&address_of(&server, role)).await, "a").lease(lease).build().unwrap();
    let b = node(&client(&address_of(&server, role)).await, "b").lease(lease).build().unwrap();
    let held = lock(&a, "a_b/deep/k").acquire().await.unwrap();
    let waiting = lock(&b, "a_b/deep/k");
    let waiting = tokio::spawn(async move { waiting.acquire().await.unwrap() });
    sleep(lease * 2).await;
    assert!(held.is_valid(), "it is renewed");
    let seen = b.inspect("a_b/deep/k").await.unwrap();
    assert_eq!(seen.queue.len(), 1, "{seen:?}");
    let token = held.token();
    held.release().await.unwrap();
    let next = waiting.await.unwrap();
    assert!(next.token() > token);
    next.release().await.unwrap();

    let engine = client(&address_of(&server, role)).await;
    for name in ["other/new", "other/k", "a_b", "a_bc/k", "axb/k", "axb/held", "a", "A_b/k"] {
        let created = engine.compare_exchange(&key(name), None, value("v")).await;
        assert!(is_denied(&created), "{name}: {created:?}");
        assert!(is_denied(&engine.delete(&key(name)).await), "{name}");
        assert_eq!(engine.load(&key(name)).await.unwrap(), None, "{name} is not seen");
    }
    assert_eq!(engine.list("").await.unwrap(), [key("a_b/deep/k")], "and no other");
    assert!(is_denied(&engine.delete(&key("a_b/deep/k")).await), "nor deleted");
    assert!(is_denied(&engine.housekeeping().await));
    assert!(is_denied(&engine.create_floor("a_b/deep/").await));
    // The others have all they had.
    assert!(app.delete(&key("other/k")).await.unwrap());
    assert_eq!(app.list("").await.unwrap(), [key("a_b/deep/k"), key("axb/held")]);
    let jobs = client(&address_of(&server, "jobs")).await;
    put(&jobs, "jobs/k", "v").await;
    assert!(is_denied(&jobs.compare_exchange(&key("a_b/k"), None, value("v")).await));
}

/// What a lock does, once, and what is refused of it. Below the prefix a register is there already.
async fn exercise(server: &PostgresServer, app: &Postgres) -> Result<(), String> {
    let said = |error: TransportError| error.to_string();
    put(app, "jobs/there", "v").await;
    app.delete(&key("jobs/new")).await.map_err(said)?;
    let engine = connect(&address_of(server, "jobs")).await.map_err(|error| error.to_string())?;
    let there = engine.load(&key("jobs/there")).await.map_err(said)?.ok_or("it is not seen")?;
    for (name, expected) in [("jobs/new", None), ("jobs/there", Some(there.version))] {
        let write = Write { idle: true, ..value("v") };
        match engine.compare_exchange(&key(name), expected, write).await.map_err(said)? {
            Exchange::Swapped(_) => {}
            other => return Err(format!("{name}: {other:?}")),
        }
    }
    Ok(())
}

/// Each right and each policy is needed: without it something that a lock does is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_granted_that_a_lock_does_not_need() {
    let Some((server, app)) = with_roles().await else { return };
    exercise(&server, &app).await.unwrap();
    let by_hand = server.client().await;
    for without in [
        "DROP POLICY \"read jobs\" ON public.lockword",
        "DROP POLICY \"change jobs\" ON public.lockword",
        "DROP POLICY \"create jobs\" ON public.lockword",
        "REVOKE SELECT ON public.lockword FROM jobs",
        "REVOKE INSERT ON public.lockword FROM jobs",
        "REVOKE UPDATE (version) ON public.lockword FROM jobs",
        "REVOKE UPDATE (value) ON public.lockword FROM jobs",
        "REVOKE UPDATE (idle_since) ON public.lockword FROM jobs",
        "UPDATE public.lockword SET key = 'away' WHERE key = 'jobs/*'",
    ] {
        by_hand.batch_execute(without).await.unwrap();
        let refused = exercise(&server, &app).await;
        println!("{without}: {refused:?}");
        assert!(refused.is_err(), "it is not needed: {without}");
        // It puts all of that right.
        by_hand.batch_execute("DELETE FROM public.lockword WHERE key = 'away'").await.unwrap();
        apply(&server, "jobs", "jobs/").await.unwrap();
    }
    // A role is made that may not use the schema.
    by_hand.batch_execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC").await.unwrap();
    assert!(exercise(&server, &client(&server.address("")).await).await.is_err());
    apply(&server, "jobs", "jobs/").await.unwrap();
    exercise(&server, &client(&server.address("")).await).await.unwrap();
}

/// A role that has more by another way is refused, and nothing has changed then.
#[tokio::test]
async fn a_role_that_has_more_rights_is_refused() {
    let Some(server) = server().await else { return };
    let by_hand = server.client().await;
    let roles = "CREATE ROLE app LOGIN; GRANT SELECT, INSERT, UPDATE ON public.lockword TO app";
    by_hand.batch_execute(roles).await.unwrap();
    for (more, less) in [
        ("ALTER ROLE jobs SUPERUSER", ""),
        ("ALTER ROLE jobs BYPASSRLS", ""),
        ("ALTER ROLE jobs CREATEROLE", ""),
        ("GRANT app TO jobs", ""),
        ("ALTER ROLE jobs NOINHERIT; GRANT app TO jobs", ""),
        ("GRANT pg_write_all_data TO jobs", ""),
        (
            "ALTER TABLE public.lockword OWNER TO jobs",
            "ALTER TABLE public.lockword OWNER TO postgres",
        ),
        ("ALTER SCHEMA public OWNER TO jobs", "ALTER SCHEMA public OWNER TO pg_database_owner"),
        ("ALTER DATABASE postgres OWNER TO jobs", "ALTER DATABASE postgres OWNER TO postgres"),
        ("GRANT pg_write_server_files TO jobs", ""),
        (
            "GRANT pg_read_server_files TO app; GRANT app TO jobs",
            "REVOKE pg_read_server_files FROM app",
        ),
        ("GRANT pg_execute_server_program TO jobs", ""),
        ("GRANT CREATE ON SCHEMA public TO jobs", ""),
        ("GRANT CREATE ON SCHEMA public TO PUBLIC", "REVOKE CREATE ON SCHEMA public FROM PUBLIC"),
        ("GRANT DELETE ON public.lockword TO PUBLIC", "REVOKE ALL ON public.lockword FROM PUBLIC"),
        (
            "GRANT SELECT (key) ON public.lockword TO PUBLIC",
            "REVOKE ALL ON public.lockword FROM PUBLIC",
        ),
        (
            "CREATE POLICY every ON public.lockword USING (true)",
            "DROP POLICY every ON public.lockword",
        ),
        (
            "CREATE POLICY mine ON public.lockword TO jobs USING (true)",
            "DROP POLICY mine ON public.lockword",
        ),
    ] {
        by_hand.batch_execute("CREATE ROLE jobs LOGIN").await.unwrap();
        by_hand.batch_execute(more).await.unwrap();
        let error = apply(&server, "jobs", "jobs/").await.expect_err(more);
        let said = error.as_db_error().expect("the server refuses").message();
        let says = match more.ends_with(" ON public.lockword TO PUBLIC") {
            true => "PUBLIC has rights on public.lockword",
            false => "jobs has rights on more of public.lockword",
        };
        assert!(said.contains(says), "{more}: {said}");
        // It says by what: also by a policy of a name that was given by somebody else.
        let policy = more.strip_prefix("CREATE POLICY ").and_then(|more| more.split_once(' '));
        let by = policy.map(|(name, _)| format!("the policy {name};")).unwrap_or_default();
        assert!(said.contains(&by), "{more}: {said}");
        let sql = "SELECT relrowsecurity OR EXISTS (SELECT FROM public.lockword WHERE key <> '') \
            FROM pg_class WHERE oid = 'public.lockword'::regclass";
        let changed: bool = by_hand.query_one(sql, &[]).await.unwrap().get(0);
        assert!(!changed, "{more}");
        by_hand.batch_execute(less).await.unwrap();
        by_hand.batch_execute("DROP OWNED BY jobs; DROP ROLE jobs").await.unwrap();
    }
    // No such role; and no rights to grant any.
    assert!(apply(&server, "jobs", "jobs/").await.is_err());
    by_hand.batch_execute("CREATE ROLE jobs LOGIN").await.unwrap();
    let error = by_hand_as(&server, "app").await.batch_execute(&sql("jobs", "jobs/")).await;
    assert_eq!(error.unwrap_err().code().unwrap().code(), "42501");
    apply(&server, "jobs", "jobs/").await.unwrap();
}

/// A register goes, by whoever removes it, and is created again by whichever client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_grow_whoever_removes_and_creates_a_register() {
    let Some((server, app)) = with_roles().await else { return };
    let by_hand = server.client().await;
    // As the page has it, for a role that is trusted so far.
    let may_delete = "GRANT DELETE ON public.lockword TO jobs; \
        CREATE POLICY \"delete jobs\" ON public.lockword FOR DELETE TO jobs \
        USING (starts_with(key, 'jobs/') AND right(key, 1) <> '*')";
    by_hand.batch_execute(may_delete).await.unwrap();
    let limited = client(&address_of(&server, "jobs")).await;
    let raise = format!("UPDATE public.lockword SET version = {HIGH} WHERE key = 'jobs/*'");
    by_hand.batch_execute(&raise).await.unwrap();
    let (name, mut last) = (key("jobs/k"), Version::new(HIGH as u64).unwrap());
    for creator in [&limited, &app] {
        for writer in [&limited, &app] {
            for remover in [&limited, &app] {
                for by_retention in [true, false] {
                    let created = creator.compare_exchange(&name, None, value("v")).await;
                    let Ok(Exchange::Swapped(first)) = created else { panic!("{created:?}") };
                    let idle = Write { idle: true, ..value("v") };
                    let written = writer.compare_exchange(&name, Some(first), idle).await;
                    let Ok(Exchange::Swapped(second)) = written else { panic!("{written:?}") };
                    assert!(last < first && first < second, "{last} {first} {second}");
                    last = second;
                    if by_retention {
                        let old = "UPDATE public.lockword SET idle_since = now() - interval '2 days' \
                            WHERE key = 'jobs/k'";
                        by_hand.batch_execute(old).await.unwrap();
                        assert_eq!(remover.housekeeping().await.unwrap(), 1);
                    } else {
                        assert!(remover.delete(&name).await.unwrap());
                    }
                }
            }
        }
    }
}

/// What it can do by hand elsewhere: make nodes look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_notice_costs_others_a_look_and_the_rest_is_refused() {
    let Some((server, app)) = with_roles().await else { return };
    apply_other(&server).await;
    let before = put(&app, "other/k", "v").await;
    put(&app, "jobs/k", "v").await;
    let (id, evil) = (NodeId::new(9), by_hand_as(&server, "jobs").await);
    let mut watch = app.watch(&key("other/k"), id).await.unwrap();
    // The hash of other/k: see tests/engines/suite/forged_notices.rs.
    let hash = "other/k".bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    for channel in ["public.lockword".to_owned(), format!("public.lockword:{id}")] {
        let sql = "SELECT pg_notify($1::text, $2::text)";
        evil.execute(sql, &[&channel, &format!("{hash:016x}")]).await.unwrap();
        let item = tokio::time::timeout(ms(10_000), watch.next()).await;
        assert!(matches!(item, Ok(Some(Ok(None)))), "it looks, and is told nothing: {item:?}");
    }
    // Not there for it.
    for sql in [
        "UPDATE public.lockword SET version = 4503599627370495 WHERE NOT starts_with(key, 'jobs/')",
        "UPDATE public.lockword SET version = 1 WHERE key IN ('', 'other/*', 'other/k')",
        "SELECT FROM public.lockword WHERE NOT starts_with(key, 'jobs/')",
    ] {
        assert_eq!(evil.execute(sql, &[]).await.unwrap(), 0, "{sql}");
    }
    for sql in [
        "UPDATE public.lockword SET key = 'other/new' WHERE key = 'jobs/k'",
        "UPDATE public.lockword SET key = 'jobs/new' WHERE key = 'jobs/k'",
        "INSERT INTO public.lockword (key, version, value) VALUES ('other/new', 1, '')",
        // It is not even told that this one is there.
        "INSERT INTO public.lockword (key, version, value) VALUES ('other/k', 1, '')",
        "INSERT INTO public.lockword (key, version, value) VALUES ('other/k', 1, '') \
            ON CONFLICT (key) DO UPDATE SET version = 1",
        "INSERT INTO public.lockword (key, version, value) VALUES ('', 1, '')",
        "INSERT INTO public.lockword (key, version, value) VALUES ('jobs/deep/*', 1, '')",
        "DELETE FROM public.lockword",
        "TRUNCATE public.lockword",
        "DO $$ BEGIN LOCK TABLE public.lockword IN EXCLUSIVE MODE; END $$",
        "CREATE POLICY p ON public.lockword USING (true)",
        "ALTER TABLE public.lockword DISABLE ROW LEVEL SECURITY",
        "CREATE TRIGGER t BEFORE UPDATE ON public.lockword EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "SET ROLE app",
    ] {
        let error = evil.execute(sql, &[]).await.expect_err(sql);
        assert_eq!(error.code().unwrap().code(), "42501", "{sql}: {error}");
    }
    // It may end its own versions: in its register and its floor. (Without a condition no right to read is asked for.)
    let sql = "UPDATE public.lockword SET version = 4503599627370495";
    assert_eq!(evil.execute(sql, &[]).await.unwrap(), 2);
    let now = app.load(&key("other/k")).await.unwrap().unwrap();
    assert_eq!((now.version, &*now.value), (before, &b"v"[..]));
    assert!(put(&app, "other/new", "v").await.get() < 1 << 51, "nor is its floor raised");
    let ended = app.compare_exchange(&key("jobs/new"), None, value("v")).await;
    assert!(matches!(ended, Err(TransportError::Unsupported(_))), "the control: {ended:?}");
}

/// Another prefix, with a role and a floor of its own.
async fn apply_other(server: &PostgresServer) {
    server.client().await.batch_execute("CREATE ROLE other LOGIN").await.unwrap();
    apply(server, "other", "other/").await.unwrap();
}

/// Registers are created and deleted by a role that has all rights, while three others get theirs: it is refused
/// nothing meanwhile, and no version repeats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_given_while_clients_are_at_work() {
    let Some(server) = server().await else { return };
    let by_hand = server.client().await;
    let roles = "CREATE ROLE app LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON public.lockword TO app; \
        CREATE ROLE one; CREATE ROLE two; CREATE ROLE three";
    by_hand.batch_execute(roles).await.unwrap();
    // The clock is of no help: all versions are above it.
    let raise = format!("UPDATE public.lockword SET version = {HIGH} WHERE key = ''");
    by_hand.batch_execute(&raise).await.unwrap();
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let last: Arc<[AtomicU64; 3]> = Arc::default();
    let names = ["a/b/x", "a/y", "z/x"];
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let engine = client(&address_of(&server, "app")).await;
        let (stop, rounds, last) = (stop.clone(), rounds.clone(), last.clone());
        tasks.spawn(async move {
            for at in (0..names.len()).cycle() {
                if stop.load(Relaxed) {
                    break;
                }
                // Whoever has created it is the only one to write or delete it.
                let created = engine.compare_exchange(&key(names[at]), None, value("v")).await;
                let version = match created {
                    Ok(Exchange::Swapped(version)) => version.get(),
                    Ok(Exchange::Mismatch(_)) | Err(TransportError::Unavailable(_)) => continue,
                    other => panic!("{other:?}"),
                };
                let before = last[at].swap(version, Relaxed);
                assert!(before < version, "{}: {version} after {before}", names[at]);
                loop {
                    match engine.delete(&key(names[at])).await {
                        Ok(found) => break assert!(found, "{}", names[at]),
                        Err(TransportError::Unavailable(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                rounds.fetch_add(1, Relaxed);
            }
        });
    }
    for (role, prefix) in [("one", "a/"), ("two", "a/b/"), ("three", "z/"), ("one", "a/")] {
        let before = rounds.load(Relaxed);
        until("they go on", async || rounds.load(Relaxed) > before + 100).await;
        // As the page says: if it was in vain, again.
        while let Err(error) = apply(&server, role, prefix).await {
            let code = error.code().expect("the server refuses").code();
            assert!(["55P03", "40P01"].contains(&code), "{error:?}");
        }
    }
    let before = rounds.load(Relaxed);
    until("they go on", async || rounds.load(Relaxed) > before + 100).await;
    stop.store(true, Relaxed);
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    // Each has its own floor by now.
    for (last, floor) in last.iter().zip(["a/b/*", "a/*", "z/*"]) {
        let sql = "SELECT version FROM public.lockword WHERE key = $1";
        let version: i64 = by_hand.query_one(sql, &[&floor]).await.unwrap().get(0);
        assert_eq!(last.load(Relaxed) as i64, version, "{floor}");
    }
}

/// Operators and functions of the schema `public` that suit the types of a call better than those of PostgreSQL:
/// one for each two types, unless PostgreSQL has it itself. Whoever calls one fails.
const TRAPS: &str = r#"
DO $$
DECLARE
    types text[] := '{text,name,varchar,"\"char\"",int2,int4,int8,numeric,float4,float8,bool,oid,interval,timestamptz,bytea}';
    l text; r text; op text;
BEGIN
    FOREACH l IN ARRAY types LOOP
        FOREACH r IN ARRAY types LOOP
            EXECUTE format('CREATE FUNCTION public.trap(%s, %s) RETURNS bool LANGUAGE plpgsql AS
                ''BEGIN RAISE ''''a trap was called''''; END''', l, r);
            FOREACH op IN ARRAY '{||,+,-,*,/,<,>,<=,>=,=,<>}'::text[] LOOP
                CONTINUE WHEN EXISTS (SELECT FROM pg_operator WHERE oprname = op
                    AND oprleft = l::regtype AND oprright = r::regtype);
                EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.trap, LEFTARG = %s, RIGHTARG = %s)', op, l, r);
            END LOOP;
        END LOOP;
    END LOOP;
    FOREACH l IN ARRAY ARRAY['format(text, text)', 'format(text, name)', 'format(text, name, name)',
        'format(text, name, name, text)', 'left(name, int4)', 'right(name, int4)', 'length(name)',
        'substr(name, int4, int4)', 'substr(bytea, int8, int8)', 'starts_with(name, name)', 'starts_with(text, name)',
        'set_config(name, name, bool)', 'current_setting(name)', 'pg_notify(name, name)', 'to_regclass(name)',
        'generate_series(int4, int8)', 'octet_length(name)', 'pg_advisory_xact_lock(numeric)',
        'has_schema_privilege(name, name, text)', 'has_schema_privilege(name, text, name)',
        'has_table_privilege(oid, name, name)', 'pg_has_role(name, oid, name)', 'has_function_privilege(name, name)']
    LOOP
        EXECUTE format('CREATE FUNCTION public.%s RETURNS bool LANGUAGE plpgsql AS
            ''BEGIN RAISE ''''a trap was called''''; END''', l);
    END LOOP;
END
$$
"#;

/// What somebody has made in a schema of the search path is called neither with the rights of the owner nor by clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_operator_of_another_schema_is_called() {
    let Some(server) = server().await else { return };
    let by_hand = server.client().await;
    let roles = "CREATE ROLE jobs LOGIN; CREATE ROLE app LOGIN; \
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.lockword TO app";
    by_hand.batch_execute(roles).await.unwrap();
    by_hand.batch_execute(TRAPS).await.unwrap();
    let error = by_hand.batch_execute("SELECT 'a' || 'b'::name").await.unwrap_err();
    let said = error.as_db_error().expect("the server refuses").message();
    assert_eq!(said, "a trap was called", "the control");
    for prefix in ["jobs/", "jobs/deep/"] {
        apply(&server, "jobs", prefix).await.unwrap();
    }
    client(&server.address("create_schema=true")).await.create_floor("floor/").await.unwrap();
    let limited = client(&address_of(&server, "jobs")).await;
    let app = client(&address_of(&server, "app")).await;
    let mut watch = app.watch(&key("jobs/deep/0"), NodeId::new(9)).await.unwrap();
    for engine in [&limited, &app] {
        // So many that some of them are written together.
        for round in 0..2 {
            let writes = (0..64).map(async |number| {
                let (name, told) =
                    (key(&format!("jobs/deep/{number}")), Wake::Node(NodeId::new(9)));
                let expected = engine.load(&name).await.unwrap().map(|found| found.version);
                let new = Write { wake: told, idle: round == 1, ..value("v") };
                let written = engine.compare_exchange(&name, expected, new).await.unwrap();
                assert!(matches!(written, Exchange::Swapped(_)), "{name}: {written:?}");
            });
            futures_util::future::join_all(writes).await;
        }
        assert_eq!(engine.list("jobs/").await.unwrap().len(), 64);
    }
    assert!(matches!(watch.next().await, Some(Ok(_))), "it is told");
    let old = "UPDATE public.lockword SET idle_since = now() - interval '2 days' WHERE key LIKE 'jobs/deep/_'";
    by_hand.batch_execute(old).await.unwrap();
    assert_eq!(app.housekeeping().await.unwrap(), 10);
    assert!(app.delete(&key("jobs/deep/11")).await.unwrap());
}

/// A crash empties a table that is not logged, and leaves the policies: the role cannot make up for the floor.
#[tokio::test]
async fn without_its_floor_the_role_creates_nothing() {
    let Some((server, app)) = with_roles().await else { return };
    let (by_hand, evil) = (server.client().await, by_hand_as(&server, "jobs").await);
    // As the first client that comes then leaves it.
    let lost = "TRUNCATE public.lockword; \
        INSERT INTO public.lockword (key, version, value) VALUES ('', 1, '')";
    by_hand.batch_execute(lost).await.unwrap();
    put(&client(&server.address("")).await, "other/k", "v").await;
    let last =
        "INSERT INTO public.lockword (key, version, value) VALUES ('jobs/k', 4503599627370495, '')";
    let error = evil.execute(last, &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42501", "{error}");
    // Nor does it change what another client has made meanwhile.
    let all = client(&server.address("")).await;
    put(&all, "jobs/made", "v").await;
    let raise = "UPDATE public.lockword SET version = 4503599627370495, idle_since = now() - interval '2 days' \
        WHERE key LIKE 'jobs/%'";
    assert_eq!(evil.execute(raise, &[]).await.unwrap(), 0);
    assert!(all.delete(&key("jobs/made")).await.unwrap());
    let limited = client(&address_of(&server, "jobs")).await;
    let created = limited.compare_exchange(&key("jobs/k"), None, value("v")).await;
    assert!(is_denied(&created), "{created:?}");
    apply(&server, "jobs", "jobs/").await.unwrap();
    put(&limited, "jobs/k", "v").await;
    // From now on it harms its own prefix only.
    evil.execute(&last.replace("jobs/k", "jobs/bad"), &[]).await.unwrap();
    assert!(app.delete(&key("jobs/bad")).await.unwrap());
    assert!(put(&app, "other/new", "v").await.get() < 1 << 51);
}

/// A role sees nothing without a policy, and is not told: so whoever has rights in whatever way gets one.
#[tokio::test]
async fn others_see_what_they_have_seen() {
    let Some(server) = server().await else { return };
    let by_hand = server.client().await;
    // Two long names, of which policies that had all of them would have the same one.
    let long = ["a", "b"].map(|end| "long".repeat(15) + end);
    let roles = format!(
        "CREATE ROLE jobs LOGIN; CREATE ROLE reads LOGIN; GRANT SELECT (key) ON public.lockword TO reads; \
         CREATE ROLE watcher LOGIN; GRANT pg_read_all_data TO watcher; \
         CREATE ROLE writer LOGIN; GRANT pg_write_all_data TO writer; \
         CREATE ROLE {0} LOGIN; CREATE ROLE {1} LOGIN; GRANT SELECT, INSERT, UPDATE ON public.lockword TO {0}, {1}",
        long[0], long[1]
    );
    by_hand.batch_execute(&roles).await.unwrap();
    put(&client(&server.address("")).await, "other/k", "v").await;
    apply(&server, "jobs", "jobs/").await.unwrap();
    for role in ["reads", "watcher", &long[0], &long[1]] {
        let seen = by_hand_as(&server, role).await;
        let sql = "SELECT count(key) FROM public.lockword WHERE key = 'other/k'";
        let count: i64 = seen.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(count, 1, "{role}");
    }
    let insert = "INSERT INTO public.lockword (key, version, value) VALUES ('other/new', 1, '')";
    assert_eq!(by_hand_as(&server, "writer").await.execute(insert, &[]).await.unwrap(), 1);
    let watcher = by_hand_as(&server, "watcher").await;
    let error = watcher.execute("DELETE FROM public.lockword", &[]).await;
    assert_eq!(error.unwrap_err().code().unwrap().code(), "42501");
}

/// The table is locked, and the client that has locked it does not go on.
#[tokio::test]
async fn a_client_that_stops_in_the_middle_gives_the_table_back() {
    let Some((server, app)) = with_roles().await else { return };
    let sql = sql("jobs", "jobs/");
    assert_eq!(sql.matches("_timeout = '10s'").count(), 2, "as long as the server may take");
    let sql = sql.replace("_timeout = '10s'", "_timeout = '1s'");
    let (begun, _) = sql.split_once("ACCESS EXCLUSIVE MODE;\n").expect("it locks the table");
    let stopped = server.client().await;
    stopped.batch_execute(&format!("{begun} ACCESS EXCLUSIVE MODE")).await.unwrap();
    let written = app.compare_exchange(&key("k"), None, value("v")).await;
    assert!(matches!(written, Err(TransportError::Unavailable(_))), "the control: {written:?}");
    until("the server ends it", async || stopped.is_closed()).await;
    put(&app, "k", "v").await;
    // One that takes too long is ended, too.
    let slow = sql.replace(
        "ENABLE ROW LEVEL SECURITY;\n",
        "ENABLE ROW LEVEL SECURITY; SELECT pg_sleep(60);\n",
    );
    let error = server.client().await.batch_execute(&slow).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57014", "{error}");
}
