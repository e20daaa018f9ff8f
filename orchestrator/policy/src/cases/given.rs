//! The detection and the host of a test.

use std::collections::BTreeMap;

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Detection, HostClaim, Indicator, Level, RuleRef, Severity};

use crate::error::{Errors, quoted};
use crate::read::{Fields, entries, fields, number, one_or_many_of, raw, text, word};
use crate::yaml::Node;
use crate::{HostView, Subject};

const KEYS: [&str; 11] =
    ["severity", "confidence", "technique", "source", "product", "rule", "indicator", "user", "process", "host", "at"];

/// A Monday.
const NOON: &str = "2026-01-05T12:00:00Z";

#[derive(Clone, Debug)]
pub(super) struct Given {
    detection: Detection,
    source: String,
    host: Host,
    at: Timestamp,
}

#[derive(Clone, Debug)]
struct Host {
    id: String,
    name: String,
    labels: BTreeMap<String, String>,
    roles: Vec<String>,
    level: Level,
}

impl Given {
    pub fn subject(&self) -> Subject<'_> {
        let Host { id, name, labels, roles, level } = &self.host;
        let host = HostView { id, name, labels, roles, level: *level };
        Subject { detection: &self.detection, source: &self.source, host, at: self.at }
    }

    pub fn parse(node: &Node, errors: &mut Errors) -> Option<Self> {
        let fields = fields(node, "given", &KEYS, errors)?;
        let severities = Severity::ALL.map(|severity| (severity.as_str(), severity));
        let severity = match fields.get("severity") {
            Some(node) => word(node, "severity", &severities, errors),
            None => {
                errors.push(fields.at, "given has no severity; write one, as severity: high");
                None
            }
        };
        let confidence = fields.get("confidence").and_then(|node| number(node, "confidence", 0, 100, errors));
        let pair = |key, members: [&str; 2], errors: &mut Errors| match fields.get(key) {
            Some(node) => two(node, key, members, errors),
            None => Default::default(),
        };
        let (rule_id, rule_name) = pair("rule", ["id", "name"], errors);
        let (kind, value) = pair("indicator", ["type", "value"], errors);
        let host = match fields.get("host") {
            Some(node) => Host::parse(node, errors),
            None => Some(Host::default()),
        };
        let at = match fields.get("at") {
            Some(node) => time(node, errors),
            None => NOON.parse().ok(),
        };
        let texts = |key, errors: &mut Errors| fields.get(key).map(|node| texts(node, key, errors)).unwrap_or_default();
        let techniques = texts("technique", errors);
        let one = |key, errors: &mut Errors| optional(&fields, key, errors);
        let (source, product) = (one("source", errors), one("product", errors));
        let (user, process) = (one("user", errors), one("process", errors));
        let (host, at) = (host?, at?);
        let claim = HostClaim { id: Some(host.id.clone()), hostname: Some(host.name.clone()), ips: Vec::new() };
        let detection = Detection {
            host: claim,
            indicator: fields.get("indicator").map(|_| Indicator { kind, value }),
            severity: severity?,
            confidence: confidence.and_then(|found| u8::try_from(found).ok()),
            rule: RuleRef { id: rule_id, name: rule_name },
            techniques,
            product: product.unwrap_or_default(),
            observed_at: at,
            incident: None,
            url: None,
            user,
            process,
            retracts: None,
            raw: None,
        };
        Some(Self { detection, source: source.unwrap_or_default(), host, at })
    }
}

impl Host {
    fn parse(node: &Node, errors: &mut Errors) -> Option<Self> {
        let fields = fields(node, "host", &["id", "name", "label", "role", "level"], errors)?;
        const LEVELS: [(&str, Level); 4] =
            [("full", Level::Full), ("partial", Level::Partial), ("inet", Level::Inet), ("none", Level::None)];
        let mut labels = BTreeMap::new();
        if let Some(node) = fields.get("label") {
            for (key, value) in entries(node, "label", errors).unwrap_or_default() {
                labels.extend(text(value, "a label", errors).map(|value| (key.name.clone(), value.to_owned())));
            }
        }
        let default = Self::default();
        Some(Self {
            id: optional(&fields, "id", errors).unwrap_or(default.id),
            name: optional(&fields, "name", errors).unwrap_or(default.name),
            labels,
            roles: fields.get("role").map(|node| texts(node, "role", errors)).unwrap_or_default(),
            level: fields.get("level").and_then(|node| word(node, "level", &LEVELS, errors)).unwrap_or(default.level),
        })
    }
}

/// A host of which nothing is known, and that can enforce.
impl Default for Host {
    fn default() -> Self {
        let (id, name, labels, roles) = Default::default();
        Self { id, name, labels, roles, level: Level::Full }
    }
}

fn optional(fields: &Fields<'_>, key: &str, errors: &mut Errors) -> Option<String> {
    fields.get(key).and_then(|node| text(node, key, errors)).map(str::to_owned)
}

fn texts(node: &Node, what: &str, errors: &mut Errors) -> Vec<String> {
    let items = one_or_many_of(node, what, errors).unwrap_or_default();
    items.iter().filter_map(|item| text(item, what, errors)).map(str::to_owned).collect()
}

/// Two texts of a mapping; "" for what is absent.
fn two(node: &Node, what: &str, members: [&str; 2], errors: &mut Errors) -> (String, String) {
    let Some(fields) = fields(node, what, &members, errors) else { return Default::default() };
    let [first, second] = members.map(|member| optional(&fields, member, errors).unwrap_or_default());
    (first, second)
}

fn time(node: &Node, errors: &mut Errors) -> Option<Timestamp> {
    const WANTS: &str = "a time with its offset, as 2026-11-30T22:15:00+01:00";
    let written = raw(node, "at", WANTS, errors)?;
    match written.parse::<Timestamp>() {
        Ok(found) => Some(found),
        Err(_) => {
            errors.push(node.at, format!("at is {}; write {WANTS}", quoted(written)));
            None
        }
    }
}
