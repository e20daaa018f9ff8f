//! Tests of the policy as a whole: what it refuses, and where it says so.

mod cases;
mod conditions;
mod exclusions;
mod expressions;
mod fleet;
mod matches;
mod policies;
mod profiles;
mod properties;
mod refused;
mod tables;
mod times;
mod vocabulary;
mod warned;
mod whole;

use std::collections::BTreeMap;

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Detection, For, IfUnanswered, Level, Severity};

use super::*;

fn detection() -> Detection {
    serde_json::from_value(serde_json::json!({
        "host": { "hostname": "db1", "ips": ["10.0.0.7"] },
        "indicator": { "type": "ip", "value": "203.0.113.9" },
        "severity": "high",
        "confidence": 85,
        "rule": { "id": "5710", "name": "Mass file encryption" },
        "techniques": ["T1486", "T1059.001"],
        "product": "elastic",
        "observed_at": "2026-11-22T10:00:00Z",
    }))
    .unwrap()
}

/// When the detections of these tests come.
fn at() -> Timestamp {
    "2026-11-22T10:00:05Z".parse().unwrap()
}

/// As little as a detection can hold.
fn bare() -> Detection {
    serde_json::from_value(serde_json::json!({
        "host": { "id": "h" },
        "severity": "high",
        "rule": { "id": "", "name": "" },
        "product": "",
        "observed_at": "2026-11-22T10:00:00Z",
    }))
    .unwrap()
}

fn judge<'p>(policy: &'p Policy, detection: &Detection) -> Judgement<'p> {
    let labels =
        BTreeMap::from([("tier".to_owned(), "payment".to_owned()), ("kubernetes.io/role".to_owned(), "node".to_owned())]);
    let roles = ["router".to_owned(), "dns-server".to_owned()];
    let host = HostView { id: "web-1", name: "web-1.corp.example", labels: &labels, roles: &roles, level: Level::Full };
    policy.judge(&Subject { detection, source: "elastic", host, at: at() })
}

/// A host for what is about hosts alone.
struct Known {
    id: String,
    labels: BTreeMap<String, String>,
    roles: Vec<String>,
}

impl Known {
    fn new(id: &str, labels: &[(&str, &str)], roles: &[&str]) -> Self {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { id: id.to_owned(), labels, roles: roles.iter().map(|role| (*role).to_owned()).collect() }
    }

    fn view(&self) -> HostView<'_> {
        HostView { id: &self.id, name: "", labels: &self.labels, roles: &self.roles, level: Level::Full }
    }
}

/// A small generator of its own: the same policies on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % most.max(1)
    }

    fn of<'t>(&mut self, choices: &[&'t str]) -> &'t str {
        choices[self.below(choices.len())]
    }
}

const REST: &str = "  - { name: rest, then: observe }\n";

/// A policy with `head` from its second line on.
fn with_head(head: &str) -> String {
    format!("version: 1\n{head}\nrules:\n{REST}")
}

/// What passes, one in a line, as it is explained.
#[track_caller]
fn passing(text: &str) -> Vec<String> {
    let policy = Policy::parse(text).unwrap_or_else(|errors| panic!("in:\n{text}\n{errors:#?}"));
    policy.terms.automatic.iter().map(explain::exclusion).collect()
}

/// A policy whose first rule is `rule` (its lines, without name and then), isolating.
fn with_rule(rule: &str) -> String {
    format!("version: 1\nrules:\n  - name: r\n{rule}\n    then: isolate\n  - {{ name: rest, then: observe }}\n")
}

/// The errors of `text`, one in a line, as `line:column message`.
fn errors(text: &str) -> Vec<String> {
    match Policy::parse(text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(|error| format!("{}:{} {}", error.line, error.column, error.message)).collect(),
    }
}

/// Asserts one error per `expected`, each beginning or, after `…`, holding what is given.
#[track_caller]
fn refused(text: &str, expected: &[(&str, &str)]) {
    let found = errors(text);
    let fits = found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(found, (place, words))| found.starts_with(&format!("{place} ")) && found.contains(words));
    assert!(fits, "in:\n{text}\nwanted {expected:#?}\nfound {found:#?}");
}
