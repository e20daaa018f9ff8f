//! The CloudEvents 1.0 envelope: both NATS content modes in, structured JSON out.
//!
//! Everything is checked here (CloudEvents 1.0.2, sections 3.1 and 3.3; NATS protocol binding 1.0.3-wip, section 3): what identifies an
//! event is read strictly; what is wrong with another attribute is kept beside the event, and the event's type says whether it may be wrong.

mod attributes;
mod binary;
mod check;
mod structured;

use std::borrow::Cow;

use cloudevents::{EventBuilder, EventBuilderV10};
use serde_json::Value;

use crate::events::{Detection, Payload, Reading, Sighting};
use crate::rejected::Malformed;
use crate::time::Timestamp;
use attributes::Attributes;

/// Content type of every event that Portcullis sends.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";
/// Longest id and source, in bytes. They are copied into orders and decisions.
pub const MAX_KEY: usize = 512;
/// Longest other attribute, in bytes.
pub const MAX_TEXT: usize = 4096;
/// Longest text of a fault, in characters.
const MAX_FAULT: usize = 200;

/// One event with its data, as received or about to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Event<T> {
    /// Unique for its `source`; 1 to 512 bytes. A retry has the same one.
    pub id: String,
    /// Who sent it, in the sender's own words: a URI reference of 1 to 512 bytes.
    pub source: String,
    /// The host that it is about, or `_fleet`, `_unresolved`; for people and filters, never an identity.
    pub subject: Option<String>,
    /// When it happened, by the sender's clock.
    pub time: Option<Timestamp>,
    /// W3C trace context of the first cause, carried to the last state event.
    pub traceparent: Option<String>,
    /// The incident (CloudEvents extension `correlationid`).
    pub correlation: Option<String>,
    /// Id of the direct cause (CloudEvents extension `causationid`).
    pub causation: Option<String>,
    /// What the type says; it has passed [`Payload::check`].
    pub data: T,
}

/// An event of any type, with its data as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope<'a> {
    attributes: Attributes,
    data: Option<Cow<'a, [u8]>>,
}

/// Reads one CloudEvent of type `T` from a NATS message.
///
/// A `Content-Type` of `application/cloudevents` means structured mode, whatever `ce-` headers there are; else a `ce-specversion` header
/// means binary mode; without either, a JSON object is tried as structured, since senders forget the header. Header names are
/// matched without case.
pub fn decode<'a, T: Payload>(headers: impl Iterator<Item = (&'a str, &'a str)>, body: &[u8]) -> Result<Event<T>, Malformed> {
    let envelope = Envelope::read(headers, body)?;
    if !T::LENIENT {
        envelope.sound()?;
    }
    let data = T::read(envelope.data_of(T::TYPE)?)?;
    Ok(envelope.attributes.event(data))
}

/// Reads a detection as far as it can be read: what decides strictly, everything else as it is. The texts say what is wrong with what decides
/// nothing; each names its attribute, or its member as `.process`.
pub fn detection<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: &[u8],
) -> Result<(Event<Sighting>, Vec<String>), Malformed> {
    let envelope = Envelope::read(headers, body)?;
    let Reading { sighting, faults } = Reading::of(envelope.data_of(Detection::TYPE)?)?;
    // A sender may give an attribute a name of any length.
    let named = |fault: &Malformed| fault.to_string().chars().take(MAX_FAULT).collect();
    let mut all: Vec<String> = envelope.attributes.faults.iter().map(named).collect();
    all.extend(faults);
    Ok((envelope.attributes.event(sighting), all))
}

/// Writes an event as structured JSON. Send it with [`CONTENT_TYPE`].
pub fn encode<T: Payload>(event: &Event<T>) -> Result<Vec<u8>, Malformed> {
    let mut builder =
        EventBuilderV10::new().id(&event.id).source(&event.source).ty(T::TYPE).data("application/json", Value::Null);
    if let Some(subject) = &event.subject {
        check::text("subject", subject)?;
        builder = builder.subject(subject);
    }
    if let Some(time) = event.time {
        builder = builder.time(time);
    }
    for (name, value) in
        [("traceparent", &event.traceparent), ("correlationid", &event.correlation), ("causationid", &event.causation)]
    {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            check::text(name, value)?;
            builder = builder.extension(name, value.to_owned());
        }
    }
    // The SDK takes texts that no attribute may hold.
    check::text("id", &event.id)?;
    check::text("source", &event.source)?;
    let built = builder.build().map_err(|error| Malformed::NotCloudEvent(error.to_string()))?;
    structured::write(&built, &event.data).map_err(|error| Malformed::Data { path: String::new(), problem: error.to_string() })
}

impl<'a> Envelope<'a> {
    /// Reads any CloudEvent, whatever its type, by the mode that its headers say.
    pub fn read<'h>(headers: impl Iterator<Item = (&'h str, &'h str)>, body: &'a [u8]) -> Result<Self, Malformed> {
        let mut content_type = None;
        let mut named = Vec::new();
        for (name, value) in headers {
            let name = name.to_ascii_lowercase();
            if name == "content-type" {
                content_type = Some(value.trim().to_ascii_lowercase());
            } else if let Some(name) = name.strip_prefix("ce-") {
                named.push((name.to_owned(), value));
            }
        }
        let body = unwrapped(body)?;
        match content_type.as_deref() {
            Some(found) if found.starts_with("application/cloudevents-batch") => {
                Err(Malformed::NotCloudEvent("a batch; the NATS binding has none, send one event a message".into()))
            }
            Some(found) if found.starts_with("application/cloudevents") => structured::read(body),
            _ if named.iter().any(|(name, _)| name == "specversion") => binary::read(&named, body),
            _ => structured::read(body),
        }
    }

    /// Refuses what is wrong in any attribute.
    pub fn sound(&self) -> Result<(), Malformed> {
        self.attributes.faults.first().cloned().map_or(Ok(()), Err)
    }

    /// The type that it names.
    pub fn ty(&self) -> &str {
        &self.attributes.ty
    }

    fn data_of(&self, wanted: &'static str) -> Result<&[u8], Malformed> {
        if self.ty() != wanted {
            return Err(Malformed::UnknownType { found: self.ty().to_owned(), wanted });
        }
        let none = || Malformed::Data { path: String::new(), problem: "the event has no data".to_owned() };
        self.data.as_deref().ok_or_else(none)
    }
}

/// The JSON in a body: without the mark of UTF-8 before it and the NUL behind it that some senders write. Another encoding is named.
fn unwrapped(body: &[u8]) -> Result<&[u8], Malformed> {
    let other = match body {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => "UTF-32",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, b'{' | b'[', ..] | [b'{' | b'[', 0, ..] => "UTF-16",
        [0x1f, 0x8b, ..] => "compressed (gzip)",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "compressed (zstd)",
        _ => {
            let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
            let end = body.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            return Ok(&body[..end]);
        }
    };
    Err(Malformed::NotJson(format!("it is {other}; send plain JSON in UTF-8")))
}

#[cfg(test)]
mod tests;
