//! What people are asked, and from when on.

use std::sync::Arc;

use portcullis_schemas::HostId;
use portcullis_schemas::events::{
    Ask, For, IfUnanswered, InputKind, Notice, NoticeKind, Question, Reason, Request, Severity, Verdict,
};
use portcullis_schemas::time::Span;

use super::words::clock;
use super::{Door, Meta, Outcome};
use crate::control::Pending;

/// Longer than that nobody is asked.
const LONGEST: Span = Span::hours(7 * 24);

/// What people are asked about an input.
pub struct Asking<'a> {
    pub question: Question,
    pub rule: Option<&'a str>,
    pub incident: Option<&'a str>,
    pub approvals: u8,
    pub ask_for: Span,
    pub if_unanswered: IfUnanswered,
    pub release_after: For,
    pub breakers: Vec<String>,
    pub request: Option<&'a Request>,
    /// Why, in words.
    pub why: String,
    pub outputs: &'a [String],
}

impl<'a> Asking<'a> {
    /// One yes within the default time isolates the host for the default time.
    pub fn isolate(door: Door<'_>, why: impl Into<String>) -> Self {
        Self {
            question: Question::Isolate,
            rule: None,
            incident: None,
            approvals: 1,
            ask_for: door.terms.ask_for,
            if_unanswered: IfUnanswered::Observe,
            release_after: door.terms.release_after,
            breakers: Vec::new(),
            request: None,
            why: why.into(),
            outputs: &[],
        }
    }
}

/// The decision from which on the input waits for people. A further detection of the same rule on the same host joins one that is pending.
pub fn begin(door: Door<'_>, meta: &Meta, id: &HostId, reason: Reason, asking: Asking<'_>) -> Outcome {
    let mut outcome = door.answer(meta, Some(id), Verdict::Ask, reason);
    let Some(decision) = &mut outcome.decision else { return outcome };
    decision.rule = asking.rule.map(str::to_owned);
    let pending = |pending: &&Arc<Pending>| {
        let same = pending.rule.as_deref() == asking.rule && pending.ask.question == Question::Isolate;
        same && pending.ask.request.is_none() && pending.is_open(meta.at)
    };
    // A copy of what is asked about already waits with it, whatever it is.
    let own = door.control.ask(&meta.input.hash());
    let others = || door.control.asks_of(id).find(pending).filter(|_| meta.input.kind == InputKind::Detection);
    if let Some(pending) = own.or_else(others) {
        decision.incident = pending.incident.clone();
        let reason = std::mem::replace(&mut decision.reason, Reason::AskJoined { ask: pending.ask.id.clone() });
        decision.further.insert(0, reason);
        return outcome;
    }
    let incident = decision.incident.take().unwrap_or_else(|| super::incident(meta, asking.incident));
    decision.incident = Some(incident.clone());
    let ask = Ask {
        id: meta.input.hash(),
        question: asking.question,
        approvals: asking.approvals.max(1),
        until: Some(meta.at + asking.ask_for.min(LONGEST).delta()),
        if_unanswered: asking.if_unanswered,
        release_after: asking.release_after,
        breakers: asking.breakers,
        request: asking.request.cloned().map(Box::new),
    };
    outcome.notices.push(Notice {
        kind: NoticeKind::Ask,
        severity: Severity::High,
        host: Some(id.clone()),
        incident: Some(incident),
        text: words(meta, id, &ask, &asking.why),
        outputs: asking.outputs.to_vec(),
    });
    decision.ask = Some(Box::new(ask));
    outcome
}

fn words(meta: &Meta, id: &HostId, ask: &Ask, why: &str) -> String {
    let what = match (ask.question, &ask.request) {
        (Question::Isolate, None) => format!("a detection by {} on {id} waits for a person", meta.input.token),
        (Question::Isolate, Some(_)) => format!("{} asks to isolate {id}, which waits for another person", meta.input.token),
        (Question::Release, _) => format!("the deadline of {id} came, and it stays isolated until a person answers"),
    };
    let until = ask.until.map_or_else(String::new, |until| format!(" by {}", clock(until)));
    let people = if ask.approvals > 1 { format!(", {} people", ask.approvals) } else { String::new() };
    format!("{what}: {why}; answer{until}{people}: portcullis approve {id}, or deny {id}", id = ask.id)
}
