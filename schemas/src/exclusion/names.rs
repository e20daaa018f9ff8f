//! Names in exclusions: of hosts, local users and systemd units. They are compared and looked up, never made part of a path or a command.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A text is not a name of its kind; the text is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct NameError {
    text: String,
    what: &'static str,
}

/// A host's name in DNS, without the dot at its end: labels of letters, digits, `-` and `_`, at most 63 each and 253 in all (RFC 1035, 2.3.4).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct DnsName(String);

/// A local user: a name as useradd takes it, at most 32 characters, or a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct UserName(String);

/// A systemd unit (`wazuh-agent.service`), or a control group by its path in the second hierarchy (`/system.slice/wazuh-agent.service`), at most
/// 255 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Unit(String);

const DNS_NAME: &str = "^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)([.][A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*$";
const USER: &str = "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}[$]?$";
const UNIT: &str = "^/?[A-Za-z0-9_:.@\\\\-]+(/[A-Za-z0-9_:.@\\\\-]+)*$";

impl DnsName {
    fn holds(text: &str) -> bool {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let label = |label: &str| {
            let bytes = label.as_bytes();
            (1..=63).contains(&bytes.len())
                && bytes.iter().all(|byte| word(*byte) || *byte == b'-')
                && bytes.first().is_some_and(|byte| word(*byte))
                && bytes.last().is_some_and(|byte| word(*byte))
        };
        // What looks like an address is one, mistyped.
        let digits = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
        text.len() <= 253 && text.split('.').all(label) && !text.rsplit('.').next().is_some_and(digits)
    }
}

impl UserName {
    fn holds(text: &str) -> bool {
        let name = text.strip_suffix('$').unwrap_or(text);
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let fits = name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.parse::<u32>().is_ok_and(|uid| uid != u32::MAX));
        first && name.len() <= 32 && name.bytes().all(inner) && fits.unwrap_or(true)
    }

    /// The uid, where it is written as one.
    pub fn number(&self) -> Option<u32> {
        self.0.parse().ok()
    }
}

impl Unit {
    fn holds(text: &str) -> bool {
        let byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'.' | b'@' | b'\\' | b'-');
        let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(byte);
        text.len() <= 255 && text.strip_prefix('/').unwrap_or(text).split('/').all(part)
    }

    /// Whether the control group of this path, relative to the root of the hierarchy, is meant.
    pub fn is_at(&self, path: &str) -> bool {
        let path = path.trim_matches('/');
        if self.0.contains('/') { self.0.trim_start_matches('/') == path } else { path.rsplit('/').next() == Some(&self.0) }
    }
}

macro_rules! name {
    ($kind:ident, $what:literal, $pattern:ident, $longest:literal) => {
        impl $kind {
            /// As it was written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $kind {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let error = || NameError { text: text.to_owned(), what: $what };
                Self::holds(text).then(|| Self(text.to_owned())).ok_or_else(error)
            }
        }

        impl TryFrom<String> for $kind {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl JsonSchema for $kind {
            fn schema_name() -> Cow<'static, str> {
                stringify!($kind).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "maxLength": $longest })
            }
        }
    };
}

name!(DnsName, "name of a host; write letters, digits, - and _ between dots, without a dot at the end", DNS_NAME, 253);
name!(UserName, "local user; write a name of at most 32 characters, or a uid", USER, 33);
name!(Unit, "systemd unit; write NAME.service, or the path of a control group", UNIT, 255);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts() {
        let long = "a".repeat(63);
        for good in ["siem", "siem.example.org", "_x-1.EXAMPLE", "1.example", "10.0.0.example", &long] {
            assert!(good.parse::<DnsName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "-a", "a-", "10.0.0.1", "1", "a b", "a/b", "ä", "fe80::1", &format!("a{long}")]
        {
            assert!(bad.parse::<DnsName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn users_and_units() {
        for good in ["root", "_apt", "0", "64990", "machine$", "a.b-c"] {
            assert!(good.parse::<UserName>().is_ok(), "{good}");
        }
        assert_eq!(
            ["0", "root", "64990"].map(|user| user.parse::<UserName>().expect(user).number()),
            [Some(0), None, Some(64990)]
        );
        for bad in ["", "-x", "a b", "a/b", "..", "a:b", "4294967295", "4294967296", &"a".repeat(33)] {
            assert!(bad.parse::<UserName>().is_err(), "{bad}");
        }
        for good in ["wazuh-agent.service", "/system.slice/x.service", "user@1000.service", "dev-sda\\x2d1.device", "a/b"] {
            assert!(good.parse::<Unit>().is_ok(), "{good}");
        }
        for bad in ["", "/", "a//b", "../x", "a/..", "a/./b", "a b", "a\nb", "a/"] {
            assert!(bad.parse::<Unit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_unit_is_found_by_its_name_anywhere_and_a_path_at_its_place() {
        let unit = |text: &str| text.parse::<Unit>().expect(text);
        assert!(unit("x.service").is_at("system.slice/system-x.slice/x.service"));
        assert!(!unit("x.service").is_at("system.slice/xx.service"));
        assert!(unit("/system.slice/x.service").is_at("system.slice/x.service"));
        assert!(unit("system.slice/x.service").is_at("/system.slice/x.service/"));
        assert!(!unit("/x.service").is_at("system.slice/x.service"));
    }
}
