//! What an attribute may be: its name, its characters, its size, and what some of them must be beyond that.

use super::{MAX_KEY, MAX_TEXT};
use crate::rejected::Malformed;
use crate::time::Timestamp;

/// Checks the text of one attribute.
pub fn attribute(name: &str, value: &str) -> Result<(), Malformed> {
    text(name, value)?;
    match name {
        "specversion" if value != "1.0" => Err(fault(name, "is not 1.0")),
        "time" if time(value).is_none() => Err(fault(name, "is no RFC 3339 time")),
        "datacontenttype" if !is_media_type(value) => Err(fault(name, "is no media type")),
        "dataschema" if !is_uri(value) => Err(fault(name, "is no URI with a scheme")),
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

pub fn time(text: &str) -> Option<Timestamp> {
    chrono::DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

/// Is data of this media type JSON? Absent means `application/json` (CloudEvents JSON format 1.0.2, section 3.1).
pub fn is_json(media_type: Option<&str>) -> bool {
    let essence = media_type.unwrap_or("application/json").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

/// `type/subtype`, parameters may follow (RFC 2045, section 5.1).
fn is_media_type(value: &str) -> bool {
    let essence = value.split(';').next().unwrap_or_default().trim();
    let token = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b));
    essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

/// As much as [`crate::schema`] says of one: a scheme, and no white space (RFC 3986, section 3).
fn is_uri(value: &str) -> bool {
    let scheme = value.split_once(':').map_or("", |(scheme, _)| scheme);
    let rest = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && rest && !value.contains(' ')
}

fn fault(name: &str, problem: &str) -> Malformed {
    Malformed::Attribute { name: name.to_owned(), problem: problem.to_owned() }
}
