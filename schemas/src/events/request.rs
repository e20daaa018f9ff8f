//! Request: what an operator or a SOC pipeline asks for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Payload;
use crate::exclusion::{Exclusion, measure};
use crate::host_id::HostId;
use crate::time::{self, Span, SpanError, Timestamp};

/// Most labels of one request.
const MAX_LABELS: usize = 64;

/// `io.portcullis.request.v1`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend(
    "if" = { "properties": { "action": { "enum": ["isolate", "release", "extend", "label", "exclude"] } } },
    "then" = { "required": ["host"], "properties": { "host": { "type": "string" } } },
))]
pub struct Request {
    /// What is asked for.
    pub action: Action,
    /// The host that it is about; absent for the whole fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// How long, from the broker's time of the request; at least 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<For>,
    /// For people; it stands in the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Equal to the principal in the subject, or the request is refused.
    pub operator: String,
    /// The alert from which the host is isolated by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection: Option<String>,
    /// The incident that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
    /// The operator's ticket, carried into the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// In place of the exclusions of the host's own list or of the policy's `manual_default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusions: Option<Vec<Exclusion>>,
    /// The decision that is approved or denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Isolate a protected host all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub override_protected: bool,
    /// For `extend`: the deadline itself, in place of a duration from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// For `label`: labels to set; null takes one away. At most 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, Option<String>>,
    /// For `exclude`: how the exclusions of the host's own list change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ExclusionChange>,
    /// For `approve`, `deny` and `resume`: all that this breaker holds, or the breaker itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<String>,
    /// For `activate_policy`: SHA-256 of the text, which lies in the KV bucket under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// For `activate_policy`: the hash of the policy that it is to replace; refused where another one is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// How the exclusions of a host's own list change. What is taken away and what is added, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExclusionChange {
    /// Names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// To be added, with an `until` where they are temporary. One of the same name is replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclusions: Vec<Exclusion>,
    /// The host's own list is dropped, and the policy's `manual_default` counts again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
}

/// What a request asks for. An action that is not built yet is answered by the reason `not_supported`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Isolate a host by hand.
    Isolate,
    /// Open a host: all its holds end.
    Release,
    /// Move the deadline of an isolation.
    Extend,
    /// Say yes to a decision with the verdict `ask`.
    Approve,
    /// Say no to a decision with the verdict `ask`.
    Deny,
    /// Stop automatic isolation for a while.
    Pause,
    /// End a pause.
    Resume,
    /// Set labels of a host.
    Label,
    /// Change the exclusions of a host.
    Exclude,
    /// Take another policy.
    ActivatePolicy,
}

/// How long an isolation lasts: a span, or `never` for one that only a person ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum For {
    /// This long.
    Span(Span),
    /// Until a person ends it.
    Never,
}

impl For {
    /// The span; None for `never`.
    pub fn span(self) -> Option<Span> {
        match self {
            For::Span(span) => Some(span),
            For::Never => None,
        }
    }
}

impl fmt::Display for For {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            For::Span(span) => span.fmt(f),
            For::Never => f.write_str("never"),
        }
    }
}

impl FromStr for For {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        if text.trim() == "never" { Ok(For::Never) } else { text.parse().map(For::Span) }
    }
}

impl Serialize for For {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for For {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for For {
    fn schema_name() -> Cow<'static, str> {
        "For".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(never|([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?)$", "minLength": 2 })
    }
}

impl Request {
    /// What `operator` asks for, with nothing else said.
    pub fn new(action: Action, operator: impl Into<String>) -> Self {
        Self {
            action,
            host: None,
            duration: None,
            reason: None,
            operator: operator.into(),
            detection: None,
            incident: None,
            ticket: None,
            exclusions: None,
            decision: None,
            override_protected: false,
            until: None,
            labels: BTreeMap::new(),
            change: None,
            breaker: None,
            policy: None,
            replaces: None,
        }
    }
}

impl Payload for Request {
    const TYPE: &'static str = "io.portcullis.request.v1";
    const NAME: &'static str = "request";
    // A pipeline copies what it found on the host into them.
    const FREE_TEXT: &'static [&'static str] = &["reason", "detection", "incident", "ticket"];

    fn check(&self) -> Result<(), String> {
        let about_host =
            matches!(self.action, Action::Isolate | Action::Release | Action::Extend | Action::Label | Action::Exclude);
        if about_host && self.host.is_none() {
            return Err("host is missing: this action is about one host".into());
        }
        if self.duration == Some(For::Span(Span::seconds(0))) {
            return Err("duration is zero; write at least 1s".into());
        }
        let exclusions = self.exclusions.as_deref().unwrap_or_default();
        measure::check(exclusions).map_err(|reason| format!("exclusions: {reason}"))?;
        let added = self.change.as_ref().map_or(&[][..], |change| &change.exclusions);
        measure::check(added).map_err(|reason| format!("change: {reason}"))?;
        if self.labels.len() > MAX_LABELS {
            return Err(format!("labels has {} entries; at most {MAX_LABELS} are taken", self.labels.len()));
        }
        let of_exclusions = exclusions.iter().chain(added).filter_map(|exclusion| exclusion.until);
        self.until.into_iter().chain(of_exclusions).try_for_each(|until| time::check("until", until))
    }
}
