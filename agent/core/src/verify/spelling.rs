//! One spelling for what nft writes in several.

use std::net::IpAddr;

use serde_json::{Map, Value};

/// The same value, however a version of nft writes it.
pub(super) fn normal(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(normal).collect()),
        Value::Object(map) => {
            // Newer versions (1.1) have no names for codes of ICMP.
            if map.get("right").is_some_and(|right| right == "frag-needed") {
                let by_number =
                    map.iter().map(|(key, value)| (key.clone(), if key == "right" { 4.into() } else { value.clone() }));
                return normal(&Value::Object(by_number.collect()));
            }
            let spelled = map.iter().map(|(key, value)| {
                let value = match (key.as_str(), value) {
                    ("counter", Value::Object(_)) => Value::Null,
                    ("flags", Value::String(_)) => Value::Array(vec![value.clone()]),
                    ("set", Value::Array(items)) => sorted(items),
                    _ => normal(value),
                };
                (key.clone(), value)
            });
            // The crate writes out members that nft leaves out where they say nothing.
            let spelled: Map<String, Value> = spelled.filter(|(key, value)| !(key == "offset" && value.is_null())).collect();
            // Newer versions write a list of flags as `syn | ack`.
            match spelled.get("|").and_then(Value::as_array) {
                Some(flags) if spelled.len() == 1 => Value::Array(flags.clone()),
                _ => Value::Object(spelled),
            }
        }
        // A number that is too long for the crate's.
        Value::String(text) => match text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
            Some(number) => number.into(),
            None => value.clone(),
        },
        plain => plain.clone(),
    }
}

fn sorted(items: &[Value]) -> Value {
    let mut items: Vec<Value> = items.iter().map(normal).collect();
    items.sort_by_cached_key(canonical);
    Value::Array(items)
}

pub(super) fn key(item: &Value) -> String {
    match item.get("concat").and_then(Value::as_array) {
        Some(parts) => parts.iter().map(part).collect::<Vec<_>>().join(" . "),
        None => canonical(item),
    }
}

/// A part of an element as `first-last`, or alone if both are the same: nft lists an aligned range as a prefix.
fn part(part: &Value) -> String {
    if let Some(prefix) = part.get("prefix") {
        let address = prefix.get("addr").and_then(Value::as_str).unwrap_or_default();
        let net: Option<ipnet::IpNet> = prefix.get("len").and_then(|len| format!("{address}/{len}").parse().ok());
        return net.map_or_else(|| canonical(part), |net| joined(net.network().to_string(), net.broadcast().to_string()));
    }
    if let Some([first, last]) = part.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        return joined(scalar(first), scalar(last));
    }
    scalar(part)
}

fn joined(first: String, last: String) -> String {
    if first == last { first } else { format!("{first}-{last}") }
}

fn scalar(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.parse::<IpAddr>().map_or_else(|_| text.to_owned(), |address| address.to_string()),
        None => canonical(value),
    }
}

/// JSON with sorted keys, whatever map serde_json was built with.
pub(super) fn canonical(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            let entries: Vec<_> = entries.into_iter().map(|(key, value)| format!("{key}:{}", canonical(value))).collect();
            format!("{{{}}}", entries.join(","))
        }
        Value::String(text) => text.clone(),
        plain => plain.to_string(),
    }
}
