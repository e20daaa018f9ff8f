//! From a message to an input: the key by the subject, the rest by the event.

use std::sync::Arc;
use std::time::Duration;

use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{Hello, InputKind, InputRef, Inventory, Payload, ReleaseDue, Request, Sighting, State, WaitEnd};
use portcullis_schemas::rejected::Malformed;
use portcullis_schemas::{HostId, Prefix, Stream, Timestamp};

use super::event::{Delivered, Message};
use crate::control::Pending;
use crate::decide::{Over, PolicyText};
use crate::{Input, Meta};

/// An input as it was read.
#[derive(Clone, Debug)]
pub(super) struct Decoded {
    pub key: InputRef,
    pub traceparent: Option<String>,
    pub input: Input,
}

impl Decoded {
    /// Members of a detection that cannot be read and decide nothing.
    pub(super) fn faults(&self) -> &[String] {
        match &self.input {
            Input::Detection(meta, _) | Input::Doubtful(meta, _) => &meta.faults,
            _ => &[],
        }
    }
}

/// Reads a message of an input stream. What is left of a deadline is filled in when it is decided: see [`with_remaining`].
pub(super) fn input(prefix: &Prefix, stream: Stream, message: &Message) -> Result<Decoded, Malformed> {
    let subject = message.subject.as_str();
    let unknown = || Malformed::Subject(subject.to_owned());
    match stream {
        Stream::Detections => {
            let token = prefix.rest("detection", subject).ok_or_else(unknown)?;
            // A header that cannot be read is no reason to leave a host open, where the event is whole without it.
            let read = envelope::detection(message.headers(), &message.body);
            let (event, mut faults) = read.map_err(|why| malformed_headers(message).unwrap_or(why))?;
            faults.extend(malformed_headers(message).map(|headers| headers.to_string()));
            let of = |meta, sighting| match sighting {
                Sighting::Sound(detection) => Input::Detection(Meta { faults, ..meta }, *detection),
                Sighting::Doubtful(doubtful) => Input::Doubtful(Meta { faults, ..meta }, doubtful),
            };
            Ok(decoded(InputKind::Detection, token, message.at, event, of))
        }
        Stream::Requests => {
            let (principal, host) = prefix.request_parts(subject).ok_or_else(unknown)?;
            let event = decode::<Request>(message)?;
            let host = host.to_owned();
            let of = |meta, request| Input::Request { meta, host, request };
            Ok(decoded(InputKind::Request, principal, message.at, event, of))
        }
        Stream::Releases => {
            let event = decode::<ReleaseDue>(message)?;
            let host = of_host(prefix, "release-due", message, &event.data.host)?;
            let of = |meta, due| Input::ReleaseDue { meta, due, rest: None };
            Ok(decoded(InputKind::ReleaseDue, host.as_str(), message.at, event, of))
        }
        Stream::States => {
            let event = decode::<State>(message)?;
            let host = of_host(prefix, "state", message, &event.data.host)?;
            Ok(decoded(InputKind::State, host.as_str(), message.at, event, Input::State))
        }
        _ => Err(unknown()),
    }
}

pub(super) fn hello(prefix: &Prefix, message: &Message) -> Result<Decoded, Malformed> {
    let event = decode::<Hello>(message)?;
    let host = of_host(prefix, "hello", message, &event.data.host)?;
    Ok(decoded(InputKind::Hello, host.as_str(), message.at, event, Input::Hello))
}

/// Reads a stored inventory, as an input.
pub(super) fn inventory(prefix: &Prefix, message: &Message) -> Result<Decoded, Malformed> {
    let event = decode::<Inventory>(message)?;
    let host = of_host(prefix, "inventory", message, &event.data.hello.host)?;
    let of = |meta, inventory: Inventory| Input::Inventory(meta, inventory.hello);
    Ok(decoded(InputKind::Hello, host.as_str(), message.at, event, of))
}

/// A request to activate the policy whose text was read. It was read as a request before.
pub(super) fn activation(
    prefix: &Prefix,
    delivered: &Delivered,
    text: PolicyText,
    active: Option<String>,
) -> Result<Decoded, Malformed> {
    let decoded = input(prefix, delivered.stream, &delivered.message)?;
    let input = match decoded.input {
        Input::Request { meta, host, request } => Input::Activate { meta, host, request, text, active },
        other => other,
    };
    Ok(Decoded { input, ..decoded })
}

