//! Reads a detection: what decides strictly, everything else as it is.
//!
//! An attacker chooses much of what a sensor reports: names of files and users, command lines, whatever is in `raw`. None of it may keep a
//! detection from being read. So members are told apart without being read, each is read by itself, and those that decide
//! nothing cannot fail. Where one that decides is wrong, a person decides.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Detection, HostClaim, Indicator, Raw, RuleRef, Severity};
use crate::json::{self, scan};
use crate::rejected::Malformed;
use crate::time::{self, Timestamp};

/// Faults that are named; a sender can make as many as a message holds.
const MAX_FAULTS: usize = 16;
/// Longest text of a problem, in characters.
const LONGEST_PROBLEM: usize = 200;

/// A detection as far as it could be read.
#[derive(Clone, Debug, PartialEq)]
pub enum Sighting {
    /// All that decides could be read.
    Sound(Box<Detection>),
    /// Its host could be read, and something else that decides could not.
    Doubtful(Doubtful),
}

/// A detection that nothing but a person can judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubtful {
    /// What could be read of the host; it names one.
    pub host: HostClaim,
    /// The sender's own id of the incident.
    pub incident: Option<String>,
    /// The member that decides and cannot be read, as `.rule.id`.
    pub member: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A sighting, and what is wrong with those of its members that decide nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    pub sighting: Sighting,
    /// Each names its member, as `.process`.
    pub faults: Vec<String>,
}

impl Reading {
    /// Reads the data of an event. An error: no host can be read.
    pub fn of(data: &[u8]) -> Result<Self, Malformed> {
        let broken = |path: &str, problem: String| Malformed::Data { path: path.to_owned(), problem };
        let members = scan::members(data).map_err(|error| broken("", error.to_string()))?;
        let mut reader = Reader::default();
        let host = reader.host(&members).map_err(|problem| broken(".host", problem))?;
        if host.id.is_none() && host.hostname.is_none() && host.ips.is_empty() {
            return Err(match reader.doubt {
                Some((member, problem)) => broken(&member, problem),
                None => broken("", "host names no host: give id, hostname or ips".to_owned()),
            });
        }
        let severity = reader.severity(&members);
        let observed_at = reader.required(&members, "", "observed_at").and_then(|time| reader.time(time));
        let confidence = reader.confidence(&members);
        let techniques = reader.texts(&members, "", "techniques");
        let retracts = reader.deciding(&members, "", "retracts");
        let rule = reader.rule(&members);
        let indicator = reader.indicator(&members);
        let incident = reader.text(&members, "", "incident");
        let whole = (severity, observed_at, rule, reader.doubt.take());
        let sighting = match whole {
            (Some(severity), Some(observed_at), Some(rule), None) => Sighting::Sound(Box::new(Detection {
                host,
                indicator,
                severity,
                confidence,
                rule,
                techniques,
                product: reader.expected(&members, "", "product"),
                observed_at,
                incident,
                url: reader.text(&members, "", "url"),
                user: reader.text(&members, "", "user"),
                process: reader.text(&members, "", "process"),
                retracts,
                raw: reader.one(&members, "raw").map(Raw::new),
            })),
            (.., doubt) => {
                let (member, problem) = doubt.unwrap_or_default();
                Sighting::Doubtful(Doubtful { host, incident, member, problem })
            }
        };
        Ok(Self { sighting, faults: reader.faults })
    }

    /// The detection, if it can be judged.
    pub fn sound(self) -> Result<Detection, Malformed> {
        match self.sighting {
            Sighting::Sound(detection) => Ok(*detection),
            Sighting::Doubtful(Doubtful { member: path, problem, .. }) => Err(Malformed::Data { path, problem }),
        }
    }
}

type Members<'a> = [scan::Member<'a>];

#[derive(Default)]
struct Reader {
    /// The first member that decides and cannot be read, and why.
    doubt: Option<(String, String)>,
    faults: Vec<String>,
}

impl Reader {
    fn host(&mut self, members: &Members<'_>) -> Result<HostClaim, String> {
        let host = match find(members, "host") {
            Found::None => return Err("is missing".to_owned()),
            Found::Twice(_) => return Err("appears twice".to_owned()),
            Found::One(host) => scan::members(host).map_err(|error| error.to_string())?,
        };
        Ok(HostClaim {
            id: self.deciding(&host, ".host", "id"),
            hostname: self.deciding(&host, ".host", "hostname"),
            ips: self.texts(&host, ".host", "ips"),
        })
    }

    fn severity(&mut self, members: &Members<'_>) -> Option<Severity> {
        let text: String = self.required(members, "", "severity")?;
        let found = Severity::ALL.into_iter().find(|severity| severity.as_str() == text);
        if found.is_none() {
            let known = Severity::ALL.map(Severity::as_str).join(", ");
            self.doubted(".severity".to_owned(), format!("is {}; it is one of {known}", shown(&text)));
        }
        found
    }

    fn time(&mut self, observed_at: Timestamp) -> Option<Timestamp> {
        let checked = time::check("observed_at", observed_at);
        checked.map_err(|problem| self.doubted(".observed_at".to_owned(), problem)).ok().map(|()| observed_at)
    }

    fn confidence(&mut self, members: &Members<'_>) -> Option<u8> {
        let confidence: u64 = self.deciding(members, "", "confidence")?;
        if confidence > 100 {
            self.doubted(".confidence".to_owned(), format!("is {confidence}; it goes from 0 to 100"));
        }
        u8::try_from(confidence).ok()
    }

    fn rule(&mut self, members: &Members<'_>) -> Option<RuleRef> {
        let rule = self.object(members, "rule", true)?;
        let id = self.required(&rule, ".rule", "id")?;
        Some(RuleRef { id, name: self.expected(&rule, ".rule", "name") })
    }

