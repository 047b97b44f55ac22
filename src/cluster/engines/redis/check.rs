//! Whether a server is fit for locks.

use super::address::Settings;
use super::errors::{self, Meaning, NoConnection};
use super::link::Connection;
use crate::cluster::ConnectError;
use ::redis::{Value, cmd, from_redis_value};

/// Looks at the server of a new connection, and whether this user may do what is needed.
///
/// `Some`: it is part of a cluster, and our slot is at this other server.
pub(super) async fn check(
    connection: &Connection,
    settings: &Settings,
) -> Result<Option<(String, u16)>, NoConnection> {
    let server = || settings.server();
    let failed = |error| NoConnection::from(errors::no_connection(error, server()));
    // First of all, since a replica in a cluster knows where its primary is. Reads the floor, which is
    // in the slot of all our registers.
    let probe = connection.ask(cmd("GET").arg(settings.names.floor())).await;
    match probe {
        Ok(_) => {}
        Err(error) if matches!(errors::meaning(&error), Meaning::Elsewhere) => {
            let to = error.redirect_node().and_then(|(address, _)| address.rsplit_once(':'));
            let Some((host, port)) = to else { return Err(failed(error)) };
            let Ok(port) = port.parse() else { return Err(failed(error)) };
            // A server that does not know its own address leaves it out.
            let host = if host.is_empty() { &settings.host } else { host };
            return Ok(Some((host.to_owned(), port)));
        }
        Err(error) => return Err(failed(error)),
    }
    let info = connection.ask(&cmd("INFO")).await.map_err(failed)?;
    suits(&text(info)).map_err(|(why, passes)| NoConnection {
        error: ConnectError::Unsuitable { server: server(), why },
        passes,
    })?;
    // Within a script that would be too late: the register is written by then.
    let probe = connection.ask(cmd("PUBLISH").arg(settings.names.nobody()).arg("")).await;
    probe.map(|_| None).map_err(failed)
}

fn text(info: Value) -> String {
    from_redis_value(info).unwrap_or_default()
}

/// Why a server of which `INFO` says this is not fit, and whether that may pass.
fn suits(info: &str) -> Result<(), (String, bool)> {
    let find = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value.trim())
    };
    let version = find("redis_version").unwrap_or("0");
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let (major, minor): (u32, u32) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if (major, minor) < (6, 2) {
        return Err((
            format!("its version is {version}: 6.2 or newer is needed, or Valkey"),
            false,
        ));
    }
    if let Some(policy) = find("maxmemory_policy").filter(|policy| policy.starts_with("allkeys")) {
        let why = format!(
            "its maxmemory-policy is {policy}, which may drop a lock that is held: \
             set it to noeviction, or to one of volatile-*"
        );
        return Err((why, false));
    }
    if find("role").is_some_and(|role| role != "master") {
        return Err(("it is a replica: connect to the primary".to_owned(), true));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::suits;

    #[test]
    fn what_does_not_suit() {
        let good = "# Server\r\nredis_version:7.0.15\r\nrole:master\r\n";
        assert!(suits(good).is_ok());
        assert!(suits(&format!("{good}maxmemory_policy:volatile-lru\r\n")).is_ok());
        let (why, passes) = suits(&format!("{good}maxmemory_policy:allkeys-lru\r\n")).unwrap_err();
        assert!(why.contains("allkeys-lru") && !passes, "{why}");
        for old in ["5.0.3", "6.0.16"] {
            let info = format!("redis_version:{old}\r\nrole:master\r\n");
            let (why, passes) = suits(&info).unwrap_err();
            assert!(why.contains(old) && !passes, "{why}");
        }
        assert!(suits("redis_version:6.2.0\r\nrole:master\r\n").is_ok());
        let (why, passes) = suits("redis_version:7.0.15\r\nrole:slave\r\n").unwrap_err();
        assert!(why.contains("replica") && passes, "{why}");
        assert!(suits("").is_err());
    }
}
