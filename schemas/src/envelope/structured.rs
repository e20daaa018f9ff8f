//! Structured content mode: one JSON object holds attributes and data (CloudEvents JSON format 1.0.2).

use std::borrow::Cow;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use cloudevents::AttributesReader as _;
use cloudevents::event::ExtensionValue;
use serde::Serialize;
use serde_json::Value;

use super::attributes::{Attributes, Found};
use super::{Envelope, check};
use crate::json::{self, scan};
use crate::rejected::Malformed;
use crate::time::Timestamp;

/// The SDK keeps extensions in a hash map, and data as a value, which would write a sender's `raw` otherwise than it came. Members in the order of
/// their names: every byte follows from the content.
#[derive(Serialize)]
struct Written<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    causationid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlationid: Option<&'a str>,
    data: &'a T,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<&'a str>,
    id: &'a str,
    source: &'a str,
    specversion: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'a Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    r#type: &'a str,
}

/// Writes the attributes of an event, and this data.
pub fn write(event: &cloudevents::Event, data: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let extension = |name| match event.extension(name) {
        Some(ExtensionValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    serde_json::to_vec(&Written {
        causationid: extension("causationid"),
        correlationid: extension("correlationid"),
        data,
        datacontenttype: event.datacontenttype(),
        id: event.id(),
        source: event.source(),
        specversion: event.specversion().as_str(),
        subject: event.subject(),
        time: event.time(),
        traceparent: extension("traceparent"),
        r#type: event.ty(),
    })
}

pub fn read(body: &[u8]) -> Result<Envelope<'_>, Malformed> {
    let members = scan::members(body).map_err(|error| match json::parse(body) {
        Ok(_) => Malformed::NotCloudEvent("the body is JSON but no object".into()),
        Err(_) => Malformed::NotJson(error.to_string()),
    })?;
    let mut attributes = Attributes::default();
    let mut bodies: [Option<&[u8]>; 2] = [None, None];
    for member in &members {
        let place = match member.name.as_str() {
            "data" => &mut bodies[0],
            "data_base64" => &mut bodies[1],
            name if attributes.repeats(name) => return Err(twice(name)),
            name => {
                attributes.take(name, found(member.value))?;
                continue;
            }
        };
        if place.replace(member.value).is_some() {
            return Err(twice(&member.name));
        }
    }
    let attributes = attributes.whole()?;
    let data = match bodies {
        [None | Some(b"null"), Some(encoded)] if encoded != b"null" => Some(decoded(encoded)?),
        [Some(_), Some(encoded)] if encoded != b"null" => {
            return Err(Malformed::NotCloudEvent("data and data_base64 exclude each other".into()));
        }
        [Some(data), _] if data != b"null" => Some(plain(data, attributes.datacontenttype.as_deref())?),
        _ => None,
    };
    Ok(Envelope { attributes, data })
}

fn found(value: &[u8]) -> Found {
    match json::parse(value) {
        Ok(Value::Null) => Found::Null,
        Ok(Value::String(text)) => Found::Text(text),
        Ok(Value::Bool(_)) => Found::Other,
        Ok(Value::Number(number)) if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Found::Other,
        Ok(Value::Number(_)) => Found::Bad { problem: "is no 32-bit integer".into(), left: None },
        Ok(_) => Found::Bad { problem: "is a list or an object; attributes are simple values".into(), left: None },
        Err(error) => {
            let left = value.starts_with(b"\"").then(|| scan::lossy(value).0);
            Found::Bad { problem: format!("is not JSON: {error}"), left }
        }
    }
}

/// Data as the event holds it. Text that is no JSON by its media type may hold JSON all the same.
fn plain<'a>(data: &'a [u8], media_type: Option<&str>) -> Result<Cow<'a, [u8]>, Malformed> {
    if !data.starts_with(b"\"") || check::is_json(media_type) {
        return Ok(Cow::Borrowed(data));
    }
    text(data, "data").map(|text| Cow::Owned(text.into_bytes()))
}

fn decoded(encoded: &[u8]) -> Result<Cow<'static, [u8]>, Malformed> {
    let bytes = BASE64_STANDARD.decode(text(encoded, "data_base64")?);
    bytes.map(Cow::Owned).map_err(|error| broken(error.to_string()))
}

fn text(value: &[u8], name: &str) -> Result<String, Malformed> {
    match json::parse(value) {
        Ok(Value::String(text)) => Ok(text),
        _ => Err(broken(format!("{name} is no text"))),
    }
}

fn twice(name: &str) -> Malformed {
    Malformed::NotJson(format!("member {name:?} appears twice"))
}

fn broken(problem: String) -> Malformed {
    Malformed::Data { path: String::new(), problem }
}
