//! What the sets are asked about a packet.

use std::collections::BTreeSet;

use nftables::expr::{Expression, MetaKey};

use super::terms::{concat, field, meta};
use crate::cells::Family;

const IP: [&str; 2] = ["ip", "ip6"];

pub(super) fn name(family: Family) -> &'static str {
    IP[usize::from(family == Family::V6)]
}

/// Those of a pair of sets, of IPv4 and IPv6, that there are, each with the name of its family. A set that would be empty is not made, and not asked.
pub(super) fn of(present: &BTreeSet<&str>, sets: [&'static str; 2]) -> impl Iterator<Item = (&'static str, &'static str)> {
    IP.into_iter().zip(sets).filter(|(_, set)| present.contains(set))
}

/// The key of the exclusion sets, of a packet that comes from the other side.
pub(super) fn arriving_key(ip: &'static str) -> Expression<'static> {
    concat([meta(MetaKey::L4proto), field(ip, "saddr"), field("th", "sport"), field("th", "dport")])
}

/// The same of a packet that goes there.
pub(super) fn leaving_key(ip: &'static str) -> Expression<'static> {
    concat([meta(MetaKey::L4proto), field(ip, "daddr"), field("th", "dport"), field("th", "sport")])
}

/// Where TCP has its source port, ICMP has type and code. Protocol and remote are asked with them, so that no other packet is taken for one.
pub(super) fn icmp_key(ip: &'static str, remote: &'static str) -> Expression<'static> {
    concat([meta(MetaKey::L4proto), field(ip, remote), field("th", "sport")])
}
