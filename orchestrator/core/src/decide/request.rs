//! Requests: what an operator asks for. Limits and audit mode do not stop a person.

use portcullis_schemas::HostId;
use portcullis_schemas::events::{Action, For, Origin, Reason, Request, Verdict};

use super::{Door, Meta, Outcome};
use crate::fleet::Host;
use crate::isolation::{Event, Hold};

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
        (Action::Release, Some((id, host))) => door.settled(meta, id, host).unwrap_or_else(|| release(door, meta, id, request)),
        (action, known) => {
            let name = serde_json::to_value(action).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
            door.answer(meta, known.map(|(id, _)| id), Verdict::Refuse, Reason::NotSupported { action: name })
        }
    }
}

fn isolate(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host, request: &Request) -> Outcome {
    if let Some(released_at) = host.order.as_ref().and_then(|order| order.released_at).filter(|released| meta.at <= *released) {
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
    let incident = super::incident(meta, request.incident.as_deref());
    let hold = Hold {
        origin: Origin::Manual,
        rule: None,
        until,
        longest: door.terms.max_isolation.span().map(|span| span.delta()),
        incident: &incident,
        ticket: request.ticket.as_deref(),
        exclusions: request.exclusions.as_deref(),
    };
    door.order(meta, id, &Event::Hold(hold), Verdict::Isolate, Reason::Operator, &words("isolated", request))
}

fn release(door: Door<'_>, meta: &Meta, id: &HostId, request: &Request) -> Outcome {
    door.order(meta, id, &Event::Release, Verdict::Release, Reason::Operator, &words("released", request))
}

fn words(what: &str, request: &Request) -> String {
    match request.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty()) {
        Some(reason) => format!("{what} by {}: {}", request.operator, reason.chars().take(1000).collect::<String>()),
        None => format!("{what} by {}", request.operator),
    }
}
