//! Ports and ranges of ports, written as text.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A port or a range of ports: `53` or `1024-65535`. Written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A text is no port or range of ports; the text is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no port or range of ports; write 53 or 1024-65535, from 1 to 65535, lower one first")]
pub struct PortRangeError(String);

impl PortRange {
    /// A single port, which the caller knows not to be 0: a range with port 0 is written, but not read back.
    pub fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// `first` to `last`, both included. None if `first` is 0 or above `last`.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port, itself included.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Is `port` one of them?
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let wrong = || PortRangeError(text.to_owned());
        let port = |part: &str| part.trim().parse::<u16>().map_err(|_| wrong());
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        Self::new(first, last).ok_or_else(wrong)
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u16),
            Text(String),
        }
        let text = match Form::deserialize(deserializer)? {
            Form::Number(port) => port.to_string(),
            Form::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for PortRange {
    fn schema_name() -> Cow<'static, str> {
        "PortRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$", "minimum": 1, "maximum": 65535 })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_read_and_print() {
        let cases = [
            ("53", 53, 53, "53"),
            ("1-65535", 1, 65_535, "1-65535"),
            ("1024-2048", 1_024, 2_048, "1024-2048"),
            ("22-22", 22, 22, "22"),
        ];
        for (text, first, last, printed) in cases {
            let range: PortRange = text.parse().expect(text);
            assert_eq!((range.first(), range.last(), range.to_string().as_str()), (first, last, printed));
            assert_eq!(Some(range), PortRange::new(first, last));
            assert!(range.contains(first) && range.contains(last));
            assert!(!range.contains(first - 1) && last.checked_add(1).is_none_or(|next| !range.contains(next)));
            assert_eq!(serde_json::to_value(range).expect("writes"), printed);
            assert_eq!(serde_json::from_value::<PortRange>(json!(text)).expect(text), range);
        }
        assert_eq!(serde_json::from_value::<PortRange>(json!(53)).expect("a number"), PortRange::one(53));
    }

    #[test]
    fn what_is_no_port() {
        for text in
            ["", "-", "0", "0-1", "2-1", "65536", "1-65536", "-1", "1-", "-1-2", "1-2-3", "ssh", "22,23", "1..2", "0x16", "2 2"]
        {
            assert!(text.parse::<PortRange>().is_err(), "{text:?}");
            assert!(serde_json::from_value::<PortRange>(json!(text)).is_err(), "{text:?}");
        }
        for value in [json!(0), json!(65_536), json!(-1), json!(22.5), json!(null), json!([22])] {
            assert!(serde_json::from_value::<PortRange>(value.clone()).is_err(), "{value}");
        }
        assert_eq!((PortRange::new(0, 1), PortRange::new(2, 1)), (None, None));
    }
}
