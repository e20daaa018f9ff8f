//! What a policy would change for hosts that are isolated now, if it were applied to them. It is not: an isolation keeps the terms of its order.

use portcullis_policy::{HostView, Policy};
use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{For, Hold, Level, Origin, Posture};
use serde::Serialize;

use crate::client;
use crate::words;

/// One isolated host that would be isolated otherwise, or not at all.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Effect {
    pub host: String,
    /// Each in words.
    pub changes: Vec<String>,
}

/// Without the older policy only rules that are gone, or isolate nothing any more, can be told.
pub fn of(hosts: &[client::HostView], old: Option<&Policy>, new: &Policy) -> Vec<Effect> {
    let changes = |view: &client::HostView| {
        let order = view.order.as_ref().filter(|order| order.posture == Posture::Isolated)?;
        let mut changes: Vec<String> = order.holds.iter().filter_map(|hold| of_hold(hold, old, new)).collect();
        changes.extend(old.and_then(|old| of_exclusions(view, &order.holds, old, new)));
        (!changes.is_empty()).then(|| Effect { host: view.host.to_string(), changes })
    };
    hosts.iter().filter_map(changes).collect()
}

fn of_hold(hold: &Hold, old: Option<&Policy>, new: &Policy) -> Option<String> {
    let rule = hold.rule.as_deref().filter(|_| hold.origin == Origin::Automatic)?;
    if !new.rules().any(|known| known == rule) {
        return Some(format!("rule {rule} is gone"));
    }
    let Some(after) = new.isolates_for(rule) else { return Some(format!("rule {rule} would not isolate it any more")) };
    let before = old?.isolates_for(rule).filter(|before| *before != after)?;
    Some(match (moved(hold.until, before, after), after) {
        (Some(until), _) => format!("rule {rule} would hold it until {} in place of {}", words::date(until), end(hold.until)),
        (None, For::Never) => format!("rule {rule} would hold it until a person releases it"),
        (None, For::Span(span)) => format!("rule {rule} would hold it for {span}, and it has no deadline now"),
    })
}

fn end(until: Option<Timestamp>) -> String {
    until.map_or_else(|| "no deadline".to_owned(), words::date)
}

/// The end of a hold, if its rule had isolated for so long.
fn moved(until: Option<Timestamp>, before: For, after: For) -> Option<Timestamp> {
    Some(until? - before.span()?.delta() + after.span()?.delta())
}

fn of_exclusions(view: &client::HostView, holds: &[Hold], old: &Policy, new: &Policy) -> Option<String> {
    let inventory = view.inventory.as_ref();
    let operator = inventory.and_then(|inventory| inventory.operator.as_ref());
    let is_manual = holds.iter().any(|hold| hold.origin == Origin::Manual);
    // The host's own list counts, whatever the policy says.
    if is_manual && operator.is_some_and(|operator| operator.exclusions.is_some()) {
        return None;
    }
    let labels = inventory.map(|inventory| inventory.labels().into_owned()).unwrap_or_default();
    let host = HostView {
        id: view.host.as_str(),
        name: view.hostname().unwrap_or_default(),
        labels: &labels,
        roles: inventory.map(|inventory| inventory.hello.roles.as_slice()).unwrap_or_default(),
        level: inventory.map_or(Level::None, |inventory| inventory.hello.level),
    };
    let origin = if is_manual { Origin::Manual } else { Origin::Automatic };
    let rules: Vec<&str> = holds.iter().filter_map(|hold| hold.rule.as_deref()).collect();
    let passes = |policy: &Policy| policy.exclusions(&host, origin, &rules).exclusions;
    let (before, after) = (passes(old), passes(new));
    let names = |of: &[portcullis_schemas::exclusion::Exclusion], other: &[portcullis_schemas::exclusion::Exclusion]| {
        let mut names: Vec<String> =
            of.iter().filter(|exclusion| !other.contains(exclusion)).map(|exclusion| exclusion.name.clone()).collect();
        names.dedup();
        names.join(", ")
    };
    match (names(&after, &before), names(&before, &after)) {
        (more, less) if more.is_empty() && less.is_empty() => None,
        (more, less) if less.is_empty() => Some(format!("would let pass as well: {more}")),
        (more, less) if more.is_empty() => Some(format!("would let pass no more: {less}")),
        (more, less) => Some(format!("would let pass {more}, and no more {less}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{host, order};

    #[test]
    fn isolated_hosts_that_would_be_judged_otherwise_are_named() {
        let text = |rules: &str| format!("version: 1\nrules:\n{rules}  - {{ name: rest, then: observe }}\n");
        let policy = |rules: &str| Policy::parse(&text(rules)).expect("the test's policy is valid");
        let rule = |more: &str| format!("  - {{ name: c2, match: {{ severity: critical }}, {more} }}\n");
        let mut held = host("web1", "web1", &[]);
        let mut isolated = order(3, Posture::Isolated);
        isolated.holds[0].origin = Origin::Automatic;
        isolated.holds[0].rule = Some("c2".into());
        held.order = Some(isolated);
        let mut open = held.clone();
        open.order = Some(order(4, Posture::Open));
        let old = policy(&rule("then: isolate"));
        let rows = [
            (policy(&rule("then: isolate")), None),
            (policy(""), Some("rule c2 is gone")),
            (policy(&rule("then: ignore")), Some("rule c2 would not isolate it any more")),
            (policy(&rule("then: isolate, audit: true")), Some("rule c2 would not isolate it any more")),
            (
                policy(&rule("then: isolate, release_after: 9h")),
                Some("rule c2 would hold it until 2026-11-22 21:00:00 UTC in place of 2026-11-22 20:00:00 UTC"),
            ),
            (
                policy(&rule("then: isolate, exclusions: [dns-client]")),
                Some("would let pass no more: dns-server, dhcp-client, dhcp-server"),
            ),
        ];
        for (new, expected) in rows {
            let found = of(&[open.clone(), held.clone()], Some(&old), &new);
            let changes: Vec<&str> = found.iter().flat_map(|effect| &effect.changes).map(String::as_str).collect();
            match expected {
                Some(expected) => assert_eq!(changes.join("; ").replace("dns-server, dhcp-server, dhcp-client", "?"), expected),
                None => assert!(changes.is_empty(), "{changes:?}"),
            }
            assert!(found.iter().all(|effect| effect.host == "web1"));
        }
    }
}
