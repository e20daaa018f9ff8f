//! Detections: admitted, resolved to a host, judged by the policy.

use portcullis_schemas::events::{
    Detection, Doubtful, Effect, For, HostClaim, IfUnanswered, InputRef, Notice, NoticeKind, Origin, Reason, Severity, Verdict,
    WaitEnd, Waits,
};
use portcullis_schemas::{HostId, ids};

use super::asking::Asking;
use super::breaker::{self, Limited};
use super::{Door, Meta, Outcome, Over, asking, held, words};
use crate::fleet::Host;
use crate::isolation::{self, Event, HoldRequest};
use crate::resolve::resolve;
use crate::waiting;
use portcullis_policy::{Outcome as Judged, Question, Subject, Threshold};

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
    if let Some(released_at) = words::superseded(meta, host) {
        return door.answer(meta, Some(&id), Verdict::Ignore, Reason::SupersededByRelease { released_at });
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
    if let Some(released_at) = words::superseded(meta, host) {
        return door.answer(meta, Some(&id), Verdict::Ignore, Reason::SupersededByRelease { released_at });
    }
    let reason = Reason::Unreadable { member: member.clone(), problem: problem.clone() };
    let asking = Asking { incident: incident.as_deref(), ..Asking::isolate(door, held::words(&reason)) };
    asking::begin(door, meta, &id, reason, asking)
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
    Notice {
        kind: NoticeKind::Ask,
        severity: Severity::High,
        host: None,
        incident: Some(super::incident(meta, incident)),
        text: format!("{named}; alert {} by {} was not acted on", meta.input.id, meta.input.token),
        outputs: Vec::new(),
    }
}

/// The key of what a detection retracts: of its own token's and source's making only.
pub fn retracted(meta: &Meta, id: &str) -> InputRef {
    InputRef { id: id.to_owned(), ..meta.input.clone() }
}

fn judge(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host, detection: &Detection) -> Outcome {
    let incident = detection.incident.as_deref();
    let Some(policy) = door.policy else {
        let reasons = with(Some(Reason::NoPolicy), held::back(door, meta, id, host, Some(detection), false));
        return hold_back(door, meta, id, reasons, Asking { incident, ..Asking::isolate(door, "") });
    };
    let subject = crate::subject::Subject::of(id, host);
    let judgement = policy.judge(&Subject { detection, source: &meta.input.token, host: subject.view(), at: meta.at });
    let rule = judgement.rule;
    let asking = Asking { rule, incident, outputs: judgement.notify, ..Asking::isolate(door, "") };
    // What the policy itself asks for; None: it isolates.
    let (asks, asking) = match judgement.outcome {
        Judged::Isolate { release_after } => (None, Asking { release_after, ..asking }),
        Judged::Ask(Question { approvals, ask_for, if_unanswered, release_after }) => {
            (Some(Reason::Rule), Asking { approvals, ask_for, if_unanswered, release_after, ..asking })
        }
        Judged::Observe => return passed(door, meta, id, rule, Verdict::Observe),
        Judged::Ignore => return passed(door, meta, id, rule, Verdict::Ignore),
        Judged::RuleError(message) => (Some(Reason::RuleError { message }), asking),
        Judged::UnknownSeverity => (Some(Reason::UnknownSeverity), asking),
    };
    let counted = judgement.threshold.zip(rule).map(|(threshold, rule)| count(door, meta, id, rule, threshold, detection));
    if let Some((reason, counted)) = counted.as_ref().and_then(|(below, counted)| Some((below.clone()?, counted.clone()))) {
        let mut outcome = passed(door, meta, id, rule, Verdict::Observe);
        if let Some(decision) = &mut outcome.decision {
            (decision.reason, decision.effects) = (reason, vec![counted]);
        }
        return outcome;
    }
    let isolates = asks.is_none();
    let calm = held::calm(door, meta, host, rule).filter(|_| isolates);
    let mut outcome = match calm {
        Some(reason) if judgement.audit => {
            let mut outcome = passed(door, meta, id, rule, Verdict::Observe);
            if let Some(decision) = &mut outcome.decision {
                (decision.reason, decision.further) = (Reason::Audit { would: Verdict::Ignore }, vec![reason]);
            }
            outcome
        }
        Some(reason) => {
            let mut outcome = passed(door, meta, id, rule, Verdict::Ignore);
            if let Some(decision) = &mut outcome.decision {
                decision.reason = reason;
            }
            outcome
        }
        None => {
            let limited = if isolates { breaker::judge(door, meta, id, host) } else { Limited::default() };
            let mut reasons = with(asks, held::back(door, meta, id, host, Some(detection), isolates));
            reasons.extend(limited.reasons.iter().cloned());
            let mut outcome =
                act(door, meta, id, reasons, Asking { breakers: limited.breakers, ..asking }, (judgement.audit, limited.refuses));
            if !judgement.audit {
                outcome.notices.extend(limited.notices);
                outcome.notices.extend(claims(door, meta, id, host));
                if let Some(decision) = &mut outcome.decision {
                    decision.effects.extend(limited.effects);
                }
            }
            outcome
        }
    };
    for notice in &mut outcome.notices {
        notice.outputs = judgement.notify.to_vec();
    }
    if let Some(decision) = &mut outcome.decision {
        decision.effects.extend(counted.map(|(_, counted)| counted));
    }
    outcome
}

