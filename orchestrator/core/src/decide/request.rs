//! Requests: what an operator asks for. Limits and audit mode do not stop a person.

use portcullis_schemas::events::{Action, For, Hold, Origin, Posture, Reason, Request, Verdict};
use portcullis_schemas::{HostId, Timestamp};

use super::{Door, Meta, Outcome};
use crate::fleet::Host;
use crate::isolation::{Event, HoldRequest};

pub fn decide(door: Door<'_>, meta: &Meta, subject_host: &str, request: &Request) -> Outcome {
    let principal = &meta.input.token;
    if request.operator != *principal {
        let reason = Reason::OperatorMismatch { operator: request.operator.clone(), principal: principal.clone() };
        return door.answer(meta, None, Verdict::Refuse, reason);
    }
    let named = request.host.as_ref().map_or(portcullis_schemas::subjects::FLEET, HostId::as_str);
    if named != subject_host {
        return door.answer(meta, None, Verdict::Refuse, Reason::HostMismatch { named: named.to_owned() });
    }
    let known = request.host.as_ref().and_then(|id| Some((id, door.fleet.host(id)?)));
    match (request.action, known) {
        (Action::Isolate | Action::Release, None) => door.unknown(meta, named),
        (Action::Isolate, Some((id, host))) => {
            door.settled(meta, id, host).unwrap_or_else(|| isolate(door, meta, id, host, request))
        }
        (Action::Release, Some((id, host))) => {
            door.settled(meta, id, host).unwrap_or_else(|| release(door, meta, id, host, request))
        }
        (action, known) => {
            let name = serde_json::to_value(action).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
            door.answer(meta, known.map(|(id, _)| id), Verdict::Refuse, Reason::NotSupported { action: name })
        }
    }
}

fn isolate(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host, request: &Request) -> Outcome {
    if let Some(released_at) = host.order.as_deref().and_then(|order| order.released_at).filter(|released| meta.at <= *released) {
        return door.answer(meta, Some(id), Verdict::Ignore, Reason::SupersededByRelease { released_at });
    }
    if let Some(as_what) = door.config.protected.get(id).filter(|_| !request.override_protected) {
        return door.answer(meta, Some(id), Verdict::Ask, Reason::Protected { as_what: as_what.clone() });
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
    if let Some(reason) = lost_in_hold(host, meta, request, until, door.terms.max_isolation) {
        return door.answer(meta, Some(id), Verdict::Refuse, reason);
    }
    let incident = super::incident(meta, request.incident.as_deref());
    let asked = HoldRequest {
        origin: Origin::Manual,
        rule: None,
        until,
        longest: door.terms.max_isolation.span().map(|span| span.delta()),
        incident: &incident,
        ticket: request.ticket.as_deref(),
        exclusions: request.exclusions.as_deref(),
    };
    door.order(meta, id, &Event::Hold(asked), Verdict::Isolate, Reason::Operator, &words("isolated", request))
}

/// Why an isolation that is asked for would be lost, in whole or in part, in the manual hold that lives already. One that only ends later moves
/// that hold's end, as far as the policy allows.
fn lost_in_hold(host: &Host, meta: &Meta, request: &Request, until: Option<Timestamp>, longest: For) -> Option<Reason> {
    let order = host.order.as_deref().filter(|order| order.posture == Posture::Isolated)?;
    let lives = |hold: &&Hold| hold.origin == Origin::Manual && hold.until.is_none_or(|until| until > meta.at);
    let hold = order.holds.iter().find(lives)?;
    let most = longest.span().map(|longest| hold.since + longest.delta());
    let is_later = hold.until.is_some_and(|stands| until.is_none_or(|until| most.map_or(until, |most| until.min(most)) > stands));
    let other =
        |wanted: Option<&str>, stands: Option<&str>| wanted.is_some_and(|wanted| stands.is_some_and(|stands| stands != wanted));
    let loses = other(super::named(request.incident.as_deref()).as_deref(), Some(&order.incident))
        || other(request.ticket.as_deref(), order.ticket.as_deref());
    let changes = is_later || request.exclusions.is_some();
    (loses || !changes).then(|| Reason::AlreadyIsolated {
        until: hold.until,
        by: hold.causes.first().map(|cause| cause.token.clone()).unwrap_or_default(),
        incident: order.incident.clone(),
        ticket: order.ticket.clone(),
        generation: order.generation,
    })
}

/// On an open host a release is ordered as well: a detection that was stored before it may still be on its way.
fn release(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host, request: &Request) -> Outcome {
    let is_open = host.order.as_deref().is_none_or(|order| order.posture == Posture::Open)
        && host.state.as_deref().is_none_or(|state| state.posture == Posture::Open);
    let reason = if is_open { Reason::AlreadyOpen } else { Reason::Operator };
    door.order(meta, id, &Event::Release, Verdict::Release, reason, &words("released", request))
}

fn words(what: &str, request: &Request) -> String {
    match request.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty()) {
        Some(reason) => format!("{what} by {}: {}", request.operator, reason.chars().take(1000).collect::<String>()),
        None => format!("{what} by {}", request.operator),
    }
}
