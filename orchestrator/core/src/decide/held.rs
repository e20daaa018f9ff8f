//! What holds an isolation by the policy back, each with its figures. Where it is several things at once all of them are named.

use chrono::TimeDelta;
use portcullis_schemas::events::{Detection, LastRelease, Level, Posture, Reason, ReleasedBy};
use portcullis_schemas::{HostId, Timestamp};

use super::words::clock;
use super::{Door, Meta};
use crate::fleet::Host;
use crate::subject::Subject;

/// A sender's clock may be ahead of the broker's by this much.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(5);

/// Roles that protect a host which has them for long enough, or by an operator's word.
const PROTECTING: [&str; 8] = [
    "kubernetes-control-plane",
    "hypervisor",
    "router",
    "dns-server",
    "dhcp-server",
    "directory-server",
    "network-root",
    "cluster-quorum",
];
/// A host that was just taken may call itself anything.
const REPORTED_FOR: TimeDelta = TimeDelta::hours(24);

/// All that makes a question of it, the most important first. `isolates`: the policy itself asks for no person.
pub fn back(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host, detection: Option<&Detection>, isolates: bool) -> Vec<Reason> {
    let mut held: Vec<Reason> =
        protections(door, id, host, meta.at).into_iter().map(|as_what| Reason::Protected { as_what }).collect();
    if host.inventory.as_deref().is_some_and(|inventory| inventory.hello.level == Level::None) {
        held.push(Reason::CannotEnforce { level: Level::None });
    }
    held.extend(detection.and_then(|detection| out_of_time(door, meta, host, detection)));
    if let Some(leader_since) = door.leader_since.filter(|since| *since - meta.at > door.terms.stale_after.delta()) {
        held.push(Reason::StaleByDowntime { arrived_at: meta.at, leader_since });
    }
    if isolates {
        held.extend(of_source(door, meta, host));
        held.extend(cooling_down(door, meta, host).map(|(_, reason)| reason));
    }
    if let Some(pause) = door.control.paused(meta.at) {
        held.push(Reason::Paused { until: pause.until, by: pause.by.clone() });
    }
    held
}

/// The release of a host after which the same rule does not isolate it at once.
pub fn calm(door: Door<'_>, meta: &Meta, host: &Host, rule: Option<&str>) -> Option<Reason> {
    let last = last_release(host)?;
    let held = rule.is_some_and(|rule| last.rules.iter().any(|held| held == rule));
    let hold_off = door.terms.hold_off.delta();
    let cool_down = cooling_down(door, meta, host).map_or(TimeDelta::zero(), |(span, _)| span);
    let span = hold_off.max(cool_down);
    let until = last.at + span;
    (held && !span.is_zero() && meta.at < until).then(|| Reason::CoolDown { released_at: last.at, until, by: last.who.clone() })
}

/// Why the host is protected, in words.
pub fn protections(door: Door<'_>, id: &HostId, host: &Host, now: Timestamp) -> Vec<String> {
    let subject = Subject::of(id, host);
    let view = subject.view();
    let configured = door.config.protected.get(id).cloned();
    let by_policy = door.policy.map(|policy| policy.protected(&view)).unwrap_or_default();
    let has_role = |role: &&&str| confirmed(host, role) || reported(host, role).is_some_and(|since| now - since >= REPORTED_FOR);
    let by_role = PROTECTING.iter().filter(has_role).map(|role| format!("role {role}"));
    configured.into_iter().chain(by_policy.into_iter().map(str::to_owned)).chain(by_role).collect()
}

/// Roles that would protect the host, had it not claimed them only lately.
pub fn lately_claimed(host: &Host, now: Timestamp) -> Vec<&'static str> {
    let is_new = |role: &&&str| !confirmed(host, role) && reported(host, role).is_some_and(|since| now - since < REPORTED_FOR);
    PROTECTING.iter().filter(is_new).copied().collect()
}

/// By an operator. What a host says of itself confirms nothing.
fn confirmed(host: &Host, role: &str) -> bool {
    let word = host.inventory.as_deref().and_then(|inventory| inventory.operator.as_ref());
    let label = word.and_then(|word| word.labels.get(&format!("role.{role}")));
    label.is_some_and(|label| label.as_deref() == Some("confirmed"))
}

/// Since when the host has said that it has a role. One whose time is not known is not trusted yet.
fn reported(host: &Host, role: &str) -> Option<Timestamp> {
    let inventory = host.inventory.as_deref().filter(|inventory| inventory.hello.roles.iter().any(|known| known == role))?;
    Some(inventory.roles_since.get(role).copied().unwrap_or(Timestamp::MAX_UTC))
}

