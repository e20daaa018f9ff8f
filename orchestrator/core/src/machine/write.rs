//! From what was decided to the events that are stored. Encoding is deterministic: the same content has the same bytes.

use bytes::Bytes;
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{Decision, Inventory, Notice, Order, Page, Payload, PolicyActivated, Reason, ReleaseDue, Term};
use portcullis_schemas::rejected::Malformed;
use portcullis_schemas::subjects::{FLEET, PAGES, POLICY, TERM, UNRESOLVED};
use portcullis_schemas::{Prefix, Stream, Timestamp, ids};

use super::event::{Log, Outgoing};
use crate::deadlines::Due;

const SOURCE: &str = "/portcullis/orchestrator";

/// Trace of the input, carried into what follows from it.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace {
    pub traceparent: Option<String>,
    pub causation: Option<String>,
}

pub(super) type Written = Result<Outgoing, Malformed>;

pub(super) fn order(prefix: &Prefix, order: &Order, trace: &Trace) -> Written {
    let generation = order.generation.to_string();
    let event = Event {
        id: ids::digest(["order", order.host.as_str(), &generation, &order.prev]),
        source: SOURCE.into(),
        subject: Some(order.host.to_string()),
        time: Some(order.issued_at),
        traceparent: trace.traceparent.clone(),
        correlation: Some(order.incident.clone()),
        causation: trace.causation.clone(),
        data: order.clone(),
    };
    written(prefix.of(Stream::Orders, order.host.as_str()), &event)
}

pub(super) fn decision(prefix: &Prefix, decision: Decision, at: Timestamp, trace: &Trace) -> Written {
    let input = &decision.input;
    let subject = decision.host.as_ref().map_or_else(|| UNRESOLVED.to_owned(), ToString::to_string);
    let event = Event {
        id: ids::digest([
            match (decision.asked, decision.waited) {
                (true, _) => "asked",
                (_, true) => "waited",
                _ => "decision",
            },
            &input.hash(),
            &input.token,
            &input.source,
            &input.id,
        ]),
        source: SOURCE.into(),
        subject: Some(subject.clone()),
        time: Some(at),
        traceparent: trace.traceparent.clone(),
        correlation: decision.incident.clone(),
        causation: Some(input.id.clone()),
        data: decision,
    };
    written(prefix.of(Stream::Decisions, &subject), &event)
}

/// One page, as it was decided at `at`. `part` tells pages of one run apart.
pub(super) fn page(prefix: &Prefix, page: Page, at: Timestamp, part: usize) -> Written {
    let (term, decisions) = (page.seen.term.to_string(), page.seen.decisions.to_string());
    let (first, last) = (page.first.to_string(), page.last.to_string());
    let id = ids::digest(["decisions", &page.stream, &first, &last, &term, &decisions, &part.to_string()]);
    written(prefix.of(Stream::Decisions, PAGES), &plain(id, SOURCE, PAGES.to_owned(), at, page))
}

pub(super) fn term(prefix: &Prefix, log: Log, term: Term) -> Written {
    let id = ids::digest(["term", log.stream().token(), &term.term.to_string(), &term.who]);
    written(prefix.of(log.stream(), TERM), &plain(id, SOURCE, TERM.to_owned(), term.since, term))
}

pub(super) fn policy(prefix: &Prefix, policy: PolicyActivated, at: Timestamp) -> Written {
    let id = ids::digest(["policy", policy.hash.as_deref().unwrap_or_default(), &policy.term.to_string(), &at.to_rfc3339()]);
    written(prefix.of(Stream::Decisions, POLICY), &plain(id, SOURCE, POLICY.to_owned(), at, policy))
}

/// A decision without what a sender or a host wrote of itself, which stands in their own events.
pub(super) fn shortened(mut decision: Decision) -> Decision {
    decision.facts.labels.clear();
    decision.facts.roles.clear();
    decision.facts.input_faults.clear();
    decision.reason = match decision.reason {
        // What is waited for must be found again.
        Reason::Unresolved { waits, ended, .. } => {
            Reason::Unresolved { wanted: String::new(), candidates: Vec::new(), waits, ended }
        }
        Reason::RuleError { .. } => Reason::RuleError { message: String::new() },
        Reason::OperatorMismatch { .. } => Reason::OperatorMismatch { operator: String::new(), principal: String::new() },
        Reason::Unreadable { member, .. } => Reason::Unreadable { member, problem: String::new() },
        Reason::HostMismatch { .. } => Reason::HostMismatch { named: String::new() },
        reason => reason,
    };
    decision
}

pub(super) fn inventory(prefix: &Prefix, inventory: Inventory, at: Timestamp) -> Written {
    let host = inventory.hello.host.to_string();
    let id = ids::digest(["inventory", &host, &at.to_rfc3339()]);
    let event = plain(id, SOURCE, host.clone(), at, inventory);
    written(prefix.of(Stream::Inventory, &host), &event)
}

pub(super) fn release_due(prefix: &Prefix, due: Due) -> Written {
    let host = due.host.to_string();
    let id = ids::digest(["release-due", &host, &due.generation.to_string()]);
    let data = ReleaseDue { host: due.host, generation: due.generation, due_at: due.due_at };
    let event = plain(id, "/portcullis/scheduler", host.clone(), due.due_at, data);
    written(prefix.of(Stream::Releases, &host), &event)
}

pub(super) fn notice(prefix: &Prefix, id: String, notice: Notice, at: Timestamp) -> Written {
    let host = notice.host.as_ref().map_or_else(|| FLEET.to_owned(), ToString::to_string);
    let correlation = notice.incident.clone();
    let event = Event { correlation, ..plain(id, SOURCE, host.clone(), at, notice) };
    written(prefix.of(Stream::Notices, &host), &event)
}

fn plain<T>(id: String, source: &str, subject: String, time: Timestamp, data: T) -> Event<T> {
    Event {
        id,
        source: source.into(),
        subject: Some(subject),
        time: Some(time),
        traceparent: None,
        correlation: None,
        causation: None,
        data,
    }
}

fn written<T: Payload>(subject: String, event: &Event<T>) -> Written {
    Ok(Outgoing { subject, body: Bytes::from(envelope::encode(event)?) })
}
