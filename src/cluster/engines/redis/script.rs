//! The scripts, and what they answer.

use crate::cluster::{Exchange, TransportError, Version, Versioned, Wake, Write};
use ::redis::{Cmd, Script, Value, cmd};

/// How long an idle register is kept, in seconds: an hour.
const RETENTION: &str = "3600";

/// A script by its digest, and as a whole.
pub(super) struct Loaded {
    text: &'static str,
    digest: String,
}

impl Loaded {
    pub(super) fn compare_exchange() -> Self {
        Self::new(include_str!("compare_exchange.lua"))
    }

    pub(super) fn delete() -> Self {
        Self::new(include_str!("delete.lua"))
    }

    fn new(text: &'static str) -> Self {
        Self { text, digest: Script::new(text).get_hash().to_owned() }
    }

    pub(super) fn call<'a>(&'a self, keys: [&'a str; 2], arguments: &'a [Vec<u8>]) -> Call<'a> {
        Call { script: self, keys, arguments }
    }
}

/// A script, and what it is to be called with.
pub(super) struct Call<'a> {
    script: &'a Loaded,
    keys: [&'a str; 2],
    arguments: &'a [Vec<u8>],
}

impl Call<'_> {
    /// For a server that knows the script.
    pub(super) fn by_digest(&self) -> Cmd {
        self.command("EVALSHA", &self.script.digest)
    }

    /// For one that does not, and knows it afterwards.
    pub(super) fn spelt_out(&self) -> Cmd {
        self.command("EVAL", self.script.text)
    }

    fn command(&self, how: &str, script: &str) -> Cmd {
        let mut command = cmd(how);
        command.arg(script).arg(self.keys.len()).arg(&self.keys[..]).arg(self.arguments);
        command
    }
}

/// The arguments of `compare_exchange.lua`.
pub(super) fn arguments(expected: Option<Version>, new: &Write, channel: String) -> [Vec<u8>; 5] {
    let expected = expected.map(|version| version.to_string()).unwrap_or_default();
    let wake = match new.wake {
        Wake::Nobody => String::new(),
        Wake::Node(node) => node.to_string(),
        Wake::Everybody => "*".to_owned(),
    };
    let keep = if new.idle { RETENTION } else { "" };
    [
        expected.into_bytes(),
        new.value.to_vec(),
        wake.into_bytes(),
        keep.into(),
        channel.into_bytes(),
    ]
}

/// What `compare_exchange.lua` answered. `None`: nothing that it could.
pub(super) fn exchange(response: &Value) -> Option<Exchange> {
    let Value::Array(parts) = response else { return None };
    let parts: Vec<&[u8]> = parts.iter().map(bytes).collect::<Option<_>>()?;
    match parts[..] {
        [b"1", version] => Some(Exchange::Swapped(number(version)?)),
        [b"0"] => Some(Exchange::Mismatch(None)),
        [b"0", version, value] => {
            let found = Versioned { version: number(version)?, value: value.into() };
            Some(Exchange::Mismatch(Some(found)))
        }
        _ => None,
    }
}

/// What `HMGET register version value` answered.
pub(super) fn register(response: &Value) -> Result<Option<Versioned>, TransportError> {
    let understood = match response {
        Value::Array(parts) => match &parts[..] {
            [Value::Nil, _] => Some(None),
            [version, value] => bytes(version).and_then(number).zip(bytes(value)).map(Some),
            _ => None,
        },
        _ => None,
    };
    let understood = understood.ok_or_else(|| TransportError::corrupt("it is no register"))?;
    Ok(understood.map(|(version, value)| Versioned { version, value: value.into() }))
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

fn number(text: &[u8]) -> Option<Version> {
    Version::new(std::str::from_utf8(text).ok()?.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::{exchange, register};
    use crate::cluster::Exchange;
    use ::redis::Value::{self, Array, Int, Nil};

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn answers_that_make_no_sense_are_seen() {
        let good = Array(vec![text("1"), text("4503599627370495")]);
        assert!(matches!(exchange(&good), Some(Exchange::Swapped(version)) if version.get() > 1));
        assert_eq!(exchange(&Array(vec![text("0")])), Some(Exchange::Mismatch(None)));
        for bad in [
            Nil,
            Array(vec![]),
            Array(vec![text("1")]),
            Array(vec![text("1"), text("0")]),
            Array(vec![text("1"), text("4503599627370496")]),
            Array(vec![Int(1), text("7")]),
            Array(vec![text("0"), text("7")]),
        ] {
            assert_eq!(exchange(&bad), None, "{bad:?}");
        }
        assert_eq!(register(&Array(vec![Nil, Nil])).unwrap(), None);
        assert!(register(&Array(vec![text("7"), text("v")])).unwrap().is_some());
        for bad in [Nil, Array(vec![text("x"), text("v")]), Array(vec![text("7"), Nil])] {
            assert!(register(&bad).is_err(), "{bad:?}");
        }
    }
}
