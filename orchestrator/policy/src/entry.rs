//! One exclusion from its mapping: the conditions, and whether they go together.

mod values;

use portcullis_schemas::exclusion::{Direction, Exclusion, Protocol, measure};

use crate::error::{Errors, all_of};
use crate::lists::Lists;
use crate::read::{Fields, fields, name, truth, word};
use crate::yaml::Node;

use values::{icmp_types, protocol};
pub(crate) use values::{ports, remote, unit, user};

/// Most entries of one list.
pub(crate) const MOST: usize = 200;

/// Where an exclusion is written out.
#[derive(Clone, Copy)]
pub(crate) enum Place<'n> {
    /// Among the exclusions of an origin: it has a name of its own.
    List,
    /// In a profile of the policy, whose name it takes.
    Profile(&'n str),
    /// In a standard profile, which may lean on what the host alone knows.
    Standard(&'n str),
}

/// What each place knows: all but the last without `Standard`, all but the first without `List`.
const KEYS: [&str; 10] =
    ["name", "direction", "protocol", "remote", "remote_ports", "local_ports", "icmp_types", "user", "unit", "if_listening"];

pub(crate) fn one(node: &Node, place: Place<'_>, lists: &Lists, errors: &mut Errors) -> Option<Exclusion> {
    let (known, needed) = match place {
        Place::List => (&KEYS[..9], &KEYS[..4]),
        Place::Profile(_) => (&KEYS[1..9], &KEYS[1..4]),
        Place::Standard(_) => (&KEYS[1..], &KEYS[1..4]),
    };
    let before = errors.count();
    let fields = fields(node, "an exclusion", known, errors)?;
    for key in needed {
        if fields.get(key).is_none() {
            errors.push(fields.at, format!("an exclusion has no {key}; it needs {}", all_of(needed.iter().copied())));
        }
    }
    let name = match place {
        Place::List => fields.get("name").and_then(|node| name(node, "name", errors)),
        Place::Profile(name) | Place::Standard(name) => Some(name),
    };
    const DIRECTIONS: [(&str, Direction); 2] = [("out", Direction::Out), ("in", Direction::In)];
    let direction = fields.get("direction").and_then(|node| word(node, "direction", &DIRECTIONS, errors));
    let protocol = fields.get("protocol").and_then(|node| protocol(node, errors));
    let standard = matches!(place, Place::Standard(_));
    let remote = fields.get("remote").and_then(|node| remote(node, "remote", standard, lists, errors));
    let mut ports = |key| fields.get(key).map(|node| ports(node, key, errors)).unwrap_or_default();
    let (remote_ports, local_ports) = (ports("remote_ports"), ports("local_ports"));
    let icmp_types = fields.get("icmp_types").map(|node| icmp_types(node, errors)).unwrap_or_default();
    let user = fields.get("user").and_then(|node| user(node, "user", errors));
    let unit = fields.get("unit").and_then(|node| unit(node, "unit", errors));
    let if_listening = fields.get("if_listening").and_then(|node| truth(node, "if_listening", errors)).unwrap_or(false);

    if let Some(protocol) = protocol {
        of_the_protocol(&fields, protocol, errors);
    }
    if errors.count() > before {
        return None;
    }
    let exclusion = Exclusion {
        name: name?.to_owned(),
        direction: direction?,
        protocol: protocol?,
        remote: remote?,
        remote_ports,
        local_ports,
        icmp_types,
        user,
        unit,
        if_listening,
        until: None,
    };
    if let (Err(reason), Some(node)) = (measure::check([&exclusion]), fields.get("remote")) {
        errors.push(node.at, reason.to_string());
        return None;
    }
    Some(exclusion)
}

/// Conditions that only some protocols have.
fn of_the_protocol(fields: &Fields<'_>, protocol: Protocol, errors: &mut Errors) {
    for key in ["remote_ports", "local_ports"] {
        if fields.get(key).is_some() && !protocol.has_ports() {
            let message =
                format!("protocol {protocol} has no ports; remove {key}, or name a protocol that has them: tcp, udp, sctp");
            errors.push(fields.key_at(key), message);
        }
    }
    if fields.get("icmp_types").is_none() {
        return;
    }
    if protocol != Protocol::Icmp {
        let message = format!("protocol {protocol} has no types of ICMP; remove icmp_types, or write protocol: icmp");
        errors.push(fields.key_at("icmp_types"), message);
    } else if fields.get("user").is_some() || fields.get("unit").is_some() {
        let message = "types of ICMP are not distinguished for a user or unit; remove icmp_types, or user and unit";
        errors.push(fields.key_at("icmp_types"), message);
    }
}
