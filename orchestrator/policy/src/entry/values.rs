//! Values of an exclusion's conditions: whom, by which protocol and ports, from whose sockets.

use ipnet::IpNet;
use portcullis_schemas::exclusion::{DnsName, IcmpType, Known, PortRange, Protocol, Remote, Unit, UserName};

use crate::error::{At, Errors, did_you_mean, quoted};
use crate::lists::Lists;
use crate::peer::{Peer, peer};
use crate::read::{one_or_many, parsed, raw, text, word};
use crate::yaml::Node;

/// Networks or names. `standard` profiles also know what the host alone can fill in.
pub(crate) fn remote(node: &Node, what: &str, standard: bool, lists: &Lists, errors: &mut Errors) -> Option<Remote> {
    const WANTS: &str = "an address, a network, a name, a list of either, $list or any";
    let before = errors.count();
    let items = one_or_many(node);
    let mut peers: Vec<(At, Peer)> = Vec::new();
    if items.is_empty() {
        errors.push(node.at, format!("{what} is an empty list, which nothing matches; write {WANTS}"));
    }
    for item in items {
        let Some(written) = raw(item, what, WANTS, errors) else { continue };
        match (written, written.strip_prefix('$')) {
            ("any", _) if items.len() == 1 => return Some(Remote::Any),
            ("any", _) => errors.push(item.at, format!("any is one of several; write {what}: any alone")),
            ("resolvers", _) if standard => return Some(Remote::Known(Known::Resolvers)),
            ("dhcp-servers", _) if standard => return Some(Remote::Known(Known::DhcpServers)),
            (_, Some(list)) => peers.extend(lists.peers(list, what, item.at, errors).into_iter().map(|peer| (item.at, peer))),
            _ => peers.extend(peer(written, what, item.at, errors).map(|peer| (item.at, peer))),
        }
    }
    let remote = alike(peers, what, errors);
    (errors.count() == before).then_some(remote)
}

/// One exclusion is for networks or for names: an order carries either.
fn alike(peers: Vec<(At, Peer)>, what: &str, errors: &mut Errors) -> Remote {
    let (mut nets, mut names): (Vec<IpNet>, Vec<DnsName>) = (Vec::new(), Vec::new());
    let mut odd = None;
    for (at, peer) in peers {
        match peer {
            Peer::Network(net) => {
                odd = odd.or_else(|| (!names.is_empty()).then(|| (at, format!("the network {net} among names"))));
                nets.push(net);
            }
            Peer::Name(name) => {
                odd = odd.or_else(|| (!nets.is_empty()).then(|| (at, format!("the name {name} among addresses"))));
                names.push(name);
            }
        }
    }
    if let Some((at, odd)) = odd {
        let two = if what == "remote" { "two exclusions" } else { "two profiles" };
        errors.push(at, format!("{what} has {odd}; split it into {two}, one for the addresses and one for the names"));
    }
    if names.is_empty() { Remote::Cidrs(IpNet::aggregate(&nets)) } else { Remote::Names(names) }
}

pub(crate) fn ports(node: &Node, what: &str, errors: &mut Errors) -> Vec<PortRange> {
    let items = one_or_many(node);
    if items.is_empty() {
        errors.push(node.at, format!("{what} is an empty list; name ports, or leave it out for all"));
    }
    items.iter().filter_map(|item| parsed(item, what, "ports from 1 to 65535: 53 or 1024-65535", errors)).collect()
}

pub(crate) fn user(node: &Node, what: &str, errors: &mut Errors) -> Option<UserName> {
    text(node, what, errors)?;
    parsed(node, what, "a local user, by name or number: backup, 990", errors)
}

/// A name without its kind would never be found: control groups carry it.
pub(crate) fn unit(node: &Node, what: &str, errors: &mut Errors) -> Option<Unit> {
    const KINDS: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];
    let written = text(node, what, errors)?;
    let whole = written.contains('/') || KINDS.iter().any(|kind| written.strip_suffix(kind).is_some_and(|name| !name.is_empty()));
    match written.parse() {
        Ok(unit) if whole => Some(unit),
        _ => {
            let message = format!(
                "{what} is {}; write the unit with its kind, wazuh-agent.service, or the path of its control group, /system.slice/wazuh-agent.service",
                quoted(written)
            );
            errors.push(node.at, message);
            None
        }
    }
}

pub(super) fn protocol(node: &Node, errors: &mut Errors) -> Option<Protocol> {
    const WANTS: &str = "tcp, udp, icmp, any, another name (sctp, gre, esp) or a number from 0 to 255";
    let written = raw(node, "protocol", WANTS, errors)?;
    let found = written.parse().ok();
    if found.is_none() {
        let hint = did_you_mean(written, Protocol::names());
        errors.push(node.at, format!("protocol is {}; write {WANTS}{hint}", quoted(written)));
    }
    found
}

pub(super) fn icmp_types(node: &Node, errors: &mut Errors) -> Vec<IcmpType> {
    const TYPES: [(&str, IcmpType); 4] = [
        ("echo-request", IcmpType::EchoRequest),
        ("timestamp-request", IcmpType::TimestampRequest),
        ("address-mask-request", IcmpType::AddressMaskRequest),
        ("node-information-query", IcmpType::NodeInformationQuery),
    ];
    let items = one_or_many(node);
    if items.is_empty() {
        errors.push(node.at, "icmp_types is an empty list; name types, or leave it out for all");
    }
    items.iter().filter_map(|item| word(item, "icmp_types", &TYPES, errors)).collect()
}
