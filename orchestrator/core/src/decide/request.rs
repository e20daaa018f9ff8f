//! Requests: what an operator asks for. Limits and audit mode do not stop a person.

use portcullis_schemas::events::{Action, For, Hold, Origin, Posture, Reason, Request, Verdict};
use portcullis_schemas::{HostId, Timestamp};

use super::asking::Asking;
use super::{Door, Meta, Outcome, approval, asking, breaker, held, own, pause, words};
use crate::fleet::Host;
use crate::isolation::{Event, Extension, HoldRequest};

pub fn decide(door: Door<'_>, meta: &Meta, subject_host: &str, request: &Request) -> Outcome {
    if let Some(reason) = not_as_sent(meta, subject_host, request) {
        return door.answer(meta, None, Verdict::Refuse, reason);
    }
    let named = named_host(request);
    let known = request.host.as_ref().and_then(|id| Some((id, door.fleet.host(id)?)));
    match (request.action, known) {
        (Action::Isolate | Action::Release | Action::Extend | Action::Label | Action::Exclude, None) => door.unknown(meta, named),
        (Action::Isolate, Some((id, host))) => {
            door.settled(meta, id, host).unwrap_or_else(|| isolate(door, meta, id, host, request))
        }
        (Action::Release, Some((id, host))) => {
            door.settled(meta, id, host).unwrap_or_else(|| release(door, meta, id, host, request))
        }
        (Action::Extend, Some((id, host))) => {
            door.settled(meta, id, host).unwrap_or_else(|| extend(door, meta, id, host, request))
        }
        (Action::Label, Some((id, host))) => own::label(door, meta, id, host, request),
        (Action::Exclude, Some((id, host))) => {
            door.settled(meta, id, host).unwrap_or_else(|| own::exclude(door, meta, id, host, request))
        }
        (Action::Approve | Action::Deny, _) => approval::decide(door, meta, request),
        (Action::Pause | Action::Resume, _) => pause::decide(door, meta, request),
        (action, known) => {
            let name = serde_json::to_value(action).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
            door.answer(meta, known.map(|(id, _)| id), Verdict::Refuse, Reason::NotSupported { action: name })
        }
    }
}

/// What its subject says otherwise than the request: the operator, or the host.
pub fn not_as_sent(meta: &Meta, subject_host: &str, request: &Request) -> Option<Reason> {
    let principal = &meta.input.token;
    let named = named_host(request);
    if request.operator != *principal {
        return Some(Reason::OperatorMismatch { operator: request.operator.clone(), principal: principal.clone() });
    }
    (named != subject_host).then(|| Reason::HostMismatch { named: named.to_owned() })
}

fn named_host(request: &Request) -> &str {
    request.host.as_ref().map_or(portcullis_schemas::subjects::FLEET, HostId::as_str)
}

pub fn isolate(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host, request: &Request) -> Outcome {
    if let Some(released_at) = words::superseded(meta, host) {
        return door.answer(meta, Some(id), Verdict::Ignore, Reason::SupersededByRelease { released_at });
    }
    let protections = if request.override_protected { Vec::new() } else { held::protections(door, id, host, meta.at) };
    if let [as_what, ..] = protections.as_slice() {
        let asking = Asking {
            request: Some(request),
            incident: request.incident.as_deref(),
            release_after: request.duration.unwrap_or(door.terms.release_after),
            ..Asking::isolate(door, format!("the host is protected ({})", protections.join(", ")))
        };
        return asking::begin(door, meta, id, Reason::Protected { as_what: as_what.clone() }, asking);
    }
    let wanted = request.duration.unwrap_or(door.terms.release_after);
    let too_long = match (door.terms.bound(wanted), wanted) {
        (None, _) => true,
        (Some(bounded), wanted) => bounded != wanted,
    };
    // The default is cut to the bound; what a person wrote out is not changed behind their back.
    if too_long && request.duration.is_some() {
        let reason = Reason::TooLong { limit: door.terms.max_isolation.to_string() };
        return door.answer(meta, Some(id), Verdict::Refuse, reason);
    }
    let bounded = door.terms.bound(wanted).unwrap_or(door.terms.max_isolation);
    let until = match bounded {
        For::Span(span) => Some(meta.at + span.delta()),
        For::Never => None,
    };
    if let Some(reason) = changes_nothing(host, meta, request, until) {
        return door.answer(meta, Some(id), Verdict::Refuse, reason);
    }
    let incident = super::incident_of(meta, request.incident.as_deref());
    let asked = HoldRequest {
        origin: Origin::Manual,
        rule: None,
        until,
        longest: door.terms.max_isolation.span().map(|span| span.delta()),
        incident: incident.as_deref(),
        ticket: request.ticket.as_deref(),
        note: words::note(request),
        exclusions: request.exclusions.as_deref(),
    };
    let mut outcome =
        door.order(meta, id, &Event::Hold(asked), Verdict::Isolate, Reason::Operator, &words::done_by("isolated", request));
    if outcome.order.is_some() {
        outcome.notices.extend(breaker::warn(door, meta, id, host));
    }
    outcome
}

