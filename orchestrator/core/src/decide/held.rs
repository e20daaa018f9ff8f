//! What holds an isolation by the policy back, each with its figures. Where it is several things at once all of them are named.

use chrono::TimeDelta;
use portcullis_schemas::HostId;
use portcullis_schemas::events::{Detection, Level, Reason};

use super::pause::clock;
use super::{Door, Meta};
use crate::fleet::Host;

/// A sender's clock may be ahead of the broker's by this much.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(5);

/// All that makes a question of it, the most important first.
pub fn back(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host, detection: Option<&Detection>) -> Vec<Reason> {
    let mut held = Vec::new();
    if let Some(as_what) = door.config.protected.get(id) {
        held.push(Reason::Protected { as_what: as_what.clone() });
    }
    if host.inventory.as_deref().is_some_and(|inventory| inventory.hello.level == Level::None) {
        held.push(Reason::CannotEnforce { level: Level::None });
    }
    held.extend(detection.and_then(|detection| out_of_time(door, meta, host, detection)));
    if let Some(leader_since) = door.leader_since.filter(|since| *since - meta.at > door.terms.stale_after.delta()) {
        held.push(Reason::StaleByDowntime { arrived_at: meta.at, leader_since });
    }
    if let Some(pause) = door.control.paused(meta.at) {
        held.push(Reason::Paused { until: pause.until, by: pause.by.clone() });
    }
    held
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
