//! What decisions about the fleet share, and how times and reasons are written for people.

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Effect, Notice, NoticeKind, Reason, Request, Severity, Verdict};

use super::{Door, Meta, Outcome};

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
