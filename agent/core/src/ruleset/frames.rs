//! Frames that no IP stack has made, and that a link needs all the same: ARP, IEEE 802.1X and LACP. Each is what it says it is, small and rare.

use std::collections::BTreeSet;

use nftables::expr::{Expression, MetaKey, NamedExpression, Payload, PayloadBase, PayloadRaw};
use nftables::stmt::{Match, Operator, Statement};

use super::terms::{
    accept, and, count, drop, equals, few_of_processes, field, is_one_of, jump, limit, limit_to, meta, return_, text,
};
use super::{EGRESS, INGRESS};

const LINK: &str = "link";
const ARP: &str = "arp";
/// Questions and answers of ARP, each with a limit of its own.
const OPERATIONS: &str = "arp-operations";
const FOR_OTHERS: &str = "for-others";
pub(super) const CHAINS: [&str; 4] = [LINK, ARP, OPERATIONS, FOR_OTHERS];

/// IEEE 802.1X (EAPOL) and the slow protocols (802.3 annex 57A): the link itself goes down without them.
const EAPOL: u32 = 0x888e;
const SLOW: u32 = 0x8809;
/// Of the slow protocols: LACP and its markers.
const SUBTYPES: [u32; 2] = [1, 2];
/// Frames of those two have 124 bytes.
const SLOW_LENGTH: u32 = 128;
/// An ARP frame, with the Ethernet header and the padding that a card may leave on it.
const ARP_LENGTH: u32 = 64;
const ARP_TYPE: u32 = 0x0806;
/// IEEE 802.1Q and 802.1ad.
const TAGS: [u32; 2] = [0x8100, 0x88a8];
/// What the kernel itself asks and answers in a second. A neighbour's flood of questions uses up answers, and no questions.
const ARP_OF_KERNEL: u32 = 1000;

type Rules = Vec<(&'static str, Vec<Statement<'static>>)>;

/// What leaves and is not IP, by devices with these addresses. Another namespace's macvlan on one of them has an address of its own.
pub(super) fn leaving(macs: &BTreeSet<[u8; 6]>) -> Rules {
    let mut rules = Vec::new();
    if let Some(sender) = sender_is(macs) {
        let said = one_of(field("arp", "saddr ether"), macs.iter().map(|mac| Expression::String(digits(*mac, ":").into())));
        rules.extend(said.map(|said| (EGRESS, vec![said, sender.clone(), jump(ARP)])));
        rules.push((EGRESS, vec![sender, jump(LINK)]));
    }
    // `meta protocol` is what the sender says; the frame's own type is what a neighbour goes by.
    rules.push((ARP, few_of_processes(Vec::new())));
    rules.push((ARP, vec![is(96, ARP_TYPE), jump(OPERATIONS)]));
    for tag in TAGS {
        rules.push((ARP, vec![is(96, tag), is(128, ARP_TYPE), jump(OPERATIONS)]));
    }
    rules.push((ARP, vec![count(), drop()]));
    for operation in ["request", "reply"] {
        let mut rule = arp(equals(field("arp", "operation"), text(operation)));
        rule.extend([limit_to(ARP_OF_KERNEL), accept()]);
        rules.push((OPERATIONS, rule));
    }
    rules.push((LINK, vec![protocol(EAPOL), is(96, EAPOL), limit(), accept()]));
    for subtype in SUBTYPES {
        rules.push((LINK, vec![protocol(SLOW), is(96, SLOW), byte(112, subtype), at_most(SLOW_LENGTH), limit(), accept()]));
    }
    rules.push((LINK, vec![count(), drop()]));
    rules
}

/// What arrives. What is addressed to another device than those of this namespace ends here: a bridge or a macvlan would hand it on.
///
/// None of it has a limit: one for all senders would be used up by a neighbour who floods.
pub(super) fn arriving(macs: &BTreeSet<[u8; 6]>) -> Rules {
    let mut rules = vec![(INGRESS, vec![equals(meta(MetaKey::Pkttype), text("other")), jump(FOR_OTHERS)])];
    rules.extend(address_is(DESTINATION, macs).map(|receiver| (FOR_OTHERS, vec![receiver, return_()])));
    rules.push((FOR_OTHERS, vec![count(), drop()]));
    rules.push((INGRESS, and(arp(is_one_of(field("arp", "operation"), ["request", "reply"].map(text))), accept())));
    rules.push((INGRESS, vec![protocol(EAPOL), accept()]));
    rules.push((INGRESS, vec![protocol(SLOW), at_most(SLOW_LENGTH), accept()]));
    rules
}

/// ARP for IPv4 on Ethernet, and nothing behind it.
fn arp(operation: Statement<'static>) -> Vec<Statement<'static>> {
    let number = |name, number| equals(field("arp", name), Expression::Number(number));
    vec![
        number("htype", 1),
        equals(field("arp", "ptype"), text("ip")),
        number("hlen", 6),
        number("plen", 4),
        operation,
        at_most(ARP_LENGTH),
    ]
}

fn protocol(number: u32) -> Statement<'static> {
    equals(meta(MetaKey::Protocol), Expression::Number(number))
}

fn at_most(length: u32) -> Statement<'static> {
    Statement::Match(Match { left: meta(MetaKey::Length), right: Expression::Number(length), op: Operator::LEQ })
}

/// Where an Ethernet header has its addresses, in bits.
const DESTINATION: u32 = 0;
const SOURCE: u32 = 48;

/// One of these Ethernet addresses, as plain bytes: as a field it would ask first which kind of device the frame came in by, and on the way out it came
/// in by none. As text, since the crate has no numbers of 48 bits. All together, so that thousands of devices cost no more than one. None: there is none.
fn address_is(at: u32, macs: &BTreeSet<[u8; 6]>) -> Option<Statement<'static>> {
    let raw = PayloadRaw { base: PayloadBase::LL, offset: at, len: 48 };
    let address = Expression::Named(NamedExpression::Payload(Payload::PayloadRaw(raw)));
    one_of(address, macs.iter().map(|mac| Expression::String(format!("0x{}", digits(*mac, "")).into())))
}

/// The same of the sender.
pub(super) fn sender_is(macs: &BTreeSet<[u8; 6]>) -> Option<Statement<'static>> {
    address_is(SOURCE, macs)
}

fn one_of(left: Expression<'static>, values: impl Iterator<Item = Expression<'static>>) -> Option<Statement<'static>> {
    let mut values: Vec<_> = values.collect();
    match values.len() {
        // nft makes a plain comparison of a set of one.
        0 | 1 => values.pop().map(|one| equals(left, one)),
        _ => Some(is_one_of(left, values)),
    }
}

fn digits(mac: [u8; 6], between: &str) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(between)
}

/// Two bytes of the frame.
fn is(at: u32, number: u32) -> Statement<'static> {
    part(at, 16, number)
}

fn byte(at: u32, number: u32) -> Statement<'static> {
    part(at, 8, number)
}

fn part(offset: u32, len: u32, number: u32) -> Statement<'static> {
    let raw = PayloadRaw { base: PayloadBase::LL, offset, len };
    equals(Expression::Named(NamedExpression::Payload(Payload::PayloadRaw(raw))), Expression::Number(number))
}
