//! Which known hosts a policy takes: by groups, protection, limits, and rules that ask for hosts.

use std::collections::BTreeMap;

use serde::Serialize;

use super::hosts::Hosts;
use super::rule::Rule;
use super::view::{Held, View};
use super::{HostView, Policy};

/// Names that are kept of each.
const FIRST: usize = 5;
/// Scopes that are kept of a limit, the fullest first.
const MOST_SCOPES: usize = 10;

/// What one part of a policy takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// `group`, `protected`, `limit`, `by_host` or `rule`.
    pub what: &'static str,
    pub name: String,
    pub hosts: usize,
    /// Names of the first, in the order given.
    pub first: Vec<String>,
    /// Hosts of which it cannot be told, with the first reason; protection and limits count them as taken.
    pub unclear: usize,
    pub reason: Option<String>,
    /// Of a limit that counts by label, group or role: the hosts of each scope, and how many of them may be isolated at once.
    pub scopes: Vec<Scope>,
}

/// One scope of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Scope {
    /// The label's value, the group or the role; "" where a host has none. None: all that the limit takes.
    pub name: Option<String>,
    pub hosts: u64,
    pub most: Option<u64>,
}

pub(super) fn survey(policy: &Policy, hosts: &[HostView<'_>]) -> Vec<Taken> {
    let view = |host: &HostView<'_>, take: &dyn Fn(&View<'_>) -> Held| take(&View::of_host(*host, Some(&*policy.groups)));
    let count = |what, name: &str, counts_unclear: bool, take: &dyn Fn(&View<'_>) -> Held| {
        let mut taken =
            Taken { what, name: name.to_owned(), hosts: 0, first: Vec::new(), unclear: 0, reason: None, scopes: Vec::new() };
        for host in hosts {
            let held = view(host, take);
            if let Err(message) = &held {
                taken.unclear += 1;
                taken.reason.get_or_insert_with(|| message.clone());
            }
            if held.unwrap_or(counts_unclear) {
                taken.hosts += 1;
                if taken.first.len() < FIRST {
                    taken.first.push(if host.name.is_empty() { host.id } else { host.name }.to_owned());
                }
            }
        }
        taken
    };
    let of = |hosts: &Hosts| {
        let hosts = hosts.clone();
        move |view: &View<'_>| hosts.take(view)
    };
    let mut found = Vec::new();
    for (name, hosts) in policy.groups.iter() {
        found.push(count("group", name, false, &of(hosts)));
    }
    for entry in &policy.protected {
        found.push(count("protected", &entry.name, true, &of(&entry.hosts)));
    }
    for limit in &policy.limits {
        let scopes = scopes(limit, hosts);
        found.push(Taken { scopes, ..count("limit", limit.name(), true, &of(&limit.hosts)) });
    }
    for (at, entry) in policy.by_host.entries.iter().enumerate() {
        found.push(count("by_host", &(at + 1).to_string(), false, &of(&entry.hosts)));
    }
    for rule in policy.rules.iter().filter(|rule| asks_for_hosts(rule)) {
        found.push(count("rule", &rule.name, false, &|view| takes(rule, view)));
    }
    found
}

fn scopes(limit: &super::Limit, hosts: &[HostView<'_>]) -> Vec<Scope> {
    let mut counts: BTreeMap<Option<String>, u64> = BTreeMap::new();
    for scope in hosts.iter().filter(|host| limit.takes(host)).flat_map(|host| limit.scopes(host)) {
        *counts.entry(scope).or_default() += 1;
    }
    let mut scopes: Vec<Scope> = counts.into_iter().map(|(name, hosts)| Scope { name, hosts, most: limit.most(hosts) }).collect();
    scopes.sort_by_key(|scope| std::cmp::Reverse(scope.hosts));
    scopes.truncate(MOST_SCOPES);
    scopes
}

fn asks_for_hosts(rule: &Rule) -> bool {
    rule.matching.iter().any(|condition| condition.is_of_host()) || rule.when.as_ref().is_some_and(|when| when.is_of_host())
}

/// By what it says of hosts alone.
fn takes(rule: &Rule, view: &View<'_>) -> Held {
    for condition in rule.matching.iter().filter(|condition| condition.is_of_host()) {
        if !condition.holds(view)? {
            return Ok(false);
        }
    }
    rule.when.as_ref().filter(|when| when.is_of_host()).map_or(Ok(true), |when| when.holds(view))
}
