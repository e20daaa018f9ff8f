//! The ruleset of an isolated host, as one nftables transaction: rules are the same for every gate, sets hold what differs.

mod bound;
mod many;
mod netdev;
mod sets;
mod terms;

use std::collections::BTreeSet;

use nftables::batch::Batch;
use nftables::expr::{Expression, MetaKey};
use nftables::schema::{Chain, Element, FlushObject, NfCmd, NfListObject, Nftables, Rule, Set, SetFlag, SetTypeValue, Table};
use nftables::stmt::Statement;
use nftables::types::{NfFamily, NfHook};

use crate::gate::{ControlGroup, Gate};
use crate::verify::Strays;
use sets::{CONTROL, ICMP_IN, ICMP_OUT, IN, OUT, RESOLVER, STANDING, SetOf};
use terms::{
    accept, base_chain, concat, count, ct, drop, equals, field, is_one_of, jump, limit, member, meta, reject_icmp, reject_tcp,
    return_, rule, text,
};

pub(crate) use sets::inet as inet_sets;

/// The name of the tables that we own, the only ones that we ever touch: one of the family inet, one of the family netdev.
pub const TABLE: &str = "portcullis";

/// What is only asked has another name: ours may stand, with an owner and other flags.
const PROBE: &str = "portcullis-probe";

const NETDEV: NfFamily = NfFamily::NetDev;

/// After conntrack and defragmentation (-200 and -400), before everybody's mangle, nat and filter.
const PRIORITY: i32 = -190;

/// Between a nat output chain (-100), which may have turned an allowed destination into another one, and source nat (100),
/// after which local ports are no longer those of the exclusions.
const AFTER_DESTINATION_NAT: i32 = 90;

/// Makes `gate` the rules of this host, whatever of our table stands now: nothing, another gate, a dormant or weakened one.
///
/// Base chains are never deleted, and what is refilled is flushed in the same transaction: there is no moment without them.
pub fn render(gate: &Gate) -> Nftables<'static> {
    rendered(gate, true)
}

/// What [`prepare`] leaves to be done: chains and rules, all in one transaction.
pub fn finish(gate: &Gate) -> Nftables<'static> {
    rendered(gate, false)
}

fn rendered(gate: &Gate, with_sets: bool) -> Nftables<'static> {
    let mut batch = Batch::new();
    let chains = [
        base_chain("input", NfHook::Input, PRIORITY),
        base_chain("forward", NfHook::Forward, PRIORITY),
        base_chain("output", NfHook::Output, PRIORITY),
        base_chain("postrouting", NfHook::Postrouting, AFTER_DESTINATION_NAT),
        terms::chain(NfFamily::INet, LEAVING),
    ];
    let sets = sets::inet(gate);
    let rules = rules(gate, &names(&sets)).into_iter().map(|(chain, statements)| rule(NfFamily::INet, chain, statements));
    let rules = rules.collect();
    fill(&mut batch, NfFamily::INet, chains.into(), if with_sets { sets } else { Vec::new() }, rules);
    if let Some(layer) = &gate.netdev {
        let bases = netdev::chains(layer);
        let sets = sets::netdev(gate);
        let mut rules: Vec<_> = netdev::rules(gate, layer, &names(&sets))
            .into_iter()
            .map(|(chain, statements)| rule(NETDEV, chain, statements))
            .collect();
        rules.extend(bases.iter().map(|(base, target)| rule(NETDEV, base.name.clone(), vec![jump(target)])));
        let common = [netdev::INGRESS, netdev::EGRESS, netdev::OWN].map(|name| terms::chain(NETDEV, name));
        let chains = common.into_iter().chain(bases.into_iter().map(|(chain, _)| chain)).collect();
        fill(&mut batch, NETDEV, chains, if with_sets { sets } else { Vec::new() }, rules);
    }
    batch.to_nftables()
}

/// The tables with their sets alone, to be made before the rules ([`finish`]) where none stands. The kernel shows the elements of a new interval set to
/// packets a moment after it shows the rules of the same transaction (pipapo's own commit comes last in nf_tables_commit): in that moment
/// what is excluded would be refused. Nothing is asked here yet, so nothing changes for packets.
pub fn prepare(gate: &Gate) -> Nftables<'static> {
    let mut batch = Batch::new();
    let netdev = gate.netdev.as_ref().map(|_| (NETDEV, sets::netdev(gate)));
    for (family, sets) in [(NfFamily::INet, sets::inet(gate))].into_iter().chain(netdev) {
        batch.add(NfListObject::Table(table(family)));
        for set in sets {
            batch.add(NfListObject::Set(Box::new(declared(family, &set))));
            add_elements(&mut batch, family, set);
        }
    }
    batch.to_nftables()
}

/// The same where the kernel refuses [`render`], since what stands under our names is of another kind: a chain on another hook or device, a set of
/// other keys. The tables are made anew. Between the old and the new one frames may pass, so this is for what somebody has broken only.
pub fn render_anew(gate: &Gate) -> Nftables<'static> {
    let families: &[NfFamily] = if gate.netdev.is_some() { &[NfFamily::INet, NETDEV] } else { &[NfFamily::INet] };
    let objects = open(families).objects.iter().chain(render(gate).objects.iter()).cloned().collect();
    Nftables { objects }
}

