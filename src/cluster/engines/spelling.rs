//! Addresses as people write them elsewhere: without a scheme, with that of another client, as key=value
//! strings. They are refused in words of the text itself, with what to write instead. (An address that is
//! guessed right nine times of ten locks nothing the tenth time.)
//!
//! Of the text only hosts, ports and paths of files are shown, and only if they look like that: all else may be
//! a password.

/// The schemes that [`connect`](super::connect) knows, besides those of Redis with a plus sign.
const KNOWN: [&str; 11] = [
    "memory",
    "dir",
    "redis",
    "rediss",
    "valkey",
    "valkeys",
    "postgres",
    "postgresql",
    "etcd",
    "etcds",
    "redis+unix",
];

/// What people write, and the scheme for it.
const MEANT: [(&str, &str); 24] = [
    ("http", "etcd"),
    ("https", "etcds"),
    ("grpc", "etcd"),
    ("grpcs", "etcds"),
    ("etcd3", "etcd"),
    ("etcd+http", "etcd"),
    ("etcd+https", "etcds"),
    ("pg", "postgres"),
    ("pgsql", "postgres"),
    ("psql", "postgres"),
    ("postgre", "postgres"),
    ("jdbc:postgresql", "postgres"),
    ("redis+tls", "rediss"),
    ("redis+ssl", "rediss"),
    ("redis-tls", "rediss"),
    ("redis+cluster", "redis"),
    ("redis-cluster", "redis"),
    ("valkey-cluster", "valkey"),
    ("sentinel", "redis+sentinel"),
    ("redis-sentinel", "redis+sentinel"),
    ("redis+socket", "redis+unix"),
    ("redis-socket", "redis+unix"),
    ("unix", "redis+unix"),
    ("file", "dir"),
];

/// The usual ports, and the scheme for a server there.
const PORTS: [(&str, &str); 6] = [
    ("6379", "redis"),
    ("26379", "redis+sentinel"),
    ("5432", "postgres"),
    ("6432", "postgres"),
    ("2379", "etcd"),
    ("4001", "etcd"),
];

/// What is wrong with an address that no engine takes as it is, and what to write instead. `None`: nothing that
/// is known here.
pub(super) fn advice(address: &str) -> Option<String> {
    let text = address.trim();
    if text.is_empty() {
        return Some("it is empty: write such as redis://HOST:6379 or dir:/PATH".into());
    }
    if text.starts_with(['"', '\'']) {
        return Some("it has quotation marks around it: leave these out".into());
    }
    if text.starts_with(['/', '.', '~']) {
        return Some(format!(
            "it has no scheme: for a directory write {}, for a socket of Redis {}",
            of_path("dir:", text),
            of_path("redis+unix://", text)
        ));
    }
    if let Some(why) = of_settings(text) {
        return Some(why);
    }
    let (scheme, rest) =
        text.split_once("://").or_else(|| text.split_once(':')).unwrap_or(("", text));
    let scheme = scheme.to_ascii_lowercase();
    let has_slashes = text.contains("://");
    if !has_slashes && !KNOWN.contains(&&*scheme) {
        let port = rest.split([',', '/', '?']).next().unwrap_or_default();
        let are_servers =
            !text.contains(':') || text.contains('@') || is_port(port) || text.starts_with('[');
        return are_servers.then(|| without_scheme(text));
    }
    if !has_slashes && !matches!(&*scheme, "memory" | "dir") {
        return Some(without_slashes(&scheme, rest));
    }
    if let Some((_, meant)) = MEANT.iter().find(|(written, _)| *written == scheme) {
        let what = format!("no engine has the scheme {scheme}");
        return Some(match *meant {
            "dir" => format!("{what}: write {}", of_path("dir:", rest)),
            "redis+unix" => format!(
                "{what}: for Redis write {}, for PostgreSQL postgres:///DATABASE?host=/FOLDER",
                of_path("redis+unix://", rest)
            ),
            meant => format!("{what}: write {}", of_hosts(meant, rest)),
        });
    }
    if scheme == "tcp" {
        return Some(without_scheme(rest));
    }
    if let Some(driver) = scheme.split_once('+').map(|(engine, _)| engine)
        && matches!(driver, "postgres" | "postgresql")
    {
        return Some(format!(
            "a driver in the scheme is not used here: write {}",
            of_hosts(driver, rest)
        ));
    }
    bare_ipv6(&scheme, rest)
}

