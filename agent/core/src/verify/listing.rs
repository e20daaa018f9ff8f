//! Reads the JSON of `nft -j list table`, and our own batch as if it had been listed, into one comparable form.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nftables::schema::Nftables;
use serde_json::{Map, Value, json};

use super::{Passed, Ruleset};
use crate::ruleset::{self, TABLE};

/// Stands before the names of what is in the netdev table.
pub(super) const NETDEV: &str = "netdev ";

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no listing of nft: it has no list called nftables")]
pub struct Unreadable;

/// Reads what `nft -j list table inet portcullis` printed. Other tables in it are passed over.
///
/// On purpose not the `nftables` crate's types: one object that they do not know fails the whole, and so would hide tampering.
pub fn read(listing: &Value) -> Result<Ruleset, Unreadable> {
    let objects = listing.get("nftables").and_then(Value::as_array).ok_or(Unreadable)?;
    Ok(collect(objects.iter().filter_map(single)))
}

pub(crate) fn of_batch(batch: &Nftables<'_>) -> Ruleset {
    let value = serde_json::to_value(batch).unwrap_or_default();
    let commands = value.get("nftables").and_then(Value::as_array).into_iter().flatten();
    collect(commands.filter_map(single).filter(|(verb, _)| *verb == "add").filter_map(|(_, object)| single(object)))
}

fn single(object: &Value) -> Option<(&str, &Value)> {
    object.as_object()?.iter().next().map(|(kind, body)| (kind.as_str(), body))
}

fn collect<'a>(objects: impl Iterator<Item = (&'a str, &'a Value)>) -> Ruleset {
    let mut ruleset = Ruleset::default();
    for (kind, body) in objects {
        let word = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
        // Without a prefix stands the inet table, the first and for a long time the only one.
        let layer = match word("family") {
            "inet" => "",
            "netdev" => NETDEV,
            _ => continue,
        };
        if word(if kind == "table" { "name" } else { "table" }) != TABLE {
            continue;
        }
        let name = format!("{layer}{}", word("name"));
        match kind {
            // A table that has an owner is flagged as we want it: the owner is asked of the kernel itself.
            "table" if is_owned(body) => drop(ruleset.tables.insert(name, properties(body, &["flags"]))),
            "table" => drop(ruleset.tables.insert(name, properties(body, &[]))),
            "chain" => {
                ruleset.chains.entry(name.clone()).or_default().properties = properties(body, &["dev"]);
                let devices = match body.get("dev") {
                    Some(Value::Array(devices)) => devices.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
                    Some(Value::String(device)) => [device.clone()].into(),
                    _ => continue,
                };
                ruleset.devices.insert(name, devices);
            }
            "rule" => {
                let mut rule = with_joined_matches(body);
                ruleset.proofs.extend(ruleset::hide(&mut rule));
                let rule = properties(&rule, &["chain"]);
                ruleset.chains.entry(format!("{layer}{}", word("chain"))).or_default().content.push(rule);
            }
            "set" => {
                let set = ruleset.sets.entry(name).or_default();
                set.properties = properties(body, &["elem"]);
                set.content.extend(elements(body));
            }
            "element" => ruleset.sets.entry(name).or_default().content.extend(elements(body)),
            other => {
                ruleset.others.insert(format!("{other} {name}"));
            }
        }
    }
    ruleset
}

fn is_owned(table: &Value) -> bool {
    match table.get("flags") {
        Some(Value::Array(flags)) => flags.iter().any(|flag| flag == "owner") && flags.iter().all(|flag| flag != "dormant"),
        flag => flag.is_some_and(|flag| flag == "owner"),
    }
}

/// Matches on neighbouring parts of the link layer's header as one match each: nft joins them as it likes.
fn with_joined_matches(rule: &Value) -> Value {
    let mut rule = rule.clone();
    let Some(statements) = rule.get_mut("expr").and_then(Value::as_array_mut) else { return rule };
    let mut at = 0;
    while at + 1 < statements.len() {
        match (link_match(&statements[at]), link_match(&statements[at + 1])) {
            (Some((offset, length, first)), Some((next, more, second))) if offset + length == next && length + more <= 48 => {
                let payload = json!({ "payload": { "base": "ll", "offset": offset, "len": length + more } });
                statements[at] = json!({ "match": { "op": "==", "left": payload, "right": first << more | second } });
                statements.remove(at + 1);
            }
            _ => at += 1,
        }
    }
    rule
}

/// Offset and length in bits, and the value.
fn link_match(statement: &Value) -> Option<(u64, u64, u64)> {
    let matched = statement.get("match").filter(|matched| matched["op"] == "==")?;
    let payload = matched["left"].get("payload").filter(|payload| payload["base"] == "ll")?;
    Some((payload["offset"].as_u64()?, payload["len"].as_u64()?, matched["right"].as_u64()?))
}

/// All that a listed object says but for where it stands, its handle and `content`: so what we do not know is a difference.
fn properties(body: &Value, content: &[&str]) -> String {
    let mut rest = body.as_object().cloned().unwrap_or_default();
    rest.retain(|key, _| !["family", "table", "name", "handle"].contains(&key.as_str()) && !content.contains(&key.as_str()));
    canonical(&normal(&Value::Object(rest)))
}

/// One spelling for what nft writes in several.
fn normal(value: &Value) -> Value {
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

/// What the elements of our sets of the inet table have counted, by set and key.
pub(super) fn counted(listing: &Value) -> BTreeMap<(String, String), Passed> {
    let objects = listing.get("nftables").and_then(Value::as_array).into_iter().flatten().filter_map(single);
    let ours = objects.filter(|(kind, body)| *kind == "set" && body["family"] == "inet" && body["table"] == TABLE);
    let of = |(_, set): (&str, &Value)| {
        let name = set["name"].as_str().unwrap_or_default().to_owned();
        let elements = set.get("elem").and_then(Value::as_array).cloned().unwrap_or_default();
        elements.into_iter().filter_map(move |item| {
            let elem = item.get("elem")?;
            let number = |what: &str| elem.get("counter")?.get(what)?.as_u64();
            Some(((name.clone(), key(elem.get("val")?)), Passed { packets: number("packets")?, bytes: number("bytes")? }))
        })
    };
    ours.flat_map(of).collect()
}

fn elements(body: &Value) -> Vec<String> {
    let items = body.get("elem").and_then(Value::as_array).into_iter().flatten();
    items
        .map(|item| match item.get("elem").and_then(Value::as_object) {
            // What counts does not count.
            Some(elem) if elem.iter().all(|(key, value)| matches!(key.as_str(), "val" | "counter") || value.is_null()) => {
                elem.get("val").map(key).unwrap_or_default()
            }
            _ => key(item),
        })
        .collect()
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
fn canonical(value: &Value) -> String {
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
