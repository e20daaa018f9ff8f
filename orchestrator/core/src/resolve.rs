//! Which host a detection is about: exactly one, or none.

use portcullis_schemas::events::HostClaim;
use portcullis_schemas::{HostId, Timestamp};

use crate::fleet::{Fleet, SILENT_AFTER};
use crate::inventory::{address, name, short};

/// No host, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    pub wanted: String,
    pub candidates: Vec<HostId>,
}

/// Tries the id, then the full name, then a short name that only one host has, then the addresses. The first of these that names any host
/// decides; one that names nobody (a vendor's own id, say) is passed over.
pub fn resolve(fleet: &Fleet, claim: &HostClaim, now: Timestamp) -> Result<HostId, Unresolved> {
    if let Some(id) = claim.id.as_deref() {
        let known = id.parse::<HostId>().ok().filter(|id| fleet.host(id).is_some());
        if let Some(known) = known {
            return Ok(known);
        }
    }
    if let Some(name) = claim.hostname.as_deref().and_then(name) {
        match by_name(fleet, &name, now).as_slice() {
            [] => {}
            [host] => return Ok(host.clone()),
            several => return Err(Unresolved { wanted: name, candidates: several.to_vec() }),
        }
    }
    let mut found: Vec<HostId> = Vec::new();
    for ip in claim.ips.iter().filter_map(|ip| address(ip)) {
        found.extend(holders(fleet, &ip.to_string(), now));
    }
    found.sort();
    found.dedup();
    match found.as_slice() {
        [host] => Ok(host.clone()),
        _ => Err(Unresolved { wanted: wanted(claim), candidates: found }),
    }
}

fn by_name(fleet: &Fleet, name: &str, now: Timestamp) -> Vec<HostId> {
    let full = holders(fleet, name, now);
    if !full.is_empty() {
        return full;
    }
    // A host may call itself by its short name where the sender knows the full one, and the other way round.
    let wanted = short(name);
    let same = |host: &&HostId| {
        fleet.host(host).and_then(|host| host.inventory.as_ref()).is_some_and(|inventory| {
            inventory.claims.iter().any(|claim| {
                (claim.value == wanted) || (name == wanted && address(&claim.value).is_none() && short(&claim.value) == wanted)
            })
        })
    };
    let mut hosts: Vec<HostId> = fleet.hosts().map(|(id, _)| id).filter(same).cloned().collect();
    if hosts.len() > 1 {
        // Of hosts with the very same name the one that held it first wins.
        let exact = holders(fleet, wanted, now);
        let all_exact = hosts.iter().all(|host| fleet.claimants(wanted).contains(host));
        if all_exact {
            hosts = exact;
        }
    }
    hosts
}

/// The host that holds a name or an address: the one that claimed it first. Where that one is silent and another claims it now, neither is
/// certain, and both are returned.
fn holders(fleet: &Fleet, value: &str, now: Timestamp) -> Vec<HostId> {
    let since = |id: &HostId| {
        let inventory = fleet.host(id)?.inventory.as_ref()?;
        Some(inventory.claims.iter().find(|claim| claim.value == value)?.since)
    };
    let mut claimants: Vec<&HostId> = fleet.claimants(value).iter().collect();
    claimants.sort_by_key(|id| (since(id), id.as_str().to_owned()));
    let Some(first) = claimants.first() else {
        return Vec::new();
    };
    let silent = fleet.host(first).and_then(|host| host.heard_at).is_none_or(|heard| now - heard > SILENT_AFTER);
    if silent && claimants.len() > 1 {
        return claimants.into_iter().cloned().collect();
    }
    vec![(*first).clone()]
}

fn wanted(claim: &HostClaim) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend(claim.id.iter().map(|id| format!("id {id}")));
    parts.extend(claim.hostname.iter().map(|name| format!("name {name}")));
    parts.extend(claim.ips.iter().take(8).map(|ip| format!("address {ip}")));
    parts.join(", ").chars().take(400).collect()
}

#[cfg(test)]
mod tests;
