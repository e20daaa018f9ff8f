//! Requests to activate a policy: which text is taken, and which is refused.

use std::sync::Arc;

use portcullis_policy::Policy;
use portcullis_schemas::events::{Action, Notice, NoticeKind, Reason, Request, Severity, Verdict};

use super::request::not_as_sent;
use super::{Door, Meta, Outcome};

/// A policy that was read by its hash, or why it cannot be taken.
pub type PolicyText = Result<Arc<Policy>, String>;

/// Bytes of a SHA-256 in hex.
const HASH: usize = 64;

/// The hash of the text that a request cannot be answered without.
pub fn wants_text<'r>(meta: &Meta, subject_host: &str, request: &'r Request) -> Option<&'r str> {
    let is_sound = request.action == Action::ActivatePolicy && not_as_sent(meta, subject_host, request).is_none();
    request.policy.as_deref().filter(|hash| is_sound && is_hash(hash))
}

/// A request that names no text.
pub fn without_text(door: Door<'_>, meta: &Meta, subject_host: &str, request: &Request) -> Outcome {
    if let Some(reason) = not_as_sent(meta, subject_host, request) {
        return door.answer(meta, None, Verdict::Refuse, reason);
    }
    let problem = match &request.policy {
        None => "is missing: write the SHA-256 of the text, in hex".to_owned(),
        Some(_) => "is no SHA-256: write 64 hexadecimal digits in lower case".to_owned(),
    };
    door.answer(meta, None, Verdict::Refuse, Reason::Incomplete { member: "policy".into(), problem })
}

/// `active`: the policy that is active by the log, and so the one that is replaced.
pub fn activate(
    door: Door<'_>,
    meta: &Meta,
    subject_host: &str,
    request: &Request,
    text: &PolicyText,
    active: Option<&str>,
) -> Outcome {
    if let Some(reason) = not_as_sent(meta, subject_host, request) {
        return door.answer(meta, None, Verdict::Refuse, reason);
    }
    let hash = request.policy.as_deref().unwrap_or_default();
    if active == Some(hash) {
        return door.answer(meta, None, Verdict::Ignore, Reason::Settled);
    }
    if request.replaces.is_some() && request.replaces.as_deref() != active {
        let reason = Reason::PolicyMoved { active: active.map(str::to_owned), expected: request.replaces.clone() };
        return door.answer(meta, None, Verdict::Refuse, reason);
    }
    match text {
        Ok(_) => {
            let mut outcome = door.answer(meta, None, Verdict::Apply, Reason::Operator);
            outcome.notices.push(notice(hash, active, &request.operator, request.reason.as_deref()));
            outcome
        }
        Err(problem) => {
            let reason = Reason::BadPolicy { hash: hash.to_owned(), problem: problem.clone() };
            let mut outcome = door.answer(meta, None, Verdict::Refuse, reason);
            let text = format!("policy {} of {} is refused: {problem}", short(hash), request.operator);
            outcome.notices.push(Notice { severity: Severity::Medium, ..about(text) });
            outcome
        }
    }
}

/// That another policy decides from now on.
pub fn notice(hash: &str, before: Option<&str>, by: &str, why: Option<&str>) -> Notice {
    let before = before.map_or_else(String::new, |before| format!(" in place of {}", short(before)));
    let why = why.map_or_else(String::new, |why| format!(": {}", why.chars().take(1_000).collect::<String>()));
    about(format!("policy {} is active{before}, by {by}{why}", short(hash)))
}

fn about(text: String) -> Notice {
    let (kind, severity) = (NoticeKind::Policy, Severity::Informational);
    Notice { kind, severity, host: None, incident: None, text, outputs: Vec::new() }
}

fn is_hash(text: &str) -> bool {
    text.len() == HASH && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Enough of a hash to tell it.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
