//! Short names for the statements and expressions that our rules are made of.

use std::borrow::Cow;
use std::fmt::Display;

use nftables::expr::{
    BinaryOperation, CT, Expression, Exthdr, Meta, MetaKey, NamedExpression, Payload, PayloadBase, PayloadField, PayloadRaw,
    Range, SetItem, Socket, SocketAttr,
};
use nftables::schema::{Chain, Rule};
use nftables::stmt::{Counter, JumpTarget, Limit, Match, Operator, Reject, RejectType, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook, RejectCode};

use super::TABLE;
use crate::gate::ControlGroup;

/// Each a list of what it asks and does.
pub(super) type Rules = Vec<Vec<Statement<'static>>>;

pub(super) fn base_chain(name: &'static str, hook: NfHook, priority: i32) -> Chain<'static> {
    Chain {
        _type: Some(NfChainType::Filter),
        hook: Some(hook),
        prio: Some(priority),
        policy: Some(NfChainPolicy::Drop),
        ..chain(NfFamily::INet, name)
    }
}

pub(super) fn chain(family: NfFamily, name: impl Into<Cow<'static, str>>) -> Chain<'static> {
    Chain { family, table: TABLE.into(), name: name.into(), ..Chain::default() }
}

pub(super) fn rule(family: NfFamily, chain: impl Into<Cow<'static, str>>, statements: Vec<Statement<'static>>) -> Rule<'static> {
    Rule { family, table: TABLE.into(), chain: chain.into(), expr: statements.into(), ..Rule::default() }
}

pub(super) fn equals(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op: Operator::EQ })
}

pub(super) fn member(key: Expression<'static>, set: impl Display) -> Statement<'static> {
    equals(key, Expression::String(format!("@{set}").into()))
}

/// A socket in this control group or in one below it. nft's JSON has no word for the depth, so these rules reach the kernel without nft.
pub(super) fn group(group: &ControlGroup) -> Statement<'static> {
    let socket = Socket { key: Cow::Borrowed(&SocketAttr::Cgroupv2) };
    let right = Expression::String(group.to_string().into());
    equals(Expression::Named(NamedExpression::Socket(socket)), right)
}

pub(super) fn is_one_of(left: Expression<'static>, values: impl IntoIterator<Item = Expression<'static>>) -> Statement<'static> {
    let items = values.into_iter().map(SetItem::Element).collect();
    equals(left, Expression::Named(NamedExpression::Set(items)))
}

/// A packet that would open a TCP connection: SYN without ACK.
pub(super) fn tcp_syn() -> Statement<'static> {
    let flags = Expression::List(vec![text("syn"), text("ack")]);
    let masked = BinaryOperation::AND(field("tcp", "flags"), flags);
    equals(Expression::BinaryOperation(Box::new(masked)), text("syn"))
}

pub(super) fn ct_is(state: &'static str) -> Statement<'static> {
    Statement::Match(Match { left: ct("state"), right: text(state), op: Operator::IN })
}

/// A packet of which conntrack knows no connection.
pub(super) fn ct_unknown() -> Statement<'static> {
    let states = Expression::List(vec![text("invalid"), text("untracked")]);
    Statement::Match(Match { left: ct("state"), right: states, op: Operator::IN })
}

/// An SCTP packet that would open an association: its first chunk is an INIT (RFC 9260, 3.3.2).
pub(super) fn sctp_init() -> Statement<'static> {
    let chunk = PayloadRaw { base: PayloadBase::TH, offset: 96, len: 8 };
    equals(Expression::Named(NamedExpression::Payload(Payload::PayloadRaw(chunk))), Expression::Number(1))
}

pub(super) fn text(word: &'static str) -> Expression<'static> {
    Expression::String(word.into())
}

pub(super) fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

pub(super) fn ct(key: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: None }))
}

pub(super) fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

/// A field of an IPv6 extension header.
pub(super) fn extension(name: &'static str, field: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::Exthdr(Exthdr { name: name.into(), field: Some(field.into()), offset: None }))
}

