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
mod rule;
mod rules;
mod shadow;
mod sources;
mod subject;
mod survey;
mod table;
mod terms;
#[cfg(test)]
mod tests;
mod threshold;
mod view;
mod vocabulary;
mod when;
mod yaml;

use std::sync::Arc;

use portcullis_schemas::events::{For, Origin};

pub use error::PolicyError;
pub use limits::{Limit, OnLimit};
pub use mentions::InUse;
pub use passing::Passing;
pub use profiles::{ProfileView, default_exclusions};
pub use question::{OnDeadline, Question};
pub use rate::Rate;
pub use sources::SourceTerms;
pub use subject::{HostView, Judgement, Mode, Outcome, Subject};
pub use survey::{Scope, Taken};
pub use table::{Answer, Row, Table};
pub use terms::Terms;
pub use threshold::{Distinct, Threshold};
pub use vocabulary::Vocabulary;

use rule::{Rule, Then};
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

    /// How long a rule of this name isolates, or asks to. None: there is no such rule, or it isolates nothing.
    pub fn isolates_for(&self, rule: &str) -> Option<For> {
        let rule = self.rules.iter().find(|found| found.name == rule).filter(|rule| !rule.audit && self.mode == Mode::Enforce)?;
        match rule.then {
            Then::Isolate { release_after } => Some(release_after),
            Then::Ask(question) => Some(question.release_after),
            Then::Observe | Then::Ignore => None,
        }
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
