//! Rights on the locks of a prefix of keys: the commands by which an operator gives them.
//!
//! What an engine knows of rights is in the file `grants.rs` of its folder. Here is what all have in common.

use super::connect::{self, ConnectError};
use std::fmt;
use url::Url;

/// The commands that give a role rights on the locks of a prefix of keys, and on no others: see [`grants()`].
///
/// They have no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    pub(super) client: &'static str,
    pub(super) commands: String,
    pub(super) notes: Vec<String>,
}

impl Grants {
    /// The program that reads [`commands`](Self::commands) from its standard input: `psql` or `sh`, which runs
    /// `redis-cli` or `etcdctl`.
    #[must_use]
    pub fn client(&self) -> &str {
        self.client
    }

    /// The commands, for somebody with all rights. They end with a line feed. To run them again does no harm. A second
    /// prefix for the same role takes the place of the first in Redis and PostgreSQL, and is one more in etcd.
    #[must_use]
    pub fn commands(&self) -> &str {
        &self.commands
    }

    /// What an operator has to do besides, or to know: a sentence or more each, without a line feed.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// The commands that give `role` what it needs to lock keys that begin with `prefix` over the engine at
/// `address`, and no rights on other keys.
///
/// Nothing is connected, and no file is read: of the address only the engine counts, and where it keeps its
/// registers (`prefix` or the database of Redis, `table` of PostgreSQL, the path of etcd). What such a role can do
/// by hand, and what it cannot, is on the page of each [engine](crate::cluster::engines).
///
/// `prefix` has the characters of a [`Key`](crate::cluster::Key), and ends with a slash: names such as `apple` begin
/// with `app`, too. `role` is the name of a user of Redis, of a role of PostgreSQL, or of a user and of a role of
/// etcd. It is quoted where that is necessary.
///
/// If the role seals ([`layers::Sealed`](crate::cluster::layers)), the prefix is that of the stored names, from
/// `SealKeys::stored_prefix`. Then it also gets the right to read the mark, `@lockword-sealed`, which somebody with more
/// rights has to have made.
///
/// ```
/// use lockword::cluster::engines::{GrantsError, grants};
///
/// let refused = grants("dir:/run/locks", "jobs/", "jobs").unwrap_err();
/// assert!(matches!(refused, GrantsError::NoRights { .. }));
/// ```
///
/// # Errors
///
/// [`GrantsError`].
pub fn grants(address: &str, prefix: &str, role: &str) -> Result<Grants, GrantsError> {
    let url = connect::parse(address)?;
    match url.scheme() {
        "redis" | "rediss" | "redis+sentinel" | "rediss+sentinel" | "redis+unix" | "valkey"
        | "valkeys" | "valkey+sentinel" | "valkeys+sentinel" | "valkey+unix" => {
            redis(&url, prefix, role)
        }
        "postgres" | "postgresql" => postgres(&url, prefix, role),
        "etcd" | "etcds" => etcd(&url, prefix, role),
        "dir" => Err(no_rights(
            "a directory has the rights that the system gives: who may write in it may take each of its locks. Use a \
             directory for each group of users, such as dir:/PATH?mode=2770 after: \
             mkdir -m 2770 /PATH && chgrp GROUP /PATH",
        )),
        "memory" => Err(no_rights(
            "memory: is within one process, where everything has all rights: use an engine with a server",
        )),
        other => Err(ConnectError::UnknownScheme { scheme: other.to_owned() }.into()),
    }
}

/// The error that the engine has no such rights.
pub(super) fn no_rights(why: &str) -> GrantsError {
    GrantsError::NoRights { why: why.to_owned() }
}

/// A word of a command line, quoted for a POSIX shell where necessary.
#[cfg(any(feature = "redis", feature = "etcd"))]
pub(super) fn shell(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The error that this engine is not part of the build.
#[allow(dead_code, reason = "with all features no engine is missing")]
fn missing(url: &Url, feature: &'static str) -> Result<Grants, GrantsError> {
    Err(ConnectError::MissingFeature { scheme: url.scheme().to_owned(), feature }.into())
}

#[cfg(not(feature = "redis"))]
fn redis(url: &Url, _: &str, _: &str) -> Result<Grants, GrantsError> {
    missing(url, "redis")
}

#[cfg(feature = "redis")]
fn redis(url: &Url, prefix: &str, role: &str) -> Result<Grants, GrantsError> {
    super::redis::RedisBuilder::from_url(url)?.grants(prefix, role)
}

#[cfg(not(feature = "postgres"))]
fn postgres(url: &Url, _: &str, _: &str) -> Result<Grants, GrantsError> {
    missing(url, "postgres")
}

#[cfg(feature = "postgres")]
fn postgres(url: &Url, prefix: &str, role: &str) -> Result<Grants, GrantsError> {
    super::postgres::PostgresBuilder::from_url(url)?.grants(prefix, role)
}

#[cfg(not(feature = "etcd"))]
fn etcd(url: &Url, _: &str, _: &str) -> Result<Grants, GrantsError> {
    missing(url, "etcd")
}

#[cfg(feature = "etcd")]
fn etcd(url: &Url, prefix: &str, role: &str) -> Result<Grants, GrantsError> {
    super::etcd::EtcdBuilder::from_url(url)?.grants(prefix, role)
}

/// Whether a role may have this name: it is one line, and has at most `longest` bytes.
///
/// # Errors
///
/// [`GrantsError::Role`].
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
pub(super) fn check_role(role: &str, longest: usize) -> Result<(), GrantsError> {
    if role.is_empty() {
        return Err(bad_role(role, "it is empty"));
    }
    if role.len() > longest {
        return Err(bad_role(role, &format!("it has more than {longest} bytes")));
    }
    // A line feed ends a command of two of the clients, and a NUL each of them.
    if role.contains(char::is_control) {
        return Err(bad_role(role, "it has a control character"));
    }
    Ok(())
}

/// The error that a role cannot have this name.
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
pub(super) fn bad_role(role: &str, why: &str) -> GrantsError {
    GrantsError::Role { why: format!("{role:?} cannot be the role: {why}") }
}

/// Why there are no commands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum GrantsError {
    /// The address is not valid, names an unknown engine, or one that is not part of this build.
    Address(ConnectError),
    /// The prefix is none.
    Prefix {
        /// What is wrong with it.
        why: String,
    },
    /// The engine can have no such role, or it has a meaning of its own there.
    Role {
        /// What is wrong with it.
        why: String,
    },
    /// The engine has no rights per prefix.
    NoRights {
        /// What there is instead.
        why: String,
    },
}

impl From<ConnectError> for GrantsError {
    fn from(error: ConnectError) -> Self {
        Self::Address(error)
    }
}

impl fmt::Display for GrantsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(error) => error.fmt(f),
            Self::Prefix { why } | Self::Role { why } => f.write_str(why),
            Self::NoRights { why } => write!(f, "there are no rights per prefix: {why}"),
        }
    }
}

