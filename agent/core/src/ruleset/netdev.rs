//! The second layer: what a device carries, before and after everything that the inet table sees. It stops what never becomes a packet of
//! this host's own stack: frames of raw sockets, of other namespaces' macvlan devices, of a bridge.
//!
//! There is no conntrack here, so exclusions pass by address, protocol and port alone; who opened a connection is asked in the inet table.

use std::collections::BTreeSet;

use nftables::expr::{BinaryOperation, Expression, MetaKey, NamedExpression, Payload, PayloadBase, PayloadRaw};
use nftables::schema::Chain;
use nftables::stmt::{Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfHook};

use super::keys::{arriving_key, icmp_key, leaving_key, of};
use super::many;
use super::sets::{BOUND_IN, BOUND_OUT, CONTROL, FRAGMENTS, ICMP_IN, ICMP_OUT, IN, OUT, RESOLVER, STANDING};
use super::terms::{accept, concat, count, drop, equals, field, jump, limit, link, member, meta, text};
use crate::gate::{Device, Gate, Netdev};

/// The common parts: each device's own chains only jump there.
const INGRESS: &str = "ingress";
const EGRESS: &str = "egress";
/// What this host itself sends: asked behind the questions that only Ethernet has.
const OWN: &str = "own";
pub(super) const CHAINS: [&str; 3] = [INGRESS, EGRESS, OWN];

/// IEEE 802.1X (EAPOL) and the slow protocols (LACP, 802.3 annex 57A): the link itself goes down without them.
const EAPOL: u32 = 0x888e;
const SLOW: u32 = 0x8809;
/// An ARP frame, with the Ethernet header and the padding that a card may leave on it.
const ARP_LENGTH: u32 = 64;

/// Base chains, one for each device and direction: a chain for all of them could not get a new device without being made anew.
///
/// The name says index and name of the device, so that a device that took another's name or was renamed gets chains of its own.
pub(super) fn chains(netdev: &Netdev) -> Vec<(Chain<'static>, &'static str)> {
    let directions = [(NfHook::Ingress, "in", INGRESS), (NfHook::Egress, "out", EGRESS)];
    let directions = &directions[..if netdev.egress { 2 } else { 1 }];
    let of = |device: &Device| {
        let (index, name, is_ethernet) = (device.index, device.name.clone(), device.address.is_some());
        directions.iter().map(move |(hook, prefix, target)| {
            let chain = Chain {
                _type: Some(NfChainType::Filter),
                hook: Some(*hook),
                prio: Some(0),
                policy: Some(NfChainPolicy::Drop),
                dev: Some(name.clone().into()),
                ..super::terms::chain(super::NETDEV, format!("{prefix}-{index}-{name}"))
            };
            // A device without Ethernet addresses carries packets of this host's stack alone.
            let target = if *target == EGRESS && !is_ethernet { OWN } else { *target };
            (chain, target)
        })
    };
    netdev.devices.iter().flat_map(of).collect()
}

