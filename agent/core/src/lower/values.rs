//! Values as the kernel compares them, by the data type of what they are compared with.

use std::net::{Ipv4Addr, Ipv6Addr};

use nftables::expr::{Expression, NamedExpression};

use super::{Result, unsupported};

/// What a field or a part of a key holds, with nft's number for it (include/datatype.h of nftables, a part of the kernel's interface by being
/// stored with each set).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Nfproto,
    /// A number of so many bytes, most significant first.
    Number(usize),
    /// A number in the order of the machine, of four bytes.
    Native,
    Ipv4,
    Ipv6,
    Ethernet,
    EtherType,
    ArpOperation,
    Protocol,
    Port,
    IcmpType,
    IcmpCode,
    Icmpv6Type,
    TcpFlags,
    Interface,
    /// ARPHRD_*, two bytes in the order of the machine.
    DeviceType,
    Uid,
    Gid,
    CtState,
    CtDirection,
    PacketType,
    Name,
}

impl Kind {
    pub(super) fn nft_type(self) -> u32 {
        match self {
            Kind::Nfproto => 2,
            Kind::Number(_) | Kind::Native => 4,
            Kind::Ipv4 => 7,
            Kind::Ipv6 => 8,
            Kind::Ethernet => 9,
            Kind::EtherType => 10,
            Kind::ArpOperation => 11,
            Kind::Protocol => 12,
            Kind::Port => 13,
            Kind::IcmpType => 14,
            Kind::TcpFlags => 15,
            Kind::Interface => 20,
            Kind::DeviceType => 22,
            Kind::Uid => 24,
            Kind::Gid => 25,
            Kind::CtState => 26,
            Kind::CtDirection => 27,
            Kind::Icmpv6Type => 29,
            Kind::PacketType => 31,
            Kind::IcmpCode => 32,
            Kind::Name => 41,
        }
    }

    pub(super) fn length(self) -> usize {
        match self {
            Kind::Nfproto | Kind::Protocol | Kind::IcmpType | Kind::IcmpCode | Kind::Icmpv6Type => 1,
            Kind::TcpFlags | Kind::CtDirection | Kind::PacketType => 1,
            Kind::Number(length) => length,
            Kind::EtherType | Kind::ArpOperation | Kind::Port | Kind::DeviceType => 2,
            Kind::Native | Kind::Ipv4 | Kind::Interface | Kind::Uid | Kind::Gid | Kind::CtState => 4,
            Kind::Ethernet => 6,
            Kind::Ipv6 | Kind::Name => 16,
        }
    }

    /// Whether it is stored in the machine's own order, and so has to be turned around before it is compared by size.
    pub(super) fn is_native(self) -> bool {
        matches!(self, Kind::Native | Kind::Interface | Kind::Uid | Kind::Gid | Kind::CtState)
    }
}

/// The bytes of a value.
pub(super) fn value(kind: Kind, expression: &Expression<'_>) -> Result<Vec<u8>> {
    let number = match expression {
        Expression::Number(number) => Some(*number),
        Expression::String(name) => named(kind, name),
        Expression::List(flags) => {
            let mut sum = 0u32;
            for flag in flags {
                sum |= value(kind, flag)?.into_iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(byte));
            }
            Some(sum)
        }
        _ => None,
    };
    if let (Kind::Ipv4 | Kind::Ipv6, Expression::String(text)) = (kind, expression) {
        return match kind {
            Kind::Ipv4 => text.parse::<Ipv4Addr>().map(|address| address.octets().to_vec()).ok(),
            _ => text.parse::<Ipv6Addr>().map(|address| address.octets().to_vec()).ok(),
        }
        .map_or_else(|| unsupported("address", expression), Ok);
    }
    if let (Kind::Ethernet, Expression::String(text)) = (kind, expression) {
        let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        return bytes.filter(|bytes| bytes.len() == kind.length()).map_or_else(|| unsupported("address", expression), Ok);
    }
    if let (Kind::Number(length), Expression::String(text)) = (kind, expression) {
        let number = text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let bytes =
            number.and_then(|number| number.to_be_bytes().split_at_checked(8 - length.min(8)).map(|(_, bytes)| bytes.to_vec()));
        return bytes.map_or_else(|| unsupported("number", expression), Ok);
    }
    if let (Kind::Name, Expression::String(text)) = (kind, expression) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(kind.length(), 0);
        return Ok(bytes);
    }
    let Some(number) = number else { return unsupported("value", expression) };
    if kind == Kind::DeviceType {
        return u16::try_from(number)
            .map_or_else(|_| unsupported("number that fits", expression), |number| Ok(number.to_ne_bytes().to_vec()));
    }
    if kind.is_native() {
        return Ok(number.to_ne_bytes().to_vec());
    }
    let bytes = number.to_be_bytes();
    match bytes.split_at_checked(4usize.saturating_sub(kind.length())) {
        Some((none, rest)) if none.iter().all(|byte| *byte == 0) && rest.len() == kind.length() => Ok(rest.to_vec()),
        _ => unsupported("number that fits", expression),
    }
}

