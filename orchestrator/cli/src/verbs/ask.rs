//! From what an operator asks for to the event that is stored, and to the orchestrator's answer where no host has to confirm it.

use std::time::Duration;

use chrono::SecondsFormat;
use portcullis_schemas::envelope::Event;
use portcullis_schemas::events::{Decision, InputKind, InputRef, Request, Verdict};
use portcullis_schemas::{HostId, Timestamp, ids};
use serde::Serialize;

use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::screen::Screen;
use crate::{wait, words};

/// CloudEvents source of what operators send from here.
pub const SOURCE: &str = "/portcullis/cli";

/// The event of a request, and how it is named in the decision that answers it.
pub fn event(request: Request, now: Timestamp) -> (Event<Request>, InputRef) {
    let event = Event {
        id: request_id(&request, now),
        source: SOURCE.to_owned(),
        subject: request.host.as_ref().map(ToString::to_string),
        time: Some(now),
        traceparent: None,
        correlation: request.incident.clone(),
        causation: None,
        data: request,
    };
    let token = event.data.operator.clone();
    let input = InputRef { kind: InputKind::Request, token, source: event.source.clone(), id: event.id.clone() };
    (event, input)
}

/// What came of a request that no host has to confirm.
#[derive(Serialize)]
pub struct Answered {
    pub request: InputRef,
    /// `done`, `unchanged`, `waiting_for_approval`, `refused` or `unanswered`.
    pub outcome: &'static str,
    pub exit_code: u8,
    /// In words.
    pub message: String,
    pub decision: Option<Decision>,
}

impl Answered {
    pub fn exit(&self) -> Exit {
        match self.outcome {
            "done" | "unchanged" => Exit::Done,
            "unanswered" => Exit::Unconfirmed,
            _ => Exit::Refused,
        }
    }
}

/// Sends a request and waits for its decision.
pub async fn send<C: Client>(
    request: Request,
    limit: Duration,
    client: &C,
    screen: &mut Screen,
    now: Timestamp,
) -> Result<Answered, Failure> {
    let (event, input) = event(request, now);
    let decision = wait::answer(client, &event, &input, limit, screen).await?;
    let reason = decision.as_ref().map(|decision| words::reason(&decision.reason)).unwrap_or_default();
    let (outcome, message) = match decision.as_ref().map(|decision| decision.verdict) {
        None => ("unanswered", "the request is stored, and no orchestrator has decided yet".to_owned()),
        Some(Verdict::Refuse) => ("refused", format!("refused: {reason}")),
        Some(Verdict::Ask) => ("waiting_for_approval", format!("waiting for approval: {reason}")),
        Some(Verdict::Ignore | Verdict::Observe) => ("unchanged", format!("nothing changed: {reason}")),
        Some(Verdict::Apply | Verdict::Isolate | Verdict::Release) => ("done", reason),
    };
    let answered = Answered { request: input, outcome, exit_code: 0, message, decision };
    Ok(Answered { exit_code: answered.exit().code(), ..answered })
}

/// New for each invocation: asking again is a new request.
fn request_id(request: &Request, now: Timestamp) -> String {
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").map(|id| id.trim().to_owned()).unwrap_or_default();
    if !random.is_empty() {
        return random;
    }
    let host = request.host.as_ref().map_or("", HostId::as_str);
    let action = format!("{:?}", request.action);
    let (time, process) = (now.to_rfc3339_opts(SecondsFormat::Nanos, true), std::process::id().to_string());
    ids::digest([&request.operator, host, &action, &time, &process])
}
