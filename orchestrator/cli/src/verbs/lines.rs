//! One record as one line: when, what kind, which host, what, which incident.

use portcullis_schemas::Timestamp;
use portcullis_schemas::envelope::Event;
use portcullis_schemas::events::{
    Decision, Detection, HostClaim, InputKind, InputRef, Notice, Order, Plain, PolicyActivated, Posture, Reason, State,
    StateCause, Term,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::client::{Client, Group, Record, What};
use crate::failure::Failure;
use crate::screen::Paint;
use crate::words;

/// One record as programs see it.
#[derive(Serialize)]
pub struct Line {
    pub stored_at: Timestamp,
    pub sequence: u64,
    pub subject: String,
    pub kind: &'static str,
    pub host: Option<String>,
    pub incident: Option<String>,
    /// In words.
    pub text: String,
    pub id: Option<String>,
    pub source: Option<String>,
    pub data: Option<Value>,
    #[serde(skip)]
    pub paint: Paint,
}

pub fn line(record: &Record) -> Line {
    match &record.what {
        What::Detection(event) => {
            let named = claimed(&event.data.host);
            whole(record, "detection", event, Some(named), event.data.incident.as_deref(), detection(&event.data), Paint::Plain)
        }
        What::Decision(event) => {
            let decision = &event.data;
            let host = decision.host.as_ref().map(ToString::to_string);
            whole(record, "decision", event, host, decision.incident.as_deref(), decided(decision), Paint::Strong)
        }
        What::Plain(event) => {
            let Group { plain, .. } = &event.data;
            let text = format!("rule {}: {}; {}", plain.rule, plain.verdict.as_str(), inputs(plain));
            let host = Some(plain.host.to_string());
            Line {
                host,
                id: Some(event.id.clone()),
                source: Some(event.source.clone()),
                ..bare(record, "decision", text, Paint::Plain)
            }
        }
        What::Term(event) => {
            let Term { term, who, since, config, .. } = &event.data;
            let text =
                format!("orchestrator {who} (version {}) leads in term {term} since {}", config.version, words::date(*since));
            whole(record, "term", event, None, None, text, Paint::Plain)
        }
        What::PolicyActivated(event) => whole(record, "policy", event, None, None, activated(&event.data), Paint::Plain),
        What::Order(event) => {
            let order = &event.data;
            whole(record, "order", event, Some(order.host.to_string()), Some(&order.incident), ordered(order), Paint::Warn)
        }
        What::State(event) => {
            let state = &event.data;
            let paint = if state.error.is_some() { Paint::Bad } else { Paint::Good };
            whole(record, "state", event, Some(state.host.to_string()), state.incident.as_deref(), stated(state), paint)
        }
        What::Notice(event) => {
            let notice = &event.data;
            let host = notice.host.as_ref().map(ToString::to_string);
            whole(record, "notice", event, host, notice.incident.as_deref(), noticed(notice), Paint::Warn)
        }
        What::Rejected(rejected) => {
            let text = format!("{} ({} bytes): {}: {}", rejected.on, rejected.bytes, rejected.reason, rejected.detail);
            Line { data: serde_json::to_value(rejected).ok(), ..bare(record, "rejected", text, Paint::Bad) }
        }
        What::Unreadable(problem) => {
            let text = format!("{} {}: {problem}", record.subject, record.sequence);
            bare(record, "unreadable", text, Paint::Faint)
        }
    }
}

/// Records as programs see them, the newest `most`: a group of plain inputs is a decision for each.
pub async fn each<C: Client>(client: &C, records: &[Record], most: usize) -> Result<Vec<Line>, Failure> {
    // The newest first, so that no more keys are read than are wanted.
    let mut lines = Vec::new();
    for record in records.iter().rev() {
        let room = most - lines.len();
        match &record.what {
            _ if room == 0 => break,
            What::Plain(event) => {
                let sequences: Vec<u64> = event.data.plain.each().rev().take(room).collect();
                let keys = client.keys(&event.data.stream, &sequences).await?;
                lines.extend(sequences.iter().zip(keys).map(|(sequence, key)| one(record, event, *sequence, key.as_ref())));
            }
            _ => lines.push(line(record)),
        }
    }
    lines.reverse();
    Ok(lines)
}

/// One input of a group. Where its key could not be read the decision's `input` has a type only. Its facts are positions, and no figures.
pub fn one(record: &Record, event: &Event<Group>, sequence: u64, key: Option<&InputRef>) -> Line {
    let Group { stream, policy, seen, plain } = &event.data;
    let which = key.map_or_else(|| format!("detection {sequence} of {stream}"), words::input);
    let input = key.map_or_else(|| json!({ "type": InputKind::Detection }), |key| json!(key));
    let mut facts = json!({ "seen": seen });
    if let Some(policy) = policy {
        facts["policy"] = json!(policy);
    }
    Line {
        text: format!("rule {}: {}; {which}", plain.rule, plain.verdict.as_str()),
        data: Some(json!({
            "input": input,
            "sequence": sequence,
            "host": plain.host,
            "verdict": plain.verdict,
            "reason": Reason::Rule,
            "facts": facts,
            "rule": plain.rule,
        })),
        ..line(record)
    }
}

/// How many inputs, and which.
pub fn inputs(plain: &Plain) -> String {
    let first = plain.sequences.first().map_or(0, |(first, _)| *first);
    let last = plain.sequences.last().map_or(0, |(_, last)| *last);
    match first == last {
        true => format!("{}, sequence {first}", words::count(plain.count, "detection", "detections")),
        false => format!("{}, sequences {first} to {last}", words::count(plain.count, "detection", "detections")),
    }
}

fn activated(policy: &PolicyActivated) -> String {
    let what = match &policy.hash {
        Some(hash) => format!("policy {} is active", words::short(hash, 13)),
        None => "no policy is active; detections wait for a person".to_owned(),
    };
    let reason = policy.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{what}, by {}{reason}", policy.activated_by)
}

/// Of what is no event.
fn bare(record: &Record, kind: &'static str, text: String, paint: Paint) -> Line {
    Line {
        stored_at: record.stored_at,
        sequence: record.sequence,
        subject: record.subject.clone(),
        kind,
        host: None,
        incident: None,
        text,
        id: None,
        source: None,
        data: None,
        paint,
    }
}

fn whole<T: Serialize>(
    record: &Record,
    kind: &'static str,
    event: &Event<T>,
    host: Option<String>,
    incident: Option<&str>,
    text: String,
    paint: Paint,
) -> Line {
    Line {
        stored_at: record.stored_at,
        sequence: record.sequence,
        subject: record.subject.clone(),
        kind,
        host,
        incident: incident.or(event.correlation.as_deref()).map(str::to_owned),
        text,
        id: Some(event.id.clone()),
        source: Some(event.source.clone()),
        data: serde_json::to_value(&event.data).ok(),
        paint,
    }
}

/// What the sender calls the host.
fn claimed(host: &HostClaim) -> String {
    host.id.as_ref().or(host.hostname.as_ref()).or(host.ips.first()).cloned().unwrap_or_default()
}

fn detection(detection: &Detection) -> String {
    let mut parts = vec![format!("{}: {} ({})", detection.severity.as_str(), detection.rule.name, detection.product)];
    if !detection.techniques.is_empty() {
        parts.push(detection.techniques.join(" "));
    }
    parts.extend(detection.indicator.as_ref().map(|indicator| format!("{} {}", indicator.kind, indicator.value)));
    parts.extend(detection.confidence.map(|confidence| format!("confidence {confidence}")));
    parts.extend(detection.retracts.as_ref().map(|id| format!("takes back {id}")));
    parts.join(", ")
}

pub fn decided(decision: &Decision) -> String {
    match (&decision.reason, &decision.rule) {
        (Reason::Rule, Some(rule)) => format!("rule {rule}: {}{}", decision.verdict.as_str(), order_and_input(decision)),
        _ => format!("{}: {}", decision.verdict.as_str(), why(decision)),
    }
}

/// The reason of a decision, its order and its input.
pub fn why(decision: &Decision) -> String {
    let rule = decision.rule.as_ref();
    let reason = match (&decision.reason, rule) {
        (Reason::Rule, Some(rule)) => format!("rule {rule}"),
        (reason, Some(rule)) => format!("{} (rule {rule})", words::reason(reason)),
        (reason, None) => words::reason(reason),
    };
    format!("{reason}{}", order_and_input(decision))
}

fn order_and_input(decision: &Decision) -> String {
    let order = decision.generation.map(|generation| format!(", order no. {generation}")).unwrap_or_default();
    let waited = if decision.waited && decision.host.is_some() { ", after it waited for its host" } else { "" };
    format!("{order}{waited}; {}", words::input(&decision.input))
}

fn ordered(order: &Order) -> String {
    let until = match (order.posture, order.release_at) {
        (Posture::Open, _) => String::new(),
        (_, Some(at)) => format!(" until {}", words::date(at)),
        (_, None) => " without a deadline".into(),
    };
    format!("{}{until}, order no. {}: {}", order.posture.as_str(), order.generation, order.reason)
}

pub fn stated(state: &State) -> String {
    let mut text = format!("{}, order no. {}, {}", state.posture.as_str(), state.generation, cause(state.cause));
    if state.posture == Posture::Isolated {
        let found = &state.evidence;
        text.push_str(&format!(", {}", words::level_words(state.level)));
        text.push_str(if found.readback_ok { ", verified" } else { ", NOT verified" });
        text.push_str(if found.table_locked { ", locked" } else { ", not locked" });
        if found.sockets_killed > 0 {
            text.push_str(&format!(", {} killed", words::count(found.sockets_killed, "socket", "sockets")));
        }
    }
    if let Some(by) = &state.by {
        text.push_str(&format!(", by uid {}", by.uid));
        by.login_uid.iter().for_each(|uid| text.push_str(&format!(" (login uid {uid})")));
        by.reason.iter().for_each(|reason| text.push_str(&format!(": {reason}")));
    }
    for probe in state.evidence.probes.iter().filter(|probe| probe.expected != probe.found) {
        text.push_str(&format!(", probe {} found {} instead of {}", probe.target, probe.found, probe.expected));
    }
    match &state.error {
        Some(error) => format!("DEGRADED: {error}; {text}"),
        None => text,
    }
}

fn cause(cause: StateCause) -> &'static str {
    match cause {
        StateCause::Order => "by order",
        StateCause::Boot => "restored at boot",
        StateCause::Tamper => "tamper detected and reverted",
        StateCause::Deadline => "by its own deadline",
        StateCause::Local => "on the host itself",
        StateCause::Check => "checked",
        StateCause::PostureLost => "posture file lost",
    }
}

fn noticed(notice: &Notice) -> String {
    format!("{}: {}", notice.severity.as_str(), notice.text)
}