/// A libpq connection string, or a list of settings as some clients of Redis take them.
fn of_settings(text: &str) -> Option<String> {
    let names = ["host", "hostaddr", "port", "user", "dbname", "password", "service", "sslmode"];
    let pairs = || text.split([' ', ',', ';']).filter_map(|part| part.split_once('='));
    let is_one = !text.contains("://")
        && !text.starts_with("dir:")
        && pairs().next().is_some_and(|(name, _)| names.contains(&&*name.to_ascii_lowercase()));
    if !is_one {
        return None;
    }
    let value =
        |wanted: &str| pairs().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|it| it.1);
    let host = value("host").filter(|host| is_host(host)).unwrap_or("HOST");
    let port = value("port").filter(|port| is_port(port)).unwrap_or("5432");
    Some(format!(
        "key=value settings are not taken: for PostgreSQL write \
         postgres://USER:PASSWORD@{host}:{port}/DATABASE"
    ))
}

fn without_scheme(text: &str) -> String {
    let first = text.split(['/', '?', '#']).next().unwrap_or_default();
    let hosts = first.rsplit('@').next().unwrap_or_default();
    let port = hosts.split(',').next().and_then(|host| host.rsplit_once(':')).map(|(_, port)| port);
    let meant = PORTS.iter().find(|(usual, _)| Some(*usual) == port).map(|(_, scheme)| *scheme);
    match meant {
        Some(scheme) => {
            format!("it has no scheme, which names the engine: write {}", of_hosts(scheme, text))
        }
        None => format!(
            "it has no scheme, which names the engine: write {}, or the same with postgres:// or etcd://",
            of_hosts("redis", text)
        ),
    }
}

fn without_slashes(scheme: &str, rest: &str) -> String {
    if is_port(rest) {
        // The name of a service in a composition of containers.
        return format!(
            "two slashes are missing after {scheme}: if that is the name of the host, write \
             {scheme}://{scheme}:{rest}"
        );
    }
    format!("two slashes are missing after {scheme}: write {}", of_hosts(scheme, rest))
}

/// An IPv6 address needs brackets.
fn bare_ipv6(scheme: &str, rest: &str) -> Option<String> {
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let is_bare = |host: &str| host.parse::<std::net::Ipv6Addr>().is_ok();
    // The last number is taken for a port if it is a usual one.
    let with_port = host
        .rsplit_once(':')
        .filter(|(before, port)| is_bare(before) && PORTS.iter().any(|(usual, _)| usual == port));
    let written = match with_port {
        Some((before, port)) => format!("[{before}]:{port}"),
        None if is_bare(host) => format!("[{host}]"),
        None => return None,
    };
    Some(format!("an IPv6 address has to be in brackets: write {scheme}://{written}"))
}

/// The address of these servers, without what may be a secret or is the path.
fn of_hosts(scheme: &str, rest: &str) -> String {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((_, hosts)) => ("USER:PASSWORD@", hosts),
        None => ("", authority),
    };
    // A password may have a slash or the like, and be cut there.
    let are_shown = !rest[authority.len()..].contains('@')
        && !hosts.is_empty()
        && hosts.split(',').all(is_server);
    let service = if scheme == "redis+sentinel" { "/SERVICE" } else { "" };
    format!("{scheme}://{user}{}{service}", if are_shown { hosts } else { "HOST:PORT" })
}

fn of_path(scheme: &str, path: &str) -> String {
    let is_shown = path.starts_with('/') && path.len() <= 100 && path.chars().all(is_of_path);
    format!("{scheme}{}", if is_shown { path } else { "/PATH" })
}

fn is_of_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/-_.".contains(c)
}

/// Whether this is a host with a port, or a host that cannot well be anything else.
fn is_server(text: &str) -> bool {
    if let Some((host, port)) = text.rsplit_once(':') {
        return is_port(port) && (is_host(host) || host.starts_with('[') && host.ends_with(']'));
    }
    is_host(text) && (text.contains('.') || text == "localhost")
}

