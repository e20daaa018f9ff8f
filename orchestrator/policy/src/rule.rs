//! One rule: what it takes, and what it says.

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{For, IfUnanswered, Severity};
use portcullis_schemas::exclusion::Exclusion;

use super::condition::Condition;
use super::during::During;
use super::matching;
use super::question::{OnDeadline, Question};
use super::subject::Outcome;
use super::threshold::Threshold;
use super::view::{Held, View};

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub name: String,
    pub matching: Vec<matching::Condition>,
    pub when: Option<Condition>,
    /// All of them hold.
    pub during: Vec<During>,
    pub then: Then,
    pub audit: bool,
    pub threshold: Option<Threshold>,
    pub on_deadline: OnDeadline,
    pub notify: Vec<String>,
    /// In place of `exclusions.automatic`.
    pub exclusions: Option<Vec<Exclusion>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Isolate { release_after: For },
    Ask(Question),
    Observe,
    Ignore,
}

impl Rule {
    /// What does not hold counts before what cannot be told.
    pub fn takes(&self, view: &View<'_>, at: Timestamp) -> Held {
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

    pub fn outcome(&self, severity: Severity) -> Outcome {
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

    pub fn takes_everything(&self) -> bool {
        self.matching.is_empty() && self.when.is_none() && self.during.is_empty()
    }
}
