//! The first layer: what this host's own stack receives, sends and forwards, with the connections that conntrack knows.
//!
//! The base chains hold nothing but the way to the chains that decide, so that those can be made before any packet is asked.

use std::collections::BTreeSet;

use nftables::expr::{Expression, MetaKey};
use nftables::schema::Chain;
use nftables::stmt::Statement;
use nftables::types::NfHook;

use super::keys::{arriving_key, icmp_key, leaving_key, of};
use super::sets::{CONTROL, ICMP_IN, ICMP_OUT, IN, OUT, RESOLVER, STANDING};
use super::terms::{
    self, accept, base_chain, concat, count, ct, drop, equals, field, jump, limit, link, member, meta, reject_icmp, reject_tcp,
    return_, text,
};
use super::{bound, many};
use crate::gate::Gate;

/// After conntrack and defragmentation (-200 and -400), before everybody's mangle, nat and filter.
pub(super) const PRIORITY: i32 = -190;

/// Between a nat output chain (-100), which may have turned an allowed destination into another one, and source nat (100),
/// after which local ports are no longer those of the exclusions.
const AFTER_DESTINATION_NAT: i32 = 90;

const ARRIVING: &str = "arriving";
const SENDING: &str = "sending";
/// What was sent, asked again when other tables may have changed the destination.
const SENT: &str = "sent";
/// What both of them ask.
const LEAVING: &str = "leaving";
pub(super) const CHAINS: [&str; 4] = [ARRIVING, LEAVING, SENDING, SENT];

pub(super) fn bases() -> Vec<Chain<'static>> {
    vec![
        base_chain("input", NfHook::Input, PRIORITY),
        base_chain("forward", NfHook::Forward, PRIORITY),
        base_chain("output", NfHook::Output, PRIORITY),
        base_chain("postrouting", NfHook::Postrouting, AFTER_DESTINATION_NAT),
    ]
}

pub(super) fn rules(gate: &Gate, present: &BTreeSet<&str>) -> Vec<(&'static str, Vec<Statement<'static>>)> {
    let mut rules = vec![
        ("input", vec![jump(ARRIVING)]),
        ("forward", vec![count(), drop()]),
        ("output", vec![jump(SENDING)]),
        ("postrouting", vec![jump(SENT)]),
        (ARRIVING, vec![equals(meta(MetaKey::Iif), text("lo")), accept()]),
    ];
    rules.extend(arriving(present).into_iter().map(|statements| (ARRIVING, statements)));
    rules.push((ARRIVING, vec![count(), drop()]));
    rules.extend(leaving(gate, present).into_iter().map(|statements| (LEAVING, statements)));
    for chain in [SENDING, SENT] {
        rules.push((chain, vec![equals(meta(MetaKey::Oif), text("lo")), accept()]));
        rules.push((chain, vec![jump(LEAVING)]));
        let bound = if chain == SENDING { bound::leaving(gate, present) } else { bound::after_nat(present) };
        rules.extend(bound.into_iter().map(|statements| (chain, statements)));
        // A limit counts each packet that it sees, so it stands in one of the two chains only.
        let limited = chain == SENDING;
        rules.push((chain, link(255, &["nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert"], limited)));
        rules.push((chain, link(1, &["mld-listener-report", "mld-listener-done", "mld2-listener-report"], limited)));
    }
    rules.push((SENDING, vec![equals(meta(MetaKey::L4proto), Expression::Number(6)), count(), reject_tcp()]));
    rules.push((SENDING, vec![count(), reject_icmp()]));
    rules.push((SENT, vec![count(), drop()]));
    rules
}

fn arriving(present: &BTreeSet<&str>) -> Vec<Vec<Statement<'static>>> {
    let mut rules = Vec::new();
    // Direction and tuple are both asked of the packet itself: the set says with whom and on which ports, conntrack only who
    // opened it. So a peer that may be called cannot call, whatever source port it takes.
    for (direction, ports, icmp) in [("original", IN, ICMP_IN), ("reply", OUT, ICMP_OUT)] {
        for (ip, set) in of(present, ports) {
            rules.push(vec![equals(ct("direction"), text(direction)), member(arriving_key(ip), set), count(), accept()]);
        }
        for (ip, set) in of(present, icmp) {
            rules.push(vec![equals(ct("direction"), text(direction)), member(icmp_key(ip, "saddr"), set), count(), accept()]);
        }
    }
    rules.extend(many::arriving(present));
    rules.extend(bound::arriving(present));
    for (ip, set) in of(present, RESOLVER) {
        let key = concat([field(ip, "saddr"), field("udp", "sport")]);
        rules.push(vec![equals(ct("direction"), text("reply")), member(key, set), count(), accept()]);
    }
    // What passes from here on stood before, or was opened by the host: the first packet of a connection is neither.
    rules.push(vec![terms::tcp_syn(), count(), drop()]);
    for (ip, set) in of(present, CONTROL) {
        rules.push(vec![member(concat([field(ip, "saddr"), field("tcp", "sport")]), set), count(), accept()]);
    }
    for (ip, set) in of(present, STANDING) {
        let key = [meta(MetaKey::L4proto), field(ip, "daddr"), field("th", "dport"), field(ip, "saddr"), field("th", "sport")];
        rules.push(vec![member(concat(key), set), count(), accept()]);
    }
    // Related to a connection that conntrack knows; those that do not pass are deleted from it, and get no new entry.
    rules.push(vec![
        terms::ct_related(),
        equals(field("icmp", "type"), text("destination-unreachable")),
        equals(field("icmp", "code"), text("frag-needed")),
        limit(),
        accept(),
    ]);
    rules.push(vec![terms::ct_related(), equals(field("icmpv6", "type"), text("packet-too-big")), limit(), accept()]);
    rules.push(link(255, &["nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"], true));
    rules.push(link(1, &["mld-listener-query"], true));
    rules
}

fn leaving(gate: &Gate, present: &BTreeSet<&str>) -> Vec<Vec<Statement<'static>>> {
    let mut rules = Vec::new();
    for (sets, transport) in [(CONTROL, "tcp"), (RESOLVER, "udp")] {
        for (ip, set) in of(present, sets) {
            let agent = equals(meta(MetaKey::Skuid), Expression::Number(gate.agent_uid));
            rules.push(vec![agent, member(concat([field(ip, "daddr"), field(transport, "dport")]), set), count(), accept()]);
        }
    }
    for (direction, ports, icmp) in [("original", OUT, ICMP_OUT), ("reply", IN, ICMP_IN)] {
        for (ip, set) in of(present, ports) {
            rules.push(vec![equals(ct("direction"), text(direction)), member(leaving_key(ip), set), count(), accept()]);
        }
        for (ip, set) in of(present, icmp) {
            rules.push(vec![equals(ct("direction"), text(direction)), member(icmp_key(ip, "daddr"), set), count(), accept()]);
        }
    }
    rules.extend(many::leaving(present));
    rules.push(vec![terms::tcp_syn(), return_()]);
    for (ip, set) in of(present, STANDING) {
        let key = [meta(MetaKey::L4proto), field(ip, "saddr"), field("th", "sport"), field(ip, "daddr"), field("th", "dport")];
        rules.push(vec![member(concat(key), set), count(), accept()]);
    }
    rules
}