fn is_host(text: &str) -> bool {
    let of_name = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    !text.is_empty() && text.len() <= 100 && text.chars().all(of_name)
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::advice;

    /// Each text, and what its refusal says to write.
    #[test]
    fn what_people_write_is_refused_with_what_to_write() {
        for (text, written) in [
            ("", "redis://HOST:6379"),
            ("\"redis://a:1\"", "leave these out"),
            ("localhost:6379", " redis://localhost:6379"),
            ("localhost", " redis://localhost"),
            ("10.0.0.1:2379", " etcd://10.0.0.1:2379"),
            ("a:2379,b:2379,c:2379", " etcd://a:2379,b:2379,c:2379"),
            ("db.example.com:5432/app", " postgres://db.example.com:5432"),
            ("me:x@db.example.com:5432", " postgres://USER:PASSWORD@db.example.com:5432"),
            ("[::1]:6379", " redis://[::1]:6379"),
            ("h:26379", " redis+sentinel://h:26379/SERVICE"),
            ("h:9999", " redis://h:9999"),
            ("http://a:2379", " etcd://a:2379"),
            ("https://a:2379/v3", " etcds://a:2379"),
            ("HTTP://a:2379,http://b:2379", " etcd://HOST:PORT"),
            ("tcp://a:6379", " redis://a:6379"),
            ("jdbc:postgresql://db:5432/app", " postgres://db:5432"),
            ("postgresql+asyncpg://me:x@db:5432/app", " postgresql://USER:PASSWORD@db:5432"),
            ("pgsql://db:5432", " postgres://db:5432"),
            ("host=db port=5433 user=me password=x dbname=app", "@db:5433/DATABASE"),
            ("redis:localhost:6379", " redis://localhost:6379"),
            ("redis:6379", " redis://redis:6379"),
            ("etcd:a:2379", " etcd://a:2379"),
            ("unix:///run/redis.sock", " redis+unix:///run/redis.sock"),
            ("/run/locks", " dir:/run/locks"),
            ("/run/redis.sock", " redis+unix:///run/redis.sock"),
            ("./locks", " dir:/PATH"),
            ("file:///run/locks", " dir:/run/locks"),
            ("redis://::1:6379", " redis://[::1]:6379"),
            ("etcd://fe80::1", " etcd://[fe80::1]"),
        ] {
            let said = advice(text).unwrap_or_else(|| panic!("{text:?} gets no advice"));
            assert!(said.contains(written), "{text:?}: {said}");
        }
    }

    #[test]
    fn what_an_engine_takes_gets_no_advice() {
        for text in [
            "memory:",
            "dir:/run/locks",
            "redis://a:1",
            "rediss://u:p@[::1]:6379/0?x=y",
            "valkey://a",
            "redis+sentinel://a:1,b:2/s",
            "redis+unix:///run/x",
            "POSTGRES://a/b",
            "etcds://a:1,b:2,c:3/x",
            "mysql://a",
            " redis://a:1\n",
            "dir:/x,host=y",
            "nothing:",
            "me:Hush",
        ] {
            assert_eq!(advice(text), None, "{text}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        for text in [
            "Hush",
            "me:Hush@h:6379",
            "Hush@h",
            "http://me:Hush@h:2379",
            "http://me:Hu/Hush@h:2379",
            "redis:Hush",
            "redis:me:Hush@h:1",
            "host=h password=Hush",
            "password=Hush host=h",
            "password='a Hush' host=h",
            "h:6379?password=Hush",
            "unix:///run/x?password=Hush",
            "jdbc:postgresql://h/app?password=Hush",
            "redis://me:Hush@::1:6379",
            "tcp://me:p@Hush@h:6379",
            "pa.Hush/x@h:6379",
            "me:1234/Hush@h:6379",
        ] {
            let said = advice(text).unwrap_or_else(|| panic!("{text:?} gets no advice"));
            assert!(!said.contains("Hush") && !said.contains("1234"), "{text:?}: {said}");
        }
    }
}
