//! Who opened the connection of a packet: conntrack says it, and where it knows no connection, the packet itself says what it can.

use std::collections::BTreeSet;

use nftables::expr::{Expression, MetaKey};
use nftables::stmt::Statement;
use portcullis_schemas::exclusion::Direction;

use super::keys::{arriving_key, icmp_key, leaving_key, of};
use super::many;
use super::sets::{ICMP_IN, ICMP_OUT, IN, OUT};
use super::terms::{self, Rules, accept, count, ct, equals, field, goto, is_one_of, jump, member, meta, return_, text};

/// ICMP that asks and ICMP that answers, of IPv4 and of IPv6. The rest of it belongs to other connections.
const REQUESTS: [&[&str]; 2] = [&["echo-request", "timestamp-request", "address-mask-request"], &["echo-request"]];
const ANSWERS: [&[&str]; 2] = [&["echo-reply", "timestamp-reply", "address-mask-reply"], &["echo-reply"]];
const ICMP: u32 = 1;
const ICMPV6: u32 = 58;
const SCTP: u32 = 132;

/// The exclusions for anybody.
pub(super) fn for_anybody(present: &BTreeSet<&str>, direction: Direction, leaves: bool) -> Rules {
    let (ports, icmp) = if direction == Direction::Out { (OUT, ICMP_OUT) } else { (IN, ICMP_IN) };
    let key = if leaves { leaving_key } else { arriving_key };
    let peer = if leaves { "daddr" } else { "saddr" };
    let passes = |key, set| vec![member(key, set), count(), accept()];
    let ports = of(present, ports).map(|(ip, set)| passes(key(ip), set));
    let icmp = of(present, icmp).map(|(ip, set)| passes(icmp_key(ip, peer), set));
    ports.chain(icmp).chain(many::rules(present, direction, leaves)).collect()
}

/// The chains in which the packets of one way are asked, by what is known of who opened their connection.
#[derive(Clone, Copy)]
pub(super) struct Chains {
    /// Where they come from.
    pub asking: &'static str,
    /// Packets that go the way of the one that opened.
    pub original: &'static str,
    pub reply: &'static str,
    pub untracked: &'static str,
}

/// Leads packets to the `rules` of the direction that they belong to. Direction and addresses are both asked of the packet itself: a peer that may be
/// called cannot call, whatever source port it takes.
///
/// Conntrack knows nothing of packets that the host's own rules exempt (`notrack`, as usual for DNS), and of those that it calls invalid. They pass by
/// protocol, address and port, as on the devices, but for those that open something, where a protocol has such.
pub(super) fn split(
    chains: Chains,
    leaves: bool,
    rules: impl Fn(Direction) -> Rules,
) -> Vec<(&'static str, Vec<Statement<'static>>)> {
    let ways = if leaves { [Direction::Out, Direction::In] } else { [Direction::In, Direction::Out] };
    let [original, reply] = ways.map(rules);
    let Chains { asking, untracked, .. } = chains;
    let mut all = vec![
        (asking, vec![equals(ct("direction"), text("original")), jump(chains.original)]),
        (asking, vec![equals(ct("direction"), text("reply")), jump(chains.reply)]),
        (asking, vec![terms::ct_unknown(), jump(untracked)]),
    ];
    all.extend(of_types(REQUESTS).map(|asks| (untracked, vec![asks, goto(chains.original)])));
    // An answer that conntrack has looked at, and calls invalid, answers nothing.
    all.extend(of_types(ANSWERS).map(|asks| (untracked, vec![terms::ct_is("untracked"), asks, goto(chains.reply)])));
    all.extend([
        (untracked, vec![is_one_of(meta(MetaKey::L4proto), [ICMP, ICMPV6].map(Expression::Number)), return_()]),
        (untracked, vec![jump(chains.original)]),
        (untracked, vec![terms::tcp_syn(), return_()]),
        (untracked, vec![equals(meta(MetaKey::L4proto), Expression::Number(SCTP)), terms::sctp_init(), return_()]),
        (untracked, vec![jump(chains.reply)]),
    ]);
    all.extend(original.into_iter().map(|rule| (chains.original, rule)));
    all.extend(reply.into_iter().map(|rule| (chains.reply, rule)));
    all
}

fn of_types(types: [&'static [&'static str]; 2]) -> impl Iterator<Item = Statement<'static>> {
    ["icmp", "icmpv6"].into_iter().zip(types).map(|(protocol, types)| match types {
        [one] => equals(field(protocol, "type"), text(one)),
        types => is_one_of(field(protocol, "type"), types.iter().map(|name| text(name))),
    })
}
