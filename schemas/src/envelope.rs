//! The CloudEvents 1.0 envelope: both NATS content modes in, structured JSON out.
//!
//! The SDK's types carry the event; its checks are weak (it takes empty ids, bad extension names, control characters), so
//! everything is checked here first (CloudEvents 1.0.2, sections 3.1 and 3.3; NATS protocol binding 1.0.3-wip, section 3).

mod binary;
mod check;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use chrono::SubsecRound;
use cloudevents::{AttributesReader, Data, Event as CloudEvent, EventBuilder, EventBuilderV10};
use serde_json::Value;

use crate::events::Payload;
use crate::json;
use crate::rejected::Malformed;
use crate::time::Timestamp;

/// Content type of every event that Portcullis sends.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";
/// Longest id and source, in bytes. They are copied into orders and decisions.
pub const MAX_KEY: usize = 512;
/// Longest other attribute, in bytes.
pub const MAX_TEXT: usize = 4096;

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

/// Reads one CloudEvent of type `T` from a NATS message.
///
/// A `ce-specversion` header means binary mode; a `Content-Type` of `application/cloudevents` means structured mode; without
/// either, a JSON object is tried as structured, since senders forget the header. Header names are matched without case.
pub fn decode<'a, T: Payload>(headers: impl Iterator<Item = (&'a str, &'a str)>, body: &[u8]) -> Result<Event<T>, Malformed> {
    let event = read(headers, body)?;
    typed(event)
}

/// Writes an event as structured JSON. Send it with [`CONTENT_TYPE`].
pub fn encode<T: Payload>(event: &Event<T>) -> Result<Vec<u8>, Malformed> {
    let data =
        serde_json::to_value(&event.data).map_err(|error| Malformed::Data { path: String::new(), problem: error.to_string() })?;
    let mut builder =
        EventBuilderV10::new().id(&event.id).source(&event.source).ty(T::TYPE).data("application/json", Data::Json(data));
    if let Some(subject) = &event.subject {
        builder = builder.subject(subject);
    }
    if let Some(time) = event.time {
        builder = builder.time(time);
    }
    for (name, value) in
        [("traceparent", &event.traceparent), ("correlationid", &event.correlation), ("causationid", &event.causation)]
    {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            builder = builder.extension(name, value.to_owned());
        }
    }
    let built = builder.build().map_err(|error| Malformed::NotCloudEvent(error.to_string()))?;
    // The SDK keeps extensions in a hash map; by way of a Value their order, and so every byte, follows from the content.
    let sorted = serde_json::to_value(&built).map_err(|error| Malformed::NotCloudEvent(error.to_string()))?;
    check::members(sorted.as_object().unwrap_or(&serde_json::Map::new()))?;
    serde_json::to_vec(&sorted).map_err(|error| Malformed::NotCloudEvent(error.to_string()))
}

/// Reads any valid CloudEvent, whatever its type.
pub fn read<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>, body: &[u8]) -> Result<CloudEvent, Malformed> {
    let mut content_type = None;
    let mut attributes = Vec::new();
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        if name == "content-type" {
            content_type = Some(value.trim().to_ascii_lowercase());
        } else if let Some(name) = name.strip_prefix("ce-") {
            attributes.push((name.to_owned(), value));
        }
    }
    if attributes.iter().any(|(name, _)| name == "specversion") {
        return binary::read(attributes, content_type, body);
    }
    if content_type.as_deref().is_some_and(|found| found.starts_with("application/cloudevents-batch")) {
        return Err(Malformed::NotCloudEvent("a batch; the NATS binding has none, send one event a message".into()));
    }
    structured(body)
}

fn structured(body: &[u8]) -> Result<CloudEvent, Malformed> {
    let mut value = json::parse(body).map_err(|error| Malformed::NotJson(error.to_string()))?;
    let Value::Object(members) = &mut value else {
        return Err(Malformed::NotCloudEvent("the body is JSON but no object".into()));
    };
    check::members(members)?;
    plain_data(members)?;
    let event = serde_json::from_value(value).map_err(|error| Malformed::NotCloudEvent(error.to_string()))?;
    Ok(event)
}

/// JSON data in base64 becomes JSON data: the SDK would read it with a parser that takes a member twice.
fn plain_data(members: &mut serde_json::Map<String, Value>) -> Result<(), Malformed> {
    let broken = |problem: String| Malformed::Data { path: String::new(), problem };
    if !check::is_json(members.get("datacontenttype").and_then(Value::as_str)) {
        return Ok(());
    }
    let Some(encoded) = members.get("data_base64").filter(|encoded| !encoded.is_null()) else {
        return Ok(());
    };
    let text = encoded.as_str().ok_or_else(|| broken("data_base64 is no text".into()))?;
    let bytes = BASE64_STANDARD.decode(text).map_err(|error| broken(error.to_string()))?;
    let data = json::parse(&bytes).map_err(|error| broken(error.to_string()))?;
    members.remove("data_base64");
    members.insert("data".to_owned(), data);
    Ok(())
}

fn typed<T: Payload>(mut event: CloudEvent) -> Result<Event<T>, Malformed> {
    if event.ty() != T::TYPE {
        return Err(Malformed::UnknownType { found: event.ty().to_owned(), wanted: T::TYPE });
    }
    let broken = |problem: String| Malformed::Data { path: String::new(), problem };
    let data = match event.take_data().2 {
        Some(Data::Json(value)) => value,
        Some(Data::Binary(bytes)) => json::parse(&bytes).map_err(|error| broken(error.to_string()))?,
        Some(Data::String(text)) => json::parse(text.as_bytes()).map_err(|error| broken(error.to_string()))?,
        None => return Err(broken("the event has no data".into())),
    };
    let data: T = serde_path_to_error::deserialize(data).map_err(|error| {
        let path = match error.path().to_string() {
            root if root == "." => String::new(),
            path => format!(".{path}"),
        };
        Malformed::Data { path, problem: error.into_inner().to_string() }
    })?;
    data.check().map_err(broken)?;
    let text = |name: &str| event.extension(name).map(ToString::to_string).filter(|value| !value.is_empty());
    Ok(Event {
        id: event.id().to_owned(),
        source: event.source().to_string(),
        subject: event.subject().map(str::to_owned),
        time: event.time().map(|time| time.trunc_subsecs(9)),
        traceparent: text("traceparent"),
        correlation: text("correlationid"),
        causation: text("causationid"),
        data,
    })
}

#[cfg(test)]
mod tests;
