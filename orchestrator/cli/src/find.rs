//! Which host is meant: an id, or a name or address that exactly one host has.

use portcullis_core::Fleet;
use portcullis_core::resolve::resolve;
use portcullis_schemas::events::HostClaim;
use portcullis_schemas::{HostId, Timestamp};

use crate::client::{Client, HostView};
use crate::failure::{Candidate, Failure};
use crate::natural;

pub async fn find<C: Client>(client: &C, wanted: &str, now: Timestamp) -> Result<HostView, Failure> {
    // An exact id needs no look at the whole fleet.
    if let Ok(id) = wanted.parse::<HostId>() {
        let view = client.host(&id).await?;
        if view.is_known() {
            return Ok(view);
        }
    }
    let mut hosts = client.fleet().await?.hosts;
    let at = pick(&hosts, wanted, now)?;
    Ok(hosts.swap_remove(at))
}

/// An exact id wins, then an id in other case, then the host that a detection with this name or address would be about.
pub fn pick(hosts: &[HostView], wanted: &str, now: Timestamp) -> Result<usize, Failure> {
    let wanted = wanted.trim();
    let by_id = |fits: &dyn Fn(&str) -> bool| hosts.iter().position(|view| fits(view.host.as_str()));
    if let Some(at) = by_id(&|id| id == wanted).or_else(|| by_id(&|id| id.eq_ignore_ascii_case(wanted))) {
        return Ok(at);
    }
    let mut fleet = Fleet::default();
    for inventory in hosts.iter().filter_map(|view| view.inventory.clone()) {
        fleet.take_inventory(inventory, now);
    }
    let claim = HostClaim { hostname: Some(wanted.to_owned()), ..HostClaim::default() };
    let candidates = match resolve(&fleet, &claim, now) {
        Ok(host) => vec![host],
        Err(unresolved) => unresolved.candidates,
    };
    let found: Vec<usize> = candidates.iter().filter_map(|host| by_id(&|id| id == host.as_str())).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(Failure::NoHost { wanted: wanted.to_owned(), known: hosts.len(), similar: similar(hosts, wanted) }),
        several => {
            let mut candidates: Vec<Candidate> = several.iter().filter_map(|at| hosts.get(*at)).map(candidate).collect();
            candidates.sort_by(|one, other| natural::compare(&one.host, &other.host));
            Err(Failure::SeveralHosts { wanted: wanted.to_owned(), candidates })
        }
    }
}

fn similar(hosts: &[HostView], wanted: &str) -> Vec<Candidate> {
    const MOST: usize = 5;
    let wanted = wanted.to_ascii_lowercase();
    let start: String = wanted.chars().take(3).collect();
    let close = |name: &str| {
        let name = name.to_ascii_lowercase();
        (wanted.len() >= 2 && name.contains(&wanted)) || (start.len() >= 3 && name.starts_with(&start))
    };
    let fits = |view: &&HostView| close(view.host.as_str()) || view.hostname().is_some_and(close);
    let mut similar: Vec<Candidate> = hosts.iter().filter(fits).map(candidate).collect();
    similar.sort_by(|one, other| natural::compare(&one.host, &other.host));
    similar.truncate(MOST);
    similar
}

fn candidate(view: &HostView) -> Candidate {
    Candidate { host: view.host.to_string(), hostname: view.hostname().map(str::to_owned) }
}

#[cfg(test)]
mod tests;
