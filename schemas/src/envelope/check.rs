//! What the SDK lets through: names, empty values, control characters, sizes.

use serde_json::{Map, Value};

use super::binary::parse_time;
use super::{MAX_KEY, MAX_TEXT};
use crate::rejected::Malformed;

/// Checks the members of a structured event.
pub fn members(members: &Map<String, Value>) -> Result<(), Malformed> {
    if !members.contains_key("specversion") {
        return Err(Malformed::NotCloudEvent("specversion is missing".into()));
    }
    if members.get("data").is_some_and(|_| members.get("data_base64").is_some_and(|value| !value.is_null())) {
        return Err(Malformed::NotCloudEvent("data and data_base64 exclude each other".into()));
    }
    for required in ["id", "source", "type", "specversion"] {
        match members.get(required) {
            Some(Value::String(_)) => {}
            Some(_) => return Err(fault(required, "is no text")),
            None => return Err(fault(required, "is missing")),
        }
    }
    for (name, value) in members {
        if name == "data" || name == "data_base64" {
            continue;
        }
        self::name(name)?;
        match value {
            Value::Null => {}
            Value::Bool(_) => {}
            Value::Number(number) if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
            Value::Number(_) => return Err(fault(name, "is no 32-bit integer")),
            Value::String(value) => attribute(name, value)?,
            Value::Array(_) | Value::Object(_) => {
                return Err(fault(name, "is a list or an object; attributes are simple values"));
            }
        }
    }
    Ok(())
}

fn attribute(name: &str, value: &str) -> Result<(), Malformed> {
    text(name, value)?;
    match name {
        "specversion" if value != "1.0" => Err(fault(name, "is not 1.0")),
        "time" if parse_time(value).is_none() => Err(fault(name, "is no RFC 3339 time")),
        "datacontenttype" => media_type(value),
        _ => Ok(()),
    }
}

/// Attribute names are `a-z` and `0-9` (CloudEvents 1.0.2, section 3.1).
pub fn name(name: &str) -> Result<(), Malformed> {
    let valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if valid { Ok(()) } else { Err(fault(name, "is no attribute name; a-z and 0-9 only")) }
}

/// Values are not empty and hold no control characters (CloudEvents 1.0.2, section 3.2).
pub fn text(name: &str, value: &str) -> Result<(), Malformed> {
    let most = if matches!(name, "id" | "source") { MAX_KEY } else { MAX_TEXT };
    if value.is_empty() {
        return Err(fault(name, "is empty"));
    }
    if value.len() > most {
        return Err(fault(name, &format!("has {} bytes; at most {most} are taken", value.len())));
    }
    match value.chars().find(|c| c.is_control()) {
        Some(c) => Err(fault(name, &format!("holds the control character {c:?}"))),
        None => Ok(()),
    }
}

/// `type/subtype`, parameters may follow (RFC 2045, section 5.1).
pub fn media_type(value: &str) -> Result<(), Malformed> {
    let essence = value.split(';').next().unwrap_or_default().trim();
    let token = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b));
    match essence.split_once('/') {
        Some((kind, subtype)) if token(kind) && token(subtype) => Ok(()),
        _ => Err(fault("datacontenttype", "is no media type")),
    }
}

/// Is data of this media type JSON? Absent means `application/json` (CloudEvents JSON format 1.0.2, section 3.1).
pub fn is_json(media_type: Option<&str>) -> bool {
    let essence = media_type.unwrap_or("application/json").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

fn fault(name: &str, problem: &str) -> Malformed {
    Malformed::Attribute { name: name.to_owned(), problem: problem.to_owned() }
}