    fn indicator(&mut self, members: &Members<'_>) -> Option<Indicator> {
        let indicator = self.object(members, "indicator", false)?;
        let kind = self.required(&indicator, ".indicator", "type")?;
        // A file's name is an indicator too, and its owner chose it.
        if !matches!(find(&indicator, "value"), Found::One(value) if value.starts_with(b"\"")) {
            self.doubted(".indicator.value".to_owned(), "is no text, or appears twice".to_owned());
        }
        Some(Indicator { kind, value: self.text(&indicator, ".indicator", "value").unwrap_or_default() })
    }

    /// The members of a member that decides.
    fn object<'a>(&mut self, members: &Members<'a>, name: &str, needed: bool) -> Option<Vec<scan::Member<'a>>> {
        let path = format!(".{name}");
        match find(members, name) {
            Found::None if needed => self.doubted(path, "is missing".to_owned()),
            Found::None => {}
            Found::Twice(_) => self.doubted(path, "appears twice".to_owned()),
            Found::One(value) => match scan::members(value) {
                Ok(inner) => return Some(inner),
                Err(error) => self.doubted(path, error.to_string()),
            },
        }
        None
    }

    /// A member that decides and must be there.
    fn required<T: DeserializeOwned>(&mut self, members: &Members<'_>, path: &str, name: &str) -> Option<T> {
        if matches!(find(members, name), Found::None) {
            self.doubted(format!("{path}.{name}"), "is missing".to_owned());
        }
        self.deciding(members, path, name)
    }

    /// A member that decides, where there is one.
    fn deciding<T: DeserializeOwned>(&mut self, members: &Members<'_>, path: &str, name: &str) -> Option<T> {
        let path = format!("{path}.{name}");
        match find(members, name) {
            Found::None => None,
            Found::Twice(_) => {
                self.doubted(path, "appears twice".to_owned());
                None
            }
            Found::One(value) => self.strictly(path, value),
        }
    }

    fn strictly<T: DeserializeOwned>(&mut self, path: String, value: &[u8]) -> Option<T> {
        let parsed = json::parse(value).and_then(serde_json::from_value);
        parsed.map_err(|error| self.doubted(path, error.to_string())).ok()
    }

    /// A list of texts that decides: what of it is text.
    fn texts(&mut self, members: &Members<'_>, path: &str, name: &str) -> Vec<String> {
        let path = format!("{path}.{name}");
        let items = match find(members, name) {
            Found::None => return Vec::new(),
            Found::Twice(_) => Err("appears twice".to_owned()),
            Found::One(value) => scan::items(value).map_err(|error| error.to_string()),
        };
        match items {
            Ok(items) => items.iter().enumerate().filter_map(|(at, item)| self.strictly(format!("{path}[{at}]"), item)).collect(),
            Err(problem) => {
                self.doubted(path, problem);
                Vec::new()
            }
        }
    }

    /// Free text that every detection has.
    fn expected(&mut self, members: &Members<'_>, path: &str, name: &str) -> String {
        let text = self.text(members, path, name);
        if text.is_none() && matches!(find(members, name), Found::None) {
            self.fault(format!("{path}.{name} is missing"));
        }
        text.unwrap_or_default()
    }

    /// Free text: what of it is text. A number or a truth value is the text that stands there, as a user id is.
    fn text(&mut self, members: &Members<'_>, path: &str, name: &str) -> Option<String> {
        let value = match find(members, name) {
            Found::None => return None,
            Found::One(value) => value,
            Found::Twice(first) => {
                self.fault(format!("{path}.{name} appears twice; the first one counts"));
                first
            }
        };
        if value.starts_with(b"\"") {
            let (text, exact) = scan::lossy(value);
            if !exact {
                self.fault(format!("{path}.{name} is not all text; what is none is U+FFFD"));
            }
            return Some(text);
        }
        match json::parse(value) {
            Ok(scalar @ (Value::Number(_) | Value::Bool(_))) => {
                self.fault(format!("{path}.{name} is no text; taken as it is written"));
                Some(scalar.to_string())
            }
            _ => {
                self.fault(format!("{path}.{name} is no text; left out"));
                None
            }
        }
    }

    fn one<'a>(&mut self, members: &Members<'a>, name: &str) -> Option<&'a [u8]> {
        match find(members, name) {
            Found::None => None,
            Found::One(value) => Some(value),
            Found::Twice(first) => {
                self.fault(format!(".{name} appears twice; the first one counts"));
                Some(first)
            }
        }
    }

    fn doubted(&mut self, member: String, problem: String) {
        // It may quote what the sender wrote.
        self.doubt.get_or_insert_with(|| (member, problem.chars().take(LONGEST_PROBLEM).collect()));
    }

    fn fault(&mut self, fault: String) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(fault);
        }
    }
}

/// A member as often as it is there. Null says the same as absent.
enum Found<'a> {
    None,
    One(&'a [u8]),
    Twice(&'a [u8]),
}

fn find<'a>(members: &Members<'a>, name: &str) -> Found<'a> {
    let mut found = members.iter().filter(|member| member.name == name).map(|member| member.value);
    match (found.next(), found.next()) {
        (None, _) => Found::None,
        (Some(b"null"), None) => Found::None,
        (Some(value), None) => Found::One(value),
        (Some(first), Some(_)) => Found::Twice(first),
    }
}

/// A sender's text in an error: short.
fn shown(text: &str) -> String {
    const MOST: usize = 40;
    let cut: String = text.chars().take(MOST).collect();
    format!("{cut:?}{}", if cut.len() < text.len() { "…" } else { "" })
}
