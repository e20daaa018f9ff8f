//! What the inputs alone say of a host at rest: isolated, open, or either, where the order of processing is left open.

use portcullis_core::Input;
use portcullis_schemas::HostId;
use portcullis_schemas::events::{Action, InputKind, InputRef, Posture, Reason, StateCause, Verdict};

use crate::broker::{Answer, Broker, is_poison, time};
use crate::world::{PROTECTED, span_of};

/// Deadlines this near are on their way.
const SLACK: i64 = 60_000;
const MAX_ISOLATION: i64 = 3_600_000;

struct Cause<'a> {
    key: &'a InputRef,
    rule: String,
    span: i64,
    /// First and last copy, by the broker's wall clock and by the world's.
    at: (i64, i64),
    stored: (i64, i64),
}

/// Where the host must be; None where either will do.
pub fn expected(broker: &Broker, host: &HostId) -> Option<Posture> {
    if broker.is_rejected_on(host) {
        return None;
    }
    // It was ordered, and lost before that was answered.
    let ordered =
        |key: &InputRef| broker.orders.iter().any(|stored| stored.order.issued_by == *key && stored.order.host == *host);
    if broker.lost.iter().any(|index| ordered(&broker.inputs[*index].key)) {
        return None;
    }
    // A person's yes counts from its own time.
    let by_answer = |answer: &Answer| answer.asked && answer.verdict == Verdict::Isolate && answer.host.as_ref() == Some(host);
    if broker.answers.iter().any(by_answer) {
        return None;
    }
    let causes = causes(broker, host);
    let releases = releases(broker, host);
    let named: Vec<&str> = broker.inputs.iter().filter_map(|message| retracts(&message.input, host)).collect();
    let retracted = |cause: &Cause<'_>| cause.key.kind == InputKind::Detection && named.contains(&cause.key.id.as_str());
    let wall = (broker.wall() - time(0)).num_milliseconds();
    let expired = |cause: &Cause<'_>| cause.at.1 + cause.span + SLACK < wall && cause.stored.1 + cause.span + SLACK < broker.now;
    let over = |cause: &Cause<'_>| {
        // A hold ends with the last of its causes.
        let ended = causes.iter().filter(|other| other.rule == cause.rule).all(expired);
        let withdrawn = causes.len() == 1 && retracted(cause);
        ended || withdrawn || releases.iter().any(|(first, _)| *first >= cause.at.1)
    };
    if causes.iter().all(over) {
        return Some(Posture::Open);
    }
    if causes.iter().any(retracted) {
        return None;
    }
    let openings: Vec<(i64, i64)> = broker
        .states
        .iter()
        .filter(|(_, state, ..)| state.host == *host && matches!(state.cause, StateCause::Local | StateCause::Deadline))
        .map(|(_, _, at, stored)| ((*at - time(0)).num_milliseconds(), *stored))
        .collect();
    let holds = |cause: &Cause<'_>| {
        let same = causes.iter().filter(|other| other.rule == cause.rule);
        let began = same.fold((i64::MAX, i64::MAX), |began, other| (began.0.min(other.at.0), began.1.min(other.stored.0)));
        let lives = wall.max(broker.now + broker.ahead) + SLACK < (cause.at.0 + cause.span).min(began.0 + MAX_ISOLATION)
            && broker.now + SLACK < (cause.stored.0 + cause.span).min(began.1 + MAX_ISOLATION);
        let undone = releases.iter().any(|(_, last)| *last >= cause.at.0)
            || openings.iter().any(|(at, stored)| *at >= cause.at.0 || *stored >= cause.stored.0);
        // A cause that joined a hold lives and dies with it, as far as no order names it.
        let joined_to_what_is_over = joined(broker, cause.key) && (!openings.is_empty() || !releases.is_empty());
        lives && !undone && !joined_to_what_is_over
    };
    causes.iter().any(holds).then_some(Posture::Isolated)
}

