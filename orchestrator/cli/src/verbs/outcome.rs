//! How an isolation or a release ended: exit code, sentences and JSON.

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Action, Decision, InputRef, Order, Posture, Reason, State, Verdict};
use portcullis_schemas::time::Span;
use serde::Serialize;

use crate::client::HostView;
use crate::failure::{Exit, Failure};
use crate::screen::{Paint, Screen, plain};
use crate::wait::Outcome;
use crate::words;

pub struct Report {
    pub action: Action,
    pub posture: Posture,
    pub input: InputRef,
    pub limit: Span,
    pub outcome: Outcome,
    pub decision: Option<Decision>,
    /// The host as it stood afterwards.
    pub after: HostView,
}

#[derive(Serialize)]
struct Document<'a> {
    action: Action,
    host: &'a str,
    request: &'a InputRef,
    outcome: &'static str,
    exit_code: u8,
    verdict: Option<Verdict>,
    reason: Option<&'a Reason>,
    message: String,
    hint: Option<String>,
    generation: Option<u64>,
    ordered_ms: Option<f64>,
    enforced_ms: Option<f64>,
    sockets_killed: Option<u64>,
    release_at: Option<Timestamp>,
    incident: Option<&'a str>,
    error: Option<&'a str>,
    state: Option<&'a State>,
}

pub fn print(report: &Report, screen: &mut Screen) -> Result<Exit, Failure> {
    let exit = exit(&report.outcome);
    if screen.is_json() {
        screen.document(&document(report))?;
    } else if let Outcome::Confirmed { generation, ordered, enforced, state } = &report.outcome {
        let (ordered, enforced) = (words::milliseconds(*ordered), words::milliseconds(*enforced));
        let host = (Paint::Strong, report.after.host.to_string());
        let done = if report.posture == Posture::Isolated { Paint::Warn } else { Paint::Good };
        screen.cells(&[host, plain(format!(": ordered {ordered} → enforced {enforced}"))])?;
        screen.cells(&[
            plain("  "),
            (done, format!("{}, generation {generation}", state.posture.as_str())),
            plain(evidence(state)),
        ])?;
        if let Some(line) = ending(report) {
            screen.line(&format!("  {line}"))?;
        }
        for warning in doubts(state) {
            screen.warn(&warning);
        }
    } else if exit == Exit::Done {
        screen.line(&message(report))?;
    } else {
        screen.complain(&message(report), hint(report).as_deref());
    }
    Ok(exit)
}

pub fn exit(outcome: &Outcome) -> Exit {
    match outcome {
        Outcome::Confirmed { .. } | Outcome::AlreadyOpen => Exit::Done,
        Outcome::Failed { .. } => Exit::Failed,
        Outcome::Refused | Outcome::Asked | Outcome::NotDone => Exit::Refused,
        Outcome::Unconfirmed { .. } | Outcome::Unanswered => Exit::Unconfirmed,
    }
}

fn document(report: &Report) -> Document<'_> {
    let order = order(report);
    let (name, generation, ordered, enforced, state, error) = match &report.outcome {
        Outcome::Confirmed { generation, ordered, enforced, state } => {
            ("confirmed", Some(*generation), Some(*ordered), Some(*enforced), Some(state.as_ref()), None)
        }
        Outcome::Failed { generation, ordered, error, state } => {
            ("failed", Some(*generation), Some(*ordered), None, Some(state.as_ref()), Some(error.as_str()))
        }
        Outcome::Unconfirmed { generation, ordered, last } => {
            ("unconfirmed", Some(*generation), Some(*ordered), None, last.as_deref(), None)
        }
        Outcome::AlreadyOpen => ("already_open", None, None, None, None, None),
        Outcome::Refused => ("refused", None, None, None, None, None),
        Outcome::Asked => ("waiting_for_approval", None, None, None, None, None),
        Outcome::NotDone => ("not_done", None, None, None, None, None),
        Outcome::Unanswered => ("unanswered", None, None, None, None, None),
    };
    let decision = report.decision.as_ref();
    Document {
        action: report.action,
        host: report.after.host.as_str(),
        request: &report.input,
        outcome: name,
        exit_code: exit(&report.outcome).code(),
        verdict: decision.map(|decision| decision.verdict),
        reason: decision.map(|decision| &decision.reason),
        message: message(report),
        hint: hint(report),
        generation,
        ordered_ms: ordered.map(words::millis),
        enforced_ms: enforced.map(words::millis),
        sockets_killed: state.map(|state| state.evidence.sockets_killed),
        release_at: order.and_then(|order| order.release_at),
        incident: decision.and_then(|decision| decision.incident.as_deref()).or(order.map(|order| order.incident.as_str())),
        error,
        state,
    }
}

