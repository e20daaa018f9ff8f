//! From a message to an input: the key by the subject, the rest by the event.

use std::time::Duration;

use chrono::{DateTime, Utc};
use portcullis_core::{Input, Meta};
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{Hello, InputKind, InputRef, Inventory, ReleaseDue, Request, Sighting, State};
use portcullis_schemas::rejected::Malformed;
use portcullis_schemas::{HostId, Prefix, Stream, ids};

use crate::delivery::{Delivery, pairs};
use crate::follow::Stored;

/// An input as it was read.
pub struct Heard {
    pub key: InputRef,
    pub traceparent: Option<String>,
    meta: Meta,
    body: Body,
}

enum Body {
    Detection(Sighting),
    Request { host: String, request: Box<Request> },
    ReleaseDue(ReleaseDue),
}

impl Heard {
    /// What could not be read and decides nothing.
    pub fn faults(&self) -> &[String] {
        &self.meta.faults
    }

    /// The input for the core. `rest` says what is left of a deadline.
    pub fn input(&self, rest: impl Fn(&ReleaseDue) -> Option<Duration>) -> Input {
        let meta = self.meta.clone();
        match &self.body {
            Body::Detection(Sighting::Sound(detection)) => Input::Detection(meta, (**detection).clone()),
            Body::Detection(Sighting::Doubtful(doubtful)) => Input::Doubtful(meta, doubtful.clone()),
            Body::Request { host, request } => Input::Request { meta, host: host.clone(), request: (**request).clone() },
            Body::ReleaseDue(due) => Input::ReleaseDue { meta, rest: rest(due), due: due.clone() },
        }
    }
}

pub fn read(prefix: &Prefix, delivery: &Delivery) -> Result<Heard, Malformed> {
    let subject = delivery.subject.as_str();
    let unknown = || Malformed::Subject(subject.to_owned());
    let headers = delivery.malformed.as_ref().map(|(_, problem)| Malformed::Headers(problem.clone()));
    match delivery.stream {
        Stream::Detections => {
            let token = prefix.rest("detection", subject).ok_or_else(unknown)?;
            // A header that cannot be read is no reason to leave a host open, where the event is whole without it.
            let read = envelope::detection(delivery.headers(), &delivery.body);
            let (event, mut faults) = read.map_err(|why| headers.clone().unwrap_or(why))?;
            faults.extend(headers.map(|headers| headers.to_string()));
            let mut heard = heard(InputKind::Detection, token, delivery, event, Body::Detection);
            heard.meta.faults = faults;
            Ok(heard)
        }
        Stream::Requests | Stream::Releases if headers.is_some() => Err(headers.unwrap_or_else(unknown)),
        Stream::Requests => {
            let (principal, host) = prefix.request_parts(subject).ok_or_else(unknown)?;
            let event = envelope::decode::<Request>(delivery.headers(), &delivery.body)?;
            let host = host.to_owned();
            Ok(heard(InputKind::Request, principal, delivery, event, |data| Body::Request { host, request: Box::new(data) }))
        }
        Stream::Releases => {
            let event = envelope::decode::<ReleaseDue>(delivery.headers(), &delivery.body)?;
            let key = of_host(prefix, InputKind::ReleaseDue, "release-due", subject, &event.data.host, &event)?;
            Ok(heard(InputKind::ReleaseDue, &key.token, delivery, event, Body::ReleaseDue))
        }
        _ => Err(unknown()),
    }
}

fn heard<T>(kind: InputKind, token: &str, delivery: &Delivery, event: Event<T>, body: impl FnOnce(T) -> Body) -> Heard {
    let key = InputRef { kind, token: token.to_owned(), source: event.source, id: event.id };
    let meta = Meta { input: key.clone(), at: delivery.stored_at, correlation: event.correlation, faults: Vec::new() };
    Heard { key, traceparent: event.traceparent, meta, body: body(event.data) }
}

/// A stored state event with its key.
pub fn state(prefix: &Prefix, stored: &Stored) -> Result<(InputRef, Event<State>), Malformed> {
    if let Some((_, problem)) = &stored.malformed {
        return Err(Malformed::Headers(problem.clone()));
    }
    let event = envelope::decode::<State>(stored.headers(), &stored.body)?;
    let key = of_host(prefix, InputKind::State, "state", &stored.subject, &event.data.host, &event)?;
    Ok((key, event))
}

pub fn hello(prefix: &Prefix, message: &async_nats::Message) -> Result<(InputRef, Event<Hello>), Malformed> {
    let headers = pairs(message.headers.as_ref());
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let event = envelope::decode::<Hello>(headers, &message.payload)?;
    let key = of_host(prefix, InputKind::Hello, "hello", message.subject.as_str(), &event.data.host, &event)?;
    Ok((key, event))
}

/// The key of a host's own word, if the host that it names is the subject's.
fn of_host<T>(
    prefix: &Prefix,
    kind: InputKind,
    token: &str,
    subject: &str,
    named: &HostId,
    event: &Event<T>,
) -> Result<InputRef, Malformed> {
    let host = prefix.host(token, subject).ok_or_else(|| Malformed::Subject(subject.to_owned()))?;
    if host != *named {
        return Err(Malformed::Data { path: ".host".into(), problem: format!("is {named}, the subject's is {host}") });
    }
    Ok(InputRef { kind, token: host.to_string(), source: event.source.clone(), id: event.id.clone() })
}

pub fn lost(prefix: &Prefix, stream: Stream, first: u64, last: u64, at: DateTime<Utc>) -> (Meta, Input) {
    let source = prefix.stream(stream);
    let key = InputRef { kind: InputKind::Stream, token: "_stream".into(), id: format!("{source}:{first}-{last}"), source };
    let meta = Meta { input: key, at, correlation: None, faults: Vec::new() };
    (meta.clone(), Input::InputsLost { meta, first, last })
}

pub fn inventory_event(source: &str, inventory: Inventory, at: DateTime<Utc>) -> Event<Inventory> {
    let host = inventory.hello.host.to_string();
    Event {
        id: ids::digest(["inventory", &host, &at.to_rfc3339()]),
        source: source.into(),
        subject: Some(host),
        time: Some(at),
        traceparent: None,
        correlation: None,
        causation: None,
        data: inventory,
    }
}
