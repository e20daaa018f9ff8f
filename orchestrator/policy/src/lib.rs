//! The response policy: text in, a value out that judges detections.

mod cases;
mod condition;
mod during;
mod entry;
mod error;
mod exclusions;
mod explain;
mod groups;
mod hosts;
mod index;
mod limits;
mod lists;
mod matching;
mod mentions;
mod metadata;
mod parse;
mod passing;
mod pattern;
mod peer;
mod profiles;
mod protect;
mod question;
mod rate;
mod read;
mod rules;
mod shadow;
mod sources;
mod survey;
mod table;
mod terms;
#[cfg(test)]
mod tests;
mod threshold;
mod view;
mod when;
mod yaml;

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Detection, For, IfUnanswered, Level, Origin, Severity};
use portcullis_schemas::exclusion::Exclusion;

pub use error::PolicyError;
pub use limits::{Limit, OnLimit};
pub use mentions::InUse;
pub use passing::Passing;
pub use profiles::default_exclusions;
pub use question::{OnDeadline, Question};
pub use rate::Rate;
pub use sources::SourceTerms;
pub use survey::{Scope, Taken};
pub use table::{Answer, Row, Table};
pub use terms::Terms;
pub use threshold::{Distinct, Threshold};

use view::{Membership, View};

/// A policy that was validated whole.
#[derive(Clone, Debug)]
pub struct Policy {
    hash: String,
    mode: Mode,
    terms: Terms,
    groups: Arc<groups::Groups>,
    protected: Vec<protect::Protected>,
    limits: Vec<Limit>,
    sources: sources::Sources,
    by_host: passing::ByHost,
    rules: Vec<Rule>,
    index: index::Index,
    tests: Vec<cases::Case>,
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
    /// The broker's time of the detection.
    pub at: Timestamp,
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
pub struct Judgement<'p> {
    /// The rule that spoke, also where it failed.
    pub rule: Option<&'p str>,
    pub outcome: Outcome,
    /// By the mode of the policy or of the rule: to be recorded, and nothing to be ordered.
    pub audit: bool,
    /// So many detections the rule wants before it isolates or asks; until then it observes.
    pub threshold: Option<&'p Threshold>,
    /// The outputs that are to hear of it; empty: all.
    pub notify: &'p [String],
    /// What happens at the deadline of the isolation.
    pub on_deadline: OnDeadline,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Isolate {
        release_after: For,
    },
    /// People are asked first.
    Ask(Question),
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
    /// All of them hold.
    during: Vec<during::During>,
    then: Then,
    audit: bool,
    threshold: Option<Threshold>,
    on_deadline: OnDeadline,
    notify: Vec<String>,
    /// In place of `exclusions.automatic`.
    exclusions: Option<Vec<Exclusion>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Isolate { release_after: For },
    Ask(Question),
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

    /// How many tests it holds.
    pub fn tests(&self) -> usize {
        self.tests.len()
    }

    /// Runs its tests: what is not as they expect, in the order of the text.
    pub fn failing_tests(&self) -> Vec<PolicyError> {
        let mut found: Vec<PolicyError> = self.tests.iter().flat_map(|test| test.failures(self)).collect();
        found.sort();
        found
    }

    /// What it says by severity, source, role and what else it names.
    pub fn table(&self) -> Table {
        table::table(self)
    }

