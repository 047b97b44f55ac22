//! `lockword grants`: what it prints, and that the engines' own clients take it.

use crate::support::{lockword, run, status, stderr, stdout};

#[test]
fn what_has_no_rights_per_prefix_is_refused_with_what_there_is_instead() {
    for (on, prefix, role, says) in [
        ("dir:/run/locks", "jobs/", "jobs", "chgrp GROUP"),
        ("memory:", "jobs/", "jobs", "within one process"),
        ("nats://h", "jobs/", "jobs", "no engine is known"),
    ] {
        let output = run(lockword(&["grants", "--on", on, "--prefix", prefix, "--role", role]));
        let said = stderr(&output);
        assert_eq!((status(&output), stdout(&output).as_str()), (64, ""), "{on}: {said}");
        assert!(said.contains(says) && said.lines().count() == 1, "{on}: {said}");
    }
}

#[cfg(feature = "redis")]
#[test]
fn commands_go_to_standard_output_and_notes_to_standard_error() {
    let arguments = ["grants", "--prefix", "jobs/", "--role", "jobs"];
    let printed = |more: &[&str]| {
        let mut command = lockword(&arguments);
        // Nothing is connected.
        command.args(more).env("LOCKWORD_ON", "redis://me:secret@198.51.100.1?plaintext=allow");
        let output = run(command);
        assert_eq!(status(&output), 0, "{}", stderr(&output));
        let (out, err) = (stdout(&output), stderr(&output));
        assert!(!out.contains("secret") && !err.contains("secret"), "{out}{err}");
        (out, err)
    };
    let (commands, notes) = printed(&[]);
    assert!(commands.contains("ACL SETUSER jobs on "), "{commands}");
    assert!(notes.contains("lockword: ") && notes.contains(">PASSWORD"), "{notes}");
    let (json, nothing) = printed(&["--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((json["commands"].as_str(), nothing.as_str()), (Some(&*commands), ""));
    assert_eq!(json["client"], "sh");
    assert_eq!(json["notes"].as_array().expect("a list").len(), notes.lines().count());
    for (prefix, role, says) in [
        ("app", "jobs", "must end with a slash"),
        ("a*/", "jobs", "'*'"),
        ("jobs/", "default", "everybody"),
        ("jobs/", "a\u{202e}b", "--json"),
        ("jobs/", "a\nb", "control character"),
    ] {
        let on = ["grants", "--on", "redis://h", "--prefix", prefix, "--role", role];
        let output = run(lockword(&on));
        assert_eq!((status(&output), stdout(&output).as_str()), (64, ""), "{prefix} {role}");
        assert!(stderr(&output).contains(says), "{prefix} {role}: {}", stderr(&output));
    }
}

/// What the client does with the commands; and what the role can do then.
#[cfg(all(target_os = "linux", any(feature = "etcd", feature = "postgres", feature = "redis")))]
mod over_servers {
    use super::{lockword, run, status, stderr, stdout};
    use crate::servers::process::find;
    use crate::support::Folder;
    use std::process::{Command, Stdio};

    /// Runs `lockword grants | client`. Returns the status of the client, and what it has printed.
    fn piped(on: &str, seal: &[&str], mut client: Command) -> (i32, String) {
        let mut grants = lockword(&["grants", "--on", on, "--prefix", "jobs/", "--role", "jobs"]);
        let grants = grants.args(seal).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut grants = grants.spawn().expect("it starts");
        client.stdin(grants.stdout.take().expect("a pipe"));
        let done = run(client);
        assert!(grants.wait().expect("it ends").success());
        (status(&done), stdout(&done) + &stderr(&done))
    }

    /// The same, if all goes well.
    fn pipe(on: &str, seal: &[&str], client: Command) {
        let (code, said) = piped(on, seal, client);
        assert_eq!(code, 0, "{said}");
        assert!(
            !said.contains("ERR") && !said.contains("error") && !said.contains("Error"),
            "{said}"
        );
    }

    /// The role can lock what is below the prefix, and nothing else.
    fn has_rights(on: &str, seal: &[&str]) {
        for (key, code) in [("jobs/nightly", 3), ("jobsx", 77), ("other/k", 77)] {
            let command = ["--", "sh", "-c", "exit 3"];
            let output = run(lockword(&[&["run", "--on", on, key], seal, &command].concat()));
            assert_eq!(status(&output), code, "{key}: {}", stderr(&output));
        }
        let output = run(lockword(&[&["status", "--on", on, "jobs/nightly"], seal].concat()));
        assert_eq!(status(&output), 0, "{}", stderr(&output));
    }

    /// Nor may it look at another lock. (PostgreSQL shows it a free one.)
    #[cfg(any(feature = "etcd", feature = "redis"))]
    fn may_not_look(on: &str) {
        for key in ["jobsx", "other/k", "@lockword-sealed"] {
            let output = run(lockword(&["status", "--on", on, key]));
            assert_eq!(status(&output), 77, "{key}: {}", stderr(&output));
        }
    }

    /// The rights of a role that seals. `all`: the address of somebody with all rights; `clients`: makes what runs the
    /// commands; `writes_mark`: whether the role can write the mark by hand.
    fn has_rights_sealed(
        engine: &str,
        [all, on]: [&str; 2],
        clients: impl Fn() -> Command,
        writes_mark: impl Fn() -> bool,
    ) {
        let folder = Folder::new(&format!("grants-{engine}"));
        let file = folder.path("keys");
        assert_eq!(status(&run(lockword(&["seal-key", &file]))), 0);
        let seal = ["--seal-key-file", &file];
        // As the note says.
        let listed = run(lockword(&[&["list", "--on", all], &seal[..]].concat()));
        assert_eq!(status(&listed), 0, "{}", stderr(&listed));
        pipe(all, &seal, clients());
        has_rights(on, &seal);
        assert!(!writes_mark(), "others could not lock anything then");
    }

    #[cfg(feature = "redis")]
    #[test]
    fn redis() {
        use crate::servers::redis::{RedisServer, RedisSetup};
        let setup = RedisSetup { password: true, ..RedisSetup::default() };
        let (Some(server), Some(client)) = (RedisServer::start_with(setup), find("redis-cli", &[]))
        else {
            return;
        };
        let sh = || {
            let (client, socket) = (client.display(), server.file("admin"));
            let mut sh = Command::new("sh");
            let all = "--user admin --pass x --no-auth-warning";
            sh.env("REDIS_CLI", format!("{client} -s {socket} {all}"));
            sh
        };
        // Without a floor nothing is granted, and the shell says so: on a replica; without a server.
        server.say::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
        let (code, said) = piped(&server.address(), &[], sh());
        assert!(code == 1 && said.contains("READONLY"), "{code} {said}");
        let mut nowhere = sh();
        nowhere.env("REDIS_CLI", format!("{} -p 1", client.display()));
        assert_eq!(piped(&server.address(), &[], nowhere).0, 1);
        assert!(!server.say::<Vec<String>>(&["ACL", "USERS"]).contains(&"jobs".to_owned()));
        server.say::<()>(&["REPLICAOF", "NO", "ONE"]);

        pipe(&server.address(), &[], sh());
        server.say::<()>(&["ACL", "SETUSER", "jobs", ">x"]);
        let address = format!("redis://jobs:x@127.0.0.1:{}", server.port);
        has_rights(&address, &[]);
        may_not_look(&address);
        let writes_mark = || {
            let user = ["--user", "jobs", "--pass", "x", "-p", &server.port.to_string()];
            let mark = "{lockword}:@lockword-sealed";
            let script = "return redis.call('HSET', KEYS[1], 'value', 'v')";
            [&["HSET", mark, "value", "v"][..], &["EVAL", script, "1", mark]].iter().any(|words| {
                let mut command = Command::new(&client);
                let said = stdout(&run({
                    command.args(user).arg("--no-auth-warning").args(*words);
                    command
                }));
                !said.contains("ermission") && !said.contains("can't")
            })
        };
        has_rights_sealed("redis", [&server.address(), &address], sh, writes_mark);
    }

    /// Somebody has made an operator that suits two names better than any of PostgreSQL.
    #[cfg(feature = "postgres")]
    const TRAP: &str = "CREATE FUNCTION public.trap(name, name) RETURNS text LANGUAGE plpgsql AS \
        'BEGIN RAISE ''a trap was called''; END'; \
        CREATE OPERATOR public.|| (FUNCTION = public.trap, LEFTARG = name, RIGHTARG = name); \
        CREATE FUNCTION public.trap(text, name) RETURNS text LANGUAGE plpgsql AS \
        'BEGIN RAISE ''a trap was called''; END'; \
        CREATE OPERATOR public.|| (FUNCTION = public.trap, LEFTARG = text, RIGHTARG = name)";

    #[cfg(feature = "postgres")]
    #[test]
    fn postgres() {
        use crate::servers::postgres::{PostgresServer, PostgresSetup};
        let (Some(server), Some(client)) =
            (PostgresServer::start(PostgresSetup::default()), find("psql", &[]))
        else {
            return;
        };
        let address = server.address("create_schema=true");
        assert_eq!(status(&run(lockword(&["list", "--on", &address]))), 0);
        let psql_as = |user: &str| {
            let mut psql = Command::new(&client);
            let (port, name) = (server.port.to_string(), "postgres");
            psql.args(["-X", "-q", "-h", "127.0.0.1", "-p", &port, "-U", user, "-d", name]);
            psql.args(["-v", "ON_ERROR_STOP=1"]);
            psql
        };
        let psql = || psql_as("postgres");
        let says = |sql: &str| {
            let mut psql = psql();
            psql.args(["-c", sql]);
            let done = run(psql);
            assert_eq!(status(&done), 0, "{sql}: {}", stderr(&done));
        };
        says("CREATE ROLE jobs LOGIN");
        says(TRAP);
        pipe(&address, &[], psql());
        let limited = format!("postgres://jobs@127.0.0.1:{}/postgres", server.port);
        has_rights(&limited, &[]);
        // Who has lost the floor creates nothing, also by hand.
        says("DELETE FROM public.lockword WHERE key <> ''");
        let mut by_hand = psql_as("jobs");
        let last = "INSERT INTO public.lockword VALUES ('jobs/k', 4503599627370495, '')";
        by_hand.args(["-c", last]);
        let refused = run(by_hand);
        assert!(stderr(&refused).contains("row-level security"), "{}", stderr(&refused));
        pipe(&address, &[], psql());
        has_rights(&limited, &[]);
        let writes_mark = || {
            let mut psql = psql_as("jobs");
            let sql = "UPDATE public.lockword SET value = '' WHERE key = '@lockword-sealed' \
                RETURNING key";
            psql.args(["-t", "-c", sql]);
            stdout(&run(psql)).contains("@lockword-sealed")
        };
        has_rights_sealed("postgres", [&address, &limited], psql, writes_mark);
    }

    #[cfg(feature = "etcd")]
    #[test]
    fn etcd() {
        use crate::servers::etcd::EtcdServer;
        let (Some(server), Some(client)) = (EtcdServer::start(), find("etcdctl", &[])) else {
            return;
        };
        let etcdctl = |arguments: &[&str]| {
            let mut etcdctl = Command::new(&client);
            etcdctl.args(["--endpoints", &server.server()]).args(arguments);
            run(etcdctl)
        };
        for arguments in [
            &["user", "add", "root:toor"][..],
            &["user", "grant-role", "root", "root"],
            &["user", "add", "jobs:x"],
            &["auth", "enable"],
        ] {
            let done = etcdctl(arguments);
            assert_eq!(status(&done), 0, "{arguments:?}: {}", stderr(&done));
        }
        let sh = || {
            let mut sh = Command::new("sh");
            sh.env("ETCDCTL_ENDPOINTS", server.server()).env("ETCDCTL_USER", "root:toor");
            sh
        };
        // Twice: it does no harm.
        for _ in 0..2 {
            pipe(&server.address(), &[], sh());
        }
        let all = format!("etcd://root:toor@{}", server.server());
        let limited = format!("etcd://jobs:x@{}", server.server());
        has_rights(&limited, &[]);
        may_not_look(&limited);
        let writes_mark = || {
            let mark = "lockword/@lockword-sealed";
            let read = etcdctl(&["--user", "jobs:x", "get", mark]);
            assert!(stdout(&read).contains(mark), "the control: {}", stderr(&read));
            status(&etcdctl(&["--user", "jobs:x", "put", mark, "v"])) == 0
        };
        has_rights_sealed("etcd", [&all, &limited], sh, writes_mark);
    }
}
