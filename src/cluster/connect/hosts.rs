//! Addresses with several hosts, which a URL does not have.

use std::borrow::Cow;

/// `scheme://user@a:1,b:2/path?query` as a URL: `scheme://user@a:1/path?query&host=b:2`.
///
/// An address with one host, or none, is left as it is.
pub(super) fn to_url(address: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = address.split_once("://") else { return address.into() };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let at = authority.rfind('@').map_or(0, |at| at + 1);
    let (user, hosts) = authority.split_at(at);
    let mut hosts = hosts.split(',');
    let first = hosts.next().unwrap_or_default();
    let (rest, fragment) = rest.split_at(rest.find('#').unwrap_or(rest.len()));
    let mut separator = if rest.contains('?') { '&' } else { '?' };
    let mut more = String::new();
    for host in hosts {
        more.extend([&*separator.to_string(), "host=", host]);
        separator = '&';
    }
    if more.is_empty() {
        return address.into();
    }
    format!("{scheme}://{user}{first}{rest}{more}{fragment}").into()
}

#[cfg(test)]
mod tests {
    use super::to_url;

    #[test]
    fn further_hosts_go_into_the_query() {
        for (address, url) in [
            ("memory:", "memory:"),
            ("etcd://a:1", "etcd://a:1"),
            ("etcd://a:1,b:2", "etcd://a:1?host=b:2"),
            (
                "etcd://u:p,w@a:1,[::1]:2,c/x/?y=z,1#f",
                "etcd://u:p,w@a:1/x/?y=z,1&host=[::1]:2&host=c#f",
            ),
            ("redis://a/0?x=1,2", "redis://a/0?x=1,2"),
        ] {
            assert_eq!(to_url(address), url);
        }
    }
}