/// Closes first and changes then: the policies of the base chains drop, whatever the transaction does in between.
fn fill(batch: &mut Batch<'static>, family: NfFamily, chains: Vec<Chain<'static>>, sets: Vec<SetOf>, rules: Vec<Rule<'static>>) {
    batch.add(NfListObject::Table(table(family)));
    for chain in chains {
        batch.add(NfListObject::Chain(chain));
    }
    for set in &sets {
        batch.add(NfListObject::Set(Box::new(declared(family, set))));
    }
    batch.add_cmd(NfCmd::Flush(FlushObject::Table(table(family))));
    for set in sets {
        batch.add_cmd(NfCmd::Flush(FlushObject::Set(Box::new(declared(family, &set)))));
        add_elements(batch, family, set);
    }
    for rule in rules {
        batch.add(NfListObject::Rule(rule));
    }
}

fn add_elements(batch: &mut Batch<'static>, family: NfFamily, set: SetOf) {
    if !set.elements.is_empty() {
        let elem = set.rendered().into();
        batch.add(NfListObject::Element(Element { family, table: TABLE.into(), name: set.name.into(), elem }));
    }
}

/// Asks whether the kernel has a hook on devices; to be checked, never applied.
pub fn probe(hook: NfHook) -> Nftables<'static> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(Table { family: NETDEV, name: PROBE.into(), handle: None }));
    batch.add(NfListObject::Chain(Chain { table: PROBE.into(), ..netdev::probe(hook) }));
    batch.to_nftables()
}

/// Asks whether rules can be about the control group of a socket; to be checked, never applied.
pub fn group_probe() -> Nftables<'static> {
    let mut batch = Batch::new();
    let group = ControlGroup { path: String::new(), id: 1, below: Vec::new() };
    batch.add(NfListObject::Table(Table { family: NfFamily::INet, name: PROBE.into(), handle: None }));
    batch.add(NfListObject::Chain(Chain { table: PROBE.into(), ..base_chain("output", NfHook::Output, PRIORITY) }));
    let asked = rule(NfFamily::INet, "output", vec![terms::group(&group), accept()]);
    batch.add(NfListObject::Rule(Rule { table: PROBE.into(), ..asked }));
    batch.to_nftables()
}

/// Asks whether the kernel takes a table's flags; to be checked, never applied.
pub fn lock_probe() -> Nftables<'static> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(Table { family: NfFamily::INet, name: PROBE.into(), handle: None }));
    batch.to_nftables()
}

/// Takes all of it away, in the families that this kernel has; no error if there is nothing.
pub fn open(families: &[NfFamily]) -> Nftables<'static> {
    let mut batch = Batch::new();
    for family in families {
        batch.add(NfListObject::Table(table(*family)));
        batch.delete(NfListObject::Table(table(*family)));
    }
    batch.to_nftables()
}

/// Takes away what stands in our tables and no gate has any more.
pub fn without(strays: &Strays) -> Nftables<'static> {
    let mut batch = Batch::new();
    let chain = |(family, name): &(NfFamily, String)| terms::chain(*family, name.clone());
    for stray in &strays.chains {
        batch.add_cmd(NfCmd::Flush(FlushObject::Chain(chain(stray))));
    }
    for stray in &strays.chains {
        batch.delete(NfListObject::Chain(chain(stray)));
    }
    for (family, name) in &strays.sets {
        let set = Set { family: *family, table: TABLE.into(), name: name.clone().into(), ..Set::default() };
        batch.delete(NfListObject::Set(Box::new(set)));
    }
    batch.to_nftables()
}

/// What leaves the host to be asked twice, before and after other tables may have changed the destination.
const LEAVING: &str = "leaving";

fn names(sets: &[SetOf]) -> BTreeSet<&str> {
    sets.iter().map(|set| set.name.as_str()).collect()
}

fn rules(gate: &Gate, present: &BTreeSet<&str>) -> Vec<(&'static str, Vec<Statement<'static>>)> {
    let mut rules = vec![("input", vec![equals(meta(MetaKey::Iif), text("lo")), accept()])];
    rules.extend(arriving(gate, present).into_iter().map(|statements| ("input", statements)));
    rules.push(("input", vec![count(), drop()]));
    rules.push(("forward", vec![count(), drop()]));
    rules.extend(leaving(gate, present).into_iter().map(|statements| (LEAVING, statements)));
    for chain in ["output", "postrouting"] {
        rules.push((chain, vec![equals(meta(MetaKey::Oif), text("lo")), accept()]));
        rules.push((chain, vec![jump(LEAVING)]));
        let bound = if chain == "output" { bound::leaving(gate) } else { bound::after_nat(gate) };
        rules.extend(bound.into_iter().map(|statements| (chain, statements)));
        // A limit counts each packet that it sees, so it stands in one of the two chains only.
        let limited = chain == "output";
        rules.push((chain, link(255, &["nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert"], limited)));
        rules.push((chain, link(1, &["mld-listener-report", "mld-listener-done", "mld2-listener-report"], limited)));
    }
    rules.push(("output", vec![equals(meta(MetaKey::L4proto), Expression::Number(6)), count(), reject_tcp()]));
    rules.push(("output", vec![count(), reject_icmp()]));
    rules.push(("postrouting", vec![count(), drop()]));
    rules
}

