//! Host ids: the token by which a host is known in every subject.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// Longest host id, in bytes.
pub const MAX_HOST_ID: usize = 64;

/// A host id: one letter or digit, then letters, digits, `_` or `-`; at most 64 bytes.
///
/// The alphabet is a subset of what a NATS subject token and a file name may hold, so an id is both as it stands.
/// Tokens with a leading underscore (`_fleet`, `_unresolved`) are not host ids.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct HostId(String);

/// Why a text is no host id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostIdError {
    /// There is nothing.
    #[error("a host id is empty")]
    Empty,
    /// More than [`MAX_HOST_ID`] bytes; the number.
    #[error("a host id has {0} bytes; at most {MAX_HOST_ID} are allowed")]
    TooLong(usize),
    /// The first character that may not stand there, and its offset in bytes.
    #[error("a host id has {found:?} at byte {at}; it starts with a letter or digit, then letters, digits, '_' and '-'")]
    Character { found: char, at: usize },
}

impl HostId {
    /// Checks `text` against the rules above.
    pub fn new(text: impl Into<String>) -> Result<Self, HostIdError> {
        let text = text.into();
        if text.is_empty() {
            return Err(HostIdError::Empty);
        }
        if text.len() > MAX_HOST_ID {
            return Err(HostIdError::TooLong(text.len()));
        }
        let wrong = text.char_indices().find(|&(at, c)| !(c.is_ascii_alphanumeric() || (at > 0 && (c == '_' || c == '-'))));
        match wrong {
            Some((at, found)) => Err(HostIdError::Character { found, at }),
            None => Ok(Self(text)),
        }
    }

    /// The id of a host that is given none: derived from its machine id by a hash, so that the machine id, which machine-id(5) wants kept
    /// confidential, is not disclosed. None where `machine_id` is none: 32 hex digits, not all zero; an image that was not set up yet says
    /// `uninitialized`.
    pub fn of_machine(machine_id: &str) -> Option<Self> {
        let machine_id = machine_id.trim().to_ascii_lowercase();
        let valid = machine_id.len() == 32
            && machine_id.bytes().all(|byte| byte.is_ascii_hexdigit())
            && machine_id.bytes().any(|byte| byte != b'0');
        valid.then(|| Self(crate::ids::digest(["portcullis host id", &machine_id])[..32].to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id in lower case: two ids that differ in case only are the same host to a person, so the second one is refused.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for HostId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostId {
    type Err = HostIdError;

    fn from_str(text: &str) -> Result<Self, HostIdError> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for HostId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for HostId {
    fn schema_name() -> Cow<'static, str> {
        "HostId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::{HostId, HostIdError, MAX_HOST_ID};

    #[test]
    fn what_is_a_host_id() {
        let longest = "a".repeat(MAX_HOST_ID);
        for good in ["a", "0", "web-1", "Web_1", "7-", "a_", "3b1f0c6e9d2a4f58b7c1d0e2f3a4b5c6", &longest] {
            let id = HostId::new(good).expect(good);
            assert_eq!((id.as_str(), id.to_string().as_str()), (good, good));
            assert_eq!(good.parse::<HostId>().as_ref(), Ok(&id));
            let json = serde_json::to_string(&id).expect("a host id is text");
            assert_eq!(serde_json::from_str::<HostId>(&json).expect("reads what it wrote"), id);
        }
    }

    #[test]
    fn what_is_none() {
        let at = |found, at| HostIdError::Character { found, at };
        let cases = [
            ("", HostIdError::Empty),
            ("_fleet", at('_', 0)),
            ("_unresolved", at('_', 0)),
            ("-a", at('-', 0)),
            ("a.b", at('.', 1)),
            ("a*", at('*', 1)),
            (">", at('>', 0)),
            ("a b", at(' ', 1)),
            ("web-1\n", at('\n', 5)),
            ("../etc", at('.', 0)),
            ("a/b", at('/', 1)),
            ("a\0", at('\0', 1)),
            ("ä", at('ä', 0)),
            ("aé", at('é', 1)),
            ("fe80::1", at(':', 4)),
        ];
        for (text, wanted) in cases {
            assert_eq!(HostId::new(text), Err(wanted), "{text:?}");
            let json = serde_json::Value::from(text);
            assert!(serde_json::from_value::<HostId>(json).is_err(), "{text:?} came in as JSON");
        }
        assert_eq!(HostId::new("a".repeat(MAX_HOST_ID + 1)), Err(HostIdError::TooLong(MAX_HOST_ID + 1)));
        assert!(serde_json::from_str::<HostId>("7").is_err());
    }

    #[test]
    fn ids_that_differ_in_case_only_fold_to_one() {
        let [a, b] = ["Web-1", "wEB-1"].map(|text| HostId::new(text).expect(text));
        assert_ne!(a, b);
        assert_eq!(a.folded(), b.folded());
    }

    #[test]
    fn the_id_of_a_machine_is_stable_and_does_not_tell_the_machine_id() {
        let machine = "4f1d2c3b5a69788796a5b4c3d2e1f001";
        let id = HostId::of_machine(machine).expect("a machine id");
        assert_eq!(id.as_str(), ID_OF_THAT_MACHINE);
        assert_eq!(HostId::of_machine(&format!(" {machine}\n")), Some(id.clone()), "as /etc/machine-id holds it");
        assert_ne!(HostId::of_machine("4f1d2c3b5a69788796a5b4c3d2e1f002"), Some(id.clone()));
        assert_eq!(HostId::new(id.as_str()), Ok(id.clone()));
        for length in [8, 16, 32] {
            assert!(!id.as_str().contains(&machine[..length]), "{id}");
        }
        assert_eq!(HostId::of_machine(""), None);
        assert_eq!(HostId::of_machine(&machine.to_uppercase()), Some(id));
        for text in [" \n", "uninitialized\n", "00000000000000000000000000000000", "0123"] {
            assert_eq!(HostId::of_machine(text), None, "{text:?}");
        }
    }

    /// Another id for the same machine would make every enrolled host a new one.
    const ID_OF_THAT_MACHINE: &str = "915a79c71ff53d041fd8f8c48f1addee";
}
