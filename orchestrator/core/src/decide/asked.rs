//! What is done when a pending approval ends.

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Decision, IfUnanswered, Notice, NoticeKind, Question, Reason, Request, Severity, Verdict};

use super::breaker::{self, Limited};
use super::words::clock;
use super::{Door, Meta, Outcome, detection, held, request};
use crate::control::{End, Pending};

/// The last decision on an input that was pending.
pub fn decide(door: Door<'_>, pending: &Pending) -> Outcome {
    // It may be answered since it was taken in hand.
    let Some(pending) = door.control.ask(&pending.ask.id) else { return Outcome::default() };
    let end = pending.end.clone().unwrap_or(End::Unanswered { until: pending.ask.until.unwrap_or(Timestamp::MAX_UTC) });
    let meta = Meta { input: pending.input.clone(), at: end.at(), correlation: pending.incident.clone(), faults: Vec::new() };
    let (mut further, mut limited) = (Vec::new(), Limited::default());
    let (verdict, reason) = match &end {
        End::Approved { .. } => (Verdict::Isolate, Reason::Approved { by: pending.approved_by() }),
        End::Denied { by, reason, .. } => (Verdict::Observe, Reason::Denied { by: by.clone(), reason: reason.clone() }),
        End::Unanswered { until } => {
            let wanted = pending.ask.if_unanswered == IfUnanswered::Isolate && pending.ask.question == Question::Isolate;
            // What would hold back the policy's own isolation by now holds back this one.
            let host = door.fleet.host(&pending.host).filter(|_| wanted);
            let isolates = host.is_some_and(|host| {
                further = held::back(door, &meta, &pending.host, host, None, true);
                limited = breaker::judge(door, &meta, &pending.host, host);
                further.append(&mut limited.reasons);
                further.is_empty()
            });
            (if isolates { Verdict::Isolate } else { Verdict::Observe }, Reason::Unanswered { until: *until })
        }
        End::Retracted { .. } => (Verdict::Ignore, Reason::Retracted),
        End::Released { at } => (Verdict::Ignore, Reason::SupersededByRelease { released_at: *at }),
    };
    let host = door.fleet.host(&pending.host);
    // It was ordered before: this decision was not stored, or an order that was taken for lost was.
    let ordered = host.and_then(|host| door.settled(&meta, &pending.host, host));
    let ordered = ordered.filter(|outcome| outcome.decision.as_ref().is_some_and(|decision| decision.generation.is_some()));
    let mut outcome = match verdict {
        _ if ordered.is_some() => ordered.unwrap_or_default(),
        Verdict::Isolate => isolate(door, &meta, pending, &end, reason.clone()),
        _ => door.answer(&meta, Some(&pending.host), verdict, reason.clone()),
    };
    if let Some(decision) = &mut outcome.decision {
        decision.asked = true;
        decision.further.append(&mut further);
        decision.effects.append(&mut limited.effects);
        outcome.notices.append(&mut limited.notices);
        decision.sequence = Some(pending.sequence);
        decision.rule.clone_from(&pending.rule);
        if decision.generation.is_none() {
            decision.incident.clone_from(&pending.incident);
        }
        // Nothing new is ordered where it was before, or where the hold lives already; people said yes all the same.
        if decision.reason != reason && !decision.further.contains(&reason) {
            decision.further.insert(0, reason);
        }
        let text = answered(pending, &end, decision);
        let (kind, severity) = (NoticeKind::Answered, Severity::Medium);
        let (host, incident) = (Some(pending.host.clone()), decision.incident.clone());
        outcome.notices.push(Notice { kind, severity, host, incident, text, outputs: Vec::new() });
    }
    outcome
}

fn isolate(door: Door<'_>, meta: &Meta, pending: &Pending, end: &End, reason: Reason) -> Outcome {
    let Some(host) = door.fleet.host(&pending.host) else { return door.unknown(meta, pending.host.as_str()) };
    if let Some(outcome) = door.settled(meta, &pending.host, host) {
        return outcome;
    }
    if let Some(asked) = &pending.ask.request {
        let request = Request { override_protected: true, ..Request::clone(asked) };
        let mut outcome = request::isolate(door, meta, &pending.host, host, &request);
        if let Some(decision) = &mut outcome.decision
            && decision.reason == Reason::Operator
        {
            decision.reason = reason;
        }
        return outcome;
    }
    let by = match end {
        End::Approved { .. } => format!("approved by {}", pending.approved_by().join(" and ")),
        _ => "unanswered".to_owned(),
    };
    let words = match &pending.rule {
        Some(rule) => format!("rule {rule} on a detection by {}, {by}", pending.input.token),
        None => format!("a detection by {}, {by}", pending.input.token),
    };
    let hold = detection::Automatic {
        rule: pending.rule.as_deref(),
        incident: pending.incident.as_deref(),
        release_after: pending.ask.release_after,
    };
    detection::isolate(door, meta, &pending.host, &hold, reason, &words)
}

fn answered(pending: &Pending, end: &End, decision: &Decision) -> String {
    let what = format!("{} (approval {})", pending.host, pending.ask.id);
    let then = match decision.verdict {
        Verdict::Isolate => "it is isolated",
        Verdict::Release => "it is released",
        _ => "nothing is ordered",
    };
    match end {
        End::Approved { .. } => format!("{what}: approved by {}; {then}", pending.approved_by().join(" and ")),
        End::Denied { by, .. } => format!("{what}: denied by {by}; {then}"),
        End::Unanswered { until } => format!("{what}: no answer came until {}; {then}", clock(*until)),
        End::Retracted { .. } => format!("{what}: the detection was retracted; {then}"),
        End::Released { .. } => format!("{what}: the host was released; {then}"),
    }
}
