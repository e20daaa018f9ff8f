//! The ruleset of an isolated host, as one nftables transaction: rules are the same for every gate, sets hold what differs.

mod netdev;
mod terms;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nftables::batch::Batch;
use nftables::expr::{Expression, MetaKey};
use nftables::schema::{
    Chain, Element, FlushObject, NfCmd, NfListObject, Nftables, Rule, Set, SetFlag, SetType, SetTypeValue, Table,
};
use nftables::stmt::Statement;
use nftables::types::{NfFamily, NfHook};
use portcullis_schemas::exclusion::{Direction, Protocol};

use crate::cells::{self, Cell, Family};
use crate::gate::{Connection, Gate, plain};
use terms::{
    accept, base_chain, concat, count, ct, drop, equals, field, is_one_of, jump, limit, member, meta, range, reject_icmp,
    reject_tcp, return_, rule, text,
};

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
    let mut batch = Batch::new();
    let chains = [
        base_chain("input", NfHook::Input, PRIORITY),
        base_chain("forward", NfHook::Forward, PRIORITY),
        base_chain("output", NfHook::Output, PRIORITY),
        base_chain("postrouting", NfHook::Postrouting, AFTER_DESTINATION_NAT),
        terms::chain(NfFamily::INet, LEAVING),
    ];
    let rules = rules(gate.agent_uid).into_iter().map(|(chain, statements)| rule(NfFamily::INet, chain, statements));
    fill(&mut batch, NfFamily::INet, chains.into(), sets(gate), rules.collect());
    if let Some(layer) = &gate.netdev {
        let bases = netdev::chains(layer);
        let mut rules: Vec<_> =
            netdev::rules(gate.agent_uid, layer).into_iter().map(|(chain, statements)| rule(NETDEV, chain, statements)).collect();
        rules.extend(bases.iter().map(|(base, target)| rule(NETDEV, base.name.clone(), vec![jump(target)])));
        let common = [netdev::INGRESS, netdev::EGRESS, netdev::OWN].map(|name| terms::chain(NETDEV, name));
        let chains = common.into_iter().chain(bases.into_iter().map(|(chain, _)| chain)).collect();
        let sets = sets(gate).into_iter().chain(netdev::sets(gate)).collect();
        fill(&mut batch, NETDEV, chains, sets, rules);
    }
    batch.to_nftables()
}

/// Closes first and changes then: the policies of the base chains drop, whatever the transaction does in between.
fn fill(batch: &mut Batch<'static>, family: NfFamily, chains: Vec<Chain<'static>>, sets: Vec<SetOf>, rules: Vec<Rule<'static>>) {
    batch.add(NfListObject::Table(table(family)));
    for chain in chains {
        batch.add(NfListObject::Chain(chain));
    }
    for (name, types, interval, _) in &sets {
        batch.add(NfListObject::Set(Box::new(set(family, name, types, *interval))));
    }
    batch.add_cmd(NfCmd::Flush(FlushObject::Table(table(family))));
    for (name, types, interval, elements) in sets {
        batch.add_cmd(NfCmd::Flush(FlushObject::Set(Box::new(set(family, name, &types, interval)))));
        if !elements.is_empty() {
            let elem = elements.into();
            batch.add(NfListObject::Element(Element { family, table: TABLE.into(), name: name.into(), elem }));
        }
    }
    for rule in rules {
        batch.add(NfListObject::Rule(rule));
    }
}

/// Asks whether the kernel has a hook on devices; to be checked, never applied.
pub fn probe(hook: NfHook) -> Nftables<'static> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(Table { family: NETDEV, name: PROBE.into(), handle: None }));
    batch.add(NfListObject::Chain(Chain { table: PROBE.into(), ..netdev::probe(hook) }));
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

/// Takes away chains of ours that no gate has any more: those of devices that have gone, and what somebody else put into our tables.
pub fn without(chains: &[(NfFamily, String)]) -> Nftables<'static> {
    let mut batch = Batch::new();
    let chain = |(family, name): &(NfFamily, String)| terms::chain(*family, name.clone());
    for stray in chains {
        batch.add_cmd(NfCmd::Flush(FlushObject::Chain(chain(stray))));
    }
    for stray in chains {
        batch.delete(NfListObject::Chain(chain(stray)));
    }
    batch.to_nftables()
}

/// What leaves the host to be asked twice, before and after other tables may have changed the destination.
const LEAVING: &str = "leaving";

fn rules(agent_uid: u32) -> Vec<(&'static str, Vec<Statement<'static>>)> {
    let mut rules = vec![("input", vec![equals(meta(MetaKey::Iif), text("lo")), accept()])];
    rules.extend(arriving().into_iter().map(|statements| ("input", statements)));
    rules.push(("input", vec![count(), drop()]));
    rules.push(("forward", vec![count(), drop()]));
    rules.extend(leaving(agent_uid).into_iter().map(|statements| (LEAVING, statements)));
    for chain in ["output", "postrouting"] {
        rules.push((chain, vec![equals(meta(MetaKey::Oif), text("lo")), accept()]));
        rules.push((chain, vec![jump(LEAVING)]));
        // A limit counts each packet that it sees, so it stands in one of the two chains only.
        let limited = chain == "output";
        rules.push((chain, link(255, &["nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert"], limited)));
        rules.push((chain, link(1, &["mld-listener-report", "mld-listener-done", "mld2-listener-report"], limited)));
    }
    rules.push(("output", vec![equals(meta(MetaKey::L4proto), text("tcp")), count(), reject_tcp()]));
    rules.push(("output", vec![count(), reject_icmp()]));
    rules.push(("postrouting", vec![count(), drop()]));
    rules
}

