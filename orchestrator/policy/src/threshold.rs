//! `threshold`: how many detections of a rule on one host it takes.

use std::fmt;

use portcullis_schemas::events::Detection;
use portcullis_schemas::time::Span;

use super::error::Errors;
use super::rate::Rate;
use super::read::{fields_as, word};
use super::yaml::Node;

/// So many detections of one rule on one host within so long. Until then the rule observes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// At least 2.
    pub count: u64,
    pub per: Span,
    /// Detections that have the same in it count once.
    pub distinct: Option<Distinct>,
}

/// By what detections of a threshold are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distinct {
    Source,
    Product,
    RuleId,
    RuleName,
    IndicatorType,
    IndicatorValue,
    User,
    Process,
}

const DISTINCT: [(&str, Distinct); 8] = [
    ("indicator.value", Distinct::IndicatorValue),
    ("indicator.type", Distinct::IndicatorType),
    ("rule.id", Distinct::RuleId),
    ("rule.name", Distinct::RuleName),
    ("source", Distinct::Source),
    ("product", Distinct::Product),
    ("user", Distinct::User),
    ("process", Distinct::Process),
];

impl Threshold {
    pub(super) fn parse(node: &Node, errors: &mut Errors) -> Option<Self> {
        const WANTS: &str = "{ count: 5, per: 10m }";
        let fields = fields_as(node, "threshold", &["count", "per", "distinct"], WANTS, errors)?;
        let distinct = fields.get("distinct").map(|node| word(node, "distinct", &DISTINCT, errors));
        let Rate { count, per } = Rate::of(&fields, "threshold", 2, errors)?;
        let distinct = distinct.map_or(Some(None), |found| found.map(Some))?;
        Some(Self { count, per, distinct })
    }
}

impl Distinct {
    /// What of a detection it is; "" where it has none.
    pub fn of<'d>(self, detection: &'d Detection, source: &'d str) -> &'d str {
        let indicator = detection.indicator.as_ref();
        let optional = |text: &'d Option<String>| text.as_deref().unwrap_or_default();
        match self {
            Distinct::Source => source,
            Distinct::Product => &detection.product,
            Distinct::RuleId => &detection.rule.id,
            Distinct::RuleName => &detection.rule.name,
            Distinct::IndicatorType => indicator.map_or("", |indicator| &indicator.kind),
            Distinct::IndicatorValue => indicator.map_or("", |indicator| &indicator.value),
            Distinct::User => optional(&detection.user),
            Distinct::Process => optional(&detection.process),
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} detections", self.count)?;
        if let Some(distinct) = self.distinct {
            let name = DISTINCT.iter().find(|(_, known)| *known == distinct).map_or("", |(name, _)| name);
            write!(f, " that differ in {name}")?;
        }
        write!(f, " on one host within {}", self.per)
    }
}
