//! Exclusions: connections that pass while a host is isolated.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::time::Timestamp;

/// One connection, or a family of them, that passes while isolated; replies to it pass as well.
///
/// An unknown member is an error and not ignored: it could be a condition, and an exclusion without one of its conditions
/// opens more than was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exclusion {
    /// The profile or the name in the policy that it came from; for people and reports.
    pub name: String,
    /// Who opens the connection, seen from the host.
    pub direction: Direction,
    /// The transport.
    pub protocol: Protocol,
    /// Whom it may be with.
    pub remote: Remote,
    /// Ports of the other side; empty means all. TCP and UDP only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote_ports: Vec<PortRange>,
    /// Ports of this host; empty means all. TCP and UDP only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_ports: Vec<PortRange>,
    /// Inert unless a socket of this host listens on one of `local_ports` outside loopback when the gate drops.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub if_listening: bool,
    /// End of a temporary exclusion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Who opens a connection, seen from the isolated host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The host opens it.
    Out,
    /// The other side opens it.
    In,
}

/// The transport of an exclusion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, on both families.
    Tcp,
    /// UDP, on both families.
    Udp,
    /// ICMP on IPv4 and ICMPv6 on IPv6.
    Icmp,
}

/// The other side of an exclusion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Remote {
    /// Networks in CIDR form, of both families.
    Cidrs(#[schemars(schema_with = "cidrs")] Vec<IpNet>),
    /// What the host itself knows when the gate drops, frozen from then on.
    Known(Known),
    /// Anybody.
    Any,
}

fn cidrs(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "string", "pattern": "^[0-9A-Fa-f:.]+/[0-9]{1,3}$" } })
}

/// Addresses that only the host knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// The resolvers that the host uses, loopback ones left out.
    Resolvers,
    /// The DHCP servers of its leases, and the broadcast and multicast addresses that a client renews by.
    DhcpServers,
}

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
    use serde_json::{Value, json};

    use super::{Exclusion, Known, PortRange, Remote};

    #[test]
    fn an_unknown_member_is_refused() {
        let plain = json!({ "name": "ssh", "direction": "in", "protocol": "tcp", "remote": "any" });
        read(&plain).expect("valid as it is");
        for (member, value) in [("user", json!("root")), ("remote_port", json!(["22"])), ("Until", json!(null))] {
            let mut more = plain.clone();
            more[member] = value;
            let error = read(&more).expect_err(member).to_string();
            assert!(error.contains(&format!("unknown field `{member}`")), "{error}");
        }
    }

    #[test]
    fn each_condition_is_written_out_or_means_all() {
        let bare = json!({ "name": "n", "direction": "out", "protocol": "udp", "remote": { "known": "resolvers" } });
        let exclusion = read(&bare).expect("valid");
        assert_eq!(exclusion.remote, Remote::Known(Known::Resolvers));
        assert!(exclusion.remote_ports.is_empty() && exclusion.local_ports.is_empty() && !exclusion.if_listening);
        assert_eq!(serde_json::to_value(&exclusion).expect("writes"), bare);
        for member in ["name", "direction", "protocol", "remote"] {
            let mut less = bare.clone();
            less.as_object_mut().expect("an object").remove(member);
            assert!(read(&less).is_err(), "taken without {member}");
        }
    }

    #[test]
    fn remotes_are_networks_or_known_by_name() {
        let with = |remote: Value| read(&json!({ "name": "n", "direction": "out", "protocol": "tcp", "remote": remote }));
        for good in
            [json!("any"), json!({ "cidrs": ["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"] }), json!({ "known": "dhcp_servers" })]
        {
            with(good.clone()).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        let bad = [
            json!("all"),
            json!(null),
            json!({}),
            json!({ "cidrs": ["10.0.0.1"] }),
            json!({ "cidrs": ["10.0.0.0/33"] }),
            json!({ "cidrs": ["example.org"] }),
            json!({ "cidrs": [], "known": "resolvers" }),
            json!({ "known": "gateways" }),
        ];
        for remote in bad {
            assert!(with(remote.clone()).is_err(), "{remote} was taken");
        }
    }

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

    fn read(value: &Value) -> Result<Exclusion, serde_json::Error> {
        serde_json::from_value(value.clone())
    }
}
