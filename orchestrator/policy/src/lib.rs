//! The response policy: text in, a value out that judges detections.

mod condition;
mod entry;
mod error;
mod exclusions;
mod explain;
mod lists;
mod matching;
mod mentions;
mod metadata;
mod parse;
mod pattern;
mod peer;
mod profiles;
mod read;
mod rules;
mod terms;
#[cfg(test)]
mod tests;
mod yaml;

use std::collections::BTreeMap;

use portcullis_schemas::events::{Detection, For, Level, Severity};

pub use error::PolicyError;
pub use mentions::InUse;
pub use profiles::default_exclusions;
pub use terms::Terms;

/// A policy that was validated whole.
#[derive(Clone, Debug)]
pub struct Policy {
    hash: String,
    mode: Mode,
    terms: Terms,
    rules: Vec<Rule>,
    warnings: Vec<PolicyError>,
    mentions: Vec<error::Mention>,
}

/// Whether the policy orders, or only says what it would have ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    Audit,
}

/// What a policy judges.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub detection: &'a Detection,
    /// The sender's token in the subject, which the broker's permissions fix.
    pub source: &'a str,
    pub host: HostView<'a>,
}

/// The host of a detection, as the inventory has it.
#[derive(Clone, Copy, Debug)]
pub struct HostView<'a> {
    pub id: &'a str,
    /// "" where none is known.
    pub name: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    pub roles: &'a [String],
    pub level: Level,
}

/// What the policy says to one detection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The rule that spoke, also where it failed.
    pub rule: Option<String>,
    pub outcome: Outcome,
    /// By the mode of the policy or of the rule: to be recorded, and nothing to be ordered.
    pub audit: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Isolate {
        release_after: For,
    },
    Observe,
    Ignore,
    /// The condition could not be evaluated. No rule behind it is looked at: one that comes later may be weaker.
    RuleError(String),
    /// The rule says isolate, and the severity is unknown, which never isolates by itself.
    UnknownSeverity,
}

#[derive(Clone, Debug)]
struct Rule {
    name: String,
    matching: Vec<matching::Condition>,
    when: Option<condition::Condition>,
    then: Then,
    audit: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Isolate { release_after: For },
    Observe,
    Ignore,
}

impl Policy {
    /// Reads and validates `text` whole.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the text.
    pub fn parse(text: &str) -> Result<Self, Vec<PolicyError>> {
        parse::parse(text)
    }

    /// SHA-256 of the text, in hex.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Names of the rules, in order.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.name.as_str())
    }

    /// What is valid and hardly meant, in the order of the text.
    pub fn warnings(&self) -> &[PolicyError] {
        &self.warnings
    }

    /// Senders, roles and labels that it names and nothing has, in the order of the text.
    pub fn unknown(&self, used: &InUse, hosts: usize) -> Vec<PolicyError> {
        mentions::unknown(&self.mentions, used, hosts)
    }

    /// The policy as it was understood, for people.
    pub fn explain(&self) -> String {
        explain::explain(self)
    }

    /// The first rule that matches decides.
    pub fn judge(&self, subject: &Subject<'_>) -> Judgement {
        let mut facts = None;
        for rule in &self.rules {
            if !rule.matching.iter().all(|condition| condition.holds(subject)) {
                continue;
            }
            let held = match &rule.when {
                Some(when) => when.holds(facts.get_or_insert_with(|| condition::Facts::of(subject))),
                None => Ok(true),
            };
            let outcome = match held {
                Ok(false) => continue,
                Ok(true) => rule.outcome(subject.detection.severity),
                Err(message) => Outcome::RuleError(message),
            };
            let audit = rule.audit || self.mode == Mode::Audit;
            return Judgement { rule: Some(rule.name.clone()), outcome, audit };
        }
        // A policy has a last rule for everything; should that ever fail to hold, nobody is isolated and somebody looks.
        let outcome = Outcome::RuleError("no rule matched".to_owned());
        Judgement { rule: None, outcome, audit: self.mode == Mode::Audit }
    }
}

impl Rule {
    fn outcome(&self, severity: Severity) -> Outcome {
        match self.then {
            Then::Isolate { .. } if severity == Severity::Unknown => Outcome::UnknownSeverity,
            Then::Isolate { release_after } => Outcome::Isolate { release_after },
            Then::Observe => Outcome::Observe,
            Then::Ignore => Outcome::Ignore,
        }
    }

    fn takes_everything(&self) -> bool {
        self.matching.is_empty() && self.when.is_none()
    }
}