/// An isolation that is asked for once more: the same operator holds the host as long or longer, for the same reason, ticket and incident, and
/// nothing else passes.
fn changes_nothing(host: &Host, meta: &Meta, request: &Request, until: Option<Timestamp>) -> Option<Reason> {
    let order = host.order.as_deref().filter(|order| order.posture == Posture::Isolated)?;
    let by = &meta.input.token;
    let incident = super::named(request.incident.as_deref());
    let fits = |wanted: Option<&str>, stands: Option<&str>| wanted.is_none() || wanted == stands;
    let is_same = |hold: &&Hold| {
        hold.origin == Origin::Manual
            && hold.causes.first().is_some_and(|cause| cause.token == *by)
            && hold.until.is_none_or(|stands| stands > meta.at && until.is_some_and(|until| until <= stands))
            && fits(words::note(request), hold.reason.as_deref())
            && fits(request.ticket.as_deref(), hold.ticket.as_deref())
            && fits(incident.as_deref(), hold.incident.as_deref().or(Some(&order.incident)))
    };
    let hold = order.holds.iter().find(is_same)?;
    let passes = request.exclusions.as_deref().is_none_or(|exclusions| exclusions == order.exclusions);
    passes.then(|| Reason::AlreadyIsolated {
        until: hold.until,
        by: by.clone(),
        incident: hold.incident.as_ref().unwrap_or(&order.incident).clone(),
        ticket: hold.ticket.clone(),
        generation: order.generation,
    })
}

/// Another end of an isolation, sooner or later, by the broker's time of the request. What passes stays as it is.
fn extend(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host, request: &Request) -> Outcome {
    let incomplete = |member: &str, problem: &str| {
        let reason = Reason::Incomplete { member: member.to_owned(), problem: problem.to_owned() };
        door.answer(meta, Some(id), Verdict::Refuse, reason)
    };
    let until = match (request.until, request.duration) {
        (Some(until), None) if until <= meta.at => {
            return incomplete("until", "lies in the past; `release` opens a host at once");
        }
        (Some(until), None) => Some(until),
        (None, Some(wanted)) => wanted.span().map(|span| meta.at + span.delta()),
        (None, None) => return incomplete("until", "say until when the host stays isolated, or give a duration"),
        (Some(_), Some(_)) => return incomplete("until", "give it or a duration, not both"),
    };
    if let Some(released_at) = words::superseded(meta, host) {
        return door.answer(meta, Some(id), Verdict::Ignore, Reason::SupersededByRelease { released_at });
    }
    let end = until.map_or_else(|| "a person ends it".to_owned(), |until| until.format("%Y-%m-%d %H:%M:%S UTC").to_string());
    let longest = door.terms.max_isolation.span().map(|span| span.delta());
    let extension = Extension { until, longest, ticket: request.ticket.as_deref() };
    let mut text = words::done_by(&format!("isolated until {end}"), request);
    if let Some(incident) = super::named(request.incident.as_deref()) {
        text.push_str(&format!(" (incident {incident})"));
    }
    door.order(meta, id, &Event::Extend(extension), Verdict::Apply, Reason::Operator, &text)
}

/// On an open host a release is ordered as well: a detection that was stored before it may still be on its way.
fn release(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host, request: &Request) -> Outcome {
    let is_open = host.order.as_deref().is_none_or(|order| order.posture == Posture::Open)
        && host.state.as_deref().is_none_or(|state| state.posture == Posture::Open);
    let reason = if is_open { Reason::AlreadyOpen } else { Reason::Operator };
    door.order(meta, id, &Event::Release, Verdict::Release, reason, &words::done_by("released", request))
}
