//! Inventory: a host's word on itself, with the time from which it has held each name and address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use chrono::TimeDelta;
use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Claim, Hello, Inventory};

/// What a host names again within this time it has held all along: a reboot gives nothing away.
pub const KEPT_FOR: TimeDelta = TimeDelta::hours(24);

/// Names and addresses that a host gave up are remembered up to this number, the latest ones.
const MOST_LEFT: usize = 64;

/// The inventory to store for `hello`, or None where it says nothing new. What moves with every order (generation, posture) is no news, but where the
/// host `is_ahead` of the log of orders.
pub fn of(old: Option<&Inventory>, hello: &Hello, at: Timestamp, is_ahead: bool) -> Option<Inventory> {
    let kept = |claim: &&Claim| claim.left_at.is_none_or(|left| at - left <= KEPT_FOR);
    let before: Vec<&Claim> = old.iter().flat_map(|old| &old.claims).filter(kept).collect();
    let mut claims: Vec<Claim> = claimed(hello)
        .map(|(value, internal)| {
            let held = before.iter().find(|claim| claim.value == value);
            Claim { since: held.map_or(at, |claim| claim.since), value, internal, left_at: None }
        })
        .collect();
    let gone = before.iter().filter(|before| claims.iter().all(|claim| claim.value != before.value));
    let mut gone: Vec<Claim> = gone.map(|claim| Claim { left_at: claim.left_at.or(Some(at)), ..Claim::clone(claim) }).collect();
    gone.sort_by(|one, other| (other.left_at, &one.value).cmp(&(one.left_at, &other.value)));
    gone.truncate(MOST_LEFT);
    claims.extend(gone);
    let reported =
        |role: &str| old.filter(|old| old.hello.roles.iter().any(|before| before == role))?.roles_since.get(role).copied();
    let roles_since = hello.roles.iter().map(|role| (role.clone(), reported(role).unwrap_or(at))).collect();
    let operator = old.and_then(|old| old.operator.clone());
    let new = Inventory { hello: hello.clone(), claims, silent_since: None, roles_since, operator };
    match old {
        Some(old) if same(old, &new) && (!is_ahead || old.hello.generation == hello.generation) => None,
        _ => Some(new),
    }
}

/// What the host claims now.
pub fn claims(inventory: &Inventory) -> impl Iterator<Item = &Claim> {
    inventory.claims.iter().filter(|claim| claim.left_at.is_none())
}

fn same(old: &Inventory, new: &Inventory) -> bool {
    let still = |inventory: &Inventory| Hello { generation: 0, posture: new.hello.posture, ..inventory.hello.clone() };
    still(old) == still(new) && old.claims == new.claims && old.roles_since == new.roles_since && old.silent_since.is_none()
}

/// Names and addresses that a hello claims, in their compared form, each once and in order; true where an address is an internal one.
fn claimed(hello: &Hello) -> impl Iterator<Item = (String, bool)> {
    let internal: Vec<IpAddr> = hello.internal_ips.iter().filter_map(|ip| address(ip)).collect();
    let addresses = hello.ips.iter().filter_map(|ip| address(ip));
    let mut values: BTreeMap<String, bool> = addresses.map(|ip| (ip.to_string(), internal.contains(&ip))).collect();
    values.extend(name(&hello.hostname).map(|name| (name, false)));
    values.into_iter()
}

/// A host name in its compared form: lower case, without the final dot. None for what is no name of a host (RFC 1123, section 2.1), and
/// for those that every host has.
pub fn name(text: &str) -> Option<String> {
    let name = text.trim().trim_end_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let valid = !name.is_empty() && name.len() <= 253 && name.split('.').all(label);
    (valid && short(&name) != "localhost").then_some(name)
}

/// The first label of a name.
pub fn short(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// An address that can tell hosts apart, in its compared form: no zone, no port, IPv4-mapped IPv6 unmapped. None for loopback, link-local,
/// unspecified and multicast ones.
pub fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(text, |(ip, _)| ip);
    let bare = bare.split('%').next().unwrap_or(bare);
    let ip: IpAddr = bare.parse().ok()?;
    let ip = match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 => v4,
    };
    let common = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    (!ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !common).then_some(ip)
}

#[cfg(test)]
mod tests;
