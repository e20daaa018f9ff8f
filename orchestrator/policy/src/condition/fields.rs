//! What an expression reads of a subject. Nothing is ever missing: absent text is "", absent confidence 0.

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::Severity;

use super::value::{Items, Value};
use crate::view::{Seen, View};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Scalar(Scalar),
    List(List),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Severity,
    SeverityRank,
    Confidence,
    HasConfidence,
    RuleId,
    RuleName,
    Product,
    IndicatorType,
    IndicatorValue,
    ClaimedId,
    ClaimedName,
    ObservedAt,
    Age,
    Incident,
    Url,
    User,
    Process,
    Retracts,
    HostId,
    HostName,
    HostLevel,
    Source,
    Now,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Techniques,
    ClaimedIps,
    Roles,
    Groups,
}

/// Every name that is no object, as it is written.
pub(super) const PATHS: [(&str, Field); 27] = [
    ("detection.severity", Field::Scalar(Scalar::Severity)),
    ("detection.severity_rank", Field::Scalar(Scalar::SeverityRank)),
    ("detection.confidence", Field::Scalar(Scalar::Confidence)),
    ("detection.has_confidence", Field::Scalar(Scalar::HasConfidence)),
    ("detection.rule.id", Field::Scalar(Scalar::RuleId)),
    ("detection.rule.name", Field::Scalar(Scalar::RuleName)),
    ("detection.techniques", Field::List(List::Techniques)),
    ("detection.product", Field::Scalar(Scalar::Product)),
    ("detection.indicator.type", Field::Scalar(Scalar::IndicatorType)),
    ("detection.indicator.value", Field::Scalar(Scalar::IndicatorValue)),
    ("detection.host.id", Field::Scalar(Scalar::ClaimedId)),
    ("detection.host.hostname", Field::Scalar(Scalar::ClaimedName)),
    ("detection.host.ips", Field::List(List::ClaimedIps)),
    ("detection.observed_at", Field::Scalar(Scalar::ObservedAt)),
    ("detection.age", Field::Scalar(Scalar::Age)),
    ("detection.incident", Field::Scalar(Scalar::Incident)),
    ("detection.url", Field::Scalar(Scalar::Url)),
    ("detection.user", Field::Scalar(Scalar::User)),
    ("detection.process", Field::Scalar(Scalar::Process)),
    ("detection.retracts", Field::Scalar(Scalar::Retracts)),
    ("host.id", Field::Scalar(Scalar::HostId)),
    ("host.name", Field::Scalar(Scalar::HostName)),
    ("host.roles", Field::List(List::Roles)),
    ("host.groups", Field::List(List::Groups)),
    ("host.level", Field::Scalar(Scalar::HostLevel)),
    ("source", Field::Scalar(Scalar::Source)),
    ("now", Field::Scalar(Scalar::Now)),
];

impl Scalar {
    pub fn of<'e>(self, view: &'e View<'_>) -> Value<'e> {
        let host = &view.host;
        match self {
            Scalar::HostId => return Value::text_of(host.id),
            Scalar::HostName => return Value::text_of(host.name),
            Scalar::HostLevel => return Value::text_of(host.level.as_str()),
            _ => {}
        }
        // What is about hosts alone names nothing else.
        let Some(Seen { detection, source, at }) = view.event else { return Value::text_of("") };
        let indicator = detection.indicator.as_ref();
        let optional = |text: &'e Option<String>| Value::text_of(text.as_deref().unwrap_or_default());
        match self {
            Scalar::Severity => Value::text_of(detection.severity.as_str()),
            Scalar::SeverityRank => Value::Int(rank(detection.severity)),
            Scalar::Confidence => Value::Int(i64::from(detection.confidence.unwrap_or(0))),
            Scalar::HasConfidence => Value::Bool(detection.confidence.is_some()),
            Scalar::RuleId => Value::text_of(&detection.rule.id),
            Scalar::RuleName => Value::text_of(&detection.rule.name),
            Scalar::Product => Value::text_of(&detection.product),
            Scalar::IndicatorType => Value::text_of(indicator.map_or("", |indicator| &indicator.kind)),
            Scalar::IndicatorValue => Value::text_of(indicator.map_or("", |indicator| &indicator.value)),
            Scalar::ClaimedId => optional(&detection.host.id),
            Scalar::ClaimedName => optional(&detection.host.hostname),
            Scalar::ObservedAt => time(detection.observed_at),
            Scalar::Age => Value::Int((at - detection.observed_at).num_seconds()),
            Scalar::Incident => optional(&detection.incident),
            Scalar::Url => optional(&detection.url),
            Scalar::User => optional(&detection.user),
            Scalar::Process => optional(&detection.process),
            Scalar::Retracts => optional(&detection.retracts),
            Scalar::Now => time(at),
            Scalar::Source => Value::text_of(source),
            Scalar::HostId | Scalar::HostName | Scalar::HostLevel => Value::text_of(""),
        }
    }
}

impl List {
    pub fn of<'e>(self, view: &'e View<'_>) -> Result<Items<'e>, String> {
        Ok(match (self, view.event) {
            (List::Roles, _) => Items::Texts(view.host.roles),
            (List::Groups, _) => Items::Names(view.groups()?),
            (List::Techniques, Some(event)) => Items::Texts(&event.detection.techniques),
            (List::ClaimedIps, Some(event)) => Items::Texts(&event.detection.host.ips),
            (List::Techniques | List::ClaimedIps, None) => Items::Texts(&[]),
        })
    }

    /// How many entries it has, which the sender chose; None for what the policy bounds.
    pub fn count(self, view: &View<'_>) -> Option<usize> {
        match self {
            List::Roles => Some(view.host.roles.len()),
            List::Groups => None,
            List::Techniques => view.event.map(|event| event.detection.techniques.len()),
            List::ClaimedIps => view.event.map(|event| event.detection.host.ips.len()),
        }
    }

    pub fn name(self) -> &'static str {
        PATHS.iter().find(|(_, field)| *field == Field::List(self)).map_or("", |(name, _)| name)
    }
}

fn rank(severity: Severity) -> i64 {
    match severity {
        Severity::Unknown => 0,
        Severity::Informational => 1,
        Severity::Low => 2,
        Severity::Medium => 3,
        Severity::High => 4,
        Severity::Critical => 5,
    }
}

fn time<'e>(time: Timestamp) -> Value<'e> {
    Value::owned(time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
}
