//! Detections: admitted, resolved to a host, judged by the policy.

use chrono::TimeDelta;
use portcullis_schemas::events::{
    Detection, Doubtful, For, HostClaim, InputRef, Level, Notice, NoticeKind, Origin, Reason, Severity, Verdict, WaitEnd, Waits,
};
use portcullis_schemas::{HostId, Timestamp};

use super::{Door, Meta, Outcome, Over};
use crate::fleet::Host;
use crate::isolation::{Event, HoldRequest};
use crate::resolve::resolve;
use crate::waiting;
use portcullis_policy::{HostView, Outcome as Judged, Subject};

/// A sender's clock may be ahead of the broker's by this much.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(5);

/// So many hosts that may have been meant are recorded.
const MOST_CANDIDATES: usize = 32;

pub fn decide(door: Door<'_>, meta: &Meta, detection: &Detection) -> Outcome {
    let (id, host) = match about(door, meta, &detection.host, detection.incident.as_deref()) {
        Ok(found) => found,
        Err(outcome) => return *outcome,
    };
    if let Some(retracted) = &detection.retracts {
        return retract(door, meta, &id, host, retracted);
    }
    if let Some((verdict, reason)) = not_admitted(door, meta, detection, host) {
        let mut outcome = door.answer(meta, Some(&id), verdict, reason);
        if verdict == Verdict::Ask {
            outcome.notices.push(ask(Some(&id), meta, detection.incident.as_deref(), "the detection is out of its time"));
        }
        return outcome;
    }
    judge(door, meta, &id, host, detection)
}

/// A detection that cannot be judged: it isolates nobody by itself, and it is not passed over either.
pub fn doubtful(door: Door<'_>, meta: &Meta, doubtful: &Doubtful) -> Outcome {
    let Doubtful { host, incident, member, problem } = doubtful;
    let (id, host) = match about(door, meta, host, incident.as_deref()) {
        Ok(found) => found,
        Err(outcome) => return *outcome,
    };
    if let Some(released_at) = superseded(meta, host) {
        return door.answer(meta, Some(&id), Verdict::Ignore, Reason::SupersededByRelease { released_at });
    }
    let reason = Reason::Unreadable { member: member.clone(), problem: problem.clone() };
    let mut outcome = door.answer(meta, Some(&id), Verdict::Ask, reason);
    outcome.notices.push(ask(Some(&id), meta, incident.as_deref(), &format!("its member {member} cannot be read")));
    outcome
}

/// The host that a detection is about, or the answer where there is none, or the input had its effect.
fn about<'d>(door: Door<'d>, meta: &Meta, claim: &HostClaim, incident: Option<&str>) -> Result<(HostId, &'d Host), Box<Outcome>> {
    let id = resolve(door.fleet, claim, meta.at).map_err(|unresolved| {
        let named = match unresolved.candidates.len() {
            0 => format!("no host has {}", unresolved.wanted),
            hosts => format!("{hosts} hosts have {}, and it names no single one", unresolved.wanted),
        };
        let candidates: Vec<HostId> = unresolved.candidates.into_iter().take(MOST_CANDIDATES).collect();
        // Where several hosts are meant, no other one is waited for: a person is asked at once.
        let awaited = candidates.is_empty().then(|| waiting::claim(claim)).flatten();
        let waits = awaited.map(|host| Box::new(Waits { until: meta.at + door.terms.resolve_within.delta(), host }));
        let is_over = waits.is_none();
        let reason = Reason::Unresolved { wanted: unresolved.wanted, candidates, waits, ended: None };
        let mut outcome = door.answer(meta, None, Verdict::Ask, reason);
        outcome.notices.extend(is_over.then(|| not_acted_on(meta, incident, &named)));
        Box::new(outcome)
    })?;
    let Some(host) = door.fleet.host(&id) else {
        return Err(Box::new(door.unknown(meta, id.as_str())));
    };
    match door.settled(meta, &id, host) {
        Some(outcome) => Err(Box::new(outcome)),
        None => Ok((id, host)),
    }
}

