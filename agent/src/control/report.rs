//! State events: what was decided, and what the kernel gave back, as one message.

use portcullis_agent_core::deadline::Now;
use portcullis_agent_core::machine::Report;
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{Level, State, StateCause};
use portcullis_schemas::ids;
use portcullis_schemas::rejected::Malformed;
use portcullis_schemas::time::Timestamp;

use crate::broker::heartbeat::Identity;
use crate::broker::outbox::Pending;
use crate::firewall::worker::ActualState;
use portcullis_agent_core::level::leaks;

/// Nothing that was built by hand may make an event too large to be stored.
const MOST_ERROR: usize = 2_000;

pub fn state(
    identity: &Identity,
    (actual, level): (&ActualState, Level),
    report: &Report,
    problems: &[String],
    now: &Now,
) -> State {
    // What the host did by itself is told with its own time, also when it is told again: it is the same event.
    let opened = report.opened.as_ref().filter(|opened| opened.cause == report.cause);
    let errors: Vec<&str> = report.error.iter().chain(&actual.error).chain(problems).map(String::as_str).collect();
    State {
        host: identity.host.clone(),
        generation: report.generation,
        posture: actual.posture,
        level,
        leaks: leaks(level).into_iter().map(str::to_owned).collect(),
        enforced_at: opened.map_or(actual.since, |opened| opened.at),
        clock_ahead_seconds: now.ahead().map(|ahead| ahead.num_seconds()),
        evidence: actual.evidence.clone(),
        cause: report.cause,
        by: opened.filter(|_| report.cause == StateCause::Local).and_then(|opened| opened.by.clone()),
        tamper: report.tamper.as_deref().cloned(),
        last_order: report.last_order.clone(),
        error: (!errors.is_empty()).then(|| errors.join("; ").chars().take(MOST_ERROR).collect()),
        boot_id: identity.boot_id.clone(),
        agent_version: identity.agent_version.clone(),
        incident: report.incident.clone(),
    }
}

pub fn event(identity: &Identity, report: &Report, state: State, now: Timestamp) -> Result<Pending, Malformed> {
    let id = ids::digest([
        state.host.as_str(),
        &state.generation.to_string(),
        state.posture.as_str(),
        &serde_json::to_string(&state.cause).unwrap_or_default(),
        &state.enforced_at.to_rfc3339(),
        state.error.as_deref().unwrap_or_default(),
        &(!state.evidence.probes.is_empty())
            .then(|| serde_json::to_string(&state.evidence.probes))
            .and_then(Result::ok)
            .unwrap_or_default(),
        &state.leaks.join("\n"),
        // Each is an event of its own, however alike they are.
        &state.tamper.as_ref().map(|_| now.to_rfc3339()).unwrap_or_default(),
    ]);
    let event = Event {
        id: id[..32].to_owned(),
        source: identity.source(),
        subject: Some(identity.host.to_string()),
        time: Some(now),
        traceparent: report.trace.traceparent.clone(),
        correlation: report.trace.correlation.clone(),
        causation: report.trace.id.clone(),
        data: state,
    };
    let body = envelope::encode(&event)?;
    Pending::new(event.id, &event.data, body).ok_or_else(|| Malformed::NotJson("the event is no text".to_owned()))
}