/// Counts a detection towards its rule's threshold. The reason says what is missing, if anything is.
fn count(
    door: Door<'_>,
    meta: &Meta,
    id: &HostId,
    rule: &str,
    threshold: &Threshold,
    detection: &Detection,
) -> (Option<Reason>, Effect) {
    let (wanted, per) = (threshold.count, threshold.per);
    // What a sender writes may be long.
    let value = threshold.distinct.map(|distinct| ids::digest([distinct.of(detection, &meta.input.token)])[..16].to_owned());
    let seen = door.control.count(id, rule, value.as_deref(), meta.at);
    let below = (seen < wanted).then_some(Reason::BelowThreshold { seen, wanted, per });
    (below, Effect::Counted { value, until: meta.at + per.delta(), wanted })
}

/// Isolates, or asks where anything holds that back.
fn act(
    door: Door<'_>,
    meta: &Meta,
    id: &HostId,
    reasons: Vec<Reason>,
    asking: Asking<'_>,
    (audit, refuses): (bool, bool),
) -> Outcome {
    let (rule, incident) = (asking.rule, asking.incident);
    // A dry run records what would have been; it asks nobody and orders nothing.
    if audit {
        let would = match reasons.is_empty() {
            true => Verdict::Isolate,
            false if refuses => Verdict::Refuse,
            false => Verdict::Ask,
        };
        let mut outcome = door.answer(meta, Some(id), Verdict::Observe, Reason::Audit { would });
        if let Some(decision) = &mut outcome.decision {
            decision.rule = rule.map(str::to_owned);
            decision.further = reasons;
        }
        return outcome;
    }
    if refuses {
        let mut reasons = reasons.into_iter();
        let mut outcome = door.answer(meta, Some(id), Verdict::Refuse, reasons.next().unwrap_or(Reason::Rule));
        if let Some(decision) = &mut outcome.decision {
            decision.rule = rule.map(str::to_owned);
            decision.further = reasons.collect();
        }
        return outcome;
    }
    if !reasons.is_empty() {
        return hold_back(door, meta, id, reasons, asking);
    }
    let words = format!("rule {} on a detection by {}", rule.unwrap_or("?"), meta.input.token);
    let hold = Automatic { rule, incident, release_after: asking.release_after };
    isolate(door, meta, id, &hold, Reason::Rule, &words)
}

fn with(first: Option<Reason>, held: Vec<Reason>) -> Vec<Reason> {
    first.into_iter().chain(held).collect()
}

fn passed(door: Door<'_>, meta: &Meta, id: &HostId, rule: Option<&str>, verdict: Verdict) -> Outcome {
    let mut outcome = door.answer(meta, Some(id), verdict, Reason::Rule);
    if let Some(decision) = &mut outcome.decision {
        decision.rule = rule.map(str::to_owned);
    }
    outcome
}

/// Roles that a host claims only lately do not protect it, and somebody looks.
fn claims(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host) -> Option<Notice> {
    let roles = held::lately_claimed(host, meta.at);
    let incident = host.incident().or_else(|| door.fleet.host(id).and_then(Host::incident));
    (!roles.is_empty()).then(|| Notice {
        kind: NoticeKind::RoleClaimed,
        severity: Severity::High,
        host: Some(id.clone()),
        incident,
        text: format!(
            "{id} says since less than a day that it is {}, which protects it only with `portcullis label {id} role.{}=confirmed`",
            roles.join(", "),
            roles[0]
        ),
        outputs: Vec::new(),
    })
}

/// A question in place of an isolation.
fn hold_back(door: Door<'_>, meta: &Meta, id: &HostId, reasons: Vec<Reason>, asking: Asking<'_>) -> Outcome {
    let why = held::all_words(&reasons);
    let mut reasons = reasons.into_iter();
    let reason = reasons.next().unwrap_or(Reason::Rule);
    // What anything but the rule itself holds back is never isolated by silence.
    let by_rule_alone = reason == Reason::Rule && reasons.len() == 0;
    let if_unanswered = if by_rule_alone { asking.if_unanswered } else { IfUnanswered::Observe };
    let mut outcome = asking::begin(door, meta, id, reason, Asking { why, if_unanswered, ..asking });
    if let Some(decision) = &mut outcome.decision {
        decision.further.extend(reasons);
    }
    outcome
}

/// A hold of the policy's.
pub struct Automatic<'a> {
    pub rule: Option<&'a str>,
    pub incident: Option<&'a str>,
    pub release_after: For,
}

pub fn isolate(door: Door<'_>, meta: &Meta, id: &HostId, hold: &Automatic<'_>, reason: Reason, words: &str) -> Outcome {
    // A policy is validated not to ask for longer than it allows; the bound stands here all the same.
    let bounded = door.terms.bound(hold.release_after).unwrap_or(door.terms.max_isolation);
    let incident = super::incident_of(meta, hold.incident);
    let asked = HoldRequest {
        origin: Origin::Automatic,
        rule: hold.rule,
        until: bounded.span().map(|span| meta.at + span.delta()),
        longest: door.terms.max_isolation.span().map(|span| span.delta()),
        incident: incident.as_deref(),
        ticket: None,
        note: None,
        exclusions: None,
    };
    let mut outcome = door.order(meta, id, &Event::Hold(asked), Verdict::Isolate, reason, words);
    if let Some(decision) = &mut outcome.decision {
        decision.rule = hold.rule.map(str::to_owned);
    }
    outcome
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
            let known = host
                .order
                .as_deref()
                .is_some_and(|before| isolation::held_by(before, door.control.joins_of(id), &hash).is_some());
            decision.reason = if known { Reason::Retracted } else { Reason::NothingToRetract };
        }
    }
    // It is asked about, and held nothing yet.
    if let Some(decision) = outcome.decision.as_mut().filter(|decision| decision.reason == Reason::NothingToRetract)
        && door.control.caused_by(&hash).is_some()
    {
        decision.reason = Reason::Retracted;
    }
    outcome
}
