//! What a policy is asked, and what it answers.

use std::collections::BTreeMap;

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Detection, For, Level};

use super::question::{OnDeadline, Question};
use super::threshold::Threshold;

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