fn of_source(door: Door<'_>, meta: &Meta, host: &Host) -> Vec<Reason> {
    let source = &meta.input.token;
    let Some(terms) = door.policy.map(|policy| policy.source_terms(source)) else { return Vec::new() };
    let barred = (!terms.may_isolate).then(|| Reason::SourceMayNotIsolate { source: source.clone() });
    let rate = terms.rate.filter(|_| host.incident().is_none()).and_then(|rate| {
        let isolated = door.fleet.tally().by_source(source, rate.per, meta.at);
        (isolated >= rate.count).then(|| Reason::SourceRate { source: source.clone(), isolated, most: rate.count, per: rate.per })
    });
    barred.into_iter().chain(rate).collect()
}

/// The time after an operator's release in which no rule isolates the host by itself.
fn cooling_down(door: Door<'_>, meta: &Meta, host: &Host) -> Option<(TimeDelta, Reason)> {
    let last = last_release(host).filter(|last| last.by == ReleasedBy::Operator)?;
    let span = door.terms.cool_down.delta();
    let until = last.at + span;
    (meta.at < until).then(|| (span, Reason::CoolDown { released_at: last.at, until, by: last.who.clone() }))
}

/// Of an open host.
fn last_release(host: &Host) -> Option<&LastRelease> {
    host.order.as_deref().filter(|order| order.posture == Posture::Open).and_then(|order| order.last_release.as_ref())
}

fn out_of_time(door: Door<'_>, meta: &Meta, host: &Host, detection: &Detection) -> Option<Reason> {
    let observed_at = detection.observed_at;
    let floor = host.order.as_deref().and_then(|order| order.settled_floor);
    let oldest = meta.at - door.terms.stale_after.delta();
    if let Some(limit) = floor.filter(|floor| observed_at < *floor).or((observed_at < oldest).then_some(oldest)) {
        return Some(Reason::Stale { observed_at, limit });
    }
    (observed_at > meta.at + CLOCKS_DIFFER).then_some(Reason::FromTheFuture { observed_at })
}

/// What a person reads of a reason for which they are asked.
pub fn words(reason: &Reason) -> String {
    match reason {
        Reason::Rule => "the policy asks".to_owned(),
        Reason::Protected { as_what } => format!("the host is protected ({as_what})"),
        Reason::CannotEnforce { .. } => "the host's agent cannot enforce an isolation".to_owned(),
        Reason::Stale { observed_at, .. } => format!("it was observed long ago, at {}", clock(*observed_at)),
        Reason::FromTheFuture { observed_at } => {
            format!("it says that it was observed later than now, at {}", clock(*observed_at))
        }
        Reason::StaleByDowntime { arrived_at, leader_since } => {
            format!("it came at {}, and no orchestrator led until {}", clock(*arrived_at), clock(*leader_since))
        }
        Reason::Paused { by, until } => format!("{by} paused automatic isolation until {}", clock(*until)),
        Reason::SourceMayNotIsolate { source } => format!("the policy lets source {source} isolate no host"),
        Reason::SourceRate { source, isolated, per, .. } => format!("source {source} isolated {isolated} hosts within {per}"),
        Reason::CoolDown { until, .. } => format!("it was released by an operator; the cool-down lasts until {}", clock(*until)),
        Reason::BlastRadius { limit, isolated, base, most, .. } => {
            format!("limit {limit} is reached: {isolated} of {base} hosts are isolated, at most {most} may be")
        }
        Reason::IsolationRate { limit, isolated, most, per, .. } => {
            format!("limit {limit} is reached: {isolated} hosts were isolated within {per}, at most {most} may be")
        }
        Reason::Breaker { limit, breaker, .. } => format!("breaker {breaker} of limit {limit} is tripped"),
        Reason::NoPolicy => "no valid policy is loaded".to_owned(),
        Reason::RuleError { message } => format!("a condition of the rule cannot be evaluated: {message}"),
        Reason::UnknownSeverity => "its severity is unknown".to_owned(),
        Reason::Unreadable { member, .. } => format!("its member {member} cannot be read"),
        _ => "the policy wants a person to look".to_owned(),
    }
}

pub fn all_words(reasons: &[Reason]) -> String {
    reasons.iter().map(words).collect::<Vec<_>>().join("; ")
}