fn causes<'a>(broker: &'a Broker, host: &HostId) -> Vec<Cause<'a>> {
    let mut causes: Vec<Cause<'a>> = Vec::new();
    for (index, message) in broker.inputs.iter().enumerate() {
        let Some((rule, span)) = holds(broker, &message.key, &message.input, host) else { continue };
        // One that was removed before it was answered may have made its order.
        let is_ordered = || broker.orders.iter().any(|stored| stored.order.issued_by == message.key);
        if is_poison(&message.key) || broker.lost.contains(&index) && !is_ordered() {
            continue;
        }
        // What was held back isolates nobody by itself.
        if broker.is_held_back(&message.key) {
            continue;
        }
        // Its host was not known in time.
        if broker.found_no_host(&message.key) {
            continue;
        }
        let at = (message.at - time(0)).num_milliseconds();
        match causes.iter_mut().find(|cause| *cause.key == message.key) {
            Some(known) => {
                known.at = (known.at.0.min(at), known.at.1.max(at));
                known.stored = (known.stored.0.min(message.stored), known.stored.1.max(message.stored));
            }
            None => causes.push(Cause { key: &message.key, rule, span, at: (at, at), stored: (message.stored, message.stored) }),
        }
    }
    causes
}

/// The rule and the time for which an input is to hold this host.
fn holds(broker: &Broker, key: &InputRef, input: &Input, host: &HostId) -> Option<(String, i64)> {
    match input {
        Input::Detection(_, data) if data.retracts.is_none() && broker.is_about(key, data, host) => {
            let span = span_of(&data.rule.id)?;
            (host.as_str() != PROTECTED).then(|| (data.rule.id.clone(), span))
        }
        Input::Request { meta, request, .. } if request.action == Action::Isolate && request.host.as_ref() == Some(host) => {
            let allowed = request.operator == meta.input.token && (host.as_str() != PROTECTED || request.override_protected);
            let span =
                request.duration.and_then(|duration| duration.span()).map_or(600_000, |span| span.as_secs() as i64 * 1_000);
            allowed.then(|| ("hand".to_owned(), span))
        }
        _ => None,
    }
}

/// First and last copy of each release, by the broker's wall clock.
fn releases(broker: &Broker, host: &HostId) -> Vec<(i64, i64)> {
    let mut found: Vec<(&InputRef, i64, i64)> = Vec::new();
    for message in &broker.inputs {
        let Input::Request { meta, request, .. } = &message.input else { continue };
        if request.action != Action::Release || request.host.as_ref() != Some(host) || request.operator != meta.input.token {
            continue;
        }
        if broker.found_no_host(&message.key) {
            continue;
        }
        let at = (message.at - time(0)).num_milliseconds();
        match found.iter_mut().find(|(key, ..)| **key == message.key) {
            Some(known) => *known = (known.0, known.1.min(at), known.2.max(at)),
            None => found.push((&message.key, at, at)),
        }
    }
    found.into_iter().map(|(_, first, last)| (first, last)).collect()
}

/// What a retraction by the sender of all detections names on this host.
fn retracts<'a>(input: &'a Input, host: &HostId) -> Option<&'a str> {
    match input {
        Input::Detection(meta, data) if meta.input.token == "edr" && data.host.id.as_deref() == Some(host.as_str()) => {
            data.retracts.as_deref()
        }
        _ => None,
    }
}

/// Whether a hold that stood before took this cause: with an order of its own or without.
fn joined(broker: &Broker, key: &InputRef) -> bool {
    let made = broker.orders.iter().find(|stored| stored.order.issued_by == *key);
    match made {
        Some(stored) => !stored.order.holds.iter().any(|hold| hold.generation == stored.order.generation),
        None => broker.answers.iter().any(|decision| {
            decision.input == *key && matches!(decision.reason, Reason::Joined { .. } | Reason::AlreadyIsolated { .. })
        }),
    }
}
