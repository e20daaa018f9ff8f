//! What a rule can look at: where it stands in a packet, and what must be asked first so that it stands there.

use nftables::expr::{CT, Expression, Exthdr, Meta, MetaKey, NamedExpression, Payload, PayloadBase, PayloadRaw};

use super::values::Kind;
use super::{Result, unsupported};
use crate::ruleset::SECMARK;

/// NFT_META_SECMARK
pub(super) const META_SECMARK: u32 = 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// NFT_META_*
    Meta(u32),
    /// NFT_CT_*
    Ct(u32),
    /// NFT_PAYLOAD_LL_HEADER (0), _NETWORK_HEADER (1) or _TRANSPORT_HEADER (2), and the offset in bytes.
    Payload(u32, u32),
    /// An IPv6 extension header and the offset in it.
    Extension(u8, u32),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub source: Source,
    pub kind: Kind,
    /// For a field of some bits.
    pub mask: Option<u32>,
    pub needs: Needs,
}

/// What the packet has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub network: Option<Network>,
    /// IPPROTO_*
    pub transport: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    Ip,
    Ip6,
    Arp,
}

const LINK: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const IP: Needs = Needs { network: Some(Network::Ip), transport: None };
const IP6: Needs = Needs { network: Some(Network::Ip6), transport: None };
const ARP: Needs = Needs { network: Some(Network::Arp), transport: None };
const ICMP: Needs = Needs { network: Some(Network::Ip), transport: Some(1) };
const ICMPV6: Needs = Needs { network: Some(Network::Ip6), transport: Some(58) };
const NOTHING: Needs = Needs { network: None, transport: None };

pub(super) fn field(expression: &Expression<'_>) -> Result<Field> {
    let Expression::Named(named) = expression else { return unsupported("expression", expression) };
    match named {
        NamedExpression::Meta(Meta { key }) => meta(*key),
        NamedExpression::CT(CT { key, family: None, dir: None }) => ct(key),
        NamedExpression::Payload(Payload::PayloadField(payload)) => packet(&payload.protocol, &payload.field),
        NamedExpression::Payload(Payload::PayloadRaw(PayloadRaw {
            base: base @ (PayloadBase::LL | PayloadBase::TH),
            offset,
            len,
        })) if offset % 8 == 0 && len % 8 == 0 && *len <= 48 => {
            let base = if matches!(base, PayloadBase::LL) { LINK } else { TRANSPORT };
            plain(Source::Payload(base, offset / 8), Kind::Number(*len as usize / 8), NOTHING)
        }
        NamedExpression::Exthdr(Exthdr { name, field: Some(field), offset: None }) if name == "frag" && field == "frag-off" => {
            let source = Source::Extension(44, 2);
            Ok(Field { source, kind: Kind::Number(2), mask: Some(0xfff8), needs: IP6 })
        }
        other => unsupported("expression", other),
    }
}

fn plain(source: Source, kind: Kind, needs: Needs) -> Result<Field> {
    Ok(Field { source, kind, mask: None, needs })
}

fn meta(key: MetaKey) -> Result<Field> {
    let (number, kind) = match key {
        MetaKey::Length => (0, Kind::Native),
        MetaKey::Protocol => (1, Kind::EtherType),
        MetaKey::Mark => (3, Kind::Native),
        MetaKey::Iif => (4, Kind::Interface),
        MetaKey::Oif => (5, Kind::Interface),
        MetaKey::Oiftype => (9, Kind::DeviceType),
        MetaKey::Iifname => (6, Kind::Name),
        MetaKey::Oifname => (7, Kind::Name),
        MetaKey::Skuid => (10, Kind::Uid),
        MetaKey::Skgid => (11, Kind::Gid),
        MetaKey::Nfproto => (15, Kind::Nfproto),
        MetaKey::L4proto => (16, Kind::Protocol),
        MetaKey::Pkttype => (19, Kind::PacketType),
        MetaKey::Cgroup => (23, Kind::Native),
        other => return unsupported("meta key", &other),
    };
    plain(Source::Meta(number), kind, NOTHING)
}

fn ct(key: &str) -> Result<Field> {
    match key {
        "state" => plain(Source::Ct(0), Kind::CtState, NOTHING),
        "direction" => plain(Source::Ct(1), Kind::CtDirection, NOTHING),
        SECMARK => plain(Source::Meta(META_SECMARK), Kind::Native, NOTHING),
        other => unsupported("ct key", &other),
    }
}

fn packet(protocol: &str, name: &str) -> Result<Field> {
    let (base, offset, kind, needs) = match (protocol, name) {
        ("ip", "protocol") => (NETWORK, 9, Kind::Protocol, IP),
        ("ip", "ttl") => (NETWORK, 8, Kind::Number(1), IP),
        ("ip", "frag-off") => (NETWORK, 6, Kind::Number(2), IP),
        ("ip", "length") => (NETWORK, 2, Kind::Number(2), IP),
        ("ip", "saddr") => (NETWORK, 12, Kind::Ipv4, IP),
        ("ip", "daddr") => (NETWORK, 16, Kind::Ipv4, IP),
        ("ip6", "length") => (NETWORK, 4, Kind::Number(2), IP6),
        ("ip6", "hoplimit") => (NETWORK, 7, Kind::Number(1), IP6),
        ("ip6", "saddr") => (NETWORK, 8, Kind::Ipv6, IP6),
        ("ip6", "daddr") => (NETWORK, 24, Kind::Ipv6, IP6),
        ("arp", "htype") => (NETWORK, 0, Kind::Number(2), ARP),
        ("arp", "ptype") => (NETWORK, 2, Kind::EtherType, ARP),
        ("arp", "hlen") => (NETWORK, 4, Kind::Number(1), ARP),
        ("arp", "plen") => (NETWORK, 5, Kind::Number(1), ARP),
        ("arp", "operation") => (NETWORK, 6, Kind::ArpOperation, ARP),
        ("arp", "saddr ether") => (NETWORK, 8, Kind::Ethernet, ARP),
        ("icmp", "type") => (TRANSPORT, 0, Kind::IcmpType, ICMP),
        ("icmp", "code") => (TRANSPORT, 1, Kind::IcmpCode, ICMP),
        ("icmpv6", "type") => (TRANSPORT, 0, Kind::Icmpv6Type, ICMPV6),
        ("icmpv6", "code") => (TRANSPORT, 1, Kind::Number(1), ICMPV6),
        ("th", "sport") => (TRANSPORT, 0, Kind::Port, NOTHING),
        ("th", "dport") => (TRANSPORT, 2, Kind::Port, NOTHING),
        ("tcp", "flags") => (TRANSPORT, 13, Kind::TcpFlags, transport(6)),
        ("tcp" | "udp" | "sctp", "sport" | "dport") => {
            let number =
                [("tcp", 6), ("udp", 17), ("sctp", 132)].iter().find(|(known, _)| *known == protocol).map_or(0, |(_, n)| *n);
            (TRANSPORT, if name == "sport" { 0 } else { 2 }, Kind::Port, transport(number))
        }
        other => return unsupported("field", &other),
    };
    plain(Source::Payload(base, offset), kind, needs)
}

fn transport(protocol: u8) -> Needs {
    Needs { network: None, transport: Some(protocol) }
}