/// Its host has not become known.
pub fn over(door: Door<'_>, meta: &Meta, over: &Over) -> Outcome {
    let Over { wait, end, .. } = over;
    let reason = Reason::Unresolved { wanted: wait.wanted.clone(), candidates: Vec::new(), waits: None, ended: Some(*end) };
    let (verdict, while_it_waited) = match end {
        WaitEnd::TimedOut => (Verdict::Ask, String::new()),
        WaitEnd::PushedOut => (Verdict::Ask, format!("; over {} others wait for theirs", waiting::MOST)),
        WaitEnd::Removed => (Verdict::Ask, "; it was removed from its stream when its host came".to_owned()),
        WaitEnd::Retracted => (Verdict::Ignore, String::new()),
    };
    let mut outcome = door.answer(meta, None, verdict, reason);
    if let Some(decision) = &mut outcome.decision {
        decision.retracts.clone_from(&wait.retracts);
    }
    if verdict == Verdict::Ask {
        let named = format!("no host has {}{while_it_waited}", wait.wanted);
        outcome.notices.push(not_acted_on(meta, wait.incident.as_deref(), &named));
    }
    outcome
}

fn not_acted_on(meta: &Meta, incident: Option<&str>, named: &str) -> Notice {
    let text = format!("{named}; alert {} by {} was not acted on", meta.input.id, meta.input.token);
    Notice { text, ..ask(None, meta, incident, "") }
}

/// The key of what a detection retracts: of its own token's and source's making only.
pub fn retracted(meta: &Meta, id: &str) -> InputRef {
    InputRef { id: id.to_owned(), ..meta.input.clone() }
}

/// The release that came after the input was stored.
fn superseded(meta: &Meta, host: &Host) -> Option<Timestamp> {
    host.order.as_deref().and_then(|order| order.released_at).filter(|released| meta.at <= *released)
}

fn not_admitted(door: Door<'_>, meta: &Meta, detection: &Detection, host: &Host) -> Option<(Verdict, Reason)> {
    let observed_at = detection.observed_at;
    let order = host.order.as_deref();
    if let Some(released_at) = superseded(meta, host) {
        return Some((Verdict::Ignore, Reason::SupersededByRelease { released_at }));
    }
    if let Some(limit) = order.and_then(|order| order.settled_floor).filter(|floor| observed_at < *floor) {
        return Some((Verdict::Ask, Reason::Stale { observed_at, limit }));
    }
    let limit = meta.at - door.terms.stale_after.delta();
    if observed_at < limit {
        return Some((Verdict::Ask, Reason::Stale { observed_at, limit }));
    }
    if observed_at > meta.at + CLOCKS_DIFFER {
        return Some((Verdict::Ask, Reason::FromTheFuture { observed_at }));
    }
    None
}