fn arriving() -> Vec<Vec<Statement<'static>>> {
    let mut rules = Vec::new();
    // Direction and tuple are both asked of the packet itself: the set says with whom and on which ports, conntrack only who
    // opened it. So a peer that may be called cannot call, whatever source port it takes.
    for (direction, to) in [("original", ["in4", "in6"]), ("reply", ["out4", "out6"])] {
        for (ip, set) in IP.into_iter().zip(to) {
            let key = concat([meta(MetaKey::L4proto), field(ip, "saddr"), field("th", "sport"), field("th", "dport")]);
            rules.push(vec![equals(ct("direction"), text(direction)), member(key, set), count(), accept()]);
        }
    }
    // What passes from here on stood before, or was opened by the host: the first packet of a connection is neither.
    rules.push(vec![terms::tcp_syn(), count(), drop()]);
    for (ip, set) in IP.into_iter().zip(["control4", "control6"]) {
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

fn leaving(agent_uid: u32) -> Vec<Vec<Statement<'static>>> {
    let mut rules = Vec::new();
    for (ip, set) in IP.into_iter().zip(["control4", "control6"]) {
        let agent = equals(meta(MetaKey::Skuid), Expression::Number(agent_uid));
        rules.push(vec![agent, member(concat([field(ip, "daddr"), field("tcp", "dport")]), set), count(), accept()]);
    }
    for (direction, to) in [("original", ["out4", "out6"]), ("reply", ["in4", "in6"])] {
        for (ip, set) in IP.into_iter().zip(to) {
            let key = concat([meta(MetaKey::L4proto), field(ip, "daddr"), field("th", "dport"), field("th", "sport")]);
            rules.push(vec![equals(ct("direction"), text(direction)), member(key, set), count(), accept()]);
        }
    }
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
const STANDING: [&str; 2] = ["standing4", "standing6"];

type SetOf = (&'static str, Vec<SetType>, bool, Vec<Expression<'static>>);

fn sets(gate: &Gate) -> Vec<SetOf> {
    let mut sets = Vec::new();
    for (index, family) in [Family::V4, Family::V6].into_iter().enumerate() {
        let address = [SetType::Ipv4Addr, SetType::Ipv6Addr][index];
        let ours = |peer: &SocketAddr| peer.is_ipv4() == (family == Family::V4);

        let servers = distinct(gate.control.iter().map(|server| plain(*server)).filter(ours));
        let servers = servers.iter().map(|server| concat([ip(server.ip()), port(server.port())])).collect();
        sets.push((["control4", "control6"][index], vec![address, SetType::InetService], false, servers));

        let cell_type = vec![SetType::InetProto, address, SetType::InetService, SetType::InetService];
        for (direction, names) in [(Direction::Out, ["out4", "out6"]), (Direction::In, ["in4", "in6"])] {
            let cells =
                cells::cells(&gate.passes, direction, family).into_iter().map(|cell| cell_element(cell, family)).collect();
            sets.push((names[index], cell_type.clone(), true, cells));
        }

        let tuple_type = vec![SetType::InetProto, address, SetType::InetService, address, SetType::InetService];
        let standing = distinct(gate.standing.iter().map(|c| Connection::new(c.protocol, c.local, c.remote)));
        // A connection between the two families does not exist, and would fail the whole transaction.
        let standing = standing.iter().filter(|c| ours(&c.local) && ours(&c.remote)).map(tuple_element).collect();
        sets.push((STANDING[index], tuple_type, false, standing));
    }
    sets
}

fn distinct<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}

fn address_span(span: cells::Span<u128>, family: Family) -> Expression<'static> {
    range(span, |bits| match family {
        Family::V4 => ip(Ipv4Addr::from_bits(bits as u32).into()),
        Family::V6 => ip(Ipv6Addr::from_bits(bits).into()),
    })
}

fn cell_element(cell: Cell, family: Family) -> Expression<'static> {
    concat([
        Expression::Number(cell.protocol.into()),
        address_span(cell.remote, family),
        range(cell.remote_port, port),
        range(cell.local_port, port),
    ])
}

fn tuple_element(c: &Connection) -> Expression<'static> {
    let protocol = cells::number(Protocol::from(c.protocol), Family::V4);
    let number = Expression::Number(protocol.into());
    concat([number, ip(c.local.ip()), port(c.local.port()), ip(c.remote.ip()), port(c.remote.port())])
}

fn ip(address: IpAddr) -> Expression<'static> {
    Expression::String(address.to_string().into())
}

fn port(port: u16) -> Expression<'static> {
    Expression::Number(port.into())
}

fn table(family: NfFamily) -> Table<'static> {
    Table { family, name: TABLE.into(), handle: None }
}

fn set(family: NfFamily, name: &'static str, types: &[SetType], interval: bool) -> Set<'static> {
    Set {
        family,
        table: TABLE.into(),
        name: name.into(),
        set_type: SetTypeValue::Concatenated(types.to_vec().into()),
        flags: interval.then(|| [SetFlag::Interval].into()),
        ..Set::default()
    }
}
