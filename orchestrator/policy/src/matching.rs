//! `match`: conditions by key, which cannot lose a NOT and cannot fail.

mod reading;

use std::fmt;

use portcullis_schemas::events::Severity;

use super::pattern::Pattern;
use super::view::{Held, Seen, View};

pub(super) use reading::{bare_severity, parse};

/// One key of a `match`; holds when any of its values does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Condition {
    Severity(Vec<Comparison<Severity>>),
    Confidence(Vec<Comparison<u8>>),
    Text(Field, Vec<Pattern>),
    /// Groups by their places, with their names.
    Group(Vec<usize>, Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Technique,
    Source,
    Product,
    RuleId,
    RuleName,
    IndicatorType,
    IndicatorValue,
    HostId,
    HostName,
    HostRole,
    HostLevel,
    HostLabel(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Comparison<T> {
    operator: Operator,
    value: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    AtLeast,
    Above,
    AtMost,
    Below,
    Equal,
}

const LABEL: &str = "host.label.";
const GROUP: &str = "host.group";

const FIELDS: [(&str, Field); 11] = [
    ("technique", Field::Technique),
    ("source", Field::Source),
    ("product", Field::Product),
    ("rule.id", Field::RuleId),
    ("rule.name", Field::RuleName),
    ("indicator.type", Field::IndicatorType),
    ("indicator.value", Field::IndicatorValue),
    ("host.id", Field::HostId),
    ("host.name", Field::HostName),
    ("host.role", Field::HostRole),
    ("host.level", Field::HostLevel),
];

impl Condition {
    pub fn holds(&self, view: &View<'_>) -> Held {
        if let Condition::Group(groups, _) = self {
            return view.in_any(groups);
        }
        Ok(self.holds_for(view))
    }

    fn holds_for(&self, view: &View<'_>) -> bool {
        match (self, view.event) {
            (Condition::Text(field, any), event) => field.any_of(view, event, |text| any.iter().any(|p| p.matches(text))),
            (Condition::Severity(any), Some(event)) => holds(any, event.detection.severity),
            (Condition::Confidence(any), Some(event)) => holds(any, event.detection.confidence.unwrap_or(0)),
            // What is about hosts alone is not read with these.
            (Condition::Severity(_) | Condition::Confidence(_), None) | (Condition::Group(..), _) => false,
        }
    }
}

impl Field {
    /// Whether any text that the subject has in this field is found.
    fn any_of(&self, view: &View<'_>, event: Option<Seen<'_>>, found: impl Fn(&str) -> bool) -> bool {
        let host = view.host;
        match self {
            Field::HostId => return found(host.id),
            Field::HostName => return found(host.name),
            Field::HostRole => return host.roles.iter().any(|role| found(role)),
            Field::HostLevel => return found(host.level.as_str()),
            Field::HostLabel(name) => return found(host.labels.get(name).map_or("", String::as_str)),
            _ => {}
        }
        let Some(Seen { detection, source, .. }) = event else { return false };
        let indicator = detection.indicator.as_ref();
        match self {
            Field::Technique => detection.techniques.iter().any(|technique| found(technique)),
            Field::Source => found(source),
            Field::Product => found(&detection.product),
            Field::RuleId => found(&detection.rule.id),
            Field::RuleName => found(&detection.rule.name),
            Field::IndicatorType => found(indicator.map_or("", |indicator| &indicator.kind)),
            Field::IndicatorValue => found(indicator.map_or("", |indicator| &indicator.value)),
            _ => false,
        }
    }

    fn is_of_host(&self) -> bool {
        matches!(self, Field::HostId | Field::HostName | Field::HostRole | Field::HostLevel | Field::HostLabel(_))
    }
}

impl<T: PartialOrd + Copy> Comparison<T> {
    fn holds(&self, found: T) -> bool {
        match self.operator {
            Operator::AtLeast => found >= self.value,
            Operator::Above => found > self.value,
            Operator::AtMost => found <= self.value,
            Operator::Below => found < self.value,
            Operator::Equal => found == self.value,
        }
    }
}

fn holds<T: PartialOrd + Copy>(any: &[Comparison<T>], found: T) -> bool {
    any.iter().any(|comparison| comparison.holds(found))
}

impl Condition {
    /// Whether it is about the host alone.
    pub fn is_of_host(&self) -> bool {
        match self {
            Condition::Severity(_) | Condition::Confidence(_) => false,
            Condition::Text(field, _) => field.is_of_host(),
            Condition::Group(..) => true,
        }
    }

    /// Whether it holds wherever `other` does: the same key, with the same or wider values.
    pub fn covers(&self, other: &Condition) -> bool {
        match (self, other) {
            (Condition::Severity(wide), Condition::Severity(narrow)) => {
                Severity::ALL.iter().all(|value| !holds(narrow, *value) || holds(wide, *value))
            }
            (Condition::Confidence(wide), Condition::Confidence(narrow)) => {
                (0..=100).all(|value| !holds(narrow, value) || holds(wide, value))
            }
            (Condition::Text(field, wide), Condition::Text(other, narrow)) => {
                field == other && narrow.iter().all(|narrow| wide.iter().any(|wide| wide.covers(narrow)))
            }
            (Condition::Group(wide, _), Condition::Group(narrow, _)) => narrow.iter().all(|group| wide.contains(group)),
            _ => false,
        }
    }

    /// Whether a severity is taken; None: it is not asked for.
    pub fn takes(&self, severity: Severity) -> Option<bool> {
        match self {
            Condition::Severity(any) => Some(holds(any, severity)),
            _ => None,
        }
    }
}

/// Longer ones first: `>=` begins with `>`.
const OPERATORS: [(&str, Operator); 5] =
    [(">=", Operator::AtLeast), ("<=", Operator::AtMost), (">", Operator::Above), ("<", Operator::Below), ("=", Operator::Equal)];

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Severity(any) => {
                write!(f, "severity {}", joined(any.iter().map(|c| format!("{} {}", c.operator, c.value.as_str()))))
            }
            Condition::Confidence(any) => {
                write!(f, "confidence {}", joined(any.iter().map(|c| format!("{} {}", c.operator, c.value))))
            }
            Condition::Group(_, names) => write!(f, "{GROUP} = {}", names.join(" or = ")),
            Condition::Text(field, any) => {
                write!(f, "{field} {}", joined(any.iter().map(|p| format!("{} {p}", if p.has_star() { "like" } else { "=" }))))
            }
        }
    }
}

fn joined(any: impl Iterator<Item = String>) -> String {
    any.collect::<Vec<_>>().join(" or ")
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Field::HostLabel(name) = self {
            return write!(f, "{LABEL}{}", name.escape_debug());
        }
        f.write_str(FIELDS.iter().find(|(_, field)| field == self).map_or("", |(name, _)| name))
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(OPERATORS.iter().find(|(_, operator)| operator == self).map_or("", |(sign, _)| sign))
    }
}