pub(super) fn concat<const N: usize>(parts: [Expression<'static>; N]) -> Expression<'static> {
    Expression::Named(NamedExpression::Concat(parts.into()))
}

pub(super) fn range<T: PartialEq + Copy>((first, last): (T, T), show: impl Fn(T) -> Expression<'static>) -> Expression<'static> {
    if first == last { show(first) } else { Expression::Range(Box::new(Range { range: [show(first), show(last)] })) }
}

pub(super) fn accept() -> Statement<'static> {
    Statement::Accept(None)
}

pub(super) fn drop() -> Statement<'static> {
    Statement::Drop(None)
}

pub(super) fn return_() -> Statement<'static> {
    Statement::Return(None)
}

pub(super) fn jump(target: &'static str) -> Statement<'static> {
    Statement::Jump(JumpTarget { target: target.into() })
}

pub(super) fn goto(target: &'static str) -> Statement<'static> {
    Statement::Goto(JumpTarget { target: target.into() })
}

pub(super) fn count() -> Statement<'static> {
    Statement::Counter(Counter::Anonymous(None))
}

/// Far more than a link needs, and little for somebody who would use it to carry something.
pub(super) fn limit() -> Statement<'static> {
    limit_to(50)
}

pub(super) fn limit_to(rate: u32) -> Statement<'static> {
    Statement::Limit(limit_of(rate, None))
}

fn over(rate: u32) -> Statement<'static> {
    Statement::Limit(limit_of(rate, Some(true)))
}

fn limit_of(rate: u32, inv: Option<bool>) -> Limit<'static> {
    Limit { rate, rate_unit: None, per: Some("second".into()), burst: Some(rate), burst_unit: None, inv }
}

/// Drops what processes send of a kind above a limit. What the kernel sends by itself has no process, and what asks for it is a neighbour: under a
/// limit of all, a neighbour's flood of questions would keep the host from asking and answering anybody else.
pub(super) fn few_of_processes(mut kind: Vec<Statement<'static>>) -> Vec<Statement<'static>> {
    // No user has this number: the question is whether there is one.
    kind.push(Statement::Match(Match { left: meta(MetaKey::Skuid), right: Expression::Number(u32::MAX), op: Operator::NEQ }));
    kind.extend([over(50), count(), drop()]);
    kind
}

/// ICMPv6 that belongs to the link: its hop limit shows that no router has passed it on.
pub(super) fn link(hop_limit: u32, types: &'static [&'static str]) -> Vec<Statement<'static>> {
    vec![
        equals(field("ip6", "hoplimit"), Expression::Number(hop_limit)),
        match types {
            [one] => equals(field("icmpv6", "type"), text(one)),
            types => is_one_of(field("icmpv6", "type"), types.iter().map(|name| text(name))),
        },
    ]
}

/// Neighbour discovery of this host.
pub(super) fn neighbours_out() -> Vec<Statement<'static>> {
    link(255, &["nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert"])
}

/// Its multicast memberships. Any process makes the kernel send them by joining a group, and no neighbour more than a few.
pub(super) fn memberships_out() -> Vec<Statement<'static>> {
    link(1, &["mld-listener-report", "mld-listener-done", "mld2-listener-report"])
}

/// What an IPv6 link needs from others. Without a limit: one for all senders would be used up by a neighbour who floods, and the kernel has its own.
pub(super) fn link_in() -> [Vec<Statement<'static>>; 2] {
    [link(255, &["nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"]), link(1, &["mld-listener-query"])]
}

pub(super) fn and(mut statements: Vec<Statement<'static>>, last: Statement<'static>) -> Vec<Statement<'static>> {
    statements.push(last);
    statements
}

pub(super) fn reject_tcp() -> Statement<'static> {
    Statement::Reject(Some(Reject::new(Some(RejectType::TCPReset), None)))
}

pub(super) fn reject_icmp() -> Statement<'static> {
    Statement::Reject(Some(Reject::new(Some(RejectType::ICMPX), Some(RejectCode::AdminProhibited))))
}
