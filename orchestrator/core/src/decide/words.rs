//! What decisions about the fleet share, and how times and reasons are written for people.

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Effect, Notice, NoticeKind, Reason, Request, Severity, Verdict};

use super::{Door, Meta, Outcome};
use crate::fleet::Host;

/// A decision about the fleet with what holds from it on, and its notice.
pub fn applied(
    door: Door<'_>,
    meta: &Meta,
    reason: Reason,
    effect: Effect,
    (kind, severity, text): (NoticeKind, Severity, String),
) -> Outcome {
    let mut outcome = door.answer(meta, None, Verdict::Apply, reason);
    if let Some(decision) = &mut outcome.decision {
        decision.effects.push(effect);
    }
    outcome.notices.push(Notice { kind, severity, host: None, incident: None, text, outputs: Vec::new() });
    outcome
}

/// The operator's words, without what would break a line.
pub fn why(request: &Request) -> Option<String> {
    super::named(request.reason.as_deref())
}

pub fn clock(at: Timestamp) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Why an operator asks, where that is said.
pub fn note(request: &Request) -> Option<&str> {
    request.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty())
}

/// What was done, by whom and why: the reason of an order.
pub fn done_by(what: &str, request: &Request) -> String {
    match note(request) {
        Some(reason) => format!("{what} by {}: {}", request.operator, reason.chars().take(1000).collect::<String>()),
        None => format!("{what} by {}", request.operator),
    }
}

/// The release that came after the input was stored.
pub fn superseded(meta: &Meta, host: &Host) -> Option<Timestamp> {
    host.order.as_deref().and_then(|order| order.released_at).filter(|released| meta.at <= *released)
}
