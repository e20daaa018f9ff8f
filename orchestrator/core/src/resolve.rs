//! Which host a detection or an operator means: exactly one, or none.
//!
//! A host id names its host. Everything else is evidence: each name and address that any host claims stands for the hosts that have it, and
//! the host that is meant is the one that has all of them. What several hosts have decides nothing by itself.
//!
//! What a host says of itself is a claim, so a newcomer takes and hides nothing: for a day, a name or address stays with the host that held
//! it long before. From then on both have it, since two hosts may well have the same one (a cloned name, a private network behind each of two
//! routers), and then neither guess is safe. Internal addresses (docker0) are no evidence at all where several hosts have them, and from the
//! first moment on.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use portcullis_schemas::events::{Claim, HostClaim, Inventory};
use portcullis_schemas::{HostId, Timestamp};

use crate::fleet::Fleet;
use crate::inventory::{self, address, name, short};

/// A host that has claimed something for so much longer than another keeps it while the other is on probation.
pub const ESTABLISHED_AFTER: TimeDelta = TimeDelta::hours(1);
pub const PROBATION: TimeDelta = TimeDelta::hours(24);
/// What a host claimed that has been silent for this long is free for others.
pub const FREE_AFTER: TimeDelta = TimeDelta::hours(24);

/// No host, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    pub wanted: String,
    pub candidates: Vec<HostId>,
}

/// The host of this id; else the one that has every name and address of `claim` that can tell hosts apart. Names and addresses that no host
/// has are passed over, and so is an id that no host has (a vendor's own, say).
pub fn resolve(fleet: &Fleet, claim: &HostClaim, now: Timestamp) -> Result<HostId, Unresolved> {
    let id = claim.id.as_deref().and_then(|id| id.parse::<HostId>().ok());
    if let Some(known) = id.filter(|id| fleet.host(id).is_some()) {
        return Ok(known);
    }
    let texts = claim.hostname.iter().chain(&claim.ips);
    let found: Vec<Holders> = texts.map(|text| holders(fleet, text, now)).filter(|found| !found.hosts.is_empty()).collect();
    let telling: Vec<&BTreeSet<HostId>> = found.iter().filter(|found| found.tell_apart).map(|found| &found.hosts).collect();
    let common = telling.split_first().map(|(first, rest)| {
        let in_all = |host: &&HostId| rest.iter().all(|hosts| hosts.contains(*host));
        first.iter().filter(in_all).cloned().collect::<Vec<HostId>>()
    });
    match common.as_deref() {
        Some([host]) => Ok(host.clone()),
        Some(several) if !several.is_empty() => Err(Unresolved { wanted: wanted(claim), candidates: several.to_vec() }),
        // They contradict each other, or none of them tells hosts apart.
        _ => {
            let all: BTreeSet<HostId> = found.into_iter().flat_map(|found| found.hosts).collect();
            Err(Unresolved { wanted: wanted(claim), candidates: all.into_iter().collect() })
        }
    }
}

/// Whether this is a name, short name or address that the host claims.
pub fn is_called(inventory: &Inventory, text: &str) -> bool {
    let exact = |value: &str| inventory::claims(inventory).any(|claim| claim.value == value);
    match (address(text), name(text)) {
        (Some(address), _) => exact(&address.to_string()),
        (None, Some(name)) => exact(&name) || inventory::claims(inventory).any(|claim| is_alike(claim, &name)),
        (None, None) => false,
    }
}

/// The host with which `value` stays while a newcomer that claims it from `at` on is on probation; None where it names neither.
pub fn keeper<'a>(fleet: &'a Fleet, value: &str, at: Timestamp) -> Option<(&'a HostId, &'a Claim)> {
    let held = fleet.claimants(value).iter().filter_map(|id| held(fleet, id, |claim| claim.value == value));
    let (mut established, mut others) = (None, 0);
    for held in held {
        match held.keeps_from(at) {
            true if established.is_none() => established = Some((held.id, held.claim)),
            _ => others += 1,
        }
    }
    established.filter(|_| others == 0)
}

/// The hosts that have a name or an address, and whether it tells hosts apart.
struct Holders {
    hosts: BTreeSet<HostId>,
    tell_apart: bool,
}

fn holders(fleet: &Fleet, text: &str, now: Timestamp) -> Holders {
    let (exact, alike) = match (address(text), name(text)) {
        (Some(address), _) => {
            (all(fleet, fleet.claimants(&address.to_string()), |claim| claim.value == address.to_string()), Vec::new())
        }
        (None, Some(name)) => (
            all(fleet, fleet.claimants(&name), |claim| claim.value == name),
            all(fleet, fleet.called_alike(short(&name)), |claim| claim.value != name && is_alike(claim, &name)),
        ),
        (None, None) => (Vec::new(), Vec::new()),
    };
    // Who has the very name is meant, but not by taking it from one that was called so long before.
    let counts = |alike: &Held<'_>| exact.iter().all(|exact| alike.is_established_at(exact.claim.since));
    let mut all: Vec<Held<'_>> = alike.into_iter().filter(counts).collect();
    all.extend(exact);
    let free = |held: &Held<'_>| held.silent_since.is_some_and(|since| now - since > FREE_AFTER);
    let living: Vec<&Held<'_>> = match all.iter().all(free) {
        true => all.iter().collect(),
        false => all.iter().filter(|held| !free(held)).collect(),
    };
    let on_probation =
        |held: &&&Held<'_>| now - held.claim.since < PROBATION && living.iter().any(|other| other.keeps_from(held.claim.since));
    let have: Vec<&Held<'_>> = living.iter().filter(|held| !on_probation(held)).copied().collect();
    Holders {
        hosts: have.iter().map(|held| held.id.clone()).collect(),
        tell_apart: have.len() == 1 || have.iter().all(|held| !held.claim.internal),
    }
}

/// A claim with whose it is.
struct Held<'a> {
    id: &'a HostId,
    claim: &'a Claim,
    silent_since: Option<Timestamp>,
}

impl Held<'_> {
    /// Whether it stays with this host against one that claims it from `since` on. One that is silent may be gone.
    fn keeps_from(&self, since: Timestamp) -> bool {
        !self.claim.internal && self.silent_since.is_none() && self.is_established_at(since)
    }

    fn is_established_at(&self, time: Timestamp) -> bool {
        time - self.claim.since >= ESTABLISHED_AFTER
    }
}

fn all<'a>(fleet: &'a Fleet, ids: &[HostId], fits: impl Fn(&Claim) -> bool) -> Vec<Held<'a>> {
    ids.iter().filter_map(|id| held(fleet, id, &fits)).collect()
}

fn held<'a>(fleet: &'a Fleet, id: &HostId, fits: impl Fn(&Claim) -> bool) -> Option<Held<'a>> {
    let (id, host) = fleet.entry(id)?;
    let inventory = host.inventory.as_deref()?;
    let claim = inventory::claims(inventory).find(|claim| fits(claim))?;
    Some(Held { id, claim, silent_since: inventory.silent_since })
}

/// A host may call itself by its short name where others know the full one, and the other way round.
fn is_alike(claim: &Claim, name: &str) -> bool {
    let wanted = short(name);
    let is_short = name == wanted;
    claim.value == wanted || (is_short && address(&claim.value).is_none() && short(&claim.value) == wanted)
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