impl std::error::Error for GrantsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Address(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
mod tests {
    use super::{Grants, GrantsError, grants};

    fn of(address: &str, role: &str) -> Grants {
        grants(address, "jobs/", role).unwrap()
    }

    /// The addresses of the engines that are there.
    const ADDRESSES: &[&str] = &[
        #[cfg(feature = "redis")]
        "redis://u:secret@h",
        #[cfg(feature = "postgres")]
        "postgres://u:secret@h/db",
        #[cfg(feature = "etcd")]
        "etcd://u:secret@h",
    ];

    #[test]
    fn what_cannot_be_granted_is_refused_and_nothing_secret_is_printed() {
        for address in ADDRESSES {
            for bad in
                ["", "jobs", "/jobs", "jobs/*", "a b/", "a'/", "a\"/", "a\\/", "a%/", "a[x]/", "ä/"]
            {
                let error = grants(address, bad, "jobs").unwrap_err();
                assert!(matches!(error, GrantsError::Prefix { .. }), "{address} {bad}: {error}");
            }
            for bad in ["", "a\nb", "a\0", "a\u{85}", &"x".repeat(201)] {
                let error = grants(address, "jobs/", bad).unwrap_err();
                assert!(matches!(error, GrantsError::Role { .. }), "{address} {bad}: {error}");
            }
            for good in ["jobs/", "a_b/", "A-z.0:@/deep/", "/"] {
                let text = format!("{:?}", grants(address, good, "jobs").unwrap());
                assert!(!text.contains("secret"), "{text}");
            }
        }
        for (address, role) in [
            ("redis://h", "default"),
            ("redis://h", "a b"),
            ("postgres://h", "public"),
            ("etcd://h", "root"),
            ("etcd://h", "a:b"),
        ] {
            match grants(address, "jobs/", role) {
                Err(GrantsError::Role { why }) => assert!(why.contains(role), "{why}"),
                // Its feature is off.
                Err(GrantsError::Address(_)) => {}
                other => panic!("{address} {role}: {other:?}"),
            }
        }
        for address in ["dir:/run/locks", "memory:"] {
            let error = grants(address, "jobs/", "jobs").unwrap_err();
            assert!(matches!(error, GrantsError::NoRights { .. }), "{error:?}");
        }
        for address in ["nats://h", "", "redis"] {
            let error = grants(address, "jobs/", "jobs").unwrap_err();
            assert!(matches!(error, GrantsError::Address(_)), "{error:?}");
        }
    }

    #[cfg(feature = "redis")]
    #[test]
    fn arguments_of_redis_cli_are_quoted() {
        let text = of("redis://h?prefix=x.y&wait_replicas=1", "$(ä)").commands;
        assert!(text.contains("made=$($cli EVAL 'local "), "{text}");
        let call = "' 3 '{x.y}floors' '{x.y}floor:jobs/' '{x.y}floor' jobs/ </dev/null)\n";
        assert!(text.contains(call), "{text}");
        assert!(text.contains("$($cli ACL SETUSER '$(ä)' on clearselectors "), "{text}");
        assert!(text.contains(" '~{x.y}:jobs/*' '~{x.y}floor:jobs/*' '&{x.y}:#*' "), "{text}");
        assert!(text.contains(" +wait </dev/null)\n"), "{text}");
        for bad in ["o'b", "o\"b", "o\\b"] {
            assert!(matches!(grants("redis://h", "jobs/", bad), Err(GrantsError::Role { .. })));
        }
        let error = grants("redis://h/3", "jobs/", "jobs").unwrap_err();
        assert!(matches!(error, GrantsError::NoRights { .. }), "{error}");
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn names_and_texts_of_sql_are_quoted() {
        let text = of("postgres://h?table=my.locks", "o'b\"x\\").commands;
        assert!(text.contains(r#"REVOKE ALL ON TABLE my.locks FROM "o'b""x\";"#), "{text}");
        assert!(text.contains(r#"SET LOCAL lockword.role = E'o''b"x\\';"#), "{text}");
        let most = "x".repeat(56);
        assert!(of("postgres://h", &most).commands.contains(&format!("\"change {most}\"")));
        let error = grants("postgres://h", "jobs/", &"x".repeat(57)).unwrap_err();
        assert!(error.to_string().contains("more than 56 bytes"), "{error}");
    }

    #[cfg(feature = "etcd")]
    #[test]
    fn words_of_a_shell_are_quoted() {
        let text = of("etcd://h/it's%20$x", "-o'b `x`").commands;
        let granted = r"-- '-o'\''b `x`' readwrite 'it'\''s $x/jobs/'";
        assert!(text.contains(granted), "{text}");
        assert!(grants("etcd://h/a%0Ab", "jobs/", "jobs").is_err());
    }
}