/// First and last of a value, a range or a prefix.
pub(super) fn span(kind: Kind, expression: &Expression<'_>) -> Result<(Vec<u8>, Vec<u8>)> {
    match expression {
        Expression::Range(range) => Ok((value(kind, &range.range[0])?, value(kind, &range.range[1])?)),
        Expression::Named(NamedExpression::Prefix(_)) => unsupported("value", expression),
        one => value(kind, one).map(|value| (value.clone(), value)),
    }
}

fn named(kind: Kind, name: &str) -> Option<u32> {
    let table: &[(&str, u32)] = match kind {
        // Loopback has this index in every network namespace (net/core/net_namespace.c).
        Kind::Interface => &[("lo", 1)],
        Kind::DeviceType => &[("ether", 1)],
        Kind::EtherType => &[("arp", 0x0806), ("ip", 0x0800), ("ip6", 0x86dd)],
        Kind::Protocol => &[
            ("icmp", 1),
            ("tcp", 6),
            ("udp", 17),
            ("gre", 47),
            ("esp", 50),
            ("ah", 51),
            ("ipv6-icmp", 58),
            ("icmpv6", 58),
            ("sctp", 132),
        ],
        Kind::ArpOperation => &[("request", 1), ("reply", 2)],
        Kind::Nfproto => &[("ipv4", 2), ("ipv6", 10)],
        Kind::IcmpType => &[
            ("echo-reply", 0),
            ("destination-unreachable", 3),
            ("redirect", 5),
            ("echo-request", 8),
            ("time-exceeded", 11),
            ("parameter-problem", 12),
            ("timestamp-request", 13),
            ("timestamp-reply", 14),
            ("address-mask-request", 17),
            ("address-mask-reply", 18),
        ],
        Kind::IcmpCode => &[
            ("net-unreachable", 0),
            ("host-unreachable", 1),
            ("prot-unreachable", 2),
            ("port-unreachable", 3),
            ("frag-needed", 4),
        ],
        Kind::Icmpv6Type => &[
            ("destination-unreachable", 1),
            ("packet-too-big", 2),
            ("time-exceeded", 3),
            ("parameter-problem", 4),
            ("echo-request", 128),
            ("echo-reply", 129),
            ("mld-listener-query", 130),
            ("mld-listener-report", 131),
            ("mld-listener-done", 132),
            ("nd-router-solicit", 133),
            ("nd-router-advert", 134),
            ("nd-neighbor-solicit", 135),
            ("nd-neighbor-advert", 136),
            ("nd-redirect", 137),
            ("mld2-listener-report", 143),
        ],
        Kind::TcpFlags => &[("fin", 1), ("syn", 2), ("rst", 4), ("psh", 8), ("ack", 16), ("urg", 32)],
        // Bits of NF_CT_STATE_BIT: 1 << (state + 1), IP_CT_* in nf_conntrack_common.h; untracked is 1 << 6.
        Kind::CtState => &[("invalid", 1), ("established", 2), ("related", 4), ("new", 8), ("untracked", 64)],
        Kind::CtDirection => &[("original", 0), ("reply", 1)],
        Kind::PacketType => &[("host", 0), ("unicast", 0), ("broadcast", 1), ("multicast", 2), ("other", 3)],
        _ => &[],
    };
    table.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}