fn message(report: &Report) -> String {
    let host = &report.after.host;
    let why = report.decision.as_ref().map(|decision| words::reason(&decision.reason)).unwrap_or_default();
    match &report.outcome {
        Outcome::Confirmed { generation, state, .. } => format!("{host}: {}, generation {generation}", state.posture.as_str()),
        Outcome::AlreadyOpen => format!("{host}: it is open already"),
        Outcome::Refused => format!("{host}: refused: {why}"),
        Outcome::Asked => format!("{host}: waiting for approval: {why}"),
        Outcome::NotDone => format!("{host}: nothing is ordered: {why}"),
        Outcome::Failed { generation, error, state, .. } if state.posture == report.posture => {
            format!("{host}: {}, generation {generation}, and not as it should be: {error}", state.posture.as_str())
        }
        Outcome::Failed { generation, error, .. } => {
            format!("{host}: generation {generation} is ordered, and the host could not enforce it: {error}")
        }
        Outcome::Unconfirmed { generation, ordered, .. } => format!(
            "{host}: ordered {}, generation {generation}, but not confirmed in {}; the order stands",
            words::milliseconds(*ordered),
            report.limit
        ),
        Outcome::Unanswered => format!("{host}: the request is stored, and nobody decided on it in {}", report.limit),
    }
}

fn hint(report: &Report) -> Option<String> {
    let host = &report.after.host;
    let reason = report.decision.as_ref().map(|decision| &decision.reason);
    match &report.outcome {
        Outcome::Confirmed { .. } | Outcome::AlreadyOpen => None,
        Outcome::Unanswered => {
            Some("is an orchestrator running (`portcullis serve`)? It decides on stored requests when it comes back".into())
        }
        Outcome::Unconfirmed { generation, last, .. } => Some(unconfirmed_hint(report, *generation, last.as_deref())),
        Outcome::Failed { .. } => {
            Some(format!("it tries again by itself; `portcullis show {host}`, and `portcullis-agent doctor` on the host"))
        }
        Outcome::Refused | Outcome::Asked | Outcome::NotDone => match reason {
            Some(Reason::Protected { .. }) => Some("isolate it all the same with --override-protected".into()),
            Some(Reason::TooLong { limit }) => Some(format!("give --for at most {limit}")),
            Some(Reason::NoPolicy) => Some("look for a mistake with `portcullis policy check FILE`".into()),
            Some(Reason::OperatorMismatch { .. }) => Some("say with --operator who these credentials belong to".into()),
            _ => Some(format!("`portcullis decisions --host {host}` has the facts that it saw")),
        },
    }
}

fn unconfirmed_hint(report: &Report, generation: u64, last: Option<&State>) -> String {
    let host = &report.after.host;
    let silent = report.after.inventory.as_ref().and_then(|inventory| inventory.silent_since);
    let newer = report.after.order.as_ref().filter(|order| order.generation > generation && order.posture != report.posture);
    if let Some(order) = newer {
        return format!("generation {} was ordered since: {}", order.generation, order.posture.as_str());
    }
    if let Some(since) = silent {
        return format!("the host has not been heard of since {}; it takes the order when it comes back", words::date(since));
    }
    match last {
        Some(state) => {
            format!("its last word: {}, generation {}; `portcullis show {host}`", state.posture.as_str(), state.generation)
        }
        None => format!("is the agent up? `portcullis show {host}` shows its last word"),
    }
}

fn evidence(state: &State) -> String {
    let found = &state.evidence;
    match state.posture {
        Posture::Open => String::new(),
        Posture::Isolated => format!(
            ", {}, {} killed, {} flushed",
            words::level_words(state.level),
            words::count(found.sockets_killed, "socket", "sockets"),
            words::count(found.flows_flushed, "flow", "flows")
        ),
    }
}

fn ending(report: &Report) -> Option<String> {
    let order = order(report)?;
    let end = match (order.posture, order.release_at) {
        (Posture::Open, _) => return None,
        (_, Some(at)) => format!("opens {} ({})", words::due(order.issued_at, at), words::date(at)),
        (_, None) => "stays isolated until a person releases it".into(),
    };
    Some(format!("{end}; incident {}", words::short(&order.incident, 80)))
}

/// What a person should know although it is done.
fn doubts(state: &State) -> Vec<String> {
    let failed = state.evidence.probes.iter().filter(|probe| probe.expected != probe.found);
    failed.map(|probe| format!("probe {}: expected {}, found {}", probe.target, probe.expected, probe.found)).collect()
}

/// The order that did it, unless a later one has taken its place.
fn order(report: &Report) -> Option<&Order> {
    let generation = match report.outcome {
        Outcome::Confirmed { generation, .. } | Outcome::Failed { generation, .. } | Outcome::Unconfirmed { generation, .. } => {
            generation
        }
        _ => return None,
    };
    report.after.order.as_ref().filter(|order| order.generation >= generation && order.posture == report.posture)
}