pub(super) fn rules(gate: &Gate, netdev: &Netdev, present: &BTreeSet<&str>) -> Vec<(&'static str, Vec<Statement<'static>>)> {
    let mut rules = Vec::new();
    let macs: BTreeSet<[u8; 6]> = netdev.devices.iter().filter_map(|device| device.address).collect();
    let macs = macs.into_iter().map(source_address);
    // What came in by one device and leaves by another without being routed was bridged: a frame that this host makes is addressed to nobody.
    let bridged = Match { left: meta(MetaKey::Pkttype), right: text("host"), op: Operator::NEQ };
    rules.push((EGRESS, vec![Statement::Match(bridged), count(), drop()]));
    // Another namespace's macvlan on one of these devices has an address of its own.
    for (upper, lower) in macs {
        rules.push((EGRESS, vec![upper, lower, jump(OWN)]));
    }
    rules.push((EGRESS, vec![count(), drop()]));
    for (chain, peer, own) in [(INGRESS, "saddr", "daddr"), (OWN, "daddr", "saddr")] {
        let (peer_port, own_port) = if peer == "saddr" { ("sport", "dport") } else { ("dport", "sport") };
        let leaves = chain == OWN;
        // A limit on what arrives would let a neighbour's flood starve the host's own link.
        let limited = |mut statements: Vec<Statement<'static>>| {
            statements.extend(leaves.then(limit));
            statements.push(accept());
            (chain, statements)
        };
        let short = Match { left: meta(MetaKey::Length), right: Expression::Number(ARP_LENGTH), op: Operator::LEQ };
        rules.push(limited(vec![equals(meta(MetaKey::Protocol), text("arp")), Statement::Match(short)]));
        for protocol in [EAPOL, SLOW] {
            rules.push(limited(vec![equals(meta(MetaKey::Protocol), Expression::Number(protocol))]));
        }
        for (sets, transport) in [(CONTROL, "tcp"), (RESOLVER, "udp")] {
            for (ip, set) in of(present, sets) {
                let mut statements = Vec::new();
                statements.extend(leaves.then(|| equals(meta(MetaKey::Skuid), Expression::Number(gate.agent_uid))));
                statements.extend([member(concat([field(ip, peer), field(transport, peer_port)]), set), count(), accept()]);
                rules.push((chain, statements));
            }
        }
        for sets in [OUT, IN, BOUND_OUT, BOUND_IN] {
            for (ip, set) in of(present, sets) {
                let key = if leaves { leaving_key(ip) } else { arriving_key(ip) };
                rules.push((chain, vec![member(key, set), count(), accept()]));
            }
        }
        rules.extend(many::on_device(present, leaves).into_iter().map(|rule| (chain, rule)));
        for sets in [ICMP_OUT, ICMP_IN] {
            for (ip, set) in of(present, sets) {
                rules.push((chain, vec![member(icmp_key(ip, peer), set), count(), accept()]));
            }
        }
        for (ip, set) in of(present, STANDING) {
            let ends = [meta(MetaKey::L4proto), field(ip, own), field("th", own_port), field(ip, peer), field("th", peer_port)];
            rules.push((chain, vec![member(concat(ends), set), count(), accept()]));
        }
        for sets in [FRAGMENTS, many::SENDERS] {
            for (ip, set) in of(present, sets) {
                let later = if ip == "ip" { later_fragment4() } else { later_fragment6() };
                let key = concat([meta(MetaKey::L4proto), field(ip, peer)]);
                rules.push((chain, vec![later, member(key, set), count(), accept()]));
            }
        }
        if leaves {
            rules.push((chain, link(255, &["nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert"], true)));
            rules.push((chain, link(1, &["mld-listener-report", "mld-listener-done", "mld2-listener-report"], true)));
        } else {
            // The inet table asks whether they belong to a connection that passes.
            let too_big = equals(field("icmp", "code"), text("frag-needed"));
            rules.push((chain, vec![equals(field("icmp", "type"), text("destination-unreachable")), too_big, limit(), accept()]));
            rules.push((chain, vec![equals(field("icmpv6", "type"), text("packet-too-big")), limit(), accept()]));
            rules.push((chain, link(255, &["nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"], true)));
            rules.push((chain, link(1, &["mld-listener-query"], true)));
        }
        rules.push((chain, vec![count(), drop()]));
    }
    rules
}

/// The Ethernet source address, in two parts: as one field it would ask first which kind of device the frame came in by, and on the way out it
/// came in by none. In two parts, since the crate has no numbers of 48 bits; nft makes one of them (`verify` takes both forms for the same).
fn source_address(address: [u8; 6]) -> (Statement<'static>, Statement<'static>) {
    let part = |offset: u32, bytes: &[u8]| {
        let raw = PayloadRaw { base: PayloadBase::LL, offset, len: 8 * bytes.len() as u32 };
        let left = Expression::Named(NamedExpression::Payload(Payload::PayloadRaw(raw)));
        equals(left, Expression::Number(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))))
    };
    (part(48, &address[..2]), part(64, &address[2..]))
}

/// A fragment behind the first one, which has no ports.
fn later_fragment4() -> Statement<'static> {
    let offset = BinaryOperation::AND(field("ip", "frag-off"), Expression::Number(0x1fff));
    let left = Expression::BinaryOperation(Box::new(offset));
    Statement::Match(Match { left, right: Expression::Number(0), op: Operator::NEQ })
}

fn later_fragment6() -> Statement<'static> {
    let left = super::terms::extension("frag", "frag-off");
    Statement::Match(Match { left, right: Expression::Number(0), op: Operator::NEQ })
}
