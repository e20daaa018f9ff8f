//! Hosts: those that are away, that differ from their orders, that are ahead of the log, and whose agents are of other versions.

use std::collections::BTreeMap;

use portcullis_core::status::Status;
use portcullis_schemas::Timestamp;

use super::{Finding, few};
use crate::client::{Fleet, HostView};
use crate::words;

pub fn judge(fleet: &Fleet, now: Timestamp) -> Vec<Finding> {
    let mut found = Vec::new();
    let of = |wanted: Status| -> Vec<String> {
        fleet.hosts.iter().filter(|view| view.status(now) == wanted).map(|view| view.host.to_string()).collect()
    };
    let hosts = |all: &[String]| format!("{}: {}", words::count(all.len() as u64, "host", "hosts"), few(all));
    let (unreachable, failed) = (of(Status::Unreachable), of(Status::Failed));
    let drift: Vec<String> =
        fleet.hosts.iter().filter(|view| view.status(now) == Status::Drift && !is_ahead(view)).map(name).collect();
    if !unreachable.is_empty() {
        let says = format!("unreachable, {}", hosts(&unreachable));
        found.push(Finding::warn(
            "hosts",
            says,
            "see whether they run, their agents, and their way to the broker; `portcullis show HOST`",
        ));
    }
    for (what, all) in [("differ from their orders", &drift), ("cannot enforce their orders", &failed)] {
        if !all.is_empty() {
            let says = format!("{what}, {}", hosts(all));
            found.push(Finding::fail(
                "hosts",
                says,
                "`portcullis show HOST` says what they report; `portcullis-agent doctor` on the host, why",
            ));
        }
    }
    if !fleet.unreadable.is_empty() {
        let says = format!("last messages that cannot be read: {}", few(&fleet.unreadable));
        found.push(Finding::fail("hosts", says, "find out who publishes there; a host may be isolated, and is not shown so"));
    }
    if found.is_empty() {
        found.push(Finding::ok("hosts", format!("{}, all as ordered", words::count(fleet.hosts.len() as u64, "host", "hosts"))));
    }
    found.push(ahead(fleet));
    found.extend(versions(fleet));
    found
}

fn name(view: &HostView) -> String {
    view.host.to_string()
}

/// What the host itself reported last.
fn reported(view: &HostView) -> u64 {
    let state = view.state.as_ref().map_or(0, |state| state.generation);
    state.max(view.inventory.as_ref().map_or(0, |inventory| inventory.hello.generation))
}

fn is_ahead(view: &HostView) -> bool {
    reported(view) > view.order.as_ref().map_or(0, |order| order.generation)
}

fn ahead(fleet: &Fleet) -> Finding {
    let ahead: Vec<String> = fleet
        .hosts
        .iter()
        .filter(|view| is_ahead(view))
        .map(|view| {
            let ordered = view.order.as_ref().map_or_else(|| "none".to_owned(), |order| format!("no. {}", order.generation));
            format!("{} (reports order no. {}, ORDERS has {ordered})", view.host, reported(view))
        })
        .collect();
    if ahead.is_empty() {
        return Finding::ok("orders", "no host reports an order that ORDERS does not hold");
    }
    let says = format!(
        "ORDERS is behind {}: {}; it was lost, or restored from an old copy",
        words::count(ahead.len() as u64, "host", "hosts"),
        few(&ahead)
    );
    let remedy = "a running orchestrator orders each again above what it reports, within a minute; where that lasts, it is over 1,000 ahead: look at the host";
    Finding::fail("orders", says, remedy)
}

fn versions(fleet: &Fleet) -> Option<Finding> {
    let own = env!("CARGO_PKG_VERSION");
    let mut all: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for view in &fleet.hosts {
        if let Some(inventory) = &view.inventory {
            all.entry(inventory.hello.agent_version.as_str()).or_default().push(name(view));
        }
    }
    if all.is_empty() {
        return None;
    }
    all.remove(own);
    if all.is_empty() {
        return Some(Finding::ok("agents", format!("all of version {own}")));
    }
    let others: Vec<String> =
        all.iter().map(|(version, hosts)| format!("{} on {}", words::short(version, 20), few(hosts))).collect();
    let says = format!("agents of another version than {own}: {}", others.join("; "));
    Some(Finding::warn("agents", says, format!("upgrade them to {own}; an isolation stays in force meanwhile")))
}
