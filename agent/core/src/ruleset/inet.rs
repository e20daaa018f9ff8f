//! The first layer: what this host's own stack receives, sends and forwards, with the connections that conntrack knows.
//!
//! The base chains hold nothing but the way to the chains that decide, so that those can be made before any packet is asked.

use std::collections::BTreeSet;

use nftables::expr::{Expression, MetaKey};
use nftables::schema::Chain;
use nftables::stmt::Statement;
use nftables::types::NfHook;
use portcullis_schemas::exclusion::Direction;

use super::direction::{self, Chains};
use super::keys::of;
use super::sets::{CONTROL, RESOLVER, STANDING};
use super::terms::{
    self, accept, and, base_chain, concat, count, drop, equals, few_of_processes, field, jump, limit, member, meta, reject_icmp,
    reject_tcp, return_, text,
};
use super::{bound, secmark};
use crate::gate::Gate;

/// After conntrack and defragmentation (-200 and -400), before everybody's mangle, nat and filter.
pub(super) const PRIORITY: i32 = -190;

/// Between a nat output chain (-100), which may have turned an allowed destination into another one, and source nat (100),
/// after which local ports are no longer those of the exclusions.
const AFTER_DESTINATION_NAT: i32 = 90;

/// Behind everybody's nat and the security modules, which read the mark that is set here.
const LAST: i32 = 300;

/// Behind which all has passed, and is marked for the devices.
const PASSED: &str = "passed";
const MARKING: &str = "marking";
const ARRIVING: &str = "arriving";
const SENDING: &str = "sending";
/// What was sent, asked again when other tables may have changed the destination.
const SENT: &str = "sent";
/// What both of them ask.
const LEAVING: &str = "leaving";
const OF_ARRIVING: Chains =
    Chains { asking: ARRIVING, original: "arriving-original", reply: "arriving-reply", untracked: "arriving-untracked" };
const OF_SENDING: Chains =
    Chains { asking: SENDING, original: "sending-original", reply: "sending-reply", untracked: "sending-untracked" };
const OF_SENT: Chains = Chains { asking: SENT, original: "sent-original", reply: "sent-reply", untracked: "sent-untracked" };

pub(super) fn names(gate: &Gate) -> Vec<&'static str> {
    let of = |Chains { asking, original, reply, untracked }| [asking, original, reply, untracked];
    let asking = [OF_ARRIVING, OF_SENDING, OF_SENT].into_iter().flat_map(of);
    [LEAVING].into_iter().chain(asking).chain(gate.proof_on_devices().map(|_| MARKING)).collect()
}

pub(super) fn bases(gate: &Gate) -> Vec<Chain<'static>> {
    let mut bases = vec![
        base_chain("input", NfHook::Input, PRIORITY),
        base_chain("forward", NfHook::Forward, PRIORITY),
        base_chain("output", NfHook::Output, PRIORITY),
        base_chain("postrouting", NfHook::Postrouting, AFTER_DESTINATION_NAT),
    ];
    bases.extend(gate.proof_on_devices().map(|_| base_chain(PASSED, NfHook::Postrouting, LAST)));
    bases
}

pub(super) fn rules(gate: &Gate, present: &BTreeSet<&str>) -> Vec<(&'static str, Vec<Statement<'static>>)> {
    let mut rules = vec![
        ("input", vec![jump(ARRIVING)]),
        ("forward", vec![count(), drop()]),
        ("output", vec![jump(SENDING)]),
        ("postrouting", vec![jump(SENT)]),
        (ARRIVING, vec![equals(meta(MetaKey::Iif), text("lo")), accept()]),
    ];
    arriving(present, &mut rules);
    rules.push((ARRIVING, vec![count(), drop()]));
    rules.extend(leaving(gate, present).into_iter().map(|statements| (LEAVING, statements)));
    for chains in [OF_SENDING, OF_SENT] {
        let chain = chains.asking;
        rules.push((chain, vec![equals(meta(MetaKey::Oif), text("lo")), accept()]));
        rules.push((chain, vec![jump(LEAVING)]));
        rules.extend(direction::split(chains, true, |direction| {
            let bound = match chain {
                SENDING => bound::each(gate, present, direction),
                _ => bound::together(present, direction, true),
            };
            [direction::for_anybody(present, direction, true), bound].concat()
        }));
        // A limit counts each packet that it sees, so it stands in one of the two chains only.
        if chain == SENDING {
            rules.push((chain, few_of_processes(terms::neighbours_out())));
        }
        rules.push((chain, and(terms::neighbours_out(), accept())));
        let mut memberships = terms::memberships_out();
        memberships.extend((chain == SENDING).then(limit));
        rules.push((chain, and(memberships, accept())));
    }
    rules.push((SENDING, vec![equals(meta(MetaKey::L4proto), Expression::Number(6)), count(), reject_tcp()]));
    rules.push((SENDING, vec![count(), reject_icmp()]));
    rules.push((SENT, vec![count(), drop()]));
    if let Some(proof) = gate.proof_on_devices() {
        rules.push((PASSED, vec![jump(MARKING)]));
        rules.push((MARKING, vec![equals(meta(MetaKey::Oif), text("lo")), accept()]));
        rules.push((MARKING, vec![secmark::set(proof), accept()]));
    }
    rules
}

fn arriving(present: &BTreeSet<&str>, all: &mut Vec<(&'static str, Vec<Statement<'static>>)>) {
    all.extend(direction::split(OF_ARRIVING, false, |direction| {
        // Nothing that arrives says for whom.
        let mut rules = [direction::for_anybody(present, direction, false), bound::together(present, direction, false)].concat();
        // Only the agent may have asked a name server.
        let answers = of(present, RESOLVER).filter(|_| direction == Direction::Out);
        rules.extend(answers.map(|(ip, set)| {
            let key = concat([field(ip, "saddr"), field("udp", "sport")]);
            vec![member(key, set), count(), accept()]
        }));
        rules
    }));
    let mut rules = Vec::new();
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
        terms::ct_is("related"),
        equals(field("icmp", "type"), text("destination-unreachable")),
        equals(field("icmp", "code"), text("frag-needed")),
        accept(),
    ]);
    rules.push(vec![terms::ct_is("related"), equals(field("icmpv6", "type"), text("packet-too-big")), accept()]);
    rules.extend(terms::link_in().map(|kind| and(kind, accept())));
    all.extend(rules.into_iter().map(|statements| (ARRIVING, statements)));
}

fn leaving(gate: &Gate, present: &BTreeSet<&str>) -> Vec<Vec<Statement<'static>>> {
    let mut rules = Vec::new();
    for (sets, transport) in [(CONTROL, "tcp"), (RESOLVER, "udp")] {
        for (ip, set) in of(present, sets) {
            let agent = equals(meta(MetaKey::Skuid), Expression::Number(gate.agent_uid));
            rules.push(vec![agent, member(concat([field(ip, "daddr"), field(transport, "dport")]), set), count(), accept()]);
        }
    }
    rules.push(vec![terms::tcp_syn(), return_()]);
    for (ip, set) in of(present, STANDING) {
        let key = [meta(MetaKey::L4proto), field(ip, "saddr"), field("th", "sport"), field(ip, "daddr"), field("th", "dport")];
        rules.push(vec![member(concat(key), set), count(), accept()]);
    }
    rules
}
