//! Addresses in which a password may stand where none is looked for.
//!
//! A character that is not percent-encoded ends the password too early, and the rest of it becomes a
//! host, an option, a part of the path. It must not be shown then, nor used.

use super::ConnectError;
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
use {std::borrow::Cow, url::Url};

/// Why an address is refused, and what is to be done about it.
const ENCODE: &str = "there is an @ that is not percent-encoded behind the server's name, or two \
                      before it: write what is special in a user's name or a password as % and two \
                      hexadecimal digits (@ is %40, / is %2F, ? is %3F, # is %23)";

/// Whether the address, as it was written, has a stray `@`. A URL does not tell: of two in its
/// authority it takes the first for a part of the password.
pub(super) fn check_text(address: &str) -> Result<(), ConnectError> {
    let Some((_, rest)) = address.split_once("://") else { return Ok(()) };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.matches('@').count() > 1 || rest.contains('@') {
        return Err(bad(ENCODE));
    }
    Ok(())
}

/// The same of a URL, as far as it tells. Every engine asks this before it looks at one.
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
pub(in super::super) fn check(url: &Url) -> Result<(), ConnectError> {
    let behind = [url.path(), url.query().unwrap_or_default(), url.fragment().unwrap_or_default()];
    if behind.iter().any(|part| part.contains('@')) {
        return Err(bad(ENCODE));
    }
    match url.host_str() {
        Some(host) if has_at(host) => Err(bad(format!("{} is no server", shown(host)))),
        _ => Ok(()),
    }
}

/// That there is no such option. `known`: those that there are.
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
pub(in super::super) fn unknown_option(name: &str, known: &str) -> ConnectError {
    let is_name = name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_');
    let name: Cow<'_, str> = if is_name && (1..=32).contains(&name.len()) {
        format!("there is no option {name:?}").into()
    } else {
        "there is an option whose name is not shown, since it may be part of a password: \
         percent-encode special characters in it"
            .into()
    };
    bad(format!("{name}; there are {known}"))
}

/// A server's name, for messages: not if it could have a password in it.
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
pub(in super::super) fn shown(server: &str) -> Cow<'_, str> {
    if has_at(server) {
        return "a name that is not shown, since it has an @ in it,".into();
    }
    format!("{server:?}").into()
}

#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
fn has_at(server: &str) -> bool {
    server.contains('@') || server.contains("%40")
}

fn bad(why: impl Into<String>) -> ConnectError {
    ConnectError::Address { why: why.into() }
}

#[cfg(all(test, feature = "redis", feature = "postgres", feature = "etcd"))]
mod tests {
    use super::ConnectError;
    use crate::cluster::connect;
    use crate::cluster::transports::{etcd::Etcd, postgres::Postgres, redis::Redis};
    use url::Url;

    const SECRET: &str = "Hush";

    /// Behind the scheme. Nothing listens at these ports.
    const ADDRESSES: [&str; 15] = [
        // A slash, a question mark, a number sign in the password.
        "app:5/Hush@127.0.0.1",
        "app:5,Hush/x@127.0.0.1",
        "app:7?Hush@127.0.0.1/x",
        "app:7?kQzHush@127.0.0.1/x",
        "app:7?table=Hush@127.0.0.1/x",
        "app:7?ca=Hush@127.0.0.1/x",
        "app:7?host=Hush@127.0.0.1/x",
        "app:7#Hush@127.0.0.1/x",
        // An @ in it; a user for each server.
        "u:p@Hush@127.0.0.1:1",
        "u:Hush@127.0.0.1:1,u:Hush@127.0.0.1:2",
        "u:p@127.0.0.1:1?host=u:Hush@b",
        // What was encoded as a whole.
        "u:p@127.0.0.1:1?host=u%3AHush%40b",
        "u%3AHush%40127.0.0.1:1",
        // No @ at all: only a name that can be an option's is shown.
        "127.0.0.1:1?kQzHush=1",
        "127.0.0.1:1?pass_Hush",
    ];

    /// The error's text. The secret is not in it, nor in what a debugger is shown.
    fn told<T>(address: &str, refused: Result<T, ConnectError>) -> (ConnectError, String) {
        let Err(error) = refused else { panic!("{address} is accepted") };
        let said = error.to_string();
        assert!(!said.contains(SECRET) && !format!("{error:?}").contains(SECRET), "{said}");
        (error, said)
    }

    #[tokio::test]
    async fn a_secret_in_the_wrong_place_is_not_shown() {
        for (scheme, address) in ["redis", "postgres", "etcd"]
            .iter()
            .flat_map(|scheme| ADDRESSES.map(|address| (scheme, format!("{scheme}://{address}"))))
        {
            let (error, said) = told(&address, connect(&address).await);
            assert!(matches!(error, ConnectError::Address { .. }), "{address}: {said}");
            // Who brings a URL has to bring one that can be parsed.
            let Ok(url) = Url::parse(&address) else { continue };
            let of_url = match *scheme {
                "redis" => Redis::connect(&url).await.map(drop),
                "postgres" => Postgres::connect(&url).await.map(drop),
                _ => Etcd::connect(&url).await.map(drop),
            };
            println!("{address}: {}", told(&address, of_url).1);
        }
        for server in ["u:Hush@h:1", "u:Hush%40h:1", "Hush@h"] {
            let builder = Etcd::builder(["a:1", server]);
            let shown = format!("{builder:?}");
            assert!(!shown.contains(SECRET) && shown.contains("\"a:1\""), "{shown}");
            told(server, builder.connect().await);
        }
    }

    #[tokio::test]
    async fn what_to_do_about_it_is_said() {
        for (address, why) in [
            ("etcd://u:p@a:1,u:p@b:2", "%40"),
            ("redis://u:p?x@a", "%3F"),
            ("postgres://u:5/x@a", "%2F"),
            ("redis://a?Kx=1", "percent-encode"),
            ("etcd://a?abcdefghijklmnopqrstuvwxyz_abcdef=1", "percent-encode"),
            ("postgres://a?abcdefghijklmnopqrstuvwxyz_abcde=1", "\"abcdef"),
            ("etcd://a?colour=red", "\"colour\""),
        ] {
            let (_, said) = told(address, connect(address).await);
            assert!(said.contains(why), "{address}: {said}");
        }
    }
}
