//! Which host is meant: an id, or a name or address that exactly one host has.

use std::net::IpAddr;

use portcullis_schemas::HostId;

use crate::client::{Client, HostView};
use crate::failure::{Candidate, Failure};

pub async fn find<C: Client>(client: &C, wanted: &str) -> Result<HostView, Failure> {
    // An exact id needs no look at the whole fleet.
    if let Ok(id) = wanted.parse::<HostId>() {
        let view = client.host(&id).await?;
        if view.is_known() {
            return Ok(view);
        }
    }
    let mut hosts = client.fleet().await?.hosts;
    let at = pick(&hosts, wanted)?;
    Ok(hosts.swap_remove(at))
}

/// An exact id wins, then an id in other case, then names and addresses.
pub fn pick(hosts: &[HostView], wanted: &str) -> Result<usize, Failure> {
    let wanted = wanted.trim();
    let all = |fits: &dyn Fn(&HostView) -> bool| -> Vec<usize> {
        hosts.iter().enumerate().filter(|(_, view)| fits(view)).map(|(at, _)| at).collect()
    };
    let ways: [&dyn Fn(&HostView) -> bool; 3] =
        [&|view| view.host.as_str() == wanted, &|view| view.host.as_str().eq_ignore_ascii_case(wanted), &|view| {
            is_called(view, wanted)
        }];
    let found = ways.into_iter().map(all).find(|found| !found.is_empty()).unwrap_or_default();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(Failure::NoHost { wanted: wanted.to_owned(), known: hosts.len(), similar: similar(hosts, wanted) }),
        several => Err(Failure::SeveralHosts {
            wanted: wanted.to_owned(),
            candidates: several.iter().filter_map(|at| hosts.get(*at)).map(candidate).collect(),
        }),
    }
}

/// Is `name` a name, short name or address of this host?
pub fn is_called(view: &HostView, name: &str) -> bool {
    let address = name.parse::<IpAddr>().ok();
    let Some(inventory) = &view.inventory else { return false };
    let claims = inventory.claims.iter().map(|claim| claim.value.as_str());
    let ips = inventory.hello.ips.iter().map(String::as_str);
    std::iter::once(inventory.hello.hostname.as_str()).chain(claims).chain(ips).any(|known| match address {
        Some(address) => known.parse() == Ok(address),
        None => same_name(known, name),
    })
}

fn same_name(known: &str, name: &str) -> bool {
    if known.is_empty() || known.parse::<IpAddr>().is_ok() {
        return false;
    }
    let (known, name) = (known.trim_end_matches('.'), name.trim_end_matches('.'));
    let short = known.split('.').next().unwrap_or(known);
    known.eq_ignore_ascii_case(name) || short.eq_ignore_ascii_case(name)
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
    hosts.iter().filter(fits).take(MOST).map(candidate).collect()
}

fn candidate(view: &HostView) -> Candidate {
    Candidate { host: view.host.to_string(), hostname: view.hostname().map(str::to_owned) }
}

#[cfg(test)]
mod tests;
