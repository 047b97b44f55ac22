//! Rights on the locks of a prefix, as commands of `redis-cli`.

use super::builder::{RedisBuilder, RedisNames};
use super::commands::LuaScript;
use crate::cluster::Key;
use crate::cluster::engines::grants::{
    Grants, GrantsError, bad_role, check_role, no_rights, shell,
};
use crate::cluster::engines::prefix::{Prefix, SEALED_MARK};

/// The commands that a lock needs, over a server alone, with sentinels and in a cluster.
///
/// Not `DEL`, which is for [`Redis::delete`](super::Redis::delete); nor `SCAN`, which shows the names of all keys.
const COMMANDS: &str = "+info +get +set +hmget +hset +expire +persist +time +eval +evalsha \
    +publish +subscribe +unsubscribe +ping +hello +asking";

/// A call of the script that makes the floor of a prefix.
pub(super) struct FloorCall {
    pub(super) keys: Vec<String>,
    pub(super) arguments: Vec<String>,
}

impl FloorCall {
    pub(super) fn new(names: &RedisNames, prefix: &Prefix) -> Self {
        let mut above: Vec<&str> = prefix.above().collect();
        above.reverse();
        let mut keys = vec![names.floors(), names.floor_of(prefix)];
        keys.extend(above.iter().map(|above| names.floor_of(above)));
        keys.push(names.floor());
        let mut arguments = vec![prefix.to_string()];
        arguments.extend(above.into_iter().map(str::to_owned));
        Self { keys, arguments }
    }
}

impl RedisBuilder {
    /// The commands of `redis-cli` that give the user `role` rights on the locks of `prefix`: see
    /// [`grants`](crate::cluster::engines::grants()), and [the page](super#rights-per-prefix).
    ///
    /// # Errors
    ///
    /// [`GrantsError`]; [`Role`](GrantsError::Role) also for `default`, as which clients are taken that do not log in;
    /// [`NoRights`](GrantsError::NoRights) also for a database other than 0.
    pub fn grants(&self, prefix: &str, role: &str) -> Result<Grants, GrantsError> {
        let (names, prefix) = (
            RedisNames::new(&self.prefix, self.database)?,
            Prefix::new(prefix).map_err(|why| GrantsError::Prefix { why })?,
        );
        check_role(role, 200)?;
        if role.contains(char::is_whitespace) {
            return Err(bad_role(role, "a user of Redis has no blank in the name"));
        }
        if role.contains(['\'', '"', '\\']) {
            return Err(bad_role(
                role,
                "Redis would write it into its configuration as it is, and not read that",
            ));
        }
        if role == "default" {
            return Err(bad_role(role, "that is everybody who does not log in"));
        }
        if self.database > 0 {
            return Err(no_rights(
                "a right of Redis holds in all databases of the server, so the role could end the versions of the locks \
                 in another one: use database 0, and a prefix of its own (?prefix=NAME)",
            ));
        }
        let name = shell(role);
        let FloorCall { keys, arguments } = FloorCall::new(&names, &prefix);
        let words = |of: &[String]| of.iter().map(|word| shell(word)).collect::<Vec<_>>().join(" ");
        let script = shell(&without_comments(LuaScript::create_floor().text()));
        let call = format!("{script} {} {} {}", keys.len(), words(&keys), words(&arguments));
        // Of the names nothing is special in a pattern: see `Prefix`, and `RedisNames`, whose prefix is as one.
        let (floors, unused, floor) = (names.floors(), names.unused(), names.floor_of(&prefix));
        let (registers, channels) = (names.pattern(&prefix.to_string()), names.channel_of_none());
        let mut allowed = COMMANDS.to_owned();
        if self.wait_replicas.is_some() {
            allowed += " +wait";
        }
        let mut patterns = vec![
            format!("%R~{floors}"),
            format!("~{unused}"),
            format!("~{registers}"),
            format!("~{floor}*"),
            format!("&{channels}*"),
        ];
        if prefix.is_sealed() {
            // Scripts are said to write all of their keys. With these commands they cannot write this one.
            let mark = names.register(&Key::new(SEALED_MARK).expect("a key"));
            patterns.push(format!("(~{mark} +hmget +get +eval +evalsha)"));
        }
        // The rights on the registers without the floor would be rights on the versions of others.
        let commands = format!(
            "cli=${{REDIS_CLI:-redis-cli}}\n\
             made=$($cli EVAL {call} </dev/null)\n\
             if [ \"$made\" != 1 ]; then\n    \
             echo \"there is no floor, so nothing was granted: $made\" >&2\n    \
             exit 1\n\
             fi\n\
             said=$($cli ACL SETUSER {name} on clearselectors resetkeys resetchannels -@all {} {allowed} </dev/null)\n\
             echo \"$said\"\n\
             [ \"$said\" = OK ]\n",
            words(&patterns)
        );
        let notes = vec![
            format!(
                "A new user has no password, and cannot log in: ACL SETUSER {name} >PASSWORD, with one of your own in \
                 its place, gives it one. That of a user who is there stays, also nopass (resetpass ends that), and one \
                 who was off is on."
            ),
            "It is for sh, and runs redis-cli, or what REDIS_CLI has: REDIS_CLI='redis-cli -h cache --user admin'. The \
             floor is made at the primary; in a Redis Cluster at the server that has the slot, which redis-cli -c finds."
                .to_owned(),
            "No server tells another of its users: run it for each, also for replicas, where the floor is there by then. \
             ACL SAVE keeps them, where the server has an aclfile; CONFIG REWRITE elsewhere. After a loss of data run it \
             again before any client connects: users stay, and floors do not."
                .to_owned(),
            "A second prefix takes the place of the first. The user cannot list locks: +scan would allow it, and shows \
             the names of all keys of the server."
                .to_owned(),
        ];
        Ok(Grants { client: "sh", commands, notes })
    }
}

/// A script without its comments and indentation.
fn without_comments(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let lines: Vec<&str> =
        lines.filter(|line| !line.is_empty() && !line.starts_with("--")).collect();
    lines.join("\n")
}
