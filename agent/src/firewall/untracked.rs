//! Rules of others that exempt packets from conntrack: our rules judge these without knowing who began.

use std::collections::BTreeSet;
use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::NFNL_SUBSYS_NFTABLES;
use crate::netlink::{Netlink, attributes, text, value};

/// include/uapi/linux/netfilter/nf_tables.h
const NFT_MSG_GETRULE: u16 = 7;
const NFGENMSG: usize = 4;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
/// The target of iptables in a rule of nftables (nf_tables_compat.h).
const NFTA_TARGET_NAME: u16 = 1;
/// include/uapi/linux/netfilter.h
const FAMILIES: [(u8, &str); 6] = [(1, "inet"), (2, "ip"), (3, "arp"), (5, "netdev"), (7, "bridge"), (10, "ip6")];

/// The chains with rules that exempt packets from conntrack.
pub fn exempting() -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    netlink.dump(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE, &[0; NFGENMSG], |body| found.extend(untracked(body)))?;
    Ok(found)
}

/// The family of a table, as nft names it.
pub(crate) fn family(number: u8) -> Option<&'static str> {
    FAMILIES.into_iter().find(|(known, _)| *known == number).map(|(_, name)| name)
}

/// The chain of a rule that exempts packets.
fn untracked(body: &[u8]) -> Option<String> {
    let (header, rest) = body.split_at_checked(NFGENMSG)?;
    let exempts = |expression: &[u8]| match text(value(expression, NFTA_EXPR_NAME).unwrap_or_default()).as_str() {
        "notrack" => true,
        "target" => value(expression, NFTA_EXPR_DATA)
            .and_then(|data| value(data, NFTA_TARGET_NAME))
            .is_some_and(|name| ["CT", "NOTRACK"].contains(&text(name).as_str())),
        _ => false,
    };
    let exempted = attributes(value(rest, NFTA_RULE_EXPRESSIONS)?).any(|(_, expression, _)| exempts(expression));
    let place = format!("{} {}", text(value(rest, NFTA_RULE_TABLE)?), text(value(rest, NFTA_RULE_CHAIN)?));
    exempted.then(|| format!("{} {place}", family(header[0]).unwrap_or("unknown")))
}
