//! The second layer: what a device carries, before and after everything that the inet table sees. It stops what never becomes a packet of
//! this host's own stack: frames of raw sockets, of other namespaces' macvlan devices, of a bridge.
//!
//! There is no conntrack here, so exclusions pass by address, protocol and port alone; who opened a connection, and for whom, is asked in the inet
//! table, whose mark packets have to carry on the way out.

use std::collections::BTreeSet;

use nftables::expr::{BinaryOperation, Expression, MetaKey};
use nftables::schema::Chain;
use nftables::stmt::{Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfHook};

use super::keys::{arriving_key, icmp_key, leaving_key, of};
use super::sets::{BOUND_IN, BOUND_OUT, CONTROL, FRAGMENTS, ICMP_IN, ICMP_OUT, IN, OUT, RESOLVER, STANDING};
use super::terms::{
    accept, and, concat, count, drop, equals, few_of_processes, field, is_one_of, jump, limit, limit_to, link_in, member,
    memberships_out, meta, neighbours_out, text,
};
use super::{frames, many, secmark};
use crate::gate::{Device, Gate, Netdev, Proof};

/// The common parts: each device's own chains only jump there.
pub(super) const INGRESS: &str = "ingress";
pub(super) const EGRESS: &str = "egress";
/// IP packets of which it is asked whether the inet table has let them pass.
const PROVEN: &str = "proven";
/// What this host itself sends: asked behind the questions that only Ethernet has.
const OWN: &str = "own";

/// Packets that the kernel sends without a socket, in a second: a few resets and the ends of connections.
const WITHOUT_SOCKET: u32 = 100;

/// Frames in a second that a DHCP client or server writes by itself. A client broadcasts them.
const DHCP_CLIENT: u32 = 10;
const DHCP_SERVER: u32 = 50;

pub(super) fn names(gate: &Gate) -> Vec<&'static str> {
    let proven = gate.proof_on_devices().map(|_| PROVEN);
    [INGRESS, EGRESS, OWN].into_iter().chain(frames::CHAINS).chain(proven).collect()
}

/// Base chains, one for each device and direction: a chain for all of them could not get a new device without being made anew.
///
/// The name says index and name of the device, so that a device that took another's name or was renamed gets chains of its own.
pub(super) fn chains(gate: &Gate, netdev: &Netdev) -> Vec<(Chain<'static>, &'static str)> {
    let directions = [(NfHook::Ingress, "in", INGRESS), (NfHook::Egress, "out", EGRESS)];
    let directions = &directions[..if netdev.egress { 2 } else { 1 }];
    let packets = if gate.proof_on_devices().is_some() { PROVEN } else { OWN };
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
            // A device without Ethernet addresses carries IP packets alone.
            let target = if *target == EGRESS && !is_ethernet { packets } else { *target };
            (chain, target)
        })
    };
    netdev.devices.iter().flat_map(of).collect()
}

pub(super) fn rules(gate: &Gate, netdev: &Netdev, present: &BTreeSet<&str>) -> Vec<(&'static str, Vec<Statement<'static>>)> {
    let mut rules = Vec::new();
    let macs: BTreeSet<[u8; 6]> = netdev.devices.iter().filter_map(|device| device.address).collect();
    let macs = || macs.iter().copied();
    // What came in by one device and leaves by another without being routed was bridged: a frame that this host makes is addressed to nobody.
    let bridged = Match { left: meta(MetaKey::Pkttype), right: text("host"), op: Operator::NEQ };
    rules.push((EGRESS, vec![Statement::Match(bridged), count(), drop()]));
    let of_ip = || is_one_of(meta(MetaKey::Protocol), ["ip", "ip6"].map(text));
    match gate.proof_on_devices() {
        Some(proof) => {
            rules.push((EGRESS, vec![of_ip(), jump(PROVEN)]));
            rules.extend(proven(proof, present).into_iter().map(|statements| (PROVEN, statements)));
        }
        // The address is the sender's own choice; nothing better is known here.
        None => rules
            .extend(macs().map(frames::source_address).map(|(upper, lower)| (EGRESS, vec![of_ip(), upper, lower, jump(OWN)]))),
    }
    rules.extend(frames::leaving(macs()));
    rules.push((EGRESS, vec![count(), drop()]));
    rules.extend(frames::arriving(macs()));
    for (chain, peer, own) in [(INGRESS, "saddr", "daddr"), (OWN, "daddr", "saddr")] {
        let (peer_port, own_port) = if peer == "saddr" { ("sport", "dport") } else { ("dport", "sport") };
        let leaves = chain == OWN;
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
            // Where the inet table marks what it has let out, it has asked that.
            if gate.proof_on_devices().is_none() {
                rules.push((chain, few_of_processes(neighbours_out())));
            }
            rules.push((chain, and(neighbours_out(), accept())));
            rules.push((chain, and(and(memberships_out(), limit()), accept())));
        } else {
            // The inet table asks whether they belong to a connection that passes.
            let too_big = equals(field("icmp", "code"), text("frag-needed"));
            rules.push((chain, vec![equals(field("icmp", "type"), text("destination-unreachable")), too_big, accept()]));
            rules.push((chain, vec![equals(field("icmpv6", "type"), text("packet-too-big")), accept()]));
            rules.extend(link_in().map(|kind| (chain, and(kind, accept()))));
        }
        rules.push((chain, vec![count(), drop()]));
    }
    rules
}

/// Packets that the inet table has let out carry the proof. Then the sets are asked, as far as a device can.
///
/// Another namespace may try all marks, and has no socket of this one: what comes without a socket may try a few in a second.
fn proven(proof: Proof, present: &BTreeSet<&str>) -> Vec<Vec<Statement<'static>>> {
    // Not a number of a control group: the question is whether there is a socket of this namespace.
    let with_socket =
        || Statement::Match(Match { left: meta(MetaKey::Cgroup), right: Expression::Number(u32::MAX), op: Operator::NEQ });
    let mut rules = Vec::new();
    // DHCP clients and servers write frames themselves while a client has no address.
    for (_, set) in of(present, OUT).filter(|(ip, _)| *ip == "ip") {
        for (from, to, rate) in [(68, 67, DHCP_CLIENT), (67, 68, DHCP_SERVER)] {
            let ports = [("sport", from), ("dport", to)].map(|(name, port)| equals(field("udp", name), Expression::Number(port)));
            let mut rule = vec![secmark::is_unset(), with_socket()];
            rule.extend(ports);
            let key = concat([meta(MetaKey::L4proto), field("ip", "daddr"), field("udp", "dport"), field("udp", "sport")]);
            rule.extend([member(key, set), limit_to(rate), count(), accept()]);
            rules.push(rule);
        }
    }
    rules.push(vec![with_socket(), secmark::proves(proof), jump(OWN)]);
    rules.push(vec![secmark::is_set(), limit_to(WITHOUT_SOCKET), secmark::proves(proof), jump(OWN)]);
    rules.push(vec![count(), drop()]);
    rules
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
