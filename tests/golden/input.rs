//! A line of a story: when, what, and its words.

use std::collections::BTreeMap;

use chrono::{NaiveTime, TimeDelta};
use portcullis_schemas::Timestamp;
use serde_json::{Value, json};

/// Monday, 23 November 2026, in UTC.
pub fn monday() -> Timestamp {
    "2026-11-23T00:00:00Z".parse().unwrap()
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// What a line says: `Mon 08:00:05 detection ids a1 web1 critical technique=T1486`.
pub struct Line {
    pub at: Timestamp,
    pub verb: String,
    /// Words without a `=`, behind the verb.
    pub words: Vec<String>,
    /// `name=value`; a value in quotes may hold spaces.
    pub named: BTreeMap<String, String>,
}

impl Line {
    pub fn read(text: &str) -> Result<Self, String> {
        let mut words = split(text).into_iter();
        let day = words.next().ok_or("no day")?;
        let day = DAYS.iter().position(|name| *name == day).ok_or(format!("{day} is no day; write {}", DAYS.join(", ")))?;
        let time: NaiveTime = words.next().ok_or("no time")?.parse().map_err(|error| format!("time: {error}"))?;
        let at = monday() + TimeDelta::days(i64::try_from(day).unwrap()) + (time - NaiveTime::MIN);
        let verb = words.next().ok_or("no verb")?;
        let (named, words): (Vec<String>, Vec<String>) = words.partition(|word| word.contains('='));
        let named =
            named.iter().filter_map(|word| word.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect();
        Ok(Self { at, verb, words, named })
    }

    pub fn word(&self, at: usize, what: &str) -> Result<&str, String> {
        self.words.get(at).map(String::as_str).ok_or(format!("{} has no {what}", self.verb))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.named.get(name).map(String::as_str)
    }

    /// What stands behind `label.`.
    pub fn labels(&self) -> BTreeMap<&str, &str> {
        self.named.iter().filter_map(|(name, value)| Some((name.strip_prefix("label.")?, value.as_str()))).collect()
    }

    /// `detection SOURCE ID HOST SEVERITY [rule=] [technique=] [confidence=] [observed=] [retracts=] [incident=]`
    pub fn detection(&self) -> Result<Value, String> {
        let rule = self.get("rule").unwrap_or("a rule");
        let mut data = json!({
            "host": { "id": self.word(2, "host")? },
            "severity": self.word(3, "severity")?,
            "rule": { "id": rule, "name": rule },
            "techniques": self.get("technique").into_iter().collect::<Vec<_>>(),
            "product": self.word(0, "source")?,
            "observed_at": self.at,
        });
        if let Some(ago) = self.get("observed") {
            let ago: portcullis_schemas::time::Span = ago.parse().map_err(|error| format!("observed: {error}"))?;
            data["observed_at"] = json!(self.at - ago.delta());
        }
        if let Some(confidence) = self.get("confidence") {
            data["confidence"] = json!(confidence.parse::<u8>().map_err(|error| format!("confidence: {error}"))?);
        }
        if let Some(value) = self.get("indicator") {
            data["indicator"] = json!({ "type": "ip", "value": value });
        }
        for name in ["retracts", "incident"] {
            if let Some(value) = self.get(name) {
                data[name] = json!(value);
            }
        }
        Ok(data)
    }
}

fn split(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for c in text.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}
