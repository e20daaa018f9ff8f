//! Protocols over IP, by their usual names and by their numbers.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The protocol of an exclusion. Written as a name (`tcp`, `sctp`) or as its number in IANA's registry of protocol numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, on both families.
    Tcp,
    /// UDP, on both families.
    Udp,
    /// ICMP on IPv4 and ICMPv6 on IPv6.
    Icmp,
    /// Another one, by its number; 1 and 58 are ICMP on one family alone.
    Number(u8),
    /// All of them.
    Any,
}

/// A text or number is no protocol; it is kept as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no protocol; write tcp, udp, icmp, any, another name such as sctp or gre, or a number from 0 to 255")]
pub struct ProtocolError(String);

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Names as in IANA's registry, where people use them.
const NAMES: [(&str, u8); 14] = [
    ("igmp", 2),
    ("ipip", 4),
    ("dccp", 33),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", 58),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
    ("udplite", 136),
];

impl Protocol {
    /// All names that it is written by, numbers left out.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ["tcp", "udp", "icmp", "any"].into_iter().chain(NAMES.iter().map(|(name, _)| *name))
    }

    /// The one of this number; TCP and UDP by their own names.
    pub fn of(number: u8) -> Self {
        match number {
            TCP => Self::Tcp,
            UDP => Self::Udp,
            other => Self::Number(other),
        }
    }

    /// Whether packets of it begin with the two ports, source first (TCP, UDP, DCCP, SCTP, UDP-Lite).
    pub fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Number(33 | 132 | 136))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp => f.write_str("icmp"),
            Self::Any => f.write_str("any"),
            Self::Number(number) => match NAMES.iter().find(|(_, known)| known == number) {
                Some((name, _)) => f.write_str(name),
                None => write!(f, "{number}"),
            },
        }
    }
}

impl FromStr for Protocol {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        match text {
            "tcp" => return Ok(Self::Tcp),
            "udp" => return Ok(Self::Udp),
            "icmp" => return Ok(Self::Icmp),
            "any" => return Ok(Self::Any),
            _ => {}
        }
        if let Some((_, number)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(Self::Number(*number));
        }
        // Digits alone: `+6` and ` 6` are no numbers that anybody would write here.
        let number = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        number.map(Self::of).ok_or_else(|| ProtocolError(format!("{text:?}")))
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) if !NAMES.iter().any(|(_, known)| known == number) => serializer.serialize_u8(*number),
            named => serializer.collect_str(named),
        }
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        let read = match Form::deserialize(deserializer)? {
            Form::Number(number) => u8::try_from(number).map(Self::of).map_err(|_| ProtocolError(number.to_string())),
            Form::Text(text) => text.parse(),
        };
        read.map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Protocol {
    fn schema_name() -> Cow<'static, str> {
        "Protocol".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "pattern": "^[a-z0-9-]{1,16}$", "minimum": 0, "maximum": 255 })
    }
}

/// A request of ICMP that conntrack can tie its answer to (net/netfilter/nf_conntrack_proto_icmp.c, _icmpv6.c): others have no direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IcmpType {
    /// Ping, on both families.
    EchoRequest,
    /// IPv4 only (RFC 792).
    TimestampRequest,
    /// IPv4 only (RFC 950).
    AddressMaskRequest,
    /// IPv6 only (RFC 4620).
    NodeInformationQuery,
}

impl IcmpType {
    /// The numbers of request and answer in ICMP.
    pub fn v4(self) -> Option<[u8; 2]> {
        match self {
            Self::EchoRequest => Some([8, 0]),
            Self::TimestampRequest => Some([13, 14]),
            Self::AddressMaskRequest => Some([17, 18]),
            Self::NodeInformationQuery => None,
        }
    }

    /// The numbers of request and answer in ICMPv6.
    pub fn v6(self) -> Option<[u8; 2]> {
        match self {
            Self::EchoRequest => Some([128, 129]),
            Self::NodeInformationQuery => Some([139, 140]),
            Self::TimestampRequest | Self::AddressMaskRequest => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_numbers_read_and_print() {
        let cases = [
            (json!("tcp"), Protocol::Tcp, json!("tcp")),
            (json!(6), Protocol::Tcp, json!("tcp")),
            (json!("17"), Protocol::Udp, json!("udp")),
            (json!("icmp"), Protocol::Icmp, json!("icmp")),
            (json!(1), Protocol::Number(1), json!(1)),
            (json!(58), Protocol::Number(58), json!("ipv6-icmp")),
            (json!("sctp"), Protocol::Number(132), json!("sctp")),
            (json!(132), Protocol::Number(132), json!("sctp")),
            (json!(253), Protocol::Number(253), json!(253)),
            (json!(0), Protocol::Number(0), json!(0)),
            (json!("any"), Protocol::Any, json!("any")),
        ];
        for (written, protocol, printed) in cases {
            assert_eq!(serde_json::from_value::<Protocol>(written.clone()).expect("valid"), protocol, "{written}");
            assert_eq!(serde_json::to_value(protocol).expect("writes"), printed);
            assert_eq!(protocol.to_string().parse(), Ok(protocol));
        }
        assert_eq!(Protocol::names().count(), 18);
        for name in Protocol::names() {
            assert_eq!(name.parse::<Protocol>().expect(name).to_string(), name);
        }
    }

    #[test]
    fn what_is_no_protocol() {
        for written in [
            json!(256),
            json!(-1),
            json!(6.5),
            json!("TCP"),
            json!("+6"),
            json!(" 6"),
            json!(""),
            json!("ip"),
            json!(null),
            json!(["tcp"]),
        ] {
            assert!(serde_json::from_value::<Protocol>(written.clone()).is_err(), "{written}");
        }
    }
}