fn arriving(gate: &Gate, present: &BTreeSet<&str>) -> Vec<Vec<Statement<'static>>> {
    let mut rules = Vec::new();
    // Direction and tuple are both asked of the packet itself: the set says with whom and on which ports, conntrack only who
    // opened it. So a peer that may be called cannot call, whatever source port it takes.
    for (direction, ports, icmp) in [("original", IN, ICMP_IN), ("reply", OUT, ICMP_OUT)] {
        for (ip, set) in IP.into_iter().zip(ports) {
            rules.push(vec![equals(ct("direction"), text(direction)), member(arriving_key(ip), set), count(), accept()]);
        }
        for (ip, set) in IP.into_iter().zip(icmp).filter(|(_, set)| present.contains(set)) {
            rules.push(vec![equals(ct("direction"), text(direction)), member(icmp_key(ip, "saddr"), set), count(), accept()]);
        }
    }
    rules.extend(many::arriving(present));
    rules.extend(bound::arriving(gate));
    for (ip, set) in IP.into_iter().zip(RESOLVER) {
        let key = concat([field(ip, "saddr"), field("udp", "sport")]);
        rules.push(vec![equals(ct("direction"), text("reply")), member(key, set), count(), accept()]);
    }
    // What passes from here on stood before, or was opened by the host: the first packet of a connection is neither.
    rules.push(vec![terms::tcp_syn(), count(), drop()]);
    for (ip, set) in IP.into_iter().zip(CONTROL) {
        rules.push(vec![member(concat([field(ip, "saddr"), field("tcp", "sport")]), set), count(), accept()]);
    }
    for (ip, set) in IP.into_iter().zip(STANDING) {
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
        for (ip, set) in IP.into_iter().zip(sets) {
            let agent = equals(meta(MetaKey::Skuid), Expression::Number(gate.agent_uid));
            rules.push(vec![agent, member(concat([field(ip, "daddr"), field(transport, "dport")]), set), count(), accept()]);
        }
    }
    for (direction, ports, icmp) in [("original", OUT, ICMP_OUT), ("reply", IN, ICMP_IN)] {
        for (ip, set) in IP.into_iter().zip(ports) {
            rules.push(vec![equals(ct("direction"), text(direction)), member(leaving_key(ip), set), count(), accept()]);
        }
        for (ip, set) in IP.into_iter().zip(icmp).filter(|(_, set)| present.contains(set)) {
            rules.push(vec![equals(ct("direction"), text(direction)), member(icmp_key(ip, "daddr"), set), count(), accept()]);
        }
    }
    rules.extend(many::leaving(present));
    rules.push(vec![terms::tcp_syn(), return_()]);
    for (ip, set) in IP.into_iter().zip(STANDING) {
        let key = [meta(MetaKey::L4proto), field(ip, "saddr"), field("th", "sport"), field(ip, "daddr"), field("th", "dport")];
        rules.push(vec![member(concat(key), set), count(), accept()]);
    }
    rules
}

/// ICMPv6 that belongs to the link: its hop limit shows that no router has passed it on.
fn link(hop_limit: u32, types: &'static [&'static str], limited: bool) -> Vec<Statement<'static>> {
    let mut statements = vec![
        equals(field("ip6", "hoplimit"), Expression::Number(hop_limit)),
        match types {
            [one] => equals(field("icmpv6", "type"), text(one)),
            types => is_one_of(field("icmpv6", "type"), types),
        },
    ];
    statements.extend(limited.then(limit));
    statements.push(accept());
    statements
}

const IP: [&str; 2] = ["ip", "ip6"];

/// The key of the exclusion sets, of a packet that comes from the other side.
fn arriving_key(ip: &'static str) -> Expression<'static> {
    concat([meta(MetaKey::L4proto), field(ip, "saddr"), field("th", "sport"), field("th", "dport")])
}

/// The same of a packet that goes there.
fn leaving_key(ip: &'static str) -> Expression<'static> {
    concat([meta(MetaKey::L4proto), field(ip, "daddr"), field("th", "dport"), field("th", "sport")])
}

/// Where TCP has its source port, ICMP has type and code. Protocol and remote are asked with them, so that no other packet is taken for one.
fn icmp_key(ip: &'static str, remote: &'static str) -> Expression<'static> {
    concat([meta(MetaKey::L4proto), field(ip, remote), field("th", "sport")])
}

fn table(family: NfFamily) -> Table<'static> {
    Table { family, name: TABLE.into(), handle: None }
}

fn declared(family: NfFamily, set: &SetOf) -> Set<'static> {
    Set {
        family,
        table: TABLE.into(),
        name: set.name.clone().into(),
        set_type: SetTypeValue::Concatenated(set.types.clone().into()),
        flags: set.is_interval.then(|| [SetFlag::Interval].into()),
        ..Set::default()
    }
}
