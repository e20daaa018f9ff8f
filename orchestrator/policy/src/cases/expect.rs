//! What a test expects: only what it writes is compared.

use portcullis_schemas::events::For;

use super::{Answer, Names};
use crate::error::{At, Errors, did_you_mean, one_of, quoted};
use crate::read::{Fields, fields, one_or_many, raw, text, word};
use crate::yaml::Node;

const KEYS: [&str; 5] = ["verdict", "rule", "until", "protected", "limit"];
const VERDICTS: [(&str, &str); 4] = [("isolate", "isolate"), ("ask", "ask"), ("observe", "observe"), ("ignore", "ignore")];

#[derive(Clone, Debug)]
pub(super) struct Expect {
    verdict: Option<(At, &'static str)>,
    rule: Option<(At, String)>,
    until: Option<(At, For)>,
    /// All that protect the host; an empty list: none does.
    protected: Option<(At, Vec<String>)>,
    /// Limits that take the host, maybe beside others.
    limits: Option<(At, Vec<String>)>,
}

impl Expect {
    pub fn parse(node: &Node, known: &Names<'_>, errors: &mut Errors) -> Option<Self> {
        let before = errors.count();
        let fields = fields(node, "expect", &KEYS, errors)?;
        if KEYS.iter().all(|key| fields.get(key).is_none()) {
            errors.push(fields.at, "expect is empty; write verdict: isolate, rule: NAME, or both");
        }
        let verdict = fields.get("verdict").and_then(|node| Some((node.at, word(node, "verdict", &VERDICTS, errors)?)));
        let rule =
            fields.get("rule").and_then(|node| Some((node.at, named(node, "rule", &known.rules, known.complete, errors)?)));
        let until = fields.get("until").and_then(|node| Some((node.at, until(node, errors)?)));
        let protected = names(&fields, "protected", &known.protected, known.complete, errors);
        let limits = names(&fields, "limit", &known.limits, known.complete, errors);
        (errors.count() == before).then_some(Self { verdict, rule, until, protected, limits })
    }

    pub fn mismatches(&self, answer: &Answer) -> Vec<(At, String)> {
        let mut found = Vec::new();
        if let Some((at, verdict)) = self.verdict.filter(|(_, verdict)| *verdict != answer.verdict) {
            found.push((at, format!("verdict {verdict} was expected")));
        }
        if let Some((at, rule)) = self.rule.as_ref().filter(|(_, rule)| answer.rule.as_ref() != Some(rule)) {
            found.push((*at, format!("rule {rule} was expected")));
        }
        if let Some((at, until)) = self.until.filter(|(_, until)| answer.release_after != Some(*until)) {
            let until = until.span().map_or("never".to_owned(), |span| format!("+{span}"));
            found.push((at, format!("until {until} was expected")));
        }
        let listed = |names: &[String]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        if let Some((at, wanted)) = &self.protected {
            let mut sorted = (wanted.clone(), answer.protected.clone());
            sorted.0.sort();
            sorted.1.sort();
            if sorted.0 != sorted.1 {
                let message =
                    format!("protection by {} was expected, and {} protects it", listed(wanted), listed(&answer.protected));
                found.push((*at, message));
            }
        }
        if let Some((at, wanted)) = &self.limits {
            let missing: Vec<&str> = wanted.iter().filter(|name| !answer.limits.contains(name)).map(String::as_str).collect();
            if !missing.is_empty() {
                let message =
                    format!("limit {} was expected to take the host; {} do", missing.join(", "), listed(&answer.limits));
                found.push((*at, message));
            }
        }
        found
    }
}

/// `+24h`, `24h` or `never`.
fn until(node: &Node, errors: &mut Errors) -> Option<For> {
    const WANTS: &str = "how long after the detection, as +24h, or never";
    let written = raw(node, "until", WANTS, errors)?;
    let found = written.strip_prefix('+').unwrap_or(written).parse().ok();
    if found.is_none() {
        errors.push(node.at, format!("until is {}; write {WANTS}", quoted(written)));
    }
    found
}

fn names(fields: &Fields<'_>, key: &str, known: &[&str], complete: bool, errors: &mut Errors) -> Option<(At, Vec<String>)> {
    let node = fields.get(key)?;
    Some((node.at, one_or_many(node).iter().filter_map(|item| named(item, key, known, complete, errors)).collect()))
}

/// A name that the policy has.
fn named(node: &Node, what: &str, known: &[&str], complete: bool, errors: &mut Errors) -> Option<String> {
    let written = text(node, what, errors)?;
    if known.contains(&written) || !complete {
        return Some(written.to_owned());
    }
    let hint = did_you_mean(written, known.iter().copied());
    let there = if known.is_empty() { String::new() } else { format!(" (there are {})", one_of(known.iter().copied().take(20))) };
    errors.push(node.at, format!("{what} is {}, and the policy has none of this name{hint}{there}", quoted(written)));
    None
}
