//! Binary content mode: attributes in `ce-` headers, data in the body (NATS protocol binding 1.0.3-wip, section 3.1).

use cloudevents::{Data, Event as CloudEvent, EventBuilder, EventBuilderV10};

use super::check;
use crate::rejected::Malformed;
use crate::time::Timestamp;

pub fn read(attributes: Vec<(String, &str)>, content_type: Option<String>, body: &[u8]) -> Result<CloudEvent, Malformed> {
    let mut builder = EventBuilderV10::new();
    let mut data_type = None;
    let mut seen: Vec<&str> = Vec::new();
    for (name, raw) in &attributes {
        let fault = |problem: &str| Malformed::Attribute { name: name.clone(), problem: problem.to_owned() };
        if seen.contains(&name.as_str()) {
            return Err(fault("stands twice"));
        }
        seen.push(name);
        let value = unescape(raw).ok_or_else(|| fault("is not percent-encoded UTF-8"))?;
        check::text(name, &value)?;
        builder = match name.as_str() {
            "specversion" if value == "1.0" => builder,
            "specversion" => return Err(fault("is not 1.0")),
            "id" => builder.id(value),
            "source" => builder.source(value),
            "type" => builder.ty(value),
            "subject" => builder.subject(value),
            "time" => builder.time(parse_time(&value).ok_or_else(|| fault("is no RFC 3339 time"))?),
            "datacontenttype" => {
                check::media_type(&value)?;
                data_type = Some(value);
                builder
            }
            "dataschema" => builder,
            _ => {
                check::name(name)?;
                builder.extension(name, value)
            }
        };
    }
    // Go's SDK puts the data's type into a plain content-type header.
    let data_type = data_type.or(content_type).unwrap_or_else(|| "application/json".to_owned());
    if !body.is_empty() {
        builder = builder.data(data_type, Data::Binary(body.to_vec()));
    }
    builder.build().map_err(|error| Malformed::NotCloudEvent(error.to_string()))
}

pub fn parse_time(text: &str) -> Option<Timestamp> {
    chrono::DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

/// Undoes a quoted string, then one round of percent-encoding (HTTP protocol binding 1.0.2, section 3.1.3.2).
fn unescape(raw: &str) -> Option<String> {
    let text = match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => {
            let mut plain = String::with_capacity(quoted.len());
            let mut chars = quoted.chars();
            while let Some(c) = chars.next() {
                plain.push(if c == '\\' { chars.next()? } else { c });
            }
            plain
        }
        None => raw.to_owned(),
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |d: u8| (d as char).to_digit(16);
                bytes.push((digit(*high)? * 16 + digit(*low)?) as u8);
                rest = tail;
            }
            (b'%', _) => return None,
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}