/// What a request says.
pub(super) fn request(message: &Message) -> Option<Request> {
    decode::<Request>(message).ok().map(|event| event.data)
}

/// The loss of inputs, as an input.
pub(super) fn lost(prefix: &Prefix, stream: Stream, first: u64, last: u64, at: Timestamp) -> Decoded {
    let source = prefix.stream(stream);
    let key = InputRef { kind: InputKind::Stream, token: "_stream".into(), id: format!("{source}:{first}-{last}"), source };
    let meta = Meta { input: key.clone(), at, correlation: None, faults: Vec::new() };
    Decoded { key, traceparent: None, input: Input::InputsLost { meta, first, last } }
}

/// The end of a wait, as an input.
pub(super) fn over(over: &Over) -> Decoded {
    let Over { wait, end, .. } = over;
    let at = if *end == WaitEnd::TimedOut { wait.until } else { wait.at };
    let meta = Meta { input: wait.input.clone(), at, correlation: wait.incident.clone(), faults: Vec::new() };
    Decoded { key: wait.input.clone(), traceparent: None, input: Input::Over(meta, over.clone()) }
}

/// The end of a pending approval, as an input.
pub(super) fn asked(pending: &Arc<Pending>) -> Decoded {
    Decoded { key: pending.input.clone(), traceparent: None, input: Input::Asked(Arc::clone(pending)) }
}

/// The end of the pause, as an input.
pub(super) fn pause_over(until: Timestamp) -> Decoded {
    let key = InputRef { kind: InputKind::Time, token: "_pause".into(), source: "/portcullis".into(), id: until.to_rfc3339() };
    let meta = Meta { input: key.clone(), at: until, correlation: None, faults: Vec::new() };
    Decoded { key, traceparent: None, input: Input::PauseOver(meta) }
}

/// The reset of a breaker, as an input.
pub(super) fn breaker_over(breaker: &str, at: Timestamp) -> Decoded {
    let key = InputRef { kind: InputKind::Time, token: "_breaker".into(), source: "/portcullis".into(), id: breaker.to_owned() };
    let meta = Meta { input: key.clone(), at, correlation: None, faults: Vec::new() };
    Decoded { key, traceparent: None, input: Input::BreakerOver(meta, breaker.to_owned()) }
}

/// The input with what is left of its deadline, if it is one.
pub(super) fn with_remaining(input: Input, remaining: impl Fn(&ReleaseDue) -> Option<Duration>) -> Input {
    match input {
        Input::ReleaseDue { meta, due, .. } => Input::ReleaseDue { meta, rest: remaining(&due), due },
        other => other,
    }
}

fn decode<T: Payload>(message: &Message) -> Result<Event<T>, Malformed> {
    match malformed_headers(message) {
        Some(why) => Err(why),
        None => envelope::decode(message.headers(), &message.body),
    }
}

fn malformed_headers(message: &Message) -> Option<Malformed> {
    message.malformed.as_ref().map(|(_, problem)| Malformed::Headers(problem.clone()))
}

fn decoded<T>(kind: InputKind, token: &str, at: Timestamp, event: Event<T>, input: impl FnOnce(Meta, T) -> Input) -> Decoded {
    let key = InputRef { kind, token: token.to_owned(), source: event.source, id: event.id };
    let meta = Meta { input: key.clone(), at, correlation: event.correlation, faults: Vec::new() };
    Decoded { key, traceparent: event.traceparent, input: input(meta, event.data) }
}

/// The host of the subject, if the event names no other.
fn of_host(prefix: &Prefix, token: &str, message: &Message, named: &HostId) -> Result<HostId, Malformed> {
    let host = prefix.host(token, &message.subject).ok_or_else(|| Malformed::Subject(message.subject.clone()))?;
    if host != *named {
        return Err(Malformed::Data { path: ".host".into(), problem: format!("is {named}, the subject's is {host}") });
    }
    Ok(host)
}