fn judge(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host, detection: &Detection) -> Outcome {
    let Some(policy) = door.policy else {
        let mut outcome = door.answer(meta, Some(id), Verdict::Ask, Reason::NoPolicy);
        outcome.notices.push(ask(Some(id), meta, detection.incident.as_deref(), "no valid policy is loaded"));
        return outcome;
    };
    let hello = host.inventory.as_deref().map(|inventory| &inventory.hello);
    let none = std::collections::BTreeMap::new();
    let judgement = policy.judge(&Subject {
        detection,
        source: &meta.input.token,
        host: HostView {
            id: id.as_str(),
            name: hello.map_or("", |hello| &hello.hostname),
            labels: hello.map_or(&none, |hello| &hello.labels),
            roles: hello.map_or(&[], |hello| &hello.roles),
            level: hello.map_or(Level::None, |hello| hello.level),
        },
        at: meta.at,
    });
    let rule = judgement.rule;
    let (mut verdict, mut reason, release_after) = match judgement.outcome {
        Judged::Isolate { release_after } => (Verdict::Isolate, Reason::Rule, release_after),
        Judged::Ask(question) => (Verdict::Ask, Reason::Rule, question.release_after),
        Judged::Observe => (Verdict::Observe, Reason::Rule, door.terms.release_after),
        Judged::Ignore => (Verdict::Ignore, Reason::Rule, door.terms.release_after),
        Judged::RuleError(message) => (Verdict::Ask, Reason::RuleError { message }, door.terms.release_after),
        Judged::UnknownSeverity => (Verdict::Ask, Reason::UnknownSeverity, door.terms.release_after),
    };
    if verdict == Verdict::Isolate {
        if let Some(as_what) = door.config.protected.get(id) {
            (verdict, reason) = (Verdict::Ask, Reason::Protected { as_what: as_what.clone() });
        } else if hello.is_some_and(|hello| hello.level == Level::None) {
            (verdict, reason) = (Verdict::Ask, Reason::CannotEnforce { level: Level::None });
        }
    }
    // A dry run records what would have been; it asks nobody and orders nothing.
    if judgement.audit && !matches!(verdict, Verdict::Observe | Verdict::Ignore) {
        (verdict, reason) = (Verdict::Observe, Reason::Audit { would: verdict });
    }
    let mut outcome = match verdict {
        Verdict::Isolate => isolate(door, meta, id, detection, rule, release_after),
        _ => door.answer(meta, Some(id), verdict, reason),
    };
    if let Some(decision) = &mut outcome.decision {
        decision.rule = rule.map(str::to_owned);
        if decision.verdict == Verdict::Ask {
            outcome.notices.push(ask(Some(id), meta, detection.incident.as_deref(), "the policy wants a person to look"));
        }
    }
    outcome
}

fn isolate(door: Door<'_>, meta: &Meta, id: &HostId, detection: &Detection, rule: Option<&str>, release_after: For) -> Outcome {
    // A policy is validated not to ask for longer than it allows; the bound stands here all the same.
    let bounded = door.terms.bound(release_after).unwrap_or(door.terms.max_isolation);
    let incident = super::incident_of(meta, detection.incident.as_deref());
    let asked = HoldRequest {
        origin: Origin::Automatic,
        rule,
        until: bounded.span().map(|span| meta.at + span.delta()),
        longest: door.terms.max_isolation.span().map(|span| span.delta()),
        incident: incident.as_deref(),
        ticket: None,
        note: None,
        exclusions: None,
    };
    let words = format!("rule {} on a detection by {}", rule.unwrap_or("?"), meta.input.token);
    door.order(meta, id, &Event::Hold(asked), Verdict::Isolate, Reason::Rule, &words)
}

fn retract(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host, retracted: &str) -> Outcome {
    let hash = self::retracted(meta, retracted).hash();
    let event = Event::Retract { hash: &hash, cause_at: meta.at };
    let was_isolated = host.order.as_deref().is_some_and(|order| !order.holds.is_empty());
    let mut outcome = door.order(meta, id, &event, Verdict::Release, Reason::Retracted, "the cause was retracted");
    if let (Some(decision), Some(order)) = (&mut outcome.decision, &outcome.order) {
        let opened = was_isolated && order.holds.is_empty();
        if !opened {
            decision.verdict = Verdict::Ignore;
            let known = host.order.as_deref().is_some_and(|before| before.holds.len() != order.holds.len());
            decision.reason = if known { Reason::Retracted } else { Reason::NothingToRetract };
        }
    }
    outcome
}

fn ask(host: Option<&HostId>, meta: &Meta, incident: Option<&str>, why: &str) -> Notice {
    Notice {
        kind: NoticeKind::Ask,
        severity: Severity::High,
        host: host.cloned(),
        incident: Some(super::incident(meta, incident)),
        text: format!("a detection by {} waits for a person: {why}", meta.input.token),
        outputs: Vec::new(),
    }
}
