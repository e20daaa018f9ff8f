//! How an isolation or a release ended: exit code, sentences and JSON.

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Action, Decision, InputRef, Order, Posture, Reason, Request, State, Verdict};
use serde::Serialize;

use crate::client::HostView;
use crate::failure::{Exit, Failure};
use crate::screen::{Paint, Screen, plain};
use crate::wait::Outcome;
use crate::words;

pub struct Report<'a> {
    pub action: Action,
    pub posture: Posture,
    pub input: InputRef,
    pub request: &'a Request,
    /// Why the wait ended where nothing confirmed it.
    pub given_up: String,
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

pub fn print(report: &Report<'_>, screen: &mut Screen) -> Result<Exit, Failure> {
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
            (done, format!("{}, order no. {generation}", state.posture.as_str())),
            plain(evidence(state)),
        ])?;
        if let Some(line) = ending(report) {
            screen.line(&format!("  {line}"))?;
        }
        for warning in doubts(state).into_iter().chain(other_incident(report)) {
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

fn document<'a>(report: &'a Report<'_>) -> Document<'a> {
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

fn message(report: &Report<'_>) -> String {
    let host = &report.after.host;
    let why = report.decision.as_ref().map(|decision| words::reason(&decision.reason)).unwrap_or_default();
    match &report.outcome {
        Outcome::Confirmed { generation, state, .. } => format!("{host}: {}, order no. {generation}", state.posture.as_str()),
        Outcome::AlreadyOpen => format!("{host}: already open; what was detected before now does not isolate it any more"),
        Outcome::Refused
            if matches!(report.decision.as_ref().map(|decision| &decision.reason), Some(Reason::AlreadyIsolated { .. })) =>
        {
            format!("{host}: {why}; your request changed nothing")
        }
        Outcome::Refused => format!("{host}: refused: {why}"),
        Outcome::Asked => format!("{host}: waiting for approval: {why}"),
        Outcome::NotDone => format!("{host}: nothing is ordered: {why}"),
        Outcome::Failed { generation, error, state, .. } if state.posture == report.posture => {
            format!("{host}: {}, order no. {generation}, but degraded: {error}", state.posture.as_str())
        }
        Outcome::Failed { generation, error, .. } => {
            format!("{host}: order no. {generation} is stored, and the host could not enforce it: {error}")
        }
        Outcome::Unconfirmed { generation, .. } => {
            let then = match (report.posture, order(report).and_then(|order| order.release_at)) {
                (Posture::Open, _) => "not open yet; it will be when the host is back".to_owned(),
                (Posture::Isolated, Some(until)) => {
                    format!("not isolated yet; it will be when the host is back, until {}", words::date(until))
                }
                (Posture::Isolated, None) => "not isolated yet; it will be when the host is back".to_owned(),
            };
            format!("{host}: {then} (order no. {generation}, {})", report.given_up)
        }
        Outcome::Unanswered => {
            format!("{host}: the request is stored, and no orchestrator has decided yet ({})", report.given_up)
        }
    }
}

fn hint(report: &Report<'_>) -> Option<String> {
    let host = &report.after.host;
    let reason = report.decision.as_ref().map(|decision| &decision.reason);
    match &report.outcome {
        Outcome::Confirmed { .. } | Outcome::AlreadyOpen => None,
        Outcome::Unanswered => Some(format!(
            "an orchestrator (`portcullis serve`) decides on stored requests as soon as it runs; follow it with `portcullis tail --host {host}`"
        )),
        Outcome::Unconfirmed { generation, last, .. } => Some(unconfirmed_hint(report, *generation, last.as_deref())),
        Outcome::Failed { .. } => {
            Some(format!("the agent retries by itself; `portcullis show {host}`, and `portcullis-agent doctor` on the host"))
        }
        Outcome::Refused | Outcome::Asked | Outcome::NotDone => match reason {
            Some(Reason::Protected { .. }) => Some("isolate it all the same with --override-protected".into()),
            Some(Reason::AlreadyIsolated { .. }) => Some(format!(
                "give a --for that ends later, or another --reason, --ticket or --incident, for a hold of its own; `portcullis show {host}` has those that it has"
            )),
            Some(Reason::TooLong { limit }) => Some(format!("give --for at most {limit}")),
            Some(Reason::NoPolicy) => Some("look for a mistake with `portcullis policy check FILE`".into()),
            Some(Reason::OperatorMismatch { .. }) => Some("say with --operator who these credentials belong to".into()),
            _ => Some(format!("`portcullis decisions --host {host}` has the facts that it saw")),
        },
    }
}

fn unconfirmed_hint(report: &Report<'_>, generation: u64, last: Option<&State>) -> String {
    let host = &report.after.host;
    let silent = report.after.inventory.as_ref().and_then(|inventory| inventory.silent_since);
    let newer = report.after.order.as_ref().filter(|order| order.generation > generation && order.posture != report.posture);
    let follow = format!("follow it with `portcullis show {host}` or `portcullis tail --host {host}`");
    if let Some(order) = newer {
        return format!("order no. {} came since: {}", order.generation, order.posture.as_str());
    }
    if let Some(since) = silent {
        return format!("the host is unreachable since {}; {follow}", words::date(since));
    }
    match last {
        Some(state) => format!("the host reports {}, order no. {}; {follow}", state.posture.as_str(), state.generation),
        None => format!("is the agent up? {follow}"),
    }
}

fn evidence(state: &State) -> String {
    let found = &state.evidence;
    match state.posture {
        Posture::Open => String::new(),
        Posture::Isolated if found.sockets_killed == 0 && found.flows_flushed == 0 => {
            format!(", {}, no open connections", words::level_words(state.level))
        }
        Posture::Isolated => format!(
            ", {}, {} killed, {} flushed",
            words::level_words(state.level),
            words::count(found.sockets_killed, "socket", "sockets"),
            words::count(found.flows_flushed, "flow", "flows")
        ),
    }
}

fn ending(report: &Report<'_>) -> Option<String> {
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

/// An order has one incident, that of its first cause; a hold may belong to another.
fn other_incident(report: &Report<'_>) -> Option<String> {
    let (wanted, order) = (report.request.incident.as_deref()?, order(report)?);
    let differs = order.incident != wanted;
    differs.then(|| {
        format!("the host was isolated already in incident {}: your isolation is a hold of its own in {wanted}", order.incident)
    })
}

/// The order that did it, unless a later one has taken its place.
fn order<'a>(report: &'a Report<'_>) -> Option<&'a Order> {
    let generation = match report.outcome {
        Outcome::Confirmed { generation, .. } | Outcome::Failed { generation, .. } | Outcome::Unconfirmed { generation, .. } => {
            generation
        }
        _ => return None,
    };
    report.after.order.as_ref().filter(|order| order.generation >= generation && order.posture == report.posture)
}
