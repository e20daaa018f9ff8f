//! A listing, and our own batch as if it had been listed, in one comparable form.

use nftables::schema::Nftables;
use serde_json::{Map, Value, json};

use super::Ruleset;
use super::objects::{Listing, Object};
use super::spelling::{canonical, normal};
use crate::ruleset::{self, TABLE};

/// Stands before the names of what is in the netdev table.
pub(super) const NETDEV: &str = "netdev ";

/// Other tables than ours are passed over.
pub fn read(listing: Listing) -> Ruleset {
    collect(listing.objects.into_iter())
}

pub(crate) fn of_batch(batch: &Nftables<'_>) -> Ruleset {
    collect(Listing::of_batch(batch))
}

fn collect(objects: impl Iterator<Item = Object>) -> Ruleset {
    let mut ruleset = Ruleset::default();
    for object in objects {
        // Without a prefix stands the inet table, the first and for a long time the only one.
        let layer = match object.word("family") {
            "inet" => "",
            "netdev" => NETDEV,
            _ => continue,
        };
        if object.word(if object.kind == "table" { "name" } else { "table" }) != TABLE {
            continue;
        }
        let name = format!("{layer}{}", object.word("name"));
        let Object { kind, body, elements } = object;
        let content = elements.into_iter().map(|element| element.key);
        match kind.as_str() {
            // A table that has an owner is flagged as we want it: the owner is asked of the kernel itself.
            "table" if is_owned(&body) => drop(ruleset.tables.insert(name, properties(body, &["flags"]))),
            "table" => drop(ruleset.tables.insert(name, properties(body, &[]))),
            "chain" => {
                let devices = match body.get("dev") {
                    Some(Value::Array(devices)) => Some(devices.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
                    Some(Value::String(device)) => Some([device.clone()].into()),
                    _ => None,
                };
                ruleset.chains.entry(name.clone()).or_default().properties = properties(body, &["dev"]);
                ruleset.devices.extend(devices.map(|devices| (name, devices)));
            }
            "rule" => {
                let chain = format!("{layer}{}", body.get("chain").and_then(Value::as_str).unwrap_or_default());
                let mut rule = with_joined_matches(Value::Object(body));
                ruleset.proofs.extend(ruleset::hide(&mut rule));
                let Value::Object(rule) = rule else { continue };
                ruleset.chains.entry(chain).or_default().content.push(properties(rule, &["chain"]));
            }
            "set" => {
                let set = ruleset.sets.entry(name).or_default();
                set.properties = properties(body, &[]);
                set.content.extend(content);
            }
            "element" => ruleset.sets.entry(name).or_default().content.extend(content),
            other => {
                ruleset.others.insert(format!("{other} {name}"));
            }
        }
    }
    ruleset
}

fn is_owned(table: &Map<String, Value>) -> bool {
    match table.get("flags") {
        Some(Value::Array(flags)) => flags.iter().any(|flag| flag == "owner") && flags.iter().all(|flag| flag != "dormant"),
        flag => flag.is_some_and(|flag| flag == "owner"),
    }
}

/// Matches on neighbouring parts of the link layer's header as one match each: nft joins them as it likes.
fn with_joined_matches(mut rule: Value) -> Value {
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
fn properties(mut rest: Map<String, Value>, content: &[&str]) -> String {
    rest.retain(|key, _| !["family", "table", "name", "handle"].contains(&key.as_str()) && !content.contains(&key.as_str()));
    canonical(&normal(&Value::Object(rest)))
}
