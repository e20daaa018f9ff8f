//! The second layer: what a device carries, before and after everything that the inet table sees. It stops what never becomes a packet of
//! this host's own stack: frames of raw sockets, of other namespaces' macvlan devices, of a bridge.
//!
//! There is no conntrack here, so exclusions pass by address, protocol and port alone; who opened a connection, and for whom, is asked in the inet
//! table, whose mark packets have to carry on the way out.

use std::collections::BTreeSet;

use nftables::expr::{BinaryOperation, Expression, MetaKey};
use nftables::schema::{Chain, Rule};
use nftables::stmt::{Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfHook};

use super::keys::{arriving_key, icmp_key, leaving_key, of};
use super::sets::{BOUND_IN, BOUND_OUT, CONTROL, FRAGMENTS, ICMP_IN, ICMP_OUT, IN, OUT, RESOLVER, STANDING};
use super::terms::{
    accept, and, concat, count, drop, equals, few_of_processes, field, is_one_of, jump, limit, limit_to, link_in, member,
    memberships_out, meta, neighbours_out, rule, text,
};
use super::{EGRESS, EVERY_DEVICE, INGRESS, NETDEV, frames, many, secmark};
use crate::gate::{Device, Gate, Netdev, Proof};

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

/// Base chains, each with what it leads to. What leaves is stopped first: of many devices, each takes its time.
///
/// Where the kernel has no chain for every device, each has one for each direction: a chain for a list of them could not get a new one on every
/// kernel without being made again. Its name has index and name of the device, so that a device that took another's name or was renamed gets chains
/// of its own.
pub(super) fn chains(netdev: &Netdev, devices: &[Device]) -> Vec<(Chain<'static>, Rule<'static>)> {
    let directions = [(NfHook::Egress, "out", EGRESS), (NfHook::Ingress, "in", INGRESS)];
    let directions = &directions[if netdev.egress { 0 } else { 1 }..];
    let base = |hook: NfHook, name: String, device: String, target| {
        let chain = Chain {
            _type: Some(NfChainType::Filter),
            hook: Some(hook),
            prio: Some(0),
            policy: Some(NfChainPolicy::Drop),
            dev: Some(device.into()),
            ..super::terms::chain(NETDEV, name.clone())
        };
        (chain, rule(NETDEV, name, vec![jump(target)]))
    };
    let every = |(hook, prefix, target): &(NfHook, &str, _)| base(*hook, prefix.to_string(), EVERY_DEVICE.to_owned(), *target);
    let each = |(hook, prefix, target): &(NfHook, &'static str, &'static str)| {
        let (hook, prefix, target) = (*hook, *prefix, *target);
        devices
            .iter()
            .map(move |device| base(hook, format!("{prefix}-{}-{}", device.index, device.name), device.name.clone(), target))
    };
    match netdev.every_device {
        true => directions.iter().map(every).collect(),
        false => directions.iter().flat_map(each).collect(),
    }
}

pub(super) fn rules(gate: &Gate, netdev: &Netdev, present: &BTreeSet<&str>) -> Vec<(&'static str, Vec<Statement<'static>>)> {
    let mut rules = Vec::new();
    let macs: BTreeSet<[u8; 6]> = netdev.devices.iter().filter_map(|device| device.address).collect();
    if netdev.every_device {
        // What stays within the host is no matter of this layer.
        rules.push((EGRESS, vec![equals(meta(MetaKey::Oif), text("lo")), accept()]));
        rules.push((INGRESS, vec![equals(meta(MetaKey::Iif), text("lo")), accept()]));
    }
    // What came in by one device and leaves by another without being routed was bridged: a frame that this host makes is addressed to nobody.
    let bridged = Match { left: meta(MetaKey::Pkttype), right: text("host"), op: Operator::NEQ };
    rules.push((EGRESS, vec![Statement::Match(bridged), count(), drop()]));
    // A device without Ethernet addresses carries IP packets alone.
    let without_addresses = Match { left: meta(MetaKey::Oiftype), right: text("ether"), op: Operator::NEQ };
    let packets = if gate.proof_on_devices().is_some() { PROVEN } else { OWN };
    rules.push((EGRESS, vec![Statement::Match(without_addresses), jump(packets)]));
    let of_ip = || is_one_of(meta(MetaKey::Protocol), ["ip", "ip6"].map(text));
    match gate.proof_on_devices() {
        Some(proof) => {
            rules.push((EGRESS, vec![of_ip(), jump(PROVEN)]));
            rules.extend(proven(proof, present).into_iter().map(|statements| (PROVEN, statements)));
        }
        // The address is the sender's own choice; nothing better is known here.
        None => rules.extend(frames::sender_is(&macs).map(|sender| (EGRESS, vec![of_ip(), sender, jump(OWN)]))),
    }
    rules.extend(frames::leaving(&macs));
    rules.push((EGRESS, vec![count(), drop()]));
    rules.extend(frames::arriving(&macs));
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
