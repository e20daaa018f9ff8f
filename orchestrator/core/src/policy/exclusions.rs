//! `exclusions`: profiles by name and connections written out, resolved to what an order carries.

use ipnet::IpNet;
use portcullis_schemas::exclusion::{Direction, Exclusion, Known, PortRange, Protocol, Remote};

use super::error::Errors;
use super::lists::{Lists, network};
use super::profiles;
use super::read::{fields, list, name, one_or_many, parsed, raw, text, truth, word};
use super::yaml::{Node, Value};

/// Most entries of one list.
const MOST: usize = 200;

/// The entries of `automatic` or `manual_default`.
pub(super) fn parse(node: &Node, what: &str, lists: &Lists, errors: &mut Errors) -> Vec<Exclusion> {
    let mut exclusions: Vec<Exclusion> = Vec::new();
    let entries = list(node, what, errors).unwrap_or_default();
    if entries.len() > MOST {
        errors.push(node.at, format!("{what} has {} entries; at most {MOST} are taken", entries.len()));
        return exclusions;
    }
    for entry in entries {
        let found = match &entry.value {
            Value::Map(_) => one(entry, None, lists, errors).into_iter().collect(),
            Value::Text(_) => match text(entry, "a profile", errors) {
                Some(name) => profiles::named(name, entry.at, errors),
                None => Vec::new(),
            },
            Value::List(_) => {
                errors.push(entry.at, format!("{what} has a list inside a list; write one list"));
                Vec::new()
            }
            Value::Refused => Vec::new(),
        };
        if let Some(again) = found.first().filter(|found| exclusions.iter().any(|earlier| earlier.name == found.name)) {
            errors.push(entry.at, format!("{what} has {:?} twice; keep one, or give the other another name", again.name));
            continue;
        }
        exclusions.extend(found);
    }
    exclusions
}

/// One connection. In the data file of a `profile` it has that name, and may lean on what the host knows.
pub(super) fn one(node: &Node, profile: Option<&str>, lists: &Lists, errors: &mut Errors) -> Option<Exclusion> {
    const WRITTEN: [&str; 6] = ["name", "direction", "protocol", "remote", "remote_ports", "local_ports"];
    const PROFILE: [&str; 6] = ["direction", "protocol", "remote", "remote_ports", "local_ports", "if_listening"];
    let before = errors.count();
    let what = "an exclusion";
    let fields = fields(node, what, if profile.is_some() { &PROFILE } else { &WRITTEN }, errors)?;
    let mut required = |key: &str| {
        let found = fields.get(key);
        if found.is_none() {
            errors.push(fields.at, format!("{what} has no {key}; it needs name, direction, protocol and remote"));
        }
        found
    };
    let written_name = if profile.is_none() { required("name") } else { None };
    let (direction, protocol, remote) = (required("direction"), required("protocol"), required("remote"));

    let name = profile.or_else(|| name(written_name?, "name", errors));
    let direction = direction.and_then(|node| word(node, "direction", &[("out", Direction::Out), ("in", Direction::In)], errors));
    const PROTOCOLS: [(&str, Protocol); 3] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("icmp", Protocol::Icmp)];
    let protocol = protocol.and_then(|node| word(node, "protocol", &PROTOCOLS, errors));
    let remote_node = remote;
    let remote = remote.and_then(|node| self::remote(node, profile.is_some(), lists, errors));
    let remote_ports = ports(fields.get("remote_ports"), "remote_ports", errors);
    let local_ports = ports(fields.get("local_ports"), "local_ports", errors);
    let if_listening = fields.get("if_listening").and_then(|node| truth(node, "if_listening", errors)).unwrap_or(false);

    let portless = remote_ports.is_empty() && local_ports.is_empty();
    if protocol == Some(Protocol::Icmp) && !portless {
        errors.push(fields.at, "icmp has no ports; remove remote_ports and local_ports");
    }
    let everybody = match &remote {
        Some(Remote::Any) => true,
        Some(Remote::Cidrs(nets)) => nets.iter().any(|net| net.prefix_len() == 0),
        _ => false,
    };
    if let (Some(Protocol::Tcp | Protocol::Udp), true, true, Some(node)) = (protocol, portless, everybody, remote_node) {
        errors.push(
            node.at,
            "every port of everybody would pass, which isolates from nothing; name remote_ports or local_ports, or the remote",
        );
    }
    if errors.count() > before {
        return None;
    }
    Some(Exclusion {
        name: name?.to_owned(),
        direction: direction?,
        protocol: protocol?,
        remote: remote?,
        remote_ports,
        local_ports,
        icmp_types: Vec::new(),
        user: None,
        unit: None,
        if_listening,
        until: None,
    })
}

fn remote(node: &Node, profile: bool, lists: &Lists, errors: &mut Errors) -> Option<Remote> {
    const WANTS: &str = "an address, a network, a list of them, $list or any";
    let before = errors.count();
    let items = one_or_many(node);
    let mut nets: Vec<IpNet> = Vec::new();
    if items.is_empty() {
        errors.push(node.at, format!("remote is an empty list, which nothing matches; write {WANTS}"));
    }
    for item in items {
        let Some(written) = raw(item, "remote", WANTS, errors) else { continue };
        match (written, written.strip_prefix('$')) {
            ("any", _) if items.len() == 1 => return Some(Remote::Any),
            ("any", _) => errors.push(item.at, "any stands among others; write remote: any alone"),
            ("resolvers", _) if profile => return Some(Remote::Known(Known::Resolvers)),
            ("dhcp-servers", _) if profile => return Some(Remote::Known(Known::DhcpServers)),
            (_, Some(list)) => nets.extend(lists.networks(list, "remote", item.at, errors)),
            _ => nets.extend(network(written, "remote", item.at, errors)),
        }
    }
    (errors.count() == before).then(|| Remote::Cidrs(IpNet::aggregate(&nets)))
}

fn ports(node: Option<&Node>, what: &str, errors: &mut Errors) -> Vec<PortRange> {
    let Some(node) = node else { return Vec::new() };
    let items = one_or_many(node);
    if items.is_empty() {
        errors.push(node.at, format!("{what} is an empty list; name ports, or leave it out for all"));
    }
    items.iter().filter_map(|item| parsed(item, what, "ports from 1 to 65535: 53 or 1024-65535", errors)).collect()
}