    /// Which of these hosts its groups, protection, limits, exclusions by host and rules about hosts take.
    pub fn survey(&self, hosts: &[HostView<'_>]) -> Vec<Taken> {
        survey::survey(self, hosts)
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
    pub fn judge(&self, subject: &Subject<'_>) -> Judgement<'_> {
        let view = View::of(subject, &*self.groups);
        for rule in self.index.rules(&self.rules, subject.detection.severity) {
            let outcome = match rule.takes(&view, subject.at) {
                Ok(false) => continue,
                Ok(true) => rule.outcome(subject.detection.severity),
                Err(message) => Outcome::RuleError(message),
            };
            return Judgement {
                rule: Some(&rule.name),
                outcome,
                audit: rule.audit || self.mode == Mode::Audit,
                threshold: rule.threshold.as_ref(),
                notify: &rule.notify,
                on_deadline: rule.on_deadline,
            };
        }
        // A policy has a last rule for everything; should that ever fail to hold, nobody is isolated and somebody looks.
        let outcome = Outcome::RuleError("no rule matched".to_owned());
        let on_deadline = self.terms.on_deadline;
        Judgement { rule: None, outcome, audit: self.mode == Mode::Audit, threshold: None, notify: &[], on_deadline }
    }

    /// Names of the entries of `protected` that take the host. A condition that fails counts as true.
    pub fn protected(&self, host: &HostView<'_>) -> Vec<&str> {
        let view = View::of_host(*host, Some(&*self.groups));
        self.protected.iter().filter(|entry| entry.takes(&view)).map(|entry| entry.name.as_str()).collect()
    }

    /// All limits, in the order of the text: each that takes a host counts.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// Names of the groups, in the order of the text.
    pub fn groups(&self) -> &[String] {
        self.groups.names()
    }

    /// Names of the groups that take the host. One that cannot be told is left out.
    pub fn groups_of(&self, host: &HostView<'_>) -> Vec<&str> {
        let takes = |at: &usize| self.groups.takes(*at, *host).unwrap_or(false);
        (0..self.groups().len()).filter(takes).map(|at| self.groups()[at].as_str()).collect()
    }

    /// What the sender of this token may do.
    pub fn source_terms(&self, token: &str) -> SourceTerms {
        self.sources.terms(token)
    }

    /// What passes while the host is isolated, and it has no list of its own. Of several rules that hold it, the one that comes first in the
    /// policy speaks: its `exclusions`, or `exclusions.automatic`; rules that the policy does not have count for nothing.
    pub fn exclusions(&self, host: &HostView<'_>, origin: Origin, rules: &[&str]) -> Passing {
        let list = match origin {
            Origin::Manual => &self.terms.manual,
            Origin::Automatic => {
                let first = self.rules.iter().find(|rule| rules.contains(&rule.name.as_str()));
                first.and_then(|rule| rule.exclusions.as_ref()).unwrap_or(&self.terms.automatic)
            }
        };
        self.by_host.add_to(list, host, origin, &self.groups)
    }

    /// What happens at the deadline of a host that these rules hold: a person is asked where one of them says so.
    pub fn on_deadline(&self, rules: &[&str]) -> OnDeadline {
        let mut holding = self.rules.iter().filter(|rule| rules.contains(&rule.name.as_str())).peekable();
        if holding.peek().is_none() {
            return self.terms.on_deadline;
        }
        if holding.any(|rule| rule.on_deadline == OnDeadline::Ask) { OnDeadline::Ask } else { OnDeadline::Release }
    }
}

impl Rule {
    /// What does not hold counts before what cannot be told.
    fn takes(&self, view: &View<'_>, at: Timestamp) -> view::Held {
        let mut failed = None;
        for condition in &self.matching {
            match condition.holds(view) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(message) => failed = failed.or(Some(message)),
            }
        }
        if !self.during.iter().all(|during| during.holds(at)) {
            return Ok(false);
        }
        match self.when.as_ref().map_or(Ok(true), |when| when.holds(view)) {
            Ok(true) => failed.map_or(Ok(true), Err),
            other => other,
        }
    }

    fn outcome(&self, severity: Severity) -> Outcome {
        let unknown = severity == Severity::Unknown;
        match self.then {
            Then::Isolate { .. } if unknown => Outcome::UnknownSeverity,
            Then::Isolate { release_after } => Outcome::Isolate { release_after },
            // Unknown severity never isolates by itself, nor by anybody's silence.
            Then::Ask(question) if unknown => Outcome::Ask(Question { if_unanswered: IfUnanswered::Observe, ..question }),
            Then::Ask(question) => Outcome::Ask(question),
            Then::Observe => Outcome::Observe,
            Then::Ignore => Outcome::Ignore,
        }
    }

    fn takes_everything(&self) -> bool {
        self.matching.is_empty() && self.when.is_none() && self.during.is_empty()
    }
}
