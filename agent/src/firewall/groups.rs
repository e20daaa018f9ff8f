//! The control groups of rules, from the kernel itself: nft's JSON names them by a path that it guesses from the number, and leaves out the depth.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use portcullis_agent_core::ruleset::TABLE;
use portcullis_agent_core::verify::Listing;
use serde_json::Value;

use super::{NFNL_SUBSYS_NFTABLES, NFPROTO_INET};
use crate::netlink::{Netlink, attributes, push_padded};

/// include/uapi/linux/netfilter/nf_tables.h
const GETRULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 7;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_SOCKET_LEVEL: u16 = 3;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_DATA_VALUE: u16 = 1;

/// Writes number and depth over what nft says of each question for a control group. Where the two do not fit together, nothing is changed, and
/// the comparison that follows fails.
pub(super) fn correct(listing: &mut Listing) -> io::Result<()> {
    let mut asked = Vec::new();
    for part in listing.objects.iter_mut().flat_map(|object| object.body.values_mut()) {
        collect(part, &mut asked);
    }
    if asked.is_empty() {
        return Ok(());
    }
    let known = all()?;
    if known.len() == asked.len() {
        for (right, group) in asked.into_iter().zip(known) {
            *right = Value::String(group);
        }
    }
    Ok(())
}

/// The right sides of all questions for a control group, in the order of the listing.
fn collect<'a>(value: &'a mut Value, asked: &mut Vec<&'a mut Value>) {
    match value {
        Value::Object(map) => {
            let is_asked = map.get("left").is_some_and(|left| left["socket"]["key"] == "cgroupv2");
            for (key, part) in map.iter_mut() {
                match key.as_str() {
                    "right" if is_asked => asked.push(part),
                    _ => collect(part, asked),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| collect(item, asked)),
        _ => {}
    }
}

/// `NUMBER DEPTH` of each question in our inet table, in the order of the rules.
fn all() -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut body = vec![NFPROTO_INET, 0, 0, 0];
    let name = [&((TABLE.len() + 5) as u16).to_ne_bytes()[..], &NFTA_RULE_TABLE.to_ne_bytes(), TABLE.as_bytes(), &[0]].concat();
    push_padded(&mut body, &name);
    Netlink::open(NETLINK_NETFILTER)?.dump(GETRULE, &body, |rule| {
        let list = value(rule.get(4..).unwrap_or_default(), NFTA_RULE_EXPRESSIONS);
        found.extend(list.map(of_rule).unwrap_or_default());
    })?;
    Ok(found)
}

fn of_rule(expressions: &[u8]) -> Vec<String> {
    let parts: Vec<(&[u8], &[u8])> = attributes(expressions)
        .filter_map(|(_, expression, _)| Some((value(expression, NFTA_EXPR_NAME)?, value(expression, NFTA_EXPR_DATA)?)))
        .collect();
    let mut groups = Vec::new();
    for ((name, socket), (next, cmp)) in parts.iter().zip(parts.iter().skip(1)) {
        if name.starts_with(b"socket\0") && next.starts_with(b"cmp\0") {
            groups.extend(group(socket, cmp));
        }
    }
    groups
}

fn group(socket: &[u8], cmp: &[u8]) -> Option<String> {
    let depth = u32::from_be_bytes(*value(socket, NFTA_SOCKET_LEVEL)?.first_chunk()?);
    let id = u64::from_ne_bytes(*value(value(cmp, NFTA_CMP_DATA)?, NFTA_DATA_VALUE)?.first_chunk()?);
    Some(format!("{id} {depth}"))
}

fn value(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, ..)| *kind == wanted).map(|(_, value, _)| value)
}
